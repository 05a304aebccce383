//! What an image knows of a tree.

use process_state::several::SharedFiles;
use process_state::{MemoryBlobs, ProcessState};
use serde::{Deserialize, Serialize};
use split_process::tree::{self, Place};
use split_process::Region;

/// A child that had ended and was not waited for yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// The number the program knows.
    pub id: i32,
    /// Its exit code, or the signal that ended it.
    pub status: i32,
    /// Whether a signal ended it.
    pub killed: bool,
}

/// How a process is related to others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kin {
    /// The number the program knows.
    pub id: i32,
    /// That of the process that made it.
    pub parent: i32,
    /// The leader of its process group; 0: the root's group.
    pub group: i32,
    /// The leader of its session; 0: the root's session.
    pub session: i32,
    /// Children that have ended.
    pub ended: Vec<Ended>,
}

/// A process that is not the root; its memory is in the image's data.
#[derive(Debug, Serialize, Deserialize)]
pub struct Member {
    pub kin: Kin,
    /// As of the split process.
    pub split: Vec<u8>,
    /// All but descriptors.
    pub state: ProcessState,
    pub blobs: MemoryBlobs,
    pub regions: Vec<Region>,
}

/// The section of an image.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tree {
    /// Of the root, whose state is in the sections of its own.
    pub root: Kin,
    /// The descriptors of all; process 0 is the root, process k member k-1.
    pub files: SharedFiles,
    pub blobs: MemoryBlobs,
    pub members: Vec<Member>,
}

/// `getpgid` and `getsid` of a process.
fn belongs(real: i32) -> (i32, i32) {
    // SAFETY: they take and return numbers.
    unsafe { (libc::getpgid(real), libc::getsid(real)) }
}

impl Kin {
    /// Of this process, which has `place`; on one of its threads.
    ///
    /// # Errors
    /// When a relation cannot be made again, by name.
    pub fn of(place: &Place) -> Result<Self, String> {
        let table = tree::table().ok_or("there is no tree")?;
        let own = std::process::id() as i32;
        let (group, session) = belongs(own);
        let (root_group, root_session) = belongs(table.root());
        let leader = |found: i32, root: i32, what: &str| match found {
            _ if found == root => Ok(0),
            _ => table.by_real(found).map(Place::id).ok_or_else(|| {
                format!("the leader of its {what} ({found}) has ended or is not under control")
            }),
        };
        let of_root = own == table.root();
        Ok(Self {
            id: place.id(),
            parent: place.parent(),
            group: if of_root {
                0
            } else {
                leader(group, root_group, "process group")?
            },
            session: if of_root {
                0
            } else {
                leader(session, root_session, "session")?
            },
            ended: table
                .places()
                .filter(|child| child.parent() == place.id())
                .filter_map(|child| ended(child.real()?, child.id()))
                .collect(),
        })
    }
}

/// What a child that has ended is waited for with; it stays to be waited for.
fn ended(real: i32, id: i32) -> Option<Ended> {
    // SAFETY: a zeroed siginfo is valid; waitid fills it and does not wait.
    let (result, code, status, pid) = unsafe {
        let mut told: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG;
        let result = libc::waitid(libc::P_PID, real as libc::id_t, &raw mut told, options);
        (result, told.si_code, told.si_status(), told.si_pid())
    };
    (result == 0 && pid == real).then_some(Ended {
        id,
        status,
        killed: code != libc::CLD_EXITED,
    })
}
