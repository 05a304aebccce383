//! What a parameter is: its meaning, its direction, its length, and its type at the boundary
//! between the halves.

/// Who writes a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The caller.
    In,
    /// The callee.
    Out,
    /// Both.
    InOut,
}

/// How many elements an array or string has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Length {
    /// The value of another parameter.
    Param(String),
    /// A `MPI_MAX_...` constant of the ABI.
    Constant(String),
    /// Three times the value of the parameter `n` (rank ranges).
    Triples(String),
    /// The size of the communicator (of the remote group for an intercommunicator).
    CommSize,
    /// The number of sources of this process in the communicator's topology.
    Indegree,
    /// The number of destinations of this process in the communicator's topology.
    Outdegree,
    /// The number of dimensions of a Cartesian communicator.
    CartDims,
    /// The sum of another array, or otherwise as the standard says; nothing needs it.
    Sum,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident $word:literal $ty:literal;)*) => {
        /// What a value means, which decides how it is translated between ABIs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $variant,)* }

        impl Kind {
            /// The word for it in the table.
            pub fn word(self) -> &'static str {
                match self { $(Kind::$variant => $word,)* }
            }

            /// The kind that a word of the table stands for.
            pub fn from_word(word: &str) -> Option<Kind> {
                match word { $($word => Some(Kind::$variant),)* _ => None }
            }

            /// The Rust type of one value in the standard ABI's form (handles as 64-bit words).
            pub fn rust_type(self) -> &'static str {
                match self { $(Kind::$variant => $ty,)* }
            }
        }
    };
}

kinds! {
    /// A plain `int`, the same in every ABI.
    Int "int" "i32";
    /// A flag.
    Logical "logical" "i32";
    /// A rank, with `MPI_ANY_SOURCE`, `MPI_PROC_NULL` and `MPI_ROOT`.
    Rank "rank" "i32";
    /// A tag, with `MPI_ANY_TAG`.
    Tag "tag" "i32";
    /// An error code or class.
    Error "error" "i32";
    /// An attribute key.
    Keyval "keyval" "i32";
    /// A thread support level.
    ThreadLevel "thread_level" "i32";
    /// The result of a comparison of groups or communicators.
    Comparison "comparison" "i32";
    /// A kind of topology.
    Topology "topology" "i32";
    /// How to split a communicator.
    SplitType "split_type" "i32";
    /// A kind of window lock.
    LockType "lock_type" "i32";
    /// Assertions about a window's epoch.
    Assert "assert" "i32";
    /// How a datatype was made.
    Combiner "combiner" "i32";
    /// Array order.
    Order "order" "i32";
    /// A distribution of an array's dimension.
    Distrib "distrib" "i32";
    /// The argument of a distribution, with `MPI_DISTRIBUTE_DFLT_DARG`.
    Darg "darg" "i32";
    /// A class of Fortran types.
    Typeclass "typeclass" "i32";
    /// File access mode.
    Amode "amode" "i32";
    /// Where a file offset counts from.
    Whence "whence" "i32";
    /// A weight of an edge; the array may be `MPI_UNWEIGHTED` or `MPI_WEIGHTS_EMPTY`.
    Weight "weight" "i32";
    /// A Fortran handle or status.
    Fint "fint" "i32";
    /// An address or a signed size.
    Aint "aint" "i64";
    /// A large count.
    Count "count" "i64";
    /// A file offset.
    Offset "offset" "i64";
    /// A time.
    Double "double" "f64";
    /// A communicator.
    Comm "comm" "u64";
    /// A group.
    Group "group" "u64";
    /// A datatype.
    Datatype "datatype" "u64";
    /// A file.
    File "file" "u64";
    /// An error handler.
    Errhandler "errhandler" "u64";
    /// A reduction operation.
    Op "op" "u64";
    /// An info object.
    Info "info" "u64";
    /// A window.
    Win "win" "u64";
    /// A matched message.
    Message "message" "u64";
    /// A request.
    Request "request" "u64";
    /// A session.
    Session "session" "u64";
    /// A status.
    Status "status" "Status";
    /// A message buffer, with `MPI_BOTTOM` and `MPI_IN_PLACE`.
    Buffer "buffer" "c_void";
    /// A C string.
    String "string" "c_char";
    /// A function of the program.
    Function "function" "c_void";
    /// An attribute's value (input), or where to put it (output).
    Attribute "attribute" "c_void";
    /// A pointer that is passed on unread.
    Pointer "pointer" "c_void";
    /// Where to put a pointer (its C type is `void *` all the same).
    Baseptr "baseptr" "c_void";
    /// `int *argc`.
    Argc "argc" "c_int";
    /// `char ***argv`, or another array of strings.
    Argv "argv" "c_void";
}

impl Kind {
    /// Whether it is an object's handle.
    pub fn is_handle(self) -> bool {
        use Kind::*;
        matches!(
            self,
            Comm | Group
                | Datatype
                | File
                | Errhandler
                | Op
                | Info
                | Win
                | Message
                | Request
                | Session
        )
    }

    /// Whether the C argument is an address whatever the direction.
    pub fn is_address(self) -> bool {
        use Kind::*;
        matches!(
            self,
            Buffer | String | Function | Attribute | Pointer | Baseptr | Argc | Argv
        )
    }
}
