//! Numbers of half precision on their way into a batch: rows are copied as they are, and all of them widened at once, because
//! a row has too few for vectors.

use half::f16;

use crate::target::TargetBatch;
use crate::vectors::widen;

/// Logits and curves of a batch's positions, each in its place; none where they are no halves.
#[derive(Debug, Default)]
pub(super) struct Halves {
    pub(super) values: Vec<f16>,
    pub(super) curve: Vec<f16>,
}

impl Halves {
    /// Room for the numbers of `batch`.
    pub(super) fn of(batch: &TargetBatch) -> Self {
        Self { values: vec![f16::ZERO; batch.values.len()], curve: vec![f16::ZERO; batch.curve.len()] }
    }

    /// Fills `batch`, for which room was made, with what was copied.
    pub(super) fn widen_into(&self, batch: &mut TargetBatch) {
        if !self.values.is_empty() {
            widen(&self.values, &[], &mut batch.values);
            widen(&self.curve, &[], &mut batch.curve);
        }
    }
}
