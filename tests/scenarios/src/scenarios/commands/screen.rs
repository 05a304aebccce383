//! A terminal of a fixed size, without anybody before it (tmux), and what is on its screen: as text, and as a page.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};
use nix::unistd::Pid;

/// Between two looks at a screen.
const TICK: Duration = Duration::from_millis(50);

/// The colours of a terminal with a dark background: eight, then the default of letters and of the background.
const PALETTE: [&str; 8] = [
    "#000000", "#cd3131", "#0dbc79", "#e5e510", "#2472c8", "#bc3fbc", "#11a8cd", "#e5e5e5",
];
const LETTERS: &str = "#e0e0e0";
pub const BACKGROUND: &str = "#101010";

/// A terminal with a server of its own, which ends with it.
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// `script` is run by sh in a terminal of `columns` and `lines`, in `directory`.
    pub fn open(directory: &Path, columns: u16, lines: u16, script: &str) -> Result<Self> {
        // A server that was told to end may still be there when the next one begins.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let terminal = Self {
            socket: directory.join(format!("tmux-{number}")),
        };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let mut command = terminal.command();
        command
            .args(["new-session", "-d", "-x", &columns, "-y", &lines])
            .args(["sh", "-c", script])
            .current_dir(directory)
            // The terminal's letters are the user's language's: the frames are no ASCII.
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .env_remove("NO_COLOR");
        answer(&mut command)?;
        Ok(terminal)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-u")
            .arg("-S")
            .arg(&self.socket)
            .args(["-f", "/dev/null"]);
        command
    }

    /// What is to be seen, a line a row, without colours.
    pub fn text(&self) -> Result<String> {
        answer(self.command().args(["capture-pane", "-p"]))
    }

    /// The same with the sequences for colours.
    pub fn coloured(&self) -> Result<String> {
        answer(self.command().args(["capture-pane", "-p", "-e"]))
    }

    /// The program that was started in it.
    pub fn program(&self) -> Result<Pid> {
        let said = answer(
            self.command()
                .args(["display-message", "-p", "#{pane_pid}"]),
        )?;
        let number = said.trim().parse().with_context(|| said.clone())?;
        Ok(Pid::from_raw(number))
    }

    pub fn resize(&self, columns: u16, lines: u16) -> Result<()> {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        answer(
            self.command()
                .args(["resize-window", "-x", &columns, "-y", &lines]),
        )?;
        Ok(())
    }

    /// Types a key, by tmux' name of it.
    pub fn key(&self, key: &str) -> Result<()> {
        answer(self.command().args(["send-keys", key]))?;
        Ok(())
    }

    /// Whether a program has the alternate screen, and whether the cursor is shown.
    pub fn modes(&self) -> Result<(bool, bool)> {
        let said = answer(self.command().args([
            "display-message",
            "-p",
            "#{alternate_on} #{cursor_flag}",
        ]))?;
        match said.trim() {
            "0 0" => Ok((false, false)),
            "0 1" => Ok((false, true)),
            "1 0" => Ok((true, false)),
            "1 1" => Ok((true, true)),
            other => bail!("tmux says {other:?}"),
        }
    }

    /// The screen, as soon as all `words` are on it.
    pub fn until(&self, what: &str, limit: Duration, words: &[&str]) -> Result<String> {
        self.wait(what, limit, |seen| {
            words.iter().all(|word| seen.contains(word))
        })
        .with_context(|| format!("{words:?}"))
    }

    /// The screen, as soon as it is as wanted.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            let seen = self.text()?;
            if wanted(&seen) {
                return Ok(seen);
            }
            ensure!(
                Instant::now() < end,
                "{what}: not on the screen in {limit:?}\n{seen}"
            );
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It ends by itself where its program has ended.
        let _ = self.command().arg("kill-server").output();
    }
}

fn answer(command: &mut Command) -> Result<String> {
    let done = command.output().context("tmux")?;
    ensure!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8(done.stdout)?)
}

/// What letters look like from here on.
#[derive(Default, Clone, Copy)]
struct Look {
    bold: bool,
    underlined: bool,
    reversed: bool,
    letters: Option<usize>,
    background: Option<usize>,
}

impl Look {
    /// The parameters of one `ESC [ ... m`. Colours beyond the first eight are not used by the view.
    fn change(&mut self, parameters: &str) -> Result<()> {
        let mut numbers = parameters
            .split(';')
            .map(|n| if n.is_empty() { Ok(0) } else { n.parse() });
        while let Some(number) = numbers.next() {
            match number? {
                0 => *self = Self::default(),
                1 => self.bold = true,
                4 => self.underlined = true,
                7 => self.reversed = true,
                n @ 30..=37 => self.letters = Some(n - 30),
                39 => self.letters = None,
                n @ 40..=47 => self.background = Some(n - 40),
                49 => self.background = None,
                n @ 90..=97 => self.letters = Some(n - 90),
                n @ (38 | 48) => {
                    let kind: usize = numbers.next().context("no kind of colour")??;
                    let colour: usize = numbers.next().context("no colour")??;
                    ensure!(kind == 5 && colour < 16, "colour {kind};{colour}");
                    let place = if n == 38 {
                        &mut self.letters
                    } else {
                        &mut self.background
                    };
                    *place = Some(colour % 8);
                }
                other => bail!("attribute {other} in {parameters:?}"),
            }
        }
        Ok(())
    }

    fn style(self) -> String {
        let of = |colour: Option<usize>, default| colour.map_or(default, |n| PALETTE[n]);
        let mut colours = [of(self.letters, LETTERS), of(self.background, BACKGROUND)];
        if self.reversed {
            colours.reverse();
        }
        let [letters, background] = colours;
        let mut style = format!("color:{letters};background:{background}");
        if self.bold {
            style.push_str(";font-weight:bold");
        }
        if self.underlined {
            style.push_str(";text-decoration:underline");
        }
        style
    }
}

/// Whether anything on a captured screen has another colour than the terminal's own.
pub fn is_coloured(screen: &str) -> Result<bool> {
    let mut look = Look::default();
    for part in screen.split('\u{1b}').skip(1) {
        let parameters = part.strip_prefix('[').and_then(|rest| rest.split_once('m'));
        if let Some((parameters, _)) = parameters {
            look.change(parameters)?;
            if look.letters.is_some() || look.background.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// A page that shows a captured screen.
pub fn page(screen: &str) -> Result<String> {
    let mut html = format!(
        "<!doctype html><meta charset=utf-8><body style='margin:8px;background:{BACKGROUND}'>\
         <pre style='margin:0;font:14px/17px DejaVu Sans Mono,monospace'>"
    );
    let mut look = Look::default();
    for (index, part) in screen.split('\u{1b}').enumerate() {
        let text = match part.strip_prefix('[').filter(|_| index > 0) {
            Some(rest) => {
                let (parameters, text) = rest.split_once('m').context("an unknown sequence")?;
                look.change(parameters)?;
                text
            }
            None if index == 0 => part,
            // A change of the set of letters: `ESC ( B`.
            None => part.get(2..).context("an unknown sequence")?,
        };
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace(['\u{e}', '\u{f}'], "");
        write!(html, "<span style='{}'>{text}</span>", look.style())?;
    }
    html.push_str("</pre>");
    Ok(html)
}
