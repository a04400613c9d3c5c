//! Sampled targets: classes drawn with replacement from the softmax.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::selector::NonFinite;
use crate::floats::Floats;
use crate::ids::Position;
use crate::target::{Draws, TargetBatch};
use crate::vectors::{all_finite, exp_non_positive};

/// Classes whose weights are summed before any of them is looked at alone.
const BLOCK: usize = 512;

/// Draws classes from `softmax(z / T)`, with replacement.
///
/// What is drawn for a position depends on its identity and on the seed, and on nothing else: neither on
/// batches, nor on threads, nor on what was drawn before.
///
/// Inverse-transform sampling: uniform numbers of 53 bits from ChaCha8, against cumulative weights
/// `exp((z − z_max) / T)` that are single precision (off by less than 2e−5 of their value: three roundings of an
/// exponent of up to 87) and summed in double precision in the order of the classes.
#[derive(Clone, Debug)]
pub struct Sampler {
    classes: usize,
    draws: Draws,
    seed: u64,
}

/// What a thread reuses from row to row.
#[derive(Default)]
struct Scratch {
    weights: Vec<f32>,
    blocks: Vec<f64>,
    points: Vec<f64>,
    /// Class and how often it was drawn.
    drawn: Vec<(u32, u16)>,
}

impl Sampler {
    /// Draws from `classes` classes with `seed`.
    pub fn new(classes: usize, draws: Draws, seed: u64) -> Self {
        Self { classes, draws, seed }
    }

    /// Classes of the largest head that can come of it.
    pub fn largest(&self) -> usize {
        usize::from(self.draws.number()).min(self.classes)
    }

    /// A head of the distinct classes drawn for each row, the most frequent first, equally frequent ones by
    /// their ids; its logits are `T · ln(c / c₁)`, so that a softmax at T says how often each was drawn.
    ///
    /// # Shapes
    /// `logits`: `[rows, classes]`, raw, of any type of floats; `keys`: `[rows]`. No curves, heads that differ in size.
    ///
    /// # Errors
    /// [`NonFinite`]: the first logit, in row order, that is NaN or infinite.
    ///
    /// # Panics
    /// When `logits` and `keys` are of different numbers of rows.
    pub fn draw<'a>(
        &self,
        logits: impl Into<Floats<'a>>,
        keys: &[Position],
    ) -> Result<TargetBatch, NonFinite> {
        let logits = logits.into();
        assert_eq!(logits.len(), keys.len() * self.classes, "a key for each row of logits");
        let k = self.largest();
        let mut batch = TargetBatch::zeroed(keys.len(), k, 0);
        batch.vary();
        let failed = (0..keys.len())
            .into_par_iter()
            .zip(keys)
            .zip(batch.ids.par_chunks_mut(k))
            .zip(batch.values.par_chunks_mut(k))
            .zip(&mut batch.counts)
            .map_init(
                <(Vec<f32>, Scratch)>::default,
                |(wide, scratch), ((((row, key), ids), values), count)| {
                    let row = logits.row(row, self.classes).widened(wide);
                    if !all_finite(row) {
                        return false;
                    }
                    self.draw_row(row, *key, scratch);
                    let drawn = &scratch.drawn;
                    ids.iter_mut().zip(drawn).for_each(|(id, (class, _))| *id = *class);
                    *count = drawn.len() as u16;
                    // Falling and summing to all draws, as they are made.
                    self.draws
                        .logits(drawn.iter().map(|(_, times)| *times), &mut values[..drawn.len()])
                        .is_ok()
                },
            )
            .enumerate()
            .find_first(|(_, sound)| !sound);
        match failed {
            None => {
                batch.pad();
                Ok(batch)
            }
            Some((row, _)) => Err(NonFinite::in_row(row, logits.row(row, self.classes))),
        }
    }

    /// Leaves in `scratch.drawn` what is drawn for one row.
    fn draw_row(&self, row: &[f32], key: Position, scratch: &mut Scratch) {
        let Scratch { weights, blocks, points, drawn } = scratch;
        let z_max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let beta = self.draws.temperature().beta() as f32;
        weights.clear();
        weights.extend(row.iter().map(|z| exp_non_positive((z - z_max) * beta)));
        blocks.clear();
        blocks.extend(weights.chunks(BLOCK).map(|block| block.iter().map(|w| f64::from(*w)).sum::<f64>()));
        let all: f64 = blocks.iter().sum();
        let mut random = ChaCha8Rng::from_seed(seed(self.seed, key));
        points.clear();
        points.extend((0..self.draws.number()).map(|_| uniform(&mut random) * all));
        points.sort_unstable_by(f64::total_cmp);
        drawn.clear();
        let (mut block, mut before) = (0, 0.0);
        let (mut class, mut reached) = (0, 0.0);
        for point in points.iter() {
            while block + 1 < blocks.len() && *point >= before + blocks[block] {
                before += blocks[block];
                block += 1;
                (class, reached) = (block * BLOCK, before);
            }
            // The last class of a block is its end, whatever rounding says.
            let last = ((block + 1) * BLOCK).min(weights.len()) - 1;
            while class < last && *point >= reached + f64::from(weights[class]) {
                reached += f64::from(weights[class]);
                class += 1;
            }
            match drawn.last_mut() {
                Some((same, times)) if *same as usize == class => *times += 1,
                _ => drawn.push((class as u32, 1)),
            }
        }
        drawn.sort_unstable_by_key(|(class, times)| (std::cmp::Reverse(*times), *class));
    }
}

/// The generator's key: who is drawn for, as it is.
fn seed(seed: u64, key: Position) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&key.row.sample.0.to_le_bytes());
    bytes[16..18].copy_from_slice(&key.row.view.to_le_bytes());
    bytes[18..22].copy_from_slice(&key.position.to_le_bytes());
    bytes
}

/// Uniform in `[0, 1)`, 53 bits.
fn uniform(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 * (0.5f64).powi(53)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{SampleId, SampleView};

    fn key(sample: u64) -> Position {
        Position { row: SampleView { sample: SampleId(sample), view: 0 }, position: 0 }
    }

    fn sampler(classes: usize, draws: u16, temperature: f64) -> Sampler {
        Sampler::new(classes, Draws::new(draws, temperature).unwrap(), 9)
    }

    /// Counts by class of the first row.
    fn counts(batch: &TargetBatch, draws: &Draws, row: usize) -> Vec<(u32, u16)> {
        let (ids, values, _) = batch.row(row);
        ids.iter().copied().zip(draws.counts(values)).collect()
    }

    fn softmax(z: &[f32], t: f64) -> Vec<f64> {
        let max = z.iter().copied().fold(f32::MIN, f32::max);
        let e: Vec<f64> = z.iter().map(|z| (f64::from(z - max) / t).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|e| e / sum).collect()
    }

    /// The same draws by definition: each point against cumulative probabilities in `f64`.
    fn slow(z: &[f32], t: f64, draws: u16, key: Position, seed_of: u64) -> Vec<u32> {
        let p = softmax(z, t);
        let mut random = ChaCha8Rng::from_seed(seed(seed_of, key));
        let mut found = vec![0u32; z.len()];
        for _ in 0..draws {
            let (u, mut sum) = (uniform(&mut random), 0.0);
            let class = p.iter().position(|p| {
                sum += p;
                u < sum
            });
            found[class.unwrap_or(z.len() - 1)] += 1;
        }
        found
    }

    proptest! {
        #[test]
        fn agrees_with_the_slow_reference(
            z in proptest::collection::vec(-12.0f32..12.0, 1..1500),
            t in 0.5f64..4.0, draws in 1u16..200, sample: u64, position: u32,
        ) {
            let key = Position { row: SampleView { sample: SampleId(sample), view: 3 }, position };
            let sampler = sampler(z.len(), draws, t);
            let batch = sampler.draw(&z, &[key]).unwrap();
            let found = counts(&batch, &sampler.draws, 0);
            prop_assert_eq!(found.iter().map(|(_, n)| u32::from(*n)).sum::<u32>(), u32::from(draws));
            let order = |a: &(u32, u16), b: &(u32, u16)| (std::cmp::Reverse(a.1), a.0) < (std::cmp::Reverse(b.1), b.0);
            prop_assert!(found.windows(2).all(|pair| order(&pair[0], &pair[1])));
            let slow = slow(&z, t, draws, key, 9);
            // A point that lies within single precision of a border may fall to either side.
            let off: u32 = slow.iter().enumerate().map(|(class, n)| {
                let ours = found.iter().find(|(id, _)| *id as usize == class).map_or(0, |(_, n)| u32::from(*n));
                ours.abs_diff(*n)
            }).sum();
            prop_assert!(off <= 2, "{off} draws differ");
        }
    }

    /// Pearson's chi-square over 40 classes and 200,000 draws: 39 degrees of freedom exceed 100 less than
    /// once in a million times; the seed is fixed.
    #[test]
    fn every_class_is_drawn_as_often_as_it_is_probable() {
        let z: Vec<f32> = (0..40).map(|class| ((class * 7) % 11) as f32 / 3.0).collect();
        for t in [1.0, 2.0] {
            let sampler = sampler(40, 50, t);
            let keys: Vec<Position> = (0..4000).map(key).collect();
            let batch = sampler.draw(&z.repeat(4000), &keys).unwrap();
            let mut seen = [0.0; 40];
            for row in 0..4000 {
                counts(&batch, &sampler.draws, row)
                    .iter()
                    .for_each(|(id, n)| seen[*id as usize] += f64::from(*n));
            }
            let expected = softmax(&z, t);
            let chi: f64 = seen.iter().zip(&expected).map(|(o, p)| (o - p * 2e5).powi(2) / (p * 2e5)).sum();
            assert!(chi < 100.0, "T = {t}: {chi}");
        }
    }

    #[test]
    fn batches_and_threads_change_nothing() {
        let z: Vec<f32> = (0..64 * 700).map(|at| ((at * 7919) % 1009) as f32 / 100.0).collect();
        let keys: Vec<Position> =
            (0..64).map(|at| Position { position: at as u32 % 8, ..key(at / 8) }).collect();
        let sampler = sampler(700, 20, 1.0);
        let whole = sampler.draw(&z, &keys).unwrap();
        let mut parts = TargetBatch::default();
        for (z, keys) in z.chunks(700 * 5).zip(keys.chunks(5)) {
            parts.extend(&sampler.draw(z, keys).unwrap());
        }
        assert_eq!(whole, parts);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(whole, pool.install(|| sampler.draw(&z, &keys).unwrap()));
        // Rows of the same logits are drawn for apart.
        let same = sampler.draw(&z[..700].repeat(2), &keys[..2]).unwrap();
        assert_ne!(same.row(0).0, same.row(1).0);
    }

    #[test]
    fn a_class_that_is_certain_is_all_that_is_drawn() {
        let mut z = vec![-200.0f32; 2000];
        z[1999] = 50.0;
        let batch = sampler(2000, 50, 1.0).draw(&z, &[key(1)]).unwrap();
        assert_eq!(batch.row(0), (&[1999][..], &[0.0][..], &[][..]));
        z[7] = f32::NAN;
        let error = sampler(2000, 50, 1.0).draw(&z, &[key(1)]).unwrap_err();
        assert_eq!((error.row, error.class), (0, 7));
    }
}
