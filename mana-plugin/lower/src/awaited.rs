//! A program that has an MPI below it and does not call `MPI_Init`: it runs without checkpoints, which nobody would
//! notice before it is too late. A line says so, and the program runs on: it may yet call it.

use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::{control, job};

/// Until the line comes; a shorter `checkpoint_timeout` makes it shorter.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gone with `MPI_Init`.
static WAITING: Mutex<Option<Sender<()>>> = Mutex::new(None);

/// Before the program is entered.
pub fn begin() {
    let spec = &job().spec;
    if !spec.speaks {
        return;
    }
    let (sender, receiver) = channel::<()>();
    *WAITING.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    let patience = PATIENCE.min(Duration::from_secs(spec.config.checkpoint_timeout));
    let begun = split_process::with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("mana-awaits".into())
            .spawn(move || {
                control::own_descriptors();
                if receiver.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                    log::warn!(
                        "the program has not called MPI_Init in {} s: it runs UNPROTECTED, without checkpoints, until it does; start a program without MPI with --mpi none",
                        patience.as_secs()
                    );
                }
            })
    });
    if let Err(e) = begun {
        log::warn!("nobody looks whether the program calls MPI_Init: {e}");
    }
}

/// The program is in `MPI_Init`.
pub fn has_come() {
    drop(
        WAITING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(),
    );
}
