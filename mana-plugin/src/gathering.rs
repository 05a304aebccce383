//! Everyone's bytes to everyone, while it is known who has not come, and what they do instead.
//!
//! ```text
//!   others -> rank 0   BRINGS bytes          or, while they are busy, BUSY words (again when they change)
//!   rank 0 -> others   GO, then a broadcast of all bytes      or, after the limit, GIVEN_UP words
//!   rank 0 -> rank 1   ALIVE every few seconds: rank 1 says so if it hears nothing
//! ```
//! A collective of the MPI library would tell nobody whom it waits for. Lower half, the MPI thread, before the
//! program runs (again): nothing else is on the private communicator then.

use std::time::{Duration, Instant};

use crate::checkpoint::{receive_message, with_bytes};
use crate::errors::check;
use crate::state::core;
use crate::world::WorldCollective;
use mpi_std::*;

/// The first word about who is missing; every following one after twice the time.
pub const FIRST_WORD: Duration = Duration::from_secs(10);
/// Whoever is busy for so long says with what.
const BUSY_FOR: Duration = Duration::from_secs(5);
/// How often rank 0 tells rank 1 that it is there.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Between two looks, at first and at last.
const SHORT: Duration = Duration::from_micros(20);
const LONG: Duration = Duration::from_millis(2);
/// The same where nobody else is looked for.
const ALONE: Duration = Duration::from_millis(250);

/// Tags of the private communicator.
const UP: i32 = 12;
const DOWN: i32 = 13;

/// First byte of a message.
const BRINGS: u8 = 1;
const BUSY: u8 = 2;
const GO: u8 = 3;
const GIVEN_UP: u8 = 4;
const ALIVE: u8 = 5;

/// What a rank has for a gathering when it is asked.
pub enum Offer {
    /// Its bytes.
    Brings(Vec<u8>),
    /// Nothing yet: it does this.
    Busy(String),
    /// It does not take part, nor does any other rank.
    Leaves,
}

/// One that has not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub rank: u32,
    /// What it has said that it does; empty if it has said nothing.
    pub doing: String,
}

/// Who takes part in gatherings on this rank.
pub trait Gatherer {
    /// What it brings, waited for at most `limit`.
    fn offer(&mut self, limit: Duration) -> Offer;
    /// Rank 0: for how long the others are waited for, as far as is known now. `None`: without end.
    fn limit(&mut self) -> Option<Duration>;
    /// Rank 0: these have not come; after [`FIRST_WORD`], and then at twice the time each.
    fn waits(&mut self, waited: Duration, missing: &[Missing]);
    /// Rank 0: the limit has passed. What every rank is told.
    fn gives_up(&mut self, waited: Duration, missing: &[Missing]) -> String;
    /// Rank 1: nothing was heard of rank 0.
    fn silent(&mut self, waited: Duration);
}

/// What has come of one.
pub enum Gathered {
    /// Everyone's bytes, by rank.
    All(Vec<Vec<u8>>),
    /// This rank (and every other) has left.
    Left,
    /// Not all came: rank 0's words.
    GivenUp(String),
}

/// When something is said next.
struct Words {
    since: Instant,
    next: Duration,
}

impl Words {
    fn after(first: Duration) -> Self {
        Self {
            since: Instant::now(),
            next: first,
        }
    }

    /// How long it has lasted, if that is to be said now.
    fn due(&mut self) -> Option<Duration> {
        let waited = self.since.elapsed();
        if waited < self.next {
            return None;
        }
        self.next = waited * 2;
        Some(waited)
    }
}

/// Pauses that grow while nothing happens.
struct Pause(Duration);

impl Pause {
    fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(LONG);
        now
    }
}

/// One gathering of all ranks; of this one alone without `world`.
///
/// # Errors
/// The class of an MPI error.
pub fn gather(
    world: Option<&WorldCollective>,
    gatherer: &mut dyn Gatherer,
) -> Result<Gathered, i32> {
    match world.map_or(0, WorldCollective::rank) {
        0 => lead(world, gatherer),
        rank => follow(world, rank, gatherer),
    }
}

fn lead(world: Option<&WorldCollective>, gatherer: &mut dyn Gatherer) -> Result<Gathered, i32> {
    let size = world.map_or(1, WorldCollective::size);
    let mut brought: Vec<Option<Vec<u8>>> = vec![None; size as usize];
    let mut doing = vec![String::new(); size as usize];
    let mut open = size as usize;
    let mut words = Words::after(FIRST_WORD);
    let mut told = Instant::now();
    let mut pause = Pause(if size == 1 { ALONE } else { SHORT });
    while open > 0 {
        if brought[0].is_none() {
            match gatherer.offer(pause.next()) {
                Offer::Brings(bytes) => {
                    brought[0] = Some(bytes);
                    open -= 1;
                }
                Offer::Busy(what) => doing[0] = what,
                Offer::Leaves => return Ok(Gathered::Left),
            }
        } else {
            std::thread::sleep(pause.next());
        }
        // Alone there is no MPI to ask.
        let next = || match size {
            1 => Ok(None),
            _ => take(MPI_ANY_SOURCE, UP),
        };
        while let Some((rank, mut message)) = next()? {
            pause = Pause(SHORT);
            let rank = rank as usize;
            match message.first() {
                Some(&BRINGS) if brought[rank].is_none() => {
                    message.remove(0);
                    brought[rank] = Some(message);
                    open -= 1;
                }
                Some(&BUSY) => doing[rank] = String::from_utf8_lossy(&message[1..]).into_owned(),
                _ => return Err(MPI_ERR_INTERN),
            }
        }
        if open == 0 {
            break;
        }
        if size > 1 && told.elapsed() >= ALIVE_EVERY {
            put(1, DOWN, &[ALIVE])?;
            told = Instant::now();
        }
        let missing = || -> Vec<Missing> {
            let all = brought.iter().zip(&doing).enumerate();
            all.filter(|(_, (brought, _))| brought.is_none())
                .map(|(rank, (_, doing))| Missing {
                    rank: rank as u32,
                    doing: doing.clone(),
                })
                .collect()
        };
        let waited = words.since.elapsed();
        if gatherer.limit().is_some_and(|limit| waited >= limit) {
            let text = gatherer.gives_up(waited, &missing());
            let message = [&[GIVEN_UP], text.as_bytes()].concat();
            (1..size).try_for_each(|rank| put(rank as i32, DOWN, &message))?;
            return Ok(Gathered::GivenUp(text));
        }
        if let Some(waited) = words.due() {
            gatherer.waits(waited, &missing());
        }
    }
    (1..size).try_for_each(|rank| put(rank as i32, DOWN, &[GO]))?;
    let all: Vec<Vec<u8>> = brought.into_iter().map(Option::unwrap_or_default).collect();
    if let Some(world) = world.filter(|_| size > 1) {
        let lengths = all
            .iter()
            .flat_map(|bytes| (bytes.len() as u64).to_le_bytes());
        let mut both: Vec<u8> = lengths.collect();
        all.iter().for_each(|bytes| both.extend_from_slice(bytes));
        world.bcast(0, &mut both)?;
    }
    Ok(Gathered::All(all))
}

fn follow(
    world: Option<&WorldCollective>,
    own: u32,
    gatherer: &mut dyn Gatherer,
) -> Result<Gathered, i32> {
    let Some(world) = world else {
        return Err(MPI_ERR_INTERN);
    };
    let since = Instant::now();
    let mut said = String::new();
    let mut pause = Pause(SHORT);
    let bytes = loop {
        match gatherer.offer(pause.next()) {
            Offer::Brings(bytes) => break bytes,
            Offer::Leaves => return Ok(Gathered::Left),
            Offer::Busy(what) => {
                if since.elapsed() >= BUSY_FOR && what != said {
                    put(0, UP, &[&[BUSY], what.as_bytes()].concat())?;
                    said = what;
                }
            }
        }
        if let Some(Heard::GivenUp(text)) = heard()? {
            return Ok(Gathered::GivenUp(text));
        }
    };
    let message = [&[BRINGS], bytes.as_slice()].concat();
    drop(bytes);
    let mut sending = Some(start(0, UP, &message)?);
    let mut words = Words::after(FIRST_WORD * 2);
    let mut pause = Pause(SHORT);
    loop {
        if let Some(request) = &mut sending {
            if is_done(request)? {
                sending = None;
            }
        }
        match heard()? {
            Some(Heard::Go) => break,
            Some(Heard::GivenUp(text)) => {
                // Rank 0 takes nothing any more; what it has not taken goes with this process.
                if sending.is_some() {
                    std::mem::forget(message);
                }
                return Ok(Gathered::GivenUp(text));
            }
            Some(Heard::Alive) => words = Words::after(FIRST_WORD * 2),
            None => std::thread::sleep(pause.next()),
        }
        if let Some(waited) = words.due().filter(|_| own == 1) {
            gatherer.silent(waited);
        }
    }
    if let Some(mut request) = sending {
        while !is_done(&mut request)? {
            std::thread::sleep(SHORT);
        }
    }
    let mut both = Vec::new();
    world.bcast(0, &mut both)?;
    split(&both, world.size() as usize)
        .map(Gathered::All)
        .ok_or(MPI_ERR_INTERN)
}

/// Takes apart what rank 0 has put together: lengths, then everyone's bytes.
fn split(both: &[u8], size: usize) -> Option<Vec<Vec<u8>>> {
    let (lengths, mut rest) = both.split_at_checked(size * 8)?;
    let mut all = Vec::with_capacity(size);
    for length in lengths.chunks_exact(8) {
        let length = u64::from_le_bytes(length.try_into().ok()?);
        let (bytes, more) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        all.push(bytes.to_vec());
        rest = more;
    }
    rest.is_empty().then_some(all)
}

/// What rank 0 says.
enum Heard {
    Go,
    GivenUp(String),
    Alive,
}

fn heard() -> Result<Option<Heard>, i32> {
    let Some((_, message)) = take(0, DOWN)? else {
        return Ok(None);
    };
    Ok(Some(match message.split_first() {
        Some((&GO, _)) => Heard::Go,
        Some((&GIVEN_UP, text)) => Heard::GivenUp(String::from_utf8_lossy(text).into_owned()),
        Some((&ALIVE, _)) => Heard::Alive,
        _ => return Err(MPI_ERR_INTERN),
    }))
}

/// A message that is there.
fn take(source: i32, tag: i32) -> Result<Option<(i32, Vec<u8>)>, i32> {
    let c = core();
    let (mut flag, mut message, mut status) = (0, MPI_MESSAGE_NULL, Status::EMPTY);
    // SAFETY: output arguments of ours.
    check(unsafe {
        (c.procs().MPI_Improbe)(source, tag, c.private, &mut flag, &mut message, &mut status)
    })?;
    if flag == 0 {
        return Ok(None);
    }
    let source = status.source;
    receive_message(message, status.bytes()).map(|bytes| Some((source, bytes)))
}

/// Sends a short one.
fn put(rank: i32, tag: i32, message: &[u8]) -> Result<(), i32> {
    let c = core();
    with_bytes(message.len() as u64, |count, datatype| {
        // SAFETY: the message, which is only read.
        check(unsafe {
            (c.procs().MPI_Send)(
                message.as_ptr().cast(),
                count,
                datatype,
                rank,
                tag,
                c.private,
            )
        })
    })
}

/// Begins to send one, which stays where it is until that is done.
fn start(rank: i32, tag: i32, message: &[u8]) -> Result<u64, i32> {
    let c = core();
    let mut request = MPI_REQUEST_NULL;
    with_bytes(message.len() as u64, |count, datatype| {
        // SAFETY: the message outlives the request: the caller waits for it, or never frees it.
        check(unsafe {
            (c.procs().MPI_Isend)(
                message.as_ptr().cast(),
                count,
                datatype,
                rank,
                tag,
                c.private,
                &mut request,
            )
        })
    })?;
    Ok(request)
}

fn is_done(request: &mut u64) -> Result<bool, i32> {
    let c = core();
    let (mut flag, mut status) = (0, Status::EMPTY);
    // SAFETY: a request of ours.
    check(unsafe { (c.procs().MPI_Test)(request, &mut flag, &mut status) })?;
    Ok(flag != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_is_taken_apart() {
        let all = [b"abc".to_vec(), Vec::new(), b"d".to_vec()];
        let mut both: Vec<u8> = Vec::new();
        for bytes in &all {
            both.extend((bytes.len() as u64).to_le_bytes());
        }
        both.extend(all.concat());
        assert_eq!(split(&both, 3).as_deref(), Some(&all[..]));
        assert_eq!(split(&both, 4), None);
        assert_eq!(split(&both[..both.len() - 1], 3), None);
    }

    /// Comes at the third asking, alone.
    struct Late(u32, Vec<Duration>);

    impl Gatherer for Late {
        fn offer(&mut self, _: Duration) -> Offer {
            self.0 += 1;
            match self.0 {
                3 => Offer::Brings(b"it".to_vec()),
                4.. => Offer::Leaves,
                _ => Offer::Busy("thinking".into()),
            }
        }
        fn limit(&mut self) -> Option<Duration> {
            (self.0 == 1 && self.1.is_empty()).then_some(Duration::MAX)
        }
        fn waits(&mut self, waited: Duration, _: &[Missing]) {
            self.1.push(waited);
        }
        fn gives_up(&mut self, _: Duration, missing: &[Missing]) -> String {
            format!("{missing:?}")
        }
        fn silent(&mut self, _: Duration) {}
    }

    #[test]
    fn a_rank_alone_waits_for_itself() {
        let mut late = Late(0, Vec::new());
        let found = gather(None, &mut late);
        assert!(matches!(found, Ok(Gathered::All(all)) if all == [b"it"]));
        assert!(late.1.is_empty(), "it did not take that long");
        assert!(matches!(gather(None, &mut late), Ok(Gathered::Left)));
    }

    #[test]
    fn words_come_at_twice_the_time_each() {
        let mut words = Words::after(Duration::from_secs(10));
        assert_eq!(words.due(), None);
        words.since -= Duration::from_secs(11);
        let waited = words.due().expect("due");
        assert!(waited >= Duration::from_secs(11));
        assert_eq!(words.due(), None);
        assert!(words.next >= Duration::from_secs(22));
    }
}
