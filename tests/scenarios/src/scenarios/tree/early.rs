//! Signals that announce the end, to processes that have only just begun.

use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::{compile, launch, source, stage, LIMIT};
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::product::Intervals;
use crate::scenarios::modes::same;
use crate::scenarios::Scenario;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "tree/borrowed",
            "SIGTERM to all processes while a child borrows its parent's memory (vfork): the last checkpoint is taken",
            borrowed,
        ),
        Scenario::new(
            "tree/at-once",
            "SIGTERM as soon as a program without MPI is said to be under control: the last checkpoint is taken",
            at_once,
        ),
    ]
}

/// SIGTERM to every process, those of the program first.
fn end(job: &Job) -> Result<()> {
    let mut processes = job.processes();
    processes.sort_by_key(|process| std::cmp::Reverse(process.pid));
    ensure!(!processes.is_empty(), "no processes");
    for process in processes {
        // One may have ended since.
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGTERM);
    }
    Ok(())
}

fn borrowed(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("tree-borrowed")?;
    let program = place.path().join("borrowed");
    compile(&source("borrowed.c"), &program, &[])?;
    let words = |rounds: &str, pause: &str| {
        [&program.display().to_string(), rounds, pause].map(str::to_owned)
    };
    let mut command = Command::new(&program);
    command.args(["20", "0"]).current_dir(place.path());
    let native = Job::start(command, place.path())?.wait(LIMIT)?;
    let expected = native.expect(0)?.result()?;
    let mut setup = stage(product, place.path())?;
    setup.configure(Intervals::default(), "")?;
    setup.hold();
    let line = words("20", "200");
    let mut random = context.random("tree-borrowed");
    let mut mode = "--fresh";
    let turns = if context.full { 10 } else { 3 };
    for turn in 0..turns {
        let mut job = launch(&setup, &[mode], &line)?;
        job.until("a child", LIMIT, |job| {
            let begun = job.messages().contains("under control");
            (begun && job.processes().len() > 1).then_some(())
        })?;
        std::thread::sleep(Duration::from_millis(random.below(300)));
        end(&job)?;
        let ended = job.wait(LIMIT)?;
        ended.expect(128 + 15)?;
        ensure!(
            ended.stderr.contains(" committed: ") && !ended.stderr.contains("from outside"),
            "turn {turn}\n{}",
            ended.report()
        );
        mode = "--restart";
    }
    setup.release()?;
    same(&launch(&setup, &[mode], &line)?.wait(LIMIT)?, &expected)?;
    place.done();
    Ok(Verdict::Passed(format!("{turns} times")))
}

fn at_once(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("tree-at-once")?;
    let setup = stage(product, place.path())?;
    setup.configure(Intervals::default(), "")?;
    let line = ["/bin/sleep".to_owned(), "60".to_owned()];
    let turns = if context.full { 100 } else { 10 };
    for turn in 0..turns {
        let mode = if turn == 0 { "--fresh" } else { "--restart" };
        let job = launch(&setup, &[mode], &line)?;
        let root = job.processes().into_iter().map(|p| p.pid).min();
        let root = Pid::from_raw(root.context("no process")?);
        // At the very moment: nothing is slept over.
        let deadline = std::time::Instant::now() + LIMIT;
        while !job.messages().contains("under control") && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        kill(root, Signal::SIGTERM).context("SIGTERM")?;
        let ended = job.wait(LIMIT)?;
        ended.expect(128 + 15)?;
        ensure!(
            ended.stderr.contains(" committed: "),
            "turn {turn}\n{}",
            ended.report()
        );
    }
    place.done();
    Ok(Verdict::Passed(format!("{turns} times")))
}
