//! Files that somebody else appends to, and that must not grow without bound: what workers write, the door's log.
//!
//! The writer holds the file open for appending and knows nothing of this; [`cut_back`] shortens the file under its
//! hands, and its next write lands at the new end. Somebody has to call that now and then: while no controller is
//! there, nobody does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// A file larger than this is cut back, in bytes.
const LARGEST: u64 = 1 << 20;

/// What is kept of it then, in bytes.
pub const KEPT: u64 = 256 << 10;

/// An empty file, readable by its owner alone, for somebody else to append to.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    append(path)
}

/// The same with what is in it already, made if need be.
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Cuts a file that has grown too large back to its end, from the beginning of a line on. What is written at that
/// very moment may be lost; that is the price of a bound on what nobody may ever read.
pub fn cut_back(path: &Path) -> io::Result<()> {
    if path.metadata()?.len() <= LARGEST {
        return Ok(());
    }
    let end = end_of(path, KEPT)?;
    let whole_lines = end.iter().position(|byte| *byte == b'\n').map_or(&end[..], |first| &end[first + 1..]);
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.set_len(0)?;
    file.write_all(whole_lines)
}

/// The last `bytes` bytes of a file.
pub fn end_of(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end)?;
    Ok(end)
}
