//! What ranks the runs of a sweep.

use std::collections::BTreeSet;
use std::fmt;

use super::SweepError;
use super::plan::Planned;
use crate::metrics::{Measure, Metric};
use crate::train::TrainReport;

/// What ranks the runs.
#[derive(Clone, Debug, PartialEq)]
pub enum RankBy {
    /// The lowest training loss.
    TrainLoss,
    /// The best of a measure on a validation set.
    Metric {
        /// The validation set.
        set: String,
        /// The measure.
        measure: Measure,
    },
}

impl fmt::Display for RankBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TrainLoss => f.write_str("train_loss"),
            Self::Metric { set, measure } => write!(f, "{set}.{}", measure.name),
        }
    }
}

impl RankBy {
    /// What the config gives, checked against the validation sets that the points have.
    pub(super) fn given(given: &str, points: &[Planned]) -> Result<Self, SweepError> {
        let refuse = |problem: String| SweepError::RankBy { given: given.to_owned(), problem };
        let ranked = Self::parse(given, points).ok_or_else(|| {
            let of_commands = points.iter().flat_map(|point| point.config.validation.values());
            let of_commands = of_commands.flat_map(|set| set.metrics.keys().map(String::as_str));
            let mut known: Vec<&str> = Metric::ALL.into_iter().map(Metric::as_str).collect();
            known.extend(of_commands.collect::<BTreeSet<_>>());
            refuse(format!("expected train_loss, or set.metric with one of {}", known.join(", ")))
        })?;
        let Self::Metric { set, .. } = &ranked else { return Ok(ranked) };
        if points.iter().any(|point| point.config.validation.contains_key(set)) {
            return Ok(ranked);
        }
        let mut known: Vec<&str> =
            points.iter().flat_map(|point| point.config.validation.keys().map(String::as_str)).collect();
        known.sort_unstable();
        known.dedup();
        Err(refuse(format!("no validation set named {set:?} (there are: {})", known.join(", "))))
    }

    /// `train_loss`, or `set.metric`, a command's of one of `points` among them.
    fn parse(text: &str, points: &[Planned]) -> Option<Self> {
        if text == "train_loss" {
            return Some(Self::TrainLoss);
        }
        let (set, name) = text.rsplit_once('.')?;
        let command = |point: &Planned| {
            let command = point.config.validation.get(set)?.metrics.get(name)?;
            Some(Measure::of_command(name, command))
        };
        let own = Metric::ALL.into_iter().find(|known| known.as_str() == name).map(Measure::from);
        let measure = own.or_else(|| points.iter().find_map(command))?;
        Some(Self::Metric { set: set.to_owned(), measure })
    }

    /// What a finished run of `points` suggests: what chose its epoch, or the first measure of its first validation
    /// set.
    pub(super) fn suggested(run: &TrainReport, points: &[Planned]) -> Self {
        if let Some(chosen) = Self::parse(&run.selected_by, points) {
            return chosen;
        }
        let first = run.validation.iter().find_map(|(set, measured)| {
            let metric = Metric::ALL.into_iter().find(|metric| metric.of(measured).is_some())?;
            Some(Self::Metric { set: set.clone(), measure: metric.into() })
        });
        first.unwrap_or(Self::TrainLoss)
    }

    /// The value in a finished run, if it is a number.
    pub(super) fn of(&self, run: &TrainReport) -> Option<f64> {
        let value = match self {
            Self::TrainLoss => run.train_loss,
            Self::Metric { set, measure } => run.validation.get(set).and_then(|set| set.get(&measure.name)),
        };
        value.filter(|value| value.is_finite())
    }

    /// Whether a larger value is the better one.
    pub fn higher_is_better(&self) -> bool {
        matches!(self, Self::Metric { measure, .. } if measure.higher_is_better)
    }
}

/// Ranks from 1, the best; of equals the first. `None` where there is no score.
pub(super) fn ranks(scores: &[Option<f64>], higher_is_better: bool) -> Vec<Option<u32>> {
    let mut order: Vec<(usize, f64)> =
        scores.iter().enumerate().filter_map(|(at, score)| Some((at, (*score)?))).collect();
    // Stable: of equals the first stays before the others.
    order.sort_by(|a, b| if higher_is_better { b.1.total_cmp(&a.1) } else { a.1.total_cmp(&b.1) });
    let mut ranks = vec![None; scores.len()];
    for (rank, (at, _)) in (1..).zip(order) {
        ranks[at] = Some(rank);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_first_whichever_way_is_up() {
        let scores = [Some(0.5), None, Some(0.9), Some(0.5)];
        assert_eq!(ranks(&scores, true), [Some(2), None, Some(1), Some(3)]);
        assert_eq!(ranks(&scores, false), [Some(1), None, Some(3), Some(2)]);
    }

    #[test]
    fn measures_are_named_by_their_set() {
        let kl = RankBy::Metric { set: "held.out".into(), measure: Metric::Kl.into() };
        assert_eq!(RankBy::parse("held.out.kl", &[]), Some(kl.clone()));
        assert_eq!(kl.to_string(), "held.out.kl");
        assert_eq!(RankBy::parse("train_loss", &[]), Some(RankBy::TrainLoss));
        assert!(RankBy::parse("test.nothing", &[]).is_none() && RankBy::parse("last", &[]).is_none());
    }
}
