//! What workers write: one file each, appended to by the worker, cut back by us.

use std::fs::File;
use std::io;
use std::path::Path;

use super::Trouble;
use crate::bounded;

/// How far back [`tail`] looks.
const LOOKED_AT: u64 = 256 << 10;

/// The longest line that [`tail`] gives, in characters.
const LONGEST_LINE: usize = 1000;

/// An empty output. We open it, so that the worker needs no right to the directory. Appending makes each of its
/// writes land at the end, wherever that is after a [`trim`].
pub(super) fn create(path: &Path) -> Result<File, Trouble> {
    bounded::create(path).map_err(trouble("create", path))
}

/// The last `lines` lines, oldest first.
pub(super) fn tail(path: &Path, lines: usize) -> Result<Vec<String>, Trouble> {
    let text = bounded::end_of(path, LOOKED_AT).map_err(trouble("read", path))?;
    let text = String::from_utf8_lossy(&text);
    let mut last: Vec<String> =
        text.lines().rev().take(lines).map(|line| line.chars().take(LONGEST_LINE).collect()).collect();
    last.reverse();
    Ok(last)
}

/// Cuts an output that has grown too large back to its end.
pub(super) fn trim(path: &Path) {
    if let Err(error) = bounded::cut_back(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot cut back a worker's output");
    }
}

/// The line that Rust prints before it aborts for want of memory.
pub(super) fn tells_of_no_memory(line: &str) -> bool {
    line.split_once("memory allocation of ")
        .and_then(|(_, rest)| rest.split_once(" bytes failed"))
        .is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn trouble(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Trouble {
    move |source| Trouble::File { operation, path: path.to_owned(), source }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::bounded::KEPT;

    #[test]
    fn a_large_output_keeps_its_end_and_its_writer() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("web-0.1.log");
        let mut worker = create(&path).unwrap();
        for n in 0..100_000 {
            writeln!(worker, "line number {n}").unwrap();
        }
        trim(&path);
        writeln!(worker, "and on").unwrap();
        assert!(path.metadata().unwrap().len() <= KEPT + 7);
        let all = std::fs::read_to_string(&path).unwrap();
        assert!(all.starts_with("line number "), "{:?} is half a line", all.lines().next());
        assert_eq!(tail(&path, 2).unwrap(), ["line number 99999", "and on"]);
    }

    #[test]
    fn a_small_output_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("web-0.1.log");
        create(&path).unwrap().write_all(b"one\n\xff\ntwo").unwrap();
        trim(&path);
        assert_eq!(tail(&path, 9).unwrap(), ["one", "\u{fffd}", "two"]);
    }

    #[test]
    fn only_rusts_own_words_tell_of_no_memory() {
        assert!(tells_of_no_memory("memory allocation of 1048576 bytes failed"));
        assert!(!tells_of_no_memory("memory allocation of many bytes failed"));
        assert!(!tells_of_no_memory("memory allocation of  bytes failed"));
        assert!(!tells_of_no_memory("out of memory"));
    }
}
