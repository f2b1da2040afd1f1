//! The state files: what the next controller has to know of a worker.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use server::control::Stamp;
use server::identity::Incarnation;

use super::Trouble;
use super::procfs::{self, Process};

/// One worker's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) life: Incarnation,
    pub(super) spec_hash: String,
    pub(super) started_at: Stamp,
    /// The boot in which pid and ticks mean something.
    pub(super) boot: String,
    /// What it is told to limit its own memory to.
    pub(super) memory_limit_bytes: Option<u64>,
    /// The user that it is told to become.
    pub(super) user: Option<u32>,
    /// `None`: an intent; whether the process was started is not known.
    pub(super) process: Option<Process>,
}

/// Where they are.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    boot: String,
}

impl Store {
    pub(super) fn open(dir: PathBuf) -> Result<Self, Trouble> {
        Ok(Self { dir, boot: procfs::boot()? })
    }

    /// This boot of this machine.
    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    pub(super) fn output_path(&self, life: &Incarnation) -> PathBuf {
        self.dir.join(format!("{life}.log"))
    }

    /// Written aside and renamed: whoever reads finds the old state or the new one, never half of one.
    pub(super) fn write(&self, state: &State) -> Result<(), Trouble> {
        let path = self.path(&state.life);
        let aside = self.dir.join(format!("{}.new", state.life));
        serde_json::to_vec(state)
            .map_err(io::Error::from)
            .and_then(|json| fs::write(&aside, json))
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(|source| Trouble::File { operation: "write", path, source })
    }

    /// All of them. What is not a state of ours is left alone, with a warning.
    pub(super) fn read_all(&self) -> Result<Vec<State>, Trouble> {
        Ok(self.files("json")?.iter().filter_map(|path| read(path)).collect())
    }

    /// The outputs that are there.
    pub(super) fn outputs(&self) -> Vec<PathBuf> {
        self.files("log").unwrap_or_default()
    }

    /// Removes a worker's files, the state last: as long as that is there, somebody will come back for the rest.
    pub(super) fn remove(&self, life: &Incarnation) {
        for path in [self.output_path(life), self.path(life)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove a dead worker's file");
                }
                _ => {}
            }
        }
    }

    fn path(&self, life: &Incarnation) -> PathBuf {
        self.dir.join(format!("{life}.json"))
    }

    fn files(&self, extension: &str) -> Result<Vec<PathBuf>, Trouble> {
        let trouble = |source| Trouble::File { operation: "list", path: self.dir.clone(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(trouble)? {
            let path = entry.map_err(trouble)?.path();
            if path.extension().is_some_and(|found| found == extension) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }
}

fn read(path: &Path) -> Option<State> {
    match fs::read(path).and_then(|json| Ok(serde_json::from_slice(&json)?)) {
        Ok(state) => Some(state),
        // Removed since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "not the state of a worker; left alone");
            None
        }
    }
}
