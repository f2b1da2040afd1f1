//! What is shown, drawn. Pure: the same model at the same moment in the same room gives the same screen.
//!
//! ```text
//! bulkhead top  ● live  http://127.0.0.1:9090  docker  door up (pid 123)
//! ▸ Pools ────────
//! ─ Workers ──────      only the chosen one of the three where there is no room for all
//! ─ Incidents ────
//! ─ Events ───────      where there is room left
//! what was done last, and the command that does the same
//! keys
//! ```
//!
//! Every state has a word and a sign; colour only repeats them, and only the eight that every terminal has. A
//! screen of any size is drawn as well as it goes, down to a single cell.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget};

use super::keys::HELP;
use super::look::{Letters, Look};
use super::model::{Drawn, Liveness, Model, Now, Overlay, Pane, Shown, Tone};
use super::table::{Cell, Column, Side, fit, lines, measure, wrap};
use crate::api::stream_views::{EngineView, PoolFrame, StateFrame};
use crate::api::views::{HoldingView, PhaseView, WorkerView};
use crate::cli::events::Telling;
use crate::cli::incidents::{cause_in_short, held_in_short, post_mortem};
use crate::cli::output::{duration, printable, since};
use crate::cli::ps;

/// Lists, title and head included, need so many lines to stand below each other.
const ROOM_FOR_ALL: u16 = 12;

/// So many lines are worth beginning the events for: a title and two of them.
const ROOM_FOR_EVENTS: u16 = 3;

/// What stands below each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    List(Pane),
    Events,
}

/// Draws everything, and says what there was room for.
pub(super) fn draw(model: &Model, look: Look, now: Now, screen: &mut Buffer) -> Drawn {
    let area = screen.area;
    let footer = if area.height >= 6 { 2 } else { u16::from(area.height >= 3) };
    let header = u16::from(area.height >= 2);
    let body = Rect { y: area.y + header, height: area.height - header - footer, ..area };
    if header > 0 {
        put(head(model, look, now), area, 0, screen);
    }
    let parts = parts(model, body);
    let mut page = 0;
    let mut top = body.y;
    for (part, height) in &parts {
        let room = Rect { y: top, height: *height, ..body };
        top += height;
        match part {
            Part::List(pane) => {
                let rows = list(model, *pane, look, now, room, screen);
                if *pane == model.pane {
                    page = rows;
                }
            }
            Part::Events => events(model, look, room, screen),
        }
    }
    if footer == 2 {
        let events_are_shown = parts.iter().any(|(part, _)| *part == Part::Events);
        put(notice(model, look, area.width, events_are_shown), area, area.height - 2, screen);
    }
    if footer > 0 {
        put(keys(model, look, area.width), area, area.height - 1, screen);
    }
    let drawn = over(model, look, now, body, screen).unwrap_or(Drawn { page, deepest: 0 });
    if look.letters == Letters::Ascii {
        spell_in_ascii(screen);
    }
    drawn
}

/// Replaces what the terminal cannot show, whoever wrote it.
fn spell_in_ascii(screen: &mut Buffer) {
    for cell in screen.content.iter_mut().filter(|cell| !cell.symbol().is_ascii()) {
        cell.set_symbol(if cell.symbol() == "…" { "~" } else { "?" });
    }
}

/// A line of the screen.
fn put(line: Line<'_>, area: Rect, row: u16, screen: &mut Buffer) {
    let room = Rect { y: area.y.saturating_add(row), height: 1, ..area };
    line.render(room.intersection(screen.area), screen);
}

/// What there is room for, and how many lines each part has.
fn parts(model: &Model, body: Rect) -> Vec<(Part, u16)> {
    if body.height < ROOM_FOR_ALL {
        return vec![(Part::List(model.pane), body.height)];
    }
    let wanted = |pane| u16::try_from(model.rows(pane).max(1) + 2).unwrap_or(u16::MAX);
    let pools = wanted(Pane::Pools).min(body.height / 4).max(3);
    let left = body.height - pools;
    // Workers first, but a third is kept for what happens; what they do not need is its, too.
    let workers = wanted(Pane::Workers).min(left - left / 3);
    let left = left - workers;
    let incidents = wanted(Pane::Incidents).min(left.div_ceil(2));
    let events = left - incidents;
    let lists = [(Pane::Pools, pools), (Pane::Workers, workers)];
    let mut parts: Vec<_> = lists.map(|(pane, height)| (Part::List(pane), height)).into();
    if events >= ROOM_FOR_EVENTS {
        parts.extend([(Part::List(Pane::Incidents), incidents), (Part::Events, events)]);
    } else {
        parts.push((Part::List(Pane::Incidents), left));
    }
    parts
}

fn head(model: &Model, look: Look, now: Now) -> Line<'static> {
    let mut spans = vec![Span::styled("bulkhead top", look.strong()), Span::raw("  ")];
    let signs = look.signs();
    spans.push(match model.liveness(now) {
        Liveness::Live => Span::styled(format!("{} live", signs.live), look.good()),
        Liveness::Waiting => {
            Span::styled(format!("{} connected, no state yet", signs.starting), look.warning())
        }
        Liveness::Silent(silent) => {
            Span::styled(format!("{} no news for {} s", signs.trouble, silent.as_secs()), look.warning())
        }
        Liveness::Reconnecting { why, again_in } => Span::styled(
            format!(
                "{} reconnecting in {} s: {}",
                signs.trouble,
                again_in.as_secs_f64().ceil(),
                printable(&why)
            ),
            look.bad(),
        ),
    });
    spans.push(Span::raw(format!("  {}", model.address)));
    if let Some(seen) = &model.seen {
        let StateFrame { controller, door, engine, .. } = &seen.frame;
        spans.push(Span::raw(format!("  {}  ", printable(&controller.backend))));
        spans.push(match (door.up, door.pid) {
            (true, Some(pid)) => Span::raw(format!("door up (pid {pid})")),
            (true, None) => Span::raw("door up"),
            (false, _) => Span::styled("door away", look.bad()),
        });
        spans.push(match engine {
            EngineView::Answers => Span::raw(""),
            EngineView::Silent => Span::styled("  engine silent", look.bad()),
            EngineView::NotListedYet => Span::styled("  engine not listed yet", look.warning()),
        });
    }
    Line::from(spans)
}

/// One list. How many rows it has room for.
fn list(model: &Model, pane: Pane, look: Look, now: Now, room: Rect, screen: &mut Buffer) -> usize {
    let focused = model.pane == pane;
    if room.height == 0 {
        return 0;
    }
    put(title(model, pane, look, now, room.width), room, 0, screen);
    let with_head = room.height >= 3;
    let above = 1 + u16::from(with_head);
    let page = usize::from(room.height.saturating_sub(above));
    let (picked, count) = (model.row(pane), model.rows(pane));
    // The picked row is in the middle where that is possible.
    let first = picked.saturating_sub(page / 2).min(count.saturating_sub(page));
    let shown = first..(first + page).min(count);
    let width = usize::from(room.width).saturating_sub(2);
    let (head, rows) = match pane {
        Pane::Pools => pools(model, look, shown.clone(), width),
        Pane::Workers => workers(model, look, now, shown.clone(), width),
        Pane::Incidents => incidents(model, look, now, shown.clone(), width),
    };
    if count == 0 {
        put(Line::from(Span::styled(format!("  {}", nothing(model, pane)), look.faint())), room, 1, screen);
        return page;
    }
    if with_head {
        put(indented("  ", head.style(look.faint())), room, 1, screen);
    }
    for (row, (nth, line)) in (above..).zip(shown.zip(rows)) {
        let chosen = focused && nth == picked;
        put(indented(if chosen { look.signs().chosen } else { "  " }, line), room, row, screen);
        if chosen {
            let row = Rect { y: room.y + row, height: 1, ..room };
            screen.set_style(row.intersection(screen.area), look.chosen());
        }
    }
    page
}

fn indented(by: &'static str, mut line: Line<'static>) -> Line<'static> {
    line.spans.insert(0, Span::raw(by));
    line
}

/// What stands in a list without rows.
fn nothing(model: &Model, pane: Pane) -> &'static str {
    match (pane, &model.seen) {
        (Pane::Incidents, Some(seen)) if seen.frame.incidents.total > 0 => {
            "those that there were are not told any more"
        }
        (Pane::Incidents, _) => "no worker has died",
        (_, None) => "nothing is known yet",
        (Pane::Pools, Some(_)) => "no pools",
        (Pane::Workers, Some(_)) => "no workers",
    }
}

fn title(model: &Model, pane: Pane, look: Look, now: Now, width: u16) -> Line<'static> {
    let mut name = match pane {
        Pane::Pools => "Pools".to_owned(),
        Pane::Workers => format!("Workers {}", census(model)),
        Pane::Incidents => format!("Incidents {}", deaths(model)),
    };
    if model.seen.is_some() && pane != Pane::Incidents && model.liveness(now) != Liveness::Live {
        name = format!("{} (as last known)", name.trim_end());
    }
    rule(&name, look, model.pane == pane, width)
}

/// How many deaths are listed, and how many there were under this controller, where that is another number.
fn deaths(model: &Model) -> String {
    let listed = model.incidents.len();
    match model.seen.as_ref().map(|seen| seen.frame.incidents.total) {
        None if listed == 0 => String::new(),
        Some(all) if all > listed as u64 => format!("{listed} of {all}"),
        Some(all) if all < listed as u64 => format!("{listed}, {all} of them under this controller"),
        _ => listed.to_string(),
    }
}

/// A line across the screen that begins what has this name.
fn rule(name: &str, look: Look, focused: bool, width: u16) -> Line<'static> {
    let line = look.signs().rule;
    let begin = if focused { look.signs().chosen.to_owned() } else { format!("{line} ") };
    let name = fit(&format!("{begin}{} ", name.trim_end()), width.into());
    let rest = usize::from(width).saturating_sub(measure(&name));
    let style = if focused { look.strong() } else { look.faint() };
    Line::from(Span::styled(name + &line.repeat(rest), style))
}

/// What happened besides deaths, the latest first.
fn events(model: &Model, look: Look, room: Rect, screen: &mut Buffer) {
    put(rule("Events", look, false, room.width), room, 0, screen);
    if model.log.is_empty() {
        put(Line::from(Span::styled("  none yet", look.faint())), room, 1, screen);
    }
    for (row, told) in (1..room.height).zip(&model.log) {
        let line = format!("  {}", in_one_line(told));
        put(Line::from(fit(&line, room.width.into())), room, row, screen);
    }
}

/// `03:04:05.678 web-3.7 ready`.
fn in_one_line(told: &Telling) -> String {
    let Telling { time, what, who, detail } = told;
    let time = time.split_once('T').map_or("", |(_, time)| time.trim_end_matches('Z'));
    format!("{time}  {who:<8}  {what}  {detail}").trim_end().to_owned()
}

/// `4: 2 busy, 1 dead`.
fn census(model: &Model) -> String {
    const ORDER: [Shown; 6] = [
        Shown::Phase(PhaseView::Idle),
        Shown::Phase(PhaseView::Busy),
        Shown::Phase(PhaseView::Starting),
        Shown::Phase(PhaseView::Draining),
        Shown::Paused,
        Shown::Phase(PhaseView::Dead),
    ];
    let count = |shown| model.workers().iter().filter(|worker| model.shown(worker) == shown).count();
    let counts = ORDER.map(|shown| (count(shown), word(shown)));
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let told: Vec<_> = counts.map(|(count, word)| format!("{count} {word}")).collect();
    match model.workers().len() {
        0 => String::new(),
        all => format!("{all}: {}", told.join(", ")),
    }
}

fn pools(
    model: &Model,
    look: Look,
    shown: std::ops::Range<usize>,
    width: usize,
) -> (Line<'static>, Vec<Line<'static>>) {
    let column = |head, side, rank| Column { head, side, rank };
    let columns = [
        column("POOL", Side::Left, 0),
        column("READY", Side::Right, 0),
        column("BUSY", Side::Right, 3),
        column("QUEUE", Side::Right, 4),
        column("ANS/S", Side::Right, 2),
        column("REDELIV", Side::Right, 6),
        column("LOST", Side::Right, 5),
        column("DIED", Side::Right, 7),
        column("RECOVERY", Side::Right, 8),
        column("STATE", Side::Left, 0),
    ];
    let rows: Vec<_> = model.pools()[shown]
        .iter()
        .map(|frame| {
            let PoolFrame { pool, headline, .. } = frame;
            let state = ps::state(pool);
            let (sign, style) = match state {
                "ok" => (look.signs().live, look.good()),
                "degraded" => (look.signs().trouble, look.bad()),
                _ => (look.signs().starting, look.warning()),
            };
            let lost = if headline.lost > 0 { look.bad() } else { look.plain() };
            [
                Cell::from(&pool.name),
                format!("{}/{}", pool.ready, pool.wanted).into(),
                pool.busy.to_string().into(),
                pool.queued.to_string().into(),
                model.rate(&pool.name).map_or_else(|| "-".to_owned(), rate).into(),
                headline.redelivered.to_string().into(),
                Cell::new(&headline.lost.to_string(), lost),
                headline.deaths.to_string().into(),
                recovery(frame).into(),
                Cell::new(&format!("{sign} {state}"), style),
            ]
        })
        .collect();
    lines(columns, &rows, width)
}

fn rate(per_second: f64) -> String {
    if per_second < 99.5 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// `5.2/231 ms`: the median and the slow end.
fn recovery(frame: &PoolFrame) -> String {
    let recovery = frame.headline.recovery_ms;
    let (Some(median), Some(p99)) = (recovery.median, recovery.p99) else { return "-".to_owned() };
    let (median, p99) = (duration(median), duration(p99));
    match (median.split_once(' '), p99.split_once(' ')) {
        (Some((number, one)), Some((_, other))) if one == other => format!("{number}/{p99}"),
        _ => format!("{median}/{p99}"),
    }
}

fn workers(
    model: &Model,
    look: Look,
    now: Now,
    shown: std::ops::Range<usize>,
    width: usize,
) -> (Line<'static>, Vec<Line<'static>>) {
    let column = |head, side, rank| Column { head, side, rank };
    let columns = [
        column("WORKER", Side::Left, 0),
        column("PHASE", Side::Left, 0),
        column("GEN", Side::Right, 4),
        column("WHERE", Side::Left, 5),
        column("UP", Side::Right, 3),
        column("TURNS", Side::Right, 2),
        column("HOLDING", Side::Left, 0),
    ];
    let elapsed =
        model.seen.as_ref().map_or(Duration::ZERO, |seen| now.since_start.saturating_sub(seen.came));
    // What a worker holds grows older between two frames; without a connection nobody knows.
    let elapsed = if model.liveness(now) == Liveness::Live { elapsed } else { Duration::ZERO };
    let rows: Vec<_> = model.workers()[shown]
        .iter()
        .map(|worker| {
            let state = model.shown(worker);
            [
                Cell::from(&worker.id),
                // As wide as the widest: the columns beside it are to stand still.
                Cell::new(&format!("{} {:<8}", look.sign(state), word(state)), look.phase(state)),
                worker.generation.to_string().into(),
                ps::place(worker).into(),
                worker.started_at.as_deref().map_or_else(|| "-".to_owned(), |at| since(at, now.wall)).into(),
                worker.turns.to_string().into(),
                ps::holding(&aged(worker, elapsed)).into(),
            ]
        })
        .collect();
    lines(columns, &rows, width)
}

/// What a worker holds, so much later.
fn aged(worker: &WorkerView, elapsed: Duration) -> Vec<HoldingView> {
    let older = |held: &HoldingView| HoldingView {
        request: held.request.clone(),
        for_ms: held.for_ms + elapsed.as_secs_f64() * 1e3,
    };
    worker.holding.iter().map(older).collect()
}

fn word(shown: Shown) -> &'static str {
    match shown {
        Shown::Paused => "paused",
        Shown::Phase(phase) => ps::phase(phase),
    }
}

fn incidents(
    model: &Model,
    look: Look,
    now: Now,
    shown: std::ops::Range<usize>,
    width: usize,
) -> (Line<'static>, Vec<Line<'static>>) {
    let column = |head, side, rank| Column { head, side, rank };
    let columns = [
        column("INCIDENT", Side::Left, 0),
        column("AGO", Side::Right, 2),
        column("CAUSE", Side::Left, 0),
        column("REPLACED IN", Side::Right, 3),
        column("WHAT IT HELD", Side::Left, 1),
    ];
    let rows: Vec<_> = model
        .incidents
        .range(shown)
        .map(|death| {
            let incident = &death.incident;
            [
                Cell::from(&incident.id),
                since(&incident.at, now.wall).into(),
                Cell::new(&cause_in_short(&incident.cause), look.bad()),
                incident.steps_ms.ready.map_or_else(|| "not yet".to_owned(), duration).into(),
                held_in_short(&incident.held).into(),
            ]
        })
        .collect();
    lines(columns, &rows, width)
}

/// What was done last; else what happened last.
fn notice(model: &Model, look: Look, width: u16, events_are_shown: bool) -> Line<'static> {
    let width = usize::from(width);
    let Some(notice) = &model.notice else {
        let last = model.log.front().filter(|_| !events_are_shown);
        let told = last.map_or_else(String::new, in_one_line);
        return Line::from(Span::styled(fit(&told, width), look.faint()));
    };
    let style = match notice.tone {
        Tone::Plain => look.plain(),
        Tone::Trouble => look.bad(),
    };
    let command = notice.command.as_ref().map_or_else(String::new, |command| format!("  $ {command}"));
    // The command goes first when there is no room: what happened matters more.
    let command = if measure(&notice.text) + measure(&command) <= width { command } else { String::new() };
    let text = fit(&printable(&notice.text), width.saturating_sub(measure(&command)));
    Line::from(vec![Span::styled(text, style), Span::styled(command, look.strong())])
}

/// As many keys as there is room for, the most useful ones first.
fn keys(model: &Model, look: Look, width: u16) -> Line<'static> {
    let all: &[(&str, &str)] = match model.overlay {
        Overlay::None => &[
            ("?", "help"),
            ("q", "quit"),
            ("tab", "pane"),
            ("K", "kill"),
            ("C", "crash"),
            ("P", "pause"),
            ("d", "drain"),
            ("+/-", "scale"),
            ("r", "kill any"),
            ("enter", "incident"),
            ("j/k", "choose"),
        ],
        Overlay::Help { .. } | Overlay::Card { .. } => {
            &[("esc", "back"), ("j/k", "scroll"), ("Ctrl-C", "quit")]
        }
    };
    let mut spans = Vec::new();
    let mut left = usize::from(width);
    for (key, does) in all {
        let takes = measure(key) + 1 + measure(does) + if spans.is_empty() { 0 } else { 2 };
        if takes > left {
            break;
        }
        left -= takes;
        if !spans.is_empty() {
            spans.push(Span::raw("  "));
        }
        spans.push(Span::styled(*key, look.strong()));
        spans.push(Span::styled(format!(" {does}"), look.faint()));
    }
    Line::from(spans)
}

/// What lies over the lists, and what there was room for; `None` when nothing does.
fn over(model: &Model, look: Look, now: Now, body: Rect, screen: &mut Buffer) -> Option<Drawn> {
    let (title, text, scroll) = match &model.overlay {
        Overlay::None => return None,
        Overlay::Help { scroll } => ("Keys and words", HELP.to_owned(), *scroll),
        Overlay::Card { key, scroll } => {
            let text = match model.incidents.iter().find(|death| death.key == *key) {
                Some(death) => post_mortem(&death.incident, now.wall),
                None => "too many workers have died since: this incident is not kept any more".to_owned(),
            };
            ("Incident", text, *scroll)
        }
    };
    let margin = if body.width >= 60 { 4 } else { 0 };
    let room = Rect { x: body.x + margin, width: body.width - 2 * margin, ..body };
    let inner = usize::from(room.width.saturating_sub(4));
    let lines: Vec<_> = text.lines().flat_map(|line| wrap(&printable(line), inner.max(1))).collect();
    let page = usize::from(room.height.saturating_sub(2));
    let deepest = lines.len().saturating_sub(page);
    let scroll = scroll.min(deepest);

    Clear.render(room.intersection(screen.area), screen);
    let block = ratatui::widgets::Block::bordered().border_set(look.signs().border).title(match deepest {
        0 => format!(" {title} "),
        _ => format!(
            " {title}, lines {} to {} of {} ",
            scroll + 1,
            (scroll + page).min(lines.len()),
            lines.len()
        ),
    });
    block.render(room.intersection(screen.area), screen);
    for (row, line) in (1..).zip(lines.into_iter().skip(scroll).take(page)) {
        let inside = Rect { x: room.x + 2.min(room.width), width: room.width.saturating_sub(4), ..room };
        put(Line::from(line), inside, row, screen);
    }
    Some(Drawn { page, deepest })
}
