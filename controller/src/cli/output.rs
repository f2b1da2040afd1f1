//! What commands print for people: tables, durations, and text that strangers had a hand in.
//!
//! Tables are aligned with spaces, without borders or colours, so that they read the same on a terminal, in a
//! file and through `awk`. On a terminal the last column is cut to its width; elsewhere nothing is.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use serde::Serialize;

/// Writes to standard output. A reader that has seen enough (`bulkhead ps | head -1`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    print_on(text).map(|_| ())
}

/// Writes to standard output, and says whether there is a point in writing more: a reader that has seen enough
/// breaks.
pub(super) fn print_on(text: &str) -> anyhow::Result<ControlFlow<()>> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to standard output")),
    }
}

/// Writes what the API said, for programs.
pub(super) fn print_json<T: Serialize>(answer: &T) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(answer)? + "\n"))
}

/// The width to which the last column of a table is cut: the terminal's, where standard output is one.
pub(super) fn width() -> Option<usize> {
    let stdout = io::stdout();
    let columns = || rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
    stdout.is_terminal().then(columns).flatten().filter(|columns| *columns > 0)
}

/// Rows under a head, every column but the last as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
}

/// The head of a column, and to which side its cells are aligned.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [Column; N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell).into_owned()));
    }

    /// The table as text, each line ended. Lines longer than `width` characters are cut, with an ellipsis.
    pub(super) fn render(&self, width: Option<usize>) -> String {
        let heads = self.columns.map(|column| match column {
            Column::Left(head) | Column::Right(head) => head.to_owned(),
        });
        let all = || std::iter::once(&heads).chain(&self.rows);
        let mut text = String::new();
        for row in all() {
            let mut line = String::new();
            for (nth, (cell, column)) in row.iter().zip(self.columns).enumerate() {
                let widest = all().map(|row| row[nth].chars().count()).max().unwrap_or(0);
                let gap = if nth == 0 { "" } else { "  " };
                line += &match column {
                    Column::Left(_) => format!("{gap}{cell:<widest$}"),
                    Column::Right(_) => format!("{gap}{cell:>widest$}"),
                };
            }
            text += &cut(line.trim_end(), width);
            text.push('\n');
        }
        text
    }
}

/// The line, or as much of it as fits.
fn cut(line: &str, width: Option<usize>) -> Cow<'_, str> {
    match width {
        Some(width) if line.chars().count() > width => {
            Cow::Owned(line.chars().take(width.saturating_sub(1)).chain(['…']).collect())
        }
        _ => Cow::Borrowed(line),
    }
}

/// The text with characters spelt out that are not what they look like: control characters, which a terminal takes for
/// orders, and those that are not seen, or change the order of the others. Request targets and workers' output are
/// written by strangers.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| c == '\t' || !(c.is_control() || is_format(c));
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if harmless(c) { c.to_string() } else { spelt_out(c) }).collect())
}

/// JSON for a terminal: the same to a program, and no orders to the terminal in it. JSON itself escapes what is below a
/// space, and leaves the rest as it is.
pub(super) fn printable_json(json: &str) -> Cow<'_, str> {
    let harmless = |c: char| !(matches!(c, '\u{7f}'..='\u{9f}') || is_format(c));
    if json.chars().all(harmless) {
        return Cow::Borrowed(json);
    }
    let mut text = String::new();
    for c in json.chars() {
        if harmless(c) {
            text.push(c);
        } else {
            text.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    Cow::Owned(text)
}

/// Unicode's category Cf: what shapes the text around it and is not seen itself.
fn is_format(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0001}'
            | '\u{e0020}'..='\u{e007f}'
    )
}

fn spelt_out(c: char) -> String {
    if c.is_control() { c.escape_default().to_string() } else { c.escape_unicode().to_string() }
}

/// Milliseconds in the unit that suits them: `0.4 ms`, `231 ms`, `1.2 s`, `3 min`, `5 h`, `2 d`.
pub(super) fn duration(ms: f64) -> String {
    let seconds = ms / 1e3;
    match seconds {
        _ if ms < 10.0 => format!("{ms:.1} ms"),
        _ if ms < 999.5 => format!("{ms:.0} ms"),
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        _ => age(seconds),
    }
}

/// Seconds in the unit that suits them, without a fraction: nobody asks for a worker's age in milliseconds.
fn age(seconds: f64) -> String {
    match seconds {
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7200.0 => format!("{:.0} min", (seconds / 60.0).floor()),
        _ if seconds < 172_800.0 => format!("{:.0} h", (seconds / 3600.0).floor()),
        _ => format!("{:.0} d", (seconds / 86_400.0).floor()),
    }
}

/// How long ago `time` (RFC 3339) was; `-` when it is no time.
pub(super) fn since(time: &str, now: jiff::Timestamp) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => age(now.duration_since(time).as_secs_f64().max(0.0).floor()),
        Err(_) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_well_across_their_range() {
        let shown = [0.0, 0.44, 9.94, 12.0, 231.4, 999.4, 999.6, 1234.0, 59_000.0, 150_000.0, 1e7, 9e8];
        insta::assert_snapshot!(shown.map(duration).join(", "), @"0.0 ms, 0.4 ms, 9.9 ms, 12 ms, 231 ms, 999 ms, 1.0 s, 1.2 s, 59 s, 2 min, 2 h, 10 d");
    }

    #[test]
    fn a_table_is_cut_to_the_terminal_and_nowhere_else() {
        let mut table = Table::new([Column::Left("WORKER"), Column::Right("TURNS"), Column::Left("HOLDING")]);
        table.row(["web-0".into(), "12345678".into(), "GET /a/long/path".into()]);
        table.row(["web-10".into(), "7".into(), String::new()]);
        insta::assert_snapshot!(table.render(None), @r"
        WORKER     TURNS  HOLDING
        web-0   12345678  GET /a/long/path
        web-10         7
        ");
        insta::assert_snapshot!(table.render(Some(24)), @r"
        WORKER     TURNS  HOLDI…
        web-0   12345678  GET /…
        web-10         7
        ");
    }

    #[test]
    fn ages_are_whole_and_never_negative() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let ago = |ms: i64| {
            since(
                &jiff::Timestamp::from_millisecond(-ms).map_or_else(|_| String::new(), |t| t.to_string()),
                now,
            )
        };
        let shown = [-5000, 0, 999, 1_999, 150_000, 100_000_000].map(ago).join(", ");
        insta::assert_snapshot!(shown, @"0 s, 0 s, 0 s, 1 s, 2 min, 27 h");
        assert_eq!(since("yesterday", now), "-");
    }

    proptest! {
        #[test]
        fn no_stranger_gives_orders_to_the_terminal(text: String) {
            prop_assert!(printable(&text).chars().all(|c| c == '\t' || !c.is_control()));
        }

        #[test]
        fn json_for_a_terminal_says_the_same_and_gives_no_orders(text: String) {
            let json = serde_json::to_string(&text)?;
            let shown = printable_json(&json);
            prop_assert!(shown.chars().all(|c| !c.is_control() && !is_format(c)));
            prop_assert_eq!(serde_json::from_str::<String>(&shown)?, text);
        }
    }

    #[test]
    fn what_turns_text_around_is_spelt_out() {
        assert_eq!(printable("GET /\u{202e}gpj.exe"), "GET /\\u{202e}gpj.exe");
        assert_eq!(printable("\u{1b}[2J\u{9b}"), "\\u{1b}[2J\\u{9b}");
        assert_eq!(printable_json("\"\u{9b}2J\u{e0041}\""), r#""\u009b2J\udb40\udc41""#);
    }
}
