//! The control thread: opens the storage session, brings up coordinator and agent, then serves what
//! the program's threads want of them.
//!
//! It and all threads it starts have a descriptor table of their own. The program's threads reach it
//! through channels only.

use std::collections::BTreeMap;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use libckpt::config::OnError;
use libckpt::recovery::{self, Outcome as Recovery, Recovered, Wish};
use libckpt::session::{Beginning, Session};
use libckpt::{Collective, GenerationId};
use mana_control::{
    Agent, AgentOptions, Event, EventLog, Outcome, Record, Request, Resumed, Secret,
};
use mana_plugin::WorldCollective;

use crate::meeting::{self, Asker};
use crate::outcome::agree;
use crate::{
    agreement, coordinator, farewell, fence, interface, job, messages, outcome, rank, tree,
    written, Failure,
};

/// The wait for the other ranks' ends is made of pieces of this length.
const PIECE: Duration = Duration::from_secs(5);
/// For all ranks to reach the coordinator.
const CONNECT: Duration = Duration::from_secs(60);
/// For telling the others of an abort.
const ABORT: Duration = Duration::from_secs(2);

enum Command {
    /// The program is entered (again), or in `MPI_Init`: checkpoints may come.
    Go(Sender<Result<(), Failure>>),
    Finalizing(Sender<()>),
    /// Something the program's threads cannot do: it needs descriptors.
    Work(Work),
    Exit {
        code: i32,
        /// For the other ranks to end; `None`: as long as there is a coordinator that knows of them. A
        /// launcher may end all when one process is gone.
        limit: Option<Duration>,
        reply: Sender<Outcome>,
    },
}

type Work = Box<dyn FnOnce(&Place) + Send>;

/// What the program's threads know of the control thread.
struct Control {
    commands: Sender<Command>,
}

static CONTROL: OnceLock<Control> = OnceLock::new();
static AGENT: OnceLock<Agent> = OnceLock::new();
/// Whether the attempt to register this rank is over.
static REGISTERED: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
/// A signal that comes before waits for that no longer than this.
const REGISTERING: Duration = Duration::from_secs(5);

/// This rank's storage and its place in the job, as the control thread found them.
pub struct Place {
    pub session: Arc<Session>,
    pub incarnation: u32,
    first: u64,
    pub addresses: Vec<String>,
    pub secret: Secret,
    thread_level: i32,
}

/// Begins the job at its beginning; on the MPI thread (or the main one, without MPI). Returns when
/// this rank is registered.
pub fn begin_job(world: Option<WorldCollective>, thread_level: i32) -> Result<(), Failure> {
    if CONTROL.get().is_some() {
        // A resume that found nothing has begun it.
        return go();
    }
    let (asker, server) = meeting::pair::<Result<(), Failure>>(world, "the start", consequence());
    start_thread(move |commands| {
        let begun = open(&asker).and_then(|(session, secret)| {
            let place = begin(session, secret, None, thread_level, &asker)?;
            for note in &job().spec.config.notes {
                if place.session.is_leader() && asker.rank() == 0 {
                    log::info!("{note}");
                }
            }
            spawn_agent(&place, None)?;
            Ok(place)
        });
        let ends = job().spec.config.on_error == OnError::Stop;
        match agree(&asker, begun, consequence(), ends) {
            Ok(place) => {
                asker.done(Ok(()));
                serve(&place, &commands);
            }
            Err(e) => asker.done(Err(e)),
        }
    })?;
    server.serve()?
}

/// A resume, agreed on by all ranks.
pub struct Resume {
    pub recovered: Arc<Recovered>,
    pub session: Arc<Session>,
    pub incarnation: u32,
}

/// Finds out what to resume from; on the MPI thread. `None`: nothing was ever committed, the job has
/// begun anew. The control thread then waits for [`go`].
pub fn recover(
    world: Option<WorldCollective>,
    thread_level: i32,
) -> Result<Option<Resume>, Failure> {
    let (asker, server) = meeting::pair::<Result<Option<Resume>, Failure>>(world, "the resume", "");
    start_thread(move |commands| {
        let found = open(&asker).and_then(|(session, secret)| {
            let generation = job()
                .spec
                .generation
                .map(|(incarnation, number)| GenerationId {
                    incarnation,
                    number,
                });
            let recovered = match recovery::recover(&session, Wish { generation }, &asker)? {
                Recovery::Resume(r) => Some(Arc::new(r)),
                Recovery::Fresh if job().spec.args.is_none() => {
                    return Err(
                        "nothing to resume: the job was killed before its first checkpoint was committed; start it again with mana_launch --fresh".into(),
                    )
                }
                Recovery::Fresh => None,
            };
            if let Some(recovered) = &recovered {
                files_are_there(&session, recovered.generation, &asker)?;
            }
            match &recovered {
                Some(recovered) => report(recovered, asker.rank()),
                None if asker.rank() == 0 => log::info!(
                    "the job was started before, but no checkpoint was committed: starting from the beginning"
                ),
                None => {}
            }
            let parent = recovered.as_ref().map(|r| r.generation);
            let place = begin(session, secret, parent, thread_level, &asker)?;
            if let Some(recovered) = recovered.as_deref().filter(|_| asker.rank() == 0) {
                note_resume(&place, recovered);
            }
            Ok((place, recovered))
        });
        match agree(&asker, found, "", true) {
            Ok((place, recovered)) => {
                let resume = recovered.as_ref().map(|recovered| Resume {
                    recovered: Arc::clone(recovered),
                    session: Arc::clone(&place.session),
                    incarnation: place.incarnation,
                });
                asker.done(Ok(resume));
                if let Ok(Command::Go(reply)) = commands.recv() {
                    // If nobody waits for the answer, the process ends.
                    let from = recovered.as_deref().filter(|_| place.session.rank() == 0);
                    let _ = reply.send(spawn_agent(&place, from.map(inherited)));
                    if let Some(recovered) = recovered {
                        protect_again(&place.session, recovered);
                    }
                    serve(&place, &commands);
                }
            }
            Err(e) => asker.done(Err(e)),
        }
    })?;
    server.serve()?
}

/// The program is in place: the control thread may go to work. Returns when this rank is registered.
pub fn go() -> Result<(), Failure> {
    let gone = || Failure::from("the control thread has ended");
    let control = CONTROL.get().ok_or_else(gone)?;
    let (reply, replied) = channel();
    control
        .commands
        .send(Command::Go(reply))
        .map_err(|_| gone())?;
    replied.recv().map_err(|_| gone())?
}

/// Whether the program's files can be put back to what they were; the same answer on all ranks.
fn files_are_there<T>(
    session: &Session,
    generation: GenerationId,
    all: &Asker<T>,
) -> Result<(), Failure> {
    let told = match all.rank() {
        0 => {
            let place = session.global().root().display();
            all.doing(&format!(
                "looking in {place} for what the program's files were"
            ));
            mana_journal::check(session.global().root(), generation).err()
        }
        _ => None,
    };
    let words = told.map(|e| e.to_string()).unwrap_or_default();
    match all.bcast(0, words.as_bytes())?.as_slice() {
        [] => Ok(()),
        words => Err(String::from_utf8_lossy(words).into_owned().into()),
    }
}

fn report(recovered: &Recovered, rank: u32) {
    if rank != 0 {
        return;
    }
    for line in &recovered.rejected {
        log::warn!("{line}");
    }
    let list: Vec<String> = sources(recovered)
        .iter()
        .map(|(name, n)| format!("{n} from {name}"))
        .collect();
    messages::line(format_args!(
        "resumed generation {} ({}): {} verified images, {}; output since then repeats",
        recovered.generation,
        recovered.manifest.level,
        recovered.sources.len(),
        list.join(", ")
    ));
}

/// How many images came from where.
fn sources(recovered: &Recovered) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for source in &recovered.sources {
        *counts.entry(source.to_string()).or_default() += 1;
    }
    counts
}

/// For the report.
fn note_resume(place: &Place, recovered: &Recovered) {
    let log = EventLog::new(place.session.global().root());
    let event = Event::Resumed {
        last_seen: log.last_seen(),
        generation: recovered.generation,
        level: recovered.manifest.level,
        taken: recovered.manifest.created as f64,
        sources: sources(recovered),
        rejected: recovered.rejected.clone(),
    };
    if let Err(e) = log.append(&Record::now(place.incarnation, event)) {
        log::warn!("the resume is not in the job's events: {e}");
    }
}

/// For the status, until there are newer ones.
fn inherited(recovered: &Recovered) -> Resumed {
    let manifest = &recovered.manifest;
    let begun = UNIX_EPOCH + Duration::from_secs(manifest.created);
    Resumed {
        generation: recovered.generation,
        levels: recovered.whole.clone(),
        bytes: manifest.images.iter().map(|image| image.len).sum(),
        age: begun.elapsed().unwrap_or_default(),
    }
}

fn protect_again(session: &Arc<Session>, recovered: Arc<Recovered>) {
    let session = Arc::clone(session);
    let work = move || {
        if let Err(e) = recovery::protect_again(&session, &recovered) {
            log::warn!(
                "generation {} is not as protected as it was: {e}",
                recovered.generation
            );
        }
    };
    if let Err(e) = std::thread::Builder::new()
        .name("mana-protect".into())
        .spawn(work)
    {
        log::warn!("no thread for restoring redundancy: {e}");
    }
}

fn start_thread(body: impl FnOnce(Receiver<Command>) + Send + 'static) -> Result<(), Failure> {
    let (commands, commanded) = channel();
    if CONTROL.set(Control { commands }).is_err() {
        return Err("the control thread runs already".into());
    }
    farewell::prepare();
    split_process::with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("mana-control".into())
            .spawn(move || {
                own_descriptors();
                body(commanded);
            })
    })?;
    Ok(())
}

/// A descriptor table of this thread's own, empty but for the standard streams.
pub fn own_descriptors() {
    // SAFETY: close_range with UNSHARE first copies the table for this thread alone.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_UNSHARE,
        )
    };
    if done == 0 {
        return;
    }
    // A kernel before 5.9.
    // SAFETY: unshare touches no memory.
    if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
        return;
    }
    // SAFETY: sysconf has no preconditions.
    let limit = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) };
    for fd in 3..limit.clamp(0, 1 << 20) as i32 {
        // SAFETY: the table is this thread's alone.
        unsafe { libc::close(fd) };
    }
}

/// A secret all ranks know, and the storage session.
fn open<T>(all: &Asker<T>) -> Result<(Arc<Session>, Secret), Failure> {
    all.doing("comparing how it was started");
    agreement::check(&job().spec, all)?;
    let mine = if all.rank() == 0 {
        Secret::generate()?.as_bytes().to_vec()
    } else {
        Vec::new()
    };
    let bytes: [u8; 32] = all
        .bcast(0, &mine)?
        .try_into()
        .map_err(|_| "rank 0 sent no secret")?;
    let spec = &job().spec;
    let session = Session::open(&spec.config, &spec.identity, bytes, all)?;
    messages::set_rank(all.rank());
    Ok((Arc::new(session), Secret::from_bytes(bytes)))
}

/// Records this start of the job and brings up the coordinator.
fn begin<T>(
    session: Arc<Session>,
    secret: Secret,
    parent: Option<GenerationId>,
    thread_level: i32,
    all: &Asker<T>,
) -> Result<Place, Failure> {
    let spec = &job().spec;
    let beginning = Beginning {
        parent,
        program: tree::member::began_with(),
        thread_level,
        restart_count: spec.restart_count,
    };
    let begun = session.begin(&beginning, all)?;
    if parent.is_none() {
        written::forget_earlier(&session);
    }
    let found = (all.rank() == 0).then(|| {
        all.doing("starting the coordinator");
        coordinator::bring_up(&session, &secret, begun.incarnation, all.size())
            .map_err(|e| e.to_string())
    });
    let told = libckpt::collective::gather(all, "the coordinator's address", &found)?;
    if parent.is_none() {
        written::forget_rest(&session);
    }
    let contact = match told.into_iter().next().flatten() {
        Some(Ok(contact)) => contact,
        Some(Err(complaint)) => return Err(format!("no coordinator: {complaint}").into()),
        None => return Err("no coordinator: rank 0 said nothing".into()),
    };
    Ok(Place {
        session,
        incarnation: begun.incarnation,
        first: begun.first,
        secret: contact.secret(secret),
        addresses: contact.addresses,
        thread_level,
    })
}

fn spawn_agent(place: &Place, resumed: Option<Resumed>) -> Result<(), Failure> {
    let spec = &job().spec;
    let session = &place.session;
    let host = hostname::get()
        .map(|h| h.to_string_lossy().into_owned())
        .unwrap_or_default();
    let options = AgentOptions {
        job: spec.identity.clone(),
        incarnation: place.incarnation,
        rank: session.rank(),
        size: session.size(),
        host,
        node: session.node(),
        program: spec.program.display().to_string(),
        next_number: place.first,
        resumed,
        settings: coordinator::settings(session),
        addresses: place.addresses.clone(),
        secret: place.secret.clone(),
        connect_limit: CONNECT.min(Duration::from_secs(spec.config.checkpoint_timeout)),
        rejoin_limit: Duration::from_secs_f64(spec.config.coordinator_timeout),
        stand_alone: spec.coordinator.as_ref().map(|c| c.file.clone()),
        fd_floor: 0,
    };
    let hooks = rank::Rank::new(Arc::clone(session), place.incarnation, place.thread_level);
    // The coordinator says that the job is under control as soon as it knows of the last rank.
    crate::notices::begin();
    let agent = Agent::spawn(options, Box::new(hooks))
        .map_err(Failure::from)
        .and_then(|agent| Ok(AGENT.set(agent).map_err(|_| "the agent runs already")?));
    let (registered, changed) = &REGISTERED;
    *registered.lock().unwrap_or_else(PoisonError::into_inner) = true;
    changed.notify_all();
    agent
}

/// Asks for a last checkpoint, since this signal has come. False: nobody can take one.
pub fn announce(signal: i32) -> bool {
    let (registered, changed) = &REGISTERED;
    let over = registered.lock().unwrap_or_else(PoisonError::into_inner);
    drop(changed.wait_timeout_while(over, REGISTERING, |over| !*over));
    let agent = AGENT.get().filter(|agent| agent.is_connected());
    if let Some(agent) = agent {
        agent.signal(signal);
    }
    agent.is_some()
}

/// How long until the job is killed, for the coordinator that has asked.
pub fn time_left(left: Option<Duration>) {
    if let Some(agent) = AGENT.get() {
        agent.time_left(left);
    }
}

/// How long until the time limit, for the coordinator that has asked.
pub fn limit(left: Option<Duration>) {
    if let Some(agent) = AGENT.get() {
        agent.limit(left);
    }
}

/// Serves the program's threads until the process ends.
fn serve(place: &Place, commands: &Receiver<Command>) {
    fence::begin(place);
    interface::begun(place);
    while let Ok(command) = commands.recv() {
        match command {
            Command::Go(reply) => drop(reply),
            Command::Finalizing(reply) => {
                if let Some(agent) = AGENT.get() {
                    agent.finalizing();
                }
                let _ = reply.send(());
            }
            Command::Work(work) => work(place),
            Command::Exit { code, limit, reply } => {
                let outcome = end_of_job(code, limit);
                if matches!(outcome, Outcome::Undecided | Outcome::Lost { .. }) {
                    note_end(place, code);
                }
                let _ = reply.send(outcome);
            }
        }
    }
}

/// This rank ends with `code`: how the job ends.
fn end_of_job(code: i32, limit: Option<Duration>) -> Outcome {
    let Some(agent) = AGENT.get() else {
        return Outcome::Undecided;
    };
    let mut left = limit;
    loop {
        let patience = left.map_or(PIECE, |left| left.min(PIECE));
        if let Some(outcome) = agent.exit(code, patience) {
            return outcome;
        }
        left = left.map(|left| left - patience);
        if left.is_some_and(|left| left.is_zero()) {
            return Outcome::Undecided;
        }
    }
}

/// Has the control thread do something, soon. `false`: there is none (any more).
pub fn on_control(work: impl FnOnce(&Place) + Send + 'static) -> bool {
    CONTROL
        .get()
        .is_some_and(|c| c.commands.send(Command::Work(Box::new(work))).is_ok())
}

/// Whether the job has begun: the control thread exists.
pub fn has_begun() -> bool {
    CONTROL.get().is_some()
}

/// Whether checkpoints are possible as far as the connection goes.
pub fn is_connected() -> bool {
    AGENT.get().is_some_and(Agent::is_connected)
}

/// Asks for a checkpoint without waiting; on the control thread.
pub fn request(request: Request) {
    if let Some(agent) = AGENT.get() {
        agent.request(request);
    }
}

/// Nobody knows how the job ends, or a rank is out of reach, which may run on: each leaves word of its own end.
fn note_end(place: &Place, code: i32) {
    let (rank, records) = (place.session.rank(), place.session.records());
    if let Err(e) = records.note_rank_end(place.incarnation, rank, code) {
        log::warn!("this rank's end is not recorded: {e}");
    }
}

/// `MPI_Finalize`: may it go on? Asked again and again.
pub fn may_finalize() -> bool {
    static ANNOUNCED: OnceLock<()> = OnceLock::new();
    let (Some(control), Some(agent)) = (CONTROL.get(), AGENT.get()) else {
        return true;
    };
    ANNOUNCED.get_or_init(|| {
        let (reply, replied) = channel();
        if control.commands.send(Command::Finalizing(reply)).is_ok() {
            let _ = replied.recv();
        }
    });
    agent.finalizing()
}

fn exit(code: i32, limit: Option<Duration>) {
    let (Some(control), Some(_)) = (CONTROL.get(), AGENT.get()) else {
        return;
    };
    let (reply, replied) = channel();
    if control
        .commands
        .send(Command::Exit { code, limit, reply })
        .is_ok()
    {
        // An error: the control thread is gone, or late.
        let _ = match limit {
            Some(limit) => replied.recv_timeout(limit).ok(),
            None => replied.recv().ok(),
        };
    }
}

/// The program ends with this code: called before it really does.
pub fn exiting(code: i32) {
    if let Some(table) = split_process::tree::table() {
        table.set_ended();
    }
    interface::ending();
    exit(code, None);
    if mana_plugin::finalised() {
        // Some MPIs take leave of their launcher in a handler of exit: it takes a process that ends
        // without for a failed one, and ends the others.
        // SAFETY: on a thread of this C library's; the handlers are those of the MPI and its libraries.
        unsafe { libc::exit(code) };
    }
}

/// The program executes another one in its place, which nobody controls.
pub fn replacing(
    path: &std::ffi::CStr,
    _argv: *const *const libc::c_char,
    _envp: *const *const libc::c_char,
) -> Result<(), i32> {
    // A shell or env tries one directory of PATH after the other.
    // SAFETY: a C string of the program.
    if unsafe { libc::access(path.as_ptr(), libc::X_OK) } != 0 {
        return Ok(());
    }
    log::warn!(
        "the program executes {} in its place, which is not under control: no checkpoints from here on; put mana_launch before it",
        path.to_string_lossy()
    );
    Ok(())
}

/// The program aborts the job.
pub fn aborting(code: i32) {
    exit(if code == 0 { 1 } else { code }, Some(ABORT));
}

/// Checkpointing as such has failed: run on unprotected, or stop, as configured.
pub fn failed(e: &(dyn std::error::Error + 'static)) {
    match job().spec.config.on_error {
        OnError::Continue if e.is::<outcome::Told>() => {}
        OnError::Continue => messages::error(format_args!("{e}{}", consequence())),
        OnError::Stop => outcome::fail(e),
    }
}

/// What follows from such a failure, for its line.
fn consequence() -> &'static str {
    match job().spec.config.on_error {
        OnError::Continue => {
            "; the program runs on UNPROTECTED (on_error = \"stop\" ends it instead)"
        }
        OnError::Stop => "",
    }
}
