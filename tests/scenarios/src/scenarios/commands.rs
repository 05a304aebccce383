//! The commands as users meet them: watching, checkpointing and ending a job, resuming it by hand,
//! offline tools, a coordinator of its own, an installed tree used by somebody else, bad input.

mod adapter;
mod bad_input;
mod clean_local;
mod hangs;
mod leaving;
mod live;
mod mismatch;
mod pages;
mod picture;
mod prune;
mod screen;
mod several_programs;
mod watchdog;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::modes::same;
use super::Scenario;
use crate::context::{passed, skipped, Context, Verdict, Workplace};
use crate::generations::Damage;
use crate::job::{Ended, Job};
use crate::mpi::Mpi;
use crate::product::{Intervals, Product, Setup};
use crate::programs::{Program, PROGRAMS, STALL};

const LIMIT: Duration = Duration::from_secs(60);
/// For a command that only asks or looks.
const SHORT: Duration = Duration::from_secs(20);

/// What a scenario works with.
struct Stage {
    place: Workplace,
    setup: Setup,
    /// A program that runs for some seconds, and one that ends at once.
    line: Vec<String>,
    quick: Vec<String>,
    expected: String,
}

type Play = fn(&Stage) -> Result<()>;

pub fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    let both: [(&str, &'static str, Play); 3] = [
        (
            "by-hand",
            "status, checkpoint of a level, list, verify of a flipped byte, last checkpoint, restart",
            by_hand,
        ),
        (
            "first-commit",
            "killed between the announcement of the first commit and its manifest: from the beginning",
            first_commit,
        ),
        (
            "several-programs",
            "a job of two programs under one name: resumed by its own command line, and by mana_restart",
            several_programs::several_programs,
        ),
    ];
    for (word, shows, play) in both {
        for mpi in Mpi::ALL {
            let name = format!("commands/{word}/{}", mpi.name());
            scenarios.push(Scenario::new(name, shows, move |c| run(c, word, mpi, play)));
        }
    }
    for mpi in Mpi::ALL {
        scenarios.push(Scenario::new(
            format!("commands/watchdog/{}", mpi.name()),
            "a checkpoint that cannot be taken is given up, and says where every rank is",
            move |c| run_program(c, "watchdog", mpi, &STALL, watchdog::watchdog),
        ));
    }
    for mpi in Mpi::ALL {
        let all: [(&str, &'static str, Play); 3] = [
            (
                "hang-init",
                "a rank that comes late: the library's own start is named as what takes so long",
                hangs::init,
            ),
            (
                "hang-start",
                "a rank whose storage does not answer at the start is named, and the wait ends as configured",
                hangs::start,
            ),
            (
                "hang-resume",
                "records, an image, memory that are not read: whom all wait for, and with what; resumed afterwards",
                hangs::resume,
            ),
        ];
        for (word, shows, play) in all {
            let name = format!("commands/{word}/{}", mpi.name());
            scenarios.push(Scenario::new(name, shows, move |c| run(c, word, mpi, play)));
        }
    }
    scenarios.push(Scenario::new(
        "commands/mismatch",
        "a program under the other MPI's launcher, a changed program, another number of ranks: refused by name",
        mismatch::mismatch,
    ));
    scenarios.push(Scenario::new(
        "commands/report",
        "the page of a job that was made up, looked at in a browser",
        pages::report,
    ));
    scenarios.push(Scenario::new(
        "commands/live-view",
        "the live view in a real terminal of three sizes, with and without colour: running, stalled, lost, resumed, ended",
        |c| match picture::on_path("tmux") {
            Some(_) => run(c, "live-view", Mpi::OpenMpi, live::live),
            None => skipped("tmux is not installed"),
        },
    ));
    scenarios.push(Scenario::new(
        "commands/clean-local",
        "the prolog for node-local storage follows no link of a user's and deletes what is old",
        clean_local::run,
    ));
    let once: [(&str, &'static str, Play); 13] = [
        (
            "run",
            "mana run: resumes after a lost node, and does not start again what was ended on request",
            started_again,
        ),
        (
            "coordinators",
            "two stand-alone coordinators, two jobs; a third job is refused; both coordinators die",
            coordinators,
        ),
        (
            "coordinator-leaves",
            "SIGTERM to a stand-alone coordinator: it stays until its job has ended; a second one, or one without a job, ends it",
            leaving::leaving,
        ),
        (
            "steps",
            "one batch job, a step that ended and two parallel ones that were killed: requeued, each goes its own way",
            steps,
        ),
        (
            "kept",
            "keep_after_end leaves one generation, a normal end without it none",
            kept,
        ),
        (
            "prune",
            "older checkpoints are deleted, never what a resume needs, nor while the job runs",
            prune::prune,
        ),
        (
            "installed",
            "a copied tree, used by an ordinary user in a directory of theirs; refused below a name with a space",
            installed,
        ),
        (
            "adapter",
            "an ordinary user adds an MPI to a tree of theirs, from the sources that came with it",
            adapter::adapter,
        ),
        (
            "doctor",
            "every finding that is not right says how to mend it; its self-test resumes a job on each MPI",
            pages::doctor,
        ),
        (
            "letters",
            "the one-letter commands of a stand-alone coordinator",
            pages::letters,
        ),
        (
            "lines",
            "log file, JSON lines, metrics, a watched job in a pipe, the report of a job that ended",
            pages::lines,
        ),
        (
            "lost-report",
            "a killed job and its recovery in the report",
            pages::lost,
        ),
        (
            "bad-input",
            "each wrong file, key, directory, program: exit 99, one line that names it",
            bad_input::bad_input,
        ),
    ];
    for (word, shows, play) in once {
        let name = format!("commands/{word}");
        scenarios.push(Scenario::new(name, shows, move |c| {
            run(c, word, Mpi::OpenMpi, play)
        }));
    }
    scenarios
}

fn run(context: &Context, word: &str, mpi: Mpi, play: Play) -> Result<Verdict> {
    run_program(context, word, mpi, &PROGRAMS[0], play)
}

fn run_program(
    context: &Context,
    word: &str,
    mpi: Mpi,
    program: &Program,
    play: Play,
) -> Result<Verdict> {
    if let Some(why) = program.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let place = context.directory(&format!("commands-{word}"))?;
    let executable = context.build(program, mpi)?;
    let ranks = program.ranks.max(2);
    let setup = product.setup(place.path(), mpi, ranks, Intervals::default())?;
    let quick = program.line(&executable, program.fast);
    let expected = context.native(program.name, || {
        let mut command = mpi.native(ranks);
        command.args(&quick).current_dir(place.path());
        Job::start(command, place.path())?
            .wait(LIMIT)?
            .expect(0)?
            .result()
    })?;
    let mut stage = Stage {
        line: match program.slow {
            [] => program.line(&executable, &["--pause", "30"]),
            slow => program.line(&executable, slow),
        },
        quick,
        place,
        setup,
        expected,
    };
    play(&stage)?;
    stage.place.done();
    passed()
}

impl Stage {
    fn mana(&self, verb: &str, options: &[&str]) -> Result<Ended> {
        self.setup.mana(verb, options, LIMIT)
    }

    /// Started, and under control; it does not end before [`Setup::release`].
    fn started(&self, setup: &Setup, options: &[&str]) -> Result<Job> {
        let mut setup = setup.clone();
        setup.hold();
        let mut job = setup.launch(options, &self.line)?;
        under_control(&mut job)?;
        Ok(job)
    }

    /// Resumed, and ended.
    fn restart(&self, ranks: u32) -> Result<Ended> {
        self.setup.release()?;
        let mut command = self.setup.mpi.launcher(ranks, false);
        command
            .arg(self.setup.product.command("mana_restart"))
            .current_dir(self.place.path());
        Job::start(command, self.place.path())?.wait(LIMIT)
    }
}

fn under_control(job: &mut Job) -> Result<()> {
    job.until("the job under control", LIMIT, |job| {
        job.messages().contains("under control").then_some(())
    })
}

/// Lines that say what is wrong.
fn errors(ended: &Ended) -> Vec<&str> {
    let is_ours = |line: &&str| line.starts_with("mana") && line.contains("error: ");
    ended.stderr.lines().filter(is_ours).collect()
}

/// Exit code 99 and one line that holds all `words`.
fn refused(ended: &Ended, words: &[&str]) -> Result<()> {
    ended.expect(99)?;
    let lines = errors(ended);
    ensure!(
        lines.len() == 1 && words.iter().all(|word| lines[0].contains(word)),
        "one line with {words:?} expected\n{}",
        ended.report()
    );
    Ok(())
}

fn says(ended: &Ended, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(
            ended.stdout.contains(word),
            "{word:?} is not said\n{}",
            ended.report()
        );
    }
    Ok(())
}

fn by_hand(stage: &Stage) -> Result<()> {
    let stores = stage.setup.stores();
    let job = stage.started(&stage.setup, &[])?;
    says(
        stage.mana("status", &[])?.expect(0)?,
        &["running", "2 ranks on 2 nodes"],
    )?;
    let json = stage.mana("status", &["--json"])?;
    let state: serde_json::Value =
        serde_json::from_str(&json.expect(0)?.stdout).context("mana status --json")?;
    ensure!(
        state["phase"] == "running" && state["ranks"].as_array().is_some_and(|r| r.len() == 2),
        "{}",
        json.report()
    );
    let taken = stage.mana("status", &["--checkpoint", "--level", "partner", "--wait"])?;
    says(taken.expect(0)?, &["checkpoint 1 (partner) committed"])?;
    // Who waits for a level may lose a node right after.
    let generations = stores.generations();
    let first = generations.get(&(1, 1)).context("no generation 1.1")?;
    ensure!(
        first.partner.len() == 2 && first.committed(),
        "no partner copies yet: {first:?}"
    );
    let unknown = stage.mana("status", &["--checkpoint", "--level", "group", "--wait"])?;
    refused(&unknown, &["group", "local, partner, global"])?;
    let last = stage.mana("status", &["--checkpoint", "--wait", "--kill"])?;
    says(last.expect(0)?, &["checkpoint 2 (global) committed"])?;
    let ended = job.wait(LIMIT)?;
    ensure!(
        ended.code() != 0 && errors(&ended).is_empty(),
        "ended on request, without an error\n{}",
        ended.report()
    );
    refused(&stage.mana("status", &[])?, &["coordinator"])?;

    says(
        stage.mana("list", &[])?.expect(0)?,
        &["ended on request", "1.1", "1.2", "local partner global"],
    )?;
    says(stage.mana("verify", &[])?.expect(0)?, &["0 not"])?;
    let image = &first.own[&1];
    let name = image.to_string_lossy();
    let inspect = |code| -> Result<Ended> {
        let mut command = Command::new(stage.setup.product.command("mana"));
        command.arg("inspect").arg(image);
        let ended = Job::start(command, stage.place.path())?.wait(SHORT)?;
        ended.expect(code)?;
        Ok(ended)
    };
    says(&inspect(0)?, &["rank 1 of 2", "intact"])?;
    Damage::Flip.inflict(image)?;
    let damaged = stage.mana("verify", &[])?;
    says(
        damaged.expect(1)?,
        &[&name, "generation 1.1 rank 1", "checksum", " 1 not"],
    )?;
    says(&inspect(1)?, &["damaged"])?;
    stage.mana("verify", &["--generation", "2"])?.expect(0)?;
    refused(&stage.mana("verify", &["--generation", "7"])?, &["list"])?;

    says(
        stage.mana("restart", &["--dry-run"])?.expect(0)?,
        &["would resume generation 1.2", "rank 1"],
    )?;
    let again = stage.setup.launch(&[], &stage.quick)?.wait(LIMIT)?;
    refused(&again, &["unfinished", "--restart", "--fresh"])?;
    refused(&stage.restart(3)?, &["has 2 ranks, but 3"])?;
    let resumed = stage.restart(2)?;
    same(&resumed, &stage.expected)?;
    ensure!(
        resumed.stderr.contains("resumed generation 1.2"),
        "{}",
        resumed.report()
    );
    says(stage.mana("list", &[])?.expect(0)?, &["ended normally"])?;
    refused(&stage.restart(2)?, &["nothing to resume"])
}

fn first_commit(stage: &Stage) -> Result<()> {
    let stores = stage.setup.stores();
    let mut setup = stage.setup.clone();
    setup
        .environment
        .push(("MANA_FAULT".into(), "commit.before@0".into()));
    let job = setup.launch(&["--set", "local_ckpt_interval=0.3"], &stage.line)?;
    let killed = job.wait(LIMIT)?;
    ensure!(killed.code() != 0, "not killed\n{}", killed.report());
    ensure!(
        stores.global.join("scenario/committing-1").is_file(),
        "the first commit was not announced\n{}",
        killed.report()
    );
    // The other node's leader may have been as quick as rank 0 was dead.
    for manifest in stores.generations().into_values().flat_map(|g| g.manifests) {
        Damage::Remove.inflict(&manifest)?;
    }
    refused(&stage.restart(2)?, &["nothing to resume", "--fresh"])?;
    let mut setup = stage.setup.clone();
    setup
        .environment
        .push(("SLURM_RESTART_COUNT".into(), "1".into()));
    let ended = setup
        .launch(&["--set", "local_ckpt_interval=1"], &stage.line)?
        .wait(LIMIT)?;
    same(&ended, &stage.expected)?;
    for words in [
        "starting from the beginning",
        "checkpoint 1 (local) committed",
    ] {
        ensure!(ended.stderr.contains(words), "{words}\n{}", ended.report());
    }
    says(stage.mana("list", &[])?.expect(0)?, &["ended normally"])
}

fn started_again(stage: &Stage) -> Result<()> {
    let setup = &stage.setup;
    // What it waits for itself, its command can be sent.
    let mut command = Command::new(setup.product.command("mana"));
    command.args(["run", "--retries", "0", "--"]);
    command.args(["grep", "^SigBlk:[[:space:]]*0*$", "/proc/self/status"]);
    Job::start(command, stage.place.path())?
        .wait(SHORT)?
        .expect(0)?;
    let mut command = Command::new(setup.product.command("mana"));
    command.args(["run", "--retries", "1", "--"]);
    let launcher = setup.mpi.launcher(2, false);
    for (name, value) in launcher.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
        .arg(launcher.get_program())
        .args(launcher.get_args());
    command.arg(setup.product.command("mana_launch"));
    let hurry = stage.place.path().join("over");
    let until = hurry.display().to_string();
    command.args(["--id", &setup.id]);
    command.args([&stage.line[0], "--pause", "300", "--until", &until]);
    command.current_dir(stage.place.path());
    let mut job = Job::start(command, stage.place.path())?;
    under_control(&mut job)?;
    stage
        .mana("status", &["--checkpoint", "--level", "partner", "--wait"])?
        .expect(0)?;
    refused(&stage.mana("fail-node", &["9"])?, &["node 9", "0 to 1"])?;
    says(
        stage.mana("fail-node", &["1"])?.expect(0)?,
        &["killed rank 1", "deleted"],
    )?;
    job.until("the second start", LIMIT, |job| {
        job.messages().contains("incarnation 2").then_some(())
    })?;
    stage
        .mana("status", &["--checkpoint", "--wait", "--kill"])?
        .expect(0)?;
    let ended = job.wait(LIMIT)?;
    ensure!(
        ended.stderr.contains("1 from partner copy") && ended.stderr.contains("not starting again"),
        "{}",
        ended.report()
    );
    ensure!(
        !ended.stderr.contains("incarnation 3"),
        "it was started again\n{}",
        ended.report()
    );
    std::fs::write(&hurry, "").context("ending the pauses")?;
    same(&stage.restart(2)?, &stage.expected)
}

/// A stand-alone coordinator on a port (0: a free one), and the port.
fn coordinator(stage: &Stage, name: &str, port: &str) -> Result<(Job, String)> {
    let mut command = Command::new(stage.setup.product.command("mana_coordinator"));
    command
        .args([
            "--coord-host",
            "localhost",
            "--coord-port",
            port,
            "--config",
        ])
        .arg(stage.setup.configuration());
    with_port(command, &stage.place.path().join(name))
}

/// A coordinator in a directory of its own, and the port it tells.
fn with_port(command: Command, directory: &std::path::Path) -> Result<(Job, String)> {
    std::fs::create_dir(directory).context("making a directory")?;
    let mut job = Job::start(command, directory)?;
    let port = job.until("the port", SHORT, |job| {
        let output = job.output();
        let (_, rest) = output.split_once("MANA_COORD_PORT=")?;
        rest.split_whitespace().next().map(str::to_owned)
    })?;
    Ok((job, port))
}

fn coordinators(stage: &Stage) -> Result<()> {
    let hurry = stage.place.path().join("hurry");
    let until = hurry.display().to_string();
    let line: Vec<_> = [&stage.line[0], "--pause", "900", "--until", &until]
        .map(str::to_owned)
        .to_vec();
    let (mut first, port_a) = coordinator(stage, "coordinator-a", "0")?;
    let (mut second, port_b) = coordinator(stage, "coordinator-b", "0")?;
    let mut a = stage.setup.clone();
    a.id = "a".into();
    let by_option = ["--coord-host", "localhost", "--coord-port", &port_a];
    let settings = "--set on_error=continue --set coordinator_timeout=20";
    let settings: Vec<_> = settings.split_whitespace().collect();
    let go_on = [&by_option[..], &settings].concat();
    let mut job_a = a.launch(&go_on, &line)?;
    under_control(&mut job_a)?;
    let mut b = stage.setup.clone();
    b.id = "b".into();
    b.environment.extend([
        ("MANA_COORD_HOST".into(), "localhost".into()),
        ("MANA_COORD_PORT".into(), port_b),
    ]);
    let settings = "--set on_error=stop --set coordinator_timeout=1";
    let settings: Vec<_> = settings.split_whitespace().collect();
    let mut job_b = b.launch(&settings, &line)?;
    under_control(&mut job_b)?;
    // Both run: neither can be meant by default.
    let mut command = Command::new(stage.setup.product.command("mana_status"));
    command.arg("--config").arg(stage.setup.configuration());
    let which = Job::start(command, stage.place.path())?.wait(SHORT)?;
    refused(&which, &["several jobs", "(a, b)"])?;
    for setup in [&a, &b] {
        let taken = setup.mana("status", &["--checkpoint", "--wait"], LIMIT)?;
        says(taken.expect(0)?, &["checkpoint 1 (global) committed"])?;
    }
    second.destroy();
    job_b.until("the end", LIMIT, |_| None::<()>).ok();
    let ended = job_b.wait(LIMIT)?;
    refused(&ended, &["coordinator", "on_error"])?;
    // One that is started again on its port is found, although it has another secret.
    first.destroy();
    heard(&mut job_a, "while it is looked for")?;
    let (mut first, _) = coordinator(stage, "coordinator-c", &port_a)?;
    heard(&mut job_a, "connected to the coordinator again")?;
    let taken = a.mana("status", &["--checkpoint", "--wait"], LIMIT)?;
    says(taken.expect(0)?, &["checkpoint 2 (global) committed"])?;
    first.destroy();
    heard(&mut job_a, "without checkpoints")?;
    std::fs::write(&hurry, "").context("ending the pauses")?;
    let ended = job_a.wait(LIMIT)?;
    same(&ended, &stage.expected)?;
    let lines = ended.stderr.matches("without checkpoints").count();
    ensure!(lines == 1, "{lines} lines about it\n{}", ended.report());
    // Its end is known all the same.
    let again = a.launch(&["--restart"], &line)?.wait(LIMIT)?;
    refused(&again, &["has ended normally"])?;
    // What was committed before is there.
    let mut setup = stage.setup.clone();
    setup.id = "b".into();
    let resumed = setup.launch(&["--restart"], &line)?.wait(LIMIT)?;
    same(&resumed, &stage.expected)
}

/// Waits for a line of the job.
fn heard(job: &mut Job, words: &str) -> Result<()> {
    job.until(&format!("a line with {words:?}"), LIMIT, |job| {
        job.messages().contains(words).then_some(())
    })
}

/// The batch system's variables are set by hand.
fn steps(stage: &Stage) -> Result<()> {
    let step = |pause: &str, restarts: &str| -> Result<Job> {
        let mut command = Mpi::OpenMpi.launcher(2, false);
        let until = stage.place.path().join("over");
        command
            .arg(stage.setup.product.command("mana_launch"))
            .arg("--config")
            .arg(stage.setup.configuration())
            .args([&stage.line[0], "--pause", pause, "--until"])
            .arg(until)
            .current_dir(stage.place.path());
        // Not mpirun itself, which would look for Slurm's allocation.
        command
            .args(["--rounds", "200"])
            .env("OMPI_MCA_ras", "^slurm")
            .env("OMPI_MCA_plm", "^slurm")
            .env("SLURM_JOB_ID", "4711")
            .env("SLURM_RESTART_COUNT", restarts);
        Job::start(command, stage.place.path())
    };
    let identity = |job: &Job| -> Option<String> {
        let messages = job.messages();
        let (_, rest) = messages.split_once("mana[job ")?;
        Some(rest.split_whitespace().next()?.to_owned())
    };
    same(&step("0", "0")?.wait(LIMIT)?, &stage.expected)?;
    let mut parallel = [step("300", "0")?, step("301", "0")?];
    let mut names = Vec::new();
    for job in &mut parallel {
        under_control(job)?;
        let id = identity(job).context("no identity in the messages")?;
        ensure!(id.starts_with("4711-"), "{id}");
        let mut setup = stage.setup.clone();
        setup.id.clone_from(&id);
        setup
            .mana("status", &["--checkpoint", "--wait"], LIMIT)?
            .expect(0)?;
        names.push(id);
    }
    ensure!(names[0] != names[1], "two steps, one identity: {names:?}");
    for job in parallel {
        job.kill_ranks();
        job.wait(LIMIT)?;
    }
    let first = step("0", "1")?.wait(LIMIT)?;
    same(&first, &stage.expected)?;
    ensure!(
        first.stderr.contains("has ended normally before"),
        "{}",
        first.report()
    );
    let again = [step("300", "1")?, step("301", "1")?];
    std::fs::write(stage.place.path().join("over"), "").context("ending the pauses")?;
    for (job, name) in again.into_iter().zip(names) {
        let ended = job.wait(LIMIT)?;
        same(&ended, &stage.expected)?;
        let line = format!("mana[job {name} rank 0");
        ensure!(
            ended
                .stderr
                .lines()
                .any(|l| l.starts_with(&line) && l.contains("resumed generation 1.1")),
            "{}",
            ended.report()
        );
    }
    Ok(())
}

fn kept(stage: &Stage) -> Result<()> {
    for keep in [true, false] {
        let mut setup = stage.setup.clone();
        setup.id = format!("keep-{keep}");
        let option = format!("keep_after_end={keep}");
        let job = stage.started(&setup, &["--set", &option])?;
        for _ in 0..2 {
            setup
                .mana("status", &["--checkpoint", "--wait"], LIMIT)?
                .expect(0)?;
        }
        setup.release()?;
        same(&job.wait(LIMIT)?, &stage.expected)?;
        let left: Vec<_> = setup.stores().committed();
        let wanted: &[(u32, u64)] = if keep { &[(1, 2)] } else { &[] };
        ensure!(left == wanted, "{left:?} left, {wanted:?} expected");
        if keep {
            setup.mana("verify", &[], SHORT)?.expect(0)?;
            std::fs::remove_dir_all(setup.stores().global.join(&setup.id))?;
            for node in 0..2 {
                std::fs::remove_dir_all(setup.stores().node_directory(node).join(&setup.id))?;
            }
        }
    }
    Ok(())
}

/// Nobody's number, on every Linux system.
const NOBODY: &str = "65534";

fn installed(stage: &Stage) -> Result<()> {
    let place = stage.place.path();
    let tree = place.join("moved");
    let home = place.join("home");
    std::fs::create_dir(&home).context("making a home")?;
    shell(
        place,
        &format!(
            "cp -a '{}' '{}' && cp '{}' '{}/app' && chmod -R go+rX '{}'",
            stage.setup.product.command("..").display(),
            tree.display(),
            stage.line[0],
            home.display(),
            place.display(),
        ),
    )?;
    let product = Product::new(&tree)?;
    // What the loader would take apart, and load nothing of.
    let apart = place.join("moved there");
    std::fs::rename(&tree, &apart).context("renaming the tree")?;
    let mut command = Command::new(apart.join("bin/mana_launch"));
    command.arg(home.join("app")).current_dir(place);
    let ended = Job::start(command, place)?.wait(SHORT)?;
    refused(&ended, &["moved there", "takes a path with a space"])?;
    std::fs::rename(&apart, &tree).context("renaming the tree")?;
    let mut words = Vec::new();
    if nix::unistd::geteuid().is_root() {
        shell(
            place,
            &format!("chown -R {NOBODY}:{NOBODY} '{}'", home.display()),
        )?;
        let ids = [&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}")].map(String::clone);
        words.push("setpriv".to_owned());
        words.extend(ids);
        words.push("--clear-groups".to_owned());
    }
    let as_user = |line: &str| -> Result<Job> {
        let mut command = Command::new("env");
        command.args(&words).args(["sh", "-c", line]);
        command
            .current_dir(&home)
            .env("HOME", &home)
            .env("TMPDIR", &home);
        Job::start(command, place)
    };
    let templates = tree.join("share/mana/templates/mana.conf");
    let bin = tree.join("bin");
    let bin = bin.display();
    let launcher =
        "OMPI_MCA_mpi_yield_when_idle=1 mpirun.openmpi --oversubscribe --bind-to none -n 2";
    let mut job = as_user(&format!(
        "cp '{}' . && {launcher} '{bin}/mana_launch' ./app --pause 300 --until over",
        templates.display()
    ))?;
    under_control(&mut job)?;
    let taken = as_user(&format!("'{bin}/mana_status' --checkpoint --wait --kill"))?.wait(LIMIT)?;
    says(taken.expect(0)?, &["committed"])?;
    job.wait(LIMIT)?;
    shell(place, &format!("touch '{}'", home.join("over").display()))?;
    let resumed = as_user(&format!("{launcher} '{bin}/mana_restart'"))?.wait(LIMIT)?;
    same(&resumed, &stage.expected)?;
    ensure!(
        product.command("../share/man/man1/mana-launch.1").is_file(),
        "no manual page"
    );
    Ok(())
}

fn shell(directory: &Path, line: &str) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(directory);
    Job::start(command, directory)?.wait(LIMIT)?.expect(0)?;
    Ok(())
}
