//! `mana`: all commands in one program, called by its own name and a verb, or by a verb's classic
//! name (`mana_launch` = `mana launch`). Ordinary processes; the lower half is `mana-lower`, which
//! `launch` and `restart` execute in their place.
//!
//! There is no Rust `main`: the standard library's start-up changes the disposition of SIGPIPE and
//! the signal stack, and the program that is executed in the end would inherit that.
#![cfg_attr(not(test), no_main)]

mod adapter;
mod alive;
mod bare;
mod batch;
mod choice;
mod cli;
mod coordinator;
mod decision;
mod doctor;
mod elsewhere;
mod execution;
mod installation;
mod job;
mod launch;
mod launcher;
mod manual;
mod message;
mod node_failure;
mod program;
mod prune;
mod report;
mod requeue;
mod rerun;
mod resubmit;
mod run_directory;
mod run_lock;
mod scripts;
mod settings;
mod status;
mod stores;
mod supervision;
mod view;
mod watch;
mod wrapper;

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::cli::{Cli, Verb};
use crate::message::{failure_code, Failure, Speaker};

/// For rank 0 to come to the conclusion that all ranks share; it asks the batch system and an old coordinator, with a limit
/// of 2 s each, before.
const RANK_0_SPEAKS: std::time::Duration = std::time::Duration::from_secs(5);

/// Entry point, called by the C library.
#[cfg(not(test))]
#[no_mangle]
pub extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    run()
}

#[cfg_attr(
    test,
    allow(dead_code, reason = "the test harness has its own entry point")
)]
fn run() -> i32 {
    let (arguments, classic) = by_name(std::env::args_os().collect());
    let parsed = command_line(classic.as_deref())
        .try_get_matches_from(arguments)
        .and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            // If the terminal is gone there is nobody to tell.
            let _ = error.print();
            return if wrong { failure_code() } else { 0 };
        }
    };
    let mut speaker = Speaker::default();
    match execute(cli.command, &mut speaker) {
        Ok(code) => code,
        Err(failure) => {
            let leading = speaker.rank.unwrap_or(0) == 0;
            if !leading {
                // A launcher kills the other ranks when one fails: rank 0 must have spoken before. If
                // it fails for the same reason, its line is enough.
                std::thread::sleep(RANK_0_SPEAKS);
            }
            if leading || !failure.same_everywhere {
                speaker.error(&failure.text);
            }
            failure_code()
        }
    }
}

fn execute(verb: Verb, speaker: &mut Speaker) -> Result<i32, Failure> {
    match verb {
        Verb::Launch(options) => launch::launch(options, speaker),
        Verb::Restart(options) => match scripts::restart(&options, speaker)? {
            Some(code) => Ok(code),
            None => launch::restart(options, speaker),
        },
        Verb::Start(options) => scripts::start(&options, speaker),
        Verb::Stop(options) => scripts::stop(&options),
        Verb::Supervise(options) => scripts::stay(&options, speaker),
        Verb::Wrapped(options) => wrapper::wrapped(&options.words, speaker),
        Verb::Adapter(options) => adapter::build(&options),
        Verb::Man(options) => manual::pages(&options.out),
        Verb::Completions(options) => manual::completions(&options),
        Verb::Status(options) => status::status(&options),
        Verb::Coordinator(options) => coordinator::run(&options),
        Verb::Run(options) => rerun::run(&options, speaker),
        Verb::Requeue(options) => requeue::run(&options, speaker),
        Verb::Doctor(options) => doctor::doctor(&options),
        Verb::Exercise(options) => doctor::exercise(options.seconds, options.until_resumed),
        Verb::Report(options) => report::report(&options),
        Verb::FailNode(options) => node_failure::fail(&options),
        Verb::List(options) => stores::list(&options),
        Verb::Inspect(options) => stores::inspect(&options),
        Verb::Verify(options) => stores::verify(&options),
        Verb::Prune(options) => prune::prune(&options),
    }
}

/// The options; the usage of a command that was called by its classic name (`launch`) has that name.
fn command_line(classic: Option<&str>) -> clap::Command {
    let command = Cli::command();
    let Some(verb) = classic else { return command };
    let mut built = command.clone();
    built.build();
    let usage = built.find_subcommand_mut(verb).map(|c| c.render_usage());
    let Some(usage) = usage.map(|usage| usage.to_string()) else {
        return command;
    };
    let words = usage.trim_start_matches("Usage: ");
    let own = words.replacen(&format!("mana {verb}"), &format!("mana_{verb}"), 1);
    command.mut_subcommand(verb, |c| c.override_usage(own))
}

/// `mana_launch x` becomes `mana launch x`; and the verb, if there was such a name.
fn by_name(mut arguments: Vec<OsString>) -> (Vec<OsString>, Option<String>) {
    let name = arguments
        .first()
        .and_then(|first| Path::new(first).file_name())
        .and_then(|name| name.to_str())
        .unwrap_or("mana");
    if let Some(verb) = name.strip_prefix("mana_") {
        let verb = verb.replace('_', "-");
        arguments.splice(0..1, ["mana".into(), verb.clone().into()]);
        return (arguments, Some(verb));
    }
    (arguments, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classic_names() {
        let of = |words: &[&str]| by_name(words.iter().map(OsString::from).collect()).0;
        assert_eq!(of(&["/opt/bin/mana_launch", "x"]), ["mana", "launch", "x"]);
        assert_eq!(of(&["mana", "list"]), ["mana", "list"]);
        assert!(of(&[]).is_empty());
        let help = |name: &str| {
            let (words, classic) = by_name(vec![name.into(), "--help".into()]);
            let asked = command_line(classic.as_deref()).try_get_matches_from(words);
            asked.expect_err("help").to_string()
        };
        for verb in ["launch", "restart", "status", "coordinator"] {
            let text = help(&format!("/opt/bin/mana_{verb}"));
            assert!(
                text.contains(&format!("Usage: mana_{verb} [OPTIONS]")),
                "{text}"
            );
        }
        assert!(help("mana").contains("Usage: mana "));
    }
}
