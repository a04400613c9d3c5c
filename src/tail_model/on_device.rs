//! Tail codes where libtorch has the logits: the one product with all of them is made there.

use tch::Tensor;

use super::TailEncoder;
use crate::libtorch::{DeviceLogits, to_host};
use crate::select::SelectedRows;
use crate::target::TargetBatch;

/// What a [`TailEncoder`] multiplies logits by, on a device.
pub struct EncoderOnDevice {
    /// `μ`: `[classes]`.
    mean: Tensor,
    /// `w_j (1, D_j)`: `[classes, 1 + rank]`.
    weighted: Tensor,
}

impl EncoderOnDevice {
    /// Brings what `encoder` needs to where `logits` are.
    pub fn new(encoder: &TailEncoder, logits: &DeviceLogits) -> Self {
        let device = logits.0.device();
        let columns = 1 + encoder.rank();
        let weighted: Vec<f32> = (0..encoder.mean().len())
            .flat_map(|class| (0..columns).map(move |at| encoder.weighted(class, at)))
            .collect();
        let size = [encoder.mean().len() as i64, columns as i64];
        Self {
            mean: Tensor::from_slice(encoder.mean()).to_device(device),
            weighted: Tensor::from_slice(&weighted).view(size).to_device(device),
        }
    }

    /// `Σ_{j∉H} w_j (1, D_j) (z_j − z_max − μ_j)` of each of `rows`: `[rows, 1 + rank]`, on their device.
    pub fn products(&self, rows: SelectedRows<'_>) -> Tensor {
        tch::no_grad(|| {
            let mut x = rows.logits - rows.largest;
            x -= &self.mean;
            x.scatter_value_(-1, rows.heads, 0.0).matmul(&self.weighted)
        })
    }
}

impl TailEncoder {
    /// Gives every position of `batch` its code, as [`Self::encode`] does but for the last bits of sums, from what
    /// [`EncoderOnDevice::products`] gave of its rows, part after part.
    ///
    /// # Panics
    /// When the shapes disagree.
    pub fn encode_products(&self, products: &[Tensor], batch: &mut TargetBatch) {
        let all: Vec<f32> = products.iter().flat_map(to_host).collect();
        self.encode_from(&all, batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::of_tests;
    use crate::select::Selector;
    use crate::target::TailNodes;

    #[test]
    fn codes_are_those_of_the_cpu() {
        let (rows, classes, rank) = (40, 500, 3);
        let noise = crate::permutation::Permutation::new(1 << 20, 9, 0);
        let number = |i: usize| noise.at(i as u64 % (1 << 20)) as f32 / (1 << 20) as f32;
        let logits: Vec<f32> = (0..rows * classes).map(|i| number(i) * 16.0 - 3.0).collect();
        let mean = (0..classes).map(|i| number(i + 77) - 9.0).collect();
        let weights = (0..classes).map(|i| number(i + 999)).collect();
        let basis: Vec<f32> = (0..classes * rank).map(|i| (number(i + 5000) - 0.5) / 10.0).collect();
        let encoder = TailEncoder::new(rank, mean, weights, &basis).unwrap();
        let selector = Selector::new(classes, 12, &TailNodes::default()).unwrap();
        let mut wanted = selector.select(&logits).unwrap();
        encoder.encode(&logits, &mut wanted);
        let tensor = Tensor::from_slice(&logits).view([rows as i64, -1]).to_device(of_tests());
        let there = EncoderOnDevice::new(&encoder, &DeviceLogits(tensor.shallow_clone()));
        let mut products = Vec::new();
        let mut found =
            selector.select_on_device(&tensor, |rows| products.push(there.products(rows))).unwrap();
        encoder.encode_products(&products, &mut found);
        assert_eq!((found.rank, found.codes.len()), (rank, rows * rank));
        // A number between two codes may become either.
        let off = found.codes.iter().zip(&wanted.codes).map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs());
        let off: Vec<i32> = off.collect();
        assert!(off.iter().all(|off| *off <= 1) && off.iter().sum::<i32>() <= 2, "{off:?}");
        assert!(found.codes.iter().any(|code| code.abs() > 3));
    }
}
