//! Who was taken for whom, as far as F1 asks.

use tch::{Device, Kind, Tensor};

/// Counts by class, on the device: of hits, of predictions, of labels.
#[derive(Debug)]
pub(super) struct Confusion {
    /// `[3, classes]`, whole numbers.
    counts: Tensor,
}

impl Confusion {
    pub(super) fn new(classes: i64, device: Device) -> Self {
        Self { counts: Tensor::zeros([3, classes], (Kind::Double, device)) }
    }

    /// Adds a batch.
    ///
    /// # Shapes
    /// Both `[batch]`, int64; samples with a negative label do not count.
    pub(super) fn add(&mut self, predicted: &Tensor, labels: &Tensor) {
        let there = labels.ge(0).to_kind(Kind::Double);
        let hits = predicted.eq_tensor(labels).to_kind(Kind::Double);
        let rows = [(predicted, &hits), (predicted, &there), (&labels.clamp_min(0), &there)];
        for (row, (classes, ones)) in rows.into_iter().enumerate() {
            drop(self.counts.get(row as i64).index_add_(0, classes, ones));
        }
    }

    /// Macro and weighted F1: a class without a label and without a prediction counts in neither, one that is never
    /// right counts as 0.
    pub(super) fn f1(&self) -> (f64, f64) {
        let [hits, predicted, there] = [0, 1, 2].map(|row| self.counts.get(row));
        let both = &predicted + &there;
        let f1 = (hits * 2.0) / both.clamp_min(1.0);
        let sum = |of: Tensor| of.sum(Kind::Double).double_value(&[]);
        let (seen, labels) = (sum(both.gt(0.0)), sum(there.copy()));
        (sum(f1.copy()) / seen.max(1.0), sum(f1 * there) / labels.max(1.0))
    }
}
