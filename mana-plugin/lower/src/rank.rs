//! This rank's steps of a checkpoint, called by the agent on its thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{channel, Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use libckpt::config::OnError;
use libckpt::fault;
use libckpt::image_file::{ImageContent, ImageReport as Written};
use libckpt::records::End;
use libckpt::session::Session;
use mana_control::{
    CaptureStarted, Checkpoint, CommSeq, DrainReport, EndHow, GatePoll, GenerationId, ImageReport,
    Level, Outcome, Place, RankHooks, Started, StepError,
};
use mana_plugin::checkpoint;
use process_state::FileSync;
use split_process::{ParkError, Parked};

use crate::calls::JOURNAL;
use crate::snapshot::{Camera, Image};
use crate::{
    batch, control, coordinator, image, interface, job, messages, mpi, notices, tree, written,
};

/// For all threads to leave the lower half once every rank is at its safe point.
const PARK: Duration = Duration::from_secs(20);
/// For the program's files to reach stable storage.
const FILES: Duration = Duration::from_secs(600);

/// Exit code of a job that ended after a last checkpoint, to be started again.
const STOPPED: i32 = 85;

/// For rank 0 to put the job back into the queue, before other ranks end.
const REQUEUE: Duration = Duration::from_secs(mana::slurm::PATIENCE.as_secs() + 5);
/// Between two looks whether it has.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// For rank 0 to record an end that was asked for: it may be at a step of a checkpoint, or its file system slow.
const RECORDED: Duration = Duration::from_secs(30);

/// For rank 0 to see what this rank has seen, and to say it.
const RANK_0_SPEAKS: Duration = Duration::from_secs(2);

/// Says a warning once per process.
pub fn warn_once(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(text.to_owned())
    {
        log::warn!("{text}");
    }
}

/// A generation being taken.
struct Taking {
    generation: GenerationId,
    image: Image,
    files: FileSync,
    since: Instant,
}

type Work = Receiver<Result<(), String>>;

pub struct Rank {
    session: Arc<Session>,
    incarnation: u32,
    has_mpi: bool,
    parked: Option<Parked>,
    /// The thread that drives MPI's progress while other ranks are not parked yet.
    attending: Option<split_process::ThreadId>,
    /// The MPI layer's state after the drain.
    mpi_state: Option<Vec<u8>>,
    taking: Option<Taking>,
    camera: Camera,
    reports: BTreeMap<GenerationId, Written>,
    work: BTreeMap<(GenerationId, Level), Work>,
    pruning: Option<std::thread::JoinHandle<()>>,
    phase: &'static str,
    /// A thread was in the lower half when the threads were asked.
    inside: bool,
    stopped: Option<Instant>,
    /// All ranks were there once.
    started: bool,
}

impl Rank {
    pub fn new(session: Arc<Session>, incarnation: u32, thread_level: i32) -> Self {
        JOURNAL.begin(session.global().root(), None);
        Self {
            session,
            incarnation,
            has_mpi: thread_level >= 0,
            parked: None,
            attending: None,
            mpi_state: None,
            taking: None,
            camera: Camera::default(),
            reports: BTreeMap::new(),
            work: BTreeMap::new(),
            pruning: None,
            phase: "running",
            inside: false,
            stopped: None,
            started: false,
        }
    }

    /// All threads are parked: other ranks may still need this one's progress to come out of MPI.
    fn attend(&mut self) -> Result<(), StepError> {
        if let (Some(parked), Some(thread)) = (&self.parked, mpi::thread()) {
            if self.has_mpi && checkpoint::attendance() {
                parked
                    .start_on(thread, Box::new(checkpoint::attend))
                    .map_err(StepError::new)?;
                self.attending = Some(thread);
            }
        }
        Ok(())
    }

    fn end_attendance(&mut self) {
        if let (Some(parked), Some(thread)) = (&self.parked, self.attending.take()) {
            checkpoint::end_attendance();
            if let Err(e) = parked.finish_on(thread) {
                log::error!("{e}");
            }
        }
    }

    /// Whether this rank says what happens to the coordinator: one that stands alone is lost to all
    /// ranks at once, else to those of a node.
    fn speaks(&self) -> bool {
        match job().spec.coordinator {
            Some(_) => self.session.rank() == 0,
            None => self.session.is_leader(),
        }
    }

    /// Lets the program run on.
    fn release(&mut self) {
        self.end_attendance();
        self.mpi_state = None;
        if self.has_mpi {
            checkpoint::resume();
        }
        if let Some(parked) = self.parked.take() {
            parked.release();
        }
        interface::after_release();
        tree::root::release();
        self.phase = "running";
    }
}

fn entry(report: &ImageReport) -> Written {
    Written {
        len: report.bytes,
        root: report.root,
    }
}

/// Deletes what was saved of files for generations that are gone.
fn prune_journal(session: &Session, protect: &[GenerationId]) -> Result<(), crate::Failure> {
    if !session.is_leader() {
        return Ok(());
    }
    let mut kept = session.local().generations()?;
    kept.extend(session.global().generations()?);
    kept.extend(protect);
    if let Some(oldest) = kept.iter().min() {
        written::prune(session, *oldest)?;
    }
    Ok(())
}

fn place(p: checkpoint::Place) -> Place {
    Place {
        call: p.call,
        comm_id: p.comm_id,
        comm_name: p.comm_name,
        peer: p.peer,
        sends: p.sends,
        tag: p.tag,
        number: p.number,
        more: p.more,
        waited: p.waited,
    }
}

fn sequence(c: &checkpoint::CommSeq) -> CommSeq {
    CommSeq {
        comm_id: c.comm_id,
        size: c.size,
        seq: c.seq,
    }
}

impl Rank {
    /// Leaves a record that this was no failure (`mana run` does not start the job again). The launcher
    /// kills all ranks when the first ends: none does before rank 0 has written it.
    fn record_stop(&self, how: EndHow, reason: &str, patience: Duration) {
        let records = self.session.records();
        if self.session.rank() == 0 {
            let reason = reason.to_owned();
            let end = match how {
                EndHow::Kill => End::Stopped { reason },
                EndHow::Stop | EndHow::Requeue => End::Paused { reason },
            };
            if let Err(e) = records.write_end(self.incarnation, &end) {
                log::warn!("the end of the job is not recorded: {e}");
            }
            return;
        }
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(2);
        while records.end_of(self.incarnation).is_none() && Instant::now() < deadline {
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl RankHooks for Rank {
    fn started(&mut self, facts: Started) {
        if std::mem::replace(&mut self.started, true) {
            if self.speaks() {
                log::info!("connected to the coordinator again");
            }
            return;
        }
        if self.session.rank() == 0 {
            let plural = |number: u32| if number == 1 { "" } else { "s" };
            log::info!(
                "incarnation {}: {} rank{} on {} node{} {} under control",
                self.incarnation,
                facts.ranks,
                plural(facts.ranks),
                facts.nodes,
                plural(facts.nodes),
                if facts.ranks == 1 { "is" } else { "are" }
            );
        }
        if self.session.is_leader() {
            crate::resume::everyone_is_back();
        }
    }

    fn intent(&mut self, checkpoint: Checkpoint) -> Result<Vec<CommSeq>, StepError> {
        fault::point("rank.intent");
        JOURNAL.announce(checkpoint.generation);
        self.phase = "running to the safe point";
        if !self.has_mpi {
            return Ok(Vec::new());
        }
        if let Some(why) = mana_plugin::checkpoint::refusal() {
            return Err(StepError::new(why));
        }
        Ok(mana_plugin::checkpoint::gate_arm()
            .iter()
            .map(sequence)
            .collect())
    }

    fn targets(&mut self, targets: &[CommSeq]) {
        fault::point("rank.targets");
        let targets: Vec<_> = targets
            .iter()
            .map(|c| checkpoint::CommSeq {
                comm_id: c.comm_id,
                size: c.size,
                seq: c.seq,
            })
            .collect();
        checkpoint::gate_targets(&targets);
    }

    fn poll(&mut self) -> GatePoll {
        let mut poll = match self.has_mpi {
            false => {
                // Registered before it is loaded.
                let reached = split_process::is_running();
                let where_ = if reached { "no MPI" } else { "being loaded" };
                GatePoll {
                    reached,
                    where_: where_.into(),
                    ..GatePoll::default()
                }
            }
            true => {
                let found = checkpoint::gate_poll();
                GatePoll {
                    reached: found.reached,
                    waiting: found.waiting.as_ref().map(sequence),
                    behind: found.behind.as_ref().map(sequence),
                    seqs: found.seqs.iter().map(sequence).collect(),
                    where_: found.where_,
                }
            }
        };
        if let Some(why) = interface::holds::description() {
            poll.reached = false;
            poll.where_ = why;
        }
        poll
    }

    fn stop(&mut self) -> Result<(), StepError> {
        fault::point("rank.stop");
        self.phase = "telling the program";
        interface::before_stop()?;
        self.phase = "parking";
        self.stopped = Some(Instant::now());
        if self.has_mpi {
            checkpoint::stop();
        }
        let parked = split_process::park_all(PARK).map_err(|e| match e {
            // Its end tells more.
            ParkError::NotRunning => StepError::secondary(e),
            other => StepError::new(other),
        })?;
        self.parked = Some(parked);
        tree::root::stop(PARK).map_err(StepError::new)?;
        self.attend()
    }

    fn drain(&mut self) -> Result<DrainReport, StepError> {
        fault::point("rank.drain");
        self.phase = "draining";
        if !self.has_mpi {
            return Ok(DrainReport::default());
        }
        self.end_attendance();
        let parked = self
            .parked
            .as_ref()
            .ok_or_else(|| StepError::new("drain before stop"))?;
        let thread = mpi::thread()
            .ok_or_else(|| StepError::new("the thread that called MPI_Init has ended"))?;
        let (sender, receiver) = channel();
        let budget = job().spec.config.drain_budget;
        parked
            .run_on(
                thread,
                Box::new(move || {
                    let drained =
                        checkpoint::drain(budget).map(|report| (report, checkpoint::serialize()));
                    let _ = sender.send(drained);
                }),
            )
            .map_err(StepError::new)?;
        let drained = receiver.recv().map_err(StepError::new)?;
        let (report, state) = drained.map_err(|e| match e {
            // Another rank's error tells why.
            checkpoint::DrainError::Peer => StepError::secondary(e),
            other => StepError::new(other),
        })?;
        self.mpi_state = state;
        Ok(DrainReport {
            messages: report.messages,
            bytes: report.bytes,
        })
    }

    fn capture(&mut self, checkpoint: Checkpoint) -> Result<CaptureStarted, StepError> {
        fault::point("rank.capture");
        self.phase = "writing";
        let since = Instant::now();
        let state = self.mpi_state.take();
        let parked = self
            .parked
            .as_ref()
            .ok_or_else(|| StepError::new("capture before stop"))?;
        let global = self.session.global().root();
        let clones = mana_journal::clones(global, checkpoint.generation, self.session.rank());
        let mut taken = image::take(parked, state, clones).map_err(StepError::new)?;
        log::debug!("stock taken after {:?}", since.elapsed());
        let sections = std::mem::take(&mut taken.sections);
        let (regions, memory) = taken.content(parked);
        let bytes = memory.iter().map(|m| m.len() as u64).sum();
        let content = ImageContent {
            sections,
            regions,
            memory,
        };
        let image = self
            .camera
            .take(&self.session, checkpoint.generation, content)
            .map_err(StepError::new)?;
        let background = matches!(image, Image::Background { .. });
        self.taking = Some(Taking {
            generation: checkpoint.generation,
            image,
            files: taken.files,
            since,
        });
        Ok(CaptureStarted { bytes, background })
    }

    fn resume(&mut self) {
        fault::point("rank.resume");
        self.release();
        if let Some(since) = self.stopped.take() {
            log::debug!("program stopped for {:?}", since.elapsed());
        }
    }

    fn durable(&mut self) -> Poll<Result<ImageReport, StepError>> {
        let Some(taking) = &mut self.taking else {
            return Poll::Ready(Err(StepError::new("no image is being written")));
        };
        let Written { len, root } = match self.camera.poll(&mut taking.image) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(written) => written.map_err(StepError::new)?,
        };
        match taking.files.wait(Duration::ZERO) {
            None if taking.since.elapsed() > FILES => {
                return Poll::Ready(Err(StepError::new(
                    "the program's files do not reach stable storage",
                )));
            }
            None => return Poll::Pending,
            Some(warnings) => warnings.iter().for_each(|w| warn_once(&w.to_string())),
        }
        self.session
            .announce(taking.generation)
            .map_err(StepError::new)?;
        Poll::Ready(Ok(ImageReport {
            rank: self.session.rank(),
            bytes: len,
            root,
        }))
    }

    fn commit(
        &mut self,
        checkpoint: Checkpoint,
        images: Option<&[ImageReport]>,
    ) -> Result<(), StepError> {
        fault::point("rank.commit");
        if let Some(images) = images {
            let images: Vec<Written> = images.iter().map(entry).collect();
            self.session
                .commit(checkpoint.generation, checkpoint.level, &images)
                .map_err(StepError::new)?;
        }
        if let Some(Taking {
            image: Image::Written(report),
            ..
        }) = self.taking.take()
        {
            self.reports.insert(checkpoint.generation, report);
        }
        Ok(())
    }

    fn level_work(&mut self, generation: GenerationId, level: Level) -> Result<(), StepError> {
        fault::point("rank.level-work");
        let report = *self.reports.get(&generation).ok_or_else(|| {
            StepError::new(format!(
                "generation {generation} was not taken by this process"
            ))
        })?;
        let session = Arc::clone(&self.session);
        let (sender, receiver) = channel();
        std::thread::Builder::new()
            .name(format!("mana-{level}"))
            .spawn(move || {
                let done = session.level_work(generation, level, report);
                let _ = sender.send(done.map_err(|e| e.to_string()));
            })
            .map_err(StepError::new)?;
        self.work.insert((generation, level), receiver);
        Ok(())
    }

    fn level_poll(
        &mut self,
        generation: GenerationId,
        level: Level,
    ) -> Poll<Result<(), StepError>> {
        let Some(work) = self.work.get(&(generation, level)) else {
            return Poll::Ready(Err(StepError::new("no such level work")));
        };
        let done = match work.try_recv() {
            Err(TryRecvError::Empty) => return Poll::Pending,
            Err(TryRecvError::Disconnected) => Err(StepError::new("its thread has ended")),
            Ok(done) => done.map_err(StepError::new),
        };
        self.work.remove(&(generation, level));
        Poll::Ready(done)
    }

    fn level_complete(&mut self, generation: GenerationId, level: Level) -> Result<(), StepError> {
        fault::point("rank.level-complete");
        self.session
            .complete(generation, level)
            .map_err(StepError::new)
    }

    fn prune(&mut self, protect: &[GenerationId]) {
        fault::point("rank.prune");
        if self.pruning.as_ref().is_some_and(|t| !t.is_finished()) {
            return; // the next one does it
        }
        let oldest = protect.iter().min().copied();
        if let Some(newest) = self.reports.keys().next_back().copied() {
            self.reports
                .retain(|id, _| *id == newest || oldest.is_some_and(|o| *id >= o));
        }
        let (session, incarnation, protect) = (
            Arc::clone(&self.session),
            self.incarnation,
            protect.to_vec(),
        );
        let work = move || {
            if let Err(e) = session.prune(incarnation, &protect) {
                warn_once(&format!("pruning: {e}"));
            } else if let Err(e) = prune_journal(&session, &protect) {
                warn_once(&format!("pruning: {e}"));
            }
        };
        self.pruning = std::thread::Builder::new()
            .name("mana-prune".into())
            .spawn(work)
            .ok();
    }

    fn undecided(&mut self, generation: GenerationId) {
        self.release();
        self.taking = None;
        self.reports.remove(&generation);
        log::debug!("generation {generation}: not known whether it was committed, kept");
    }

    fn abandon(&mut self, generation: GenerationId, reason: &str) {
        fault::point("rank.abandon");
        self.release();
        self.taking = None;
        self.reports.remove(&generation);
        log::debug!("generation {generation} is given up: {reason}");
        if let Err(e) = self.session.discard(generation) {
            warn_once(&e.to_string());
        }
    }

    fn state(&mut self) -> String {
        self.phase.to_owned()
    }

    fn ask(&mut self) {
        if self.has_mpi {
            checkpoint::ask_places();
            self.inside = split_process::inside();
        }
    }

    fn places(&mut self) -> Vec<Place> {
        if !self.has_mpi {
            return Vec::new();
        }
        let mut places: Vec<Place> = checkpoint::places().into_iter().map(place).collect();
        if places.is_empty() && self.inside && split_process::inside() {
            // A call that works, or one of the library that does not come back.
            places.push(Place {
                call: "inside an MPI procedure or a system call".into(),
                ..Place::default()
            });
        }
        places
    }

    fn coordinator_gone(&mut self, reason: &str) {
        notices::all_over();
        if job().spec.config.on_error == OnError::Stop {
            if self.speaks() {
                messages::error(format_args!("{reason}; the job ends (on_error = \"stop\")"));
            } else {
                // Somebody speaks for all; a launcher ends the others when one ends.
                std::thread::sleep(RANK_0_SPEAKS);
            }
            messages::end();
        }
        if self.speaks() {
            log::warn!(
                "{reason}: the program runs on UNPROTECTED, without checkpoints (on_error = \"stop\" ends it instead)"
            );
        }
    }

    fn coordinator_lost(&mut self, reason: &str, limit: Duration) {
        notices::all_over();
        self.phase = "looking for the coordinator";
        if self.speaks() {
            log::warn!(
                "{reason}: no checkpoints while it is looked for, {} s at most",
                limit.as_secs()
            );
        }
    }

    fn coordinator_back(&mut self) {
        self.phase = "running";
        if let Err(e) = coordinator::renew(&self.session, self.incarnation) {
            log::warn!("tools may not find the coordinator: {e}");
        }
    }

    fn record_end(&mut self) -> Result<(), StepError> {
        self.session
            .record_end(self.incarnation, &End::Finished)
            .map_err(StepError::new)
    }

    fn finish(&mut self, outcome: &Outcome) {
        coordinator::leave(&self.session);
        if let Some(pruning) = self.pruning.take() {
            let _ = pruning.join();
        }
        match outcome {
            Outcome::Finished => {
                if !job().spec.config.keep_after_end {
                    written::forget(&self.session);
                }
                if let Err(e) = self.session.clean_up(self.incarnation) {
                    log::warn!("checkpoints of the finished job are left: {e}");
                }
            }
            Outcome::Failed { rank, code } if self.session.rank() == 0 => {
                let reason = format!("rank {rank} ended with code {code}");
                let end = End::Failed { reason };
                if let Err(e) = self.session.record_end(self.incarnation, &end) {
                    log::warn!("the end of the job is not recorded: {e}");
                }
            }
            _ => {}
        }
    }

    fn end_job(&mut self, how: EndHow, reason: &str) {
        let way = &job().spec.resume_by;
        if self.session.rank() == 0 {
            match how {
                // An embedded coordinator has told.
                EndHow::Kill if job().spec.coordinator.is_none() => {}
                EndHow::Kill => messages::line(format_args!("the job ends on request: {reason}")),
                EndHow::Stop => messages::line(format_args!(
                    "{reason}: the job ends with code {STOPPED}, start it again to go on (at_end = \"stop\"); in another Slurm job, or by hand: {way}"
                )),
                EndHow::Requeue => match batch::requeue() {
                    Ok(()) => messages::line(format_args!(
                        "{reason}: the job is requeued and goes on by itself"
                    )),
                    Err(e) => messages::error(format_args!(
                        "{reason}, but the job is not requeued: {e}; it ends with code {STOPPED}: start it again to go on; in another Slurm job, or by hand: {way}"
                    )),
                },
            }
        }
        coordinator::leave(&self.session);
        let patience = match how {
            EndHow::Requeue => REQUEUE,
            EndHow::Kill | EndHow::Stop => RECORDED,
        };
        self.record_stop(how, reason, patience);
        match how {
            EndHow::Kill => messages::end(),
            EndHow::Stop | EndHow::Requeue => messages::end_with(STOPPED),
        }
    }

    fn signal_over(&mut self, signal: i32) {
        notices::over(signal);
    }

    fn signal_held(&mut self, signal: i32, limit: Duration) {
        notices::hold(signal, limit);
    }

    fn ask_time_left(&mut self) {
        let asked = std::thread::Builder::new()
            .name("mana-asks".into())
            .spawn(|| control::time_left(batch::ask_time_left()));
        if let Err(e) = asked {
            log::warn!("no thread to ask for the time left: {e}");
        }
    }

    fn ask_limit(&mut self) {
        let asked = std::thread::Builder::new()
            .name("mana-asks".into())
            .spawn(|| control::limit(batch::ask_limit()));
        if let Err(e) = asked {
            log::warn!("no thread to ask for the time limit: {e}");
        }
    }
}
