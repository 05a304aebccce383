//! Reads the table's text.

use crate::{Direction, Kind, Length, Param, Policy, Procedure};

/// A line of the table that cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub struct ParseError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub found: String,
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "procedures.txt line {}: {}", self.line, self.found)
    }
}

impl std::error::Error for ParseError {}

/// Reads a table.
///
/// # Errors
/// Names the line that is wrong.
pub fn parse(text: &str) -> Result<Vec<Procedure>, ParseError> {
    let mut chapter = String::new();
    let mut procedures = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let fail = |found: String| ParseError {
            line: number + 1,
            found,
        };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            chapter = name.to_owned();
            continue;
        }
        let (call, result) = match line.split_once(" -> ") {
            Some((call, word)) => (
                call,
                Kind::from_word(word).ok_or_else(|| fail(format!("unknown kind {word}")))?,
            ),
            None => (line, Kind::Error),
        };
        let mut words = call.split_whitespace();
        let (Some(name), Some(exports), Some(policy)) = (words.next(), words.next(), words.next())
        else {
            return Err(fail("expected name, exported-by and policy".to_owned()));
        };
        let policy =
            parse_policy(policy).ok_or_else(|| fail(format!("unknown policy {policy}")))?;
        let words: Vec<&str> = words.collect();
        let params = if words == ["..."] {
            None
        } else {
            let mut params = Vec::new();
            for word in words {
                params.push(
                    parse_param(word)
                        .ok_or_else(|| fail(format!("unreadable parameter {word}")))?,
                );
            }
            Some(params)
        };
        procedures.push(Procedure {
            name: name.to_owned(),
            chapter: chapter.clone(),
            openmpi: exports.contains('o'),
            openmpi_5: exports.contains('5'),
            mpich: exports.contains('m'),
            newer: exports.contains('n'),
            policy,
            params,
            result,
        });
    }
    Ok(procedures)
}

fn parse_policy(word: &str) -> Option<Policy> {
    Some(match word.split_once(':') {
        None => match word {
            "forward" => Policy::Forward,
            "virtualize" => Policy::Virtualize,
            "stub" => Policy::Stub,
            _ => return None,
        },
        Some(("custom", area)) => Policy::Custom(area.to_owned()),
        Some(("alias", name)) => Policy::Alias(name.to_owned()),
        Some(("unsupported", reason)) => Policy::Unsupported(reason.replace('_', " ")),
        Some(_) => return None,
    })
}

fn parse_param(word: &str) -> Option<Param> {
    let (word, direction) = match word.split_once('=') {
        None => (word, Direction::In),
        Some((word, "out")) => (word, Direction::Out),
        Some((word, "inout")) => (word, Direction::InOut),
        Some(_) => return None,
    };
    let (name, kind) = word.split_once(':')?;
    let (kind, length) = match kind.split_once('[') {
        None => (kind, None),
        Some((kind, length)) => (kind, Some(parse_length(length.strip_suffix(']')?))),
    };
    Some(Param {
        name: name.to_owned(),
        kind: Kind::from_word(kind)?,
        direction,
        length,
    })
}

fn parse_length(word: &str) -> Length {
    match word {
        "comm_size" => Length::CommSize,
        "indegree_of_topology" => Length::Indegree,
        "outdegree_of_topology" => Length::Outdegree,
        "cart_dims" => Length::CartDims,
        "sum" => Length::Sum,
        "3n" => Length::Triples("n".to_owned()),
        w if w.starts_with("MPI_MAX_") => Length::Constant(w.to_owned()),
        w => Length::Param(w.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_readable_and_consistent() {
        let all = parse(crate::TEXT).expect("the table");
        let mut names = std::collections::HashSet::new();
        for p in &all {
            assert!(names.insert(p.name.clone()), "{} twice", p.name);
            if p.params.is_none() {
                assert!(matches!(p.policy, Policy::Unsupported(_)), "{}", p.name);
            }
            for param in p.params() {
                if let Some(Length::Param(n)) = &param.length {
                    assert!(
                        p.params().iter().any(|q| &q.name == n),
                        "{}: length {n} is no parameter",
                        p.name
                    );
                }
            }
        }
        for p in &all {
            if let Policy::Alias(of) = &p.policy {
                let of = all.iter().find(|q| &q.name == of).expect("alias target");
                assert_eq!(p.params().len(), of.params().len(), "{}", p.name);
            }
        }
    }

    #[test]
    fn a_wrong_line_is_named() {
        let err = parse("[x]\nMPI_Foo om forward a:nonsense\n").expect_err("unknown kind");
        assert_eq!(err.line, 2);
    }
}
