//! `mana start`, `restart`, `stop`: scripts without MPI, each with a directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::Scenario;
use crate::context::{passed, skipped, Context, Verdict};
use crate::job::{Ended, Job};
use crate::product::{Product, HOLD};

const LIMIT: Duration = Duration::from_secs(240);
/// The exit code of a run that was stopped with a checkpoint.
const STOPPED: i32 = 85;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "scripts/learn",
            "numpy, scipy, scikit-learn: killed in the middle of a training loop, resumed: the native result",
            learn,
        ),
        Scenario::new(
            "scripts/stop",
            "stopped by --time, --kill-after, mana stop and SIGTERM, and gone on with each time",
            stop,
        ),
        Scenario::new(
            "scripts/several",
            "two at once in one directory, started in the background; nothing is started over; exit codes",
            several,
        ),
        Scenario::new(
            "scripts/pool",
            "a multiprocessing pool under mana start: stopped by mana stop and by SIGTERM to all its processes, gone on with",
            |context| tree(context, "pool.py", &["10", "0"], &["10", "250"]),
        ),
        Scenario::new(
            "scripts/shell",
            "a shell script, with what it runs, under mana start: stopped and gone on with in the same ways",
            |context| tree(context, "job.sh", &["8", "0"], &["8", "400"]),
        ),
    ]
}

/// The directory the runs are started in.
struct Place<'a> {
    product: &'a Product,
    path: &'a Path,
}

impl Place<'_> {
    fn start(&self, words: &[&str]) -> Result<Job> {
        let mut command = Command::new(self.product.command("mana"));
        command.args(words).current_dir(self.path);
        command.env(HOLD, self.path.join("go"));
        Job::start(command, self.path)
    }

    /// What holds the programs' ends back is over.
    fn release(&self) -> Result<()> {
        std::fs::write(self.path.join("go"), "").context("letting the program end")
    }

    fn mana(&self, words: &[&str]) -> Result<Ended> {
        self.start(words)?.wait(LIMIT)
    }

    fn read(&self, run: &str, file: &str) -> String {
        let path = self.path.join(format!("{run}.run")).join(file);
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The value of the one line `RESULT` of a run.
    fn result(&self, run: &str) -> Result<String> {
        let text = self.read(run, "application.log");
        let values: Vec<_> = text
            .lines()
            .filter_map(|l| l.strip_prefix("RESULT "))
            .collect();
        ensure!(values.len() == 1, "{} results\n{text}", values.len());
        Ok(values[0].to_owned())
    }

    /// mana's lines.
    fn lines(&self, run: &str) -> String {
        self.read(run, "coordinator.log")
    }

    fn committed(&self, run: &str) -> bool {
        self.lines(run).contains(" committed: ")
    }
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("programs")
        .join(name)
}

fn learn(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let loads = Command::new("/usr/bin/python3")
        .args(["-c", "import numpy, scipy, sklearn"])
        .output();
    if !loads.is_ok_and(|output| output.status.success()) {
        return skipped("python3-numpy, python3-scipy or python3-sklearn is not installed");
    }
    let mut workplace = context.directory("scripts-learn")?;
    let place = Place {
        product,
        path: workplace.path(),
    };
    let script = program("learn.py").display().to_string();
    let mut native = Command::new("/usr/bin/python3");
    native.args([&script, "6"]).current_dir(place.path);
    let expected = Job::start(native, place.path)?
        .wait(LIMIT)?
        .expect(0)?
        .result()?;
    let line = ["/usr/bin/python3", &script, "6", "400"];
    let words = ["start", "--id", "learn", "-i", "1"];
    let mut job = place.start(&[words.as_slice(), &line].concat())?;
    job.until("a checkpoint", LIMIT, |_| {
        place.committed("learn").then_some(())
    })?;
    kill_program(&job);
    let killed = job.wait(LIMIT)?;
    killed.expect(128 + 9)?;
    place.release()?;
    let resumed = place.mana(&["restart"])?;
    resumed.expect(0)?;
    let found = place.result("learn")?;
    ensure!(
        found == expected,
        "{found}, natively {expected}\n{}{}",
        place.read("learn", "application.log"),
        place.read("learn", "coordinator.log")
    );
    let log = place.read("learn", "execution.log");
    for words in [
        "started: /usr/bin/python3",
        "ended with signal 9",
        "resumed: ",
        "ended with code 0",
    ] {
        ensure!(log.contains(words), "{words:?} is not in\n{log}");
    }
    let lines = place.lines("learn");
    ensure!(lines.contains("resumed generation 1."), "{lines}");
    ensure!(
        !place.read("learn", "application.log").contains("mana["),
        "mana's lines are in the program's output"
    );
    workplace.done();
    passed()
}

/// SIGKILL to the program, not to what stays with it.
fn kill_program(job: &Job) {
    for process in job.processes() {
        let lower = process
            .executable
            .file_name()
            .is_some_and(|n| n == "mana-lower");
        if lower {
            let pid = nix::unistd::Pid::from_raw(process.pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// A program that makes processes. `fast` and `slow` are arguments of quick runs and of ones that last some seconds.
fn tree(context: &Context, name: &str, fast: &[&str], slow: &[&str]) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut workplace = context.directory("scripts-tree")?;
    let place = Place {
        product,
        path: workplace.path(),
    };
    let script = program(name).display().to_string();
    let mut more = Vec::new();
    if name.ends_with(".sh") {
        let executable = place.path.join("tree");
        let status = Command::new("gcc")
            .args(["-O2", "-pthread", "-o"])
            .arg(&executable)
            .arg(program("tree.c"))
            .status()
            .context("starting gcc")?;
        ensure!(status.success(), "tree.c does not compile");
        more.push(executable.display().to_string());
    }
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let interpreter = match more.is_empty() {
        true => "/usr/bin/python3",
        false => "/bin/sh",
    };
    let mut native = Command::new(interpreter);
    native
        .arg(&script)
        .args(fast)
        .args(&more)
        .current_dir(place.path);
    let expected = Job::start(native, place.path)?
        .wait(LIMIT)?
        .expect(0)?
        .result()?;
    let words = ["start", "--id", "tree", script.as_str()];
    let mut job = place.start(&[words.as_slice(), slow, &more].concat())?;
    // One that stays with the run, the program, and what it has made.
    let running = |job: &Job, times: usize| {
        let begun = place.lines("tree").matches("under control").count() >= times;
        (begun && job.processes().len() >= 4).then_some(())
    };
    job.until("all its processes", LIMIT, |job| running(job, 1))?;
    place.mana(&["stop"])?.expect(0)?;
    job.wait(LIMIT)?.expect(STOPPED)?;

    let mut job = place.start(&["restart"])?;
    job.until("all its processes", LIMIT, |job| running(job, 2))?;
    let all = job.processes();
    for process in &all {
        let pid = nix::unistd::Pid::from_raw(process.pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    let stopped = job.wait(LIMIT)?;
    ensure!(
        stopped.code() == STOPPED,
        "SIGTERM to {} processes: code {}\n{}{}{}",
        all.len(),
        stopped.code(),
        stopped.report(),
        place.lines("tree"),
        place.read("tree", "execution.log")
    );
    place.release()?;
    place.mana(&["restart"])?.expect(0)?;
    let found = place.result("tree")?;
    ensure!(found == expected, "{found}, natively {expected}");
    workplace.done();
    passed()
}

/// Counts, a step in 20 ms, and has a result that depends on the number of steps only. It ends when it is told
/// to: a machine may take as long as it likes to stop it.
const COUNT: &str = "\
import os, sys, time
total = 0
for step in range(int(sys.argv[1])):
    total = (total * 31 + step) % 1000003
    time.sleep(0.02)
    print('step', step, flush=True)
while not os.path.exists(sys.argv[3]):
    time.sleep(0.02)
print('RESULT', total, flush=True)
sys.exit(int(sys.argv[2]))
";

fn counted(steps: u64) -> String {
    let next = |total: u64, step| (total * 31 + step) % 1_000_003;
    (0..steps).fold(0, next).to_string()
}

fn stop(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut workplace = context.directory("scripts-stop")?;
    let place = Place {
        product,
        path: workplace.path(),
    };
    std::fs::write(place.path.join("count.py"), COUNT)?;
    place
        .mana(&["start", "--time", "1", "count.py", "150", "4", "go"])?
        .expect(STOPPED)?;
    place.mana(&["restart", "--time", "1"])?.expect(STOPPED)?;
    let again = place.mana(&["start", "count.py", "150", "4", "go"])?;
    ensure!(
        again.expect(99)?.stderr.contains("mana restart --id count"),
        "{}",
        again.report()
    );
    // Asked for from elsewhere.
    let mut job = place.start(&["restart", "--id", "count"])?;
    let running = |place: &Place, times: usize| {
        let log = place.lines("count");
        log.matches("under control").count() >= times
    };
    job.until("it runs", LIMIT, |_| running(&place, 3).then_some(()))?;
    let stopped = place.mana(&["stop"])?;
    ensure!(
        stopped
            .expect(0)?
            .stdout
            .contains("mana restart --id count"),
        "{}",
        stopped.report()
    );
    job.wait(LIMIT)?.expect(STOPPED)?;
    let refused = place.mana(&["stop"])?;
    ensure!(
        refused.expect(99)?.stderr.contains("does not run"),
        "{}",
        refused.report()
    );
    // By a batch system.
    let mut job = place.start(&["restart"])?;
    job.until("it runs", LIMIT, |_| running(&place, 4).then_some(()))?;
    let ours = job.processes();
    let supervisor = ours
        .iter()
        .find(|p| p.executable.file_name().is_some_and(|n| n == "mana"))
        .context("nobody stays with the run")?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(supervisor.pid),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    job.wait(LIMIT)?.expect(STOPPED)?;
    std::fs::write(place.path.join("go"), "")?;
    place.mana(&["restart"])?.expect(4)?;
    let found = place.result("count")?;
    ensure!(found == counted(150), "{found}, not {}", counted(150));

    place
        .mana(&[
            "start",
            "--id",
            "after",
            "-i",
            "0.5",
            "--kill-after",
            "count.py",
            "100",
            "0",
            "go after",
        ])?
        .expect(STOPPED)?;
    std::fs::write(place.path.join("go after"), "")?;
    place.mana(&["restart", "--id", "after"])?.expect(0)?;
    ensure!(place.result("after")? == counted(100), "another result");
    // Nothing is left to go on with.
    let ended = place.mana(&["restart", "--id", "after"])?;
    ensure!(
        ended.expect(99)?.stderr.contains("nothing to resume"),
        "{}",
        ended.report()
    );
    workplace.done();
    passed()
}

fn several(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut workplace = context.directory("scripts-several")?;
    let place = Place {
        product,
        path: workplace.path(),
    };
    std::fs::write(place.path.join("count.py"), COUNT)?;
    std::fs::write(
        place.path.join("mana.conf"),
        "keep = 3\nlocal_ckpt_interval = 7\n",
    )?;
    for name in ["one", "two"] {
        place
            .start(&[
                "start",
                "--id",
                name,
                "--background",
                "count.py",
                "100",
                "0",
                "go",
            ])?
            .wait_detached(LIMIT)?
            .expect(0)?;
    }
    let configured = place.read("one", "mana.conf");
    ensure!(
        configured.contains("keep = 3") && configured.contains("local_ckpt_interval = 7"),
        "{configured}"
    );
    let which = place.mana(&["stop"])?;
    ensure!(
        which.expect(99)?.stderr.contains("one, two"),
        "{}",
        which.report()
    );
    let listed = place.mana(&["list"])?;
    ensure!(
        listed
            .report()
            .contains("runs of mana start here: one, two"),
        "{}",
        listed.report()
    );
    for name in ["one", "two"] {
        place.mana(&["stop", "--id", name])?.expect(0)?;
    }
    std::fs::write(place.path.join("go"), "")?;
    let jobs = ["two", "one"].map(|name| (name, place.start(&["restart", "--id", name])));
    for (name, job) in jobs {
        job?.wait(LIMIT)?.expect(0)?;
        ensure!(place.result(name)? == counted(100), "another result");
    }
    let missing = place.mana(&["start", "no-such.py"])?;
    ensure!(
        missing.expect(99)?.stderr.contains("no-such.py"),
        "{}",
        missing.report()
    );
    ensure!(
        !place.path.join("no-such.run").exists(),
        "a directory for nothing"
    );
    workplace.done();
    passed()
}
