//! The two forms of the file: TOML, and the older `key=value` lines.

use std::path::Path;

use crate::Error;

/// One line's worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub key: String,
    /// As text: numbers and truth values as they would be written in the older form.
    pub value: String,
    /// File and line.
    pub place: String,
}

/// All entries of a file. It is the older form if it does not parse as TOML and every line is a
/// comment, empty or `key=value`.
pub(super) fn entries(path: &Path, text: &str) -> Result<Vec<Entry>, Error> {
    match text.parse::<toml::Table>() {
        Ok(table) => from_toml(path, text, &table),
        Err(complaint) => older(path, text).ok_or_else(|| {
            let line = complaint.span().map_or(1, |s| line_of(text, s.start));
            Error::Config {
                place: format!("{} line {line}", path.display()),
                reason: in_words(complaint.message()),
            }
        }),
    }
}

/// A complaint of the parser for people who do not know its words.
fn in_words(complaint: &str) -> String {
    if complaint.contains("invalid basic string") || complaint.contains("invalid literal string") {
        return "a text that begins with a quotation mark has none at its end (or a backslash in it, which is written twice)".into();
    }
    complaint.to_owned()
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset.min(text.len())].matches('\n').count() + 1
}

fn from_toml(path: &Path, text: &str, table: &toml::Table) -> Result<Vec<Entry>, Error> {
    let mut all = Vec::new();
    for (key, value) in table {
        let line = text
            .lines()
            .position(|l| {
                l.trim_start()
                    .strip_prefix(key.as_str())
                    .is_some_and(|r| r.trim_start().starts_with('='))
            })
            .map_or(1, |n| n + 1);
        let place = format!("{} line {line}", path.display());
        let value = match value {
            toml::Value::String(s) => s.clone(),
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Float(x) => x.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            // The one key with several values; the older form separates them by colons.
            toml::Value::Array(list)
                if key == "plugins" && list.iter().all(toml::Value::is_str) =>
            {
                list.iter()
                    .filter_map(toml::Value::as_str)
                    .collect::<Vec<_>>()
                    .join(":")
            }
            other => {
                let reason = format!("{key}: expected a single value, not {}", other.type_str());
                return Err(Error::Config { place, reason });
            }
        };
        all.push(Entry {
            key: key.clone(),
            value,
            place,
        });
    }
    Ok(all)
}

fn older(path: &Path, text: &str) -> Option<Vec<Entry>> {
    let mut all = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let (key, value) = line.split_once('=')?;
        let key = key.trim();
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return None;
        }
        let value = value.trim();
        let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let value = quoted.unwrap_or(value);
        if value.contains('"') {
            return None; // meant as TOML, whose complaint is the better one
        }
        all.push(Entry {
            key: key.to_owned(),
            value: value.to_owned(),
            place: format!("{} line {}", path.display(), n + 1),
        });
    }
    Some(all)
}
