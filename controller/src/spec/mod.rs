//! The spec file: from text to a deployment that can be run.
//!
//! ```text
//!  text ──read──► raw::Spec ──overrides──► raw::Spec ──check──► Deployment ──to_yaml──► text
//!          │                                             │
//!          └─ broken YAML, unknown keys                  └─ wrong values, conflicts: all at once
//! ```
//! A value knows where it was said all the way to the check, so that every [`Mistake`] can name its line, or
//! its words on the command line. Behind the check there is no text and no default any more, only what holds.
//!
//! Whether an address is free or a network exists is not decided here: only the door and the engine know.

mod change;
mod check;
mod keys;
mod mistake;
mod overrides;
mod raw;
mod read;
mod setting;
mod tunnel;
mod units;
mod valid;
mod write;

#[cfg(test)]
mod tests;

use std::io::{self, Read as _};
use std::path::Path;

pub use change::{Change, effective};
pub use mistake::{Mistake, Origin, Place, SpecError};
pub use overrides::{ForPool, Overrides};
pub use units::{read_time, spell_size, spell_time};
pub use valid::{
    AccessChoice, Api, ApiAccess, BackendChoice, Cgroup, Deployment, Limits, LinkChoice, Network, Pool,
    Recycle, Restart, Worker,
};

/// The spec file that is taken when none is named.
pub const USUAL_FILE: &str = "bulkhead.yaml";

/// What is run when there is no spec file at all.
pub const BUILT_IN: &str = include_str!("default.yaml");

/// The name of [`BUILT_IN`] in messages.
pub const BUILT_IN_NAME: &str = "the built-in spec";

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// The deployment that the file at `path` describes, as overridden; without a path that of [`USUAL_FILE`] in the
/// working directory, and where there is none, of [`BUILT_IN`].
pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Deployment, SpecError> {
    let (file, text) = find(path)?;
    understand(&file, &text, overrides)
}

/// The deployment that `text` describes. `file_name` is for the messages only.
pub fn parse(file_name: &str, text: &str) -> Result<Deployment, SpecError> {
    understand(file_name, text, &Overrides::default())
}

/// The file that [`load`] would take: its name for people, and its text.
pub(crate) fn find(path: Option<&Path>) -> Result<(String, String), SpecError> {
    let chosen = path.unwrap_or(Path::new(USUAL_FILE));
    match read_file(chosen) {
        Ok(text) => Ok((chosen.display().to_string(), text)),
        Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => {
            Ok((BUILT_IN_NAME.to_owned(), BUILT_IN.to_owned()))
        }
        Err(source) => Err(SpecError::Read { path: chosen.to_owned(), source }),
    }
}

/// The deployment that `text` describes, as overridden.
pub(crate) fn understand(file: &str, text: &str, overrides: &Overrides) -> Result<Deployment, SpecError> {
    let mut raw = read::read(file, text).map_err(|mistake| SpecError::Wrong(vec![mistake]))?;
    let misplaced = overrides.apply(file, &mut raw);
    check::check(file, &raw, misplaced).map_err(SpecError::Wrong)
}

/// The JSON Schema of a spec file.
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(raw::Spec)
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let size = std::fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    if size as u64 > LARGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a spec has at most 1 MiB"));
    }
    Ok(text)
}
