//! Tail codes where libtorch has the logits: the one product with all of them is made there.

use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::TailEncoder;
use super::encoder::LOWEST;
use crate::libtorch::{DeviceLogits, Download, numbers};
use crate::select::Selected;

/// Columns of a matrix that a GPU multiplies by come in so many.
const COLUMNS: usize = 8;

/// A mean so far below a position's largest says that a teacher masks the class, if not always then in many positions.
const OF_MASKS: f32 = -1000.0;

/// What a [`TailEncoder`] multiplies logits by, on a device.
pub struct EncoderOnDevice {
    /// `w_j (1, D_j)` times a power of two for each column: `[classes, columns]`, of the logits' type. Half types have what
    /// their rounding leaves out in as many columns more.
    matrix: Tensor,
    /// Columns before those.
    columns: usize,
    /// Whether some classes are masked, so that logits have to be looked at before they are multiplied.
    masks: bool,
    /// Of each of `1 + rank` columns.
    of_column: Vec<Column>,
}

/// What [`EncoderOnDevice::product`] gives: `[rows, columns]`, on its way here.
pub struct Product(Download);

/// What a column says of logits that are all alike, and of the means.
struct Column {
    /// What the matrix has been multiplied by.
    scale: f64,
    /// `Σ_j w_j D_j`, as the matrix has them.
    sum: f64,
    /// `Σ_j w_j D_j μ_j`, likewise.
    of_mean: f64,
}

impl EncoderOnDevice {
    /// Brings what `encoder` needs to where `logits` are.
    pub fn new(encoder: &TailEncoder, logits: &DeviceLogits) -> Self {
        let (classes, columns) = (encoder.mean().len(), 1 + encoder.rank());
        let padded = columns.next_multiple_of(COLUMNS);
        let device = logits.tensor().device();
        // Products of half types in single precision are there for GPUs alone.
        let kind = match logits.tensor().kind() {
            half @ (Kind::Half | Kind::BFloat16) if device.is_cuda() => half,
            _ => Kind::Float,
        };
        let largest = |at| (0..classes).map(|class| encoder.weighted(class, at).abs()).fold(0.0f32, f32::max);
        // So that no half type is without range for them.
        let power =
            |largest: f32| if largest > 0.0 { (-f64::from(largest).log2().floor()).exp2() } else { 1.0 };
        let scales: Vec<f64> = (0..columns).map(|at| power(largest(at))).collect();
        let mut exact = vec![0.0f32; classes * padded];
        for (class, row) in exact.chunks_exact_mut(padded).enumerate() {
            for (at, (number, scale)) in row.iter_mut().zip(&scales).enumerate() {
                *number = (f64::from(encoder.weighted(class, at)) * scale) as f32;
            }
        }
        let exact = Tensor::from_slice(&exact).view([classes as i64, padded as i64]);
        let (matrix, kept) = if kind == Kind::Float {
            (exact.shallow_clone(), exact)
        } else {
            let upper = exact.to_kind(kind);
            let lower = (&exact - upper.to_kind(Kind::Float)).to_kind(kind);
            let kept = upper.to_kind(Kind::Float) + lower.to_kind(Kind::Float);
            (Tensor::cat(&[upper, lower], 1), kept)
        };
        let kept: Vec<f32> = numbers(&kept, Kind::Float);
        let column = |(at, scale): (usize, f64)| {
            let of_classes = || kept.chunks_exact(padded).map(|row| f64::from(row[at]) / scale);
            let of_mean = of_classes().zip(encoder.mean()).map(|(w, mean)| w * f64::from(*mean)).sum();
            Column { scale, sum: of_classes().sum(), of_mean }
        };
        let of_column = scales.into_iter().enumerate().map(column).collect();
        let masks = encoder.mean().iter().any(|mean| *mean < OF_MASKS);
        Self { matrix: matrix.to_device(device), columns: padded, masks, of_column }
    }

    /// The product with all logits of each row. Not waited for.
    pub fn product(&self, logits: &DeviceLogits) -> Product {
        let product = tch::no_grad(|| {
            let logits =
                if self.masks { above_lowest(logits.tensor()) } else { logits.tensor().shallow_clone() };
            if self.matrix.kind() == Kind::Float {
                return logits.to_kind(Kind::Float).matmul(&self.matrix);
            }
            let both = logits.to_kind(self.matrix.kind()).mm_dtype(&self.matrix, Kind::Float);
            let columns = self.columns as i64;
            both.narrow(1, 0, columns) + both.narrow(1, columns, columns)
        });
        Product(Download::begin(&product, Kind::Float))
    }
}

/// Logits, and in place of those that lie further below their row's largest what counts for them.
fn above_lowest(logits: &Tensor) -> Tensor {
    let lowest = logits.amax([-1i64].as_slice(), true).to_kind(Kind::Float) + f64::from(LOWEST);
    logits.to_kind(Kind::Float).maximum(&lowest)
}

impl TailEncoder {
    /// Gives every position of what was `selected` its code, as [`Self::encode`] does but for the last bits of sums, from what
    /// [`EncoderOnDevice::product`] gave of its rows. Waits for that.
    ///
    /// # Panics
    /// When the shapes disagree.
    pub fn encode_product(&self, there: &EncoderOnDevice, product: Product, selected: &mut Selected) {
        let all = product.0.numbers::<f32>();
        let all = all.as_slice();
        let Selected { targets, largest } = selected;
        assert_eq!(all.len(), targets.rows * there.columns, "a product of another shape");
        let of_column = &there.of_column;
        let mut products = vec![0.0; targets.rows * of_column.len()];
        let rows = products.par_chunks_exact_mut(of_column.len()).zip(all.par_chunks_exact(there.columns));
        rows.zip(&*largest).enumerate().for_each(|(row, ((products, sums), largest))| {
            let (ids, values, _) = targets.row(row);
            for (at, ((product, sum), column)) in products.iter_mut().zip(sums).zip(of_column).enumerate() {
                let mut exact =
                    f64::from(*sum) / column.scale - f64::from(*largest) * column.sum - column.of_mean;
                for (id, value) in ids.iter().zip(values) {
                    let class = *id as usize;
                    let x = f64::from(*value) - f64::from(self.mean()[class]);
                    exact -= f64::from(self.weighted(class, at)) * x;
                }
                *product = exact as f32;
            }
        });
        self.encode_from(&products, targets);
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
        // As far from 0 as some language models have them.
        let logits: Vec<f32> = (0..rows * classes).map(|i| number(i) * 16.0 - 103.0).collect();
        let mean = (0..classes).map(|i| number(i + 77) - 9.0).collect();
        let weights = (0..classes).map(|i| number(i + 999) * 1e-6).collect();
        let basis: Vec<f32> = (0..classes * rank).map(|i| (number(i + 5000) - 0.5) / 10.0).collect();
        let encoder = TailEncoder::new(rank, mean, weights, &basis).unwrap();
        let selector = Selector::new(classes, 12, &TailNodes::default()).unwrap();
        let selector = selector.with_mass(Some(0.9)).unwrap();
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            let tensor =
                Tensor::from_slice(&logits).view([rows as i64, -1]).to_kind(kind).to_device(of_tests());
            let rounded: Vec<f32> = numbers(&tensor, Kind::Float);
            let mut wanted = selector.select(&rounded).unwrap();
            encoder.encode(&rounded, &mut wanted);
            let logits = DeviceLogits::new(tensor);
            let there = EncoderOnDevice::new(&encoder, &logits);
            let product = there.product(&logits);
            let mut found = selector.select_on_device(logits.tensor()).unwrap();
            encoder.encode_product(&there, product, &mut found);
            let found = found.targets;
            assert_eq!((found.rank, found.codes.len(), &found.counts), (rank, rows * rank, &wanted.counts));
            // A number between two codes may become either.
            let off =
                found.codes.iter().zip(&wanted.codes).map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs());
            let off: Vec<i32> = off.collect();
            assert!(off.iter().all(|off| *off <= 1) && off.iter().sum::<i32>() <= 4, "{kind:?} {off:?}");
            assert!(found.codes.iter().any(|code| code.abs() > 3));
        }
    }

    #[test]
    fn what_is_masked_is_as_on_the_cpu() {
        let (rows, classes, rank) = (8, 200, 2);
        let noise = |at: usize| (at * 7919 % 1000) as f32 / 500.0 - 1.0;
        let masked = |class: usize| class >= 190;
        let mean = (0..classes).map(|class| if masked(class) { LOWEST } else { noise(class) }).collect();
        let weights = (0..classes).map(|class| if masked(class) { 1e-12 } else { 1.0 }).collect();
        let basis: Vec<f32> = (0..classes * rank).map(|at| noise(at + 31) / 10.0).collect();
        let encoder = TailEncoder::new(rank, mean, weights, &basis).unwrap();
        let selector = Selector::new(classes, 5, &TailNodes::default()).unwrap();
        for mask in [-1e9, f32::MIN] {
            let of = |at: usize| if masked(at % classes) { mask } else { 40.0 * noise(at * 3 + 1) };
            let logits: Vec<f32> = (0..rows * classes).map(of).collect();
            let mut wanted = selector.select(&logits).unwrap();
            encoder.encode(&logits, &mut wanted);
            let there =
                DeviceLogits::new(Tensor::from_slice(&logits).view([rows as i64, -1]).to_device(of_tests()));
            let on_device = EncoderOnDevice::new(&encoder, &there);
            let product = on_device.product(&there);
            let mut found = selector.select_on_device(there.tensor()).unwrap();
            encoder.encode_product(&on_device, product, &mut found);
            let off = |(a, b): (&i8, &i8)| (i32::from(*a) - i32::from(*b)).abs();
            assert!(found.targets.codes.iter().zip(&wanted.codes).map(off).all(|off| off <= 1), "{mask}");
            assert!(wanted.codes.iter().any(|code| code.abs() < 127));
        }
    }
}
