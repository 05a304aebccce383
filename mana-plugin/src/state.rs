//! Everything the MPI layer knows: the program's objects as neutral descriptors, with the real handle
//! of today beside each.
//!
//! Lower half. [`State`] is what an image holds; real handles are left out of it and refilled by the
//! rebuild. [`core`] gives the one instance. Access rule: at most one thread is in the layer at a
//! time (the MPI thread; under `MPI_THREAD_MULTIPLE` whoever holds [`crate::entry::Guard`]), and no
//! reference from [`core`] is held across a call into the program or into another entry of this crate.

use crate::buffers::Owner;
use crate::drained::Queue;
use crate::explanations::Explanations;
use crate::files::{Datarep, File};
use crate::gate::Gate;
use crate::group::Members;
use crate::hooks::MpiHooks;
use crate::library::Library;
use crate::partitioned::{Channels, Partitions};
use crate::persistent::Recipe as CollectiveRecipe;
use crate::pool::Pool;
use crate::sessions::Session;
use crate::slab::Slab;
use crate::synchronous::{Log, Progress, Sender};
use crate::windows::Window;
use mpi_std::{kind, AdapterTable, Status, FIRST_INDEX, PREDEFINED_END};
use serde::{Deserialize, Serialize};
use std::cell::UnsafeCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

/// A result whose error is a standard error class, or `AGAIN`.
pub type Outcome<T = ()> = Result<T, i32>;

/// Index of `MPI_COMM_WORLD` among the communicators.
pub const WORLD: u32 = 0;
/// Index of `MPI_COMM_SELF`.
pub const SELF: u32 = 1;
/// Index of the layer's duplicate of the world, over which partitioned messages go.
pub const PRIVATE: u32 = 2;

/// How neighbours are arranged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Topology {
    /// None.
    Plain,
    /// A grid.
    Cart {
        /// Extent of each dimension.
        dims: Vec<i32>,
        /// Which dimensions wrap around.
        periods: Vec<i32>,
    },
    /// A graph known to all.
    Graph {
        /// End of each node's neighbours in `edges`.
        index: Vec<i32>,
        /// Neighbours.
        edges: Vec<i32>,
    },
    /// A graph of which each process knows its own edges.
    Distributed {
        /// Ranks with an edge to this one.
        sources: Vec<i32>,
        /// Their weights, if the graph has weights.
        source_weights: Option<Vec<i32>>,
        /// Ranks this one has an edge to.
        destinations: Vec<i32>,
        /// Their weights.
        destination_weights: Option<Vec<i32>>,
    },
}

/// A communicator.
#[derive(Debug, Serialize, Deserialize)]
pub struct Comm {
    /// Today's handle.
    #[serde(skip)]
    pub real: u64,
    /// Its gate; the sequence number is saved beside it.
    #[serde(skip)]
    pub gate: Option<&'static Gate>,
    /// World ranks of those that ranks in messages name: the members, of an inter-communicator the
    /// remote group.
    pub members: Members,
    /// World ranks of the local group of an inter-communicator.
    pub local: Option<Members>,
    /// Some members are outside the job.
    pub foreign: bool,
    /// This process's rank, in the local group.
    pub rank: i32,
    /// Requests of the program that are not complete, persistent ones while they exist.
    pub pending: u32,
    /// The program has freed it; it goes when nothing is pending, and the descriptor when all members have.
    pub freed: bool,
    /// This process has told so: see `farewells`.
    pub told: bool,
    /// Messages taken in by a drain.
    pub drained: Queue,
    /// Sends, counted while a synchronous one is under way.
    pub synchronous: Option<Box<Log>>,
    /// Same on all members, different from all others.
    pub id: u64,
    /// Number of collectives, filled when the state is saved.
    pub seq: u64,
    /// Neighbours.
    pub topology: Topology,
    /// `MPI_Comm_set_name`.
    pub name: Vec<u8>,
    /// Error handler's word.
    pub errhandler: u64,
    /// Attributes by key, in the order they were set.
    pub attributes: Vec<(i32, u64)>,
    /// Hints the program gave.
    pub info: Vec<(Vec<u8>, Vec<u8>)>,
    /// Buffered sends on it alone.
    pub buffer: Option<AttachedBuffer>,
    /// Index of the session it stems from, if it does not stem from the world's communicators.
    pub session: Option<u32>,
}

/// A group.
#[derive(Debug, Serialize, Deserialize)]
pub struct Group {
    /// World ranks.
    pub members: Members,
    /// Index of the session it stems from.
    pub session: Option<u32>,
}

impl Comm {
    /// An intra-communicator of these members that is none yet.
    pub fn vacant(members: Members) -> Comm {
        Comm {
            real: mpi_std::MPI_COMM_NULL,
            gate: None,
            members,
            local: None,
            foreign: false,
            rank: mpi_std::MPI_UNDEFINED,
            pending: 0,
            freed: false,
            told: false,
            drained: Queue::default(),
            synchronous: None,
            id: 0,
            seq: 0,
            topology: Topology::Plain,
            name: Vec::new(),
            errhandler: mpi_std::MPI_ERRORS_ARE_FATAL,
            attributes: Vec::new(),
            info: Vec::new(),
            buffer: None,
            session: None,
        }
    }
}

/// How a datatype was made, in the form of `MPI_Type_get_contents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// `MPI_COMBINER_*`.
    pub combiner: i32,
    /// Integer arguments.
    pub integers: Vec<i32>,
    /// Address arguments.
    pub addresses: Vec<i64>,
    /// Datatype arguments, as words of the program.
    pub types: Vec<u64>,
}

/// A derived datatype.
#[derive(Debug, Serialize, Deserialize)]
pub struct Datatype {
    /// Today's handle.
    #[serde(skip)]
    pub real: u64,
    /// How it was made.
    pub recipe: Recipe,
    /// Handles the program holds.
    pub held: u32,
    /// Other datatypes and requests that need it.
    pub used: u32,
    /// `MPI_Type_commit` was called.
    pub committed: bool,
    /// Order of creation.
    pub serial: u64,
    /// `MPI_Type_set_name`.
    pub name: Vec<u8>,
    /// Attributes by key.
    pub attributes: Vec<(i32, u64)>,
}

/// A reduction operation of the program.
#[derive(Debug, Serialize, Deserialize)]
pub struct Op {
    /// Today's handle.
    #[serde(skip)]
    pub real: u64,
    /// What the stub passed as its function.
    pub function: u64,
    /// Whether it is commutative.
    pub commute: bool,
    /// Requests that need it.
    pub used: u32,
    /// The program has freed it; it goes when nothing needs it.
    pub freed: bool,
    /// Of an operation of ours: what it does.
    pub blocks: Option<crate::ops::Blocks>,
}

/// An error handler of the program.
#[derive(Debug, Serialize, Deserialize)]
pub struct Errhandler {
    /// What the stub passed as its function.
    pub function: u64,
    /// Handles the program holds, and objects it is attached to.
    pub references: u32,
}

/// A key of attributes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Keyval {
    /// Kind of object it is for (`mpi_std::kind`).
    pub kind: u8,
    /// What the stub passed as the copy function.
    pub copy: u64,
    /// What the stub passed as the delete function.
    pub delete: u64,
    /// Extra state.
    pub extra: u64,
    /// Handles held and attributes set.
    pub references: u32,
}

/// A matched message.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    /// Index of its communicator.
    pub comm: u32,
    /// Sender's rank.
    pub source: i32,
    /// Tag.
    pub tag: i32,
    /// Bytes.
    pub bytes: u64,
    /// Today's handle, if it is still in the library.
    #[serde(skip)]
    pub real: u64,
    /// Its content, if a drain took it in.
    pub data: Option<Vec<u8>>,
    /// Who waits for its receive.
    pub sender: Option<Sender>,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// A send; `MPI_Send`, `MPI_Ssend`, `MPI_Rsend` or `MPI_Bsend` by the adapter's mode numbers.
    Send(u8),
    /// A receive.
    Recv,
    /// The receive of a matched message.
    MatchedRecv,
    /// A non-blocking collective, or duplication of a communicator.
    Collective,
    /// A generalised request.
    Generalised,
    /// A one-sided operation.
    OneSided,
    /// An operation on a file.
    File,
}

/// A predefined datatype with what the program has given to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PredefinedType {
    /// Its word.
    pub word: u64,
    /// `MPI_Type_set_name`, or its own.
    pub name: Vec<u8>,
    /// Attributes by key, in the order they were set.
    pub attributes: Vec<(i32, u64)>,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Persistent and not started.
    Inactive,
    /// Under way.
    Active,
    /// Complete; the program has not been told yet.
    Done,
}

/// A status that can be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedStatus(pub i32, pub i32, pub u64, pub bool);

impl From<Status> for SavedStatus {
    #[inline]
    fn from(s: Status) -> Self {
        SavedStatus(s.source, s.tag, s.bytes(), s.cancelled())
    }
}

impl From<SavedStatus> for Status {
    #[inline]
    fn from(s: SavedStatus) -> Self {
        let mut out = Status {
            source: s.0,
            tag: s.1,
            ..Status::EMPTY
        };
        out.set_bytes(s.2);
        out.set_cancelled(s.3);
        out
    }
}

/// Functions of a generalised request.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Generalised {
    /// What the stub passed.
    pub query: u64,
    /// What the stub passed.
    pub free: u64,
    /// What the stub passed.
    pub cancel: u64,
    /// Of an extended one: what the stub passed, else 0.
    pub poll: u64,
    /// Of an extended one: what the stub passed, else 0.
    pub wait: u64,
    /// Extra state.
    pub extra: u64,
}

/// Memory that must live as long as a request.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// Packed data of a buffered send, and the size charged to the program's buffer.
    #[serde(skip)]
    pub bytes: Vec<u8>,
    /// Arrays of real datatypes handed to the library.
    #[serde(skip)]
    pub words: Vec<Box<[u64]>>,
    /// A generalised request's functions.
    pub generalised: Option<Generalised>,
    /// Temporary buffer of an `MPI_Isendrecv_replace`, and the other half of the operation.
    pub partner: Option<u32>,
    /// Bytes charged to an attached buffer.
    pub charged: Option<(Owner, u64)>,
    /// The buffer whose emptiness completes the request.
    pub flushes: Option<Owner>,
    /// Datatypes and operations that must live as long as the request.
    pub uses: Vec<u64>,
    /// A persistent collective's arguments.
    pub recipe: Option<Arc<CollectiveRecipe>>,
    /// What a partitioned communication has more than another one.
    pub partitions: Option<Partitions>,
    /// How far a synchronous send is.
    pub synchronous: Option<Progress>,
    /// Of the duplication of a communicator: the duplicate's index, and where the library puts its handle.
    #[serde(skip)]
    pub duplicate: Option<(u32, Box<AtomicU64>)>,
    /// What a send tells that stands for a receive which is over.
    pub received: Option<(SavedStatus, i32)>,
}

/// A request, of the program or our own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Today's handle while active.
    #[serde(skip)]
    pub real: u64,
    /// What it does.
    pub work: Work,
    /// Where it stands.
    pub phase: Phase,
    /// Made by `MPI_*_init`.
    pub persistent: bool,
    /// The program has freed it while active.
    pub orphan: bool,
    /// Its status must be seen when it completes: the sender is not known, or it may be cancelled.
    pub telling: bool,
    /// Index of its communicator.
    pub comm: u32,
    /// Rank of the other side, or `MPI_ANY_SOURCE`.
    pub peer: i32,
    /// Tag.
    pub tag: i32,
    /// Elements.
    pub count: i32,
    /// Address of the buffer in the program.
    pub buf: u64,
    /// Datatype's word.
    pub datatype: u64,
    /// Order of posting among all receives of this rank.
    pub order: u64,
    /// When done: what to tell.
    pub status: SavedStatus,
    /// When done: error class.
    pub error: i32,
    /// Memory to keep.
    pub kept: Option<Box<Kept>>,
}

impl Request {
    /// Active, and nothing of it is in the library.
    #[inline(always)]
    pub fn unposted(&self) -> bool {
        let partitions = self.kept.as_ref().and_then(|k| k.partitions.as_ref());
        self.work == Work::Generalised || partitions.is_some_and(|p| p.waits())
    }

    /// The library alone cannot wait for it.
    #[inline(always)]
    pub fn apart(&self) -> bool {
        self.unposted() || self.kept.as_ref().is_some_and(|k| k.partner.is_some())
    }

    /// World rank and tag of the acknowledgement that a drained synchronous send waits for.
    pub fn acknowledgement(&self) -> Option<(u32, i32)> {
        match self.kept.as_ref()?.synchronous? {
            Progress::Drained(world, tag) => Some((world, tag)),
            Progress::Sent(_) => None,
        }
    }

    /// A request that is none: room for one.
    pub fn vacant() -> Request {
        Request {
            real: mpi_std::MPI_REQUEST_NULL,
            work: Work::Recv,
            phase: Phase::Inactive,
            persistent: false,
            orphan: false,
            telling: false,
            comm: 0,
            peer: 0,
            tag: 0,
            count: 0,
            buf: 0,
            datatype: mpi_std::MPI_DATATYPE_NULL,
            order: 0,
            status: SavedStatus(mpi_std::MPI_ANY_SOURCE, mpi_std::MPI_ANY_TAG, 0, false),
            error: mpi_std::MPI_SUCCESS,
            kept: None,
        }
    }
}

/// The program's buffer for buffered sends; only its size is used.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct AttachedBuffer {
    /// As attached.
    pub address: u64,
    /// As attached.
    pub size: i64,
    /// Bytes charged by sends under way.
    pub used: u64,
}

/// What an image holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// Version of this structure.
    pub version: u32,
    /// Rank in the world.
    pub rank: i32,
    /// Size of the world.
    pub size: i32,
    /// What the program asked for.
    pub thread_level: i32,
    /// Address of the stub's callback table.
    pub stub: u64,
    /// Communicators; the world at [`WORLD`], self at [`SELF`].
    pub comms: Slab<Comm>,
    /// Groups.
    pub groups: Slab<Group>,
    /// Datatypes.
    pub datatypes: Slab<Datatype>,
    /// What the program has given to predefined datatypes.
    pub predefined_types: Vec<PredefinedType>,
    /// Operations.
    pub ops: Slab<Op>,
    /// Requests.
    pub requests: Pool,
    /// Matched messages.
    pub messages: Slab<Message>,
    /// Sessions.
    pub sessions: Slab<Session>,
    /// Thread levels of the calls of `MPI_T_init_thread` without their `MPI_T_finalize`.
    pub tools: Vec<i32>,
    /// The program has called `MPI_Init`, and not `MPI_Finalize` yet.
    pub begun: bool,
    /// The program has called `MPI_Finalize`.
    pub ended: bool,
    /// Windows.
    pub windows: Slab<Window>,
    /// Files.
    pub files: Slab<File>,
    /// Error handler of the null file, which new files get.
    pub file_errhandler: u64,
    /// Data representations of the program.
    pub datareps: Vec<Datarep>,
    /// `MPI_INFO_ENV`.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Info objects.
    pub infos: Slab<Vec<(Vec<u8>, Vec<u8>)>>,
    /// Error handlers.
    pub errhandlers: Slab<Errhandler>,
    /// Keys.
    pub keyvals: Slab<Keyval>,
    /// Error classes and codes of the program: code, class, text; see `errors`.
    pub codes: Vec<(i32, i32, Vec<u8>)>,
    /// What libraries have said of errors.
    pub explanations: Explanations,
    /// Buffered sends.
    pub buffer: Option<AttachedBuffer>,
    /// Messages sent to each world rank.
    pub sent: Vec<u64>,
    /// Messages received from each world rank.
    pub received: Vec<u64>,
    /// Next number for things numbered in order of creation.
    pub serial: u64,
    /// Sequence numbers of what groups make: parent and key ([`Core::group_gates`]), size, number.
    pub group_gates: Vec<((u64, u64), u32, u64)>,
    /// Members below this one that have freed a communicator, by its identity: see `farewells`.
    pub heard: HashMap<u64, u32>,
    /// Partitioned communication.
    pub channels: Channels,
    /// Predefined attributes: value by key.
    pub predefined: Vec<(i32, i32)>,
    /// Memory from `MPI_Alloc_mem`: address and length.
    pub memory: Vec<(u64, u64)>,
    /// The library below, as far as the program may know it.
    pub library: Library,
}

impl State {
    /// The state before `MPI_Init`.
    pub fn new() -> State {
        State {
            version: VERSION,
            rank: 0,
            size: 0,
            thread_level: 0,
            stub: 0,
            comms: Slab::starting_at(FIRST_INDEX),
            groups: Slab::starting_at(FIRST_INDEX),
            datatypes: Slab::starting_at(FIRST_INDEX),
            predefined_types: Vec::new(),
            ops: Slab::starting_at(FIRST_INDEX),
            requests: Pool::starting_at(FIRST_INDEX),
            messages: Slab::starting_at(FIRST_INDEX),
            sessions: Slab::starting_at(FIRST_INDEX),
            tools: Vec::new(),
            begun: false,
            ended: false,
            windows: Slab::starting_at(FIRST_INDEX),
            files: Slab::starting_at(FIRST_INDEX),
            file_errhandler: mpi_std::MPI_ERRORS_RETURN,
            datareps: Vec::new(),
            environment: Vec::new(),
            infos: Slab::starting_at(FIRST_INDEX),
            errhandlers: Slab::starting_at(FIRST_INDEX),
            keyvals: Slab::starting_at(FIRST_INDEX),
            codes: Vec::new(),
            explanations: Explanations::default(),
            buffer: None,
            sent: Vec::new(),
            received: Vec::new(),
            serial: 1,
            group_gates: Vec::new(),
            heard: HashMap::new(),
            channels: Channels::default(),
            predefined: Vec::new(),
            memory: Vec::new(),
            library: Library::default(),
        }
    }
}

/// Version of [`State`].
pub const VERSION: u32 = 13;

/// The layer's state in this process.
pub struct Core {
    /// The adapter.
    pub adapter: &'static AdapterTable,
    /// The surroundings.
    pub hooks: &'static dyn MpiHooks,
    /// Saved part.
    pub state: State,
    /// Between the real `MPI_Init` and `MPI_Finalize`.
    pub active: bool,
    /// The real MPI was started, in vain, to resume: it waits for the program's `MPI_Init`.
    pub early: bool,
    /// The program has finalised.
    pub finalised: bool,
    /// Several threads may be in MPI at once.
    pub multiple: bool,
    /// Granted thread level.
    pub provided: i32,
    /// Kernel id of the thread that called `MPI_Init`.
    pub main_thread: i32,
    /// Our duplicate of the world.
    pub private: u64,
    /// Our duplicate of self.
    pub private_self: u64,
    /// Gates of what groups make, by parent's identity (none of a session: 0) and by (parent, group, tag).
    pub group_gates: BTreeMap<(u64, u64), &'static Gate>,
    /// Indices of communicators by identity.
    pub ids: HashMap<u64, u32>,
    /// Messages of the layer to itself.
    pub mail: crate::mail::Count,
    /// Requests freed while active, and buffered sends under way.
    pub orphans: Vec<u32>,
    /// Arrays for one `MPI_Waitall`, lent to it.
    pub scratch: Scratch,
}

/// Arrays kept from call to call.
#[derive(Default)]
pub struct Scratch {
    /// Real requests.
    pub reals: Vec<u64>,
    /// Index and position in the program's array of each.
    pub places: Vec<(u32, u32)>,
    /// Their statuses.
    pub statuses: Vec<Status>,
    /// Derived datatypes that they needed.
    pub types: Vec<u64>,
    /// Freed communicators that they were the last of.
    pub comms: Vec<u32>,
}

struct Cell(UnsafeCell<Option<Core>>);

// SAFETY: the access rule at the top of the module.
unsafe impl Sync for Cell {}

static CORE: Cell = Cell(UnsafeCell::new(None));

/// Puts the core in place; once, before the first call.
pub fn install(core: Core) {
    // SAFETY: called by `crate::install` before any slot is published.
    unsafe { *CORE.0.get() = Some(core) };
}

/// Whether [`install`] was called.
pub fn installed() -> bool {
    // SAFETY: the access rule.
    unsafe { (*CORE.0.get()).is_some() }
}

/// The core. Only reachable through the slots that `install` returned.
#[inline(always)]
#[allow(clippy::mut_from_ref, reason = "the access rule of the module")]
pub fn core() -> &'static mut Core {
    // SAFETY: the access rule; slots exist only after `install`.
    match unsafe { &mut *CORE.0.get() } {
        Some(core) => core,
        // SAFETY: no slot is published before `install`.
        None => unsafe { std::hint::unreachable_unchecked() },
    }
}

impl Core {
    /// The real procedures.
    #[inline(always)]
    pub fn procs(&self) -> &'static mpi_std::ProcTable {
        &self.adapter.procs
    }

    /// Index of a communicator's word.
    #[inline(always)]
    pub fn comm_index(&self, word: u64) -> Outcome<u32> {
        if word == mpi_std::MPI_COMM_WORLD {
            return Ok(WORLD);
        }
        if mpi_std::kind_of(word) == kind::COMM {
            return Ok(mpi_std::index_of(word));
        }
        if word == mpi_std::MPI_COMM_SELF {
            return Ok(SELF);
        }
        Err(mpi_std::MPI_ERR_COMM)
    }

    /// The word of a communicator's index.
    pub fn comm_word(&self, index: u32) -> u64 {
        match index {
            WORLD => mpi_std::MPI_COMM_WORLD,
            SELF => mpi_std::MPI_COMM_SELF,
            i => mpi_std::handle(kind::COMM, i),
        }
    }

    /// A communicator of the program.
    #[inline(always)]
    pub fn comm(&mut self, word: u64) -> Outcome<(u32, &mut Comm)> {
        let index = self.comm_index(word)?;
        match self.state.comms.get_mut(index) {
            Some(c) if !c.freed => Ok((index, c)),
            _ => Err(mpi_std::MPI_ERR_COMM),
        }
    }

    /// The real word of a datatype.
    #[inline(always)]
    pub fn real_type(&self, word: u64) -> Outcome<u64> {
        if word < PREDEFINED_END {
            return Ok(word);
        }
        self.datatype(word).map(|t| t.real)
    }

    /// The real word of a datatype, or null for anything that is none (an argument that may be
    /// insignificant on this rank).
    #[inline(always)]
    pub fn lenient_type(&self, word: u64) -> u64 {
        self.real_type(word).unwrap_or(mpi_std::MPI_DATATYPE_NULL)
    }

    /// A derived datatype.
    #[inline]
    pub fn datatype(&self, word: u64) -> Outcome<&Datatype> {
        if mpi_std::kind_of(word) != kind::DATATYPE {
            return Err(mpi_std::MPI_ERR_TYPE);
        }
        self.state
            .datatypes
            .get(mpi_std::index_of(word))
            .ok_or(mpi_std::MPI_ERR_TYPE)
    }

    /// A derived datatype.
    pub fn datatype_mut(&mut self, word: u64) -> Outcome<&mut Datatype> {
        if mpi_std::kind_of(word) != kind::DATATYPE {
            return Err(mpi_std::MPI_ERR_TYPE);
        }
        self.state
            .datatypes
            .get_mut(mpi_std::index_of(word))
            .ok_or(mpi_std::MPI_ERR_TYPE)
    }

    /// A predefined datatype, as the program may change it.
    pub fn predefined_type(&mut self, word: u64) -> Outcome<&mut PredefinedType> {
        let all = &mut self.state.predefined_types;
        let at = match all.iter().position(|t| t.word == word) {
            Some(at) => at,
            None => {
                let known = mpi_std::PREDEFINED_DATATYPES.iter();
                let mut same = known.filter(|p| p.handle == word);
                let of = same.next().ok_or(mpi_std::MPI_ERR_TYPE)?;
                all.push(PredefinedType {
                    word,
                    name: of.name.as_bytes().to_vec(),
                    attributes: Vec::new(),
                });
                all.len() - 1
            }
        };
        all.get_mut(at).ok_or(mpi_std::MPI_ERR_TYPE)
    }

    /// Notes that a request or datatype needs `word`.
    #[inline(always)]
    pub fn use_type(&mut self, word: u64) {
        if word >= PREDEFINED_END {
            if let Ok(t) = self.datatype_mut(word) {
                t.used += 1;
            }
        }
    }

    /// A number larger than all before.
    #[inline(always)]
    pub fn next_serial(&mut self) -> u64 {
        let n = self.state.serial;
        self.state.serial += 1;
        n
    }
}
