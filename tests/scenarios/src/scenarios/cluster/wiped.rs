//! Nodes that keep nothing between a job's starts: `clean-local` as epilog with `MANA_LOCAL_DAYS=0`.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::bed::{count, native_result, results, Site};
use super::program;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);
const WORDS: [&str; 4] = ["--rounds", "150", "--pause", "500"];

pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let clean = Site::template("clean-local")?.display().to_string();
    let prolog = format!("#!/bin/sh\nMANA_LOCAL_DAYS=0 exec {clean}\n");
    let up = Site::with_prolog(context, mpi, "cluster-wiped", program()?, Some(&prolog))?;
    let mut site = match up {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let expected = native_result(context, mpi, 2, &WORDS[..2], site.place.path())?;
    let settings = [("MANA_GLOBAL_CKPT_INTERVAL", "3")];
    let nodes = ["n1", "n2"];
    let job = site.submit(
        "requeue.sbatch",
        &["-n2", "-N2", "-w", "n[1-2]"],
        &WORDS,
        &settings,
    )?;
    job.says("complete on level global")?;
    // Something of an earlier job's, and of nobody's, beside it.
    for node in nodes {
        let script = "ls -d /local/mana/root/[0-9]*-* && mkdir /local/mana/root/9999-other-00";
        site.on_node(node, script)?;
    }
    let words = ["scontrol", "requeue", &job.id];
    site.cluster.run(&words, SHORT)?.expect(0)?;
    job.says("resumed generation ")?;
    let text = job.text();
    ensure!(
        text.contains("2 verified images, 2 from global"),
        "not all from the global directory\n{text}"
    );
    job.hurry()?;
    let text = job.ended()?;
    ensure!(
        results(&text) == [expected.as_str()] && count(&text, "resumed generation ") == 1,
        "results {:?}, {expected} natively, resumed once\n{text}",
        results(&text)
    );
    for node in nodes {
        let left = site.on_node(node, "ls /local/mana/root")?;
        ensure!(left.trim() == "9999-other-00", "left on {node}: {left:?}");
    }
    site.place.done();
    Ok(Verdict::Passed(String::new()))
}
