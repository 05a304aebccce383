//! A job of an ordinary user, who has the tree in his home and nothing from an administrator but the nodes' prolog: submitted,
//! looked at, requeued by him. Everything it leaves is his, and nobody else can read it.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::bed::{interface, native_result, results, Site, RANK};
use super::NODES;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);
const WORDS: [&str; 4] = ["--rounds", "150", "--pause", "400"];

pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let mut site = match Site::of_guest(context, mpi, "cluster-user")? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let expected = native_result(context, mpi, NODES, &WORDS[..2], site.place.path())?;
    doctor(&site)?;
    let job = site.submit("requeue.sbatch", &["-n4", "-N4"], &WORDS, &[])?;
    job.says("complete on level partner")?;
    status(&site)?;
    own(&site, true)?;
    let words = ["scontrol", "requeue", &job.id];
    site.run(&words, SHORT)?.expect(0)?;
    job.says("resumed generation ")?;
    job.hurry()?;
    let text = job.ended()?;
    ensure!(
        results(&text) == [expected.as_str()],
        "results {:?}, {expected} natively\n{text}",
        results(&text)
    );
    own(&site, false)?;
    clean_local(&site)?;
    closed(&site)?;
    site.place.done();
    Ok(Verdict::Passed(String::new()))
}

/// A command of the tree, from the head.
fn command(site: &Site, name: &str, words: &[&str]) -> Result<String> {
    let path = site.launch.with_file_name(name).display().to_string();
    let configuration = site.configuration.display().to_string();
    let all = [&[path.as_str()], words, &["--config", &configuration]].concat();
    let ended = site.run(&all, SHORT)?;
    Ok(ended.expect(0)?.stdout.clone())
}

/// He sees his job, and has a checkpoint taken.
fn status(site: &Site) -> Result<()> {
    let seen = command(site, "mana_status", &[])?;
    ensure!(seen.contains("4 ranks on 4 nodes"), "{seen}");
    let words = ["--checkpoint", "--level", "global", "--wait"];
    let taken = command(site, "mana_status", &words)?;
    ensure!(taken.contains("committed"), "{taken}");
    Ok(())
}

/// On the nodes and on the head: nothing that will not work.
fn doctor(site: &Site) -> Result<()> {
    let mana = site.launch.with_file_name("mana").display().to_string();
    let configuration = site.configuration.display().to_string();
    let looks = [mana.as_str(), "doctor", "--config", &configuration];
    site.run(&looks, SHORT)?.expect(0)?;
    let there = [&["srun", "--mpi=none", "-N1"], &looks[..]].concat();
    site.run(&there, SHORT)?.expect(0).map(drop)
}

/// Whose processes and files there are. Besides his own there are Slurm's, and the files of MPIs (`ompi.n1.20079`) in /tmp.
fn own(site: &Site, running: bool) -> Result<()> {
    let home = site.home();
    let of_job = format!(
        "find {home}/global /local/mana/guest ! -type l \\( ! -user guest -o -perm /077 \\)",
        home = home.display()
    );
    let beside = "find /dev/shm -mindepth 1; find /tmp -maxdepth 1 -ignore_readdir_race -user guest ! -name 'mana-cluster-user.*' ! -name 'ompi.*'";
    for node in ["n1", "n4"] {
        let ranks = site.on_node(node, &format!("ps -C {RANK} -o user= || true"))?;
        let found: Vec<&str> = ranks.split_whitespace().collect();
        let right: &[&str] = if running { &["guest"] } else { &[] };
        ensure!(found == right, "ranks on {node}: {found:?}");
        let open = site.on_node(node, &of_job)?;
        ensure!(open.is_empty(), "not his, or for others to read:\n{open}");
        if running {
            let there = "ls /local/mana/guest/*/gen-*/rank-*.img";
            site.on_node(node, there)?;
            continue;
        }
        let left = site.on_node(node, beside)?;
        ensure!(left.is_empty(), "left on {node}:\n{left}");
    }
    let secret = home.join("global");
    let places = std::fs::read_dir(&secret).with_context(|| secret.display().to_string())?;
    for place in places {
        // It goes with the coordinator.
        let there = place?.path().join("coordinator.json").exists();
        ensure!(there == running, "the coordinator's file: {there}");
    }
    Ok(())
}

/// Somebody else has made the directory above his, for himself alone: said by name.
fn closed(site: &Site) -> Result<()> {
    site.on_node("n3", "install -d -m 700 -o nobody /local/closed")?;
    let launch = site.launch.display().to_string();
    let configuration = site.configuration.display().to_string();
    let mut words = vec!["srun", interface(site.mpi), "-n1", "-w", "n3", &launch];
    words.extend(["--config", &configuration]);
    words.extend(["--set", "local_ckpt_dir=/local/closed/guest"]);
    let line = site.line(&WORDS);
    words.extend(line.split(' '));
    let ended = site.run(&words, SHORT)?;
    ensure!(
        ended.code() == 99 && ended.stderr.contains("(/local/closed belongs to nobody)"),
        "{}",
        ended.report()
    );
    Ok(())
}

/// As prolog of his own tasks it makes his directory, and deletes what is old there.
fn clean_local(site: &Site) -> Result<()> {
    let clean = site.home().join("mana/share/mana/slurm/clean-local");
    let (clean, base) = (clean.display(), "/local/of-guest");
    let line = format!(
        "export MANA_LOCAL_BASE={base}; \
         srun {mpi} -n1 -w n2 sh -c 'd={base}/$USER; mkdir -p $d/17-app-00 $d/18-app-00 && touch -d \"10 days ago\" $d/17-app-00' && \
         srun {mpi} -n1 -w n2 --task-prolog={clean} --task-epilog={clean} sh -c 'ls {base}/$USER; stat -c \"%a %U\" {base}/$USER'",
        mpi = interface(site.mpi)
    );
    let ended = site.run(&["bash", "-c", &line], SHORT)?;
    let said: Vec<&str> = ended.expect(0)?.stdout.lines().collect();
    ensure!(said == ["18-app-00", "700 guest"], "{}", ended.report());
    Ok(())
}
