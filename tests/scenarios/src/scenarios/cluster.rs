//! A Slurm cluster of namespaces (tests/cluster): several nodes, Open MPI by PMIx, MPICH by PMI-2,
//! requeue, a node that loses power.

mod steps;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};

use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::job::{Ended, Job};
use crate::mpi::{find, Mpi};
use crate::programs::{Program, PROGRAMS};

const NODES: u32 = 4;
const LIMIT: Duration = Duration::from_secs(240);

#[derive(Clone, Copy, PartialEq)]
enum Event {
    None,
    Requeue,
    PowerLoss,
}

pub fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for mpi in Mpi::ALL {
        let name = |what: &str| format!("cluster/{}/{what}", mpi.name());
        scenarios.push(Scenario::new(
            name("native"),
            "srun runs the native program on 4 nodes",
            move |c| native(c, mpi),
        ));
        scenarios.push(Scenario::new(
            name("plain"),
            "srun mana_launch on 4 nodes: the native result",
            move |c| product(c, mpi, Event::None),
        ));
        scenarios.push(Scenario::new(
            name("requeue"),
            "scontrol requeue: it resumes by itself",
            move |c| product(c, mpi, Event::Requeue),
        ));
        scenarios.push(Scenario::new(
            name("power-loss"),
            "a node loses power: it resumes on those left, from partner copies",
            move |c| product(c, mpi, Event::PowerLoss),
        ));
        scenarios.push(Scenario::new(
            name("steps"),
            "a job with an ended step and two parallel ones, requeued: each resumes its own images",
            move |c| steps::run(c, mpi),
        ));
    }
    scenarios
}

/// The cluster, taken down when dropped.
struct Cluster {
    script: PathBuf,
    state: tempfile::TempDir,
}

impl Cluster {
    /// Up with all nodes, or why not.
    fn up() -> Result<std::result::Result<Self, String>> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Err("the cluster of namespaces needs root".into()));
        }
        for tool in ["slurmctld", "slurmd", "munged", "srun", "nsenter", "ip"] {
            let sbin = ["/usr/sbin", "/sbin"]
                .iter()
                .any(|directory| Path::new(directory).join(tool).exists());
            if !sbin && find(tool).is_none() {
                return Ok(Err(format!("{tool} is not installed")));
            }
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .with_file_name("cluster")
            .join("cluster");
        let state = tempfile::Builder::new()
            .prefix("mana-cluster.")
            .tempdir()
            .context("creating the cluster's directory")?;
        let cluster = Self { script, state };
        let ended = cluster.call(&["up", &NODES.to_string()], Duration::from_secs(120))?;
        if ended.code() == 77 {
            return Ok(Err(ended.stderr.trim().to_owned()));
        }
        ended.expect(0)?;
        Ok(Ok(cluster))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        command.args(words).env("CLUSTER_DIR", self.state.path());
        command
    }

    fn call(&self, words: &[&str], limit: Duration) -> Result<Ended> {
        // Its daemons outlive the call that starts them: they are no part of a job.
        let output = self.state.path().join("call");
        let (out, err) = (output.with_extension("out"), output.with_extension("err"));
        let mut command = self.command(words);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::fs::File::create(&out).context("creating a file")?);
        command.stderr(std::fs::File::create(&err).context("creating a file")?);
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {}", self.script.display()))?;
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = child.try_wait().context("waiting")? {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!(
                    "cluster {} did not end in {} s",
                    words.join(" "),
                    limit.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        Ok(Ended {
            what: format!("cluster {}", words.join(" ")),
            status,
            stdout: std::fs::read_to_string(out).unwrap_or_default(),
            stderr: std::fs::read_to_string(err).unwrap_or_default(),
        })
    }

    /// A command on the head node.
    fn run(&self, words: &[&str], limit: Duration) -> Result<Ended> {
        self.call(&[&["run"], words].concat(), limit)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.call(&["down"], Duration::from_secs(60));
    }
}

/// How srun starts the tasks of an MPI.
fn interface(mpi: Mpi) -> &'static str {
    match mpi {
        Mpi::OpenMpi => "--mpi=pmix",
        _ => "--mpi=pmi2",
    }
}

/// What runs: where a node is lost under MPICH, a mixture of messages, collectives, windows and files. (Open MPI has no
/// windows between these nodes.)
fn program(mpi: Mpi, event: Event) -> Result<&'static Program> {
    let name = match (mpi, event) {
        (Mpi::Mpich, Event::PowerLoss) => "dense",
        _ => "wildcards",
    };
    PROGRAMS
        .iter()
        .find(|program| program.name == name)
        .context("no such program")
}

/// The arguments with which it takes long enough.
fn slow(program: &Program) -> &'static [&'static str] {
    match program.name {
        "dense" => program.slow,
        _ => &["--pause", "120"],
    }
}

/// MPICH's own end hangs between nodes: the preloaded cure.
fn cure(mpi: Mpi, directory: &Path) -> Result<Option<PathBuf>> {
    if mpi == Mpi::OpenMpi {
        return Ok(None);
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no parent")?;
    let source = tests
        .with_file_name("slurm")
        .join("mpich-finalize")
        .join("mpich_finalize.c");
    let library = directory.join("libmana_mpich_finalize.so");
    let mut command = Command::new("gcc");
    command
        .args(["-shared", "-fPIC", "-O2", "-Wall"])
        .arg(source)
        .arg("-o")
        .arg(&library)
        .arg("-ldl");
    Job::start(command, directory)?
        .wait(Duration::from_secs(60))?
        .expect(0)?;
    Ok(Some(library))
}

/// A configuration in `directory` whose local store is the node's own; its path.
fn configure(mpi: Mpi, directory: &Path) -> Result<PathBuf> {
    let global = directory.join("global");
    std::fs::create_dir_all(&global).context("creating the global store")?;
    let configuration = directory.join("mana.conf");
    let preload = cure(mpi, directory)?.map_or(String::new(), |library| {
        format!("lower_preload={}\n", library.display())
    });
    let text = format!(
        "{preload}global_ckpt_dir={}\nlocal_ckpt_dir=/local\nlocal_ckpt_interval=2\npartner_ckpt_interval=4\nglobal_ckpt_interval=0\ngroup_size=4\n",
        global.display()
    );
    std::fs::write(&configuration, text).context("writing mana.conf")?;
    Ok(configuration)
}

/// The result of the program on `ranks` ranks.
fn native_result(
    context: &Context,
    program: &Program,
    mpi: Mpi,
    ranks: u32,
    directory: &Path,
) -> Result<String> {
    let executable = context.build(program, mpi)?;
    context.native(&format!("{} on {ranks}", program.name), || {
        let mut command = mpi.launcher(ranks, false);
        command
            .args(program.line(&executable, program.fast))
            .current_dir(directory);
        Job::start(command, directory)?
            .wait(LIMIT)?
            .expect(0)?
            .result()
    })
}

fn native(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let program = program(mpi, Event::None)?;
    if let Some(why) = program.missing(mpi) {
        return skipped(why);
    }
    let mut place = context.directory("cluster-native")?;
    let expected = native_result(context, program, mpi, NODES, place.path())?;
    let executable = context.build(program, mpi)?;
    let cluster = match Cluster::up()? {
        Ok(cluster) => cluster,
        Err(why) => return skipped(why),
    };
    let preload = cure(mpi, place.path())?.map(|path| format!("LD_PRELOAD={}", path.display()));
    let line = program.line(&executable, program.fast);
    let mut words = vec![
        "timeout",
        "100",
        "srun",
        interface(mpi),
        "-K1",
        "-N4",
        "-n4",
        "env",
    ];
    words.extend(preload.as_deref());
    words.extend(line.iter().map(String::as_str));
    let ended = cluster.run(&words, LIMIT)?;
    let found = ended.expect(0)?.result()?;
    ensure!(found == expected, "result {found}, {expected} under mpirun");
    place.done();
    Ok(Verdict::Passed(String::new()))
}

fn product(context: &Context, mpi: Mpi, event: Event) -> Result<Verdict> {
    let program = program(mpi, event)?;
    if let Some(why) = program.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("cluster")?;
    let expected = native_result(context, program, mpi, NODES, place.path())?;
    let executable = context.build(program, mpi)?;
    let cluster = match Cluster::up()? {
        Ok(cluster) => cluster,
        Err(why) => return skipped(why),
    };
    let configuration = configure(mpi, place.path())?;
    let template = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no parent")?
        .with_file_name("slurm")
        .join("requeue.sbatch");
    let output = place.path().join("output");
    let mut line = program.line(&executable, slow(program));
    if program.name == "dense" {
        let files = place.path().join("written");
        line.extend(["--files".to_owned(), files.to_string_lossy().into_owned()]);
    }
    let launch = product.command("mana_launch");
    let slow = line.join(" ");
    let setting = format!(
        "ALL,MANA_LAUNCH={},MANA_CONF={},SLURM_MPI_TYPE={},MANA_PROGRAM={slow}",
        launch.display(),
        configuration.display(),
        interface(mpi).trim_start_matches("--mpi=")
    );
    let nodes = if event == Event::PowerLoss {
        "3-4"
    } else {
        "4"
    };
    let submitted = cluster.run(
        &[
            "sbatch",
            "--parsable",
            "-n4",
            "-N",
            nodes,
            "-o",
            &output.to_string_lossy(),
            "--export",
            &setting,
            &template.to_string_lossy(),
        ],
        Duration::from_secs(60),
    )?;
    let job = submitted.expect(0)?.stdout.trim().to_owned();

    let deadline = Instant::now() + LIMIT;
    let read = || std::fs::read_to_string(&output).unwrap_or_default();
    let mut disturbed = event == Event::None;
    loop {
        let text = read();
        // Committed is not yet copied: a node lost between the two takes that checkpoint with it.
        if !disturbed && text.contains("complete on level partner") {
            disturbed = true;
            match event {
                Event::Requeue => cluster
                    .run(&["scontrol", "requeue", &job], Duration::from_secs(30))?
                    .expect(0)?,
                _ => cluster
                    .call(&["kill-node", "n2"], Duration::from_secs(30))?
                    .expect(0)?,
            };
        }
        let state = cluster.run(
            &["squeue", "-h", "-j", &job, "-o", "%T"],
            Duration::from_secs(30),
        )?;
        if state.stdout.trim().is_empty() && (disturbed || text.contains("RESULT")) {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "the job did not end: {}\n{text}",
            state.stdout.trim()
        );
        std::thread::sleep(Duration::from_millis(300));
    }
    let text = read();
    let results: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("RESULT "))
        .collect();
    ensure!(
        results == [expected.as_str()],
        "results {results:?}, {expected} natively\n{text}"
    );
    let facts = check_resumed(event, &text)?;
    place.done();
    Ok(Verdict::Passed(facts))
}

/// That the job began once, resumed once, by itself, and from where it had to. Returns the line that
/// says from where.
fn check_resumed(event: Event, text: &str) -> Result<String> {
    let all = |word: &str| {
        let found = text.lines().filter(|line| line.contains(word));
        found.collect::<Vec<_>>()
    };
    let resumed = all("resumed generation ");
    let expected = usize::from(event != Event::None);
    ensure!(
        resumed.len() == expected,
        "resumed {} times, {expected} expected\n{text}",
        resumed.len()
    );
    let starts = all("are under control");
    ensure!(
        starts.len() == expected + 1,
        "{} starts, {} expected\n{text}",
        starts.len(),
        expected + 1
    );
    if event == Event::PowerLoss {
        ensure!(
            resumed[0].contains("partner copy"),
            "no image came from a partner's copy\n{text}"
        );
        ensure!(
            starts[1].contains("on 3 nodes"),
            "not on the nodes left\n{text}"
        );
    }
    let fact = resumed.first().and_then(|line| line.split_once("] "));
    Ok(fact.map_or(String::new(), |(_, fact)| fact.to_owned()))
}
