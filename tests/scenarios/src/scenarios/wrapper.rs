//! A shell script between the launcher and the program.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};

use super::modes::{native, resume};
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;
use crate::product::Intervals;
use crate::programs::COMPUTE;

pub fn all() -> Vec<Scenario> {
    Mpi::ALL
        .into_iter()
        .map(|mpi| {
            Scenario::new(
                format!("wrapper/{}/resume", mpi.name()),
                "a script that starts the program, killed and resumed: the native result",
                move |c| script(c, mpi),
            )
        })
        .collect()
}

/// Helpers before the program, a tool in front of it, its exit code at the end.
fn script(context: &Context, mpi: Mpi) -> Result<Verdict> {
    if let Some(why) = COMPUTE.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("wrapper")?;
    let executable = context.build(&COMPUTE, mpi)?;
    let expected = context.native(COMPUTE.name, || {
        native(&COMPUTE, mpi, &executable, place.path())
    })?;
    let intervals = Intervals {
        local: 1,
        partner: 0,
        global: 2,
    };
    let setup = product.setup(place.path(), mpi, COMPUTE.ranks, intervals)?;
    let line = COMPUTE.line(&executable, COMPUTE.slow);
    let quoted: Vec<String> = line.iter().map(|word| format!("'{word}'")).collect();
    let text = format!(
        "#!/bin/sh\nexport FROM_SCRIPT=1\nuname -s | grep -q Linux || exit 3\ncd /\nenv WORD=2 {}\ncode=$?\necho script ended with $code\nexit $code\n",
        quoted.join(" ")
    );
    let path = place.path().join("wrapper.sh");
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    let note = resume(&setup, &[path.display().to_string()], &expected, 1)?;
    place.done();
    Ok(Verdict::Passed(note))
}
