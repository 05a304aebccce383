//! `on_resubmit`: a script that is submitted again while the job of the same program, arguments and directory is unfinished.

use libckpt::config::OnResubmit;
use libckpt::records::{JobState, Records};
use libckpt::store::Store;
use libckpt::Config;

use crate::cli;
use crate::decision::{prepare_global, Occasion};
use crate::elsewhere::Elsewhere;
use crate::job;
use crate::launch::{right_size, state, Context};
use crate::message::{Failure, Speaker};

/// Which job a start without `--id` is, and on which occasion, as `on_resubmit` says. Every rank finds the same in the
/// records: those of this start are written after all have decided.
pub fn which(
    context: &Context,
    start: &cli::Start,
    id: String,
    occasion: Occasion,
    speaker: &Speaker,
) -> Result<(String, Occasion), Failure> {
    let config = &context.config;
    let global = &config.global_ckpt_dir;
    let asked =
        config.on_resubmit != OnResubmit::Anew && start.id.is_none() && occasion != Occasion::Fresh;
    if !asked {
        return Ok((id, occasion));
    }
    prepare_global(config, occasion, context.leading(), speaker)?;
    let own = state(config, &id)?;
    if own == JobState::New && occasion == Occasion::Again {
        if let Some(ours) = Elsewhere::of_this_job(global, &id)? {
            return Ok((ours.id, occasion));
        }
    }
    let Some(last) = Elsewhere::last(global, &id)?.filter(|last| last.unfinished) else {
        return Ok((id, occasion));
    };
    let is_older = match own {
        JobState::New => true,
        // Outside a batch job the name is always the same.
        JobState::Finished if occasion == Occasion::First => began(config, &id)? < last.created(),
        _ => false,
    };
    if !is_older {
        return Ok((id, occasion));
    }
    match config.on_resubmit {
        OnResubmit::Anew => Ok((id, occasion)),
        OnResubmit::Refuse => match refuse(context, start, &last, occasion) {
            Some(failure) => Err(failure),
            None => Ok((id, occasion)),
        },
        OnResubmit::Resume => {
            if last.committed {
                right_size(context, &last.id)?;
            }
            let queued = context.leading().then(|| job::ask_queue(global, &last.id));
            if let Some(queued) = queued.flatten().filter(|queued| queued.goes_on()) {
                return Err(Failure::of_job(format!(
                    "{}, and {queued}: it goes on by itself, and nothing was started (on_resubmit). To begin another one beside it: --fresh",
                    last.title()
                )));
            }
            let line = format!("{}: going on with it (on_resubmit)", last.title());
            context.say(start, speaker, [line]);
            Ok((last.id, Occasion::Restart))
        }
    }
}

/// When the newest start of a job was begun, in seconds since 1970.
fn began(config: &Config, id: &str) -> Result<u64, Failure> {
    let last = Records::new(Store::global(config, id)).last();
    let last = last.map_err(|e| Failure::of_records(&e))?;
    Ok(last.map_or(0, |last| last.created))
}

/// Why nothing is started beside `last`; what has no checkpoint is beside nothing, unless it runs.
fn refuse(
    context: &Context,
    start: &cli::Start,
    last: &Elsewhere,
    occasion: Occasion,
) -> Option<Failure> {
    if occasion == Occasion::Restart {
        return None;
    }
    let runs = context.leading() && last.is_running(&context.config.global_ckpt_dir);
    let what = match (runs, last.committed) {
        (true, _) => "it runs".into(),
        (false, true) => format!(
            "to go on with that one: {}",
            context.resume_by(start, &last.id, last.size())
        ),
        (false, false) => return None,
    };
    Some(Failure::of_job(format!(
        "{}; nothing was started (on_resubmit = \"refuse\"): {what}; to begin anew: --fresh",
        last.title()
    )))
}
