//! The page: one file, no scripts, nothing from elsewhere.

use std::fmt::Write as _;
use std::time::Duration;

use libckpt::lines::iso;

use super::charts::{bandwidths, class, escaped, losses, pauses, sizes, timeline};
use super::figures::{Figures, LevelFigures, Start};
use crate::view::size;
use crate::view::text::{count, rate, time};

/// Most rows of a table.
const ROWS: usize = 50;
/// Longest value shown, in characters.
const LONGEST: usize = 200;

/// The whole page.
pub fn page(figures: &Figures) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, figures);
    out
}

/// "2026-11-21 21:45:00".
fn date(seconds: f64) -> String {
    let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    iso(since)
        .split('.')
        .next()
        .unwrap_or_default()
        .replace('T', " ")
}

fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent >= 9.95 {
        format!("{percent:.0} %")
    } else if percent >= 0.095 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.2} %")
    }
}

fn milliseconds(seconds: f64) -> String {
    if seconds >= 0.995 {
        time(seconds)
    } else {
        format!("{:.0} ms", seconds * 1e3)
    }
}

fn write(out: &mut String, figures: &Figures) -> std::fmt::Result {
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>mana: {}</title><style>{STYLE}</style></head><body><main>",
        escaped(&figures.job)
    )?;
    let program = figures.program.rsplit('/').next().unwrap_or_default();
    write!(
        out,
        "<header><h1>{}</h1><p>{} &middot; {} on {} &middot; {} to {} UTC</p></header>",
        escaped(&figures.job),
        escaped(program),
        count(figures.ranks, "rank"),
        count(figures.nodes, "node"),
        date(figures.span.0),
        date(figures.span.1)
    )?;
    tiles(out, figures)?;
    section(
        out,
        "Timeline",
        "Each bar ends when the checkpoint had reached that level, and is as long as that took. \
         Red lines are failures; hatched is work that was lost and done again. Point at a mark for its figures.",
        &timeline(figures),
    )?;
    levels(out, figures)?;
    if !figures.checkpoints.is_empty() {
        section(
            out,
            "Pauses",
            "How long a checkpoint stopped the program, the slowest rank each time: \
             <b class=\"snapshot\">snapshot</b>, <b class=\"drain\">drain</b> of messages in flight, \
             <b class=\"gate\">gate</b> (waiting for the other ranks' safe point).",
            &pauses(figures),
        )?;
        section(
            out,
            "Size",
            "Bytes of all images of a checkpoint.",
            &sizes(figures),
        )?;
        section(
            out,
            "Bandwidth",
            "Bytes of all images over the time to reach a level: \
             writing the images (local), copying them on (others).",
            &bandwidths(figures),
        )?;
    }
    advice(out, figures)?;
    starts(out, figures)?;
    abandoned(out, figures)?;
    published(out, figures)?;
    writeln!(
        out,
        "<footer>mana {} &middot; from the job's events.jsonl &middot; times are UTC</footer></main></body></html>",
        env!("CARGO_PKG_VERSION")
    )
}

fn section(out: &mut String, title: &str, words: &str, content: &str) -> std::fmt::Result {
    write!(
        out,
        "<section><h2>{title}</h2><p>{words}</p>{content}</section>"
    )
}

fn tiles(out: &mut String, figures: &Figures) -> std::fmt::Result {
    let time_ = &figures.time;
    let failures = figures.starts.iter().filter(|s| s.failed).count();
    let resumed = figures
        .starts
        .iter()
        .filter(|s| s.resumed.is_some())
        .count();
    #[allow(clippy::cast_precision_loss, reason = "a mean")]
    let count = figures.checkpoints.len() as f64;
    let largest = figures.checkpoints.iter().map(|c| c.figures.bytes).max();
    let longest = figures
        .checkpoints
        .iter()
        .map(|c| c.figures.stopped)
        .fold(0.0, f64::max);
    let pause = if count > 0.0 {
        milliseconds(time_.stopped / count)
    } else {
        "-".into()
    };
    let tiles = [
        (
            percent(time_.efficiency),
            "efficiency",
            format!("of {}, the useful part", time(time_.total)),
        ),
        (
            figures.checkpoints.len().to_string(),
            "checkpoints",
            match figures.abandoned.len() {
                0 => "none given up".into(),
                n => format!("{n} given up"),
            },
        ),
        (
            failures.to_string(),
            if failures == 1 { "failure" } else { "failures" },
            format!("{resumed} resumed"),
        ),
        (
            time(time_.lost + time_.down),
            "lost to failures",
            format!("{} of work, {} down", time(time_.lost), time(time_.down)),
        ),
        (
            pause,
            "mean pause",
            format!("the longest {}", milliseconds(longest)),
        ),
        (
            largest.map_or("-".into(), size),
            "largest checkpoint",
            format!("stopped {} in all", time(time_.stopped)),
        ),
    ];
    out.push_str("<div class=\"tiles\">");
    for (value, name, note) in tiles {
        write!(
            out,
            "<div><strong>{value}</strong><span>{name}</span><small>{note}</small></div>"
        )?;
    }
    out.push_str("</div>");
    Ok(())
}

fn levels(out: &mut String, figures: &Figures) -> std::fmt::Result {
    out.push_str(
        "<section><h2>Levels</h2><table><thead><tr><th>level<th>interval<th>checkpoints<th>mean size\
         <th>mean time<th>bandwidth<th>mean pause<th>longest<th>newest<th>failures it served</thead><tbody>",
    );
    for level in &figures.levels {
        write!(
            out,
            "<tr><td><b class=\"{}\">{}</b><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
            class(level.level),
            level.level,
            level.interval.map_or("by hand".into(), time),
            level.reached,
            if level.reached > 0 {
                bytes(level.bytes)
            } else {
                "-".into()
            },
            if level.reached > 0 {
                time(level.seconds)
            } else {
                "-".into()
            },
            if level.bandwidth > 0.0 {
                rate(level.bandwidth)
            } else {
                "-".into()
            },
            if level.reached > 0 {
                milliseconds(level.stopped.0)
            } else {
                "-".into()
            },
            if level.reached > 0 {
                milliseconds(level.stopped.1)
            } else {
                "-".into()
            },
            level.newest.as_deref().unwrap_or("none"),
            level.failures
        )?;
    }
    out.push_str("</tbody></table></section>");
    Ok(())
}

fn bytes(mean: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a mean of sizes; as saturates"
    )]
    let whole = mean as u64;
    size(whole)
}

fn advice(out: &mut String, figures: &Figures) -> std::fmt::Result {
    let advised: Vec<&LevelFigures> = figures
        .levels
        .iter()
        .filter(|l| l.advice.is_some())
        .collect();
    if advised.is_empty() {
        return Ok(());
    }
    out.push_str(
        "<section><h2>Intervals</h2><p>The interval that loses least, each level by itself, by \
         Young (Comm. ACM 17(9), 1974, p. 530) and Daly (Future Generation Computer Systems 22(3), 2006, pp. 303&ndash;312). \
         \u{3b4} is the time a checkpoint held the program up, M the mean time between the failures the level is for. \
         What copying in the background takes from the program is not in \u{3b4}: rather take a little longer. \
         <code>mana report --mtbf node=SECONDS</code> puts in what is known of the machine.</p>\
         <table><thead><tr><th>level<th>\u{3b4}<th>M<th>from<th>Young<th>Daly<th>configured<th>time lost now<th>with Daly&rsquo;s</thead><tbody>",
    );
    for level in &advised {
        let Some(advice) = &level.advice else {
            continue;
        };
        write!(
            out,
            "<tr><td><b class=\"{}\">{}</b><td>{}<td>{}<td>{}<td>{}<td><strong>{}</strong><td>{}<td>{}<td>{}",
            class(level.level),
            level.level,
            milliseconds(advice.cost),
            time(advice.mtbf),
            escaped(&advice.from),
            time(advice.young),
            time(advice.daly),
            level.interval.map_or("by hand".into(), time),
            advice.loss.0.map_or("-".into(), percent),
            percent(advice.loss.1)
        )?;
    }
    out.push_str("</tbody></table>");
    for level in &advised {
        let Some(advice) = &level.advice else {
            continue;
        };
        write!(
            out,
            "<h3><b class=\"{}\">{}</b>: part of the time lost, by interval</h3>{}",
            class(level.level),
            level.level,
            losses(level.level, level.interval, advice)
        )?;
    }
    out.push_str("</section>");
    Ok(())
}

fn starts(out: &mut String, figures: &Figures) -> std::fmt::Result {
    out.push_str(
        "<section><h2>Starts and recoveries</h2><table><thead><tr><th>start<th>began<th>ran<th>end\
         <th>went on from<th>images came from<th>work lost<th>down</thead><tbody>",
    );
    for start in figures.starts.iter().rev().take(ROWS).rev() {
        start_row(out, start)?;
    }
    out.push_str("</tbody></table></section>");
    Ok(())
}

fn start_row(out: &mut String, start: &Start) -> std::fmt::Result {
    let end = if start.failed {
        format!("<span class=\"bad\">{}</span>", escaped(&start.end))
    } else {
        escaped(&start.end)
    };
    write!(
        out,
        "<tr><td>{}<td>{}<td>{}<td>{end}",
        start.incarnation,
        date(start.began),
        time(start.ended - start.began)
    )?;
    let Some(resumed) = &start.resumed else {
        out.push_str("<td>the beginning<td>-<td>-<td>-");
        return Ok(());
    };
    let sources: Vec<String> = resumed
        .sources
        .iter()
        .map(|(name, count)| format!("{count} from {name}"))
        .collect();
    write!(
        out,
        "<td>{}<td>{}<td>{}<td>{}",
        escaped(&resumed.generation),
        escaped(&sources.join(", ")),
        time(resumed.lost),
        time(resumed.down)
    )?;
    for why in resumed.rejected.iter().take(8) {
        write!(
            out,
            "<tr><td><td colspan=\"7\" class=\"aside\">not used: {}",
            escaped(why)
        )?;
    }
    Ok(())
}

fn abandoned(out: &mut String, figures: &Figures) -> std::fmt::Result {
    if figures.abandoned.is_empty() {
        return Ok(());
    }
    out.push_str(
        "<section><h2>Checkpoints given up</h2><table><thead><tr><th>when<th>checkpoint<th>level<th>step<th>after<th>why</thead><tbody>",
    );
    let shown = figures.abandoned.iter().rev().take(ROWS);
    for found in shown {
        write!(
            out,
            "<tr><td>{}<td>{}<td><b class=\"{}\">{}</b><td>{}<td>{}<td class=\"wide\">{}",
            date(found.time),
            escaped(&found.generation),
            class(found.level),
            found.level,
            escaped(&found.step),
            time(found.seconds),
            escaped(&found.reason)
        )?;
    }
    out.push_str("</tbody></table>");
    if figures.abandoned.len() > ROWS {
        write!(
            out,
            "<p>and {} older ones</p>",
            figures.abandoned.len() - ROWS
        )?;
    }
    out.push_str("</section>");
    Ok(())
}

fn published(out: &mut String, figures: &Figures) -> std::fmt::Result {
    if figures.published.is_empty() {
        return Ok(());
    }
    out.push_str(
        "<section><h2>Published by the program</h2><p>The last value of each key and rank; all of them are in the directory <code>published</code> of the job.</p>\
         <table><thead><tr><th>key<th>rank<th>values<th>when<th>last</thead><tbody>",
    );
    for found in figures.published.iter().take(ROWS) {
        let value: String = found.value.chars().take(LONGEST).collect();
        write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td class=\"wide\">{}",
            escaped(&found.key),
            found.rank,
            found.count,
            date(found.time),
            escaped(&value)
        )?;
    }
    out.push_str("</tbody></table>");
    if figures.published.len() > ROWS {
        write!(out, "<p>and {} more</p>", figures.published.len() - ROWS)?;
    }
    out.push_str("</section>");
    Ok(())
}

const STYLE: &str = "
:root{--ground:#f6f7f9;--card:#fff;--ink:#1d2530;--soft:#5d6b7c;--line:#e2e6ec;--local:#2f7ed8;--partner:#0f9d76;--group:#8e5bd0;--global:#e08a12;--bad:#d0342c;--run:#c9d8ea;--snapshot:#2f7ed8;--drain:#0f9d76;--gate:#e08a12}
@media(prefers-color-scheme:dark){:root{--ground:#12161c;--card:#1a2029;--ink:#e4e9f0;--soft:#93a1b3;--line:#2b3440;--local:#5aa2f0;--partner:#2fc79b;--group:#b48cf0;--global:#f0ab45;--bad:#f26a5e;--run:#2e4560;--snapshot:#5aa2f0;--drain:#2fc79b;--gate:#f0ab45}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 48px}
h1{font-size:26px;margin:0;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 4px}
h3{font-size:14px;margin:18px 0 4px;font-weight:600}
header p,section>p{color:var(--soft);margin:2px 0 12px;max-width:90ch}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin-top:18px;overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(155px,1fr));gap:12px;margin-top:18px}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;display:flex;flex-direction:column}
.tiles strong{font-size:24px;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tiles small{color:var(--soft)}
svg{display:block;width:100%;height:auto;min-width:640px}
text{font-size:12px;fill:var(--soft)}
text.label{fill:var(--ink);font-size:13px}
.end{text-anchor:end}.middle{text-anchor:middle}
.note{fill:var(--ink);font-weight:600}
.grid{stroke:var(--line);stroke-width:1}
.rail{stroke:var(--line);stroke-width:2}
rect.run{fill:var(--run)}
rect.lost{fill:var(--bad);opacity:.28}
rect.local,circle.local{fill:var(--local)}rect.partner,circle.partner{fill:var(--partner)}rect.group,circle.group{fill:var(--group)}rect.global,circle.global{fill:var(--global)}
rect.snapshot{fill:var(--snapshot)}rect.drain{fill:var(--drain)}rect.gate{fill:var(--gate)}
.failure{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:5 3}
circle.bad,circle.failure-mark{fill:var(--bad)}
polyline{fill:none;stroke:var(--soft);stroke-width:1.6}
polyline.local{stroke:var(--local)}polyline.partner{stroke:var(--partner)}polyline.group{stroke:var(--group)}polyline.global{stroke:var(--global)}
.best{stroke:var(--soft);stroke-dasharray:3 3}
circle.best-mark{fill:var(--card);stroke:var(--ink);stroke-width:2}
circle.here{fill:var(--ink)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th{text-align:left;font-weight:600;color:var(--soft);font-size:12.5px;padding:6px 12px 6px 0;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:bottom}
td{padding:6px 12px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td.wide{min-width:26ch}
td.aside{color:var(--soft);font-size:13px}
b.local,b.partner,b.group,b.global,b.snapshot,b.drain,b.gate{font-weight:600}
b.local,b.snapshot{color:var(--local)}b.partner,b.drain{color:var(--partner)}b.group{color:var(--group)}b.global,b.gate{color:var(--global)}
span.bad{color:var(--bad)}
code{font-size:13px}
footer{color:var(--soft);font-size:13px;margin-top:20px}
";

#[cfg(test)]
mod tests {
    use super::super::figures::{collect, last_published, tests::story};
    use super::*;

    #[test]
    fn the_page_is_whole_and_by_itself() {
        let page = page(&collect("4711-<lmp>", &story(), None, &[]));
        for words in [
            "<h1>4711-&lt;lmp&gt;</h1>",
            "64 ranks on 8 nodes",
            "efficiency",
            "rank 17 on n03 was lost",
            "8 from partner copy",
            "Daly",
            "Checkpoints given up",
            "ranks 0-2 wait for rank 3",
            "2025-10-09 08:53:20",
        ] {
            assert!(page.contains(words), "{words}");
        }
        for foreign in [
            "http:", "https:", "src=", "<script", "@import", "url(", "NaN", "inf",
        ] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        // Every mark that is opened is closed.
        for name in [
            "section", "svg", "table", "text", "rect", "circle", "main", "div",
        ] {
            let opened = page.matches(&format!("<{name} ")).count()
                + page.matches(&format!("<{name}>")).count();
            assert_eq!(
                opened,
                page.matches(&format!("</{name}>")).count(),
                "{name}"
            );
        }
    }

    #[test]
    fn what_the_program_published_is_shown() {
        let entry = |rank, time, value: &str| libckpt::published::Entry {
            incarnation: 1,
            rank,
            time,
            key: "loss".into(),
            value: value.into(),
        };
        let mut figures = collect("x", &story(), None, &[]);
        assert!(!page(&figures).contains("Published"));
        let all = vec![
            entry(0, 1.0, "0.5"),
            entry(1, 1.5, "<7>"),
            entry(0, 2.0, "0.25"),
        ];
        figures.published = last_published(all);
        let page = page(&figures);
        let row = "<tr><td>loss<td>0<td>2<td>1970-01-01 00:00:02<td class=\"wide\">0.25";
        assert!(page.contains(row) && page.contains("&lt;7&gt;"), "{page}");
    }

    #[test]
    fn little_known_makes_a_page_too() {
        let events = story();
        for count in 1..events.len() {
            let page = page(&collect("x", &events[..count], None, &[]));
            assert!(page.contains("</html>") && !page.contains("NaN"), "{count}");
        }
    }

    #[test]
    fn a_long_job_makes_a_page_of_bounded_size() {
        let mut events = Vec::new();
        for round in 0..300 {
            for mut record in story() {
                record.time += f64::from(round) * 3000.0;
                record.incarnation += round * 2;
                events.push(record);
            }
        }
        let page = page(&collect("x", &events, None, &[]));
        assert!(page.len() < 2 << 20, "{}", page.len());
    }
}
