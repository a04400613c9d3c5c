//! What a sweep writes down: `sweep.json`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::Planned;
use super::rank::{RankBy, ranks};
use crate::config::Keys;
use crate::metrics::Evaluation;
use crate::train::TrainReport;

/// How a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SweepOutcome {
    /// It is at work, or was ended before it could say how.
    Running,
    /// Nothing was run: only the points were asked for.
    Planned,
    /// Every run is done.
    Finished,
    /// Some runs failed, and the others are done.
    Failed,
    /// Stopped on request; the same command goes on.
    Interrupted,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PointState {
    /// Not begun.
    Pending,
    /// At work, or was when the sweep was ended.
    Running,
    /// Stopped on request; it goes on when the sweep does.
    Interrupted,
    /// It could not run, or not to its end.
    Failed,
    /// It is done.
    Trained,
}

/// One run of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PointReport {
    /// Its name.
    pub name: String,
    /// Its folder in the sweep's.
    pub run: String,
    /// The keys that change from run to run, with its values.
    #[schemars(with = "BTreeMap<String, Value>")]
    pub keys: Keys,
    /// How far it is.
    pub state: PointState,
    /// From 1, the best; absent where the run has no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// The measure that ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Every validation set after the epoch that was kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub validation: BTreeMap<String, Evaluation>,
    /// Training loss of the last epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    /// The epoch that was kept, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_epoch: Option<u32>,
    /// Epochs done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// Trainable numbers in the student.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Bytes of the student's variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student_bytes: Option<u64>,
    /// The cache; absent when training on labels alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// Bytes of the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_bytes: Option<u64>,
    /// Wall-clock time of its process, all sessions together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A sweep: `sweep.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "kd-train sweep report")]
pub struct SweepReport {
    /// How it ended.
    pub outcome: SweepOutcome,
    /// The training config that every run began with.
    pub base: String,
    /// What ranks the runs; absent while nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_by: Option<String>,
    /// Whether a larger score is the better one.
    pub higher_is_better: bool,
    /// The keys that change from run to run, in order.
    pub keys: Vec<String>,
    /// Every run, in the order of the config.
    pub points: Vec<PointReport>,
    /// Wall-clock time of this session.
    pub seconds: f64,
}

impl SweepReport {
    /// The runs, the best first; those without a rank come last, in the order of the config.
    pub fn ranked(&self) -> Vec<&PointReport> {
        let mut points: Vec<&PointReport> = self.points.iter().collect();
        points.sort_by_key(|point| point.rank.unwrap_or(u32::MAX));
        points
    }

    /// How many runs are in `state`.
    pub fn count(&self, state: PointState) -> usize {
        self.points.iter().filter(|point| point.state == state).count()
    }

    /// Ranks the runs of `points`, of which `runs` has what they found out.
    pub(super) fn rank(&mut self, given: Option<&RankBy>, points: &[Planned], runs: &[Option<TrainReport>]) {
        let suggested = || runs.iter().flatten().next().map(|run| RankBy::suggested(run, points));
        let Some(rank_by) = given.cloned().or_else(suggested) else { return };
        let scores: Vec<Option<f64>> =
            runs.iter().map(|run| run.as_ref().and_then(|run| rank_by.of(run))).collect();
        self.higher_is_better = rank_by.higher_is_better();
        let ranks = ranks(&scores, self.higher_is_better);
        for ((point, score), rank) in self.points.iter_mut().zip(scores).zip(ranks) {
            (point.score, point.rank) = (score, rank);
        }
        self.rank_by = Some(rank_by.to_string());
    }
}
