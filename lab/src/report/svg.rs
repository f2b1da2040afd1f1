//! A canvas for plots: `plotters` draws on it, and its colours become variables of the page's style sheet.
//!
//! The backend knows only fixed colours. Each [`Ink`] is therefore drawn in a colour that stands for it and that
//! nobody would choose, and [`picture`] puts in its place what the style sheet calls it. So one drawing is right in the
//! light and in the dark. A line's dashes and a span's pattern come in by the same way.

use std::fmt::Write as _;

use plotters::backend::{DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, RGBColor, ShapeStyle, TextStyle};

use super::escape;

/// Lines and bars have so many colours and dashes; the ones after that begin anew.
pub(super) const SERIES: usize = 8;

/// So many kinds of spans have patterns of their own.
pub(super) const KINDS: usize = 6;

/// What something is drawn with, by its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    /// What is to be read first.
    Text,
    /// Marks along axes.
    Muted,
    /// Lines of the grid.
    Grid,
    /// What belongs to one series: its line in dashes of its own.
    Series(usize),
    /// As above, without dashes.
    Plain(usize),
    /// A span of one kind, in its pattern.
    Kind(usize),
}

impl Ink {
    fn stand_in(self) -> RGBColor {
        let short = |nth: usize, of: usize| u8::try_from(nth % of).unwrap_or(0);
        match self {
            Self::Text => RGBColor(0xA0, 0, 0),
            Self::Muted => RGBColor(0xA0, 0, 1),
            Self::Grid => RGBColor(0xA0, 0, 2),
            Self::Series(nth) => RGBColor(0xA0, 1, short(nth, SERIES)),
            Self::Plain(nth) => RGBColor(0xA0, 2, short(nth, SERIES)),
            Self::Kind(nth) => RGBColor(0xA0, 3, short(nth, KINDS)),
        }
    }
}

/// Dashes of the lines, by series: the first is solid.
const DASHES: [&str; SERIES] = ["", "7 4", "2 3", "10 3 2 3", "14 5", "5 2 1 2 1 2", "1 5", "16 3 4 3"];

/// What a picture is of, for those who do not see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    /// Its own in the page.
    pub(super) id: &'a str,
    /// In a few words.
    pub(super) title: &'a str,
    /// In a few sentences.
    pub(super) description: &'a str,
}

/// Draws in pixels from the upper left.
pub(super) struct Pen<'a> {
    backend: SVGBackend<'a>,
}

/// Where a text's given point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    /// At its beginning.
    Start,
    /// In its middle.
    Middle,
    /// At its end.
    End,
}

/// Drawing into a string cannot fail, and so nothing here returns an error.
impl Pen<'_> {
    pub(super) fn line(&mut self, from: (i32, i32), to: (i32, i32), ink: Ink, width: u32) {
        let _ = self.backend.draw_line(from, to, &stroke(ink, width));
    }

    pub(super) fn path(&mut self, points: &[(i32, i32)], ink: Ink, width: u32) {
        let _ = self.backend.draw_path(points.iter().copied(), &stroke(ink, width));
    }

    pub(super) fn area(&mut self, points: &[(i32, i32)], ink: Ink, opacity: f64) {
        let _ = self.backend.fill_polygon(points.iter().copied(), &ink.stand_in().mix(opacity).filled());
    }

    pub(super) fn rect(&mut self, from: (i32, i32), to: (i32, i32), ink: Ink) {
        let _ = self.backend.draw_rect(from, to, &ink.stand_in().filled(), true);
    }

    pub(super) fn dot(&mut self, at: (i32, i32), ink: Ink) {
        let _ = self.backend.draw_circle(at, 3, &ink.stand_in().filled(), true);
    }

    /// One line, its height's middle at `at`.
    pub(super) fn text(&mut self, text: &str, at: (i32, i32), anchor: Anchor, ink: Ink) {
        let across = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        // The size is the style sheet's; this one is for who takes the drawing out of the page.
        let style = TextStyle::from(("sans-serif", 16.12)).pos(Pos::new(across, VPos::Center));
        let _ = self.backend.draw_text(text, &style.color(&ink.stand_in()), at);
    }
}

fn stroke(ink: Ink, width: u32) -> ShapeStyle {
    ink.stand_in().stroke_width(width)
}

/// What is drawn, as an element of HTML. `over` is markup that is laid over it.
pub(super) fn picture(
    about: About<'_>,
    size: (u32, u32),
    over: &str,
    draw: impl FnOnce(&mut Pen<'_>),
) -> String {
    let mut drawn = String::new();
    let mut pen = Pen { backend: SVGBackend::with_string(&mut drawn, size) };
    draw(&mut pen);
    let _ = pen.backend.present();
    drop(pen);
    let About { id, title, description } = about;
    let (_, inside) = drawn.split_once('>').unwrap_or_default();
    let inside = inside.trim_end().trim_end_matches("</svg>");
    let (width, height) = size;
    format!(
        "<svg class=\"plot\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
         <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>{}{}{over}</svg>",
        escape(title),
        escape(description),
        if inside.contains("#A003") { patterns(id) } else { String::new() },
        in_style(inside, id)
    )
}

/// Puts the style sheet's names in the place of what stands in for them.
fn in_style(drawn: &str, id: &str) -> String {
    let mut text = drawn.to_owned();
    for (stand_in, name) in
        [("#A00000", "var(--ink)"), ("#A00001", "var(--muted)"), ("#A00002", "var(--grid)")]
    {
        text = text.replace(stand_in, name);
    }
    for (nth, dashes) in DASHES.iter().enumerate() {
        let colour = format!("var(--s{nth})");
        if !dashes.is_empty() {
            let dashed = format!("stroke=\"{colour}\" stroke-dasharray=\"{dashes}\"");
            text = text.replace(&format!("stroke=\"#A001{nth:02X}\""), &dashed);
        }
        text = text.replace(&format!("#A001{nth:02X}"), &colour);
        text = text.replace(&format!("#A002{nth:02X}"), &colour);
    }
    for nth in 0..KINDS {
        text = text.replace(&format!("#A003{nth:02X}"), &format!("url(#{id}-k{nth})"));
    }
    text
}

/// The patterns of kinds: pale, hatched, solid, dotted, crossed, barred. A picture has its own, so that it can be taken
/// out of the page.
fn patterns(id: &str) -> String {
    let marks = [
        "",
        "<path d=\"M0 6 6 0M-1 1 1 -1M5 7 7 5\" stroke=\"currentColor\" stroke-width=\"1.6\"/>",
        "<rect width=\"6\" height=\"6\" fill=\"currentColor\"/>",
        "<circle cx=\"3\" cy=\"3\" r=\"1.5\" fill=\"currentColor\"/>",
        "<path d=\"M0 0 6 6M0 6 6 0\" stroke=\"currentColor\"/>",
        "<path d=\"M3 0V6\" stroke=\"currentColor\" stroke-width=\"2\"/>",
    ];
    let mut text = String::from("<defs>");
    for (nth, mark) in marks.iter().enumerate() {
        let _ = write!(
            text,
            "<pattern id=\"{id}-k{nth}\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
             style=\"color:var(--s{nth})\"><rect width=\"6\" height=\"6\" fill=\"currentColor\" \
             opacity=\".22\"/>{mark}</pattern>"
        );
    }
    text + "</defs>"
}

/// About how wide a text is, in pixels, in whatever font the reader has: rather too wide.
pub(super) fn width_of(text: &str) -> i32 {
    i32::try_from(text.chars().count() * 15 / 2).unwrap_or(i32::MAX)
}

/// The text, or so much of it as has room, and a sign that something is left out.
pub(super) fn shortened(text: &str, room: i32) -> String {
    if width_of(text) <= room {
        return text.to_owned();
    }
    let letters = usize::try_from(room * 2 / 15).unwrap_or(0).saturating_sub(1);
    text.chars().take(letters).chain(std::iter::once('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'_> = About { id: "p", title: "a < b", description: "b & c" };

    #[test]
    fn no_colour_is_left_that_the_style_sheet_does_not_know() {
        let drawn = picture(ABOUT, (100, 100), "", |pen| {
            for nth in 0..20 {
                for ink in
                    [Ink::Text, Ink::Muted, Ink::Grid, Ink::Series(nth), Ink::Plain(nth), Ink::Kind(nth)]
                {
                    pen.path(&[(0, 0), (9, 9)], ink, 2);
                    pen.line((0, 0), (9, 9), ink, 1);
                    pen.rect((0, 0), (9, 9), ink);
                    pen.dot((5, 5), ink);
                    pen.area(&[(0, 0), (9, 9), (0, 9)], ink, 0.2);
                    pen.text("it", (5, 5), Anchor::Middle, ink);
                }
            }
        });
        assert!(!drawn.contains("#A0"), "{drawn}");
        for needed in ["var(--ink)", "var(--s7)", "stroke-dasharray=\"7 4\"", "url(#p-k5)", "id=\"p-k5\""] {
            assert!(drawn.contains(needed), "{needed} is not in {drawn}");
        }
    }

    #[test]
    fn a_picture_says_what_it_is_of_and_its_text_stays_text() {
        let drawn = picture(ABOUT, (9, 9), "", |pen| pen.text("<b>", (1, 1), Anchor::Start, Ink::Text));
        assert!(
            drawn.contains("<title id=\"p-t\">a &lt; b</title><desc id=\"p-d\">b &amp; c</desc>"),
            "{drawn}"
        );
        assert!(drawn.contains("aria-labelledby=\"p-t p-d\"") && drawn.contains("&lt;b&gt;"), "{drawn}");
        assert_eq!(drawn.matches("<svg").count(), drawn.matches("</svg>").count());
    }

    #[test]
    fn what_has_no_room_is_shortened() {
        assert_eq!(shortened("short", 100), "short");
        assert_eq!(shortened("a name that is far too long", 60), "a name …");
    }
}
