//! What pools have been scaled to, kept for the next controller.
//!
//! It is the one thing that somebody has said to a controller and that neither labels nor links can tell the next one:
//! how many workers live is not how many were wanted. So it is [kept](Keep) where the next one finds it, written at each
//! scaling, and removed by a stop: in a small file of the run directory, or, where the next controller has another one, with
//! what it waits for in order to lead. A number counts only as long as the spec still
//! says what it said when the pool was scaled: who edits the spec means it.
//!
//! It is worth no error. When it cannot be written, that is logged, and a pool that has been scaled goes back to the
//! spec's number with the next controller; when it cannot be read, likewise.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use server::identity::PoolName;

use crate::absent::absent_is_none;
use crate::spec::Pool;

/// Where the next controller finds it. None of this may take longer than a small file does: the loop waits for it.
pub trait Keep: std::fmt::Debug + Send {
    /// What was kept last, if anything is.
    fn kept(&self) -> io::Result<Option<String>>;
    /// Keeps this instead.
    fn keep(&self, json: &str) -> io::Result<()>;
    /// Keeps nothing any more.
    fn drop_it(&self) -> io::Result<()>;
    /// Where that is, for people.
    fn place(&self) -> String;
}

/// In a file.
impl Keep for PathBuf {
    fn kept(&self) -> io::Result<Option<String>> {
        absent_is_none(fs::read_to_string(self))
    }

    fn keep(&self, json: &str) -> io::Result<()> {
        // Written aside and renamed: whoever reads finds the old numbers or the new ones.
        let draft = self.with_extension("new");
        fs::write(&draft, json).and_then(|()| fs::rename(&draft, self))
    }

    fn drop_it(&self) -> io::Result<()> {
        absent_is_none(fs::remove_file(self)).map(drop)
    }

    fn place(&self) -> String {
        Path::display(self).to_string()
    }
}

/// What pools have been scaled to, and where that is kept.
#[derive(Debug)]
pub struct Scales {
    keep: Box<dyn Keep>,
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
    /// What the last controller has left in the file at `path`, as far as it goes with these pools.
    pub fn left_at(path: impl Into<PathBuf>, pools: &[Pool]) -> Self {
        Self::left_with(Box::new(path.into()), pools)
    }

    /// The same, kept wherever.
    pub fn left_with(keep: Box<dyn Keep>, pools: &[Pool]) -> Self {
        let read = keep.kept().and_then(|json| match json {
            Some(json) => serde_json::from_str::<BTreeMap<PoolName, Scaled>>(&json).map_err(io::Error::from),
            None => Ok(BTreeMap::new()),
        });
        let mut scaled = read.unwrap_or_else(|error| {
            tracing::warn!(place = keep.place(), %error, "cannot read what pools have been scaled to: as in the spec");
            BTreeMap::new()
        });
        let said = |name: &PoolName| pools.iter().find(|pool| pool.name() == name).map(|pool| pool.workers);
        scaled.retain(|name, scaled| {
            said(name) == Some(scaled.from) && scaled.to <= super::Handle::MOST_WORKERS
        });
        Self { keep, scaled }
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
        let written = serde_json::to_string(&self.scaled).map_err(io::Error::from);
        if let Err(error) = written.and_then(|json| self.keep.keep(&json)) {
            tracing::warn!(place = self.keep.place(), %error, "a restart of the controller will undo this scaling");
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
        if let Err(error) = self.keep.drop_it() {
            tracing::warn!(place = self.keep.place(), %error, "the next start will scale as this one did");
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
