//! Sums of exponentials over a row at the nodes of the tail curve, and what of the row is too large for them.

use pulp::Simd;

use super::keys::key;
use crate::mapped::fetch;
use crate::target::TailNodes;
use crate::vectors::{ABREAST, BLOCK, Exp2, LANES, ROUND, TILE, all_finite, lanes_of};

/// Multiples of the first node that the default nodes are.
const MULTIPLES: [f64; 5] = [1.0, 2.0, 4.0, 6.0, 8.0];

/// Up to here a reference's product with a node of 1 is a whole number that can be added to [`ROUND`].
const LARGEST_REFERENCE: f32 = 1_048_576.0;

/// Fills up a last tile: far below every reference, and not so far that a row's sum would be infinite for it.
const FILLING: f32 = -1e30;

/// `Σ exp(β (z − reference))` at every node `β`.
///
/// One exponential serves all nodes where these are 1, 2, 4, 6 and 8 times the first, as the default ones are.
/// Multiplications and additions are fused and sums have sixteen lanes on every machine, so that results are the same
/// to the bit whatever its registers; a machine without fused arithmetic emulates it, which is slow. (A few exponentials
/// and logarithms a row are the system's, whose last bits differ between C libraries.) A sum is off by less than 3e−6 of
/// itself (held to double precision in the tests).
#[derive(Clone, Debug)]
pub(super) struct NodeSums {
    nodes: Vec<f64>,
    /// Whether they are [`MULTIPLES`] of the first.
    multiples: bool,
    /// The largest reference, above 0 or below, relative to which sums may be asked for.
    reach: f32,
}

impl NodeSums {
    pub(super) fn new(nodes: &TailNodes) -> Self {
        let nodes = nodes.as_slice().to_vec();
        let multiples = nodes.len() == MULTIPLES.len()
            && nodes.iter().zip(MULTIPLES).all(|(node, m)| (node / nodes[0] - m).abs() < 1e-12);
        let largest = nodes.iter().fold(1.0f64, |largest, node| largest.max(*node));
        Self { nodes, multiples, reach: LARGEST_REFERENCE / largest as f32 }
    }

    /// Whether the nodes are [`MULTIPLES`] of the first.
    #[cfg(feature = "torch")]
    pub(super) fn are_multiples(&self) -> bool {
        self.multiples
    }

    /// Whether sums relative to `reference` may be asked for.
    pub(super) fn reaches(&self, reference: f32) -> bool {
        reference.abs() <= self.reach
    }

    /// Collects the keys of those of `row` that reach `reference`, by rising id, and sums over all others. `false`,
    /// with nothing of use, where a value is not finite. As much of `ahead` is asked for meanwhile.
    #[inline(always)]
    pub(super) fn below<S: Simd>(
        &self,
        simd: S,
        row: &[f32],
        ahead: &[f32],
        reference: f32,
        keys: &mut Vec<i64>,
        sums: &mut [f64],
    ) -> bool {
        if self.multiples {
            let scaled = Scaled::new(self.nodes[0], reference);
            let mut five = [0.0; 5];
            keys.clear();
            let sound = pass::<S, Five, 5>(simd, row, ahead, scaled, reference, keys, &mut five);
            let factors = powers(-scaled.rounded_up(reference) * std::f64::consts::LN_2);
            sums.iter_mut().zip(five).zip(factors).for_each(|((sum, five), factor)| *sum = five * factor);
            return sound;
        }
        let mut sound = true;
        for (sum, node) in sums.iter_mut().zip(&self.nodes) {
            let scaled = Scaled::new(*node, reference);
            let mut one = [0.0];
            keys.clear();
            sound = pass::<S, One, 1>(simd, row, ahead, scaled, reference, keys, &mut one);
            *sum = one[0] * (-scaled.rounded_up(reference)).exp2();
        }
        sound
    }

    /// The sums over `values`, finite and none above `reference`. `keys` is overwritten.
    #[inline(always)]
    pub(super) fn over<S: Simd>(
        &self,
        simd: S,
        values: &[f32],
        reference: f32,
        keys: &mut Vec<i64>,
        sums: &mut [f64],
    ) {
        self.below(simd, values, &[], reference, keys, sums);
        // Those that are equal to it.
        sums.iter_mut().for_each(|sum| *sum += keys.len() as f64);
    }

    /// The sums over `values` as their definition says, for references that are not reached otherwise.
    pub(super) fn exactly(&self, values: &[f32], reference: f32, sums: &mut [f64]) {
        for (sum, node) in sums.iter_mut().zip(&self.nodes) {
            *sum = values.iter().map(|z| (node * (f64::from(*z) - f64::from(reference))).exp()).sum();
        }
    }

    /// Adds to `sums`, relative to one reference, those in `lower`, relative to one that is by `less` below.
    pub(super) fn add_lower(&self, less: f64, lower: &[f64], sums: &mut [f64]) {
        if self.multiples {
            let factors = powers(self.nodes[0] * less);
            sums.iter_mut().zip(lower).zip(factors).for_each(|((sum, lower), factor)| *sum += lower * factor);
        } else {
            for ((sum, lower), node) in sums.iter_mut().zip(lower).zip(&self.nodes) {
                *sum += lower * (node * less).exp();
            }
        }
    }
}

/// `exp(x)` to the powers of [`MULTIPLES`].
fn powers(x: f64) -> [f64; 5] {
    let e = x.exp();
    let (e2, e4) = (e * e, e * e * e * e);
    [e, e2, e4, e4 * e2, e4 * e4]
}

/// `t = z · scale + offset`, `2^t` being `exp(β (z − reference))` but for a factor.
#[derive(Clone, Copy)]
struct Scaled {
    scale: f32,
    /// A whole number, so that `t` has the rest that `z · scale` has.
    offset: f32,
}

impl Scaled {
    fn new(node: f64, reference: f32) -> Self {
        let scale = (node * std::f64::consts::LOG2_E) as f32;
        // Never below, so that the factor that makes up for it is never above 1.
        let offset = (-f64::from(reference) * f64::from(scale)).ceil() as f32;
        Self { scale, offset }
    }

    /// By how much `t` is too large for rounding the offset up: less than 1.
    fn rounded_up(self, reference: f32) -> f64 {
        f64::from(self.offset) + f64::from(reference) * f64::from(self.scale)
    }
}

/// `2^t` of values below a reference in vectors.
#[derive(Clone, Copy)]
struct Relative<S: Simd> {
    lowest: S::f32s,
    scale: S::f32s,
    /// The offset and [`ROUND`].
    offset: S::f32s,
    exp2: Exp2<S>,
}

impl<S: Simd> Relative<S> {
    #[inline(always)]
    fn new(simd: S, scaled: Scaled) -> Self {
        let Scaled { scale, offset } = scaled;
        Self {
            // Of what lies below, 2^−125 is as good.
            lowest: simd.splat_f32s((-125.0 - offset) / scale),
            scale: simd.splat_f32s(scale),
            offset: simd.splat_f32s(ROUND + offset),
            exp2: Exp2::new(simd),
        }
    }

    #[inline(always)]
    fn of(&self, simd: S, z: [S::f32s; ABREAST]) -> [S::f32s; ABREAST] {
        let (mut whole, mut rest) = (z, z);
        for ((z, whole), rest) in z.into_iter().zip(&mut whole).zip(&mut rest) {
            let z = simd.max_f32s(z, self.lowest);
            *whole = simd.mul_add_f32s(z, self.scale, self.offset);
            *rest = simd.mul_add_f32s(z, self.scale, simd.sub_f32s(self.offset, *whole));
        }
        self.exp2.of_parts(simd, whole, rest)
    }
}

/// What is added up of an exponential.
trait Powers<const N: usize> {
    fn add<S: Simd>(simd: S, e: S::f32s, sums: &mut [S::f32s; N]);
}

/// Itself.
struct One;

impl Powers<1> for One {
    #[inline(always)]
    fn add<S: Simd>(simd: S, e: S::f32s, sums: &mut [S::f32s; 1]) {
        sums[0] = simd.add_f32s(sums[0], e);
    }
}

/// Its powers by [`MULTIPLES`].
struct Five;

impl Powers<5> for Five {
    #[inline(always)]
    fn add<S: Simd>(simd: S, e: S::f32s, sums: &mut [S::f32s; 5]) {
        let e2 = simd.mul_f32s(e, e);
        let e4 = simd.mul_f32s(e2, e2);
        sums[0] = simd.add_f32s(sums[0], e);
        sums[1] = simd.add_f32s(sums[1], e2);
        sums[2] = simd.add_f32s(sums[2], e4);
        sums[3] = simd.mul_add_f32s(e4, e2, sums[3]);
        sums[4] = simd.mul_add_f32s(e4, e4, sums[4]);
    }
}

/// One pass over a row: keys of what reaches `limit`, the reference, put behind `keys` by rising id, and powers of `2^t` of
/// all others added to `sums`. Whether all values are finite. As much of `ahead` is asked for, tile by tile: all at once it
/// would be waited for.
#[inline(always)]
fn pass<S: Simd, P: Powers<N>, const N: usize>(
    simd: S,
    row: &[f32],
    ahead: &[f32],
    scaled: Scaled,
    limit: f32,
    keys: &mut Vec<i64>,
    sums: &mut [f64; N],
) -> bool {
    let exp = Relative::new(simd, scaled);
    let zero = simd.splat_f32s(0.0);
    let reached = simd.splat_f32s(limit);
    // Not finite where a value is not, or where they are that large.
    let mut all = zero;
    let parts = LANES / S::F32_LANES;
    let (whole, rest) = row.split_at(row.len() / TILE * TILE);
    let mut last = [FILLING; TILE];
    last[..rest.len()].copy_from_slice(rest);
    let last = if rest.is_empty() { &last[..0] } else { &last[..] };
    // A tile without what reaches the limit: beside its ones the others would be rounded away.
    let mut others = [0.0f32; TILE];
    let (mut first_id, known) = (0, keys.len());
    for block in whole.chunks(BLOCK).chain(std::iter::once(last)) {
        let mut lanes = [[0.0f32; LANES]; N];
        for (tile, values) in block.as_chunks::<TILE>().0.iter().enumerate() {
            let first = first_id + tile * TILE;
            if let Some(next) = ahead.get(first..first + TILE) {
                fetch(next);
            }
            let (vectors, _) = S::as_simd_f32s(values);
            let mut largest = vectors[0];
            for z in vectors {
                largest = simd.max_f32s(largest, *z);
                all = simd.add_f32s(*z, all);
            }
            let hits = simd.greater_than_or_equal_f32s(largest, reached);
            let vectors = if lanes_of(simd, hits) != 0 {
                collect(simd, values, first, reached, keys, &mut others);
                S::as_simd_f32s(&others).0
            } else {
                vectors
            };
            for part in 0..parts {
                let mut z = [zero; ABREAST];
                for (run, z) in z.iter_mut().enumerate() {
                    *z = vectors[run * parts + part];
                }
                let mut of_part = [zero; N];
                for (sum, lanes) in of_part.iter_mut().zip(&lanes) {
                    *sum = S::as_simd_f32s(lanes).0[part];
                }
                for e in exp.of(simd, z) {
                    P::add(simd, e, &mut of_part);
                }
                for (sum, lanes) in of_part.iter().zip(&mut lanes) {
                    S::as_mut_simd_f32s(lanes).0[part] = *sum;
                }
            }
        }
        for (sum, lanes) in sums.iter_mut().zip(&lanes) {
            *sum += f64::from(lanes.iter().sum::<f32>());
        }
        first_id += block.len();
    }
    // Of few, one after another, keys are made more quickly than of four in every tile.
    for found in &mut keys[known..] {
        *found = key(row[*found as usize], *found as u32);
    }
    let mut lanes = [0.0f32; LANES];
    S::as_mut_simd_f32s(&mut lanes).0[0] = all;
    lanes.iter().all(|sum| sum.is_finite()) || all_finite(row)
}

/// Puts the ids of those of `values` that reach `limit` behind `ids`; the first one has the id `first_id`. `others` are
/// the values with the least of all floats in their place.
#[inline(always)]
fn collect<S: Simd>(
    simd: S,
    values: &[f32; TILE],
    first_id: usize,
    limit: S::f32s,
    ids: &mut Vec<i64>,
    others: &mut [f32; TILE],
) {
    let least = simd.splat_f32s(f32::MIN);
    let vectors = S::as_simd_f32s(values).0.iter().zip(S::as_mut_simd_f32s(others).0);
    let mut hits = 0u64;
    for (start, (z, other)) in (0..).step_by(S::F32_LANES).zip(vectors) {
        let reached = simd.greater_than_or_equal_f32s(*z, limit);
        *other = simd.select_f32s(reached, least, *z);
        hits |= u64::from(lanes_of(simd, reached)) << start;
    }
    let (found, before) = (hits.count_ones() as usize, ids.len());
    let mut next = || {
        let at = hits.trailing_zeros() as usize;
        hits &= hits.wrapping_sub(1);
        (first_id + at) as i64
    };
    // How many there are is not to be guessed: so many are written, whether there are or not.
    ids.extend_from_slice(&[next(), next(), next(), next()]);
    ids.truncate(before + found);
    for _ in 4..found {
        ids.push(next());
    }
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::permutation::Permutation;
    use crate::vectors::with_widest;

    struct Below<'a>(&'a NodeSums, &'a [f32], f32);

    impl WithSimd for Below<'_> {
        type Output = Option<(Vec<i64>, Vec<f64>)>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self(node_sums, row, reference) = self;
            let (mut keys, mut sums) = (vec![7], vec![7.0; node_sums.nodes.len()]);
            node_sums.below(simd, row, &[], reference, &mut keys, &mut sums).then_some((keys, sums))
        }
    }

    #[test]
    fn sums_and_keys_are_as_documented() {
        let noise = Permutation::new(1 << 20, 3, 0);
        for nodes in [TailNodes::default(), TailNodes::try_from(vec![0.25, 1.0, 3.0]).unwrap()] {
            let node_sums = NodeSums::new(&nodes);
            for (len, spread, reference) in
                [(1, 1.0, 0.5), (63, 5.0, 4.0), (5000, 30.0, 29.5), (5000, 30.0, 2.0)]
            {
                for shift in [0.0, 77.7, -3000.0, 1e6] {
                    let row: Vec<f32> =
                        (0..len).map(|i| shift + spread * noise.at(i) as f32 / (1 << 20) as f32).collect();
                    let reference = shift + reference;
                    let (keys, sums) = with_widest(Below(&node_sums, &row, reference)).unwrap();
                    let reached = row.iter().zip(0..).filter(|(z, _)| **z >= reference);
                    assert_eq!(keys, reached.map(|(z, id)| key(*z, id)).collect::<Vec<_>>());
                    let below: Vec<f32> = row.iter().copied().filter(|z| *z < reference).collect();
                    let mut exact = vec![0.0; sums.len()];
                    node_sums.exactly(&below, reference, &mut exact);
                    for (sum, exact) in sums.iter().zip(&exact) {
                        // What has no part in it is 2^−125.
                        let allowed = 3e-6 * exact + 1e-30;
                        assert!(
                            (sum - exact).abs() < allowed,
                            "{sum} for {exact}, {shift} {len} {spread} {}",
                            keys.len()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_told() {
        let node_sums = NodeSums::new(&TailNodes::default());
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 63, 64, 99] {
                let mut row = [1.0f32; 100];
                row[at] = bad;
                assert_eq!(with_widest(Below(&node_sums, &row, 0.5)), None);
                assert_eq!(with_widest(Below(&node_sums, &row, 2.0)), None);
            }
        }
    }
}
