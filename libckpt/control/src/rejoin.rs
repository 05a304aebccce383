//! A rank whose connection to the coordinator is lost looks for it again, for a bounded time.
//!
//! | what has happened | what is found |
//! |---|---|
//! | the network was cut for a while | the same coordinator: it takes the rank back |
//! | a stand-alone coordinator was started again | another one, whose file has another secret: all ranks register |
//! | rank 0's process is gone, its coordinator with it | nobody: unprotected, or the end (`coordinator_gone`) |
//!
//! The checkpoint that was being taken is abandoned in each case, on both sides. The program runs on
//! meanwhile; in `MPI_Finalize` it waits, and at its end too if the coordinator may come back. One that runs on
//! unprotected is looked after all the same, now and then: a cut may last, and protection is worth having late.
//!
//! Time is what this thread has looked for, not what has passed: a machine that stood still has not looked.

use std::time::{Duration, Instant};

use crate::agent::Finalize;
use crate::connect::one_line;
use crate::protocol::Rejoin;
use crate::service::Service;
use crate::{ControlError, Rendezvous};

/// One round over all addresses.
const ROUND: Duration = Duration::from_secs(2);
/// Between rounds.
const PAUSE: Duration = Duration::from_millis(200);
/// The same while the program runs on unprotected.
const LATER: Duration = Duration::from_secs(10);

/// Why nobody was found.
#[derive(Debug)]
pub(crate) enum Alone {
    /// The connection has ended because this rank does.
    Over,
    /// Nobody was found in time, for the reason given.
    NotFound(String),
    /// There will be nobody.
    ForGood(String),
}

impl Service {
    /// Connects again, within the time that is configured for it.
    pub(crate) fn rejoin(&mut self, reason: &str) -> Result<(), Alone> {
        let limit = self.options.rejoin_limit;
        if self.is_over() {
            return Err(Alone::Over);
        }
        if limit.is_zero() {
            return Err(Alone::ForGood(reason.to_owned()));
        }
        self.hooks.coordinator_lost(reason, limit);
        self.look(reason, limit, PAUSE)
    }

    /// Connects again, whenever that may be; for a program that runs on unprotected.
    pub(crate) fn rejoin_late(&mut self) -> Result<(), Alone> {
        self.look("", Duration::MAX, LATER)
    }

    fn look(&mut self, reason: &str, limit: Duration, pause: Duration) -> Result<(), Alone> {
        let mut looked = Duration::ZERO;
        loop {
            if self.is_over() {
                return Err(Alone::Over);
            }
            // Nobody takes a last checkpoint for them now.
            let signals = std::mem::take(&mut self.shared.lock().signals);
            for signal in signals {
                self.hooks.signal_over(signal);
            }
            self.read_again();
            let finalized = self.shared.lock().finalize == Finalize::Granted;
            let round = limit.saturating_sub(looked).min(ROUND);
            let began = Instant::now();
            match self.options.join(round, Some(Rejoin { finalized })) {
                Ok(wire) => {
                    self.wire = wire;
                    self.silent = Duration::ZERO;
                    self.announce_again();
                    self.hooks.coordinator_back();
                    return Ok(());
                }
                // It is there, and will not have this rank.
                Err(e @ (ControlError::Denied { .. } | ControlError::Version { .. })) => {
                    return Err(Alone::ForGood(one_line(&e)))
                }
                Err(e) => log::debug!("{}", one_line(&e)),
            }
            std::thread::sleep(pause);
            looked = looked.saturating_add(began.elapsed().min(round + pause));
            if looked >= limit {
                return Err(Alone::NotFound(format!(
                    "{reason}; not found again in {} s",
                    limit.as_secs()
                )));
            }
        }
    }

    /// Whether nobody needs the connection any more.
    fn is_over(&mut self) -> bool {
        self.take_wakeups();
        let exchange = self.shared.lock();
        // A coordinator in rank 0's process ends with the job.
        let ending = exchange.exit.is_some() && self.options.stand_alone.is_none();
        exchange.outcome.is_some() || exchange.stop || ending
    }

    /// A stand-alone coordinator may be another process by now.
    fn read_again(&mut self) {
        let Some(file) = &self.options.stand_alone else {
            return;
        };
        // While there is no such file, the old one may still be.
        if let Ok(found) = Rendezvous::read(file) {
            for address in found.addresses {
                if !self.options.addresses.contains(&address) {
                    self.options.addresses.push(address);
                }
            }
            self.options.secret = found.secret;
        }
    }

    /// What the lost coordinator was told, the one that was found has to hear too.
    fn announce_again(&mut self) {
        self.shared.update(|exchange| {
            if exchange.finalize == Finalize::Announced {
                exchange.finalize = Finalize::Wanted;
            }
            exchange.exit_announced = false;
        });
    }
}
