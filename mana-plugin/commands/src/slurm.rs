//! What Slurm's commands say about a job, and the one order it is given. Every question is bounded: a controller that
//! does not answer delays nothing for long.

use std::cell::OnceCell;
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// For an answer of the controller. Slurm's commands themselves give up after its `MessageTimeout`, 10 s unless set.
pub const LIMIT: Duration = Duration::from_secs(15);
/// The same where somebody waits.
pub const SHORTLY: Duration = Duration::from_secs(2);
/// For what a command has printed to be read, once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long an order is repeated that may only have come at a bad moment: a controller starts again, or another takes its
/// place.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(5);

/// A command that was started.
pub trait AtWork: Send {
    /// How it has ended, if it has.
    ///
    /// # Errors
    /// When it could not be executed, or waited for.
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>>;
    /// Ends it.
    fn end(&mut self);
}

impl AtWork for Child {
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        Child::try_wait(self)
    }

    fn end(&mut self) {
        let _ = self.kill();
        let _ = self.wait();
    }
}

/// What a command prints.
pub type Printed = Box<dyn Read + Send>;
/// Starts a command without input. What it prints to standard output and standard error is read.
pub type Starter = fn(Command) -> io::Result<(Box<dyn AtWork>, [Printed; 2])>;

static STARTER: OnceLock<Starter> = OnceLock::new();

/// From now on commands are started by `starter`, no more as children of this process: in a process that a program
/// shares, its waits for any child would take them.
pub fn start_by(starter: Starter) {
    STARTER.get_or_init(|| starter);
}

fn as_child(mut command: Command) -> io::Result<(Box<dyn AtWork>, [Printed; 2])> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    Ok((Box::new(child), [Box::new(output), Box::new(errors)]))
}

/// A command of Slurm's that is at work on an answer.
pub struct Question {
    program: &'static str,
    command: Box<dyn AtWork>,
    output: Reader,
    errors: Reader,
    limit: Duration,
    deadline: Instant,
}

impl Question {
    /// Starts the command.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn put(program: &'static str, arguments: &[&str]) -> Result<Self, String> {
        Self::put_for(program, arguments, LIMIT)
    }

    fn put_for(program: &'static str, arguments: &[&str], limit: Duration) -> Result<Self, String> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            // What is to be loaded into the program has no business in Slurm's.
            .env_remove("LD_PRELOAD")
            // Times in seconds.
            .env("SLURM_TIME_FORMAT", "%s");
        let start = STARTER.get().copied().unwrap_or(as_child);
        let (command, [output, errors]) =
            start(command).map_err(|e| format!("cannot run {program}: {e}"))?;
        Ok(Self {
            program,
            output: Reader::start(output),
            errors: Reader::start(errors),
            command,
            limit,
            deadline: Instant::now() + limit,
        })
    }

    /// What it printed; some fifteen seconds after it was put at the latest.
    ///
    /// # Errors
    /// When it failed, with what it said, or did not answer.
    pub fn answer(mut self) -> Result<String, String> {
        let program = self.program;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            match self.command.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < self.deadline => thread::sleep(pause),
                other => {
                    self.command.end();
                    return Err(match other {
                        Err(e) => format!("waiting for {program}: {e}"),
                        _ => format!("{program} did not answer in {} s", self.limit.as_secs()),
                    });
                }
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        if status.success() {
            return Ok(self.output.text());
        }
        let said = self.errors.text();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(match said.is_empty() {
            true => format!("{program} failed ({status})"),
            false => format!("{program} failed: {said}"),
        })
    }
}

/// Reads what a command prints. Nobody waits for it without a bound: a command of the site's own may leave a child that
/// keeps its output open.
struct Reader {
    text: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

impl Reader {
    fn start(mut source: Printed) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let (done, ended) = channel();
        let kept = Arc::clone(&text);
        thread::spawn(move || {
            // Dropped at the end: that is the message.
            let _done = done;
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = source.read(&mut piece) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&piece[..n]);
            }
        });
        Self { text, ended }
    }

    /// Everything, or what came by now. What is not text is no answer.
    fn text(&self) -> String {
        let _ = self.ended.recv_timeout(LAST_WORDS);
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(text.clone()).unwrap_or_default()
    }
}

/// Whose start is to be put back into the queue.
pub struct Requeue<'a> {
    /// What `scontrol requeue` is told, if that is known ([`task_name`]).
    pub name: Option<&'a str>,
    /// Slurm's number of the job.
    pub job: &'a str,
    /// Slurm's count of restarts, of this start.
    pub restarts: u32,
    /// How long it is tried.
    pub limit: Duration,
}

impl Requeue<'_> {
    /// Puts the job back; Slurm then ends this start of it. `say` is told once if that takes long.
    ///
    /// # Errors
    /// Why it could not be done, with the next step.
    pub fn order(&self, say: &dyn Fn(&str)) -> Result<(), String> {
        let name = OnceCell::new();
        if let Some(known) = self.name {
            name.get_or_init(|| known.to_owned());
        }
        let order = || {
            let name = match name.get() {
                Some(name) => name,
                None => {
                    let text = Queued::ask(self.job)?.answer()?;
                    let queued = Queued::read(self.job, &text)?;
                    name.get_or_init(|| queued.name(self.job))
                }
            };
            Question::put("scontrol", &["requeue", name])?.answer()
        };
        let named = || name.get().map_or(self.job, String::as_str);
        self.order_by(&order, &|| self.is_over(), &named, PAUSE, say)
    }

    /// Whether Slurm ends this start, or has started another; `None`: it does not answer. An order may arrive although its
    /// answer does not, and a second one would hit the next start.
    fn is_over(&self) -> Option<bool> {
        let text = Queued::ask(self.job).and_then(Question::answer).ok()?;
        let queued = Queued::read(self.job, &text).ok()?;
        Some(!queued.is_running() || queued.restarts.is_some_and(|n| n > self.restarts))
    }

    fn order_by<'n>(
        &self,
        order: &dyn Fn() -> Result<String, String>,
        is_over: &dyn Fn() -> Option<bool>,
        name: &dyn Fn() -> &'n str,
        pause: Duration,
        say: &dyn Fn(&str),
    ) -> Result<(), String> {
        let deadline = Instant::now() + self.limit;
        let mut said = false;
        loop {
            let Err(why) = order() else { return Ok(()) };
            if let Some(next) = next_step(&why) {
                return Err(format!("{why}; {next}"));
            }
            loop {
                match is_over() {
                    Some(true) => return Ok(()),
                    _ if Instant::now() + pause >= deadline => {
                        return Err(format!(
                        "{why}; when Slurm answers again: scontrol requeue {}, or submit it anew",
                        name()
                    ))
                    }
                    answer => {
                        if !std::mem::replace(&mut said, true) {
                            say(&format!(
                                "{why}: tried again, for {} s at most",
                                self.limit.as_secs()
                            ));
                        }
                        thread::sleep(pause);
                        if answer == Some(false) {
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// Where no other try would help: what to do. Slurm's own words decide.
fn next_step(why: &str) -> Option<&'static str> {
    const FINAL: [(&str, &str); 5] = [
        (
            "presently disabled",
            "this job may not be requeued: submit it with sbatch --requeue",
        ),
        (
            "permission denied",
            "only its owner or an operator of Slurm may requeue it",
        ),
        ("Invalid job id", "submit it anew"),
        ("already finished", "submit it anew"),
        (
            "cannot run",
            "install Slurm's commands on the compute nodes, or set PATH there",
        ),
    ];
    FINAL
        .iter()
        .find_map(|(words, next)| why.contains(words).then_some(*next))
}

/// What Slurm has of a job. (Of a preempted job with a grace time `squeue` says nothing; here its end is cut.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// `RUNNING`, `COMPLETING` and so on: one word, the state or what is being done to the job.
    pub state: String,
    /// When it ends at the latest, in seconds since 1970; `None`: it has no time limit.
    pub ends_at: Option<u64>,
    /// When it was preempted, if it has a grace time.
    pub preempted_at: Option<u64>,
    /// Where it runs.
    pub partition: String,
    /// How often it was started before.
    pub restarts: Option<u32>,
    /// The array and the number of the task it is, if it is one.
    pub task: Option<(String, u32)>,
}

impl Queued {
    /// Asks for the job with this number.
    ///
    /// # Errors
    /// Why it could not be asked.
    pub fn ask(job: &str) -> Result<Question, String> {
        Question::put("scontrol", &["show", "job", "-o", job])
    }

    /// The answer to that. There is a line for each component of a heterogeneous job, which ends with the first of them,
    /// and for each task of an array whose number is also that of one of its tasks.
    ///
    /// # Errors
    /// When the job is not among them.
    pub fn read(job: &str, text: &str) -> Result<Self, String> {
        let mut found: Option<Self> = None;
        for line in text.lines() {
            let value = |key: &str| field(line, key);
            let time = |key: &str| value(key).and_then(|text| text.parse::<u64>().ok());
            let ends_at = time("EndTime");
            match &mut found {
                _ if value("JobId") == Some(job) => {
                    found = Some(Self {
                        state: value("JobState").unwrap_or_default().to_owned(),
                        ends_at,
                        preempted_at: time("PreemptTime"),
                        partition: value("Partition").unwrap_or_default().to_owned(),
                        restarts: value("Restarts").and_then(|text| text.parse().ok()),
                        task: value("ArrayJobId")
                            .zip(value("ArrayTaskId"))
                            .and_then(|(array, task)| Some((array.to_owned(), task.parse().ok()?))),
                    });
                }
                Some(leader) if value("HetJobId") == Some(job) => {
                    leader.ends_at = leader.ends_at.into_iter().chain(ends_at).min();
                }
                _ => {}
            }
        }
        found.ok_or_else(|| format!("scontrol says {:?} of job {job}", text.trim()))
    }

    /// What `scontrol requeue` is told of it, whose number is `job`: a task's is also that of its array, or of none.
    fn name(&self, job: &str) -> String {
        let task = self.task.as_ref();
        task.map_or_else(|| job.to_owned(), |(array, task)| format!("{array}_{task}"))
    }

    /// Whether Slurm is not yet about to end it. `SIGNALING` is a running job while its signal is on the way to all nodes.
    pub fn is_running(&self) -> bool {
        let states = ["RUNNING", "SIGNALING", "RESIZING", "STOPPED"];
        states.contains(&self.state.as_str())
    }
}

/// A value in `KEY=VALUE KEY=VALUE ...`.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Whether this job is suspended: it stands still, and goes on some day. Also of a task (`8_2`) or a component (`8+1`).
pub fn is_suspended(job: &str) -> bool {
    // One that is not in the queue is not suspended, and one that cannot be asked says nothing.
    queued(job, "%T", LIMIT)
        .unwrap_or_default()
        .iter()
        .any(|state| matches!(state.as_str(), "SUSPENDED" | "STOPPED"))
}

/// State and reason of a job, in Slurm's words: `PENDING (BeginTime)`; `None`: it is not in the queue.
///
/// # Errors
/// Why it could not be asked.
pub fn state(job: &str, limit: Duration) -> Result<Option<String>, String> {
    let found = queued(job, "%T (%r)", limit)?.into_iter().next();
    Ok(found.map(|found| found.trim_end_matches(" (None)").to_owned()))
}

/// Lines about a job, if it is in the queue.
fn queued(job: &str, format: &str, limit: Duration) -> Result<Vec<String>, String> {
    let words = ["-h", "-j", job, "-o", format];
    let answer = Question::put_for("squeue", &words, limit)?.answer();
    let answer = match answer {
        // That is how squeue says that it has forgotten a job.
        Err(said) if said.contains("Invalid job id") => String::new(),
        other => other?,
    };
    let lines = answer.lines().map(|line| line.trim().to_owned());
    Ok(lines.filter(|line| !line.is_empty()).collect())
}

/// The grace time of a partition's preempted jobs, in seconds.
///
/// # Errors
/// Why it could not be asked.
pub fn grace_time(partition: &str) -> Result<u64, String> {
    let text = Question::put("scontrol", &["show", "partition", "-o", partition])?.answer()?;
    let value = field(&text, "GraceTime").and_then(|text| text.parse().ok());
    value.ok_or_else(|| format!("partition {partition} has no GraceTime"))
}

/// What `scontrol requeue` is told: the number of an array would mean all its tasks, and one of them has it. `None`: only
/// Slurm can tell. A job that was submitted by a task of an array has that task's variables in its environment, where one
/// that is a task has its own; both have their own `SLURM_JOB_ID`, which in one of an array's tasks is that of the array.
pub fn task_name(get: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let job = get("SLURM_JOB_ID")?;
    match (get("SLURM_ARRAY_JOB_ID"), get("SLURM_ARRAY_TASK_ID")) {
        (Some(array), Some(task)) if array == job => Some(format!("{array}_{task}")),
        (Some(_), Some(_)) => None,
        _ => Some(job),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Slurm 22.05 prints them.
    const ARRAY: &str = "JobId=8 ArrayJobId=8 ArrayTaskId=2 JobName=wrap JobState=RUNNING Reason=None Requeue=1 Restarts=3 \
        TimeLimit=00:03:00 StartTime=1795896367 EndTime=1795896547 PreemptEligibleTime=1795896367 PreemptTime=None \
        Partition=main NodeList=n1\n\
        JobId=9 ArrayJobId=8 ArrayTaskId=1 JobName=wrap JobState=COMPLETING Restarts=0 EndTime=1795896600 Partition=main\n";

    #[test]
    fn a_task_is_found_among_those_of_its_array() {
        let first = Queued::read("8", ARRAY).expect("there");
        assert!(first.is_running() && first.ends_at == Some(1_795_896_547));
        assert_eq!((first.restarts, first.preempted_at), (Some(3), None));
        assert_eq!(first.partition, "main");
        assert!(!Queued::read("9", ARRAY).expect("there").is_running());
        for state in ["SIGNALING", "STOPPED"] {
            let there = ARRAY.replace("RUNNING", state);
            assert!(Queued::read("8", &there).expect("there").is_running());
        }
        let missing = Queued::read("1", ARRAY).expect_err("not there");
        assert!(missing.contains("of job 1"), "{missing}");
    }

    #[test]
    fn a_heterogeneous_job_ends_with_its_first_component() {
        let line =
            |id: u32, end: &str| format!("JobId={id} HetJobId=10 JobState=RUNNING EndTime={end}\n");
        let of = |ends: [&str; 2]| {
            let text = line(10, ends[0]) + &line(11, ends[1]);
            Queued::read("10", &text).expect("there").ends_at
        };
        assert_eq!(of(["500", "400"]), Some(400));
        assert_eq!(of(["300", "400"]), Some(300));
        assert_eq!(of(["Unknown", "400"]), Some(400));
        assert_eq!(of(["Unknown", "Unknown"]), None);
    }

    #[test]
    fn a_task_is_requeued_alone() {
        let name = |pairs: &[(&str, &str)]| {
            let pairs = pairs.to_vec();
            task_name(&|key| Some(pairs.iter().find(|(k, _)| *k == key)?.1.to_owned()))
        };
        let job = ("SLURM_JOB_ID", "8");
        assert_eq!(name(&[job]).as_deref(), Some("8"));
        let array = [
            job,
            ("SLURM_ARRAY_JOB_ID", "8"),
            ("SLURM_ARRAY_TASK_ID", "2"),
        ];
        assert_eq!(name(&array).as_deref(), Some("8_2"));
        // Another task of it, or a job that this one has submitted.
        let other = [("SLURM_JOB_ID", "9"), array[1], array[2]];
        assert_eq!(name(&other), None);
        let submitted = "JobId=9 JobName=wrap JobState=RUNNING Restarts=0 Partition=main\n";
        for (text, name) in [(ARRAY, "8_1"), (submitted, "9")] {
            let queued = Queued::read("9", text).expect("there");
            assert_eq!(queued.name("9"), name);
        }
        assert_eq!(Queued::read("8", ARRAY).expect("there").name("8"), "8_2");
    }

    #[test]
    fn a_command_that_is_not_there_or_fails_is_named() {
        let failed = |program| Question::put(program, &[]).and_then(Question::answer);
        let missing = failed("mana-no-such-command").expect_err("missing");
        assert!(missing.contains("mana-no-such-command"), "{missing}");
        assert!(failed("false").expect_err("fails").contains("false"));
        assert_eq!(failed("true"), Ok(String::new()));
    }

    fn shell(script: &str, limit: Duration) -> Result<String, String> {
        Question::put_for("sh", &["-c", script], limit).and_then(Question::answer)
    }

    #[test]
    fn its_own_words_are_told() {
        let said = shell("echo 'no,' >&2; echo 'not now' >&2; exit 1", LIMIT);
        assert_eq!(said, Err("sh failed: no, not now".into()));
    }

    /// `sleep` is a child of the command, and keeps its output open.
    #[test]
    fn a_child_that_outlives_the_command_holds_nobody_up() {
        let began = Instant::now();
        assert_eq!(
            shell("echo word; sleep 30 & exit 0", LIMIT),
            Ok("word\n".into())
        );
        let silent = shell("sleep 30 & wait", Duration::from_millis(300));
        assert!(silent.expect_err("silent").contains("did not answer"));
        assert!(began.elapsed() < Duration::from_secs(25));
    }

    /// What was ordered and asked, with these answers in turn.
    fn ordered(
        orders: &[Result<(), &str>],
        over: &[Option<bool>],
        limit: Duration,
    ) -> (Result<(), String>, usize, Vec<String>) {
        use std::cell::{Cell, RefCell};
        let (orders_given, asked) = (Cell::new(0), Cell::new(0));
        let said = RefCell::new(Vec::new());
        let order = || {
            let answer = orders[orders_given.get().min(orders.len() - 1)];
            orders_given.set(orders_given.get() + 1);
            answer.map(|()| String::new()).map_err(str::to_owned)
        };
        let is_over = || {
            let answer = over[asked.get().min(over.len() - 1)];
            asked.set(asked.get() + 1);
            answer
        };
        let requeue = Requeue {
            name: Some("8_2"),
            job: "8",
            restarts: 0,
            limit,
        };
        let say = |text: &str| said.borrow_mut().push(text.to_owned());
        let pause = Duration::from_millis(1);
        let done = requeue.order_by(&order, &is_over, &|| "8_2", pause, &say);
        (done, orders_given.get(), said.take())
    }

    const BUSY: &str = "scontrol failed: Unable to contact slurm controller (connect failure)";

    #[test]
    fn an_order_that_comes_at_a_bad_moment_is_repeated() {
        let orders = [Err(BUSY), Err(BUSY), Ok(())];
        let (done, given, said) = ordered(&orders, &[Some(false)], PATIENCE);
        assert_eq!((done, given, said.len()), (Ok(()), 3, 1));
        assert!(said[0].contains("Unable to contact"), "{said:?}");
        // Not before it is known that the first has not arrived.
        let over = [None, None, Some(true)];
        let (done, given, _) = ordered(&[Err(BUSY)], &over, PATIENCE);
        assert_eq!((done, given), (Ok(()), 1));
        let (done, _, _) = ordered(&[Err(BUSY)], &[None], Duration::from_millis(20));
        let text = done.expect_err("given up");
        assert!(
            text.contains(BUSY) && text.contains("scontrol requeue 8_2"),
            "{text}"
        );
    }

    #[test]
    fn what_no_other_try_would_help_is_said_at_once() {
        let disabled = "scontrol failed: Requested operation is presently disabled for job 8";
        let (done, given, said) = ordered(&[Err(disabled)], &[Some(false)], PATIENCE);
        let text = done.expect_err("final");
        assert!(
            text.contains(disabled) && text.contains("sbatch --requeue"),
            "{text}"
        );
        assert_eq!((given, said.len()), (1, 0));
    }
}
