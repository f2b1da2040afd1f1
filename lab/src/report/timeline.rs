//! A timeline: who did what when, as a picture that stands still, and on request one that plays.
//!
//! In the still one each actor has a lane, and what it does is told by colour and pattern, with a key. The playing one
//! shows the actors around a table, each saying what it does at the moment, while a line moves across the still one.
//! It is played by the style sheet alone; a box stops it; it does not play where the reader asked for less motion,
//! and then only the still one is shown.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use super::escape;
use super::scale::{Along, From, mark_text};
use super::svg::{About, Anchor, Ink, KINDS, picture, shortened, width_of};
use crate::findings::{Axis, Lane};
use crate::stats::digits;

const WIDTH: i32 = 720;
const ROW: i32 = 30;
const TOP: i32 = 34;
const BOTTOM: i32 = 46;

/// How long the whole takes when it is played, in seconds: long enough to follow.
const PLAYED_S: f64 = 16.0;

pub(super) fn figure(id: &str, title: &str, kinds: &[String], lanes: &[Lane], animated: bool) -> String {
    let spans = || lanes.iter().flat_map(|it| &it.spans);
    let met = || kinds.iter().enumerate().filter(|(_, kind)| spans().any(|it| it.kind == **kind));
    let end = spans().map(|it| it.to_ms).fold(0.0, f64::max);
    let left = lanes.iter().map(|it| width_of(&it.name)).max().unwrap_or(0).clamp(40, 200) + 16;
    let right = WIDTH - 14;
    let across = Along::of(&Axis::linear("ms"), From::Least, [0.0, end].into_iter(), (left, right));
    let floor = TOP + i32::try_from(lanes.len()).unwrap_or(1) * ROW;
    let description = described(lanes, end);
    let about = About { id, title, description: &description };
    let head = match animated && end > 0.0 {
        true => format!(
            "<line class=\"head\" x1=\"{left}\" x2=\"{left}\" y1=\"{TOP}\" y2=\"{floor}\" \
             style=\"animation:{id}-head {PLAYED_S}s linear infinite\"/>"
        ),
        false => String::new(),
    };
    let still = picture(about, (WIDTH.unsigned_abs(), (floor + BOTTOM).unsigned_abs()), &head, |pen| {
        let mut at = left;
        for (nth, kind) in met() {
            pen.rect((at, 6), (at + 18, 20), Ink::Kind(nth));
            pen.text(kind, (at + 24, 13), Anchor::Start, Ink::Text);
            at += width_of(kind) + 42;
        }
        for mark in across.marks(8) {
            let at = across.at(mark);
            pen.line((at, TOP), (at, floor), Ink::Grid, 1);
            pen.text(&mark_text(mark), (at, floor + 14), Anchor::Middle, Ink::Muted);
        }
        pen.text("ms", ((left + right) / 2, floor + 34), Anchor::Middle, Ink::Text);
        for (nth, lane) in (0..).zip(lanes) {
            let middle = TOP + nth * ROW + ROW / 2;
            pen.text(&shortened(&lane.name, left - 12), (left - 10, middle), Anchor::End, Ink::Text);
            for span in &lane.spans {
                let kind = kinds.iter().position(|it| *it == span.kind).unwrap_or(0);
                let (from, to) = (across.at(span.from_ms), across.at(span.to_ms));
                pen.rect((from, middle - 11), (to.max(from + 1), middle + 11), Ink::Kind(kind));
            }
        }
    });
    let stage =
        if animated && end > 0.0 { stage(id, lanes, kinds, end, right - left) } else { String::new() };
    format!(
        "<figure class=\"player\"><figcaption>{0}</figcaption>{stage}<div class=\"scroll\" tabindex=\"0\" \
         role=\"group\" aria-label=\"{0}\">{still}</div></figure>",
        escape(title)
    )
}

/// The actors around a table, and the style sheet that plays them.
fn stage(id: &str, lanes: &[Lane], kinds: &[String], end: f64, run: i32) -> String {
    let (width, height, middle) = (720.0, 300.0, (360.0, 150.0));
    let mut style = format!("@keyframes {id}-head{{to{{transform:translateX({run}px)}}}}");
    let mut seats =
        format!("<ellipse class=\"table\" cx=\"{}\" cy=\"{}\" rx=\"120\" ry=\"56\"/>", middle.0, middle.1);
    for (nth, lane) in lanes.iter().enumerate() {
        let angle = TAU * nth as f64 / lanes.len() as f64 - TAU / 4.0;
        let (x, y) = (middle.0 + 230.0 * angle.cos(), middle.1 + 108.0 * angle.sin());
        let _ = write!(
            seats,
            "<g transform=\"translate({x:.0} {y:.0})\"><rect class=\"seat\" x=\"-74\" y=\"-28\" width=\"148\" height=\"56\" rx=\"10\"/>"
        );
        let done = |kind: &str| lane.spans.iter().any(|it| it.kind == kind);
        for (kind_nth, kind) in kinds.iter().enumerate().filter(|(_, kind)| done(kind)) {
            let name = format!("{id}-{nth}-{kind_nth}");
            let _ = write!(style, "@keyframes {name}{{{}}}", keyframes(lane, kind, end));
            let _ = write!(
                seats,
                "<g class=\"now\" style=\"animation:{name} {PLAYED_S}s step-end infinite\">\
                 <rect x=\"-74\" y=\"-28\" width=\"148\" height=\"56\" rx=\"10\" fill=\"url(#{id}-k{})\" \
                 stroke=\"var(--s{})\"/><text class=\"doing\" y=\"18\" text-anchor=\"middle\">{}</text></g>",
                kind_nth % KINDS,
                kind_nth % KINDS,
                escape(kind)
            );
        }
        let _ = write!(
            seats,
            "<text class=\"who\" y=\"-6\" text-anchor=\"middle\">{}</text></g>",
            escape(&shortened(&lane.name, 144))
        );
    }
    // What is slower than real is said so; the still picture has the times.
    let pace = PLAYED_S * 1e3 / end;
    let pace = match pace {
        _ if pace > 1.0 => format!("{} times slower than it was", digits(pace)),
        _ => format!("{} times faster than it was", digits(1.0 / pace)),
    };
    format!(
        "<style>{style}</style><div class=\"stage\"><label><input type=\"checkbox\"> pause</label> \
         <span>played {pace}</span><div class=\"scroll\"><svg class=\"plot\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" aria-hidden=\"true\">{seats}</svg></div></div>"
    )
}

/// When an actor is seen doing one thing.
fn keyframes(lane: &Lane, kind: &str, end: f64) -> String {
    let mut text = String::from("0%{opacity:0}");
    for span in lane.spans.iter().filter(|it| it.kind == kind) {
        let part = |ms: f64| (ms / end * 100.0).clamp(0.0, 100.0);
        let _ = write!(text, "{:.2}%{{opacity:1}}{:.2}%{{opacity:0}}", part(span.from_ms), part(span.to_ms));
    }
    text
}

fn described(lanes: &[Lane], end: f64) -> String {
    let mut text = format!("A lane for each actor, over {} ms.", digits(end));
    for lane in lanes {
        let mut sums: Vec<(&str, f64)> = Vec::new();
        for span in &lane.spans {
            let lasted = span.to_ms - span.from_ms;
            match sums.iter_mut().find(|(kind, _)| *kind == span.kind) {
                Some((_, sum)) => *sum += lasted,
                None => sums.push((&span.kind, lasted)),
            }
        }
        let sums: Vec<_> = sums.iter().map(|(kind, sum)| format!("{kind} {} ms", digits(*sum))).collect();
        let last = lane.spans.last().map(|it| format!("; at last {}", it.kind)).unwrap_or_default();
        let _ = write!(text, " {}: {}{last}.", lane.name, sums.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Span;

    fn lanes() -> Vec<Lane> {
        let span = |from_ms, to_ms, kind: &str| Span { from_ms, to_ms, kind: kind.to_owned() };
        vec![
            Lane { name: "A".to_owned(), spans: vec![span(0.0, 5.0, "thinks"), span(5.0, 10.0, "eats")] },
            Lane { name: "B".to_owned(), spans: vec![span(0.0, 10.0, "eats")] },
        ]
    }

    fn kinds() -> Vec<String> {
        ["thinks", "eats"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_kind_keeps_its_pattern_where_others_are_missing() {
        let lanes: Vec<Lane> = lanes().into_iter().skip(1).collect();
        let html = figure("p", "t", &kinds(), &lanes, true);
        assert!(
            html.contains("url(#p-k1)") && !html.contains("url(#p-k0)") && !html.contains(">thinks<"),
            "{html}"
        );
    }

    #[test]
    fn each_span_is_drawn_in_the_pattern_of_its_kind() {
        let html = figure("p", "t", &kinds(), &lanes(), false);
        // Besides those of the spans there is one in the key.
        assert_eq!(html.matches("fill=\"url(#p-k0)\"").count(), 2, "{html}");
        assert_eq!(html.matches("fill=\"url(#p-k1)\"").count(), 3, "{html}");
        assert!(html.contains("A: thinks 5.00 ms, eats 5.00 ms; at last eats."), "{html}");
        assert!(!html.contains("animation"), "{html}");
    }

    #[test]
    fn one_that_plays_stands_still_as_well_and_can_be_stopped() {
        let html = figure("p", "t", &kinds(), &lanes(), true);
        assert_eq!(html.matches("<svg").count(), 2, "{html}");
        assert_eq!(html.matches("type=\"checkbox\"").count(), 1, "{html}");
        assert!(
            html.contains("@keyframes p-0-1{0%{opacity:0}50.00%{opacity:1}100.00%{opacity:0}}"),
            "{html}"
        );
    }

    #[test]
    fn where_nothing_happened_nothing_is_played() {
        let html = figure("p", "t", &kinds(), &[Lane { name: "A".to_owned(), spans: Vec::new() }], true);
        assert!(!html.contains("NaN") && !html.contains("animation"), "{html}");
    }
}
