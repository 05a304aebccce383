//! A reader who tries a page: a home with the installed tree in it, a terminal that keeps its directory and
//! variables from block to block, further terminals for what takes long.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};

use super::pages::{Expected, Mode, Step};
use crate::job::Job;
use crate::mpi::{find, Mpi};
use crate::product::Product;

/// For what is waited for: a command, what it says, its end.
const LIMIT: Duration = Duration::from_secs(180);

/// One page being tried.
pub struct Session {
    /// `$HOME`; everything is below it.
    home: PathBuf,
    /// What is put before a shell (a command that executes it elsewhere).
    through: Option<Command>,
    begun: Vec<(String, Job)>,
    words: Vec<(String, String)>,
    count: u32,
    /// What this machine lacks.
    pub skipped: Vec<String>,
}

impl Session {
    /// With a home in `place`.
    pub fn new(product: &Product, place: &Path, through: Option<Command>) -> Result<Self> {
        let home = place.join("home");
        fs::create_dir_all(home.join("tmp")).context("making a home")?;
        symlink(product.directory(), home.join("mana")).context("linking the installed tree")?;
        let session = Self {
            home,
            through,
            begun: Vec::new(),
            words: Vec::new(),
            count: 0,
            skipped: Vec::new(),
        };
        fs::write(session.state("environment"), session.environment()?)?;
        fs::write(
            session.state("directory"),
            session.home.as_os_str().as_encoded_bytes(),
        )?;
        Ok(session)
    }

    /// The reader is somebody else: whose `reference` is. Everything is in `place` then, and his.
    pub fn hand_over(&self, product: &Product, place: &Path, reference: &Path) -> Result<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs");
        let own = place.join("docs");
        let environment = self.state("environment");
        let moved = |text: String, from: &Path, to: &Path| {
            text.replace(&from.display().to_string(), &to.display().to_string())
        };
        let mut text = moved(fs::read_to_string(&environment)?, &docs, &own);
        let line = "cd \"$1\" && rm home/mana && cp -a \"$2\" home/mana && cp -a \"$3\" docs && \
                    chown -R --reference=\"$4\" home session-* && chown --reference=\"$4\" . && chmod 711 .";
        if let Some(library) = Mpi::Mpich.yielding() {
            let copy = place.join("yield.so");
            text = moved(text, library, &copy);
            fs::copy(library, &copy).context("copying a library")?;
        }
        fs::write(&environment, text)?;
        let mut command = Command::new("sh");
        command.args(["-c", line, "sh"]);
        command.args([place, product.directory(), &docs, reference]);
        Job::start(command, place)?
            .wait(Duration::from_secs(60))?
            .expect(0)
            .map(drop)
    }

    fn state(&self, name: &str) -> PathBuf {
        self.home.with_file_name(format!("session-{name}"))
    }

    /// What a reader's shell has, and what tests on few processors, as root, need besides.
    fn environment(&self) -> Result<String> {
        let home = self.home.display();
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("no parent")?;
        let docs = tests.join("docs");
        let mut text = format!(
            "for name in ${{!MANA_*}} ${{!SLURM_*}}; do [ $name = MANA_SCENARIO_JOB ] || unset $name; done\n\
             unset XDG_CONFIG_HOME\n\
             export HOME='{home}' TMPDIR='{home}/tmp' DOCS='{}' PATH='{}':\"$PATH\"\n\
             export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n\
             export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none\n\
             export OMPI_MCA_mpi_yield_when_idle=1\n",
            docs.display(),
            docs.join("bin").display(),
        );
        if let Some(library) = Mpi::Mpich.yielding() {
            writeln!(text, "export MANA_LOWER_PRELOAD='{}'", library.display())?;
        }
        Ok(text)
    }

    /// Does one thing; an error names the lines of the page.
    pub fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Page(mode, line, text, expected) => {
                if let Some(missing) = expected.needs.as_deref().filter(|n| find(n).is_none()) {
                    self.skipped.push(format!("{missing} is not installed"));
                    return Ok(());
                }
                let text = self.translated(text);
                self.lines(mode, &text, expected)
                    .with_context(|| format!("line {line}: {}", text.trim()))
            }
            Step::Own(command) => self
                .run(
                    command,
                    &Expected {
                        code: Some(0),
                        ..Expected::default()
                    },
                )
                .map(drop)
                .with_context(|| format!("do {command}")),
            Step::OwnBegin(command, expected) => self
                .begin(command, expected)
                .with_context(|| format!("start {command}")),
            Step::Let(word, command) => {
                let expected = Expected {
                    code: Some(0),
                    ..Expected::default()
                };
                let said = self.run(command, &expected)?;
                self.words.push((word.clone(), said.trim().to_owned()));
                Ok(())
            }
            Step::End(start, expected) => self.end(start, expected),
            Step::Wait(expected) => self.wait(expected),
            // Asked before.
            Step::Need(_) => Ok(()),
        }
    }

    fn translated(&self, text: &str) -> String {
        self.words
            .iter()
            .fold(text.to_owned(), |text, (word, value)| {
                text.replace(word, value)
            })
    }

    fn lines(&mut self, mode: &Mode, text: &str, expected: &Expected) -> Result<()> {
        match mode {
            Mode::Run => self.run(text, expected).map(drop),
            Mode::Begin => self.begin(text, expected),
            Mode::File(name) => {
                let path = self.directory().join(name);
                fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
            }
            Mode::Shown(_) | Mode::Elsewhere(_) => Ok(()),
        }
    }

    /// Where the terminal is.
    fn directory(&self) -> PathBuf {
        let text = fs::read_to_string(self.state("directory")).unwrap_or_default();
        PathBuf::from(text.trim_end_matches('\n'))
    }

    /// A shell that executes `text`; `keep`: the next one goes on where it was.
    fn shell(&mut self, text: &str, keep: bool) -> Result<Job> {
        let (environment, directory) = (self.state("environment"), self.state("directory"));
        let mut script = format!(
            "mark=$MANA_SCENARIO_JOB; . '{}'; export MANA_SCENARIO_JOB=$mark\ncd \"$(cat '{}')\" || exit\n",
            environment.display(),
            directory.display()
        );
        if keep {
            writeln!(
                script,
                "trap 'code=$?; export -p >'\\''{}'\\''; pwd >'\\''{}'\\''; exit $code' EXIT",
                environment.display(),
                directory.display()
            )?;
        }
        if self.through.is_some() {
            // What it starts elsewhere is ended with that place.
            script += "unset MANA_SCENARIO_JOB\n";
        }
        writeln!(script, "set -e\n{text}")?;
        self.count += 1;
        let path = self.state(&format!("{}.sh", self.count));
        fs::write(&path, script).with_context(|| format!("writing {}", path.display()))?;
        let mut command = match &self.through {
            None => Command::new("bash"),
            Some(through) => {
                let mut command = Command::new(through.get_program());
                command.args(through.get_args()).arg("bash");
                for (name, value) in through.get_envs() {
                    if let Some(value) = value {
                        command.env(name, value);
                    }
                }
                command
            }
        };
        command.arg("--norc").arg(&path).current_dir(&self.home);
        Job::start(command, self.home.parent().unwrap_or(&self.home))
    }

    /// What it wrote.
    fn run(&mut self, text: &str, expected: &Expected) -> Result<String> {
        let ended = self.shell(text, true)?.wait(LIMIT)?;
        check(&ended, expected)?;
        Ok(ended.stdout)
    }

    fn begin(&mut self, text: &str, expected: &Expected) -> Result<()> {
        let mut job = self.shell(text, false)?;
        let directory = self.directory();
        let words = expected.until.as_deref().unwrap_or_default();
        job.until(&format!("{words:?}"), LIMIT, |job| {
            let found = match &expected.place {
                None => job.printed() + &job.messages(),
                Some(pattern) => content(&directory, pattern),
            };
            found.contains(words).then_some(())
        })?;
        self.begun.push((text.to_owned(), job));
        Ok(())
    }

    fn end(&mut self, start: &str, expected: &Expected) -> Result<()> {
        let at = self
            .begun
            .iter()
            .position(|(text, _)| text.starts_with(start));
        // Left out, where this machine lacks something.
        let Some(at) = at else { return Ok(()) };
        let (text, job) = self.begun.remove(at);
        if expected.interrupt {
            job.interrupt();
        }
        let ended = job.wait(LIMIT).with_context(|| text.clone())?;
        check(&ended, expected).with_context(|| text)
    }

    fn wait(&mut self, expected: &Expected) -> Result<()> {
        let words = expected.until.as_deref().unwrap_or_default();
        let pattern = expected.place.as_deref().unwrap_or_default();
        let directory = self.directory();
        let deadline = Instant::now() + LIMIT;
        loop {
            let found = content(&directory, pattern);
            if found.contains(words) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{words:?} did not come into {pattern} in {} s\n{found}",
                    LIMIT.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What is in the files whose name fits: `*` at most once, in the last part.
fn content(directory: &Path, pattern: &str) -> String {
    let path = directory.join(pattern);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((before, after)) = name.split_once('*') else {
        return fs::read_to_string(&path).unwrap_or_default();
    };
    let entries = path.parent().and_then(|parent| fs::read_dir(parent).ok());
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(before) && name.ends_with(after)
    };
    let mut files: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(fits)
        .collect();
    files.sort();
    let texts = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap_or_default());
    texts.collect()
}

fn check(ended: &crate::job::Ended, expected: &Expected) -> Result<()> {
    if let Some(code) = expected.code {
        ended.expect(code)?;
    }
    for words in &expected.says {
        ensure!(
            ended.stdout.contains(words) || ended.stderr.contains(words),
            "{words:?} is not said\n{}",
            ended.report()
        );
    }
    Ok(())
}
