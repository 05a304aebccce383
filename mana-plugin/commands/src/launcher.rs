//! Who started this process, told from its environment.

use mana::spec::Family;

/// How an MPI job can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wireup {
    /// Open MPI's mpirun.
    OpenMpi,
    /// A PMIx server that is not Open MPI's: `srun --mpi=pmix`.
    Pmix,
    /// PMI-1 or PMI-2: MPICH's mpirun, `srun --mpi=pmi2`.
    Pmi,
}

impl Wireup {
    /// The name in `adapter.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "openmpi",
            Self::Pmix => "pmix",
            Self::Pmi => "pmi",
        }
    }

    /// The family whose programs are usually started this way.
    pub fn family(self) -> Family {
        match self {
            Self::OpenMpi | Self::Pmix => Family::OpenMpi,
            Self::Pmi => Family::Mpich,
        }
    }
}

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launcher {
    /// All ways an MPI could find its peers here, the innermost first.
    pub wireups: Vec<Wireup>,
    /// Rank in the job.
    pub rank: Option<u32>,
    /// Ranks in the job.
    pub size: Option<u32>,
    /// Inside a Slurm step (a task of `srun`, or below one).
    pub slurm_step: bool,
    /// Tasks of that step.
    pub slurm_tasks: u32,
    /// The job may span several nodes.
    pub several_nodes: bool,
    /// All ranks are on this node, for certain.
    pub one_node: bool,
    /// How often Slurm has requeued the job.
    pub restart_count: u32,
    /// MPICH's mpirun, which may itself be inside a Slurm step.
    pub hydra: bool,
}

impl Launcher {
    /// From this process's environment.
    pub fn from_environment() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// From any set of variables.
    pub fn from_lookup(get: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str| get(name).and_then(|value| value.trim().parse::<u32>().ok());
        let has = |name: &str| get(name).is_some();
        let hydra = has("HYDI_CONTROL_FD");
        let openmpi = has("OMPI_COMM_WORLD_SIZE");
        let pmi = hydra || has("PMI_FD") || has("PMI_PORT");
        let mut launcher = Self {
            slurm_step: has("SLURM_STEP_ID"),
            slurm_tasks: number("SLURM_STEP_NUM_TASKS")
                .or_else(|| number("SLURM_NTASKS"))
                .unwrap_or(1),
            restart_count: number("SLURM_RESTART_COUNT").unwrap_or(0),
            hydra,
            ..Self::default()
        };
        launcher.several_nodes = match number("MPI_LOCALNRANKS") {
            Some(here) => number("PMI_SIZE").is_some_and(|all| all > here),
            None => launcher.slurm_step,
        };
        launcher.one_node = [
            ("MPI_LOCALNRANKS", "PMI_SIZE"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE"),
        ]
        .iter()
        .any(|(here, all)| number(here).is_some_and(|n| number(all) == Some(n)));
        // Inside a batch job mpirun starts its daemons with srun, so the variables of srun's own
        // wire-up may be seen below mpirun's: mpirun's come first.
        if openmpi {
            launcher.wireups.push(Wireup::OpenMpi);
        }
        if pmi {
            launcher.wireups.push(Wireup::Pmi);
        }
        if !openmpi && !hydra && has("PMIX_RANK") {
            launcher.wireups.push(Wireup::Pmix);
        }
        (launcher.rank, launcher.size) = match launcher.wireups.first() {
            Some(Wireup::OpenMpi) => (
                number("OMPI_COMM_WORLD_RANK"),
                number("OMPI_COMM_WORLD_SIZE"),
            ),
            Some(Wireup::Pmi) => (number("PMI_RANK"), number("PMI_SIZE")),
            Some(Wireup::Pmix) => (
                number("PMIX_RANK"),
                launcher.slurm_step.then_some(launcher.slurm_tasks),
            ),
            None if launcher.slurm_step => (number("SLURM_PROCID"), Some(launcher.slurm_tasks)),
            None => (None, None),
        };
        launcher
    }

    /// Without MPI every task is a job of its own: forgets the others. The task's number, if there are others.
    pub fn part(&mut self) -> Option<u32> {
        let number = self.rank.filter(|_| self.size.is_some_and(|size| size > 1));
        self.wireups.clear();
        self.rank = None;
        self.size = Some(1);
        self.slurm_tasks = 1;
        self.several_nodes = false;
        self.one_node = true;
        number
    }

    /// How `size` ranks of a command are started as this one was, with a blank at the end; empty without a launcher.
    pub fn words(&self, size: u32) -> String {
        match (self.wireups.first(), self.slurm_step) {
            (Some(Wireup::OpenMpi), _) => format!("mpirun -n {size} "),
            (Some(Wireup::Pmi), in_slurm) if self.hydra || !in_slurm => {
                format!("mpirun -n {size} ")
            }
            (Some(Wireup::Pmi), _) => format!("srun -n {size} --mpi=pmi2 "),
            (Some(Wireup::Pmix), true) => format!("srun -n {size} --mpi=pmix "),
            (None, true) => format!("srun -n {size} "),
            (Some(Wireup::Pmix) | None, false) => String::new(),
        }
    }

    /// In words, for messages.
    pub fn title(&self) -> &'static str {
        match (self.wireups.first(), self.slurm_step) {
            (Some(Wireup::OpenMpi), _) => "Open MPI's mpirun",
            (Some(Wireup::Pmix), true) => "srun --mpi=pmix",
            (Some(Wireup::Pmix), false) => "a PMIx launcher",
            (Some(Wireup::Pmi), true) => "srun --mpi=pmi2 or MPICH's mpirun",
            (Some(Wireup::Pmi), false) => "MPICH's mpirun",
            (None, true) => "srun without an MPI plugin",
            (None, false) => "no MPI launcher",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Launcher {
        Launcher::from_lookup(|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn launchers_are_told_apart() {
        let openmpi = of(&[
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("PMIX_RANK", "2"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_NTASKS", "4"),
        ]);
        assert_eq!(openmpi.wireups, [Wireup::OpenMpi]);
        assert_eq!((openmpi.rank, openmpi.size), (Some(2), Some(4)));

        let hydra = of(&[
            ("PMI_FD", "6"),
            ("PMI_RANK", "1"),
            ("PMI_SIZE", "2"),
            ("HYDI_CONTROL_FD", "7"),
        ]);
        assert_eq!(hydra.wireups, [Wireup::Pmi]);
        assert_eq!((hydra.rank, hydra.size), (Some(1), Some(2)));
        assert_eq!(hydra.words(2), "mpirun -n 2 ");

        let slurm = of(&[
            ("SLURM_STEP_ID", "1"),
            ("SLURM_STEP_NUM_TASKS", "3"),
            ("SLURM_PROCID", "1"),
            ("PMIX_RANK", "1"),
            ("SLURM_RESTART_COUNT", "2"),
        ]);
        assert_eq!(slurm.wireups, [Wireup::Pmix]);
        assert_eq!((slurm.size, slurm.restart_count), (Some(3), 2));
        assert_eq!(slurm.words(3), "srun -n 3 --mpi=pmix ");

        let bare = of(&[("SLURM_STEP_ID", "1"), ("SLURM_STEP_NUM_TASKS", "3")]);
        assert!(bare.wireups.is_empty() && bare.slurm_tasks == 3);
        assert_eq!(bare.words(3), "srun -n 3 ");
        assert_eq!(
            of(&[]),
            Launcher {
                slurm_tasks: 1,
                ..Launcher::default()
            }
        );
    }

    /// mpirun.mpich inside a batch job whose MpiDefault is pmix: the proxies are started by srun.
    #[test]
    fn hydra_below_srun_is_hydra() {
        let nested = of(&[
            ("HYDI_CONTROL_FD", "7"),
            ("PMI_FD", "6"),
            ("PMI_RANK", "0"),
            ("PMI_SIZE", "2"),
            ("PMIX_RANK", "0"),
            ("SLURM_STEP_ID", "0"),
        ]);
        assert_eq!(nested.wireups, [Wireup::Pmi]);
        assert_eq!(nested.words(2), "mpirun -n 2 ");
    }

    #[test]
    fn tasks_without_mpi_are_alone() {
        let task = [
            ("SLURM_STEP_ID", "0"),
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_PROCID", "2"),
            ("PMIX_RANK", "2"),
        ];
        let mut launcher = of(&task);
        assert_eq!(launcher.part(), Some(2));
        assert_eq!((launcher.rank, launcher.size), (None, Some(1)));
        assert!(launcher.wireups.is_empty());
        assert_eq!(launcher.words(1), "srun -n 1 ");
        let mut only = of(&[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0")]);
        assert_eq!(only.part(), None);
        let mut none = of(&[]);
        assert_eq!((none.part(), none.words(1)), (None, String::new()));
    }
}
