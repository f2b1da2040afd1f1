//! The directory in which door, controller and workers of one deployment meet.
//!
//! ```text
//! RUN/                0711
//!   link/             0711  door.sock: workers dial it; the one thing that their containers mount
//!   control/          0700  door.sock, secret, owner, lock, spec.yaml: no worker can reach it
//!   workers/          0700  state and output of process workers
//! ```

use std::path::{Path, PathBuf};

/// The paths of one deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The run directory at `path`, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What workers' containers mount.
    pub fn link_dir(&self) -> PathBuf {
        self.0.join("link")
    }

    /// Where workers dial.
    pub fn link_socket(&self) -> PathBuf {
        self.link_dir().join("door.sock")
    }

    /// What no worker can reach.
    pub fn control_dir(&self) -> PathBuf {
        self.0.join("control")
    }

    /// Where the controller dials.
    pub fn control_socket(&self) -> PathBuf {
        self.control_dir().join("door.sock")
    }

    /// State and output of process workers.
    pub fn workers_dir(&self) -> PathBuf {
        self.0.join("workers")
    }
}
