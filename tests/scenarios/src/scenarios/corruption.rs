//! The ladder of bad copies: whatever is wrong with the newest state, recovery takes the next one
//! that every rank can prove intact, and says why; with none left it ends with 99.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::lammps::{levels, run_and_kill, Melt, CALM, RANKS};
use super::modes::{native, same};
use super::Scenario;
use crate::context::{Context, Verdict, Workplace};
use crate::generations::{resumed, Damage, Generation, Id};
use crate::mpi::Mpi;
use crate::product::Setup;
use crate::programs::{Program, PROGRAMS};

const LIMIT: Duration = Duration::from_secs(120);

/// A rung: which files of the newest complete generation go bad.
struct Rung {
    name: &'static str,
    shows: &'static str,
    damage: Damage,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// Of one rank: the node's own image.
    Own,
    /// And the partner's copy.
    OwnAndPartner,
    /// Every copy of one rank, in this generation.
    Generation,
    /// Every copy of every rank in every generation.
    Everything,
    /// One node's manifest.
    OneManifest,
    /// Every manifest of the newest generation.
    Manifests,
}

const RUNGS: &[Rung] = &[
    Rung {
        name: "flip/local",
        shows: "a flipped bit in the newest local image: the partner copy",
        damage: Damage::Flip,
        what: What::Own,
    },
    Rung {
        name: "flip/partner",
        shows: "in the partner copy too: the global one",
        damage: Damage::Flip,
        what: What::OwnAndPartner,
    },
    Rung {
        name: "flip/generation",
        shows: "in every copy of the newest generation: an older one",
        damage: Damage::Flip,
        what: What::Generation,
    },
    Rung {
        name: "flip/everything",
        shows: "in everything: exit 99, and why",
        damage: Damage::Flip,
        what: What::Everything,
    },
    Rung {
        name: "truncate/local",
        shows: "a truncated image: the partner copy",
        damage: Damage::Truncate,
        what: What::Own,
    },
    Rung {
        name: "empty/local",
        shows: "an empty file: the partner copy",
        damage: Damage::Empty,
        what: What::Own,
    },
    Rung {
        name: "truncate/partner",
        shows: "the partner copy truncated too: the global one",
        damage: Damage::Truncate,
        what: What::OwnAndPartner,
    },
    Rung {
        name: "empty/generation",
        shows: "every copy of a rank empty: an older generation",
        damage: Damage::Empty,
        what: What::Generation,
    },
    Rung {
        name: "missing/local",
        shows: "a missing rank: the partner copy",
        damage: Damage::Remove,
        what: What::Own,
    },
    Rung {
        name: "missing/generation",
        shows: "a rank missing everywhere: an older generation",
        damage: Damage::Remove,
        what: What::Generation,
    },
    Rung {
        name: "manifest/one-node",
        shows: "a manifest missing on one node: still committed",
        damage: Damage::Remove,
        what: What::OneManifest,
    },
    Rung {
        name: "manifest/everywhere",
        shows: "no manifest left: an older generation",
        damage: Damage::Remove,
        what: What::Manifests,
    },
];

pub fn all() -> Vec<Scenario> {
    RUNGS
        .iter()
        .map(|rung| {
            Scenario::new(
                format!("corruption/{}", rung.name),
                rung.shows,
                move |context| run(context, rung),
            )
        })
        .collect()
}

fn run(context: &Context, rung: &Rung) -> Result<Verdict> {
    let mut subject = match Subject::prepare(context, &format!("corruption/{}", rung.name))? {
        Ok(subject) => subject,
        Err(verdict) => return Ok(verdict),
    };
    subject.setup().configure(levels(context), "keep=3\n")?;
    let newest = run_and_kill(subject.setup(), subject.line())?;
    let stores = subject.setup().stores();
    let generations = stores.generations();
    let victim = context.random(rung.name).below(u64::from(RANKS)) as u32;
    let generation = &generations[&newest];
    let mut damaged = 0;
    for file in chosen(rung.what, victim, generation, &generations) {
        rung.damage.inflict(&file)?;
        damaged += 1;
    }
    ensure!(
        damaged > 0,
        "nothing to damage in generation {}.{}",
        newest.0,
        newest.1
    );

    if let What::Everything = rung.what {
        let ended = subject
            .setup()
            .launch(&["--restart"], subject.line())?
            .wait(LIMIT)?;
        ended.expect(99)?;
        for (incarnation, number) in generations.keys() {
            let named = format!("{incarnation}.{number}");
            ensure!(
                ended.stderr.contains(&named)
                    || ended.stderr.contains(&format!("generation {number}")),
                "generation {named} is not among the reasons\n{}",
                ended.report()
            );
        }
        subject.done();
        return Ok(Verdict::Passed(format!("{damaged} files damaged, exit 99")));
    }
    let expected = match rung.what {
        What::Own | What::OwnAndPartner | What::OneManifest => newest,
        _ => older(newest, &generations),
    };
    let said = subject.resume_calmly()?;
    let chosen = resumed(&said);
    ensure!(
        chosen == Some(expected),
        "generation {}.{} expected, but {chosen:?}\n{said}",
        expected.0,
        expected.1
    );
    let source = match rung.what {
        What::Own => "1 from partner copy",
        What::OwnAndPartner => "1 from global",
        _ => "from local",
    };
    ensure!(said.contains(source), "nothing {source}\n{said}");
    Ok(Verdict::Passed(format!(
        "{}.{} expected and chosen, {source}",
        expected.0, expected.1
    )))
}

/// The job whose state goes bad: LAMMPS in the full run, in the short one a program that waits most of the time.
enum Subject {
    Melt(Melt),
    Waits {
        setup: Setup,
        line: Vec<String>,
        expected: String,
        place: Workplace,
    },
}

impl Subject {
    /// Everything ready to launch, or why not.
    fn prepare(context: &Context, name: &str) -> Result<std::result::Result<Self, Verdict>> {
        if context.full {
            return Ok(Melt::prepare(context, name, levels(context))?.map(Self::Melt));
        }
        let mpi = Mpi::OpenMpi;
        let found = PROGRAMS.iter().find(|p| p.name == "wildcards");
        let program = &Program {
            ranks: RANKS,
            ..*found.context("no such program")?
        };
        if let Some(why) = program.missing(mpi) {
            return Ok(Err(Verdict::Skipped(why)));
        }
        let Some(product) = context.product() else {
            let why = "no installed tree was named with --mana";
            return Ok(Err(Verdict::Skipped(why.to_owned())));
        };
        let place = context.directory(name)?;
        let executable = context.build(program, mpi)?;
        let expected = context.native(&format!("{} on {RANKS}", program.name), || {
            native(program, mpi, &executable, place.path())
        })?;
        // It ends some ten seconds after its beginning; all levels are complete after three or four.
        let line = program.line(&executable, &["--pause", "40"]);
        let mut setup = product.setup(place.path(), mpi, RANKS, levels(context))?;
        setup.hold();
        Ok(Ok(Self::Waits {
            setup,
            line,
            expected,
            place,
        }))
    }

    fn setup(&self) -> &Setup {
        match self {
            Self::Melt(melt) => &melt.setup,
            Self::Waits { setup, .. } => setup,
        }
    }

    fn line(&self) -> &[String] {
        match self {
            Self::Melt(melt) => &melt.line,
            Self::Waits { line, .. } => line,
        }
    }

    fn done(&mut self) {
        match self {
            Self::Melt(melt) => melt.place.done(),
            Self::Waits { place, .. } => place.done(),
        }
    }

    /// Resume at longer intervals and compare with the native run; what the resume said.
    fn resume_calmly(&mut self) -> Result<String> {
        match self {
            Self::Melt(melt) => melt.resume_calmly(),
            Self::Waits {
                setup,
                line,
                expected,
                place,
            } => {
                setup.configure(CALM, "")?;
                setup.release()?;
                let ended = setup.launch(&["--restart"], line)?.wait(LIMIT)?;
                same(&ended, expected)?;
                place.done();
                Ok(ended.stderr)
            }
        }
    }
}

fn chosen(
    what: What,
    victim: u32,
    newest: &Generation,
    all: &std::collections::BTreeMap<Id, Generation>,
) -> Vec<std::path::PathBuf> {
    let pick = |levels: &[&std::collections::BTreeMap<u32, std::path::PathBuf>]| {
        levels
            .iter()
            .filter_map(|level| level.get(&victim).cloned())
            .collect::<Vec<_>>()
    };
    match what {
        What::Own => pick(&[&newest.own]),
        What::OwnAndPartner => pick(&[&newest.own, &newest.partner]),
        What::Generation => pick(&[&newest.own, &newest.partner, &newest.global]),
        What::Everything => all.values().flat_map(Generation::images).cloned().collect(),
        What::OneManifest => newest.manifests.first().cloned().into_iter().collect(),
        What::Manifests => newest.manifests.clone(),
    }
}

/// The newest generation before `newest` that can serve every rank.
fn older(newest: Id, all: &std::collections::BTreeMap<Id, Generation>) -> Id {
    let usable = |generation: &Generation| {
        generation.committed() && (0..RANKS).all(|rank| !generation.copies(rank).is_empty())
    };
    all.iter()
        .rev()
        .find(|(id, generation)| **id < newest && usable(generation))
        .map_or(newest, |(id, _)| *id)
}
