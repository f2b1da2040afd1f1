//! Files that need not be there.

use std::io;

/// What came of a call on a file; `None` where there is no such file.
///
/// # Errors
/// Any other error than that.
pub(crate) fn absent_is_none<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
