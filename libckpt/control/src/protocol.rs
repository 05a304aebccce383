//! The messages between coordinator, ranks and tools.
//!
//! Encoded with postcard inside authenticated frames. A decoder never allocates more than the frame
//! it was given could hold; ranks, generations and levels in a message are checked against what the
//! receiver knows before use. Every answer of a rank names the generation it belongs to, so that an
//! answer to an abandoned one is recognised and ignored.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    CaptureStarted, Checkpoint, CommSeq, DrainReport, EndHow, GatePoll, GenerationId,
    GenerationStatus, ImageReport, Level, Outcome, Place, Request, Resumed, Settings, Started,
    Status, StepError,
};

/// Version of handshake and messages; both sides must have the same.
pub(crate) const VERSION: u16 = 6;
/// Longest payload a coordinator accepts from a rank or tool.
pub(crate) const MAX_TO_COORDINATOR: usize = 4 << 20;
/// Longest payload a rank or tool accepts from the coordinator (the reports of a million ranks).
pub(crate) const MAX_FROM_COORDINATOR: usize = 64 << 20;
/// Most ranks a job may have.
pub(crate) const MAX_RANKS: u32 = 1 << 20;
/// Longest text a rank may send about itself; longer ones are cut.
pub(crate) const MAX_TEXT: usize = 400;
/// Most threads of a rank that are told of.
pub(crate) const MAX_PLACES: usize = 16;

/// A rank introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub size: u32,
    pub host: String,
    pub node: u32,
    pub pid: u32,
    pub program: String,
    pub next_number: u64,
    pub settings: Settings,
    pub rejoin: Option<Rejoin>,
    /// Rank 0 of a resume, at its first registration.
    pub resumed: Option<Resumed>,
}

/// The rank has lost its connection and comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejoin {
    /// It was allowed to leave `MPI_Finalize`.
    pub finalized: bool,
}

/// How long one rank was held up, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pause {
    pub gate: u64,
    pub drain: u64,
    pub snapshot: u64,
}

/// Coordinator to rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToRank {
    /// Registered.
    Welcome,
    /// Not accepted; the connection is closed after it.
    Denied {
        reason: String,
    },
    /// All ranks are there.
    Started(Started),
    Intent {
        checkpoint: Checkpoint,
        report_every: Duration,
    },
    Targets {
        generation: GenerationId,
        epoch: u32,
        targets: Vec<CommSeq>,
    },
    Stop(GenerationId),
    Drain(GenerationId),
    Capture(Checkpoint),
    Resume(GenerationId),
    Commit {
        checkpoint: Checkpoint,
        images: Option<Vec<ImageReport>>,
    },
    LevelWork {
        generation: GenerationId,
        level: Level,
    },
    LevelComplete {
        generation: GenerationId,
        level: Level,
    },
    Prune {
        protect: Vec<GenerationId>,
    },
    Abandon {
        generation: GenerationId,
        reason: String,
    },
    /// `MPI_Finalize` may go on.
    Finalize,
    /// Every rank has ended with 0. To rank 0 alone: record that, before anybody deletes anything.
    RecordEnd,
    Finish(Outcome),
    EndJob {
        how: EndHow,
        reason: String,
    },
    /// A signal the rank holds back can go its way.
    SignalOver {
        signal: i32,
    },
    /// There is more time than the rank knows of: it may hold the signal back for `limit` from now.
    SignalHeld {
        signal: i32,
        limit: Duration,
    },
    /// To rank 0: ask the batch system how much time is left.
    AskTimeLeft,
    /// To rank 0: ask the batch system when the time limit comes now.
    AskLimit,
    Ping,
}

/// Rank to coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromRank {
    Register(Box<Registration>),
    /// To `Intent`.
    Seqs {
        generation: GenerationId,
        result: Result<Vec<CommSeq>, StepError>,
    },
    /// After `Targets`, whenever something has changed.
    Gate {
        generation: GenerationId,
        epoch: u32,
        poll: GatePoll,
    },
    Stopped {
        generation: GenerationId,
        result: Result<(), StepError>,
    },
    Drained {
        generation: GenerationId,
        result: Result<DrainReport, StepError>,
    },
    Captured {
        generation: GenerationId,
        result: Result<CaptureStarted, StepError>,
    },
    Resumed {
        generation: GenerationId,
        pause: Pause,
    },
    Durable {
        generation: GenerationId,
        result: Result<ImageReport, StepError>,
    },
    Committed {
        generation: GenerationId,
        result: Result<(), StepError>,
    },
    LevelDone {
        generation: GenerationId,
        level: Level,
        result: Result<(), StepError>,
    },
    LevelRecorded {
        generation: GenerationId,
        level: Level,
        result: Result<(), StepError>,
    },
    /// The program is in `MPI_Finalize`.
    Finalizing,
    /// The program ends.
    Exit {
        code: i32,
    },
    /// To `RecordEnd`.
    EndRecorded {
        result: Result<(), StepError>,
    },
    /// A checkpoint is wanted (a signal of the batch system).
    Request(Request),
    /// A signal that announces the end has come, and is held back.
    Signal {
        number: i32,
    },
    /// To `AskTimeLeft`: how long until the job is killed; `None`: no better known than before.
    TimeLeft {
        left: Option<Duration>,
    },
    /// To `AskLimit`: how long until the time limit, [`Duration::MAX`] without one; `None`: no better known than before.
    Limit {
        left: Option<Duration>,
    },
    /// To `Ping`, and now and then on the way to the safe point.
    Pong {
        doing: String,
        places: Vec<Place>,
    },
}

/// Tool to coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromTool {
    Status,
    Checkpoint {
        request: Request,
        wait: bool,
    },
    Kill {
        reason: String,
    },
    SetInterval {
        level: Level,
        interval: Option<Duration>,
    },
    Quit,
}

/// Coordinator to tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum ToTool {
    Status(Box<Status>),
    Committed(GenerationStatus),
    Done,
    Denied { reason: String },
}

/// Cuts a text that came from elsewhere to what is shown and kept, and drops control characters.
pub(crate) fn bounded(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_TEXT)
        .collect()
}

/// The same for what a rank waits for.
pub(crate) fn bounded_places(places: &[Place]) -> Vec<Place> {
    places
        .iter()
        .take(MAX_PLACES)
        .map(|place| Place {
            call: bounded(&place.call),
            comm_name: bounded(&place.comm_name),
            ..place.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::exactly;
    use proptest::prelude::*;

    #[test]
    fn texts_are_bounded_and_printable() {
        assert_eq!(bounded("a\u{1b}[2Jb\nc"), "a[2Jbc");
        assert_eq!(bounded(&"x".repeat(5000)).len(), MAX_TEXT);
    }

    #[test]
    fn a_false_length_does_not_allocate() {
        // FromRank::Seqs with a claimed list of 2^32 entries and no content.
        let mut bytes = postcard::to_stdvec(&FromRank::Seqs {
            generation: GenerationId {
                incarnation: 0,
                number: 1,
            },
            result: Ok(Vec::new()),
        })
        .expect("encode");
        bytes.pop();
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(exactly::<FromRank>(&bytes, "peer").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = exactly::<FromRank>(&bytes, "peer");
            let _ = exactly::<ToRank>(&bytes, "peer");
            let _ = exactly::<FromTool>(&bytes, "peer");
            let _ = exactly::<ToTool>(&bytes, "peer");
        }
    }
}
