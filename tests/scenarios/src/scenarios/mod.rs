//! All scenarios, a module per topic.

mod applications;
mod cluster;
mod commands;
mod corruption;
mod dense;
mod docs;
mod events;
mod exits;
mod faults;
mod files;
mod hdf5;
mod hpcc;
mod interface;
mod lammps;
mod levels;
mod modes;
mod mpi4py;
mod other_mpis;
mod profiler;
mod requeue;
mod scripts;
mod taken_back;
mod tree;
mod wrapper;

use anyhow::Result;

use crate::context::{Context, Verdict};

/// What a scenario does.
pub type Test = Box<dyn Fn(&Context) -> Result<Verdict> + Send + Sync>;

/// A named test.
pub struct Scenario {
    /// `topic/detail`, the unit of `--only`.
    pub name: String,
    /// What it shows, for `--list`.
    pub shows: &'static str,
    /// The test.
    pub run: Test,
}

impl Scenario {
    fn new(
        name: impl Into<String>,
        shows: &'static str,
        run: impl Fn(&Context) -> Result<Verdict> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            shows,
            run: Box::new(run),
        }
    }
}

/// Those whose calls a recorder notes: every program in every mode, on all MPIs.
pub fn to_record() -> Vec<Scenario> {
    [modes::all(), other_mpis::to_record()]
        .into_iter()
        .flatten()
        .collect()
}

/// Those that may run beside another one: small jobs that mostly wait, none of which measures time.
/// `full`: also those that only the full run has.
pub fn beside_others(full: bool) -> Vec<Scenario> {
    let small = [
        modes::all(),
        requeue::all(),
        wrapper::all(),
        events::all(),
        exits::all(),
        hdf5::all(),
        levels::all(),
        profiler::all(),
        mpi4py::all(),
        commands::all(),
        interface::all(),
        taken_back::all(full),
        files::all(),
        scripts::all(),
        tree::all(),
        docs::all(),
        other_mpis::all(full),
        faults::points(full),
    ];
    let mut all: Vec<_> = small.into_iter().flatten().collect();
    if !full {
        all.extend(corruption::all());
    }
    all
}

/// Those that may run beside all others, each series one by one: four Slurm nodes, which mostly wait, and
/// applications that compute.
pub fn series(full: bool) -> Vec<Vec<Scenario>> {
    let mut large: Vec<_> = [lammps::all(), hpcc::all(), applications::all()]
        .into_iter()
        .flatten()
        .collect();
    if full {
        large.extend(corruption::all());
        // Neither of them leaves much to the other.
        let slurm = cluster::all(full).into_iter().chain(docs::on_cluster());
        return vec![slurm.chain(large).collect()];
    }
    let slurm = cluster::all(full).into_iter().chain(docs::on_cluster());
    vec![slurm.collect(), large]
}

/// Those that want the machine for themselves: they count the checkpoints that fall due, kill at instants that depend on time, or
/// need its memory (in the full run).
pub fn alone(full: bool) -> Vec<Scenario> {
    let heavy = if full { modes::heavy() } else { Vec::new() };
    [faults::all(), dense::all(), heavy]
        .into_iter()
        .flatten()
        .collect()
}
