//! Which MPI goes into the lower half, and which stub into the upper one.
//!
//! The program's libraries say which interface it was compiled for; the launcher says through what
//! the processes can find each other; both must fit. Libraries that do not tell (python loads MPI
//! late) leave it to the launcher. Another family's MPI is used when it is named: the stub is the
//! program's, the adapter the launcher's.

use mana::spec::{Family, Stub};

use crate::installation::{Installation, InstalledAdapter};
use crate::launcher::Launcher;
use crate::message::Failure;
use crate::program::{MpiLibrary, Program};

/// The result: nothing for a program of one rank without MPI.
pub type Choice = Option<(InstalledAdapter, Stub)>;

/// In the place of an adapter's name (`mpi =`, `--mpi`): the program has no MPI.
pub const NONE: &str = "none";

/// Whether the program is a job of one rank without MPI, whatever its launcher has for one. `began`: the thread level
/// that a job which resumes began with, -1 without MPI.
pub fn without_mpi(
    launcher: &Launcher,
    program: Option<&Program>,
    wanted: Option<&str>,
    began: Option<i32>,
) -> Result<bool, Failure> {
    let named = wanted == Some(NONE);
    if let Some(level) = began {
        return match level < 0 {
            false if named => Err(Failure::of_job(
                "mpi = none: the job was begun with MPI; resume it without --mpi none",
            )),
            is_without => Ok(is_without),
        };
    }
    match (wanted, program) {
        (
            Some(NONE),
            Some(Program {
                path,
                mpi: Some(library),
                ..
            }),
        ) => Err(Failure::of_job(format!(
            "{} is built for {}: mpi = none is for programs without MPI",
            path.display(),
            library.family.title()
        ))),
        (Some(_), _) => Ok(named),
        // Alone, it needs nothing that the launcher has for an MPI program.
        (None, Some(program)) => {
            Ok(launcher.size == Some(1) && program.mpi.is_none() && !program.may_load_mpi())
        }
        (None, None) => Ok(false),
    }
}

/// Chooses. `wanted` is `mpi =` or `--mpi`; `program` its name for messages.
pub fn choose(
    installation: &Installation,
    launcher: &Launcher,
    library: Option<&MpiLibrary>,
    wanted: Option<&str>,
    program: &str,
) -> Result<Choice, Failure> {
    let adapters = installation.adapters()?;
    let Some(adapter) = pick(&adapters, launcher, library, wanted, program)? else {
        return Ok(None);
    };
    let family = library.map_or(adapter.facts.family, |l| l.family);
    let stub = installation.stub(family, library.map(|l| l.soname.as_str()))?;
    Ok(Some((adapter.clone(), stub)))
}

fn pick<'a>(
    adapters: &'a [InstalledAdapter],
    launcher: &Launcher,
    library: Option<&MpiLibrary>,
    wanted: Option<&str>,
    program: &str,
) -> Result<Option<&'a InstalledAdapter>, Failure> {
    let fits = |adapter: &InstalledAdapter| {
        launcher.wireups.is_empty()
            || launcher
                .wireups
                .iter()
                .any(|w| adapter.facts.launchers.iter().any(|l| l == w.name()))
    };
    let alone = launcher.wireups.is_empty();
    if alone && launcher.slurm_step && launcher.slurm_tasks > 1 {
        let way = match library.map(|l| l.family) {
            Some(Family::OpenMpi) => "srun --mpi=pmix",
            Some(Family::Mpich) => "srun --mpi=pmi2",
            Some(Family::Standard) | None => {
                "srun --mpi=pmix (Open MPI) or srun --mpi=pmi2 (MPICH)"
            }
        };
        let otherwise = match library {
            Some(_) => "",
            None => "; programs without MPI: mana_launch --mpi none makes each task a job of its own, and adds .$SLURM_PROCID to its --id",
        };
        return Err(Failure::of_job(format!(
            "this step has {} tasks, but srun gave them no way to find each other: each would be a job of one rank; use {way}{otherwise}",
            launcher.slurm_tasks
        )));
    }
    if let Some(name) = wanted {
        let Some(adapter) = adapters.iter().find(|a| a.facts.name == name) else {
            return Err(Failure::of_job(format!(
                "mpi = {name}: no adapter of that name, nor \"none\"; there {}",
                listed(adapters)
            )));
        };
        if !fits(adapter) {
            return Err(mismatch(
                adapter.facts.family,
                launcher,
                &format!("mpi = {name}"),
                "",
            ));
        }
        return Ok(Some(adapter));
    }
    // A program of the standard's ABI runs on any: the launcher decides, or what there is.
    let own = library.map(|l| l.family).filter(|f| *f != Family::Standard);
    let there = |f: &Family| adapters.iter().any(|a| a.facts.family == *f);
    let family = match (own, launcher.wireups.first()) {
        (Some(family), _) => family,
        (None, Some(wireup)) => wireup.family(),
        (None, None) if library.is_some() => [Family::Mpich, Family::OpenMpi]
            .into_iter()
            .find(there)
            .unwrap_or(Family::Mpich),
        (None, None) => return Ok(None),
    };
    let of_family: Vec<_> = adapters
        .iter()
        .filter(|a| a.facts.family == family)
        .collect();
    if of_family.is_empty() {
        return Err(Failure::of_job(format!(
            "{program} needs {}, but this installation has no adapter for it (there {}); build one: mana adapter --mpicc PATH_OF_MPICC",
            family.title(),
            listed(adapters)
        )));
    }
    let fitting: Vec<_> = of_family.iter().copied().filter(|a| fits(a)).collect();
    if fitting.is_empty() {
        // What this launcher can start, if the user wants that.
        let other = adapters
            .iter()
            .filter(|a| fits(a))
            .min_by_key(|a| a.facts.name != a.facts.family.name())
            .map(|a| {
                format!(
                    "; or let it run on {}, also a job begun on another MPI: --mpi {}",
                    a.facts.version, a.facts.name
                )
            });
        return Err(mismatch(
            family,
            launcher,
            program,
            &other.unwrap_or_default(),
        ));
    }
    // Of several of one family, the one named like the family is the machine's usual one.
    Ok(fitting
        .iter()
        .copied()
        .find(|a| a.facts.name == family.name())
        .or_else(|| fitting.first().copied()))
}

fn mismatch(family: Family, launcher: &Launcher, subject: &str, otherwise: &str) -> Failure {
    let in_slurm = launcher.slurm_step;
    let way = match (family, in_slurm) {
        (Family::OpenMpi, true) => {
            "srun --mpi=pmix, or Open MPI's mpirun (mpirun.openmpi on Debian)"
        }
        (Family::OpenMpi, false) => "Open MPI's mpirun (mpirun.openmpi on Debian)",
        (Family::Standard, _) => "an MPI launcher",
        (Family::Mpich, true) => "srun --mpi=pmi2, or MPICH's mpirun (mpirun.mpich on Debian)",
        (Family::Mpich, false) => "MPICH's mpirun (mpirun.mpich on Debian)",
    };
    Failure::of_job(format!(
        "{subject} is built for {}, but was started by {}: every process would be a job of one rank; start it with {way}{otherwise}",
        family.title(),
        launcher.title()
    ))
}

fn listed(adapters: &[InstalledAdapter]) -> String {
    if adapters.is_empty() {
        return "are none".into();
    }
    let names: Vec<_> = adapters.iter().map(|a| a.facts.name.as_str()).collect();
    format!("are: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installation::AdapterFacts;
    use crate::launcher::Wireup;

    fn adapter(name: &str, family: Family, launchers: &[&str]) -> InstalledAdapter {
        InstalledAdapter {
            facts: AdapterFacts {
                name: name.into(),
                family,
                mpicc: "mpicc".into(),
                library: "libmpi.so".into(),
                version: String::new(),
                launchers: launchers.iter().map(|l| (*l).to_owned()).collect(),
            },
            library: "libmana_adapter.so".into(),
        }
    }

    fn both() -> Vec<InstalledAdapter> {
        vec![
            adapter("a-site", Family::Mpich, &["pmi", "pmix"]),
            adapter("mpich", Family::Mpich, &["pmi"]),
            adapter("openmpi", Family::OpenMpi, &["openmpi", "pmix"]),
        ]
    }

    fn under(wireup: Wireup) -> Launcher {
        Launcher {
            wireups: vec![wireup],
            ..Launcher::default()
        }
    }

    fn mpich() -> MpiLibrary {
        MpiLibrary {
            family: Family::Mpich,
            soname: "libmpich.so.12".into(),
        }
    }

    fn name(result: Result<Option<&InstalledAdapter>, Failure>) -> Option<String> {
        result.expect("a choice").map(|a| a.facts.name.clone())
    }

    #[test]
    fn program_and_launcher_agree() {
        let all = both();
        assert_eq!(
            name(pick(&all, &under(Wireup::Pmi), Some(&mpich()), None, "p")).as_deref(),
            Some("mpich")
        );
        assert_eq!(
            name(pick(&all, &under(Wireup::OpenMpi), None, None, "python3")).as_deref(),
            Some("openmpi")
        );
        assert_eq!(
            name(pick(&all, &under(Wireup::Pmix), Some(&mpich()), None, "p")).as_deref(),
            Some("a-site")
        );
        let standard = MpiLibrary {
            family: Family::Standard,
            soname: "libmpi_abi.so.1".into(),
        };
        for (wireup, expected) in [(Wireup::OpenMpi, "openmpi"), (Wireup::Pmi, "mpich")] {
            assert_eq!(
                name(pick(&all, &under(wireup), Some(&standard), None, "p")).as_deref(),
                Some(expected)
            );
        }
        let alone = pick(&all, &Launcher::default(), Some(&standard), None, "p");
        assert_eq!(name(alone).as_deref(), Some("mpich"));
        // Another family's, because it is named.
        assert_eq!(
            name(pick(
                &all,
                &under(Wireup::OpenMpi),
                Some(&mpich()),
                Some("openmpi"),
                "p"
            ))
            .as_deref(),
            Some("openmpi")
        );
        assert_eq!(
            name(pick(&all, &Launcher::default(), None, None, "p")),
            None
        );
        assert_eq!(
            name(pick(&all, &Launcher::default(), Some(&mpich()), None, "p")).as_deref(),
            Some("mpich")
        );
    }

    #[test]
    fn programs_without_mpi() {
        let find = |name: &str| Program::find(std::ffi::OsStr::new(name)).expect("a program");
        let (serial, shell) = (find("/bin/true"), find("/bin/sh"));
        let mut alone = under(Wireup::Pmix);
        alone.size = Some(1);
        let of = |launcher: &Launcher, program: &Program, wanted, began| {
            without_mpi(launcher, Some(program), wanted, began).ok()
        };
        assert_eq!(of(&alone, &serial, None, None), Some(true));
        assert_eq!(of(&alone, &serial, Some("openmpi"), None), Some(false));
        let mut linked = serial.clone();
        linked.mpi = Some(mpich());
        assert_eq!(of(&alone, &linked, None, None), Some(false));
        assert_eq!(of(&alone, &linked, Some(NONE), None), None);
        // Of several it is not known whether they belong together.
        alone.size = Some(2);
        assert_eq!(of(&alone, &serial, None, None), Some(false));
        assert_eq!(of(&alone, &shell, Some(NONE), None), Some(true));
        // A job goes on as it began.
        assert_eq!(of(&alone, &serial, None, Some(-1)), Some(true));
        assert_eq!(of(&alone, &serial, None, Some(0)), Some(false));
        assert_eq!(of(&alone, &serial, Some(NONE), Some(0)), None);
    }

    #[test]
    fn mismatches_say_so() {
        let all = both();
        let error = pick(&all, &under(Wireup::OpenMpi), Some(&mpich()), None, "./app")
            .expect_err("refused");
        assert!(
            error
                .text
                .contains("./app is built for MPICH, but was started by Open MPI's mpirun"),
            "{}",
            error.text
        );
        assert!(error.text.ends_with("--mpi openmpi"), "{}", error.text);
        let step = Launcher {
            slurm_step: true,
            slurm_tasks: 4,
            ..Launcher::default()
        };
        let error = pick(&all, &step, Some(&mpich()), None, "./app").expect_err("refused");
        assert!(
            error.text.contains("4 tasks") && error.text.contains("--mpi=pmi2"),
            "{}",
            error.text
        );
        assert!(!error.text.contains("none"), "{}", error.text);
        let error = pick(&all, &step, None, None, "python3").expect_err("refused");
        assert!(error.text.contains("--mpi none"), "{}", error.text);
        let error =
            pick(&all, &under(Wireup::Pmi), None, Some("other"), "./app").expect_err("refused");
        assert!(
            error.text.contains("a-site, mpich, openmpi"),
            "{}",
            error.text
        );
    }
}
