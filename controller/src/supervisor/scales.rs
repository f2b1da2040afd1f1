//! What pools have been scaled to, kept for the next controller.
//!
//! It is the one thing that somebody has said to a controller and that neither labels nor links can tell the next one:
//! how many workers live is not how many were wanted. So it is in a small file, written at each scaling, read by the
//! next controller on the same run directory, and removed by a stop. A number counts only as long as the spec still
//! says what it said when the pool was scaled: who edits the spec means it.
//!
//! It is worth no error. When it cannot be written, that is logged, and a pool that has been scaled goes back to the
//! spec's number with the next controller; when it cannot be read, likewise.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use server::identity::PoolName;

use crate::spec::Pool;

/// The file, and what is in it.
#[derive(Debug)]
pub struct Scales {
    path: PathBuf,
    scaled: BTreeMap<PoolName, Scaled>,
}

/// One pool's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Scaled {
    /// What the spec said when it was scaled.
    from: u32,
    /// What it was scaled to.
    to: u32,
}

impl Scales {
    /// What the last controller has left at `path`, as far as it goes with these pools.
    pub fn left_at(path: impl Into<PathBuf>, pools: &[Pool]) -> Self {
        let path = path.into();
        let read = match fs::read(&path) {
            Ok(json) => serde_json::from_slice::<BTreeMap<PoolName, Scaled>>(&json).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        };
        let mut scaled = read.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "cannot read what pools have been scaled to: as in the spec");
            BTreeMap::new()
        });
        let said = |name: &PoolName| pools.iter().find(|pool| pool.name() == name).map(|pool| pool.workers);
        scaled.retain(|name, scaled| {
            said(name) == Some(scaled.from) && scaled.to <= super::Handle::MOST_WORKERS
        });
        Self { path, scaled }
    }

    /// The pools that have been scaled, and to what.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&PoolName, u32)> {
        self.scaled.iter().map(|(name, scaled)| (name, scaled.to))
    }

    /// Notes that a pool, for which the spec says `from`, has been scaled. A few bytes, and only when somebody asks
    /// for it, so the loop can wait for that; nothing is synced.
    pub(super) fn note(&mut self, pool: &PoolName, from: u32, to: u32) {
        if from == to {
            self.scaled.remove(pool);
        } else {
            self.scaled.insert(pool.clone(), Scaled { from, to });
        }
        self.write();
    }

    fn write(&self) {
        // Written aside and renamed: whoever reads finds the old numbers or the new ones.
        let draft = self.path.with_extension("new");
        let written = serde_json::to_vec(&self.scaled)
            .map_err(io::Error::from)
            .and_then(|json| fs::write(&draft, json))
            .and_then(|()| fs::rename(&draft, &self.path));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "a restart of the controller will undo this scaling");
        }
    }

    /// The spec has changed: a pool whose size has been changed in it is as large as it says, and one that is gone is
    /// not remembered.
    pub(super) fn heed(&mut self, pools: &[Arc<Pool>]) {
        let said = |name: &PoolName| pools.iter().find(|pool| pool.name() == name).map(|pool| pool.workers);
        let (kept, outdone): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.scaled)
            .into_iter()
            .partition(|(name, scaled)| said(name) == Some(scaled.from));
        self.scaled = kept;
        if outdone.is_empty() {
            return;
        }
        for (pool, Scaled { to, .. }) in &outdone {
            if let Some(workers) = said(pool) {
                tracing::info!(%pool, workers, scaled_to = to, "its size has been changed in the spec, which wins over the scaling");
            }
        }
        self.write();
    }

    /// Everything has been stopped: the next start is as the spec says.
    pub(super) fn forget(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "the next start will scale as this one did");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;
    use crate::supervisor::testing::pool;

    #[test]
    fn a_scaling_outlives_its_controller_and_not_an_edit_of_the_spec() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("scale.json");
        let read = |workers| -> Vec<(String, u32)> {
            let scales = Scales::left_at(&path, &[pool("web", workers), pool("raw", 2)]);
            scales.iter().map(|(name, to)| (name.to_string(), to)).collect()
        };
        let mut scales = Scales::left_at(&path, &[pool("web", 4), pool("raw", 2)]);
        scales.note(&"web".parse().unwrap(), 4, 6);
        scales.note(&"raw".parse().unwrap(), 2, 0);
        assert_eq!(read(4), [("raw".to_owned(), 0), ("web".to_owned(), 6)]);
        assert_eq!(read(5), [("raw".to_owned(), 0)], "the spec has been edited");
        scales.note(&"raw".parse().unwrap(), 2, 2);
        assert_eq!(read(4), [("web".to_owned(), 6)]);
        scales.note(&"raw".parse().unwrap(), 2, 3);
        scales.heed(&[pool("web", 4), pool("raw", 5)].map(Arc::new));
        assert_eq!(read(4), [("web".to_owned(), 6)], "a size that is changed in the file wins");
        scales.forget();
        assert_eq!(read(4), []);
        fs::write(&path, "{\"web\":").unwrap();
        assert_eq!(read(4), [], "half a file is none");
    }
}
