//! A file system that does not answer, on one rank, before the job is under control: the others say whom they
//! wait for and with what it is busy, and the wait ends.

use anyhow::{bail, ensure, Result};

use super::{errors, Stage, LIMIT};
use crate::job::{Ended, Job};
use crate::product::Setup;
use crate::scenarios::modes::same;

/// A little more than it takes to the first word.
const TIMEOUT: &str = "checkpoint_timeout=12";

/// Starts the job with one thread that stands still at `point`.
fn launch(stage: &Stage, point: &str, options: &[&str], line: &[String]) -> Result<Job> {
    let mut setup: Setup = stage.setup.clone();
    ensure!(setup.product.has_faults(), "a build without fault points");
    let fault = format!("{point},hang");
    setup.environment.push(("MANA_FAULT".into(), fault));
    setup.launch(&[&["--set", TIMEOUT], options].concat(), line)
}

fn says(ended: &Ended, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(
            said(&ended.stderr, word),
            "{word:?} is not said\n{}",
            ended.report()
        );
    }
    Ok(())
}

/// Whether `words` are in `text`; a number of seconds in them may be larger there, as on a machine that is busy.
fn said(text: &str, words: &str) -> bool {
    let Some((before, seconds, after)) = seconds_in(words) else {
        return text.contains(words);
    };
    text.match_indices(before).any(|(at, _)| {
        let larger = seconds_in(&text[at + before.len()..]).filter(|(gap, ..)| gap.is_empty());
        larger.is_some_and(|(_, n, tail)| n >= seconds && tail.starts_with(after))
    })
}

/// Splits `words` at their first number of seconds: `12 s`.
fn seconds_in(words: &str) -> Option<(&str, u32, &str)> {
    let mut start = 0;
    for word in words.split_inclusive(' ') {
        let after = start + word.len();
        if let (Ok(seconds), true) = (word.trim_end().parse(), words[after..].starts_with('s')) {
            return Some((&words[..start], seconds, &words[after..]));
        }
        start = after;
    }
    None
}

/// One line of what went wrong, with these words.
fn one_error(ended: &Ended, words: &[&str]) -> Result<()> {
    let lines = errors(ended);
    ensure!(
        lines.len() == 1 && words.iter().all(|word| said(lines[0], word)),
        "one line with {words:?} expected\n{}",
        ended.report()
    );
    Ok(())
}

pub fn start(stage: &Stage) -> Result<()> {
    let waits = "the start waits 10 s for 1 of 2 ranks: rank 1 (opening ";
    let waited = "the start has waited 12 s for 1 of 2 ranks: rank 1 (opening ";
    let ended = launch(stage, "open.local@1", &[], &stage.quick)?.wait(LIMIT)?;
    same(&ended, &stage.expected)?;
    says(&ended, &[waits])?;
    one_error(&ended, &[waited, "UNPROTECTED"])?;

    let options = ["--fresh", "--set", "on_error=stop"];
    let words = ["rank 0 (recording the start of the job in "];
    given_up(stage, "begin.record@0", &options, &stage.quick, &words).map(drop)
}

/// A start that is given up: exit code 99, and one error with these words.
fn given_up(
    stage: &Stage,
    point: &str,
    options: &[&str],
    line: &[String],
    words: &[&str],
) -> Result<Ended> {
    // MPICH's launcher kills the other rank, and may report that in place of the code: such a run says nothing of it.
    for _ in 0..5 {
        let ended = launch(stage, point, options, line)?.wait(LIMIT)?;
        one_error(&ended, words)?;
        if !ended.stdout.contains("EXIT STRING: Killed (signal 9)") {
            ended.expect(99)?;
            return Ok(ended);
        }
    }
    bail!("the launcher reported its own kill in five runs")
}

/// A rank that comes late: the library itself waits for it, in its `MPI_Init`.
pub fn init(stage: &Stage) -> Result<()> {
    let mut setup: Setup = stage.setup.clone();
    let late = "[ ${OMPI_COMM_WORLD_RANK:-$PMI_RANK} = 0 ] || until [ -e come ]; do sleep 0.1; done; exec \"$@\"";
    setup.before = ["sh", "-c", late, "sh"].map(str::to_owned).to_vec();
    let mut job = setup.launch(&["--fresh"], &stage.quick)?;
    job.until("a line about MPI_Init", LIMIT, |job| {
        let messages = job.messages();
        let named = said(&messages, "MPI_Init of the MPI library");
        (named && said(&messages, "takes 10 s so far")).then_some(())
    })?;
    std::fs::write(stage.place.path().join("come"), "")?;
    same(&job.wait(LIMIT)?, &stage.expected)?;

    // One that never comes.
    setup.before[2] = late.replace("until [ -e come ]; do sleep 0.1; done", "exec sleep 600");
    let options = ["--fresh", "--set", TIMEOUT, "--set", "on_error=stop"];
    let mut job = setup.launch(&options, &stage.quick)?;
    let words = "has taken 12 s: this start is given up (checkpoint_timeout)";
    job.until(words, LIMIT, |job| {
        said(&job.messages(), words).then_some(())
    })?;
    job.destroy();
    Ok(())
}

pub fn resume(stage: &Stage) -> Result<()> {
    let mut job = stage.started(&stage.setup, &["--fresh"])?;
    stage
        .mana("status", &["--checkpoint", "--wait"])?
        .expect(0)?;
    job.destroy();

    let words = [
        "the resume has waited 12 s",
        "reading the job's records in ",
    ];
    let ended = given_up(
        stage,
        "recover.records@0",
        &["--restart"],
        &stage.line,
        &words,
    )?;
    says(&ended, &["the resume waits 10 s for 1 of 2 ranks: rank 0"])?;

    // Images may be large: nobody gives up.
    for (point, words) in [
        (
            "recover.image@1",
            ["the resume waits 20 s for 1 of 2 ranks: rank 1 (reading its image "].as_slice(),
        ),
        (
            "resume.memory@1",
            &[
                "the resume (memory) waits 10 s for 1 of 2 ranks: rank 1",
                "takes 10 s so far",
            ],
        ),
        (
            "resume.memory@0",
            &["the resume (memory) waits for rank 0, of which nothing was heard for 20 s"],
        ),
    ] {
        let mut job = launch(stage, point, &["--restart"], &stage.line)?;
        job.until("the words", LIMIT, |job| {
            let messages = job.messages();
            words.iter().all(|word| said(&messages, word)).then_some(())
        })?;
        ensure!(!job.ended()?, "it ended\n{}", job.output());
        job.destroy();
    }
    stage.setup.release()?;
    let ended = stage
        .setup
        .launch(&["--restart"], &stage.line)?
        .wait(LIMIT)?;
    same(&ended, &stage.expected)
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn a_busy_machine_takes_longer() {
        let text = "the start has waited 13 s for 1 of 2 ranks: rank 1 (opening x)";
        assert!(said(
            text,
            "has waited 12 s for 1 of 2 ranks: rank 1 (opening "
        ));
        assert!(said(text, "13 s for 1"));
        assert!(!said(text, "has waited 14 s for 1"));
        assert!(!said(text, "has waited 12 s for 2"));
        assert!(!said(text, "waits 12 s for 1"));
        assert!(said(text, "(opening x)") && !said(text, "(opening y)"));
        assert!(said("takes 1 s, takes 20 s so far", "takes 10 s so far"));
    }
}
