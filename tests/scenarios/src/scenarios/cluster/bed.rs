//! The cluster itself, what an MPI needs there, and jobs that are submitted to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};

use super::{program, LIMIT, NODES};
use crate::context::{Context, Workplace};
use crate::job::{Ended, Job};
use crate::mpi::{find, Mpi};
use crate::programs::Program;

/// The cluster, taken down when dropped.
pub struct Cluster {
    script: PathBuf,
    /// Its own directory; the logs of Slurm's daemons stay there.
    state: PathBuf,
    /// Prolog and epilog of the nodes.
    prolog: Option<PathBuf>,
}

impl Cluster {
    /// Up with all nodes, or why not.
    pub fn up(place: &Workplace) -> Result<std::result::Result<Self, String>> {
        Self::with(place, Site::template("clean-local").ok())
    }

    /// The same with another prolog and epilog.
    fn with(
        place: &Workplace,
        prolog: Option<PathBuf>,
    ) -> Result<std::result::Result<Self, String>> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Err("the cluster of namespaces needs root".into()));
        }
        for tool in ["slurmctld", "slurmd", "munged", "srun", "nsenter", "ip"] {
            let sbin = ["/usr/sbin", "/sbin"]
                .iter()
                .any(|directory| Path::new(directory).join(tool).exists());
            if !sbin && find(tool).is_none() {
                return Ok(Err(format!("{tool} is not installed")));
            }
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .with_file_name("cluster")
            .join("cluster");
        let state = place.path().join("cluster");
        std::fs::create_dir(&state).context("creating the cluster's directory")?;
        let cluster = Self {
            script,
            state,
            prolog,
        };
        let ended = cluster.call(&["up", &NODES.to_string()], Duration::from_secs(120))?;
        if ended.code() == 77 {
            return Ok(Err(ended.stderr.trim().to_owned()));
        }
        ended.expect(0)?;
        Ok(Ok(cluster))
    }

    /// A call of the cluster's script.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        command.args(words).env("CLUSTER_DIR", &self.state);
        // As after a login.
        command.env("USER", "root");
        if let Some(script) = &self.prolog {
            command.env("CLUSTER_PROLOG", script);
        }
        command
    }

    pub fn call(&self, words: &[&str], limit: Duration) -> Result<Ended> {
        // Its daemons outlive the call that starts them: they are no part of a job.
        let output = self.state.join("call");
        let (out, err) = (output.with_extension("out"), output.with_extension("err"));
        let mut command = self.command(words);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::fs::File::create(&out).context("creating a file")?);
        command.stderr(std::fs::File::create(&err).context("creating a file")?);
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {}", self.script.display()))?;
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = child.try_wait().context("waiting")? {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!(
                    "cluster {} did not end in {} s",
                    words.join(" "),
                    limit.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        Ok(Ended {
            what: format!("cluster {}", words.join(" ")),
            status,
            stdout: std::fs::read_to_string(out).unwrap_or_default(),
            stderr: std::fs::read_to_string(err).unwrap_or_default(),
        })
    }

    /// The state of a job in the queue; empty once it is gone from there.
    pub fn state_of(&self, job: &str) -> Result<String> {
        let words = ["squeue", "-h", "-j", job, "-o", "%T"];
        for _ in 0..10 {
            let asked = self.run(&words, Duration::from_secs(60))?;
            if asked.code() == 0 || asked.stderr.contains("Invalid job id") {
                return Ok(asked.stdout.trim().to_owned());
            }
            // The controller is busy or away: that says nothing of the job.
            std::thread::sleep(Duration::from_secs(1));
        }
        bail!("squeue does not tell the state of job {job}")
    }

    /// The home of the ordinary user.
    pub fn home(&self) -> PathBuf {
        self.state.join("home")
    }

    /// A command on the head node.
    pub fn run(&self, words: &[&str], limit: Duration) -> Result<Ended> {
        self.call(&[&["run"], words].concat(), limit)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.call(&["down"], Duration::from_secs(60));
    }
}

/// How srun starts the tasks of an MPI.
pub fn interface(mpi: Mpi) -> &'static str {
    match mpi {
        Mpi::OpenMpi => "--mpi=pmix",
        _ => "--mpi=pmi2",
    }
}

/// MPICH's own end hangs between nodes: the preloaded cure.
pub fn cure(mpi: Mpi, directory: &Path) -> Result<Option<PathBuf>> {
    if mpi == Mpi::OpenMpi {
        return Ok(None);
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no parent")?;
    let source = tests
        .with_file_name("slurm")
        .join("mpich-finalize")
        .join("mpich_finalize.c");
    let library = directory.join("libmana_mpich_finalize.so");
    let mut command = Command::new("gcc");
    command
        .args(["-shared", "-fPIC", "-O2", "-Wall"])
        .arg(source)
        .arg("-o")
        .arg(&library)
        .arg("-ldl");
    Job::start(command, directory)?
        .wait(Duration::from_secs(60))?
        .expect(0)?;
    Ok(Some(library))
}

/// A configuration in `directory` whose local store is the node's own; its path.
pub fn configure(mpi: Mpi, directory: &Path) -> Result<PathBuf> {
    let global = directory.join("global");
    std::fs::create_dir_all(&global).context("creating the global store")?;
    let configuration = directory.join("mana.conf");
    let preload = cure(mpi, directory)?.map_or(String::new(), |library| {
        format!("lower_preload={}\n", library.display())
    });
    let text = format!(
        "{preload}global_ckpt_dir={}\nlocal_ckpt_dir=/local/mana/${{USER}}\nlocal_ckpt_interval=2\npartner_ckpt_interval=4\nglobal_ckpt_interval=0\ngroup_size=4\n",
        global.display()
    );
    std::fs::write(&configuration, text).context("writing mana.conf")?;
    Ok(configuration)
}

/// The result of `program` on `ranks` ranks with these words, without pauses.
pub fn native_result(
    context: &Context,
    mpi: Mpi,
    ranks: u32,
    words: &[&str],
    directory: &Path,
) -> Result<String> {
    let words = [words, &["--pause", "0"]].concat();
    native_of(program()?, context, mpi, ranks, &words, directory)
}

/// The same of another program.
pub fn native_of(
    program: &Program,
    context: &Context,
    mpi: Mpi,
    ranks: u32,
    words: &[&str],
    directory: &Path,
) -> Result<String> {
    let executable = context.build(program, mpi)?;
    let key = format!("{} {} on {ranks}", program.name, words.join(" "));
    context.native(&key, || {
        let mut command = mpi.native(ranks);
        command
            .args(program.line(&executable, words))
            .current_dir(directory);
        Job::start(command, directory)?
            .wait(LIMIT)?
            .expect(0)?
            .result()
    })
}

/// A cluster that is up, and the product configured for it.
pub struct Site {
    pub cluster: Cluster,
    pub mpi: Mpi,
    pub place: Workplace,
    pub configuration: PathBuf,
    pub launch: PathBuf,
    program: &'static Program,
    executable: PathBuf,
    /// How many jobs were submitted.
    jobs: std::cell::Cell<u32>,
    /// Jobs are those of the ordinary user, in whose home everything is.
    guest: bool,
}

impl Site {
    /// Or why there is none.
    pub fn up(
        context: &Context,
        mpi: Mpi,
        name: &str,
    ) -> Result<std::result::Result<Self, String>> {
        Self::with(context, mpi, name, program()?)
    }

    /// The same for another program.
    pub fn with(
        context: &Context,
        mpi: Mpi,
        name: &str,
        program: &'static Program,
    ) -> Result<std::result::Result<Self, String>> {
        Self::with_prolog(context, mpi, name, program, None)
    }

    /// The same with a prolog and epilog of this content, instead of `clean-local`.
    pub fn with_prolog(
        context: &Context,
        mpi: Mpi,
        name: &str,
        program: &'static Program,
        prolog: Option<&str>,
    ) -> Result<std::result::Result<Self, String>> {
        if let Some(why) = program.missing(mpi) {
            return Ok(Err(why));
        }
        let Some(product) = context.product() else {
            return Ok(Err("no installed tree was named with --mana".into()));
        };
        let place = context.directory(name)?;
        let executable = context.build(program, mpi)?;
        let cluster = match prolog {
            None => Cluster::up(&place)?,
            Some(text) => {
                let path = place.path().join("prolog");
                std::fs::write(&path, text).context("writing the prolog")?;
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                std::fs::set_permissions(&path, mode).context("making the prolog a program")?;
                Cluster::with(&place, Some(path))?
            }
        };
        let cluster = match cluster {
            Ok(cluster) => cluster,
            Err(why) => return Ok(Err(why)),
        };
        Ok(Ok(Self {
            cluster,
            mpi,
            configuration: configure(mpi, place.path())?,
            launch: product.command("mana_launch"),
            place,
            program,
            executable,
            jobs: std::cell::Cell::new(0),
            guest: false,
        }))
    }

    /// The same for the cluster's ordinary user, with the tree unpacked in his home as the guide has it.
    pub fn of_guest(
        context: &Context,
        mpi: Mpi,
        name: &str,
    ) -> Result<std::result::Result<Self, String>> {
        let mut site = match Self::up(context, mpi, name)? {
            Ok(site) => site,
            Err(why) => return Ok(Err(why)),
        };
        let home = site.home();
        site.configuration = configure(mpi, &home)?;
        let line = format!(
            "rmdir '{home}/global' && cp -a '{}' '{home}/mana' && cp '{}' '{home}/app' && chown -R --reference='{home}' '{home}' && \
             chown --reference='{home}' '{place}' && chmod 711 '{place}'",
            site.launch.with_file_name("..").display(),
            site.executable.display(),
            home = home.display(),
            place = site.place.path().display(),
        );
        let mut command = Command::new("sh");
        command.args(["-c", &line]);
        Job::start(command, site.place.path())?
            .wait(Duration::from_secs(60))?
            .expect(0)?;
        site.launch = home.join("mana/bin/mana_launch");
        site.executable = home.join("app");
        site.guest = true;
        Ok(Ok(site))
    }

    /// The home of the ordinary user.
    pub fn home(&self) -> PathBuf {
        self.cluster.home()
    }

    /// A command on the head, by the owner of the jobs.
    pub fn run(&self, words: &[&str], limit: Duration) -> Result<Ended> {
        let who = if self.guest { "login" } else { "run" };
        self.cluster.call(&[&[who], words].concat(), limit)
    }

    /// The program's command line.
    pub fn line(&self, words: &[&str]) -> String {
        self.program.line(&self.executable, words).join(" ")
    }

    /// A command on a node; what it prints.
    pub fn on_node(&self, node: &str, script: &str) -> Result<String> {
        let words = ["exec", node, "sh", "-c", script];
        let ended = self.cluster.call(&words, Duration::from_secs(60))?;
        Ok(ended.expect(0)?.stdout.clone())
    }

    /// A file of `slurm/`.
    pub fn template(name: &str) -> Result<PathBuf> {
        Ok(Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("no parent")?
            .with_file_name("slurm")
            .join(name))
    }

    /// Submits a script of the scenario's own.
    pub fn submit_script(&self, script: &Path, options: &[&str]) -> Result<BatchJob<'_>> {
        let output = script.with_extension("out");
        let hurry = script.with_extension("hurry");
        let (name, script) = (output.to_string_lossy(), script.to_string_lossy());
        let mut all = vec!["sbatch", "--parsable", "-o", &name];
        all.extend(options);
        all.push(&script);
        let submitted = self.run(&all, Duration::from_secs(60))?;
        Ok(BatchJob {
            site: self,
            id: submitted.expect(0)?.stdout.trim().to_owned(),
            output,
            hurry,
        })
    }

    /// Submits a template as it is, with settings in the environment as its first lines say.
    pub fn submit(
        &self,
        template: &str,
        options: &[&str],
        words: &[&str],
        settings: &[(&str, &str)],
    ) -> Result<BatchJob<'_>> {
        let mut jobs = self.submit_array(template, options, words, settings, 0)?;
        jobs.pop().context("no job")
    }

    /// The same with `tasks` tasks, numbered from 1; 0: no array.
    pub fn submit_array(
        &self,
        template: &str,
        options: &[&str],
        words: &[&str],
        settings: &[(&str, &str)],
        tasks: u32,
    ) -> Result<Vec<BatchJob<'_>>> {
        let until = self.next_hurry().display().to_string();
        let words = [words, &["--until", &until]].concat();
        self.submit_line(template, options, &self.line(&words), settings, tasks)
    }

    /// The file that ends the pauses of the job submitted next.
    pub fn next_hurry(&self) -> PathBuf {
        self.place.path().join(format!("hurry-{}", self.jobs.get()))
    }

    /// The same of any command line.
    pub fn submit_line(
        &self,
        template: &str,
        options: &[&str],
        line: &str,
        settings: &[(&str, &str)],
        tasks: u32,
    ) -> Result<Vec<BatchJob<'_>>> {
        let hurry = self.next_hurry();
        let number = self.jobs.get();
        self.jobs.set(number + 1);
        let output = self.place.path().join(format!("output-{number}"));
        // What a comma would end cannot travel in --export's list.
        let mut export = format!(
            "ALL,MANA_LAUNCH={},MANA_CONF={},SLURM_MPI_TYPE={},MANA_PROGRAM={line}",
            self.launch.display(),
            self.configuration.display(),
            interface(self.mpi).trim_start_matches("--mpi="),
        );
        for (name, value) in settings {
            export += &format!(",{name}={value}");
        }
        let pattern = if tasks > 0 { ".%a" } else { "" };
        let output_name = format!("{}{pattern}", output.display());
        let script = match self.guest {
            true => self.home().join("mana/share/mana/slurm").join(template),
            false => Self::template(template)?,
        };
        let script = script.to_string_lossy().into_owned();
        let mut all = vec![
            "sbatch",
            "--parsable",
            "-o",
            &output_name,
            "--export",
            &export,
        ];
        all.extend(options);
        all.push(&script);
        let submitted = self.run(&all, Duration::from_secs(60))?;
        let id = submitted.expect(0)?.stdout.trim().to_owned();
        let job = |task: Option<u32>| BatchJob {
            site: self,
            id: task.map_or(id.clone(), |task| format!("{id}_{task}")),
            output: task.map_or(output.clone(), |task| {
                output.with_extension(task.to_string())
            }),
            hurry: hurry.clone(),
        };
        Ok(match tasks {
            0 => vec![job(None)],
            _ => (1..=tasks).map(|task| job(Some(task))).collect(),
        })
    }
}

/// A submitted job.
pub struct BatchJob<'a> {
    pub site: &'a Site,
    pub id: String,
    output: PathBuf,
    hurry: PathBuf,
}

impl BatchJob<'_> {
    /// Everything it has written.
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Ends the program's pauses: what is waited for has come, and only the result is missing. So jobs are long,
    /// however slow the machine is, and tests short.
    pub fn hurry(&self) -> Result<()> {
        std::fs::write(&self.hurry, "").context("ending the pauses")
    }

    /// Its state in the queue; empty once it is gone from there.
    pub fn state(&self) -> Result<String> {
        self.site.cluster.state_of(&self.id)
    }

    /// Waits for something in its output.
    pub fn until<T>(&self, what: &str, mut condition: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = self.text();
            if let Some(found) = condition(&text) {
                return Ok(found);
            }
            ensure!(
                Instant::now() < deadline,
                "job {} ({}): {what} did not come\n{text}",
                self.id,
                self.state()?
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a line with these words is in its output.
    pub fn says(&self, words: &str) -> Result<()> {
        self.until(&format!("{words:?}"), |text| {
            text.contains(words).then_some(())
        })
    }

    /// Waits until it is gone from the queue; its whole output.
    pub fn ended(&self) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            // In this order, or its last words could be missed.
            let state = self.state()?;
            let text = self.text();
            if state.is_empty() {
                return Ok(text);
            }
            ensure!(
                Instant::now() < deadline,
                "job {} did not end: {state}\n{text}",
                self.id
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// How many ranks run on a node.
pub fn ranks(site: &Site, node: &str) -> Result<usize> {
    let words = ["exec", node, "pgrep", "-c", "-x", RANK];
    let ended = site.cluster.call(&words, Duration::from_secs(30))?;
    // With none of them its exit code is 1.
    ended.stdout.trim().parse().with_context(|| ended.report())
}

/// The name of a rank's process.
pub const RANK: &str = "mana-lower";

/// The results in an output.
pub fn results(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("RESULT "))
        .collect()
}

/// How many lines of an output have these words.
pub fn count(text: &str, words: &str) -> usize {
    text.lines().filter(|line| line.contains(words)).count()
}
