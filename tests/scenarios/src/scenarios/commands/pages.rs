//! `mana report`: the page of a job that was made up, looked at in a browser if there is one; and
//! `mana doctor`, the coordinator's letters, the lines and their forms.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::{picture, says, with_port, Stage, LIMIT, SHORT};
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::scenarios::modes::same;

/// Size of the picture.
const WINDOW: picture::Size = (1180, 3300);
/// Colours of the page (light) that must be seen, and how many pixels of each at least.
const COLOURS: [(&str, [u8; 3], usize); 5] = [
    ("local", [0x2f, 0x7e, 0xd8], 2000),
    ("partner", [0x0f, 0x9d, 0x76], 1000),
    ("global", [0xe0, 0x8a, 0x12], 500),
    ("failures", [0xd0, 0x34, 0x2c], 100),
    ("running", [0xc9, 0xd8, 0xea], 5000),
];

/// Two starts of a job of 64 ranks with a lost node between them.
fn events() -> Result<String> {
    const BEGIN: f64 = 1_760_000_000.0;
    let mut text = String::new();
    let mut line = |time: f64, incarnation: u32, rest: String| {
        writeln!(
            text,
            "{{\"time\":{:.3},\"incarnation\":{incarnation},{rest}}}",
            BEGIN + time
        )
    };
    let started = "\"event\":\"started\",\"ranks\":64,\"nodes\":8,\"program\":\"/opt/lmp\",\
        \"intervals\":[60.0,180.0,null,600.0],\"enabled\":[true,true,false,true]";
    line(0.0, 1, started.into())?;
    for number in 1..=58_u32 {
        let incarnation = if number <= 31 { 1 } else { 2 };
        let pause = if number <= 31 { 0.0 } else { 65.0 };
        let time = f64::from(number) * 60.0 + pause;
        let id = format!("\"generation\":{{\"incarnation\":{incarnation},\"number\":{number}}}");
        if number == 9 {
            line(
                time,
                incarnation,
                format!("\"event\":\"abandoned\",{id},\"level\":\"partner\",\"step\":\"gate\",\"seconds\":30.0,\"reason\":\"waited 30 s for the safe point of rank 3; ranks 0-2 wait for rank 3 on n01 (computing)\""),
            )?;
            continue;
        }
        let (level, reaches) = match number {
            n if n % 10 == 0 => ("global", 3),
            n if n % 3 == 0 => ("partner", 2),
            _ => ("local", 1),
        };
        let wobble = f64::from(number * 37 % 11) / 11.0;
        let bytes = (40_u64 << 30) + (u64::from(number) << 27);
        line(
            time,
            incarnation,
            format!(
                "\"event\":\"committed\",\"scheduled\":true,{id},\"level\":\"{level}\",\"bytes\":{bytes},\"seconds\":{:.2},\"gate\":{:.4},\"drain\":0.011,\"snapshot\":{:.4},\"stopped\":{:.4},\"write\":{:.2}",
                9.0 + wobble,
                0.01 + 0.06 * wobble,
                0.12 + 0.01 * wobble,
                0.14 + 0.07 * wobble,
                8.5 + wobble
            ),
        )?;
        for (name, seconds) in [("local", 8.5), ("partner", 14.0), ("global", 55.0)]
            .into_iter()
            .take(reaches)
        {
            let seconds = seconds + wobble;
            line(
                time + seconds,
                incarnation,
                format!("\"event\":\"level-complete\",{id},\"level\":\"{name}\",\"seconds\":{seconds:.2},\"bytes\":{bytes}"),
            )?;
        }
    }
    line(
        1905.0,
        1,
        "\"event\":\"lost\",\"rank\":17,\"host\":\"n03\",\"node\":2".into(),
    )?;
    line(1950.0, 2, "\"event\":\"resumed\",\"generation\":{\"incarnation\":1,\"number\":30},\"level\":\"global\",\"taken\":1760001800.0,\"sources\":{\"local\":56,\"partner copy on node 3\":8},\"rejected\":[\"generation 1.31 rank 17: no intact copy\"],\"last_seen\":1760001905.0".into())?;
    line(1958.0, 2, started.into())?;
    line(
        3560.0,
        2,
        "\"event\":\"ended\",\"outcome\":\"finished\"".into(),
    )?;
    Ok(text)
}

pub fn report(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("commands-report")?;
    let directory = place.path();
    let job = directory.join("global/4711-lmp");
    std::fs::create_dir_all(&job)?;
    std::fs::write(job.join("events.jsonl"), events()?)?;
    let page = directory.join("page.html");
    let mana = |words: &[&str]| -> Result<crate::job::Ended> {
        let mut command = Command::new(product.command("mana"));
        command.args(words).current_dir(directory);
        command.args(["--set", "global_ckpt_dir=global", "--id", "4711-lmp"]);
        Job::start(command, directory)?.wait(SHORT)
    };
    let made = mana(&["report", "--output", "page.html", "--mtbf", "job=400000"])?;
    says(made.expect(0)?, &["checkpoints: 57, starts: 2"])?;
    let text = std::fs::read_to_string(&page)?;
    ensure!(
        !text.contains("http:") && !text.contains("https:") && !text.contains("src="),
        "the page wants something from elsewhere"
    );
    let figures = mana(&["report", "--json"])?;
    let figures: serde_json::Value = serde_json::from_str(&figures.expect(0)?.stdout)?;
    ensure!(
        figures["levels"][1]["failures"] == 1
            && figures["starts"][1]["resumed"]["lost"] == 105.0
            && figures["time"]["efficiency"]
                .as_f64()
                .is_some_and(|e| e > 0.9),
        "{figures:#}"
    );
    let Some(browser) = picture::browser() else {
        return skipped(format!(
            "the page was made, but no browser is here to look at it ({})",
            picture::BROWSERS.join(", ")
        ));
    };
    let taken = directory.join("page.png");
    picture::take(&browser, &page, WINDOW, &taken, directory)?;
    let seen = picture::colours(&taken, WINDOW)?;
    for (name, colour, least) in COLOURS {
        let count = seen.get(&colour).copied().unwrap_or(0);
        ensure!(count >= least, "{name}: {count} pixels of {colour:02x?}");
    }
    place.done();
    Ok(Verdict::Passed("looked at in a browser".into()))
}

/// `mana doctor`, with the jobs of its self-test.
pub fn doctor(stage: &Stage) -> Result<()> {
    let mut command = Command::new(stage.setup.product.command("mana"));
    command
        .args(["doctor", "--self-test", "--json", "--config"])
        .arg(stage.setup.configuration())
        .current_dir(stage.place.path());
    let looked = Job::start(command, stage.place.path())?.wait(LIMIT * 2)?;
    let findings: Vec<serde_json::Value> =
        serde_json::from_str(&looked.stdout).with_context(|| looked.report())?;
    let mut trials = 0;
    for finding in &findings {
        ensure!(
            (finding["verdict"] == "ok") == finding["mend"].is_null(),
            "no way to mend it: {finding}"
        );
        let area = finding["area"].as_str().unwrap_or_default();
        if ["trial", "self-test"].contains(&area) {
            // A fetched MPI of the tests has its launcher elsewhere.
            let wanted = finding["verdict"] == "ok" || finding["verdict"] == "warning";
            ensure!(wanted, "{finding}");
            trials += usize::from(finding["verdict"] == "ok");
        }
    }
    ensure!(trials >= 2, "{}", looked.report());
    for area in ["system", "installation", "MPI", "Slurm", "storage"] {
        ensure!(
            findings.iter().any(|f| f["area"] == area),
            "{area} is missing"
        );
    }
    for store in [stage.setup.stores().global, stage.setup.stores().local] {
        let left: Vec<_> = std::fs::read_dir(&store)
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        ensure!(left.is_empty(), "left in {}: {left:?}", store.display());
    }
    Ok(())
}

/// The letters of a stand-alone coordinator.
pub fn letters(stage: &Stage) -> Result<()> {
    let mana = stage.setup.product.command("mana_coordinator");
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "printf 'h\\nl\\ns\\ni local never\\nx\\nq\\n' | \"$0\" --interactive --config \"$1\"",
        ])
        .arg(mana)
        .arg(stage.setup.configuration())
        .current_dir(stage.place.path());
    let said = Job::start(command, stage.place.path())?.wait(SHORT)?;
    says(
        said.expect(0)?,
        &[
            "take a checkpoint",
            "0 committed",
            "\"never\" is not a number of seconds",
            "\"x\" is no command",
        ],
    )?;
    letters_of_a_job(stage)
}

/// `c` takes a checkpoint of the job, `l` lists it, `k` ends it.
fn letters_of_a_job(stage: &Stage) -> Result<()> {
    let typed = stage.place.path().join("typed");
    std::fs::write(&typed, "").context("creating a file")?;
    let types = |letter: &str| -> Result<()> {
        let mut file = std::fs::OpenOptions::new().append(true).open(&typed)?;
        writeln!(file, "{letter}").context("typing a letter")
    };
    let script =
        "tail -n +1 -f \"$0\" | \"$1\" --interactive --coord-host localhost --config \"$2\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(&typed)
        .arg(stage.setup.product.command("mana_coordinator"))
        .arg(stage.setup.configuration());
    let (mut coordinator, port) = with_port(command, &stage.place.path().join("letters"))?;
    let options = ["--coord-host", "localhost", "--coord-port", &port];
    let job = stage.started(&stage.setup, &options)?;
    types("c local")?;
    let stores = stage.setup.stores();
    coordinator.until("a checkpoint", LIMIT, |_| {
        (!stores.committed().is_empty()).then_some(())
    })?;
    types("l")?;
    coordinator.until("the list", LIMIT, |coordinator| {
        coordinator.printed().contains(" running ").then_some(())
    })?;
    types("k")?;
    let ended = job.wait(LIMIT)?;
    ensure!(
        ended.code() != 0 && ended.stderr.contains("on the coordinator's terminal"),
        "not ended by k\n{}",
        ended.report()
    );
    coordinator.destroy();
    Ok(())
}

/// A log file, JSON lines, metrics, a watched job in a pipe, and the report of a real job.
pub fn lines(stage: &Stage) -> Result<()> {
    let place = stage.place.path();
    let (log, metrics) = (place.join("mana.log"), place.join("mana.prom"));
    let options = [
        "--log-file",
        &log.to_string_lossy(),
        "--log-json",
        "--set",
        &format!("metrics_file={}", metrics.display()),
    ]
    .map(str::to_owned);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut setup = stage.setup.clone();
    setup.hold();
    let mut job = setup.launch(&options, &stage.line)?;
    job.until("the job under control", LIMIT, |_| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("under control").then_some(())
    })?;
    let mut command = Command::new(stage.setup.product.command("mana_status"));
    command
        .args(["--watch", "--id", &stage.setup.id, "--config"])
        .arg(stage.setup.configuration());
    let watched = place.join("watched");
    std::fs::create_dir(&watched)?;
    let mut watching = Job::start(command, &watched)?;
    let taken = stage.mana("status", &["--checkpoint", "--wait"])?;
    says(taken.expect(0)?, &["checkpoint 1 (global) committed"])?;
    job.until("metrics of the checkpoint", SHORT, |_| {
        let text = std::fs::read_to_string(&metrics).ok()?;
        text.contains("mana_checkpoints_committed_total{job=\"scenario\"} 1")
            .then_some(())
    })?;
    watching.until("the line of the checkpoint", LIMIT, |watching| {
        watching.printed().contains("1 committed").then_some(())
    })?;
    setup.release()?;
    let ended = job.wait(LIMIT)?;
    same(&ended, &stage.expected)?;
    let ours: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|l| l.contains("mana"))
        .collect();
    ensure!(ours.is_empty(), "noise in the program's output: {ours:?}");
    for line in std::fs::read_to_string(&log)?.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(
            line["job"] == "scenario" && line["time"].is_f64() && line["level"].is_string(),
            "{line}"
        );
    }
    ensure!(!metrics.exists(), "metrics of a job that has ended");
    let watched = watching.wait(SHORT)?;
    says(
        watched.expect(0)?,
        &["running 2 ranks on 2 nodes", "1 committed"],
    )?;
    let figures = stage.mana("report", &["--json"])?;
    let figures: serde_json::Value = serde_json::from_str(&figures.expect(0)?.stdout)?;
    ensure!(
        figures["checkpoints"][0]["reached"]
            .as_array()
            .is_some_and(|r| r.len() == 3)
            && figures["starts"][0]["end"] == "ended normally"
            && figures["ranks"] == 2,
        "{figures:#}"
    );
    Ok(())
}

/// A job that was lost is in its report.
pub fn lost(stage: &Stage) -> Result<()> {
    let job = stage.started(&stage.setup, &[])?;
    stage
        .mana("status", &["--checkpoint", "--level", "partner", "--wait"])?
        .expect(0)?;
    job.kill_ranks();
    job.wait(Duration::from_secs(60))?;
    same(&stage.restart(2)?, &stage.expected)?;
    let figures = stage.mana("report", &["--json"])?;
    let figures: serde_json::Value = serde_json::from_str(&figures.expect(0)?.stdout)?;
    ensure!(
        figures["starts"][0]["failed"] == true
            && figures["starts"][1]["resumed"]["generation"] == "1.1"
            && figures["starts"][1]["end"] == "ended normally",
        "{figures:#}"
    );
    Ok(())
}
