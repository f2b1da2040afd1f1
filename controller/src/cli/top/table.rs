//! Rows under a head, in as much room as there is. Pure.
//!
//! On a narrow screen whole columns go, the least important first, rather than a bit of each: a number that has
//! lost a digit is worse than none. The last column has what room is left.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::cli::output::printable;

/// How much room the last column is to have before another column goes.
const LAST: usize = 12;

/// A column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) side: Side,
    /// The order in which columns go when there is no room: the highest first; 0 never.
    pub(super) rank: u8,
}

/// To which side its cells are aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A cell: its text and how it looks.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn new(text: &str, style: Style) -> Self {
        Self { text: printable(text).into_owned(), style }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text.as_ref(), Style::new())
    }
}

/// The head and the rows, each as one line of at most `width`.
pub(super) fn lines<const N: usize>(
    columns: [Column; N],
    rows: &[[Cell; N]],
    width: usize,
) -> (Line<'static>, Vec<Line<'static>>) {
    let widest = |nth: usize| {
        let cells = rows.iter().map(|row| measure(&row[nth].text));
        cells.chain([measure(columns[nth].head)]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(widest);
    let kept = kept(columns, widths, width);
    let line = |cells: [Cell; N], style: Style| {
        let (mut spans, mut left) = (Vec::new(), width);
        for (position, nth) in kept.iter().copied().enumerate() {
            let gap = if position == 0 { "" } else { "  ".get(..left).unwrap_or("  ") };
            let room = left - gap.len();
            let last = position + 1 == kept.len();
            let padded = match columns[nth].side {
                Side::Left if last => fit(&cells[nth].text, room),
                Side::Left => pad_after(&cells[nth].text, widths[nth]),
                Side::Right => pad_before(&cells[nth].text, widths[nth]),
            };
            let padded = fit(&padded, room);
            left = room.saturating_sub(measure(&padded));
            spans.push(Span::raw(gap));
            spans.push(Span::styled(padded, style.patch(cells[nth].style)));
        }
        Line::from(spans)
    };
    let head = line(columns.map(|column| column.head.into()), Style::new());
    (head, rows.iter().map(|row| line(row.clone(), Style::new())).collect())
}

/// The columns that there is room for, by number.
fn kept<const N: usize>(columns: [Column; N], widths: [usize; N], width: usize) -> Vec<usize> {
    let mut kept: Vec<_> = (0..N).collect();
    loop {
        let needed: usize = kept
            .iter()
            .map(|nth| {
                if nth + 1 == N && columns[*nth].side == Side::Left {
                    widths[*nth].min(LAST)
                } else {
                    widths[*nth]
                }
            })
            .sum::<usize>()
            + 2 * kept.len().saturating_sub(1);
        let goes =
            kept.iter().copied().filter(|nth| columns[*nth].rank > 0).max_by_key(|nth| columns[*nth].rank);
        match goes {
            Some(goes) if needed > width => kept.retain(|nth| *nth != goes),
            _ => return kept,
        }
    }
}

/// How many columns of the screen a text takes.
pub(super) fn measure(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text, or as much of it as there is room for, with an ellipsis.
pub(super) fn fit(text: &str, room: usize) -> String {
    if measure(text) <= room {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut left = room.saturating_sub(1);
    for c in text.chars() {
        let takes = measure(c.encode_utf8(&mut [0; 4]));
        if takes > left {
            break;
        }
        left -= takes;
        short.push(c);
    }
    if room > 0 {
        short.push('…');
    }
    short
}

/// The text in lines of at most `width`, broken between words where that leaves at least half a line.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut line, mut left) = (Vec::new(), String::new(), width);
    for c in text.chars() {
        let takes = measure(c.encode_utf8(&mut [0; 4]));
        // Twice where what stands behind the last space leaves too little room: then it gets a line of its own.
        while takes > left && !line.is_empty() {
            let words =
                line.rfind(' ').map(|space| space + 1).filter(|end| measure(&line[..*end]) * 2 >= width);
            let rest = words.map_or_else(String::new, |end| line.split_off(end));
            lines.push(std::mem::replace(&mut line, rest));
            left = width.saturating_sub(measure(&line));
        }
        left = left.saturating_sub(takes);
        line.push(c);
    }
    lines.push(line);
    lines
}

fn pad_after(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(measure(text))))
}

fn pad_before(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(measure(text))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { head: "WORKER", side: Side::Left, rank: 0 },
        Column { head: "TURNS", side: Side::Right, rank: 1 },
        Column { head: "HOLDING", side: Side::Left, rank: 0 },
    ];

    fn shown(width: usize) -> String {
        let rows = [
            ["web-0".into(), "12345678".into(), "GET /a/long/path/\u{1b}[31m".into()],
            ["web-10".into(), "7".into(), "".into()],
        ];
        let (head, rows) = lines(COLUMNS, &rows, width);
        std::iter::once(head).chain(rows).map(|line| line.to_string().trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn columns_go_before_digits_do() {
        insta::assert_snapshot!(shown(60), @r"
        WORKER     TURNS  HOLDING
        web-0   12345678  GET /a/long/path/\u{1b}[31m
        web-10         7
        ");
        insta::assert_snapshot!(shown(32), @r"
        WORKER     TURNS  HOLDING
        web-0   12345678  GET /a/long/p…
        web-10         7
        ");
        insta::assert_snapshot!(shown(24), @r"
        WORKER  HOLDING
        web-0   GET /a/long/pat…
        web-10
        ");
        insta::assert_snapshot!(shown(4), @r"
        WOR…
        web…
        web…
        ");
    }

    #[test]
    fn text_is_broken_between_words_where_that_is_possible() {
        assert_eq!(wrap("it finishes what it holds", 12), ["it finishes ", "what it ", "holds"]);
        assert_eq!(wrap("a /very/long/path/indeed", 12), ["a /very/long", "/path/indeed"]);
        assert_eq!(wrap("", 12), [""]);
    }

    #[test]
    fn a_wide_character_behind_a_short_word_has_room() {
        assert_eq!(wrap("a b\u{65e5}", 3), ["a ", "b\u{65e5}"]);
        assert_eq!(wrap("a \u{1f020}\u{65e5}", 2), ["a ", "\u{1f020}", "\u{65e5}"]);
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_there_is_room(cells: [String; 3], width in 0_usize..40) {
            let (head, rows) = lines(COLUMNS, &[cells.map(Cell::from)], width);
            for line in rows.iter().chain([&head]) {
                prop_assert!(line.width() <= width, "{line:?}");
            }
        }

        #[test]
        // No character takes more than three cells.
        fn wrapping_loses_nothing(text in "[^\\p{C}]{0,40}", width in 3_usize..20) {
            let lines = wrap(&text, width);
            prop_assert!(lines.iter().all(|line| measure(line) <= width), "{lines:?}");
            prop_assert_eq!(lines.concat(), text);
        }
    }
}
