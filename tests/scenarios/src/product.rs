//! The product under test: an installed tree, its configuration for one job, its commands.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, Context as _, Result};

use crate::generations::Stores;
use crate::job::{Ended, Job};
use crate::mpi::Mpi;
use crate::programs::Program;

/// Names the file that a program waits for before its end.
pub const HOLD: &str = "MANA_TEST_GO";

/// An installed tree.
#[derive(Debug, Clone)]
pub struct Product {
    directory: PathBuf,
}

/// Intervals of the levels in seconds; 0 is off.
#[derive(Debug, Clone, Copy, Default)]
pub struct Intervals {
    /// Node-local.
    pub local: u32,
    /// Copy on another node.
    pub partner: u32,
    /// Parallel file system.
    pub global: u32,
}

/// One job: where it keeps its state, and how it is configured. The same value starts, resumes and
/// inspects it.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The product.
    pub product: Product,
    /// The job's working directory; configuration and stores are below it.
    pub directory: PathBuf,
    /// The MPI that launches it.
    pub mpi: Mpi,
    /// Number of ranks.
    pub ranks: u32,
    /// `--id`.
    pub id: String,
    /// Further environment of the launcher.
    pub environment: Vec<(String, String)>,
    /// What each rank executes before `mana_launch`, which are its last words.
    pub before: Vec<String>,
}

impl Product {
    /// The tree in `directory`, if it looks like one.
    pub fn new(directory: &Path) -> Result<Self> {
        let directory = directory
            .canonicalize()
            .with_context(|| format!("no such tree: {}", directory.display()))?;
        let product = Self { directory };
        if !product.command("mana_launch").is_file() {
            bail!("{} holds no bin/mana_launch", product.directory.display());
        }
        Ok(product)
    }

    /// The tree.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The build directory the tree lies in.
    pub fn target(&self) -> Option<&Path> {
        self.directory.parent()
    }

    /// Has it an adapter for `mpi`?
    pub fn adapts(&self, mpi: Mpi) -> bool {
        let adapters = self.directory.join("lib/mana/adapters");
        adapters.join(mpi.name()).join("adapter.toml").is_file()
    }

    /// The path of a command.
    pub fn command(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    /// Where downloads are kept from run to run: beside the tree.
    pub fn cache(&self) -> PathBuf {
        self.directory.with_file_name("cache")
    }

    /// Does this build react to `MANA_FAULT`? (Ordinary builds need not.)
    pub fn has_faults(&self) -> bool {
        let program = self.directory.join("lib/mana/mana-lower");
        std::fs::read(program)
            .is_ok_and(|bytes| bytes.windows(10).any(|window| window == b"MANA_FAULT"))
    }

    /// A job in `directory`, in test mode with a rank on each node.
    pub fn setup(
        &self,
        directory: &Path,
        mpi: Mpi,
        ranks: u32,
        intervals: Intervals,
    ) -> Result<Setup> {
        let setup = Setup {
            product: self.clone(),
            directory: directory.to_owned(),
            mpi,
            ranks,
            id: "scenario".to_owned(),
            environment: Vec::new(),
            before: Vec::new(),
        };
        for store in [setup.stores().local, setup.stores().global] {
            std::fs::create_dir_all(&store)
                .with_context(|| format!("creating {}", store.display()))?;
        }
        setup.configure(intervals, "")?;
        Ok(setup)
    }
}

impl Setup {
    /// Where the job's generations are.
    pub fn stores(&self) -> Stores {
        Stores {
            local: self.directory.join("local"),
            global: self.directory.join("global"),
            ranks: self.ranks,
        }
    }

    /// The configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.directory.join("mana.conf")
    }

    /// Write the configuration, in the older form that existing users have, with `more` lines.
    pub fn configure(&self, intervals: Intervals, more: &str) -> Result<()> {
        let Intervals {
            local,
            partner,
            global,
        } = intervals;
        let stores = self.stores();
        let preload = self.mpi.yielding().map_or(String::new(), |library| {
            format!("lower_preload={}\n", library.display())
        });
        let text = format!(
            "# written by mana-scenarios\n{preload}\
             global_ckpt_dir={}\nlocal_ckpt_dir={}\n\
             local_ckpt_interval={local}\npartner_ckpt_interval={partner}\nsolomon_ckpt_interval=0\n\
             global_ckpt_interval={global}\ntest_mode=1\nnode_size=1\ngroup_size=4\n{more}",
            stores.global.display(),
            stores.local.display(),
        );
        let path = self.configuration();
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// With the environment that `program` needs.
    pub fn needs(&mut self, program: &Program) {
        let text = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        self.environment
            .extend(program.environment.iter().map(text));
    }

    /// From here on the programs that share `common.h` do not end before [`Setup::release`]: however slow the machine is,
    /// they can be killed before their end.
    pub fn hold(&mut self) {
        let go = self.directory.join("go");
        let _ = std::fs::remove_file(&go);
        let variable = (HOLD.to_owned(), go.display().to_string());
        self.environment.retain(|(name, _)| name != HOLD);
        self.environment.push(variable);
    }

    /// They may end.
    pub fn release(&self) -> Result<()> {
        std::fs::write(self.directory.join("go"), "").context("letting the program end")
    }

    /// `mpirun -n RANKS mana_launch --config F --id NAME OPTIONS... PROGRAM...`
    pub fn launch(&self, options: &[&str], program: &[String]) -> Result<Job> {
        let mut command = self.mpi.launcher(self.ranks, false);
        command.args(&self.before);
        command.arg(self.product.command("mana_launch"));
        command
            .arg("--config")
            .arg(self.configuration())
            .args(["--id", &self.id]);
        if let Mpi::Fetched(fetched) = self.mpi {
            command.args(["--mpi", fetched.name]);
        }
        command.args(options).arg("--").args(program);
        command
            .current_dir(&self.directory)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        Job::start(command, &self.directory)
    }

    /// `mana VERB --config F --id NAME OPTIONS...`, outside of MPI.
    pub fn mana(&self, verb: &str, options: &[&str], limit: Duration) -> Result<Ended> {
        let mut command = Command::new(self.product.command("mana"));
        command
            .arg(verb)
            .arg("--config")
            .arg(self.configuration())
            .args(["--id", &self.id])
            .args(options);
        command.current_dir(&self.directory);
        Job::start(command, &self.directory)?.wait(limit)
    }
}
