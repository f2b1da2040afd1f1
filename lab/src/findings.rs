//! What an experiment finds: tables, plots and answers to claims, as data.
//!
//! An experiment draws nothing itself. It fills these types; the terminal, the JSON and the report are made from
//! them, so that all three say the same.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::machine::Machine;
use crate::stats::Spread;

/// All that came out of one experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// The name that it is called by: `races`.
    pub experiment: String,
    /// What it asks, in a sentence.
    pub question: String,
    /// How it was measured: loops, runs, how long, closed or open.
    pub method: String,
    /// How thoroughly.
    pub size: Size,
    /// Where.
    pub machine: Machine,
    /// When it began (RFC 3339).
    pub at: String,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// What came out.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came out, without what is the same for every experiment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// For people.
    pub tables: Vec<Table>,
    /// For the report.
    pub plots: Vec<Plot>,
    /// What it says about the claims.
    pub answers: Vec<Answer>,
    /// What has to be known to read the figures; what was expected and came out differently; what was not run and why.
    pub notes: Vec<String>,
    /// The raw figures, in a form of the experiment's own.
    pub data: Value,
}

impl Outcome {
    /// Says in the title of each table that no figure has been measured a second time, if that is not said yet.
    pub fn is_of_one_run(&mut self) {
        const SAID: &str = " (one run)";
        for table in self.tables.iter_mut().filter(|table| !table.title.ends_with(SAID)) {
            table.title += SAID;
        }
    }
}

/// The note on what came out differently from what had been written down before: of what, how, and what that was.
pub fn surprise(what: &str, was: &str, expected: &str) -> String {
    format!("other than expected: {what}: {was}; expected was {expected}")
}

/// How thoroughly something is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// Just enough to show the pattern: what tests run.
    Smallest,
    /// All experiments together within two minutes.
    Quick,
    /// As much as it takes for figures to stand on.
    Full,
}

impl Size {
    /// Chooses by size.
    pub fn pick<T>(self, smallest: T, quick: T, full: T) -> T {
        match self {
            Self::Smallest => smallest,
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// Rows under a head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// What it shows, with the units of its columns if they do not say so themselves.
    pub title: String,
    /// The columns' heads. The first column names the row and is aligned to the left, the others hold figures.
    pub columns: Vec<String>,
    /// The cells, as many in each row as there are columns.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&it| it.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As text, aligned with spaces.
    pub fn render(&self) -> String {
        let all = || std::iter::once(&self.columns).chain(&self.rows);
        let widest =
            |nth: usize| all().filter_map(|row| row.get(nth)).map(|it| it.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(widest).collect();
        let mut text = format!("{}\n", self.title);
        for row in all() {
            let mut line = String::from("  ");
            for (nth, (cell, width)) in row.iter().zip(&widths).enumerate() {
                line += &if nth == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// A picture for the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Plot {
    /// Figures over figures.
    Lines {
        /// What it shows.
        title: String,
        /// To the right.
        x: Axis,
        /// Upwards.
        y: Axis,
        /// The lines.
        series: Vec<Series>,
    },
    /// Figures of named things, side by side.
    Bars {
        /// What it shows.
        title: String,
        /// What the bars' lengths are.
        value: Axis,
        /// From top to bottom.
        bars: Vec<Bar>,
    },
    /// Things against things.
    HeatMap {
        /// What it shows.
        title: String,
        /// The columns' heads.
        columns: Vec<String>,
        /// The rows.
        rows: Vec<HeatRow>,
        /// What heats mean, from the least to the most.
        key: Vec<HeatKey>,
    },
    /// Who did what when.
    Timeline {
        /// What it shows.
        title: String,
        /// The kinds of its spans, in the order of their colours and patterns.
        kinds: Vec<String>,
        /// The actors, from top to bottom.
        lanes: Vec<Lane>,
        /// Whether the report is to play it as well.
        animated: bool,
    },
}

/// What is measured along one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// With the unit: `latency, ms`.
    pub label: String,
    /// Whether equal steps are equal factors.
    pub scale: Scale,
}

/// What equal steps are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Equal differences.
    Linear,
    /// Equal factors.
    Log,
}

impl Axis {
    /// Equal steps are equal differences.
    pub fn linear(label: &str) -> Self {
        Self { label: label.to_owned(), scale: Scale::Linear }
    }

    /// Equal steps are equal factors.
    pub fn log(label: &str) -> Self {
        Self { label: label.to_owned(), scale: Scale::Log }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Of what.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
}

/// One point of a line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// How much.
    pub y: Spread,
}

/// One bar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Of what.
    pub name: String,
    /// Bars of one group have one colour.
    pub group: String,
    /// How long.
    pub value: Spread,
}

/// One row of a heat map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeatRow {
    /// Of what.
    pub name: String,
    /// As many as there are columns.
    pub cells: Vec<HeatCell>,
}

/// What a heat means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeatKey {
    /// From 0 (no harm) to 1 (all is lost).
    pub heat: f64,
    /// In words.
    pub text: String,
}

/// One cell of a heat map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeatCell {
    /// What stands in it.
    pub text: String,
    /// From 0 (no harm) to 1 (all is lost); `None`: not run.
    pub heat: Option<f64>,
    /// Whether it came out as had been written down before. `None`: nothing had been.
    pub expected: Option<bool>,
    /// What a reader sees who points at it.
    pub detail: String,
}

/// One actor of a timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// Who.
    pub name: String,
    /// What it did, in order.
    pub spans: Vec<Span>,
}

/// A stretch of time in which an actor did one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// In ms from the beginning of the plot.
    pub from_ms: f64,
    /// In ms from the beginning of the plot.
    pub to_ms: f64,
    /// What: one of the timeline's kinds.
    pub kind: String,
}

/// What an experiment says about a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The claim's number.
    pub claim: u8,
    /// Whether it held here.
    pub verdict: Verdict,
    /// The figures that say so, in a sentence.
    pub evidence: String,
}

/// Whether a claim held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It held here.
    Held,
    /// Some of it held here.
    InPart,
    /// It did not.
    DidNotHold,
    /// What it takes to tell was not there.
    NotMeasured,
}

impl Verdict {
    /// Of what was measured.
    pub fn of(held: bool) -> Self {
        if held { Self::Held } else { Self::DidNotHold }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::InPart => "held in part",
            Self::DidNotHold => "did not hold",
            Self::NotMeasured => "not measured",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_names_to_the_left_and_figures_to_the_right() {
        let mut table = Table::new("lost updates", &["how", "lost"]);
        table.row(["nothing".to_owned(), "1,234".to_owned()]);
        table.row(["a mutex around it".to_owned(), "0".to_owned()]);
        assert_eq!(
            table.render(),
            "lost updates\n  how                 lost\n  nothing            1,234\n  a mutex around it      0\n"
        );
    }
}
