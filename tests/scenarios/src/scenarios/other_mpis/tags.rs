//! A tag that the MPI a job goes on under does not have: named, in a receive that waits and in a send that comes.

use anyhow::{ensure, Context as _, Result};

use super::{killed, native, same, LIMIT};
use crate::context::{skipped, Context, Verdict};
use crate::job::Ended;
use crate::mpi::Mpi;
use crate::product::Setup;
use crate::programs::TAGS;

/// Open MPI has the larger tags.
pub fn run(context: &Context) -> Result<Verdict> {
    let (from, to) = (Mpi::OpenMpi, Mpi::Mpich);
    if let Some(why) = super::missing(context, &TAGS, &[from, to]) {
        return skipped(why);
    }
    let mut place = context.directory("another-tags")?;
    let executable = context.build(&TAGS, from)?;
    let expected = context.native(TAGS.name, || native(&TAGS, from, &executable, place.path()))?;
    let over = place.path().join("over");
    let until = over.display().to_string();
    let lost = |posted: &str| -> Result<(Setup, Vec<String>)> {
        let words = ["--posted", posted, "--pause", "300", "--until", &until];
        let line = TAGS.line(&executable, &words);
        let directory = place.path().join(posted);
        std::fs::create_dir(&directory).context("creating a directory")?;
        let setup = killed(context, &TAGS, &line, from, &directory)?;
        Ok((setup, line))
    };
    let (waits, waits_line) = lost("1")?;
    let (sends, sends_line) = lost("0")?;
    std::fs::write(&over, "").context("ending the pauses")?;
    let goes_on = |setup: &Setup, line: &[String]| -> Result<Ended> {
        let other = Setup {
            mpi: to,
            ..setup.clone()
        };
        let options = ["--restart", "--mpi", to.name()];
        other.launch(&options, line)?.wait(LIMIT)
    };

    let refused = goes_on(&waits, &waits_line)?;
    ensure!(
        refused.code() != 0
            && refused
                .stderr
                .contains("a receive is posted with tag 2147483647, the largest here is "),
        "the tag is not named\n{}",
        refused.report()
    );
    // Nothing is lost by that.
    let ended = waits.launch(&["--restart"], &waits_line)?.wait(LIMIT)?;
    same(&ended, &expected)?;

    let ended = goes_on(&sends, &sends_line)?;
    ended.expect(0)?;
    ensure!(
        ended
            .stdout
            .contains("the tag 2147483647 is refused: MPI_ERR_TAG")
            && ended.stderr.contains("; the largest tag is ")
            && ended
                .stderr
                .contains("under this MPI; the job has been on one where it was 2147483647"),
        "the tag is not named\n{}",
        ended.report()
    );
    place.done();
    Ok(Verdict::Passed(String::new()))
}
