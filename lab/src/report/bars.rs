//! Bars: figures of named things, side by side, each with its figure and its group at its end.

use std::fmt::Write as _;

use super::escape;
use super::scale::{Along, From, mark_text};
use super::svg::{About, Anchor, Ink, picture, shortened, width_of};
use crate::findings::{Axis, Bar};

const WIDTH: i32 = 720;
const ROW: i32 = 24;
const TOP: i32 = 8;
const BOTTOM: i32 = 48;

pub(super) fn figure(id: &str, title: &str, value: &Axis, bars: &[Bar]) -> String {
    let groups = groups(bars);
    let end_text = |bar: &Bar| match groups.len() {
        0 | 1 => bar.value.to_string(),
        _ => format!("{} · {}", bar.value, bar.group),
    };
    let left = bars.iter().map(|bar| width_of(&bar.name)).max().unwrap_or(0).clamp(40, 290) + 16;
    let behind = bars.iter().map(|bar| width_of(&end_text(bar))).max().unwrap_or(0).min(320) + 12;
    let right = (WIDTH - behind).max(left + 120);
    let across = Along::of(
        value,
        From::Zero,
        bars.iter().flat_map(|bar| [bar.value.low, bar.value.median, bar.value.high]),
        (left, right),
    );
    let rows = i32::try_from(bars.len()).unwrap_or(1);
    let floor = TOP + rows * ROW + 4;
    let description = described(value, bars);
    let about = About { id, title, description: &description };
    let size = (WIDTH.unsigned_abs(), (floor + BOTTOM).unsigned_abs());
    let drawn = picture(about, size, "", |pen| {
        for mark in across.marks(5) {
            let at = across.at(mark);
            pen.line((at, TOP), (at, floor), Ink::Grid, 1);
            pen.text(&mark_text(mark), (at, floor + 14), Anchor::Middle, Ink::Muted);
        }
        let mut named = None;
        for (nth, bar) in (0..).zip(bars) {
            let middle = TOP + nth * ROW + ROW / 2;
            // Of bars in a row that are of the same thing the first is named.
            if named.replace(&bar.name) != Some(&bar.name) {
                pen.text(&shortened(&bar.name, left - 12), (left - 10, middle), Anchor::End, Ink::Text);
            }
            let group = groups.iter().position(|it| *it == bar.group).unwrap_or(0);
            let (low, length, high) =
                (across.at(bar.value.low), across.at(bar.value.median), across.at(bar.value.high));
            pen.rect((left, middle - 8), (length.max(left + 1), middle + 8), Ink::Plain(group));
            if low != high {
                pen.line((low, middle), (high, middle), Ink::Text, 1);
                pen.line((low, middle - 4), (low, middle + 4), Ink::Text, 1);
                pen.line((high, middle - 4), (high, middle + 4), Ink::Text, 1);
            }
            let room = WIDTH - length.max(high) - 8;
            let text = shortened(&end_text(bar), room);
            pen.text(&text, (length.max(high) + 8, middle), Anchor::Start, Ink::Text);
        }
        pen.line((left, TOP), (left, floor), Ink::Muted, 1);
        pen.text(&value.label, ((left + right) / 2, floor + 36), Anchor::Middle, Ink::Text);
    });
    format!(
        "<figure><figcaption>{0}</figcaption><div class=\"scroll\" tabindex=\"0\" role=\"group\" \
         aria-label=\"{0}\">{drawn}</div></figure>",
        escape(title)
    )
}

fn groups(bars: &[Bar]) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for bar in bars {
        if !groups.contains(&bar.group.as_str()) {
            groups.push(&bar.group);
        }
    }
    groups
}

fn described(value: &Axis, bars: &[Bar]) -> String {
    let mut text = format!("Bars of {}.", value.label);
    for bar in bars {
        let group = if bar.group.is_empty() { String::new() } else { format!(", {}", bar.group) };
        let _ = write!(text, " {}{group}: {}.", bar.name, bar.value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Spread;

    fn bar(name: &str, group: &str, value: f64) -> Bar {
        let value = Spread { median: value, low: value, high: value + 1.0, runs: 3 };
        Bar { name: name.to_owned(), group: group.to_owned(), value }
    }

    #[test]
    fn each_bar_has_its_length_and_says_what_it_is() {
        let bars = [bar("prefork", "idle", 1.0), bar("prefork", "busy", 2.0), bar("threads", "idle", 3.0)];
        let html = figure("p", "memory", &Axis::linear("MiB"), &bars);
        assert_eq!(html.matches("<rect").count(), 3, "{html}");
        let shown = |text: &str| html.matches(&format!(">\n{text}\n<")).count();
        assert_eq!(
            (shown("prefork"), shown("threads")),
            (1, 1),
            "a name stands once beside its bars: {html}"
        );
        assert_eq!(shown("1.00 (1.00–2.00) · idle"), 1, "{html}");
        assert!(html.contains("threads, idle: 3.00 (3.00–4.00)."), "{html}");
    }
}
