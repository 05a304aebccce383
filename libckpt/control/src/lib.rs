//! The control plane: who tells the ranks of a job when to take a checkpoint, step by step.
//!
//! One [`Coordinator`] per job (embedded in rank 0's lower half, or stand-alone), one [`Agent`] per
//! rank (a thread of its lower half) that calls the rank's [`RankHooks`], and a [`Client`] for tools.
//! `docs/protocol.md` describes messages, authentication and what happens on failures. Nothing here
//! links MPI or touches the program's memory.

pub mod advice;
mod agent;
mod auth;
mod client;
mod connect;
mod coordinator;
mod error;
mod event;
mod generation;
mod hooks;
mod keeper;
mod machine;
mod metrics;
mod place;
mod protocol;
mod rejoin;
mod rendezvous;
mod scheduler;
mod secret;
mod server;
mod service;
mod settings;
mod status;
mod wire;

pub use agent::{Agent, AgentOptions};
pub use client::{Client, Request};
pub use coordinator::{Coordinator, CoordinatorOptions, Needed};
pub use error::ControlError;
pub use event::{Event, EventLog, Record};
pub use generation::{Checkpoint, GenerationId, Level, Resumed};
pub use hooks::{
    CaptureStarted, CommSeq, DrainReport, EndHow, GatePoll, ImageReport, Outcome, RankHooks,
    Started, StepError,
};
pub use machine::ranges;
pub use place::Place;
pub use rendezvous::Rendezvous;
pub use secret::Secret;
pub use settings::{AtEnd, Settings};
pub use status::{
    CurrentStatus, GenerationStatus, LevelStatus, LevelWorkStatus, RankPlace, RankStatus, Stall,
    Status, Waiting,
};
