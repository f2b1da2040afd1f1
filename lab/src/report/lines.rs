//! Lines: figures over figures, with the range of the runs as a band.
//!
//! Each line ends in its name, so that nobody has to match colours with a legend, and has dashes of its own.

use std::fmt::Write as _;

use super::escape;
use super::scale::{Along, From, apart, mark_text};
use super::svg::{About, Anchor, Ink, Pen, picture, shortened, width_of};
use crate::findings::{Axis, Series};
use crate::stats::digits;

const WIDTH: i32 = 720;
const HEIGHT: i32 = 380;
const TOP: i32 = 30;
const BOTTOM: i32 = 52;
const LEFT: i32 = 74;

pub(super) fn figure(id: &str, title: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    let series: Vec<&Series> = series.iter().filter(|it| !it.points.is_empty()).collect();
    let names = series.iter().map(|it| width_of(&it.name)).max().unwrap_or(0).min(190);
    let right = WIDTH - names - 22;
    let points = || series.iter().flat_map(|it| &it.points);
    let across = Along::of(x, From::Least, points().map(|it| it.x), (LEFT, right));
    let upwards = Along::of(
        y,
        From::Zero,
        points().flat_map(|it| [it.y.low, it.y.median, it.y.high]),
        (HEIGHT - BOTTOM, TOP),
    );
    let description = described(x, y, &series);
    let about = About { id, title, description: &description };
    let drawn = picture(about, (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs()), "", |pen| {
        axes(pen, (&across, x), (&upwards, y), right);
        for (nth, line) in series.iter().enumerate() {
            band(pen, line, nth, &across, &upwards);
        }
        for (nth, line) in series.iter().enumerate() {
            let path: Vec<_> =
                line.points.iter().map(|it| (across.at(it.x), upwards.at(it.y.median))).collect();
            pen.path(&path, Ink::Series(nth), 2);
            for at in path {
                pen.dot(at, Ink::Plain(nth));
            }
        }
        names_at_the_ends(pen, &series, &across, &upwards, right);
    });
    format!(
        "<figure><figcaption>{0}</figcaption><div class=\"scroll\" tabindex=\"0\" role=\"group\" \
         aria-label=\"{0}\">{drawn}</div></figure>",
        escape(title)
    )
}

fn axes(pen: &mut Pen<'_>, (across, x): (&Along, &Axis), (upwards, y): (&Along, &Axis), right: i32) {
    let floor = HEIGHT - BOTTOM;
    for mark in upwards.marks(6) {
        let at = upwards.at(mark);
        pen.line((LEFT, at), (right, at), Ink::Grid, 1);
        pen.text(&mark_text(mark), (LEFT - 8, at), Anchor::End, Ink::Muted);
    }
    for mark in across.marks(7) {
        let at = across.at(mark);
        pen.line((at, floor), (at, floor + 5), Ink::Muted, 1);
        pen.text(&mark_text(mark), (at, floor + 16), Anchor::Middle, Ink::Muted);
    }
    pen.line((LEFT, floor), (right, floor), Ink::Muted, 1);
    pen.text(&y.label, (8, 12), Anchor::Start, Ink::Text);
    pen.text(&x.label, ((LEFT + right) / 2, HEIGHT - 14), Anchor::Middle, Ink::Text);
}

/// From the least to the most of the runs, at each point and between them.
fn band(pen: &mut Pen<'_>, line: &Series, nth: usize, across: &Along, upwards: &Along) {
    let lows = line.points.iter().map(|it| (across.at(it.x), upwards.at(it.y.low)));
    let highs = line.points.iter().map(|it| (across.at(it.x), upwards.at(it.y.high)));
    let around: Vec<_> = lows.clone().chain(highs.clone().rev()).collect();
    if line.points.len() > 1 {
        pen.area(&around, Ink::Plain(nth), 0.13);
    }
    for (low, high) in lows.zip(highs).filter(|(low, high)| low != high) {
        pen.line(low, high, Ink::Plain(nth), 1);
    }
}

fn names_at_the_ends(pen: &mut Pen<'_>, series: &[&Series], across: &Along, upwards: &Along, right: i32) {
    let ends: Vec<_> = series
        .iter()
        .filter_map(|it| it.points.last())
        .map(|it| (across.at(it.x), upwards.at(it.y.median)))
        .collect();
    let wanted: Vec<i32> = ends.iter().map(|end| end.1).collect();
    let places = apart(&wanted, 16, (TOP, HEIGHT - BOTTOM));
    for (nth, ((line, end), place)) in series.iter().zip(&ends).zip(places).enumerate() {
        pen.line((end.0 + 4, end.1), (right + 10, place), Ink::Plain(nth), 1);
        let room = WIDTH - right - 14;
        pen.text(&shortened(&line.name, room), (right + 14, place), Anchor::Start, Ink::Plain(nth));
    }
}

/// What a reader would be told by somebody who sees it: the axes, and where each line begins and ends.
fn described(x: &Axis, y: &Axis, series: &[&Series]) -> String {
    let mut text = format!("Lines of {} over {}.", y.label, x.label);
    for line in series {
        if let (Some(first), Some(last)) = (line.points.first(), line.points.last()) {
            let _ = write!(
                text,
                " {}: from {} at {} to {} at {}.",
                line.name,
                digits(first.y.median),
                mark_text(first.x),
                digits(last.y.median),
                mark_text(last.x)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Point;
    use crate::stats::Spread;

    fn line(name: &str, points: &[(f64, f64)]) -> Series {
        let points = points
            .iter()
            .map(|&(x, y)| Point { x, y: Spread { median: y, low: y * 0.9, high: y * 1.1, runs: 3 } })
            .collect();
        Series { name: name.to_owned(), points }
    }

    #[test]
    fn each_line_has_its_path_its_band_and_its_name() {
        let series = [line("one", &[(1.0, 2.0), (2.0, 4.0)]), line("two", &[(1.0, 3.0), (2.0, 3.0)])];
        let html = figure("p", "t", &Axis::linear("at once"), &Axis::linear("per s"), &series);
        assert_eq!(html.matches("<polyline").count(), 2, "{html}");
        assert_eq!(html.matches("<polygon").count(), 2, "{html}");
        for needed in ["one", "two", "at once", "per s", "one: from 2.00 at 1 to 4.00 at 2."] {
            assert!(html.contains(needed), "{needed} is not in {html}");
        }
    }

    #[test]
    fn nothing_to_draw_is_drawn_all_the_same() {
        for axis in [Axis::linear("x"), Axis::log("x")] {
            let html = figure("p", "t", &axis, &axis, &[line("none", &[]), line("zero", &[(0.0, 0.0)])]);
            assert!(html.contains("zero") && !html.contains("NaN"), "{html}");
        }
    }
}
