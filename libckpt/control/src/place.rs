//! Where a rank's program waits, in words and figures.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one thread of a program waits for inside MPI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The MPI procedure.
    pub call: String,
    /// Identity of the communicator, the same number on all its members.
    pub comm_id: Option<u64>,
    /// Name of the communicator; empty if it has none.
    pub comm_name: String,
    /// Rank (in the job) of the other side; `None` if none is named, or any will do.
    pub peer: Option<u32>,
    /// Whether something goes to the other side; else it comes from there.
    pub sends: bool,
    /// Tag; `None` if there is none, or any will do.
    pub tag: Option<i32>,
    /// Number of the collective on its communicator, from 1.
    pub number: Option<u64>,
    /// Further requests the call waits for.
    pub more: u32,
    /// How long it has waited, as far as that was seen.
    pub waited: Duration,
}

impl Place {
    /// The same wait, however long it has lasted.
    pub fn is_same(&self, other: &Self) -> bool {
        let without_time = |place: &Self| Self {
            waited: Duration::ZERO,
            ..place.clone()
        };
        without_time(self) == without_time(other)
    }
}

/// "MPI_Recv from rank 3, tag 7, on MPI_COMM_WORLD", without the time.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.call)?;
        if let Some(number) = self.number {
            write!(f, " (number {number})")?;
        }
        if let Some(peer) = self.peer {
            let preposition = if self.sends { "to" } else { "from" };
            write!(f, " {preposition} rank {peer}")?;
        }
        if let Some(tag) = self.tag {
            write!(f, ", tag {tag},")?;
        }
        match (self.comm_id, self.comm_name.as_str()) {
            (None, "") => {}
            (Some(id), "") => write!(f, " on communicator {id:x}")?,
            (_, name) => write!(f, " on {name}")?,
        }
        match self.more {
            0 => Ok(()),
            1 => f.write_str(" and 1 more request"),
            more => write!(f, " and {more} more requests"),
        }
    }
}

/// Whether a rank still waits for the same things.
pub(crate) fn are_same(one: &[Place], other: &[Place]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.is_same(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_well() {
        let mut place = Place {
            call: "MPI_Recv".into(),
            comm_name: "MPI_COMM_WORLD".into(),
            comm_id: Some(1),
            peer: Some(3),
            tag: Some(7),
            ..Place::default()
        };
        assert_eq!(
            place.to_string(),
            "MPI_Recv from rank 3, tag 7, on MPI_COMM_WORLD"
        );
        place.comm_name.clear();
        place.comm_id = Some(0xabc);
        (place.tag, place.sends, place.more) = (None, true, 2);
        place.call = "MPI_Waitall".into();
        assert_eq!(
            place.to_string(),
            "MPI_Waitall to rank 3 on communicator abc and 2 more requests"
        );
        let collective = Place {
            call: "MPI_Allreduce".into(),
            comm_name: "MPI_COMM_WORLD".into(),
            number: Some(12),
            ..Place::default()
        };
        assert_eq!(
            collective.to_string(),
            "MPI_Allreduce (number 12) on MPI_COMM_WORLD"
        );
        assert!(collective.is_same(&Place {
            waited: Duration::from_secs(5),
            ..collective.clone()
        }));
    }
}
