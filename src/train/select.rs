//! Which epoch's student is kept.

use std::collections::BTreeMap;
use std::fmt;

use super::TrainError;
use super::validation::ValidationSet;
use crate::metrics::{Evaluation, Measure};

/// What chooses the epoch.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SelectBy {
    /// The last one, whatever it measures.
    Last,
    /// The lowest training loss.
    TrainLoss,
    /// The best of a measure on a validation set.
    Metric { set: String, measure: Measure },
}

impl fmt::Display for SelectBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("last"),
            Self::TrainLoss => f.write_str("train_loss"),
            Self::Metric { set, measure } => write!(f, "{set}.{}", measure.name),
        }
    }
}

impl SelectBy {
    /// What the config gives; by default the first measure that the first validation set has.
    pub(super) fn new(given: Option<&str>, sets: &[ValidationSet]) -> Result<Self, TrainError> {
        let Some(given) = given else {
            let first =
                sets.iter().find_map(|set| Some((set.name.clone(), set.measures().into_iter().next()?)));
            return Ok(first.map_or(Self::TrainLoss, |(set, measure)| Self::Metric { set, measure }));
        };
        match given {
            "last" => return Ok(Self::Last),
            "train_loss" => return Ok(Self::TrainLoss),
            _ => {}
        }
        let refuse = |problem: String| Err(TrainError::SelectBy { given: given.to_owned(), problem });
        let Some((set, metric)) = given.rsplit_once('.') else {
            return refuse("expected last, train_loss, or set.metric (test.accuracy, say)".into());
        };
        let Some(found) = sets.iter().find(|found| found.name == set) else {
            let known: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
            return refuse(format!("no validation set named {set:?} (there are: {})", known.join(", ")));
        };
        let known = found.measures();
        match known.iter().find(|known| known.name == metric) {
            Some(measure) => Ok(Self::Metric { set: set.to_owned(), measure: measure.clone() }),
            None => {
                let known: Vec<&str> = known.iter().map(|measure| measure.name.as_str()).collect();
                refuse(format!(
                    "the set has no measure {metric:?} (it has: {}); some need labels or a cache",
                    known.join(", ")
                ))
            }
        }
    }

    /// Whether it is a measure on a validation set.
    pub(super) fn is_measure(&self) -> bool {
        matches!(self, Self::Metric { .. })
    }

    /// What is to be said of a measure that was the same after all of several epochs, by their scores.
    pub(super) fn doubt(&self, scores: &[f64]) -> Option<String> {
        let Self::Metric { measure, .. } = self else { return None };
        let measured: Vec<f64> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
        let never_moved = measured.len() > 2 && measured.iter().all(|score| *score == measured[0]);
        let labels = match measured.first() {
            Some(0.0) if measure.higher_is_better => {
                "; where nothing is right, labels and the teacher's classes may not mean the same"
            }
            _ => "",
        };
        never_moved.then(|| {
            format!(
                "warning: {self} was the same after every epoch, and the first of them is kept: choose another measure \
                 (train.select_by){labels}"
            )
        })
    }

    /// An epoch's score, NaN where it was not measured; the highest is the best, of equals the first.
    pub(super) fn score(
        &self,
        epoch: u32,
        train_loss: f64,
        validation: &BTreeMap<String, Evaluation>,
    ) -> f64 {
        match self {
            Self::Last => f64::from(epoch),
            Self::TrainLoss => -train_loss,
            Self::Metric { set, measure } => {
                let value = validation.get(set).and_then(|set| set.get(&measure.name)).unwrap_or(f64::NAN);
                if measure.higher_is_better { value } else { -value }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_that_never_moves_is_doubted() {
        let by = |higher_is_better| SelectBy::Metric {
            set: "test".into(),
            measure: Measure { name: "accuracy".into(), higher_is_better },
        };
        let doubt = |scores: &[f64]| by(true).doubt(scores);
        let none_right = doubt(&[0.0, f64::NAN, 0.0, 0.0]).unwrap();
        assert!(none_right.contains("test.accuracy was the same") && none_right.contains("labels"));
        assert!(!doubt(&[0.5; 3]).unwrap().contains("labels"));
        assert!(!by(false).doubt(&[-0.0; 3]).unwrap().contains("labels"));
        for moving in [&[0.0, 0.0][..], &[0.0, 0.0, 0.1], &[f64::NAN; 3]] {
            assert_eq!(doubt(moving), None);
        }
        assert_eq!(SelectBy::TrainLoss.doubt(&[-1.0; 3]), None);
    }
}
