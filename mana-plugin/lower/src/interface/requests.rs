//! Checkpoints the program asks for.
//!
//! One that is waited for is asked for like a tool does it, on a thread and a connection of its own, and
//! so has the tool's answer: taken and complete on its level, or why not.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libckpt::Level;
use mana_control::{Client, ControlError, Rendezvous, Request};
use mana_raw::interface::{
    CONTINUED, ERR_ARGUMENT, ERR_BUSY, ERR_CLOSED, ERR_FAILED, PENDING, RESUMED,
};

use super::{events, holds};
use crate::control::{self, Place};
use crate::job;

/// For the coordinator to accept the connection.
const CONNECT: Duration = Duration::from_secs(20);
/// For the answer: every step of a checkpoint and of its level has a limit of its own.
const ANSWER: Duration = Duration::from_secs(24 * 3600);
/// For the callbacks of the program to return before the call does.
const CALLBACKS: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Requests {
    last: i64,
    /// What became of those that are waited for; `None`: not decided.
    results: BTreeMap<i64, Option<i32>>,
    /// Since when a result waits for callbacks.
    callbacks: Option<Instant>,
}

static REQUESTS: Mutex<Option<Requests>> = Mutex::new(None);

fn with<T>(work: impl FnOnce(&mut Requests) -> T) -> T {
    let mut guard: MutexGuard<Option<Requests>> =
        REQUESTS.lock().unwrap_or_else(PoisonError::into_inner);
    work(guard.get_or_insert_default())
}

fn level(number: i32) -> Result<Option<Level>, i32> {
    match number {
        0 => Ok(None),
        1 => Ok(Some(Level::Local)),
        2 => Ok(Some(Level::Partner)),
        3 => Ok(Some(Level::Group)),
        4 => Ok(Some(Level::Global)),
        _ => Err(ERR_ARGUMENT),
    }
}

/// Slot `REQUEST`.
pub fn ask(number: i32, wait: bool) -> i64 {
    let level = match level(number) {
        Ok(level) => level,
        Err(error) => return error.into(),
    };
    if wait && (events::is_running_here() || holds::is_mine()) {
        return ERR_BUSY.into();
    }
    if !control::is_connected() || mana_plugin::finalised() {
        return ERR_CLOSED.into();
    }
    let request = Request { level, kill: false };
    let ticket = match wait {
        false => 0,
        true => with(|r| {
            r.last += 1;
            r.results.insert(r.last, None);
            r.last
        }),
    };
    let sent = control::on_control(move |place| match wait {
        false => control::request(request),
        true => ask_and_wait(place, request, ticket),
    });
    match sent {
        true => ticket,
        false => ERR_CLOSED.into(),
    }
}

fn ask_and_wait(place: &Place, request: Request, ticket: i64) {
    let rendezvous = Rendezvous {
        job: job().spec.identity.clone(),
        incarnation: place.incarnation,
        addresses: place.addresses.clone(),
        secret: place.secret.clone(),
        host: String::new(),
        pid: std::process::id(),
    };
    let work = move || {
        let taken = Client::connect(&rendezvous, CONNECT)
            .and_then(|mut client| client.checkpoint(request, true, ANSWER));
        let result = match taken {
            Ok(_) => CONTINUED,
            Err(e) => {
                let why = match e {
                    ControlError::Denied { reason } => reason,
                    other => other.to_string(),
                };
                log::warn!("the checkpoint the program asked for was not taken: {why}");
                ERR_FAILED
            }
        };
        decide(ticket, result);
    };
    let started = std::thread::Builder::new()
        .name("mana-request".into())
        .spawn(work);
    if let Err(e) = started {
        log::error!("no thread for the program's request: {e}");
        decide(ticket, ERR_FAILED);
    }
}

fn decide(ticket: i64, result: i32) {
    with(|r| r.results.insert(ticket, Some(result)));
}

/// Slot `OUTCOME`. Ticket 0 was never asked for: only callbacks are waited for.
pub fn outcome(ticket: i64, before: u64) -> i32 {
    let resumed = before != split_process::restarts() as u64;
    with(|r| {
        let result = match ticket {
            _ if resumed => RESUMED,
            0 => CONTINUED,
            _ => match r.results.get(&ticket) {
                Some(Some(result)) => *result,
                Some(None) => return PENDING,
                None => ERR_ARGUMENT,
            },
        };
        if result >= CONTINUED && !events::idle() {
            let since = *r.callbacks.get_or_insert_with(Instant::now);
            if since.elapsed() < CALLBACKS {
                return PENDING;
            }
            log::warn!("mana_checkpoint returns although a callback of the program (mana_on) has not returned for {} s", CALLBACKS.as_secs());
        }
        r.callbacks = None;
        r.results.remove(&ticket);
        result
    })
}
