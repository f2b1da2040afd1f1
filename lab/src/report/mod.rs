//! The report: one HTML page of all findings, with nothing outside of it, and the same as JSON beside it.
//!
//! ```text
//!   Findings ──► page ──► head: where, when, how thoroughly
//!                 │  ├──► the fourteen claims, each with its verdict and the figures that say so
//!                 │  └──► each experiment: question, method, plots, tables, notes
//!                 └─────► lines · bars · heat map · timeline, each drawn by a file of that name
//! ```
//!
//! Who reads it may have no network, no scripts, a dark screen, a narrow one, no colours or no eyes. So: styles are in
//! the page, fonts are the reader's own, every colour is a variable of the style sheet, what colours say is said by a
//! label, a dash or a pattern too, each plot carries a title and a description, and what moves can be stopped and does
//! not begin where the reader has asked for less motion.
//!
//! All text is escaped on its way in: an error of some server's may well stand in a cell.

mod bars;
mod heat;
mod lines;
mod page;
#[cfg(test)]
mod sample;
mod scale;
mod svg;
mod timeline;
mod verdict;

use std::path::{Path, PathBuf};

use anyhow::Context;

pub use page::page;

use crate::findings::{Findings, Plot};

/// Writes `report.html` and `report.json`; where the page is.
///
/// # Errors
/// When they cannot be written.
pub fn write(dir: &Path, findings: &[Findings]) -> anyhow::Result<PathBuf> {
    let json = serde_json::to_string_pretty(findings)? + "\n";
    let put = |name: &str, text: &str| {
        let (path, new) = (dir.join(name), dir.join(format!("{name}.new")));
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        anyhow::Ok(path)
    };
    put("report.json", &json)?;
    put("report.html", &page(findings))
}

/// One plot as HTML. `id` is its own in the page, of letters, digits and hyphens.
fn plot(id: &str, plot: &Plot) -> String {
    match plot {
        Plot::Lines { title, x, y, series } => lines::figure(id, title, x, y, series),
        Plot::Bars { title, value, bars } => bars::figure(id, title, value, bars),
        Plot::HeatMap { title, columns, rows, key } => heat::figure(title, columns, rows, key),
        Plot::Timeline { title, kinds, lanes, animated } => {
            timeline::figure(id, title, kinds, lanes, *animated)
        }
    }
}

/// Text that stands for itself, in an element or in an attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // No HTML may hold them, escaped or not.
            other if other.is_control() && other != '\n' && other != '\t' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a href=\"x\">&'\u{0}"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\u{fffd}");
    }

    #[test]
    fn page_and_json_lie_side_by_side() {
        let dir = tempfile::tempdir().unwrap();
        let findings = sample::findings();
        let path = write(dir.path(), &findings).unwrap();
        assert_eq!(path, dir.path().join("report.html"));
        assert_eq!(std::fs::read_to_string(path).unwrap(), page(&findings));
        let json = std::fs::read_to_string(dir.path().join("report.json")).unwrap();
        let again: Vec<Findings> = serde_json::from_str(&json).unwrap();
        assert_eq!(page(&again), page(&findings));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left there");
    }
}
