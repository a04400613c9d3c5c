//! Which epochs' students stay on disk beside the best one and the last.
//!
//! A function of what the epochs measured, as far as their students were kept before, so that a run that goes on agrees with
//! one that was never interrupted.

use std::fs;
use std::path::PathBuf;

use super::report::KeptCheckpoint;
use super::{RunFolder, TrainError};
use crate::checkpoint;
use crate::config::CheckpointConfig;
use crate::durable;
use crate::student::Student;

/// What the names of such checkpoints begin with.
const STEP: &str = "step-";

/// The best student, and the beginning of its name until the run's state says that it is: a state and the student of
/// another epoch would never come together again.
pub(super) const BEST: &str = "best";
const BETTER: &str = "better-";

/// Writes the student of `epoch`, which is better than all before; [`settle_best`] makes it the best.
pub(super) fn offer_best(
    folder: &RunFolder,
    student: &mut dyn Student,
    epoch: u32,
) -> Result<(), TrainError> {
    folder.save(student, &format!("{BETTER}{epoch}"))
}

/// Makes the student that was offered for the epoch `best` the best one. The run's state must be on the disk by now, and say so;
/// others that were offered are none of its.
///
/// # Errors
/// [`TrainError::Write`].
pub(super) fn settle_best(folder: &RunFolder, best: Option<u32>) -> Result<(), TrainError> {
    if !folder.writes() {
        return Ok(());
    }
    if let Some(epoch) = best {
        let of = |name: &str| <[PathBuf; 2]>::from(checkpoint::files(&folder.checkpoint(name)));
        for (offered, place) in of(&format!("{BETTER}{epoch}")).iter().zip(of(BEST)) {
            let renamed = durable::if_there(durable::rename(offered, &place));
            renamed.map_err(|source| TrainError::Write { path: place, source })?;
        }
    }
    for path in fs::read_dir(folder.checkpoints()).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if stem(&path).starts_with(BETTER) {
            // One that stays does no harm.
            drop(fs::remove_file(&path));
        }
    }
    Ok(())
}

/// The epochs that are done, and what is kept of them.
#[derive(Clone, Debug)]
pub(super) struct Retention {
    config: CheckpointConfig,
    done: Vec<KeptCheckpoint>,
    /// An epoch that `train.max_steps` cut short: who goes on does so as if it had not been looked at.
    cut: Option<KeptCheckpoint>,
}

impl Retention {
    pub(super) fn new(config: CheckpointConfig) -> Self {
        Self { config, done: Vec::new(), cut: None }
    }

    /// Counts an epoch; the higher `score` is the better one, and NaN the worst.
    pub(super) fn add(&mut self, epoch: u32, step: u64, score: f64, whole: bool) {
        let score = Some(score).filter(|score| !score.is_nan());
        let added = KeptCheckpoint { name: format!("{STEP}{step:06}"), epoch, step, score };
        if whole { self.done.push(added) } else { self.cut = Some(added) }
    }

    /// Forgets epochs whose students are not in `folder`: the run was begun with a config that kept fewer.
    pub(super) fn forget_missing(&mut self, folder: &RunFolder) {
        self.done.retain(|kept| checkpoint::files(&folder.checkpoint(&kept.name)).0.exists());
    }

    /// Whether there is more to keep than the best and the last.
    fn is_asked(&self) -> bool {
        self.config != CheckpointConfig { best: 1, last: 1 }
    }

    /// What stays, in the order of the steps.
    pub(super) fn kept(&self) -> Vec<KeptCheckpoint> {
        if !self.is_asked() {
            return Vec::new();
        }
        let mut ranked: Vec<usize> = (0..self.done.len()).collect();
        let score = |at: usize| self.done[at].score.unwrap_or(f64::NEG_INFINITY);
        // Stable: of equals the first is the better one.
        ranked.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
        let mut stay: Vec<usize> = ranked.into_iter().take(self.config.best).collect();
        stay.extend(self.done.len().saturating_sub(self.config.last)..self.done.len());
        stay.sort_unstable();
        stay.dedup();
        stay.into_iter().map(|at| self.done[at].clone()).chain(self.cut.clone()).collect()
    }

    /// Writes the student of the epoch that was added last, if it is to stay.
    pub(super) fn save(&self, folder: &RunFolder, student: &mut dyn Student) -> Result<(), TrainError> {
        let latest = self.cut.as_ref().or(self.done.last()).filter(|_| self.is_asked());
        match latest {
            Some(latest) => folder.save(student, &latest.name),
            None => Ok(()),
        }
    }

    /// Removes the others. What supersedes them, and the run's state, must be on the disk by now.
    pub(super) fn prune(&self, folder: &RunFolder) {
        let kept = self.kept();
        let (true, Ok(entries)) = (folder.writes(), fs::read_dir(folder.checkpoints())) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = stem(&path);
            if name.starts_with(STEP) && !kept.iter().any(|kept| kept.name == name) {
                // One that stays does no harm.
                drop(fs::remove_file(&path));
            }
        }
    }
}

/// A file's name up to its first dot.
fn stem(path: &std::path::Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// The names that `--checkpoint` can give, sorted.
pub(super) fn names(folder: &RunFolder) -> Vec<String> {
    let entries = fs::read_dir(folder.checkpoints()).into_iter().flatten().flatten();
    let paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    let of_students =
        paths.iter().filter(|path| path.extension().is_some_and(|suffix| suffix == "safetensors"));
    let is_one = |name: &String| name != "state" && !name.starts_with(BETTER);
    let mut names: Vec<String> = of_students.map(|path| stem(path)).filter(is_one).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(best: usize, last: usize, scores: &[f64]) -> Vec<u64> {
        let mut retention = Retention::new(CheckpointConfig { best, last });
        for (at, score) in scores.iter().enumerate() {
            retention.add(at as u32 + 1, at as u64 + 1, *score, true);
        }
        retention.kept().iter().map(|kept| kept.step).collect()
    }

    #[test]
    fn the_best_and_the_latest_stay() {
        let scores = [0.1, 0.9, 0.5, 0.9, f64::NAN, 0.2];
        assert_eq!(kept(2, 1, &scores), [2, 4, 6]);
        assert_eq!(kept(3, 2, &scores), [2, 3, 4, 5, 6]);
        assert_eq!(kept(1, 3, &scores), [2, 4, 5, 6]);
        assert_eq!(kept(9, 1, &scores), [1, 2, 3, 4, 5, 6]);
        assert_eq!(kept(1, 1, &scores), [0u64; 0]);
        // Of equals the first.
        assert_eq!(kept(2, 1, &[0.5, 0.5, 0.5, 0.5]), [1, 2, 4]);
    }

    #[test]
    fn an_epoch_that_was_cut_short_supersedes_none() {
        let mut retention = Retention::new(CheckpointConfig { best: 2, last: 1 });
        for (step, score) in [(8, 0.5), (16, 0.6)] {
            retention.add(step as u32 / 8, step, score, true);
        }
        retention.add(3, 20, 0.55, false);
        let steps: Vec<u64> = retention.kept().iter().map(|kept| kept.step).collect();
        assert_eq!(steps, [8, 16, 20]);
    }
}
