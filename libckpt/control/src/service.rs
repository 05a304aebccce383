//! The control thread of a rank: obeys the coordinator by calling the rank's hooks.
//!
//! Lower half. One hook runs at a time; between hooks the thread waits for messages and for the next
//! moment to poll something. It obeys only orders that fit the state this rank is in.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::agent::{AgentOptions, Finalize, Shared};
use crate::auth::exactly;
use crate::connect::one_line;
use crate::place::are_same;
use crate::protocol::{bounded, bounded_places, FromRank, Pause, ToRank};
use crate::rejoin::Alone;
use crate::wire::Wire;
use crate::{Checkpoint, ControlError, GatePoll, GenerationId, Level, Place, RankHooks};

/// Between two looks at the gates.
const GATE_POLL: Duration = Duration::from_micros(500);
/// The same once this rank has reached the safe point (a thread of it may still come to a gate).
const GATE_POLL_REACHED: Duration = Duration::from_millis(5);
/// Shortest and longest time between two looks at work in the background.
const WORK_POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// From a question to the program's threads to their answers.
const ANSWER: Duration = Duration::from_millis(2);
/// On the way to the safe point: until the first question, and between two.
const QUESTIONS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// Background work that is polled, ever more slowly.
#[derive(Clone, Copy, Debug)]
struct Watch {
    next: Instant,
    every: Duration,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self {
            next: now,
            every: WORK_POLL.0,
        }
    }

    fn put_off(&mut self, now: Instant) {
        self.next = now + self.every;
        self.every = (self.every * 2).min(WORK_POLL.1);
    }
}

/// The rank at the gate.
#[derive(Debug)]
struct AtGate {
    epoch: u32,
    /// Last report, and the epoch it was made in.
    told: Option<(u32, GatePoll)>,
    told_at: Instant,
    next: Instant,
}

#[derive(Debug)]
enum Step {
    /// Waiting for the coordinator.
    Ordered,
    Gate(AtGate),
    Writing(Watch),
    /// The manifest is written here.
    Committed,
}

/// A question to the program's threads.
#[derive(Debug, Default)]
struct Inquiry {
    /// When to ask.
    next: Option<Instant>,
    /// When to look at the answers.
    answers: Option<Instant>,
    /// The coordinator waits for them.
    owed: bool,
    /// What was told last.
    told: Vec<Place>,
}

/// The checkpoint this rank takes part in.
#[derive(Debug)]
struct Taking {
    checkpoint: Checkpoint,
    step: Step,
    /// The coordinator was told that what this rank has written is on stable storage.
    durable: bool,
    report_every: Duration,
    /// When a thread of the program was first seen waiting at a gate.
    held_since: Option<Instant>,
    stopped_at: Option<Instant>,
    drained_at: Option<Instant>,
}

/// A coordinator asks after its ranks every few seconds: one that was silent for so long is not there
/// any more, or the network in between is not.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest wait at a time.
const LISTEN: Duration = Duration::from_secs(5);

pub(crate) struct Service {
    pub(crate) options: AgentOptions,
    pub(crate) wire: Wire,
    pub(crate) hooks: Box<dyn RankHooks>,
    pub(crate) shared: Arc<Shared>,
    woken: UnixStream,
    /// How long has been listened without hearing of the coordinator.
    pub(crate) silent: Duration,
    taking: Option<Taking>,
    levels: Vec<(GenerationId, Level, Watch)>,
    inquiry: Inquiry,
}

impl Service {
    pub fn new(
        options: AgentOptions,
        wire: Wire,
        hooks: Box<dyn RankHooks>,
        shared: Arc<Shared>,
        woken: UnixStream,
    ) -> Self {
        Self {
            options,
            wire,
            hooks,
            shared,
            woken,
            silent: Duration::ZERO,
            taking: None,
            levels: Vec::new(),
            inquiry: Inquiry::default(),
        }
    }

    pub fn run(mut self) {
        loop {
            let Err(error) = self.serve() else {
                return self.shared.update(|exchange| exchange.disconnected = true);
            };
            if let Some(taking) = self.taking.take() {
                let generation = taking.checkpoint.generation;
                match taking.step {
                    Step::Committed => {}
                    // Others may have been told to commit, and have done it.
                    _ if taking.durable => self.hooks.undecided(generation),
                    _ => self.hooks.abandon(generation, "the coordinator is gone"),
                }
            }
            // Whoever is found has not been told.
            self.inquiry = Inquiry::default();
            if let Err(why) = self.rejoin(&one_line(&error)) {
                // Whoever waits must hear of it, whatever the hook below does.
                self.shared.update(|exchange| exchange.disconnected = true);
                let (reason, may_come_back) = match why {
                    Alone::Over => return,
                    Alone::NotFound(reason) => (reason, true),
                    Alone::ForGood(reason) => (reason, false),
                };
                self.hooks.coordinator_gone(&reason);
                if !may_come_back || self.rejoin_late().is_err() {
                    return;
                }
                self.shared.update(|exchange| exchange.disconnected = false);
            }
        }
    }

    fn serve(&mut self) -> Result<(), ControlError> {
        loop {
            while let Some(message) = self.wire.next()? {
                let message = exactly(&message, &self.wire.peer)?;
                self.obey(message)?;
                self.wire.flush()?;
            }
            self.poll()?;
            if self.relay()? {
                return Ok(());
            }
            self.wire.flush()?;
            let (timeout, began) = (self.timeout(), Instant::now());
            if self.wire.wait(Some(self.woken.as_fd()), timeout) {
                self.take_wakeups();
                if self.wire.receive()? > 0 {
                    self.silent = Duration::ZERO;
                }
                continue;
            }
            // Not the time itself: a job that was suspended has not listened.
            self.silent += began.elapsed().min(timeout);
            if self.silent >= SILENCE {
                return Err(ControlError::Timeout {
                    peer: self.wire.peer.clone(),
                    after: SILENCE,
                    operation: "sign of life",
                });
            }
        }
    }

    /// What only wakes this thread has been seen.
    pub(crate) fn take_wakeups(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.woken.read(&mut bytes), Ok(n) if n > 0) {}
    }

    /// Passes on what the program's threads have left. True: stop.
    fn relay(&mut self) -> Result<bool, ControlError> {
        let (finalizing, exit, requests, signals, times_left, limits) = {
            let mut exchange = self.shared.lock();
            if exchange.stop {
                return Ok(true);
            }
            let finalizing = exchange.finalize == Finalize::Wanted;
            if finalizing {
                exchange.finalize = Finalize::Announced;
            }
            let exit = exchange.exit.filter(|_| !exchange.exit_announced);
            exchange.exit_announced |= exit.is_some();
            (
                finalizing,
                exit,
                std::mem::take(&mut exchange.requests),
                std::mem::take(&mut exchange.signals),
                std::mem::take(&mut exchange.times_left),
                std::mem::take(&mut exchange.limits),
            )
        };
        if finalizing {
            self.wire.push_message(&FromRank::Finalizing)?;
        }
        for number in signals {
            self.wire.push_message(&FromRank::Signal { number })?;
        }
        for left in times_left {
            self.wire.push_message(&FromRank::TimeLeft { left })?;
        }
        for left in limits {
            self.wire.push_message(&FromRank::Limit { left })?;
        }
        for request in requests {
            self.wire.push_message(&FromRank::Request(request))?;
        }
        if let Some(code) = exit {
            self.wire.push_message(&FromRank::Exit { code })?;
        }
        Ok(false)
    }

    fn timeout(&self) -> Duration {
        let step = match self.taking.as_ref().map(|taking| &taking.step) {
            Some(Step::Gate(gate)) => Some(gate.next),
            Some(Step::Writing(watch)) => Some(watch.next),
            _ => None,
        };
        let next = self
            .levels
            .iter()
            .map(|(_, _, watch)| watch.next)
            .chain(step)
            .chain(self.inquiry.next)
            .chain(self.inquiry.answers)
            .min();
        let next = next.map_or(LISTEN, |next| {
            next.saturating_duration_since(Instant::now())
        });
        next.min(LISTEN)
    }

    /// The checkpoint of that generation, if this rank takes part in it.
    fn at(&mut self, generation: GenerationId) -> Option<&mut Taking> {
        self.taking
            .as_mut()
            .filter(|taking| taking.checkpoint.generation == generation)
    }

    fn obey(&mut self, message: ToRank) -> Result<(), ControlError> {
        match message {
            ToRank::Welcome => {}
            ToRank::Denied { reason } => {
                return Err(ControlError::Denied {
                    reason: bounded(&reason),
                })
            }
            ToRank::Started(facts) => self.hooks.started(facts),
            ToRank::Intent {
                checkpoint,
                report_every,
            } => {
                self.options.next_number = self
                    .options
                    .next_number
                    .max(checkpoint.generation.number.saturating_add(1));
                self.taking = Some(Taking {
                    checkpoint,
                    step: Step::Ordered,
                    durable: false,
                    report_every,
                    held_since: None,
                    stopped_at: None,
                    drained_at: None,
                });
                let result = self.hooks.intent(checkpoint);
                self.wire.push_message(&FromRank::Seqs {
                    generation: checkpoint.generation,
                    result,
                })?;
            }
            ToRank::Targets {
                generation,
                epoch,
                targets,
            } => {
                let now = Instant::now();
                if let Some(taking) = self.at(generation) {
                    match &mut taking.step {
                        Step::Gate(gate) => (gate.epoch, gate.next) = (epoch, now),
                        Step::Ordered => {
                            taking.step = Step::Gate(AtGate {
                                epoch,
                                told: None,
                                told_at: now,
                                next: now,
                            });
                        }
                        _ => return Ok(()),
                    }
                    self.inquiry.next.get_or_insert(now + QUESTIONS.0);
                    self.hooks.targets(&targets);
                }
            }
            ToRank::Stop(generation) => {
                if let Some(taking) = self.at(generation) {
                    taking.step = Step::Ordered;
                    taking.stopped_at = Some(Instant::now());
                    self.inquiry = Inquiry::default();
                    let result = self.hooks.stop();
                    self.wire
                        .push_message(&FromRank::Stopped { generation, result })?;
                }
            }
            ToRank::Drain(generation) => {
                if self.at(generation).is_some() {
                    let result = self.hooks.drain();
                    if let Some(taking) = self.at(generation) {
                        taking.drained_at = Some(Instant::now());
                    }
                    self.wire
                        .push_message(&FromRank::Drained { generation, result })?;
                }
            }
            ToRank::Capture(checkpoint) => {
                let generation = checkpoint.generation;
                if self.at(generation).is_some() {
                    let result = self.hooks.capture(checkpoint);
                    self.wire
                        .push_message(&FromRank::Captured { generation, result })?;
                }
            }
            ToRank::Resume(generation) => {
                if self.at(generation).is_some() {
                    self.hooks.resume();
                    let now = Instant::now();
                    if let Some(taking) = self.at(generation) {
                        taking.step = Step::Writing(Watch::new(now));
                        let pause = taking.pause(now);
                        taking.stopped_at = None;
                        self.wire
                            .push_message(&FromRank::Resumed { generation, pause })?;
                    }
                }
            }
            ToRank::Commit { checkpoint, images } => {
                let generation = checkpoint.generation;
                if self.at(generation).is_some() {
                    let result = self.hooks.commit(checkpoint, images.as_deref());
                    if let Some(taking) = self.at(generation).filter(|_| result.is_ok()) {
                        taking.step = Step::Committed;
                    }
                    self.wire
                        .push_message(&FromRank::Committed { generation, result })?;
                }
            }
            ToRank::Abandon { generation, reason } => {
                if self
                    .taking
                    .take_if(|taking| taking.checkpoint.generation == generation)
                    .is_some()
                {
                    self.inquiry = Inquiry::default();
                    self.hooks.abandon(generation, &reason);
                }
            }
            ToRank::LevelWork { generation, level } => {
                match self.hooks.level_work(generation, level) {
                    Ok(()) => self
                        .levels
                        .push((generation, level, Watch::new(Instant::now()))),
                    Err(error) => {
                        self.wire.push_message(&FromRank::LevelDone {
                            generation,
                            level,
                            result: Err(error),
                        })?;
                    }
                }
            }
            ToRank::LevelComplete { generation, level } => {
                // The generation is committed: nothing can abandon it any more.
                self.taking
                    .take_if(|taking| taking.checkpoint.generation == generation);
                let result = self.hooks.level_complete(generation, level);
                self.wire.push_message(&FromRank::LevelRecorded {
                    generation,
                    level,
                    result,
                })?;
            }
            ToRank::Prune { protect } => self.hooks.prune(&protect),
            ToRank::Finalize => self
                .shared
                .update(|exchange| exchange.finalize = Finalize::Granted),
            ToRank::RecordEnd => {
                let result = self.hooks.record_end();
                self.wire.push_message(&FromRank::EndRecorded { result })?;
            }
            ToRank::Finish(outcome) => {
                self.hooks.finish(&outcome);
                self.shared
                    .update(|exchange| exchange.outcome = Some(outcome));
            }
            ToRank::EndJob { how, reason } => self.hooks.end_job(how, &bounded(&reason)),
            ToRank::SignalOver { signal } => self.hooks.signal_over(signal),
            ToRank::SignalHeld { signal, limit } => self.hooks.signal_held(signal, limit),
            ToRank::AskTimeLeft => self.hooks.ask_time_left(),
            ToRank::AskLimit => self.hooks.ask_limit(),
            ToRank::Ping => {
                self.inquiry.owed = true;
                self.ask(Instant::now());
            }
        }
        Ok(())
    }

    /// Whether the program's threads run, as far as this rank knows.
    fn is_running(&self) -> bool {
        let stopped = |taking: &Taking| taking.stopped_at.is_some();
        !self.taking.as_ref().is_some_and(stopped)
    }

    fn ask(&mut self, now: Instant) {
        if self.inquiry.answers.is_none() && self.is_running() {
            self.hooks.ask();
        }
        self.inquiry.answers.get_or_insert(now + ANSWER);
    }

    /// What this rank last said on its way to the safe point, if it is on it.
    fn on_the_way(&self) -> Option<&GatePoll> {
        match &self.taking.as_ref()?.step {
            Step::Gate(gate) => gate.told.as_ref().map(|(_, poll)| poll),
            _ => None,
        }
    }

    /// Questions to the program's threads, and what they answered.
    fn inquire(&mut self, now: Instant) -> Result<(), ControlError> {
        if self.inquiry.next.is_some_and(|next| now >= next) {
            // A rank at its safe point is asked too, if rarely: another may wait for it.
            self.inquiry.next = self.on_the_way().map(|poll| match poll.reached {
                true => now + QUESTIONS.1 * 4,
                false => now + QUESTIONS.1,
            });
            if self.inquiry.next.is_some() {
                self.ask(now);
            }
        }
        if self.inquiry.answers.is_some_and(|time| now >= time) {
            self.inquiry.answers = None;
            let places = if self.is_running() {
                bounded_places(&self.hooks.places())
            } else {
                Vec::new()
            };
            if std::mem::take(&mut self.inquiry.owed) || !are_same(&places, &self.inquiry.told) {
                self.inquiry.told.clone_from(&places);
                let doing = match self.on_the_way() {
                    Some(poll) => poll.where_.clone(),
                    None => bounded(&self.hooks.state()),
                };
                self.wire.push_message(&FromRank::Pong { doing, places })?;
            }
        }
        Ok(())
    }

    /// Looks at everything whose time has come.
    fn poll(&mut self) -> Result<(), ControlError> {
        let now = Instant::now();
        self.inquire(now)?;
        if let Some(taking) = &mut self.taking {
            let generation = taking.checkpoint.generation;
            match &mut taking.step {
                Step::Gate(gate) if now >= gate.next => {
                    let mut poll = self.hooks.poll();
                    poll.where_ = bounded(&poll.where_);
                    if poll.waiting.is_some() {
                        taking.held_since.get_or_insert(now);
                    }
                    gate.next = now
                        + if poll.reached {
                            GATE_POLL_REACHED
                        } else {
                            GATE_POLL
                        };
                    if gate.is_news(&poll, now, taking.report_every) {
                        gate.told = Some((gate.epoch, poll.clone()));
                        gate.told_at = now;
                        let epoch = gate.epoch;
                        self.wire.push_message(&FromRank::Gate {
                            generation,
                            epoch,
                            poll,
                        })?;
                    }
                }
                Step::Writing(watch) if now >= watch.next => {
                    watch.put_off(now);
                    if let Poll::Ready(result) = self.hooks.durable() {
                        taking.step = Step::Ordered;
                        taking.durable = result.is_ok();
                        self.wire
                            .push_message(&FromRank::Durable { generation, result })?;
                    }
                }
                _ => {}
            }
        }
        let mut done = Vec::new();
        for (generation, level, watch) in &mut self.levels {
            if now >= watch.next {
                watch.put_off(now);
                if let Poll::Ready(result) = self.hooks.level_poll(*generation, *level) {
                    done.push((*generation, *level, result));
                }
            }
        }
        for (generation, level, result) in done {
            self.levels
                .retain(|(g, l, _)| (*g, *l) != (generation, level));
            self.wire.push_message(&FromRank::LevelDone {
                generation,
                level,
                result,
            })?;
        }
        Ok(())
    }
}

impl AtGate {
    /// Whether the coordinator has to hear of it now: at once that the safe point is reached (or is
    /// not any more), other changes only so often.
    fn is_news(&self, poll: &GatePoll, now: Instant, every: Duration) -> bool {
        let Some((epoch, told)) = &self.told else {
            return true;
        };
        if *epoch != self.epoch || told.reached != poll.reached {
            return true;
        }
        let changed =
            told.waiting != poll.waiting || told.seqs != poll.seqs || told.where_ != poll.where_;
        changed && now >= self.told_at + every
    }
}

impl Taking {
    fn pause(&self, now: Instant) -> Pause {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => {
                u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
            }
            _ => 0,
        };
        Pause {
            gate: between(self.held_since, self.stopped_at),
            drain: between(self.stopped_at, self.drained_at),
            snapshot: between(self.drained_at, Some(now)),
        }
    }
}
