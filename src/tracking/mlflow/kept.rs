//! What the server has got of a run, kept in the run's folder.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable;

/// The run on the server, and how far it has got.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) uri: String,
    pub(super) experiment: String,
    pub(super) run_id: String,
    /// Whether it has the parameters.
    pub(super) params: bool,
    /// The step of the last line of steps.
    pub(super) step: u64,
    /// The step of the last line of epochs.
    pub(super) epoch_step: u64,
}

impl Kept {
    /// What `path` keeps of a run of `experiment` at `uri`; `None` where it keeps nothing, or another's.
    pub(super) fn read(path: &Path, uri: &str, experiment: &str) -> Option<Self> {
        let kept: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (kept.uri == uri && kept.experiment == experiment).then_some(kept)
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        durable::write_file(path, &text)
    }
}
