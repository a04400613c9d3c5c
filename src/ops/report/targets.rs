//! The decoded targets of a sample: mass kept, entropy, probability by rank, rank of the label.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::data::ReportError;
use super::spread::{Histogram, Spread};
use crate::cache::CacheReader;
use crate::ops::Progress;
use crate::target::{PositionTarget, TailHandling, TailModelAt, TargetBatch, Temperature};

/// Temperatures at which the kept mass is told, unless targets are of one only. None is below 1, which every
/// cache covers.
const KEPT_AT: [f64; 9] = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0];
/// Temperatures at which targets are looked at in full: the teacher's own, and one at which
/// students are often trained.
const SHAPES_AT: [f64; 2] = [1.0, 4.0];
/// Ranks of the head that are told one by one; what follows is told together.
const RANKS: usize = 16;
/// Positions looked at of a row of many: neighbours are alike.
const POSITIONS_OF_A_ROW: usize = 16;
/// Intervals of the histogram of entropies.
const INTERVALS: usize = 32;
/// Head values gathered at a time: what is held of the cache does not grow with sample or head.
const VALUES_AT_A_TIME: usize = 1 << 18;

/// Mass of the head's classes at one temperature.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct KeptMass {
    /// The temperature.
    pub temperature: f64,
    /// The mass, from 0 to 1, over the positions of the sample.
    pub kept: Spread,
}

/// What whole targets are like at one temperature.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TargetShape {
    /// The temperature.
    pub temperature: f64,
    /// Entropy of the whole target (head as kept, tail by the tail model), in nats.
    pub entropy: Spread,
    /// The same by interval, from 0 to the logarithm of the number of classes.
    pub entropy_histogram: Histogram,
    /// Probability of the head's first class, its second, and so on; of the first 16 at most.
    pub ranks: Vec<Spread>,
    /// Mean mass of the head's further classes together.
    pub further_ranks: f64,
    /// Mean mass of the classes outside the head together.
    pub tail: f64,
}

/// Where labels stand in the head.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LabelRanks {
    /// Labels that are the head's first class, its second, and so on; of the first 16 at most.
    pub ranks: Vec<u64>,
    /// Labels among the head's further classes.
    pub further_ranks: u64,
    /// Labels outside the head.
    pub outside: u64,
}

/// What is told of a sample of positions.
pub(super) struct Told {
    /// How many they were.
    pub(super) positions: u64,
    pub(super) kept_mass: Vec<KeptMass>,
    pub(super) shapes: Vec<TargetShape>,
    pub(super) labels: Option<LabelRanks>,
}

/// Reads `rows`, of which there is at least one.
pub(super) fn tell(reader: &CacheReader, rows: &[u64], progress: &dyn Progress) -> Result<Told, ReportError> {
    let k = reader.manifest().head.k;
    let kept_at = reader.manifest().temperatures(&KEPT_AT);
    let mut kept = vec![Vec::with_capacity(rows.len()); kept_at.len()];
    let shapes_at = reader.manifest().temperatures(&SHAPES_AT).into_iter();
    let mut shapes: Vec<Shape<'_>> = shapes_at.map(|temperature| Shape::new(reader, temperature)).collect();
    let mut labels: Option<LabelRanks> = None;
    let mut targets = TargetBatch::default();
    let mut looked_at = 0;
    let per_row = k.saturating_mul(reader.manifest().longest_row());
    let at_a_time = (VALUES_AT_A_TIME / per_row).max(1);
    for (reader, rows) in reader.by_shard(rows) {
        for rows in rows.chunks(at_a_time) {
            reader.gather(rows, &mut targets)?;
            let gathered = rows.len() as u64;
            let rows = thin_out(&reader, rows, &mut targets)?;
            let target = |at: usize| {
                let (ids, values, curve) = targets.row(at);
                let manifest = reader.manifest();
                PositionTarget { classes: manifest.classes, ids, values, nodes: &manifest.tail.nodes, curve }
            };
            for (temperature, kept) in kept_at.iter().zip(&mut kept) {
                let mass = |at: usize| target(at).decode(*temperature).probabilities.iter().sum::<f64>();
                let masses: Vec<f64> = (0..rows.len()).into_par_iter().map(mass).collect();
                if let Some(at) = masses.iter().position(|mass| !mass.is_finite()) {
                    return Err(no_distribution(&reader, rows[at], *temperature));
                }
                kept.extend(masses);
            }
            for shape in &mut shapes {
                let looks: Vec<Look> = (0..rows.len())
                    .into_par_iter()
                    .map(|at| shape.look(target(at), targets.code(at)))
                    .collect();
                if let Some(at) = looks.iter().position(|look| !look.is_of_a_distribution()) {
                    return Err(no_distribution(&reader, rows[at], shape.temperature));
                }
                looks.into_iter().for_each(|look| shape.add(look));
            }
            looked_at += rows.len() as u64;
            for (at, row) in rows.iter().enumerate() {
                if let Some(label) = reader.label(*row)? {
                    labels.get_or_insert_with(|| LabelRanks::new(k)).add(label, targets.row(at).0);
                }
            }
            progress.advance(gathered);
        }
    }
    let kept_mass = kept_at.iter().zip(&kept).filter_map(|(temperature, kept)| {
        Some(KeptMass { temperature: temperature.get(), kept: Spread::of(kept)? })
    });
    Ok(Told {
        positions: looked_at,
        kept_mass: kept_mass.collect(),
        shapes: shapes.iter().filter_map(|shape| shape.finish(reader.manifest().classes)).collect(),
        labels,
    })
}

/// Keeps of each row of many positions a few, evenly spread over it; gives the row of each that is left.
fn thin_out(reader: &CacheReader, rows: &[u64], targets: &mut TargetBatch) -> Result<Vec<u64>, ReportError> {
    if reader.manifest().dataset.tokens.is_none() {
        return Ok(rows.to_vec());
    }
    let (mut start, mut kept, mut of_rows) = (0, Vec::new(), Vec::new());
    for row in rows {
        let count = reader.positions_of(*row)?;
        let few = count.min(POSITIONS_OF_A_ROW);
        kept.extend((0..few).map(|at| start + at * count / few));
        of_rows.extend(std::iter::repeat_n(*row, few));
        start += count;
    }
    *targets = targets.of(&kept);
    Ok(of_rows)
}

/// The error of a row whose target is none.
fn no_distribution(reader: &CacheReader, row: u64, temperature: Temperature) -> ReportError {
    match reader.sample_id(row) {
        Ok(sample) => ReportError::Target { sample, temperature: temperature.get() },
        Err(error) => error.into(),
    }
}

/// What is collected at one temperature.
struct Shape<'a> {
    temperature: Temperature,
    tail_model: Option<TailModelAt<'a>>,
    entropies: Vec<f64>,
    /// By rank, then by position.
    ranks: Vec<Vec<f64>>,
    further: f64,
    tail: f64,
}

/// What one position adds to it.
struct Look {
    entropy: f64,
    probabilities: Vec<f64>,
    further: f64,
    tail: f64,
}

impl<'a> Shape<'a> {
    fn new(reader: &'a CacheReader, temperature: Temperature) -> Self {
        Self {
            temperature,
            tail_model: reader.tail_model().map(|model| model.at(temperature)),
            entropies: Vec::new(),
            ranks: vec![Vec::new(); reader.manifest().head.k.min(RANKS)],
            further: 0.0,
            tail: 0.0,
        }
    }

    fn look(&self, target: PositionTarget<'_>, code: &[i8]) -> Look {
        let tail = TailHandling::default();
        let log_weights = self.tail_model.as_ref().and_then(|model| model.log_weights(tail, code));
        let dense = target.dense(self.temperature, tail, log_weights.as_deref());
        let mut decoded = target.decode(self.temperature);
        // A head that has less has nothing at the other ranks.
        decoded.probabilities.resize(decoded.probabilities.len().max(self.ranks.len()), 0.0);
        let further = decoded.probabilities.split_off(self.ranks.len());
        Look {
            entropy: entropy(&dense),
            probabilities: decoded.probabilities,
            further: further.iter().sum(),
            tail: decoded.tail_mass,
        }
    }

    fn add(&mut self, look: Look) {
        self.entropies.push(look.entropy);
        for (rank, probability) in self.ranks.iter_mut().zip(look.probabilities) {
            rank.push(probability);
        }
        self.further += look.further;
        self.tail += look.tail;
    }

    fn finish(&self, classes: usize) -> Option<TargetShape> {
        let positions = self.entropies.len() as f64;
        Some(TargetShape {
            temperature: self.temperature.get(),
            entropy: Spread::of(&self.entropies)?,
            entropy_histogram: Histogram::of(&self.entropies, 0.0, (classes as f64).ln(), INTERVALS),
            ranks: self.ranks.iter().filter_map(|rank| Spread::of(rank)).collect(),
            further_ranks: self.further / positions,
            tail: self.tail / positions,
        })
    }
}

impl Look {
    /// Readers vouch for finite logits and curves; whether these make a distribution is another
    /// matter in a cache that nobody has verified.
    fn is_of_a_distribution(&self) -> bool {
        let whole = self.probabilities.iter().sum::<f64>() + self.further + self.tail;
        self.entropy.is_finite() && (whole - 1.0).abs() < 1e-6
    }
}

impl LabelRanks {
    fn new(k: usize) -> Self {
        Self { ranks: vec![0; k.min(RANKS)], further_ranks: 0, outside: 0 }
    }

    fn add(&mut self, label: u32, head: &[u32]) {
        match head.iter().position(|class| *class == label) {
            Some(rank) if rank < self.ranks.len() => self.ranks[rank] += 1,
            Some(_) => self.further_ranks += 1,
            None => self.outside += 1,
        }
    }
}

/// Entropy of `p`, in nats.
fn entropy(p: &[f64]) -> f64 {
    // Not `−Σ`, which is −0 for a certain outcome.
    p.iter().filter(|p| **p > 0.0).map(|p| p * p.recip().ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropies_known_by_heart() {
        assert_eq!(entropy(&[0.0, 1.0, 0.0]), 0.0);
        assert!((entropy(&[0.25; 4]) - 4f64.ln()).abs() < 1e-12);
        assert!((entropy(&[0.5, 0.25, 0.25]) - 1.5 * 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn labels_count_by_their_rank() {
        let head: Vec<u32> = (0..20).rev().collect();
        let mut labels = LabelRanks::new(head.len());
        for label in [19, 18, 18, 4, 3, 0, 20, u32::MAX] {
            labels.add(label, &head);
        }
        assert_eq!((labels.ranks.len(), &labels.ranks[..2]), (RANKS, &[1, 2][..]));
        assert_eq!((labels.ranks[15], labels.further_ranks, labels.outside), (1, 2, 2));
        assert_eq!(LabelRanks::new(3).ranks, [0; 3]);
    }
}
