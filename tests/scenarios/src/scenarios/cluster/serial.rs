//! Programs without MPI under srun, whatever srun has for MPI programs: alone, and as several tasks, each a job of its
//! own. And one that does not call `MPI_Init`, as far as anybody can tell.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::bed::{count, results, BatchJob, Site};
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);

pub fn run(context: &Context) -> Result<Verdict> {
    let mut site = match Site::up(context, Mpi::OpenMpi, "cluster-serial")? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let program = compile(site.place.path())?;
    let expected = native(&program, site.place.path())?;
    let launch = format!(
        "{} --config {}",
        site.launch.display(),
        site.configuration.display()
    );
    let submit = |name: &str, options: &[&str], srun: &str| {
        let script = site.place.path().join(name);
        let hurry = script.with_extension("hurry");
        let line = srun.replace("mana_launch", &launch);
        let text = format!(
            "#!/bin/bash\n#SBATCH --requeue\n#SBATCH --open-mode=append\n{line} {program} {}\n",
            hurry.display()
        );
        std::fs::write(&script, text).context("writing the job's script")?;
        site.submit_script(&script, options)
    };
    let alone = [
        submit("pmix", &["-w", "n1"], "srun --mpi=pmix -n1 mana_launch")?,
        submit("pmi2", &["-w", "n2"], "srun --mpi=pmi2 -n1 mana_launch")?,
    ];
    let tasks = submit(
        "tasks",
        &["-w", "n[3-4]", "-N2", "-n4"],
        "srun -n4 -N2 --mpi=pmix mana_launch --mpi none --id scan",
    )?;
    let jobs = [(&alone[0], 1), (&alone[1], 1), (&tasks, 4)];
    for (job, ranks) in jobs {
        job.until("a checkpoint of each", |text| {
            (count(text, "checkpoint 1 (local) committed") == ranks).then_some(())
        })?;
        let words = ["scontrol", "requeue", &job.id];
        site.cluster.run(&words, SHORT)?.expect(0)?;
    }
    unprotected(&site)?;
    refused(&site, &program)?;
    for (job, ranks) in jobs {
        ended(job, ranks, &expected)?;
    }
    let text = tasks.text();
    for task in 0..4 {
        let line = format!("mana[job scan.{task} rank 0 ");
        ensure!(
            text.lines()
                .any(|l| l.starts_with(&line) && l.contains("resumed generation ")),
            "scan.{task} did not resume\n{text}"
        );
    }
    site.place.done();
    Ok(Verdict::Passed(String::new()))
}

/// Resumed, each once, with the native result.
fn ended(job: &BatchJob, ranks: usize, expected: &str) -> Result<()> {
    job.until("a resume of each", |text| {
        (count(text, "resumed generation ") == ranks).then_some(())
    })?;
    job.hurry()?;
    let text = job.ended()?;
    ensure!(
        results(&text) == vec![expected; ranks],
        "job {}: results {:?}, {expected} natively\n{text}",
        job.id,
        results(&text)
    );
    Ok(())
}

/// Python may load MPI and does not: said, and nothing else happens to it.
fn unprotected(site: &Site) -> Result<()> {
    let (launch, configuration) = (site.launch.display(), site.configuration.display());
    let line = format!(
        "srun --mpi=pmix -n1 {launch} --config {configuration} --id late --set checkpoint_timeout=2 python3 -c"
    );
    let mut words: Vec<&str> = line.split(' ').collect();
    words.push("import time; time.sleep(8); print('RESULT 1')");
    let ended = site.cluster.run(&words, SHORT)?;
    ended.expect(0)?;
    let said = count(
        &ended.stderr,
        "has not called MPI_Init in 2 s: it runs UNPROTECTED",
    );
    ensure!(
        said == 1 && ended.stdout.contains("RESULT 1") && ended.stderr.contains("--mpi none"),
        "{}",
        ended.report()
    );
    Ok(())
}

/// Several tasks of which nobody said that they are independent.
fn refused(site: &Site, program: &str) -> Result<()> {
    let launch = site.launch.display().to_string();
    let configuration = site.configuration.display().to_string();
    let mut words = vec!["srun", "--mpi=none", "-n2", &launch];
    words.extend(["--config", &configuration, program]);
    let ended = site.cluster.run(&words, SHORT)?;
    let said = count(&ended.stderr, "--mpi none makes each task a job of its own");
    ensure!(ended.code() == 99 && said == 1, "{}", ended.report());
    Ok(())
}

fn compile(directory: &Path) -> Result<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs/serial.c");
    let program = directory.join("serial");
    let mut command = Command::new("gcc");
    command.arg("-O2").arg("-o").arg(&program).arg(source);
    Job::start(command, directory)?.wait(SHORT)?.expect(0)?;
    Ok(program.display().to_string())
}

fn native(program: &str, directory: &Path) -> Result<String> {
    let mut command = Command::new(program);
    // A file that is there.
    command.arg(program);
    Job::start(command, directory)?
        .wait(SHORT)?
        .expect(0)?
        .result()
}
