//! Which caches a run was begun with: what its config does not say.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{RunFolder, TrainError};
use crate::cache::{CacheError, CacheReader};
use crate::digest::Digest;

/// The caches of a run, in their order; none where it learns from labels alone.
///
/// They are the same where their targets are, wherever they lie.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct RunCaches(Vec<RunCache>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct RunCache {
    /// The folder as it was given, for people.
    path: String,
    /// [`crate::cache::Manifest::targets_digest`].
    targets: Digest,
}

impl RunCaches {
    /// What `caches` are.
    ///
    /// # Errors
    /// What [`crate::cache::Manifest::targets_digest`] returns.
    pub(crate) fn of<'a>(caches: impl IntoIterator<Item = &'a CacheReader>) -> Result<Self, CacheError> {
        let of = |cache: &CacheReader| {
            let path = cache.dir().display().to_string();
            Ok(RunCache { path, targets: cache.manifest().targets_digest()? })
        };
        caches.into_iter().map(of).collect::<Result<_, _>>().map(Self)
    }

    /// What the run in `folder` was begun with; `None` where it was begun before that was kept.
    ///
    /// # Errors
    /// [`TrainError::Read`], [`TrainError::State`].
    pub(crate) fn read(folder: &RunFolder) -> Result<Option<Self>, TrainError> {
        folder.read_json(folder.caches())
    }

    /// Keeps them with the run in `folder`.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub(super) fn write(&self, folder: &RunFolder) -> Result<(), TrainError> {
        folder.write_json(folder.caches(), self)
    }

    /// Whether a run that was begun with these goes on with `others` to the same bits.
    pub(crate) fn are(&self, others: &Self) -> bool {
        let targets = |caches: &Self| caches.0.iter().map(|cache| cache.targets.clone()).collect::<Vec<_>>();
        targets(self) == targets(others)
    }
}

impl fmt::Display for RunCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.0.iter().map(|RunCache { path, targets }| format!("the cache {path} ({targets})"));
        match self.0.len() {
            0 => f.write_str("no cache"),
            _ => f.write_str(&each.collect::<Vec<_>>().join(" and ")),
        }
    }
}
