//! `mana_status --watch` as its user sees it: in a real terminal, whose screen is read, and of which a browser takes
//! pictures.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::screen::{is_coloured, page, Terminal};
use super::{picture, under_control, Stage, LIMIT, SHORT};
use crate::mpi::Mpi;
use crate::product::{Intervals, Setup};

const RANKS: u32 = 4;
/// Columns and lines: the usual one, the smallest that is to show everything, a large one.
const USUAL: (u16, u16) = (100, 40);
const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (120, 50);
/// A directory where the pictures stay.
const KEPT: &str = "MANA_SCENARIO_PICTURES";
/// Of the pictures: letters are 17 pixels high and somewhat more than 8 wide.
const WINDOW: picture::Size = (1060, 880);
const GREEN: [u8; 3] = [0x0d, 0xbc, 0x79];
const YELLOW: [u8; 3] = [0xe5, 0xe5, 0x10];

pub fn live(stage: &Stage) -> Result<()> {
    let intervals = Intervals {
        local: 600,
        partner: 1800,
        global: 3600,
    };
    let place = stage.place.path();
    let setup = stage
        .setup
        .product
        .setup(place, Mpi::OpenMpi, RANKS, intervals)?;
    let mut album = Album::open(stage)?;
    let job = stage.started(&setup, &[])?;

    let terminal = watching(stage, &setup, USUAL, "")?;
    let quiet = [
        "running",
        "4 ranks on 4 nodes",
        "next checkpoint (local)",
        "none yet",
    ];
    let seen = terminal.until("a running job", SHORT, &quiet)?;
    whole(&seen, USUAL)?;
    for words in ["local    10 min", "partner  30 min", "global   60 min"] {
        ensure!(seen.contains(words), "{words}\n{seen}");
    }
    each_has_a_row(&seen)?;
    album.add("running", &terminal.coloured()?, Some((GREEN, 50)))?;
    terminal.key("n")?;
    each_has_a_row(&terminal.until("the ranks", SHORT, &["pid", " 4 ranks "])?)?;
    terminal.key("n")?;
    terminal.until("the nodes", SHORT, &[" 4 nodes "])?;

    stalled(&setup, &job, &terminal, &mut album)?;
    let done = [
        "checkpoints of this start: 1 committed",
        "the program runs; next checkpoint",
        "program stopped",
    ];
    let seen = terminal.until("a checkpoint on every level", LIMIT, &done)?;
    ensure!(
        ["local ", "partner ", "global "].iter().all(|level| {
            let mut rows = seen.lines().filter(|line| line.contains(level));
            rows.any(|row| row.contains(" 1.1 "))
        }),
        "{seen}"
    );
    album.add("committed", &terminal.coloured()?, Some((GREEN, 50)))?;
    terminal.key("q")?;
    left(&terminal)?;
    without_colour(stage, &setup)?;

    let terminal = watching(stage, &setup, USUAL, "")?;
    terminal.until("the job before its failure", SHORT, &["running"])?;
    job.kill_rank(3);
    job.wait(LIMIT)?;
    left(&terminal)?;
    ended(stage, &setup, &mut album)
}

/// Rank 3 stands still: it is named, the bar shows how many have answered, and every size shows every node.
fn stalled(
    setup: &Setup,
    job: &crate::job::Job,
    terminal: &Terminal,
    album: &mut Album,
) -> Result<()> {
    let ranks = job.ranks();
    let last: Vec<_> = ranks.iter().filter(|p| p.rank == Some(3)).collect();
    ensure!(!last.is_empty(), "no process of rank 3");
    let tell = |signal| -> Result<()> {
        for process in &last {
            kill(Pid::from_raw(process.pid), signal).context("a signal to rank 3")?;
        }
        Ok(())
    };
    tell(Signal::SIGSTOP)?;
    setup.mana("status", &["--checkpoint"], SHORT)?.expect(0)?;
    let words = [
        "checkpointing",
        "checkpoint 1 (global)",
        "3 of 4 ranks",
        "rank 3",
    ];
    let seen = terminal.until("a checkpoint that waits", SHORT, &words)?;
    ensure!(seen.contains('\u{2588}'), "no bar\n{seen}");
    for (name, size) in [("small", SMALL), ("large", LARGE), ("usual", USUAL)] {
        terminal.resize(size.0, size.1)?;
        // The frame of before is there until the next look at the keyboard.
        let seen = terminal.wait(name, SHORT, |seen| whole(seen, size).is_ok())?;
        for word in words {
            ensure!(seen.contains(word), "{word}\n{seen}");
        }
        each_has_a_row(&seen)?;
        ensure!(
            seen.contains("loss of every node") == (size == LARGE),
            "what a level survives\n{seen}"
        );
        album.add(&format!("stalled-{name}"), &terminal.coloured()?, None)?;
    }
    // From ten seconds on it is shown as what it is.
    terminal.wait("a checkpoint that is late", LIMIT, |seen| {
        let row = seen.lines().find(|line| line.contains("checkpoint 1 ("));
        let mut times = row.unwrap_or_default().split("for ").skip(1);
        times.any(|rest| {
            let number = rest
                .split(' ')
                .next()
                .and_then(|word| word.parse::<f64>().ok());
            number.is_some_and(|seconds| seconds > 11.0)
        })
    })?;
    album.add("late", &terminal.coloured()?, Some((YELLOW, 1000)))?;
    tell(Signal::SIGCONT)
}

/// NO_COLOR is obeyed; a terminal that cannot move its cursor takes lines; Ctrl-C and SIGTERM leave as q does, and so does the end of the
/// terminal.
fn without_colour(stage: &Stage, setup: &Setup) -> Result<()> {
    let terminal = watching(stage, setup, SMALL, "NO_COLOR=1 ")?;
    whole(
        &terminal.until("the view", SHORT, &["running", "q leave"])?,
        SMALL,
    )?;
    let sequences = terminal.coloured()?;
    ensure!(!is_coloured(&sequences)?, "colours: {sequences:?}");
    terminal.key("C-c")?;
    left(&terminal)?;
    let terminal = watching(stage, setup, SMALL, "timeout --foreground 5 ")?;
    terminal.until("a view with a limit", SHORT, &["running", "q leave"])?;
    left_with(&terminal, 124)?;
    let terminal = watching(stage, setup, SMALL, "exec ")?;
    terminal.until("a view", SHORT, &["running", "q leave"])?;
    let view = terminal.program()?;
    drop(terminal);
    gone(view)?;
    let terminal = watching(stage, setup, SMALL, "TERM=dumb ")?;
    let seen = terminal.until(
        "a line",
        SHORT,
        &["running 4 ranks on 4 nodes; 1 committed"],
    )?;
    ensure!(!seen.contains('\u{2502}') && !terminal.modes()?.0, "{seen}");
    terminal.key("C-c")
}

/// The view ends with its terminal.
fn gone(view: Pid) -> Result<()> {
    let end = Instant::now() + SHORT;
    while kill(view, None).is_ok() {
        ensure!(
            Instant::now() < end,
            "process {view}: a view without a terminal"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Resumed, and watched to its end.
fn ended(stage: &Stage, setup: &Setup, album: &mut Album) -> Result<()> {
    let mut job = setup.launch(&["--restart"], &stage.line)?;
    under_control(&mut job)?;
    let terminal = watching(stage, setup, USUAL, "")?;
    let seen = terminal.until(
        "the resumed job",
        SHORT,
        &["running", "start 2", "none yet", " 1."],
    )?;
    whole(&seen, USUAL)?;
    album.add("resumed", &terminal.coloured()?, Some((GREEN, 50)))?;
    setup.release()?;
    job.wait(LIMIT)?.expect(0)?;
    left(&terminal)?;
    album.add("ended", &terminal.coloured()?, None)
}

/// A terminal in which the view was started; when it has ended, the code is said.
fn watching(stage: &Stage, setup: &Setup, size: (u16, u16), before: &str) -> Result<Terminal> {
    let script = format!(
        "{before}'{}' --watch --config '{}' --id {}; echo \"left with $?\"; exec sleep 600",
        setup.product.command("mana_status").display(),
        setup.configuration().display(),
        setup.id
    );
    Terminal::open(stage.place.path(), size.0, size.1, &script)
}

/// The view has ended well, and left the terminal as it was.
fn left(terminal: &Terminal) -> Result<()> {
    left_with(terminal, 0)
}

fn left_with(terminal: &Terminal, code: i32) -> Result<()> {
    let words = format!("left with {code}");
    let seen = terminal.until("the end of the view", SHORT, &[&words])?;
    let (alternate, cursor) = terminal.modes()?;
    ensure!(
        !alternate && cursor && !seen.contains('\u{2502}'),
        "alternate screen {alternate}, cursor {cursor}\n{seen}"
    );
    Ok(())
}

/// Four frames as wide as the terminal, one below the other, and nothing beside them.
fn whole(seen: &str, (columns, lines): (u16, u16)) -> Result<()> {
    let rows: Vec<Vec<char>> = seen.lines().map(|line| line.chars().collect()).collect();
    let framed = rows.get(1..usize::from(lines) - 1).unwrap_or_default();
    let is = |letter: Option<&char>, set: &str| letter.is_some_and(|l| set.contains(*l));
    let wide = framed.iter().all(|row| {
        row.len() == usize::from(columns)
            && is(row.first(), "\u{250c}\u{2502}\u{2514}")
            && is(row.last(), "\u{2510}\u{2502}\u{2518}")
    });
    let begun = framed
        .iter()
        .filter(|row| is(row.first(), "\u{250c}"))
        .count();
    ensure!(
        rows.len() == usize::from(lines) && wide && begun == 4,
        "not {columns} columns and {lines} lines of a whole view\n{seen}"
    );
    Ok(())
}

/// Every node (with one rank each) or rank has its row, with its state.
fn each_has_a_row(seen: &str) -> Result<()> {
    for number in 0..RANKS {
        let row = seen.lines().find(|line| {
            let mut words = line.split_whitespace();
            words
                .next()
                .is_some_and(|word| word == format!("\u{2502}{number}"))
        });
        ensure!(
            row.is_some_and(|row| row.contains("running")),
            "no row of {number}\n{seen}"
        );
    }
    Ok(())
}

/// Pictures of screens, where a browser is.
struct Album {
    browser: Option<PathBuf>,
    directory: PathBuf,
    profile: PathBuf,
}

impl Album {
    fn open(stage: &Stage) -> Result<Self> {
        let place = stage.place.path().to_owned();
        let directory = std::env::var_os(KEPT).map_or_else(|| place.clone(), PathBuf::from);
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        Ok(Self {
            browser: picture::browser(),
            directory,
            profile: place,
        })
    }

    /// A picture of `screen`; `expected` is a colour, and how many pixels of it there are at least.
    fn add(&mut self, name: &str, screen: &str, expected: Option<([u8; 3], usize)>) -> Result<()> {
        let html = self.directory.join(format!("live-{name}.html"));
        std::fs::write(&html, page(screen)?).context("writing a page")?;
        let Some(browser) = &self.browser else {
            return Ok(());
        };
        let png = html.with_extension("png");
        picture::take(browser, &html, WINDOW, &png, &self.profile)?;
        if let Some((colour, least)) = expected {
            let seen = picture::colours(&png, WINDOW)?;
            let count = seen.get(&colour).copied().unwrap_or(0);
            ensure!(count >= least, "{name}: {count} pixels of {colour:02x?}");
        }
        Ok(())
    }
}
