//! `cargo xtask demo`: a node dies, and the answer is the same.
//!
//! LAMMPS, as Debian ships it, computes a melt on four ranks of four simulated nodes. Once as it is;
//! once under mana, with checkpoints on three levels; when all three hold one, a node is lost: its
//! rank is killed and its storage deleted. The job starts again by itself, and its output is compared
//! with that of the undisturbed run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};

use crate::process::{bounded, captured, on_path, shown, target_dir, Finished};
use crate::thermo::Table;
use crate::{setup, tree};

const INPUT: &str = include_str!("../melt.in");

const CONFIGURATION: &str = "\
# One rank is one node here; losing a node is killing its rank and deleting <local_ckpt_dir>/node<k>.
test_mode = true
node_size = 1
global_ckpt_dir = \"./global\"
local_ckpt_dir = \"./local\"
local_ckpt_interval = 2
partner_ckpt_interval = 4
global_ckpt_interval = 8
";

/// The node that is lost.
const VICTIM: &str = "2";
/// So many lines about checkpoints are shown.
const SHOWN: usize = 6;

/// Longest time for one run of the program.
const LIMIT: Duration = Duration::from_secs(480);

/// The whole demonstration; whether it went as promised.
pub fn run() -> Result<bool> {
    setup::run(setup::Purpose::Demo)?;
    println!("building ... (some minutes the first time)");
    let mana = tree::build()?;
    let directory = target_dir()?.join("demo");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    fs::write(directory.join("melt.in"), INPUT).context("cannot write melt.in")?;
    fs::write(directory.join("mana.conf"), CONFIGURATION).context("cannot write mana.conf")?;
    let begun = Instant::now();
    let result = show(&mana, &directory);
    println!();
    match &result {
        Ok(()) => println!(
            "PASS: a node was lost, and the answer is the same ({:.0} s)",
            begun.elapsed().as_secs_f64()
        ),
        Err(error) => println!(
            "FAIL: {error:#}\n      (everything is left in {})",
            directory.display()
        ),
    }
    Ok(result.is_ok())
}

fn show(mana: &Path, directory: &Path) -> Result<()> {
    println!(
        "\nDebian's LAMMPS, unmodified, on 4 ranks. Checkpoints are taken on all levels, a node is lost with\n\
         its storage, the job goes on from a partner's copy, and the answer is that of an undisturbed run."
    );
    step(1, "the undisturbed run: LAMMPS on 4 ranks, without mana");
    let (undisturbed, time) = plain(directory)?;
    println!(
        "   {} rows of output in {time:.0} s; the last: {}",
        undisturbed.len(),
        undisturbed.last()
    );

    step(2, "the same under mana: 4 simulated nodes, checkpoints every 2 s local, 4 s partner, 8 s global");
    let (finished, lost) = disturbed(mana, directory)?;
    let lost = lost?;
    if !finished.success() {
        bail!("the run under mana did not end normally");
    }

    step(4, "comparison, all 17 digits of every quantity");
    if !finished.output.contains("starting again") {
        bail!("the node was lost ({lost}), but the job was not started again");
    }
    let text = fs::read_to_string(directory.join("resumed")).unwrap_or_default();
    if text.is_empty() {
        bail!("the second start did not resume from a checkpoint");
    }
    let recovered = Table::read(&directory.join("mana.log"))?;
    match undisturbed.difference(&recovered) {
        None => {
            println!("   {text}");
            println!("   all {} rows are identical", recovered.len());
            Ok(())
        }
        Some(difference) => bail!("the answers differ, {difference}"),
    }
}

fn step(number: u32, text: &str) {
    println!("\n{number}. {text}");
}

/// LAMMPS under mpirun.
fn lammps(program: &mut Command, directory: &Path, log: &str) {
    program
        .args(["-in", "melt.in", "-log", log, "-screen", "none"])
        .current_dir(directory)
        .env("OMP_NUM_THREADS", "1");
}

/// `mpirun` of the MPI that Debian's LAMMPS is built for, four ranks on however many cores there are.
fn mpirun() -> Result<(PathBuf, &'static [&'static str])> {
    let path = on_path("mpirun.openmpi")
        .or_else(|| on_path("mpirun"))
        .context("no mpirun found; run 'cargo xtask setup'")?;
    let arguments: &[&str] = if nix::unistd::Uid::effective().is_root() {
        &["--allow-run-as-root", "--oversubscribe", "-n", "4"]
    } else {
        &["--oversubscribe", "-n", "4"]
    };
    Ok((path, arguments))
}

fn plain(directory: &Path) -> Result<(Table, f64)> {
    let (path, arguments) = mpirun()?;
    let mut command = Command::new(path);
    command.args(arguments).arg("lmp");
    lammps(&mut command, directory, "undisturbed.log");
    let begun = Instant::now();
    let mut pulse = Pulse::new();
    let finished = bounded(&mut command, LIMIT, |line| pulse.beat(line))?;
    if !finished.success() {
        bail!("failed: {}\n{}", shown(&command), finished.output);
    }
    Ok((
        Table::read(&directory.join("undisturbed.log"))?,
        begun.elapsed().as_secs_f64(),
    ))
}

/// Shows now and then that a program that takes its time gets on.
struct Pulse(Instant);

impl Pulse {
    const EVERY: Duration = Duration::from_secs(15);

    fn new() -> Self {
        Self(Instant::now())
    }

    fn beat(&mut self, line: &str) {
        if self.0.elapsed() >= Self::EVERY && !line.trim().is_empty() {
            println!("   ... {}", line.trim());
            self.0 = Instant::now();
        }
    }
}

/// Runs under `mana run`, and loses a node on the way. The second part says how the loss went.
fn disturbed(mana: &Path, directory: &Path) -> Result<(Finished, Result<String>)> {
    let bin = mana.join("bin");
    let (path, arguments) = mpirun()?;
    let mut command = Command::new(bin.join("mana"));
    command
        .args(["run", "--retries", "2", "--"])
        .arg(path)
        .args(arguments);
    command
        .arg(bin.join("mana_launch"))
        .args(["--id", "demo", "lmp"]);
    lammps(&mut command, directory, "mana.log");
    println!("   $ mana run --retries 2 -- mpirun -n 4 mana_launch lmp -in melt.in");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let loss = scope.spawn(|| lose_a_node(&bin, directory, &over));
        let (mut checkpoints, mut pulse) = (0, Pulse::new());
        let finished = bounded(&mut command, LIMIT, |line| {
            if !line.starts_with("mana") {
                pulse.beat(line);
            } else {
                checkpoints += usize::from(line.contains("checkpoint "));
                match checkpoints {
                    _ if !line.contains("checkpoint ") => println!("   {line}"),
                    0..=SHOWN => println!("   {line}"),
                    _ => {}
                }
                if checkpoints == SHOWN + 1 {
                    println!("   ... (further ones are not shown here)");
                    checkpoints += 1;
                }
                if line.contains("resum") {
                    // If it cannot be written, the check for it fails.
                    let _ = fs::write(directory.join("resumed"), line);
                }
            }
        });
        over.store(true, Ordering::Relaxed);
        let loss = loss
            .join()
            .unwrap_or_else(|_| bail!("the part that loses a node panicked"));
        if let (Ok(finished), Err(_)) = (&finished, &loss) {
            if !finished.success() {
                println!("{}", finished.output);
            }
        }
        Ok((finished?, loss))
    })
}

/// Waits until each of the three levels holds a generation, then takes a node away.
fn lose_a_node(bin: &Path, directory: &Path, over: &AtomicBool) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut last = String::new();
    loop {
        if over.load(Ordering::Relaxed) {
            bail!("the run ended before all levels held a checkpoint (last state: {last})");
        }
        if Instant::now() > deadline {
            bail!("no checkpoint on all levels within 120 s (last state: {last})");
        }
        if let Ok(text) = captured(
            Command::new(bin.join("mana"))
                .args(["status", "--json", "--id", "demo"])
                .current_dir(directory),
        ) {
            if complete_levels(&text) >= 3 {
                break;
            }
            last = text;
        }
        thread::sleep(Duration::from_millis(200));
    }
    step(
        3,
        &format!("all three levels hold a checkpoint; node {VICTIM} is lost"),
    );
    println!("   $ mana fail-node {VICTIM}");
    let said = captured(
        Command::new(bin.join("mana"))
            .args(["fail-node", "--id", "demo", VICTIM])
            .current_dir(directory),
    )?;
    for line in said.lines() {
        println!("   {line}");
    }
    Ok(said)
}

/// Number of levels whose last generation is known: objects of `levels` with a `last` that is one.
fn complete_levels(json: &str) -> usize {
    let Ok(state) = serde_json::from_str::<serde_json::Value>(json) else {
        return 0;
    };
    state["levels"].as_array().map_or(0, |levels| {
        levels
            .iter()
            .filter(|level| level["last"].is_object())
            .count()
    })
}

#[cfg(test)]
mod tests {
    use super::complete_levels;

    #[test]
    fn levels_are_counted() {
        let text = r#"{"levels":[{"level":"local","last":{"incarnation":1,"number":2}},{"level":"partner","last":null}]}"#;
        assert_eq!(complete_levels(text), 1);
        assert_eq!(complete_levels("not json"), 0);
    }
}
