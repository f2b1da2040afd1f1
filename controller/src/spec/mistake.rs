//! What can be wrong with a spec, in the form in which people are told.
//!
//! A [`Mistake`] is text on purpose: no program chooses by it, a person reads it. Each says where, which key,
//! what is wrong, and what to write instead.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Serialize;
use thiserror::Error;

/// Why there is no deployment.
#[derive(Debug, Error)]
pub enum SpecError {
    /// The file could not be read. Worth another try when the file has changed.
    #[error("cannot read the spec file {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file was read, and it or the command line is wrong.
    #[error("{}", listed(.0))]
    Wrong(Vec<Mistake>),
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The file's name, or what stands in for it.
    pub file: String,
    /// Who said it.
    pub origin: Origin,
    /// The key, from the top: `pools.web.size.workers`. Empty for the document as a whole.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// Who said something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Nobody: it is what holds when nobody says otherwise.
    Default,
    /// The file, there.
    File(Place),
    /// The command line, with these words.
    Flag(String),
}

/// A place in a file, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl Place {
    /// `None` for a location that the parser does not know.
    pub(super) fn of(location: serde_yaml::Location) -> Option<Self> {
        (location.line() > 0).then(|| Self { line: location.line(), column: location.column() })
    }
}

impl From<Option<Place>> for Origin {
    fn from(place: Option<Place>) -> Self {
        place.map_or(Self::Default, Self::File)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => write!(f, "{}: ", self.file)?,
            Origin::File(Place { line, column }) => write!(f, "{}:{line}:{column}: ", self.file)?,
            Origin::Flag(words) => write!(f, "{words}: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}\n    {}", self.problem, self.remedy)
    }
}

fn listed(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}

/// The one of `known` that somebody who wrote `word` most likely meant, if any is near enough.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, nearest) = known.into_iter().map(|known| (edits(word, known), known)).min()?;
    (distance <= nearest.chars().count().div_ceil(3).max(2) && distance < nearest.len()).then_some(nearest)
}

/// Levenshtein's distance: how many letters to insert, remove or change to make `a` of `b`.
fn edits(a: &str, b: &str) -> usize {
    // A key of the spec has at most a dozen letters; what is far longer is near none of them.
    if a.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_one_that_was_meant() {
        let known = ["memory", "cpus", "pids", "open_files"];
        assert_eq!(nearest("memroy", known), Some("memory"));
        assert_eq!(nearest("cpu", known), Some("cpus"));
        assert_eq!(nearest("open-files", known), Some("open_files"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
    }
}
