//! Sums over batches, and the means they end in.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::Evaluation;
use super::confusion::Confusion;
use crate::loss::{KlDivergence, TargetTensors, cross_entropy};

/// Intervals of confidence in [`Evaluation::calibration_error`].
const INTERVALS: i64 = 15;
/// Classes of [`Evaluation::accuracy_top5`].
const TOP: i64 = 5;

/// Sums up an [`Evaluation`], but for `loss` and what commands measure; nothing is read back from the device before
/// the end.
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
    hits_top5: Option<Tensor>,
    /// Of classifiers.
    confusion: Option<Confusion>,
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
            let classes = logits.size()[1];
            if classes > TOP {
                let (_, top) = logits.topk(TOP, -1, true, false);
                let among = top.eq_tensor(&labels.unsqueeze(-1)).any_dim(-1, false);
                // Of equal logits others may be taken than the one that is called the most probable.
                add(&mut self.hits_top5, among.logical_or(&hits).sum(Kind::Double));
            }
            if !self.of_tokens {
                let confusion =
                    self.confusion.get_or_insert_with(|| Confusion::new(classes, logits.device()));
                confusion.add(&best, labels);
            }
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
        let scores = self.confusion.map(|confusion| confusion.f1());
        Evaluation {
            samples: self.samples,
            accuracy: mean(self.hits, labels),
            accuracy_top5: mean(self.hits_top5, labels),
            f1: scores.map(|(f1, _)| f1),
            f1_weighted: scores.map(|(_, weighted)| weighted),
            loss: None,
            cross_entropy,
            perplexity: cross_entropy.filter(|_| self.of_tokens).map(f64::exp),
            calibration_error: self.calibration.map(|by_confidence| {
                let off = (by_confidence.get(1) - by_confidence.get(2)).abs();
                off.sum(Kind::Double).double_value(&[]) / labels
            }),
            agreement: mean(self.agreed, samples),
            kl: mean(self.kl, samples),
            acceptance: mean(self.acceptance, samples),
            of_commands: BTreeMap::new(),
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
    use crate::metrics::Metric;
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
    /// scikit-learn's numbers for it, by the formulas in f64: `top_k_accuracy_score(k=5)`, `f1_score` macro and
    /// weighted over the labels that there are.
    #[test]
    fn top_5_and_f1_are_those_of_a_slow_count() {
        const CLASSES: usize = 7;
        let rows = 41;
        let values: Vec<f32> = (0..rows * CLASSES).map(|at| ((at * 7919) % 1009) as f32 / 100.0).collect();
        // No sample has class 6 as its label; some have none.
        let labels: Vec<i64> =
            (0..rows).map(|row| if row % 11 == 3 { -1 } else { ((row * 5 + row / 7) % 6) as i64 }).collect();
        let (mut top, mut labelled) = (0.0, 0.0);
        let mut counts = [[0.0f64; 3]; CLASSES];
        for (row, label) in labels.iter().enumerate() {
            let Ok(label) = usize::try_from(*label) else { continue };
            let logits = &values[row * CLASSES..][..CLASSES];
            let above = |class: usize| logits.iter().filter(|other| **other > logits[class]).count();
            let best = (0..CLASSES).find(|class| above(*class) == 0).unwrap();
            labelled += 1.0;
            top += f64::from(u8::from(above(label) < 5));
            counts[best][0] += f64::from(u8::from(best == label));
            counts[best][1] += 1.0;
            counts[label][2] += 1.0;
        }
        let f1 = |[hits, predicted, there]: [f64; 3]| 2.0 * hits / (predicted + there);
        let seen: Vec<[f64; 3]> = counts.into_iter().filter(|of| of[1] + of[2] > 0.0).collect();
        assert!(counts[6][1] > 0.0 && counts[6][2] == 0.0, "class 6 is predicted, and never right");
        let mut meter = Meter::new(false);
        for start in [0usize, 20] {
            let len = if start == 0 { 20 } else { rows - 20 };
            let part = Tensor::from_slice(&values[start * CLASSES..][..len * CLASSES]);
            let part = part.view([len as i64, CLASSES as i64]);
            meter.add(&part, Some(&Tensor::from_slice(&labels[start..start + len])), None);
        }
        let found = meter.finish();
        let near = |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-12);
        near(found.accuracy_top5, top / labelled);
        near(found.f1, seen.iter().map(|of| f1(*of)).sum::<f64>() / seen.len() as f64);
        near(found.f1_weighted, seen.iter().map(|of| of[2] * f1(*of)).sum::<f64>() / labelled);
        assert!(found.accuracy_top5 > found.accuracy && found.f1 != found.f1_weighted);
    }

    /// The example of scikit-learn's documentation of `f1_score`, macro and weighted 0.26…, and one in which they differ.
    #[test]
    fn f1_is_the_documented_example() {
        let f1 = |labels: &[i64], predicted: &[i64]| {
            let mut meter = Meter::new(false);
            let logits = Tensor::from_slice(predicted).one_hot(3).to_kind(Kind::Float);
            meter.add(&logits, Some(&Tensor::from_slice(labels)), None);
            let found = meter.finish();
            assert_eq!(found.accuracy_top5, None, "of three classes five are no choice");
            (found.f1.unwrap(), found.f1_weighted.unwrap())
        };
        let (macro_f1, weighted) = f1(&[0, 1, 2, 0, 1, 2], &[0, 2, 1, 0, 0, 1]);
        assert!((macro_f1 - 4.0 / 15.0).abs() < 1e-12 && (weighted - 4.0 / 15.0).abs() < 1e-12);
        // Class 0: 2·1/(2+1); class 1: 0; class 2: 2·2/(2+3). Of 5 labels 1, 1 and 3.
        let (macro_f1, weighted) = f1(&[0, 1, 2, 2, 2], &[0, 0, 2, 2, 1]);
        assert!((macro_f1 - (2.0 / 3.0 + 0.0 + 0.8) / 3.0).abs() < 1e-12);
        assert!((weighted - (2.0 / 3.0 + 3.0 * 0.8) / 5.0).abs() < 1e-12);
    }

    /// Positions of a language model have a perplexity, and no F1 over tens of thousands of tokens.
    #[test]
    fn language_models_have_their_own() {
        let mut meter = Meter::new(true);
        let logits = Tensor::arange(8, (Kind::Float, Device::Cpu)).view([1, 8]);
        meter.add(&logits, Some(&Tensor::from_slice(&[6i64])), None);
        let found = meter.finish();
        assert_eq!((found.f1, found.accuracy_top5, found.accuracy), (None, Some(1.0), Some(0.0)));
        assert!((found.perplexity.unwrap().ln() - found.cross_entropy.unwrap()).abs() < 1e-12);
    }

    #[test]
    fn every_measure_is_found_by_its_name() {
        let named = |at: usize| Some(at as f64);
        let found = Evaluation {
            samples: 1,
            perplexity: named(0),
            accuracy: named(1),
            agreement: named(2),
            kl: named(3),
            cross_entropy: named(4),
            acceptance: named(5),
            calibration_error: named(6),
            accuracy_top5: named(7),
            f1: named(8),
            f1_weighted: named(9),
            loss: named(10),
            of_commands: [("auc".to_owned(), 11.0)].into(),
        };
        for (at, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(found.get(metric.as_str()), named(at), "{metric:?}");
        }
        assert_eq!((found.get("auc"), found.get("acu")), (Some(11.0), None));
        assert_eq!(found.each().count(), 12);
        // A line of metrics.jsonl gives back what was measured, the commands' measures among the others.
        let line = serde_json::to_value(&found).unwrap();
        assert_eq!((&line["auc"], &line["f1"]), (&11.0.into(), &8.0.into()));
        assert_eq!(serde_json::from_value::<Evaluation>(line).unwrap(), found);
    }
}
