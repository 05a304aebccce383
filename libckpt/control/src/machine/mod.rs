//! The coordinator without any I/O: messages and time go in, messages and log lines come out.
//!
//! [`Core`] is what the server thread drives with real sockets and the tests with thousands of
//! simulated ranks. It never waits, never looks at a clock and never trusts an index: every method
//! takes `now` (a monotonic clock that starts at zero) and leaves its orders in
//! [`Core::take_actions`]. [`Core::wake`] says when [`Core::tick`] has to be called at the latest.
//!
//! One checkpoint is taken at a time (`taking.rs`, `gate.rs`); committed ones reach their higher
//! levels in the background (`levels.rs`). Ranks end and get lost in `ending.rs`; a last checkpoint
//! before an announced end is taken in `last.rs`.

mod burden;
mod ending;
mod gate;
mod last;
mod levels;
mod limit;
mod ranks;
mod report;
mod stall;
mod starting;
mod taking;

use std::collections::VecDeque;
use std::time::Duration;

use crate::protocol::{bounded, bounded_places, FromRank, FromTool, Registration, ToRank, ToTool};
use crate::scheduler::Scheduler;
use crate::{
    Event, GenerationId, GenerationStatus, Level, Outcome, Request, Settings, Stall, Started,
};

pub use stall::ranges;

use burden::Burden;
use last::{Costs, Last};
use levels::LevelJob;
use limit::TimeLimit;
use ranks::{Life, Ranks};
use starting::Starting;
use taking::Taking;

/// Whom a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// Every connected rank.
    All,
    /// The lowest rank of each node.
    Leaders,
    /// All but those.
    Others,
    /// One rank.
    Rank(u32),
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Send {
        to: To,
        message: ToRank,
    },
    Answer {
        tool: u64,
        message: ToTool,
    },
    Log {
        warning: bool,
        text: String,
    },
    /// To be kept for the report.
    Event {
        job: String,
        incarnation: u32,
        event: Event,
    },
    /// A tool wants a stand-alone coordinator to stop.
    Quit,
}

/// A checkpoint wanted by hand or by a signal.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    level: Level,
    kill: bool,
    /// The tool that waits for the commit.
    tool: Option<u64>,
    /// It is the last one before an announced end.
    last: bool,
}

/// Counters and figures of this incarnation.
#[derive(Clone, Debug, Default)]
struct Figures {
    due: u64,
    covered: u64,
    committed: u64,
    abandoned: u64,
    last: Option<GenerationStatus>,
    last_failure: Option<String>,
    /// Where the ranks were when the last one was given up for lack of time.
    last_stall: Option<Stall>,
    /// The last ones committed.
    recent: VecDeque<GenerationStatus>,
    /// Per level: last complete generation.
    complete: [Option<Complete>; 4],
}

/// A generation that has reached a level.
#[derive(Clone, Copy, Debug)]
struct Complete {
    generation: GenerationId,
    at: Duration,
    /// How old it was then.
    age: Duration,
    bytes: u64,
    /// What it took; `None`: an earlier start did it.
    seconds: Option<f64>,
}

/// How many committed generations a status shows.
const RECENT: usize = 32;

/// The coordinator's state.
pub(crate) struct Core {
    job: Option<String>,
    /// A stand-alone coordinator that was told its job serves no other.
    only_job: Option<String>,
    incarnation: Option<u32>,
    /// Settings given to the coordinator itself.
    own_settings: Option<Settings>,
    settings: Settings,
    stand_alone: bool,
    ranks: Ranks,
    scheduler: Scheduler,
    next_number: u64,
    taking: Option<Taking>,
    jobs: Vec<LevelJob>,
    wanted: Vec<Wanted>,
    /// Why no checkpoint can begin any more.
    closed: Option<String>,
    /// That is only because ranks are lost.
    closed_by_loss: bool,
    killed: bool,
    /// What the ranks were told then.
    end_order: Option<ToRank>,
    /// When to end the ranks that are left after a loss.
    end_after_loss: Option<Duration>,
    /// When the last [`Core::tick`] was.
    ticked: Duration,
    /// While ranks are missing at the start: when the first came, and when to say something next.
    starting: Option<Starting>,
    /// The last checkpoint before an announced end.
    last: Option<Last>,
    /// Signals that announce an end, and the ranks that hold them back.
    noticed: Vec<(u32, i32)>,
    /// The batch system's time limit.
    limit: TimeLimit,
    /// Rank 0 can ask the batch system how much time is left.
    asks: bool,
    costs: Costs,
    burden: Burden,
    outcome: Option<Outcome>,
    /// Rank 0 is to record a normal end, and has time until then.
    end_recorded_by: Option<Duration>,
    /// It has been told, on the connection it has now.
    end_asked: bool,
    /// The end is in the event log.
    end_told: bool,
    next_ping: Duration,
    figures: Figures,
    actions: Vec<Action>,
}

/// How often idle ranks are asked what they are doing.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Between two ticks: more is a time in which nothing ran here.
const STOOD_STILL: Duration = Duration::from_secs(15);

impl Core {
    /// A coordinator of `job` and `incarnation`; without the latter (stand-alone) it serves one start
    /// after the other, of `job` if that is given, else of whatever job comes.
    pub fn new(job: Option<String>, incarnation: Option<u32>, settings: Option<Settings>) -> Self {
        Self {
            stand_alone: incarnation.is_none(),
            only_job: incarnation.is_none().then(|| job.clone()).flatten(),
            job,
            incarnation,
            settings: settings.clone().unwrap_or_default(),
            own_settings: settings,
            ranks: Ranks::default(),
            scheduler: Scheduler::default(),
            next_number: 1,
            taking: None,
            jobs: Vec::new(),
            wanted: Vec::new(),
            closed: None,
            closed_by_loss: false,
            killed: false,
            end_order: None,
            end_after_loss: None,
            ticked: Duration::ZERO,
            starting: None,
            last: None,
            noticed: Vec::new(),
            limit: TimeLimit::default(),
            asks: false,
            costs: Costs::default(),
            burden: Burden::default(),
            outcome: None,
            end_recorded_by: None,
            end_asked: false,
            end_told: false,
            next_ping: PING_EVERY,
            figures: Figures::default(),
            actions: Vec::new(),
        }
    }

    /// Whether several starts may be served, one after the other.
    pub fn is_stand_alone(&self) -> bool {
        self.stand_alone
    }

    /// Whether a message to `to` is for `rank`.
    pub fn is_addressed(&self, to: To, rank: u32) -> bool {
        let leader = || self.ranks.get(rank).is_some_and(|found| found.leader);
        match to {
            To::All => true,
            To::Leaders => leader(),
            To::Others => !leader(),
            To::Rank(one) => one == rank,
        }
    }

    /// Whether somebody who claims to belong to (`job`, `incarnation`) may talk to us. Tools of a
    /// stand-alone coordinator may not know either: they name neither.
    pub fn admits(&self, job: &str, incarnation: u32, is_tool: bool) -> Result<(), String> {
        if is_tool && self.stand_alone && job.is_empty() {
            return Ok(());
        }
        match (&self.job, self.incarnation) {
            (Some(ours), _) if ours != job => Err(format!(
                "it coordinates job {ours}, not {job}; a coordinator serves one job at a time, start another mana_coordinator"
            )),
            (_, Some(ours)) if ours != incarnation => Err(format!(
                "it coordinates start {ours} of the job, not {incarnation}"
            )),
            _ => Ok(()),
        }
    }

    /// A rank has proven its membership and introduces itself.
    pub fn register(
        &mut self,
        now: Duration,
        rank: u32,
        job: &str,
        incarnation: u32,
        found: &Registration,
    ) -> Result<(), String> {
        self.admits(job, incarnation, false)?;
        if found.rejoin.is_some() && self.ranks.is_known(rank) {
            return self.take_back(now, rank, found);
        }
        let complete = self.ranks.register(rank, found)?;
        if let Some(new) = self.ranks.get_mut(rank) {
            new.heard = now;
        }
        self.job.get_or_insert_with(|| job.to_owned());
        self.incarnation.get_or_insert(incarnation);
        self.next_number = self.next_number.max(found.next_number);
        if rank == 0 {
            self.note_limit(now, found.settings.time_left);
            if let Some(resumed) = &found.resumed {
                self.inherit(now, resumed);
            }
            self.asks = found.settings.asks;
            if self.own_settings.is_none() {
                self.settings = found.settings.clone();
            }
        }
        self.send(To::Rank(rank), ToRank::Welcome);
        if complete {
            self.starting = None;
            self.begin(now);
        } else if self.starting.is_none() {
            self.starting = Some(Starting::new(now, &self.settings));
        }
        Ok(())
    }

    /// All ranks are there.
    fn begin(&mut self, now: Duration) {
        self.scheduler = Scheduler::new(self.settings.intervals, now);
        self.burden.begin(now);
        let facts = self.facts();
        self.send(To::Others, ToRank::Started(facts));
        self.send(
            To::Leaders,
            ToRank::Started(Started {
                leader: true,
                ..facts
            }),
        );
        self.event(Event::Started {
            ranks: facts.ranks,
            nodes: facts.nodes,
            program: self
                .ranks
                .get(0)
                .map(|r| r.program.clone())
                .unwrap_or_default(),
            intervals: Level::ALL.map(|level| {
                self.scheduler
                    .interval(level)
                    .map(|every| every.as_secs_f64())
            }),
            enabled: self.settings.enabled,
        });
        self.debug_line(format!(
            "ranks registered: {}, on nodes: {}",
            facts.ranks, facts.nodes
        ));
        self.start_next(now);
    }

    /// What a rank learns when all are there.
    fn facts(&self) -> Started {
        Started {
            ranks: u32::try_from(self.ranks.len()).unwrap_or(u32::MAX),
            nodes: self.ranks.nodes(),
            leader: false,
        }
    }

    fn debug_line(&self, text: String) {
        log::debug!("{text}");
    }

    /// A message of a registered rank.
    pub fn rank(&mut self, now: Duration, rank: u32, message: FromRank) {
        if let Some(found) = self.ranks.get_mut(rank) {
            found.heard = now;
        }
        match message {
            // Only the server may register, with what the handshake proved.
            FromRank::Register(_) => {}
            FromRank::Seqs { generation, result } => self.on_seqs(now, rank, generation, result),
            FromRank::Gate {
                generation,
                epoch,
                poll,
            } => self.on_gate(now, rank, generation, epoch, &poll),
            FromRank::Stopped { generation, result } => {
                self.on_stopped(now, rank, generation, result)
            }
            FromRank::Drained { generation, result } => {
                self.on_drained(now, rank, generation, result)
            }
            FromRank::Captured { generation, result } => {
                self.on_captured(now, rank, generation, result)
            }
            FromRank::Resumed { generation, pause } => self.on_resumed(generation, pause),
            FromRank::Durable { generation, result } => {
                self.on_durable(now, rank, generation, result)
            }
            FromRank::Committed { generation, result } => {
                self.on_committed(now, rank, generation, result)
            }
            FromRank::LevelDone {
                generation,
                level,
                result,
            } => {
                self.on_level_done(now, rank, generation, level, result);
            }
            FromRank::LevelRecorded {
                generation,
                level,
                result,
            } => {
                self.on_level_recorded(now, rank, generation, level, result);
            }
            FromRank::Finalizing => self.on_finalizing(now, rank),
            FromRank::Exit { code } => self.on_exit(now, rank, code),
            FromRank::EndRecorded { result } => self.on_end_recorded(now, rank, result),
            FromRank::Request(request) => {
                if let Err(reason) = self.want(now, request, None) {
                    let name = self.ranks.name(rank);
                    self.warn(format!(
                        "checkpoint asked for by {name} not taken: {reason}"
                    ));
                }
            }
            FromRank::Signal { number } => self.on_signal(now, rank, number),
            // Only the rank that was asked.
            FromRank::TimeLeft { left } if rank == 0 => self.on_time_left(now, left),
            FromRank::Limit { left } if rank == 0 => self.on_limit(now, left),
            FromRank::TimeLeft { .. } | FromRank::Limit { .. } => {}
            FromRank::Pong { doing, places } => {
                if let Some(found) = self.ranks.get_mut(rank) {
                    found.doing = bounded(&doing);
                    found.places = bounded_places(&places);
                    found.places_at = now;
                }
            }
        }
    }

    /// A message of a tool.
    pub fn tool(&mut self, now: Duration, tool: u64, message: FromTool) {
        let answer = match message {
            FromTool::Status => ToTool::Status(Box::new(self.status(now))),
            FromTool::Checkpoint { request, wait } => match self.want(now, request, wait.then_some(tool)) {
                Ok(()) if wait => return,
                Ok(()) => ToTool::Done,
                Err(reason) => ToTool::Denied { reason },
            },
            FromTool::Kill { reason } => {
                self.end_job(now, &bounded(&reason));
                ToTool::Done
            }
            FromTool::SetInterval { level, interval } => match self.set_interval(now, level, interval) {
                Ok(()) => ToTool::Done,
                Err(reason) => ToTool::Denied { reason },
            },
            FromTool::Quit if self.stand_alone => {
                self.actions.push(Action::Quit);
                ToTool::Done
            }
            FromTool::Quit => ToTool::Denied {
                reason: "this coordinator is part of the job and ends with it; use --kill to end the job".into(),
            },
        };
        self.actions.push(Action::Answer {
            tool,
            message: answer,
        });
    }

    /// Changes one level's interval.
    pub fn set_interval(
        &mut self,
        now: Duration,
        level: Level,
        interval: Option<Duration>,
    ) -> Result<(), String> {
        self.check_level(level)?;
        self.settings.intervals[level.index()] = interval;
        if let Some(own) = &mut self.own_settings {
            own.intervals[level.index()] = interval;
        }
        if self.ranks.complete() {
            self.scheduler.set_interval(level, interval, now);
            self.burden.forget();
        }
        self.start_next(now);
        Ok(())
    }

    /// Takes note of a wanted checkpoint and begins it if possible.
    pub fn want(
        &mut self,
        now: Duration,
        request: Request,
        tool: Option<u64>,
    ) -> Result<(), String> {
        if let Some(reason) = &self.closed {
            return Err(reason.clone());
        }
        let level = match request.level {
            Some(level) => {
                self.check_level(level)?;
                level
            }
            None => Level::ALL
                .into_iter()
                .rev()
                .find(|level| self.settings.is_enabled(*level))
                .ok_or("no level is enabled")?,
        };
        if !self.ranks.complete() {
            return Err(format!(
                "the job is starting: {} of {} ranks are there (a checkpoint is possible once every rank has passed MPI_Init)",
                self.ranks.registered(),
                self.ranks.len()
            ));
        }
        self.wanted.push(Wanted {
            level,
            kill: request.kill,
            tool,
            last: false,
        });
        self.start_next(now);
        Ok(())
    }

    fn check_level(&self, level: Level) -> Result<(), String> {
        if self.settings.is_enabled(level) {
            return Ok(());
        }
        let enabled: Vec<&str> = Level::ALL
            .into_iter()
            .filter(|l| self.settings.is_enabled(*l))
            .map(Level::name)
            .collect();
        Err(format!(
            "level {level} is not enabled in this job (enabled: {})",
            enabled.join(", ")
        ))
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        self.forgive(now);
        self.tick_starting(now);
        self.tick_taking(now);
        self.tick_levels(now);
        self.tick_ending(now);
        self.tick_last(now);
        self.start_next(now);
        if now >= self.next_ping {
            self.next_ping = now.saturating_add(PING_EVERY);
            // Also a sign of life, for those who wait.
            if self.ranks.registered() > 0 {
                self.send(To::All, ToRank::Ping);
            }
        }
    }

    /// A machine that stood still (a suspended job, a paused virtual machine, one without memory) has not waited for those
    /// it has lost: they get that time on top.
    fn forgive(&mut self, now: Duration) {
        let gap = now.saturating_sub(std::mem::replace(&mut self.ticked, now));
        if gap > STOOD_STILL {
            let lost = gap - PING_EVERY;
            for time in [&mut self.end_after_loss, &mut self.end_recorded_by] {
                *time = time.map(|time| time.saturating_add(lost));
            }
        }
    }

    /// When [`Core::tick`] is needed next.
    pub fn wake(&self) -> Duration {
        let mut wake = self.next_ping;
        let mut consider = |time: Option<Duration>| wake = time.map_or(wake, |time| wake.min(time));
        consider(self.wake_starting());
        consider(self.wake_taking());
        consider(self.wake_levels());
        consider(self.end_after_loss);
        consider(self.end_recorded_by);
        consider(self.wake_last());
        if self.taking.is_none() && self.closed.is_none() && self.ranks.complete() {
            consider(self.scheduler.next_due(|level| self.is_available(level)));
        }
        wake
    }

    /// The orders since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Begins the next checkpoint, if one is due or wanted and nothing stands against it.
    fn start_next(&mut self, now: Duration) {
        if self.taking.is_some() || self.closed.is_some() || !self.ranks.complete() {
            return;
        }
        self.choose_last_level(now);
        let due = self.scheduler.due(now, |level| self.is_available(level));
        let by_hand = self
            .wanted
            .iter()
            .map(|w| w.level)
            .filter(|level| self.is_available(*level))
            .max();
        if let Some(level) = due.max(by_hand) {
            self.start(now, level, due.is_some());
        }
    }

    /// Whether a checkpoint of this level can begin: not while the level still works on another.
    fn is_available(&self, level: Level) -> bool {
        self.settings.is_enabled(level) && !self.jobs.iter().any(|job| job.occupies(level))
    }

    fn send(&mut self, to: To, message: ToRank) {
        self.actions.push(Action::Send { to, message });
    }

    fn event(&mut self, event: Event) {
        let job = self.job.clone().unwrap_or_default();
        self.actions.push(Action::Event {
            job,
            incarnation: self.incarnation.unwrap_or(0),
            event,
        });
    }

    fn info(&mut self, text: String) {
        self.actions.push(Action::Log {
            warning: false,
            text,
        });
    }

    fn warn(&mut self, text: String) {
        self.actions.push(Action::Log {
            warning: true,
            text,
        });
    }

    /// Whether a rank's answer may still come.
    fn is_there(&self, rank: u32) -> bool {
        self.ranks
            .get(rank)
            .is_some_and(|found| found.connected && found.life != Life::Lost)
    }
}

#[cfg(test)]
mod simulation;
