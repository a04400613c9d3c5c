//! What is measured on a validation set, summed up batch by batch on the device.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::loss::{KlDivergence, TargetTensors, cross_entropy};

/// Intervals of confidence in [`Evaluation::calibration_error`].
const INTERVALS: i64 = 15;

/// A student on one validation set. Measures that need labels or a cache are absent without them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evaluation {
    /// Samples measured; where they are rows of tokens, positions: everything here is of positions then.
    pub samples: u64,
    /// Share of samples with a label whose most probable class it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Mean `−log softmax(student)[label]` in nats, at T = 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<f64>,
    /// `exp(cross_entropy)`, of language models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Expected calibration error: the mean difference between the probability of the most probable class and how
    /// often it is the label, over 15 intervals of probability (Guo et al., 2017).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration_error: Option<f64>,
    /// Share of samples whose most probable class is the teacher's; of language models the acceptance rate of
    /// greedy speculative decoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Mean `KL(cached target ‖ softmax(student))` in nats, at T = 1 whatever the training's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Acceptance rate of sampled speculative decoding at T = 1, `Σ min(target, student)`, of language models
    /// with a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<f64>,
}

/// A measure by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// [`Evaluation::accuracy`].
    Accuracy,
    /// [`Evaluation::cross_entropy`].
    CrossEntropy,
    /// [`Evaluation::agreement`].
    Agreement,
    /// [`Evaluation::kl`].
    Kl,
    /// [`Evaluation::perplexity`].
    Perplexity,
    /// [`Evaluation::calibration_error`].
    CalibrationError,
    /// [`Evaluation::acceptance`].
    Acceptance,
}

impl Metric {
    /// All of them, in the order in which a default is chosen.
    pub const ALL: [Self; 7] = [
        Self::Perplexity,
        Self::Accuracy,
        Self::Agreement,
        Self::Kl,
        Self::CrossEntropy,
        Self::Acceptance,
        Self::CalibrationError,
    ];

    /// The word used in configs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::CrossEntropy => "cross_entropy",
            Self::Agreement => "agreement",
            Self::Kl => "kl",
            Self::Perplexity => "perplexity",
            Self::CalibrationError => "calibration_error",
            Self::Acceptance => "acceptance",
        }
    }

    /// The value in `evaluation`.
    pub fn of(self, evaluation: &Evaluation) -> Option<f64> {
        match self {
            Self::Accuracy => evaluation.accuracy,
            Self::CrossEntropy => evaluation.cross_entropy,
            Self::Agreement => evaluation.agreement,
            Self::Kl => evaluation.kl,
            Self::Perplexity => evaluation.perplexity,
            Self::CalibrationError => evaluation.calibration_error,
            Self::Acceptance => evaluation.acceptance,
        }
    }

    /// Whether a larger value is the better one.
    pub fn higher_is_better(self) -> bool {
        matches!(self, Self::Accuracy | Self::Agreement | Self::Acceptance)
    }
}

/// Sums up an [`Evaluation`]; nothing is read back from the device before the end.
#[derive(Debug, Default)]
pub struct Meter {
    /// Whether positions are of language models.
    of_tokens: bool,
    samples: u64,
    labels: Option<Tensor>,
    /// How many, how confident and how often right, by interval of confidence: `[3, INTERVALS]`.
    calibration: Option<Tensor>,
    acceptance: Option<Tensor>,
    hits: Option<Tensor>,
    cross_entropy: Option<Tensor>,
    agreed: Option<Tensor>,
    kl: Option<Tensor>,
}

impl Meter {
    /// For language models or for images.
    pub fn new(of_tokens: bool) -> Self {
        Self { of_tokens, ..Self::default() }
    }

    /// Adds a batch.
    ///
    /// # Shapes
    /// `logits`: `[batch, classes]`, raw; `labels`: `[batch]`, int64, negative where there is none.
    pub fn add(
        &mut self,
        logits: &Tensor,
        labels: Option<&Tensor>,
        targets: Option<(&KlDivergence, &TargetTensors)>,
    ) {
        self.samples += logits.size()[0].unsigned_abs();
        let (confidence, best) = logits.softmax(-1, Kind::Float).max_dim(-1, false);
        let count = |other: &Tensor| best.eq_tensor(other).sum(Kind::Double);
        if let Some(labels) = labels {
            let there = labels.ge(0);
            add(&mut self.labels, there.sum(Kind::Double));
            add(&mut self.hits, count(labels));
            add(&mut self.cross_entropy, cross_entropy(logits, labels).sum(Kind::Double));
            let hits = best.eq_tensor(labels);
            add(&mut self.calibration, by_confidence(&confidence, &there, &hits));
        }
        if let Some((kl, targets)) = targets {
            // The head's first class is the teacher's most probable one.
            add(&mut self.agreed, count(&targets.ids.select(-1, 0)));
            add(&mut self.kl, kl.per_sample(logits, targets).sum(Kind::Double));
            let overlap = if self.of_tokens { kl.overlap(logits, targets) } else { None };
            if let Some(overlap) = overlap {
                add(&mut self.acceptance, overlap.sum(Kind::Double));
            }
        }
    }

    /// The means.
    pub fn finish(self) -> Evaluation {
        let samples = self.samples.max(1) as f64;
        let labels = self.labels.map_or(1.0, |labels| labels.double_value(&[]).max(1.0));
        let mean = |sum: Option<Tensor>, over: f64| sum.map(|sum| sum.double_value(&[]) / over);
        let cross_entropy = mean(self.cross_entropy, labels);
        Evaluation {
            samples: self.samples,
            accuracy: mean(self.hits, labels),
            cross_entropy,
            perplexity: cross_entropy.filter(|_| self.of_tokens).map(f64::exp),
            calibration_error: self.calibration.map(|by_confidence| {
                let off = (by_confidence.get(1) - by_confidence.get(2)).abs();
                off.sum(Kind::Double).double_value(&[]) / labels
            }),
            agreement: mean(self.agreed, samples),
            kl: mean(self.kl, samples),
            acceptance: mean(self.acceptance, samples),
        }
    }
}

/// Of the samples that are `there`: how many, their confidences and their `hits`, by interval of confidence.
fn by_confidence(confidence: &Tensor, there: &Tensor, hits: &Tensor) -> Tensor {
    let interval = (confidence * INTERVALS as f64).to_kind(Kind::Int64).clamp(0, INTERVALS - 1);
    let there = there.to_kind(Kind::Double);
    let rows = [
        there.shallow_clone(),
        confidence.to_kind(Kind::Double) * &there,
        hits.to_kind(Kind::Double) * &there,
    ];
    let sums = rows.map(|row| {
        Tensor::zeros([INTERVALS], (Kind::Double, confidence.device())).index_add(0, &interval, &row)
    });
    Tensor::stack(&sums, 0)
}

fn add(sum: &mut Option<Tensor>, term: Tensor) {
    *sum = Some(match sum.take() {
        Some(sum) => sum + term,
        None => term,
    });
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::loss::TargetSpace;
    use crate::target::{TailHandling, TailNodes, TargetBatch, Temperature};

    #[test]
    fn sums_over_batches_are_means_over_samples() {
        let logits = Tensor::from_slice(&[2.0f32, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 3.0]).view([3, 3]);
        let labels = Tensor::from_slice(&[0i64, 0, 2]);
        let space =
            TargetSpace { classes: 3, k: 3, draws: None, nodes: TailNodes::default(), tail_model: None };
        let kl = KlDivergence::new(&space, Temperature::ONE, TailHandling::Prior, Device::Cpu).unwrap();
        let batch = TargetBatch {
            rows: 3,
            k: 3,
            nodes: 0,
            ids: vec![0, 1, 2, 1, 0, 2, 0, 2, 1],
            values: vec![0.0, -2.0, -2.0, 0.0, -1.0, -1.0, 0.0, -1.0, -3.0],
            ..TargetBatch::default()
        };
        let targets = TargetTensors::new(&batch, Device::Cpu);
        let mut whole = Meter::default();
        whole.add(&logits, Some(&labels), Some((&kl, &targets)));
        let whole = whole.finish();
        assert_eq!(whole.samples, 3);
        assert_eq!((whole.accuracy, whole.agreement), (Some(2.0 / 3.0), Some(2.0 / 3.0)));
        // The first two students are their targets; of the third, in the order of the classes:
        let log_sum = |z: [f64; 3]| z.iter().map(|z| z.exp()).sum::<f64>().ln();
        let (teacher, student) = ([0.0, -3.0, -1.0], [0.0, 0.0, 3.0]);
        let term = |i: usize| {
            let log_p: f64 = teacher[i] - log_sum(teacher);
            log_p.exp() * (log_p - (student[i] - log_sum(student)))
        };
        let by_hand = (term(0) + term(1) + term(2)) / 3.0;
        assert!((whole.kl.unwrap() - by_hand).abs() < 1e-6);
        let mut parts = Meter::default();
        for row in 0..3 {
            let part = |tensor: &Tensor| tensor.narrow(0, row, 1);
            let targets = targets.rows(row, 1);
            parts.add(&part(&logits), Some(&part(&labels)), Some((&kl, &targets)));
        }
        let parts = parts.finish();
        assert_eq!(parts.accuracy, whole.accuracy);
        assert!((parts.kl.unwrap() - whole.kl.unwrap()).abs() < 1e-9);
        assert!((parts.cross_entropy.unwrap() - whole.cross_entropy.unwrap()).abs() < 1e-9);
        let without = Meter::default().finish();
        assert_eq!(without, Evaluation::default());
    }
}
