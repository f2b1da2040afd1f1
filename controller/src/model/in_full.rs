//! Errors in one line.

use std::error::Error;

/// An error and what is behind it, separated by colons: for logs and for people.
pub fn in_full(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    let rest: String = causes.map(|cause| format!(": {cause}")).collect();
    format!("{error}{rest}")
}
