//! A checkpoint that cannot be taken says where every rank is, and whom all wait for.

use anyhow::{ensure, Context as _, Result};

use super::{says, under_control, Job, Stage, LIMIT, SHORT};
use crate::scenarios::modes::same;

/// Less than the last rank computes: until it is told.
const TIMEOUT: &str = "checkpoint_timeout=2";

pub fn watchdog(stage: &Stage) -> Result<()> {
    let over = stage.place.path().join("over");
    let held = over.display().to_string();
    let line = [&stage.line[0], "--held", &held].map(str::to_owned);
    let mut job: Job = stage.setup.launch(&["--set", TIMEOUT], &line)?;
    under_control(&mut job)?;
    let words = [
        "abandoned in step gate",
        "ranks 0-2 wait for rank 3",
        "has not called collective number 1 of 1 on MPI_COMM_WORLD",
    ];
    // Until all ranks but one wait, one of them inside the collective that the others have not called.
    let mut given_up = stage.mana("status", &["--checkpoint", "--wait"])?;
    for _ in 0..20 {
        if words.iter().all(|word| given_up.stderr.contains(word)) {
            break;
        }
        given_up = stage.mana("status", &["--checkpoint", "--wait"])?;
    }
    ensure!(given_up.code() == 99, "{}", given_up.report());
    for word in words {
        ensure!(
            given_up.stderr.contains(word),
            "{word}\n{}",
            given_up.report()
        );
    }
    let lines = [
        "rank 0: MPI_Recv from rank 3, tag 77, on MPI_COMM_WORLD, for ",
        "rank 1: MPI_Wait from rank 0, tag 5, on MPI_COMM_WORLD, for ",
        "rank 2: MPI_Allreduce (number 1) on MPI_COMM_WORLD, for ",
    ];
    for line in lines {
        job.until("the report", SHORT, |job| {
            job.messages().contains(line).then_some(())
        })
        .with_context(|| line.to_owned())?;
    }
    let json = stage.mana("status", &["--json"])?;
    let state: serde_json::Value =
        serde_json::from_str(&json.expect(0)?.stdout).context("mana status --json")?;
    let stall = &state["last_stall"];
    ensure!(
        stall["step"] == "gate"
            && stall["ranks"][0]["waiting"][0]["peer"] == 3
            && stall["ranks"][0]["waiting"][0]["tag"] == 77
            && stall["ranks"][3]["awaited"] == true,
        "{}",
        json.report()
    );
    says(
        stage.mana("status", &[])?.expect(0)?,
        &["ranks 0-2 wait for rank 3", "MPI_Recv from rank 3"],
    )?;
    std::fs::write(&over, "").context("letting rank 3 go on")?;
    same(&job.wait(LIMIT)?, &stage.expected)
}
