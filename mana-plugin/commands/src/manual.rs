//! Manual pages and completions, from the definition of the options.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory as _};

use crate::cli::{Cli, Completions};
use crate::message::Failure;

/// Commands that have a page under their classic name too.
const CLASSIC: &[&str] = &["launch", "restart", "status", "coordinator"];

/// Writes `mana.1` and a page for each command.
pub fn pages(out: &Path) -> Result<i32, Failure> {
    fs::create_dir_all(out)
        .map_err(|e| Failure::new(format!("cannot make {}: {e}", out.display())))?;
    let mut top = visible().disable_help_subcommand(true);
    top.build();
    page(&top, "mana", out)?;
    for verb in top.get_subcommands() {
        let name = format!("mana-{}", verb.get_name());
        page(verb, &name, out)?;
        if CLASSIC.contains(&verb.get_name()) {
            let path = out.join(format!("mana_{}.1", verb.get_name()));
            write(&path, format!(".so man1/{name}.1\n").as_bytes())?;
        }
    }
    Ok(0)
}

fn page(command: &Command, name: &str, out: &Path) -> Result<(), Failure> {
    // clap wants names that live as long as the program; one page each, then the process ends.
    let leaked: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let command = command
        .clone()
        .name(leaked)
        .version(env!("CARGO_PKG_VERSION"));
    let failed = |e: std::io::Error| Failure::new(format!("cannot make the page {name}: {e}"));
    let mut usage = command.clone().render_usage().to_string();
    if let Some(verb) = CLASSIC.iter().find(|verb| name == format!("mana-{verb}")) {
        usage = usage.replacen(&format!("mana {verb}"), &format!("mana_{verb}"), 1);
    }
    let man = clap_mangen::Man::new(command);
    let (mut text, mut listed) = (Vec::new(), Vec::new());
    man.render(&mut text).map_err(failed)?;
    man.render_synopsis_section(&mut listed).map_err(failed)?;
    let (text, listed) = (
        String::from_utf8_lossy(&text),
        String::from_utf8_lossy(&listed),
    );
    // Every option without its value says nothing that the list below does not say better.
    let text = text.replacen(after_roff_head(&listed), &synopsis(&usage), 1);
    write(&out.join(format!("{name}.1")), text.as_bytes())
}

/// A section rendered by itself has definitions before its title.
fn after_roff_head(section: &str) -> &str {
    section.find(".SH ").map_or(section, |at| &section[at..])
}

fn synopsis(usage: &str) -> String {
    let mut text = String::from(".SH SYNOPSIS\n");
    for line in usage.trim_start_matches("Usage:").lines() {
        let line = line.trim().replace('\\', "\\e").replace('-', "\\-");
        text += &line;
        text += "\n.br\n";
    }
    text.truncate(text.len() - ".br\n".len());
    text
}

fn write(path: &Path, text: &[u8]) -> Result<(), Failure> {
    fs::write(path, text).map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display())))
}

/// The command without those that are not meant for people.
fn visible() -> Command {
    let all = Cli::command();
    let verbs = all.get_subcommands().filter(|c| !c.is_hide_set());
    Command::new("mana")
        .version(env!("CARGO_PKG_VERSION"))
        .about(all.get_about().cloned().unwrap_or_default())
        .after_help(all.get_after_help().cloned().unwrap_or_default())
        .subcommands(verbs.cloned())
}

/// Prints the completion script of `mana`, or of a classic name.
pub fn completions(options: &Completions) -> Result<i32, Failure> {
    let name = options.name.as_str();
    let verb = name.strip_prefix("mana_").filter(|v| CLASSIC.contains(v));
    let all = visible();
    let mut command = match verb {
        Some(verb) => all.find_subcommand(verb).cloned(),
        None => (name == "mana").then_some(all),
    }
    .ok_or_else(|| Failure::new(format!("{name} is no command of mana's")))?;
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut command, name, &mut text);
    std::io::stdout()
        .write_all(&text)
        .map_err(|e| Failure::new(format!("cannot write: {e}")))?;
    Ok(0)
}
