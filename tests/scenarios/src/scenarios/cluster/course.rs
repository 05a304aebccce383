//! The course of a job that something happens to: watched from outside, by what appears in its output.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{ensure, Context as _, Result};

use super::bed::{count, interface, native_of, ranks, results, BatchJob, Site};
use super::failures::{happen, Event};
use super::LIMIT;
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;
use crate::programs::DENSE;
use crate::scenarios::lammps;

const SHORT: Duration = Duration::from_secs(60);
/// Two minutes on four ranks, until the job is told to hurry.
const ROUNDS: [&str; 2] = ["--rounds", "240"];
const PAUSE: [&str; 2] = ["--pause", "1000"];
const STEPS: &str = "1000";
/// Before each reduction of LAMMPS, of which there are some dozens; in milliseconds.
const SLOW: &str = "1500";
/// For stale ranks to see that the job has been started elsewhere: they look every five seconds.
const FENCED: Duration = Duration::from_secs(60);

/// What the job computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Messages and collectives, files, inter-communicators; under MPICH windows too. (Debian's Open MPI has no windows
    /// between these nodes: its only transport there, TCP, needs two sides for each transfer.)
    Dense,
    /// LAMMPS.
    Melt,
}

/// A job to be submitted, and what must come out of it.
struct Task {
    line: String,
    settings: Vec<(String, String)>,
    expected: String,
    /// The log of a program that prints no result.
    log: Option<PathBuf>,
}

impl Task {
    fn dense(context: &Context, site: &Site, ranks: u32) -> Result<Self> {
        let mixed = match site.mpi {
            Mpi::OpenMpi => "6",
            _ => "7",
        };
        let files = site.place.path().join("written").display().to_string();
        let hurry = site.next_hurry().display().to_string();
        let words = [&ROUNDS[..], &["--mixed", mixed]].concat();
        let native = [&words[..], &["--pause", "0"]].concat();
        let slow = [&words[..], &PAUSE, &["--files", &files, "--until", &hurry]].concat();
        // With one, two and one ranks on three nodes MPICH 4.0.2 under srun reduces wrongly, natively as well, unless it
        // is told to take each rank for a node of its own.
        let settings = match site.mpi {
            Mpi::OpenMpi => Vec::new(),
            _ => vec![("MPIR_CVAR_NOLOCAL".to_owned(), "1".to_owned())],
        };
        Ok(Self {
            line: site.line(&slow),
            settings,
            expected: native_of(&DENSE, context, site.mpi, ranks, &native, site.place.path())?,
            log: None,
        })
    }

    fn melt(
        context: &Context,
        site: &Site,
        ranks: u32,
    ) -> Result<std::result::Result<Self, String>> {
        let log = site.place.path().join("log.lammps");
        let line = match lammps::command_line(STEPS, &log) {
            Ok(line) => line.join(" "),
            Err(why) => return Ok(Err(why)),
        };
        let slow = slow_reductions(site)?.display().to_string();
        let hurry = site.next_hurry().display().to_string();
        let settings = [
            // 50 MiB of each rank.
            ("MANA_LOCAL_CKPT_INTERVAL", "5"),
            ("MANA_PARTNER_CKPT_INTERVAL", "10"),
            ("LD_PRELOAD", slow.as_str()),
            ("MANA_SLOW_MS", SLOW),
            ("MANA_SLOW_UNTIL", &hurry),
        ];
        Ok(Ok(Self {
            line,
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            expected: lammps::native(context, STEPS, ranks)?,
            log: Some(log),
        }))
    }

    /// The answer is that of the native run.
    fn compare(&self, text: &str) -> Result<()> {
        match &self.log {
            None => ensure!(
                results(text) == [self.expected.as_str()],
                "results {:?}, {} natively\n{text}",
                results(text),
                self.expected
            ),
            Some(log) => ensure!(
                lammps::thermo(log)? == self.expected,
                "thermo output differs from the native one, see {}\n{text}",
                log.display()
            ),
        }
        Ok(())
    }
}

/// The library that lets time pass before LAMMPS reduces, so that events find it at work.
fn slow_reductions(site: &Site) -> Result<PathBuf> {
    let library = site.place.path().join("slow_reductions.so");
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("programs/slow_reductions.c");
    let compiler = site.mpi.tool("mpicc").context("no mpicc")?;
    let object = site.place.path().join("slow_reductions.o");
    let mut command = std::process::Command::new(compiler);
    command.args(["-O2", "-Wall", "-fPIC", "-c"]);
    command.arg(source).arg("-o").arg(&object);
    Job::start(command, site.place.path())?
        .wait(SHORT)?
        .expect(0)?;
    // It is preloaded into the shell and srun too, which need no MPI.
    let mut command = std::process::Command::new("cc");
    command.arg("-shared").arg(object).arg("-o").arg(&library);
    Job::start(command, site.place.path())?
        .wait(SHORT)?
        .expect(0)?;
    Ok(library)
}

/// When a line was first seen.
pub struct Timeline<'a> {
    job: &'a BatchJob<'a>,
    lines: Vec<(Instant, String)>,
}

impl<'a> Timeline<'a> {
    pub fn of(job: &'a BatchJob<'a>) -> Self {
        Self {
            job,
            lines: Vec::new(),
        }
    }

    fn look(&mut self) {
        let text = self.job.text();
        let now = Instant::now();
        // The last line may be half there.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let known = self.lines.len();
        let new = whole.lines().skip(known);
        self.lines.extend(new.map(|line| (now, line.to_owned())));
    }

    fn with<'b>(&'b self, words: &'b str) -> impl Iterator<Item = &'b (Instant, String)> + 'b {
        self.lines
            .iter()
            .filter(move |(_, line)| line.contains(words))
    }

    /// Waits for a line's nth appearance.
    pub fn until(&mut self, words: &str, times: usize) -> Result<Instant> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.look();
            if let Some((time, _)) = self.with(words).nth(times - 1) {
                return Ok(*time);
            }
            ensure!(
                Instant::now() < deadline,
                "{words:?} did not come {times} times ({})\n{}",
                self.job.state()?,
                self.job.text()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub fn run(context: &Context, mpi: Mpi, event: Event, work: Work) -> Result<Verdict> {
    let mut site = match Site::with(context, mpi, &format!("cluster-{}", event.name()), &DENSE)? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let task = match work {
        Work::Dense => Task::dense(context, &site, event.ranks())?,
        Work::Melt => match Task::melt(context, &site, event.ranks())? {
            Ok(task) => task,
            Err(why) => return skipped(why),
        },
    };
    let settings: Vec<(&str, &str)> = event
        .settings()
        .iter()
        .copied()
        .chain(task.settings.iter().map(|(n, v)| (n.as_str(), v.as_str())))
        .collect();
    let mut jobs =
        site.submit_line(event.template(), &event.options(), &task.line, &settings, 0)?;
    let job = jobs.pop().context("no job")?;
    let mut timeline = Timeline::of(&job);
    // Not at the best of moments: another checkpoint after the copies, which the loss of a node takes with it.
    timeline.until("complete on level partner", 1)?;
    let known = timeline.with(" committed: ").count();
    timeline.until(" committed: ", known + 1)?;
    let happened = happen(&site, &job, event, &mut timeline)?;
    let facts = match event {
        Event::Cancel => by_hand(&site, &job, &task)?,
        Event::BriefCut => goes_on(&mut timeline, &job, &task)?,
        _ => restarted(&site, &job, &task, event, &mut timeline, happened)?,
    };
    site.place.done();
    Ok(Verdict::Passed(facts))
}

/// It was started again, by itself, and ended with the right answer.
fn restarted(
    site: &Site,
    job: &BatchJob,
    task: &Task,
    event: Event,
    timeline: &mut Timeline,
    happened: Instant,
) -> Result<String> {
    let again = timeline.until("are under control", 2)?;
    let (_, start) = timeline.with("are under control").nth(1).context("gone")?;
    let nodes = start
        .split_once(" on ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .context("no number of nodes")?;
    let mut facts = format!(
        "computes again after {:.1} s on {nodes} nodes, {:.1} s of work lost",
        (again - happened).as_secs_f64(),
        lost(site, timeline, happened)?
    );
    if let Some(node) = event.stale() {
        facts += &fenced(site, node, happened)?;
    }
    job.hurry()?;
    if event == Event::LongCut {
        let words = ["revive-node", "n2"];
        site.cluster.call(&words, SHORT)?.expect(0)?;
    }
    let text = job.ended()?;
    task.compare(&text)?;
    let (starts, resumed) = (
        count(&text, "are under control"),
        count(&text, "resumed generation "),
    );
    // On a busy machine what is left may take more than one slice.
    let slices = event == Event::TimeLimit && resumed >= 1 && starts == resumed + 1;
    ensure!(
        slices || (starts, resumed) == (2, 1),
        "{starts} starts, resumed {resumed} times\n{text}"
    );
    if event.is_announced() {
        ensure!(
            count(&text, ": a last checkpoint (") == resumed,
            "not one last checkpoint for each resume\n{text}"
        );
    }
    Ok(facts)
}

/// The ranks that Slurm cannot end any more have ended themselves.
fn fenced(site: &Site, node: &str, happened: Instant) -> Result<String> {
    let deadline = Instant::now() + FENCED;
    while ranks(site, node)? > 0 {
        ensure!(
            Instant::now() < deadline,
            "stale ranks still run on {node} after {} s",
            FENCED.as_secs()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let seconds = happened.elapsed().as_secs_f64();
    Ok(format!(", the stale ranks gone after {seconds:.1} s"))
}

/// Nothing was lost, and it is still protected.
fn goes_on(timeline: &mut Timeline, job: &BatchJob, task: &Task) -> Result<String> {
    timeline.look();
    let known = timeline.with("complete on level partner").count();
    timeline.until("complete on level partner", known + 2)?;
    job.hurry()?;
    let text = job.ended()?;
    task.compare(&text)?;
    let found = count(&text, "resumed generation ");
    ensure!(found == 0, "resumed {found} times\n{text}");
    Ok("goes on, nothing lost".to_owned())
}

/// Seconds of computing between the checkpoint that was resumed and the event.
fn lost(site: &Site, timeline: &Timeline, happened: Instant) -> Result<f64> {
    let (_, line) = timeline
        .with("resumed generation ")
        .next()
        .context("nothing was resumed")?;
    let resumed = line
        .split_once("resumed generation ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|generation| generation.split_once('.'))
        .context("no generation")?;
    let (incarnation, number): (u64, u64) = (resumed.0.parse()?, resumed.1.parse()?);
    // The job's own records: of a node that Slurm has lost sight of, no more lines come.
    let mut committed = None;
    for entry in std::fs::read_dir(site.place.path().join("global"))? {
        let text = std::fs::read_to_string(entry?.path().join("events.jsonl")).unwrap_or_default();
        for line in text.lines() {
            let event: serde_json::Value = serde_json::from_str(line)?;
            let generation = &event["generation"];
            let is_it = event["event"] == "committed"
                && generation["incarnation"] == incarnation
                && generation["number"] == number;
            committed = committed.or(event["time"].as_f64().filter(|_| is_it));
        }
    }
    let committed =
        committed.with_context(|| format!("{incarnation}.{number} is not in the events"))?;
    let happened = SystemTime::now() - happened.elapsed();
    let happened = happened.duration_since(UNIX_EPOCH)?.as_secs_f64();
    Ok((happened - committed).max(0.0))
}

/// Cancelled: nothing goes on by itself, and everything does by hand.
fn by_hand(site: &Site, job: &BatchJob, task: &Task) -> Result<String> {
    let text = job.ended()?;
    ensure!(results(&text).is_empty(), "it went on\n{text}");
    let identity = text
        .split_once("mana[job ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .context("no identity")?;
    job.hurry()?;
    let directory = site.launch.parent().context("no directory")?;
    let restart = directory.join("mana_restart").display().to_string();
    let configuration = site.configuration.display().to_string();
    let mut words = vec!["srun", interface(site.mpi), "-K1", "-n4", "-N4", &restart];
    words.extend(["--config", &configuration, "--id", identity]);
    let ended = site.cluster.run(&words, LIMIT)?;
    task.compare(&ended.expect(0)?.stdout)?;
    Ok("ended; resumed by hand".to_owned())
}
