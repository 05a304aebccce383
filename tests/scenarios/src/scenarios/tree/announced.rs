//! Signals that announce the end, sent to every process of a tree, and those that are the program's own.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::{compile, launch, line, missing, source, stage, static_nap, LIMIT, PYTHON, TREES};
use crate::context::{passed, skipped, Context, Verdict};
use crate::job::Job;
use crate::product::Intervals;
use crate::scenarios::modes::same;
use crate::scenarios::Scenario;

/// An end that is announced to every process of a tree at once, as a batch system does it.
struct EndedTree {
    name: &'static str,
    shows: &'static str,
    /// Which of [`TREES`].
    tree: &'static str,
    signal: Signal,
    configuration: &'static str,
    code: i32,
}

const ENDED: &[EndedTree] = &[
    EndedTree {
        name: "ended-pool",
        shows: "SIGTERM to every process of a multiprocessing pool: the last checkpoint has all of them",
        tree: "pool",
        signal: Signal::SIGTERM,
        configuration: "",
        code: 128 + 15,
    },
    EndedTree {
        name: "ended-loky",
        shows: "SIGTERM to every process of joblib's own workers: the last checkpoint has all of them",
        tree: "loky",
        signal: Signal::SIGTERM,
        configuration: "",
        code: 128 + 15,
    },
    EndedTree {
        name: "ended-script",
        shows: "SIGTERM to a shell script and all it runs, at any instant: no state without some of them is kept",
        tree: "script",
        signal: Signal::SIGTERM,
        configuration: "",
        code: 128 + 15,
    },
    EndedTree {
        name: "stopped-pool",
        shows: "SIGUSR1 to every process of a pool, at_end = stop: exit code 85, and gone on with all of them",
        tree: "pool",
        signal: Signal::SIGUSR1,
        configuration: "at_end=stop\n",
        code: 85,
    },
];

pub fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for ended in ENDED {
        scenarios.push(Scenario::new(
            format!("tree/{}", ended.name),
            ended.shows,
            move |context| announced(context, ended),
        ));
    }
    scenarios.push(Scenario::new(
        "tree/terminated",
        "processes that the program itself ends by SIGTERM end at once, and checkpoints go on",
        terminated,
    ));
    scenarios.push(Scenario::new(
        "tree/asked",
        "a program that waits for any child, in a Slurm job whose controller is slow: the last checkpoint is taken, and nobody but its own children is met",
        asked,
    ));
    scenarios.push(Scenario::new(
        "tree/waiting",
        "a shell that waits for its children is interrupted by signals that are none of its, also after a resume",
        waiting,
    ));
    scenarios.push(Scenario::new(
        "tree/lost",
        "SIGTERM to a script and to a static program, which it ends: what is left is not kept",
        lost,
    ));
    scenarios.push(Scenario::new(
        "tree/ends",
        "a script that ends while its checkpoint begins does not wait for it",
        ends,
    ));
    scenarios
}

/// Nothing but the last checkpoint is ever taken.
fn announced(context: &Context, ended: &EndedTree) -> Result<Verdict> {
    let tree = TREES
        .iter()
        .find(|tree| tree.name == ended.tree)
        .context("no such tree")?;
    if let Some(why) = missing(tree) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory(&format!("tree-{}", ended.name))?;
    let quick = line(tree, place.path(), tree.fast)?;
    let mut command = Command::new(&quick[0]);
    command.args(&quick[1..]).current_dir(place.path());
    let native = Job::start(command, place.path())?.wait(LIMIT)?;
    let expected = native.expect(0)?.result()?;
    let mut setup = stage(product, place.path())?;
    setup.configure(Intervals::default(), ended.configuration)?;
    setup.hold();
    let slow = line(tree, place.path(), tree.slow)?;
    let mut random = context.random(ended.name);
    let mut job = launch(&setup, &["--fresh"], &slow)?;
    let (mut signalled, mut refused) = (Vec::new(), 0);
    let turns = if context.full { 5 } else { 2 };
    for turn in 0..turns {
        job.until("all its processes", LIMIT, |job| {
            let begun = job.messages().contains("under control");
            (begun && job.processes().len() >= tree.processes).then_some(())
        })?;
        std::thread::sleep(Duration::from_millis(random.below(800)));
        let mut processes = job.processes();
        // Whoever holds it back for all is the last to hear of it.
        let first = processes.iter().map(|p| p.pid).min();
        processes.sort_by_key(|process| Some(process.pid) == first);
        for process in &processes {
            // One may have ended since.
            let _ = kill(Pid::from_raw(process.pid), ended.signal);
        }
        let stopped = job.wait(LIMIT)?;
        stopped.expect(ended.code)?;
        let committed = stopped.stderr.contains(" committed: ");
        let lost = stopped.stderr.contains("from outside: what is left");
        ensure!(
            committed != lost && (committed || ended.tree == "script"),
            "in turn {turn} a last checkpoint was not taken of all {} processes\n{}",
            processes.len(),
            stopped.report()
        );
        signalled.push(processes.len().to_string());
        refused += u32::from(lost);
        if turn + 1 == turns {
            setup.release()?;
        }
        job = launch(&setup, &["--restart"], &slow)?;
    }
    same(&job.wait(LIMIT)?, &expected)?;
    place.done();
    Ok(Verdict::Passed(format!(
        "{} processes, {refused} last checkpoints refused",
        signalled.join(" and ")
    )))
}

/// Slurm's commands as seen from a job. Their slowness is all that is tried: the answers are those of a job that runs on.
const SCONTROL: &str = "#!/bin/sh\n\
     case $2 in\n\
     config) echo 'KillWait = 30 sec';;\n\
     job)\n\
     \x20   if [ -e slow ]; then echo $PPID >> asked; sleep 4; touch answered; fi\n\
     \x20   echo \"JobId=77 JobState=RUNNING Restarts=0 EndTime=$(($(date +%s) + 600)) Partition=main\";;\n\
     esac\n";

/// What asks for the time left is none of the program's children.
fn asked(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("tree-asked")?;
    let program = place.path().join("any-child");
    compile(&source("any_child.c"), &program, &[])?;
    let mut setup = stage(product, place.path())?;
    setup.configure(Intervals::default(), "")?;
    let commands = place.path().join("slurm");
    std::fs::create_dir(&commands).context("a directory for commands")?;
    for (name, text) in [("scontrol", SCONTROL), ("squeue", "#!/bin/sh\n")] {
        let command = commands.join(name);
        std::fs::write(&command, text).context("writing a command")?;
        std::fs::set_permissions(&command, Permissions::from_mode(0o755))
            .context("making it executable")?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", commands.display());
    setup.environment.push(("PATH".into(), path));
    setup.environment.push(("SLURM_JOB_ID".into(), "77".into()));
    let line = [program.display().to_string(), "over".to_owned()];
    let mut job = launch(&setup, &[], &line)?;
    job.until("the program under control", LIMIT, |job| {
        let begun = job.messages().contains("under control");
        (begun && job.processes().len() > 1).then_some(())
    })?;
    let create = |name: &str| std::fs::write(place.path().join(name), "").context("a file");
    create("slow")?;
    let root = job.processes().into_iter().map(|p| p.pid).min();
    let root = Pid::from_raw(root.context("no process")?);
    kill(root, Signal::SIGTERM).context("SIGTERM")?;
    job.until("the last checkpoint", LIMIT, |job| {
        let said = job.messages();
        (said.contains(" committed: ") || said.contains("cannot be checkpointed")).then_some(())
    })?;
    // Its end is what the program could see.
    let answered = place.path().join("answered");
    job.until("the answer", LIMIT, |_| answered.exists().then_some(()))?;
    let asked = std::fs::read_to_string(place.path().join("asked")).context("nobody has asked")?;
    create("over")?;
    let ended = job.wait(LIMIT)?;
    same(&ended, "0 strange children, 0 signals too many")?;
    ensure!(
        ended.stderr.contains(" committed: ") && !ended.stderr.contains("scontrol"),
        "{}",
        ended.report()
    );
    let own = asked.lines().any(|parent| parent == root.to_string());
    ensure!(!own, "the program's process has children: {asked}");
    place.done();
    passed()
}

/// A wait that no trampoline leads to (`rt_sigsuspend`): its call is found by decoding, in a handler.
fn waiting(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("tree-waiting")?;
    let setup = stage(product, place.path())?;
    setup.configure(Intervals::default(), "")?;
    let script = "while [ ! -e 'go on' ]; do sleep 0.1; done & wait; echo RESULT $?";
    let line = ["/bin/sh", "-c", script].map(str::to_owned);
    let stores = setup.stores();
    let mut job = launch(&setup, &[], &line)?;
    let mut taken = 0;
    for turn in 0..2 {
        job.until("the shell under control", LIMIT, |job| {
            let begun = job.messages().contains("under control");
            (begun && job.processes().len() >= 3).then_some(())
        })?;
        let shell = job.processes().into_iter().map(|p| p.pid).min();
        let shell = Pid::from_raw(shell.context("no process")?);
        taken += 4;
        job.until("last checkpoints", LIMIT, |_| {
            // One that comes before the last one's is over interrupts it, and that is all.
            let _ = kill(shell, Signal::SIGUSR1);
            let newest = stores.committed().into_iter().map(|(_, number)| number);
            newest.max().filter(|newest| *newest >= taken)
        })?;
        if turn == 0 {
            job.destroy();
            job = launch(&setup, &["--restart"], &line)?;
        }
    }
    std::fs::write(place.path().join("go on"), "")?;
    same(&job.wait(LIMIT)?, "0")?;
    place.done();
    passed()
}

/// Signals of the program's own, which announce nothing.
fn terminated(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("tree-terminated")?;
    let setup = stage(product, place.path())?;
    // Held back, each would take two seconds.
    let code = "import multiprocessing, os, signal, subprocess, time\n\
                codes = []\n\
                def handler(*_): codes.append('handled')\n\
                shortest = 60\n\
                for turn in range(8):\n\
                \x20   begun = time.monotonic()\n\
                \x20   process = multiprocessing.Process(target=time.sleep, args=(60,))\n\
                \x20   process.start()\n\
                \x20   other = subprocess.Popen(['sleep', '60'])\n\
                \x20   time.sleep(0.3)\n\
                \x20   process.terminate()\n\
                \x20   other.terminate()\n\
                \x20   process.join()\n\
                \x20   codes += [process.exitcode, other.wait()]\n\
                \x20   shortest = min(shortest, time.monotonic() - begun)\n\
                signal.signal(signal.SIGTERM, handler)\n\
                os.kill(os.getpid(), signal.SIGTERM)\n\
                subprocess.run(['sh', '-c', 'kill $PPID'])\n\
                assert shortest < 2, 'they took too long'\n\
                print('RESULT', codes)\n";
    let line = [PYTHON, "-c", code].map(str::to_owned);
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).current_dir(place.path());
    let native = Job::start(command, place.path())?.wait(LIMIT)?;
    let expected = native.expect(0)?.result()?;
    let ended = launch(&setup, &[], &line)?.wait(LIMIT)?;
    same(&ended, &expected)?;
    ensure!(
        ended.stderr.contains(" committed: ") && !ended.stderr.contains("last checkpoint"),
        "{}",
        ended.report()
    );
    place.done();
    passed()
}

/// SIGTERM to a program that nobody controls and to the script that waits for it, which hears of its end as of its own.
fn end_both(job: &mut Job, nap: &Path) -> Result<()> {
    let mut all = job.until("both processes", LIMIT, |job| {
        let all = job.processes();
        let executed = all.iter().any(|process| process.executable == nap);
        executed.then_some(all)
    })?;
    ensure!(all.len() == 2, "{} processes", all.len());
    all.sort_by_key(|process| std::cmp::Reverse(process.pid));
    for process in &all {
        kill(Pid::from_raw(process.pid), Signal::SIGTERM).context("SIGTERM")?;
    }
    Ok(())
}

/// The program ends by itself in the first moments of a last checkpoint.
fn ends(context: &Context) -> Result<Verdict> {
    /// Less than threads are waited for that do not stop.
    const AT_ONCE: Duration = Duration::from_secs(15);
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("tree-ends")?;
    let nap = static_nap(place.path())?;
    let setup = stage(product, place.path())?;
    setup.configure(Intervals::default(), "")?;
    let script = format!("{} & wait; echo RESULT done", nap.display());
    let line = ["/bin/sh".to_owned(), "-c".to_owned(), script];
    let mut codes = Vec::new();
    for _ in 0..if context.full { 20 } else { 5 } {
        let mut job = launch(&setup, &["--fresh"], &line)?;
        end_both(&mut job, &nap)?;
        let ended = job.wait(AT_ONCE)?;
        let code = ended.code();
        ensure!(code == 0 || code == 128 + 15, "{}", ended.report());
        codes.push(code.to_string());
    }
    place.done();
    Ok(Verdict::Passed(format!("codes {}", codes.join(", "))))
}

/// A process that cannot hold the signal back is gone before the last checkpoint.
fn lost(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("tree-lost")?;
    let nap = static_nap(place.path())?;
    let setup = stage(product, place.path())?;
    setup.configure(Intervals::default(), "")?;
    let script = format!("{} & wait; sleep 20; echo RESULT done", nap.display());
    let line = ["/bin/sh".to_owned(), "-c".to_owned(), script];
    let mut job = launch(&setup, &[], &line)?;
    end_both(&mut job, &nap)?;
    let ended = job.wait(LIMIT)?;
    ended.expect(128 + 15)?;
    let why = [
        "from outside: what is left",
        "(static-nap) of the program is alive",
    ];
    ensure!(
        !ended.stderr.contains(" committed: ") && why.iter().any(|w| ended.stderr.contains(w)),
        "{}",
        ended.report()
    );
    place.done();
    passed()
}
