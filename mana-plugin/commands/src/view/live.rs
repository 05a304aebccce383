//! The live view of `mana status --watch` on a terminal.
//!
//! A thread asks the coordinator once a second; the view only shows what came last, so that it stays
//! responsive whatever the coordinator does.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use mana_control::{Client, ControlError, Request, Status};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row, Sparkline, Table, Wrap};
use ratatui::Frame;

use super::keyboard::{Keyboard, Pressed, KEYS};
use super::text::{count, doing, extent, nodes, pause, ranges, rate, size, time};
use crate::message::Failure;
use crate::status::is_over;

/// Between two questions to the coordinator.
const EVERY: Duration = Duration::from_secs(1);

/// From here on the levels are told with what a job survives that has a checkpoint there.
const WIDE: u16 = 110;

/// From this width on the last checkpoint is told with its parts, a line each.
const FULL: u16 = 100;

/// From this height on there is room for everything.
const ROOMY: u16 = 30;

const HELP: &str = " q leave   c checkpoint now   n nodes/ranks   \u{2191}\u{2193} scroll ";

/// What the user chose to see.
#[derive(Default)]
struct Choice {
    /// Ranks, instead of nodes.
    ranks: bool,
    /// First row shown.
    scroll: usize,
    /// The last answer to a key.
    note: String,
}

/// What the asking thread has to say.
enum News {
    State(Box<Status>),
    Note(String),
    /// No more states will come.
    Gone(String),
}

/// How the view was left.
#[derive(Debug)]
pub enum Left {
    /// This start of the job is over; the line to leave behind.
    Over(String),
    /// Its coordinator does not answer any more; the same.
    Lost(String),
    /// The user has gone.
    Gone,
}

/// Shows the job until this start of it ends, or the user leaves, also by the signal that sets `asked_to_end`.
pub fn live(client: &mut Client, asked_to_end: &AtomicBool) -> Result<Left, Failure> {
    let first = match client.status() {
        Ok(first) => first,
        Err(e) => return Ok(Left::Over(gone(&e))),
    };
    let stop = AtomicBool::new(false);
    let (news, heard) = channel();
    let (asks, asked) = channel();
    let ended = std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || ask(client, &news, &asked, stop));
        let mut terminal = ratatui::init();
        let ended = show(&mut terminal, first, &heard, &asks, asked_to_end);
        // A terminal that has gone cannot be.
        let _ = ratatui::try_restore();
        stop.store(true, Ordering::Relaxed);
        ended
    });
    ended.map_err(|e| Failure::new(format!("cannot use the terminal: {e}")))
}

/// Why no more is seen of this start.
fn gone(why: &impl fmt::Display) -> String {
    format!("{why}: the job has ended, or its coordinator has")
}

/// The asking thread.
fn ask(client: &mut Client, news: &Sender<News>, asked: &Receiver<Request>, stop: &AtomicBool) {
    let mut next = Instant::now() + EVERY;
    while !stop.load(Ordering::Relaxed) {
        let left = next.saturating_duration_since(Instant::now()).min(KEYS);
        let found = match asked.recv_timeout(left) {
            Ok(request) => match client.checkpoint(request, false, EVERY * 5) {
                Ok(_) => News::Note("checkpoint asked for".into()),
                Err(ControlError::Denied { reason }) => News::Note(reason),
                Err(e) => News::Gone(e.to_string()),
            },
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if Instant::now() < next => continue,
            Err(RecvTimeoutError::Timeout) => {
                next = Instant::now() + EVERY;
                match client.status() {
                    Ok(state) => News::State(Box::new(state)),
                    Err(e) => News::Gone(e.to_string()),
                }
            }
        };
        let is_last = matches!(found, News::Gone(_));
        if news.send(found).is_err() || is_last {
            return;
        }
    }
}

/// Until the end.
fn show(
    terminal: &mut ratatui::DefaultTerminal,
    first: Status,
    heard: &Receiver<News>,
    asks: &Sender<Request>,
    asked_to_end: &AtomicBool,
) -> std::io::Result<Left> {
    let mut state = first;
    let mut choice = Choice::default();
    let keys = Keyboard::of_terminal()?;
    loop {
        terminal.draw(|frame| draw(frame, &state, &choice))?;
        if is_over(&state) {
            return Ok(Left::Over(super::text::line(&state)));
        }
        if asked_to_end.load(Ordering::Relaxed) {
            return Ok(Left::Gone);
        }
        if keys.wait()? == Pressed::Gone {
            return Ok(Left::Gone);
        }
        if event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()? {
                let interrupt =
                    key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                match key.code {
                    _ if key.kind == KeyEventKind::Release => {}
                    _ if interrupt => return Ok(Left::Gone),
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(Left::Gone),
                    KeyCode::Char('n') => {
                        choice.ranks = !choice.ranks;
                        choice.scroll = 0;
                    }
                    KeyCode::Char('c') => {
                        let request = Request {
                            level: None,
                            kill: false,
                        };
                        // The asking thread has ended: its last word is on its way.
                        let _ = asks.send(request);
                    }
                    KeyCode::Down | KeyCode::Char('j') => choice.scroll += 1,
                    KeyCode::Up | KeyCode::Char('k') => {
                        choice.scroll = choice.scroll.saturating_sub(1);
                    }
                    KeyCode::PageDown => choice.scroll += 10,
                    KeyCode::PageUp => choice.scroll = choice.scroll.saturating_sub(10),
                    KeyCode::Home => choice.scroll = 0,
                    _ => {}
                }
            }
        }
        loop {
            match heard.try_recv() {
                Ok(News::State(new)) => state = *new,
                Ok(News::Note(note)) => choice.note = note,
                Ok(News::Gone(why)) => return Ok(Left::Lost(gone(&why))),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
    }
}

fn draw(frame: &mut Frame, state: &Status, choice: &Choice) {
    let work = u16::try_from(state.level_work.len().min(3)).unwrap_or(3);
    let activity = 2 + u16::from(state.current.is_some()) * 2 + work;
    let levels = state.levels.iter().filter(|level| level.enabled).count();
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(activity.max(3)),
        Constraint::Length(u16::try_from(levels).unwrap_or(4) + 3),
        Constraint::Length(history(state, frame.area().height)),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .split(frame.area());
    head(frame, areas[0], state);
    activities(frame, areas[1], state);
    level_table(frame, areas[2], state);
    checkpoints(frame, areas[3], state);
    if choice.ranks {
        rank_table(frame, areas[4], state, choice.scroll);
    } else {
        node_table(frame, areas[4], state, choice.scroll);
    }
    let note = Line::from(vec![
        Span::styled(HELP, Style::new().reversed()),
        Span::raw(" "),
        Span::styled(choice.note.clone(), Color::Yellow),
    ]);
    frame.render_widget(Paragraph::new(note), areas[5]);
}

/// Lines for the checkpoints so far, with their frame. The nodes and ranks below come first: one that all wait for must not
/// be pushed off a small terminal by a picture, nor by room for what is not there yet.
fn history(state: &Status, height: u16) -> u16 {
    if state.last.is_none() && state.last_failure.is_none() {
        3
    } else if height < ROOMY {
        5
    } else {
        6
    }
}

fn phase_color(phase: &str) -> Color {
    match phase {
        "running" => Color::Green,
        "checkpointing" => Color::Cyan,
        "starting" => Color::Yellow,
        "unprotected" => Color::Red,
        _ => Color::Gray,
    }
}

fn head(frame: &mut Frame, area: Rect, state: &Status) {
    let program = state.ranks.first().map_or("", |rank| {
        rank.program.rsplit('/').next().unwrap_or_default()
    });
    let line = Line::from(vec![
        Span::styled(" mana ", Style::new().reversed().bold()),
        Span::raw(format!(" {}", state.job)).bold(),
        Span::raw(format!("  {program}  start {}  ", state.incarnation)),
        Span::styled(
            state.phase.clone(),
            Style::new().fg(phase_color(&state.phase)).bold(),
        ),
        Span::raw(format!("  {}  up {}", extent(state), time(state.uptime))),
    ]);
    frame.render_widget(Paragraph::new(line), area);
}

/// How much of something is done: ranks that have answered.
fn share(waits_for: u32, ranks: u32) -> f64 {
    if ranks == 0 {
        return 0.0;
    }
    (f64::from(ranks.saturating_sub(waits_for)) / f64::from(ranks)).clamp(0.0, 1.0)
}

fn activities(frame: &mut Frame, area: Rect, state: &Status) {
    let block = Block::bordered().title(" now ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let mut rows: Vec<Constraint> = Vec::new();
    rows.resize(inner.height as usize, Constraint::Length(1));
    let rows = Layout::vertical(rows).split(inner);
    let mut rows = rows.iter().copied();
    let mut quiet = true;
    // A row is taken only for something to show: often there is just one.
    let taking = state.current.as_ref().and_then(|c| Some((c, rows.next()?)));
    if let Some((current, row)) = taking {
        quiet = false;
        let color = if current.step_seconds > 10.0 {
            Color::Yellow
        } else {
            Color::Cyan
        };
        let label = format!(
            "checkpoint {} ({})  {}  {} of {} ranks{}  for {}",
            current.generation.number,
            current.level,
            current.step,
            current.ranks.saturating_sub(current.waits_for),
            current.ranks,
            match current.bytes {
                0 => String::new(),
                bytes => format!("  {}", size(bytes)),
            },
            time(current.step_seconds)
        );
        bar(
            frame,
            row,
            share(current.waits_for, current.ranks),
            label,
            color,
        );
        if let Some(row) = rows.next() {
            let why = match &current.cause {
                Some(cause) => cause.clone(),
                None => format!("waits for {}", current.waits),
            };
            frame.render_widget(Paragraph::new(format!("  {why}")).fg(color), row);
        }
    }
    for work in &state.level_work {
        let Some(row) = rows.next() else { break };
        quiet = false;
        let label = format!(
            "checkpoint {} to {}  {} of {} ranks  {}  {}",
            work.generation.number,
            work.level,
            work.ranks.saturating_sub(work.waits_for),
            work.ranks,
            size(work.bytes),
            time(work.seconds)
        );
        bar(
            frame,
            row,
            share(work.waits_for, work.ranks),
            label,
            Color::Blue,
        );
    }
    if let Some(row) = quiet.then(|| rows.next()).flatten() {
        let next = state
            .levels
            .iter()
            .filter_map(|level| Some((level.next_due?, level.level)))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let text = match (&state.closed, next) {
            (Some(why), _) => format!("no checkpoint can be taken: {why}"),
            (None, Some((due, level))) => {
                format!(
                    "the program runs; next checkpoint ({level}) in {}",
                    time(due.max(0.0))
                )
            }
            (None, None) => "the program runs; checkpoints by hand only".into(),
        };
        frame.render_widget(Paragraph::new(text), row);
    }
}

fn bar(frame: &mut Frame, area: Rect, done: f64, label: String, color: Color) {
    let gauge = Gauge::default()
        .ratio(done)
        .label(label)
        .gauge_style(Style::new().fg(color).bg(Color::Black));
    frame.render_widget(gauge, area);
}

fn header(words: &[&'static str]) -> Row<'static> {
    Row::new(words.iter().map(|word| Cell::from(*word)))
        .style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED))
}

fn level_table(frame: &mut Frame, area: Rect, state: &Status) {
    // Half a sentence is worth less than the room it takes.
    let columns = if area.width < WIDE { 7 } else { 8 };
    let rows = state.levels.iter().filter(|l| l.enabled).map(|level| {
        let due = match level.next_due {
            Some(due) if due < 0.0 => Span::styled("now", Color::Yellow),
            Some(due) => Span::raw(time(due)),
            None => Span::raw("-"),
        };
        let newest = match level.last {
            Some(id) => Span::styled(id.to_string(), Color::Green),
            None => Span::styled("none yet", Color::Yellow),
        };
        let mut cells = vec![
            Cell::from(level.level.name()),
            Cell::from(level.interval.map_or("by hand".into(), time)),
            Cell::from(due),
            Cell::from(newest),
            Cell::from(level.age.map_or("-".into(), time)),
            Cell::from(level.bytes.map_or("-".into(), size)),
            Cell::from(level.bandwidth.map_or("-".into(), rate)),
            Cell::from(level.survives.clone()),
        ];
        cells.truncate(columns);
        Row::new(cells)
    });
    let widths = [8, 8, 8, 8, 8, 10, 12].map(Constraint::Length);
    let widths = widths
        .into_iter()
        .chain([Constraint::Min(10)])
        .take(columns);
    let words = [
        "level", "interval", "next", "newest", "age", "size", "speed", "survives",
    ];
    let table = Table::new(rows, widths)
        .header(header(&words[..columns]))
        .block(Block::bordered().title(" levels "));
    frame.render_widget(table, area);
}

fn checkpoints(frame: &mut Frame, area: Rect, state: &Status) {
    let title = format!(
        " checkpoints of this start: {} committed, {} abandoned ",
        state.committed, state.abandoned
    );
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [left, right] =
        Layout::horizontal([Constraint::Min(30), Constraint::Length(28)]).areas(inner);
    let is_full = area.width >= FULL;
    let mut lines = Vec::new();
    if state.last.is_none() && state.last_failure.is_none() {
        lines.push(Line::raw("none yet"));
    }
    if let Some(last) = &state.last {
        lines.push(Line::raw(format!(
            "last: {} ({})  {} in {}{}",
            last.generation.number,
            last.level,
            size(last.bytes),
            time(last.seconds),
            if is_full && last.write > 0.0 {
                #[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
                let bytes = last.bytes as f64;
                format!(", written at {}", rate(bytes / last.write))
            } else {
                String::new()
            }
        )));
        let parts = format!(
            " (gate {}, drain {}, snapshot {})",
            pause(last.gate),
            pause(last.drain),
            pause(last.snapshot)
        );
        lines.push(Line::raw(format!(
            "  program stopped {}{}",
            pause(last.stopped),
            if is_full { &parts } else { "" }
        )));
    }
    if let Some(why) = &state.last_failure {
        lines.push(Line::styled(format!("last failure: {why}"), Color::Yellow));
    }
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), left);
    let [caption, chart] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(right);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a bar; as saturates"
    )]
    let pauses: Vec<u64> = state
        .recent
        .iter()
        .map(|done| (done.stopped * 1e6) as u64)
        .collect();
    if let Some(longest) = state.recent.iter().map(|d| d.stopped).reduce(f64::max) {
        let text = format!("pauses, the longest {}", pause(longest));
        frame.render_widget(Paragraph::new(text).fg(Color::Gray), caption);
        frame.render_widget(Sparkline::default().data(&pauses).fg(Color::Cyan), chart);
    }
}

fn rows_from(scroll: usize, count: usize, area: Rect) -> usize {
    let room = usize::from(area.height.saturating_sub(3));
    scroll.min(count.saturating_sub(room))
}

fn node_table(frame: &mut Frame, area: Rect, state: &Status, scroll: usize) {
    let nodes = nodes(state);
    let first = rows_from(scroll, nodes.len(), area);
    let rows = nodes.iter().skip(first).map(|node| {
        let states: Vec<String> = node
            .states
            .iter()
            .map(|(state, ranks)| match node.ranks.len() {
                1 => state.clone(),
                _ => format!("{ranks} {state}"),
            })
            .collect();
        let wrong = node.states.contains_key("lost");
        let what: Vec<String> = node
            .doing
            .iter()
            .take(3)
            .map(|(text, count)| match count {
                1 => text.clone(),
                _ => format!("{count}\u{d7} {text}"),
            })
            .collect();
        let style = if wrong {
            Style::new().fg(Color::Red)
        } else {
            Style::new()
        };
        Row::new(vec![
            Cell::from(node.node.to_string()),
            Cell::from(node.host.clone()),
            Cell::from(ranges(&node.ranks)),
            Cell::from(states.join(", ")),
            Cell::from(what.join("; ")),
        ])
        .style(style)
    });
    let widths = [5, 16, 12, 20].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Min(10)]);
    let table = Table::new(rows, widths)
        .header(header(&["node", "host", "ranks", "state", "doing"]))
        .block(Block::bordered().title(format!(" {} ", count(nodes.len() as u64, "node"))));
    frame.render_widget(table, area);
}

fn rank_table(frame: &mut Frame, area: Rect, state: &Status, scroll: usize) {
    let first = rows_from(scroll, state.ranks.len(), area);
    let rows = state.ranks.iter().skip(first).map(|rank| {
        let style = match rank.state.as_str() {
            "lost" => Style::new().fg(Color::Red),
            "ended" => Style::new().fg(Color::Gray),
            _ => Style::new(),
        };
        Row::new(vec![
            Cell::from(rank.rank.to_string()),
            Cell::from(rank.node.to_string()),
            Cell::from(rank.host.clone()),
            Cell::from(rank.pid.to_string()),
            Cell::from(rank.state.clone()),
            Cell::from(doing(rank)),
        ])
        .style(style)
    });
    let widths = [6, 5, 16, 8, 11].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Min(10)]);
    let table = Table::new(rows, widths)
        .header(header(&["rank", "node", "host", "pid", "state", "doing"]))
        .block(Block::bordered().title(format!(" {} ", count(state.ranks.len() as u64, "rank"))));
    frame.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;

    use super::super::text::tests::busy;
    use super::*;

    fn screen(state: &Status, choice: &Choice, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal
            .draw(|frame| draw(frame, state, choice))
            .expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn everything_has_its_place() {
        let state = busy();
        let nodes = screen(&state, &Choice::default(), 130, 36);
        for words in [
            "4711-app-0badcafe",
            "checkpointing",
            "checkpoint 12 (global)  gate  3 of 4 ranks",
            "ranks 0-2 wait for rank 3 on n02",
            "checkpoint 11 to global  1 of 4 ranks  3.0 GiB",
            "loss of every node",
            "1.9 GiB/s",
            "pauses, the longest 26 ms",
            "2\u{d7} MPI_Recv from rank 3",
            "q leave",
        ] {
            assert!(nodes.contains(words), "{words}\n{nodes}");
        }
        let ranks = screen(
            &state,
            &Choice {
                ranks: true,
                scroll: 99,
                note: "checkpoint asked for".into(),
            },
            130,
            36,
        );
        assert!(ranks.contains("MPI_Recv from rank 3, tag 7, on MPI_COMM_WORLD, for 62 s"));
        assert!(ranks.contains("checkpoint asked for"), "{ranks}");
    }

    #[test]
    fn a_quiet_job_says_what_comes_next() {
        let mut state = busy();
        state.current = None;
        let working = screen(&state, &Choice::default(), 80, 24);
        assert!(
            working.contains("checkpoint 11 to global  1 of 4"),
            "{working}"
        );
        assert!(!working.contains("survives") && working.contains("1.9 GiB/s"));
        state.level_work.clear();
        let before = screen(
            &Status {
                last: None,
                last_failure: None,
                recent: Vec::new(),
                ..state.clone()
            },
            &Choice::default(),
            80,
            24,
        );
        assert!(before.contains("none yet"), "{before}");
        let quiet = screen(&state, &Choice::default(), 80, 24);
        assert!(quiet.contains("next checkpoint (local) in 17 s"), "{quiet}");
    }

    #[test]
    fn small_terminals_and_empty_states_are_survived() {
        for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
            screen(&Status::default(), &Choice::default(), width, height);
            screen(&busy(), &Choice::default(), width, height);
        }
    }
}
