//! The certificates of a deployment on one machine: made once, and kept in its run directory.
//!
//! ```text
//! RUN/control/tunnel/   0700  no worker can reach it
//!   ca.crt              the authority's certificate, which workers get with their order
//!   ca.key, tls.key     0600
//!   tls.crt             the door's
//! ```
//! They are there all or not at all: made aside and renamed together, under the run directory's lock. A set of which a
//! file is missing is made anew. A door may also be given a directory that somebody else has filled, as a cluster does
//! with a secret; then the deployment's secret is in there, too, which a door in a run directory is told by its
//! controller.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use server::identity::{NameError, Secret};
use thiserror::Error;

use super::{Authority, CertificateError, Identity, today};
use crate::absent::absent_is_none;
use crate::rundir::{Lock, RunDir};

/// The authority's certificate.
pub const AUTHORITY: &str = "ca.crt";
/// The authority's key.
pub const AUTHORITY_KEY: &str = "ca.key";
/// The door's certificate.
pub const DOOR: &str = "tls.crt";
/// The door's key.
pub const DOOR_KEY: &str = "tls.key";
/// The deployment's secret, where a door is given it.
pub const SECRET: &str = "secret";

/// Certificates could not be kept, or found.
#[derive(Debug, Error)]
pub enum FilesError {
    /// There was nothing to keep.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A file or directory could not be made, read or removed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The secret is there and is none.
    #[error("{} holds no secret: 64 hexadecimal digits", path.display())]
    BadSecret {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: NameError,
    },
}

/// The authority's certificate of the deployment in `run_dir`, in PEM; made, with all the others, if it is not there.
pub fn authority(run_dir: &RunDir, _held: &Lock) -> Result<String, FilesError> {
    let directory = run_dir.tunnel_dir();
    let complete =
        [AUTHORITY, AUTHORITY_KEY, DOOR, DOOR_KEY].iter().all(|name| directory.join(name).is_file());
    if !complete {
        make(&directory)?;
    }
    let path = directory.join(AUTHORITY);
    fs::read_to_string(&path).map_err(failed("read", &path))
}

fn make(directory: &Path) -> Result<(), FilesError> {
    let authority = Authority::new(today())?;
    let door = authority.door(today())?;
    let aside = directory.with_extension("new");
    for old in [&aside, &directory.to_owned()] {
        absent_is_none(fs::remove_dir_all(old)).map_err(failed("remove", old))?;
    }
    DirBuilder::new().mode(0o700).create(&aside).map_err(failed("create", &aside))?;
    let files = [
        (AUTHORITY, &authority.certificate, 0o644),
        (AUTHORITY_KEY, &authority.key, 0o600),
        (DOOR, &door.certificate, 0o644),
        (DOOR_KEY, &door.key, 0o600),
    ];
    for (name, text, mode) in files {
        let path = aside.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed("write", &path))?;
    }
    fs::rename(&aside, directory).map_err(failed("create", directory))
}

/// What the door in `directory` proves itself with; `None` when it is not there (yet).
pub fn identity(directory: &Path) -> Result<Option<Identity>, FilesError> {
    let certificate = read_if_there(&directory.join(DOOR))?;
    let key = read_if_there(&directory.join(DOOR_KEY))?;
    Ok(certificate.zip(key).map(|(certificate, key)| Identity { certificate, key }))
}

/// The secret of the deployment, if `directory` has it.
pub fn secret(directory: &Path) -> Result<Option<Secret>, FilesError> {
    let path = directory.join(SECRET);
    let Some(text) = read_if_there(&path)? else { return Ok(None) };
    let secret = Secret::try_from(text.trim().to_owned());
    secret.map(Some).map_err(|source| FilesError::BadSecret { path, source })
}

fn read_if_there(path: &Path) -> Result<Option<String>, FilesError> {
    absent_is_none(fs::read_to_string(path)).map_err(failed("read", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FilesError {
    let path = path.to_owned();
    move |source| FilesError::Io { operation, path, source }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn they_are_made_once_and_their_keys_are_for_nobody_else() {
        let temp = tempfile::tempdir().unwrap();
        let run = RunDir::at(temp.path().join("run"));
        run.create().unwrap();
        let lock = run.lock().unwrap();
        assert!(identity(&run.tunnel_dir()).unwrap().is_none());
        let first = authority(&run, &lock).unwrap();
        let door = identity(&run.tunnel_dir()).unwrap().unwrap();
        assert_eq!(authority(&run, &lock).unwrap(), first);
        assert_eq!(identity(&run.tunnel_dir()).unwrap().unwrap().key, door.key);
        let mode =
            |name: &str| fs::metadata(run.tunnel_dir().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode(AUTHORITY_KEY), mode(DOOR_KEY)), (0o700, 0o600, 0o600));

        fs::remove_file(run.tunnel_dir().join(DOOR)).unwrap();
        assert_ne!(authority(&run, &lock).unwrap(), first, "a set that is not whole is made anew");
        assert!(identity(&run.tunnel_dir()).unwrap().is_some());
        assert_eq!(secret(&run.tunnel_dir()).unwrap(), None);
        run.remove().unwrap();
        assert!(!run.path().exists());
    }

    #[test]
    fn a_directory_that_somebody_else_has_filled_has_the_secret_too() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(SECRET), format!("{}\n", "5a".repeat(32))).unwrap();
        assert_eq!(secret(temp.path()).unwrap(), Some(Secret::new([0x5a; 32])));
        fs::write(temp.path().join(SECRET), "half").unwrap();
        assert!(matches!(secret(temp.path()), Err(FilesError::BadSecret { .. })));
    }
}
