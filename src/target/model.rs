//! Where the tail's mass lies: what a cache keeps once, for all of its positions.

use std::borrow::Cow;

use super::{TailHandling, TailNodes, TailPrior, Temperature};

/// Largest rank of a tail shape. A head of as many more classes costs about as many bytes, and is
/// exact.
pub const MAX_RANK: usize = 128;

/// A position's own tail: log-weights that a code moves along a few directions.
///
/// `log q_j = b_β(j) + β Σ_i D_ji c_i + const` for `j ∉ H`. A teacher's logits are a low-rank map of
/// its last hidden state, so a few directions carry most of what differs from position to position,
/// and the factor β carries them to every temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct TailShape {
    base: TailPrior,
    rank: usize,
    basis: Vec<f32>,
}

impl TailShape {
    /// A shape from the log-weights `base` of code 0 and the `basis`: `[classes, rank]`, in logits per
    /// unit of code.
    ///
    /// Returns `None` when the rank is 0 or above [`MAX_RANK`], the basis has another length, or a
    /// value is not finite.
    pub fn new(base: TailPrior, rank: usize, basis: Vec<f32>) -> Option<Self> {
        let sound = (1..=MAX_RANK).contains(&rank)
            && basis.len() == base.classes() * rank
            && basis.iter().all(|d| d.is_finite());
        sound.then_some(Self { base, rank, basis })
    }

    /// The log-weights of code 0.
    pub fn base(&self) -> &TailPrior {
        &self.base
    }

    /// Numbers per code.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The directions: `[classes, rank]`, in logits per unit of code.
    pub fn basis(&self) -> &[f32] {
        &self.basis
    }
}

/// What a cache knows of tails beyond their mass.
#[derive(Clone, Debug, PartialEq)]
pub struct TailModel {
    prior: TailPrior,
    shape: Option<TailShape>,
}

impl TailModel {
    /// A model from the calibrated prior and, where the rank is above 0, the shape.
    ///
    /// Returns `None` when the two are of different classes or nodes.
    pub fn new(prior: TailPrior, shape: Option<TailShape>) -> Option<Self> {
        let fits = |shape: &TailShape| {
            shape.base.classes() == prior.classes() && shape.base.nodes() == prior.nodes()
        };
        shape.as_ref().is_none_or(fits).then_some(Self { prior, shape })
    }

    /// Where the tail's mass lies on average.
    pub fn prior(&self) -> &TailPrior {
        &self.prior
    }

    /// Where it lies at each position, or `None` in a model of rank 0.
    pub fn shape(&self) -> Option<&TailShape> {
        self.shape.as_ref()
    }

    /// Numbers per code.
    pub fn rank(&self) -> usize {
        self.shape.as_ref().map_or(0, TailShape::rank)
    }

    /// The nodes the log-weights stand at.
    pub fn nodes(&self) -> &TailNodes {
        self.prior.nodes()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.prior.classes()
    }

    /// The model at one temperature.
    pub fn at(&self, temperature: Temperature) -> TailModelAt<'_> {
        TailModelAt {
            prior: self.prior.at(temperature),
            shape: self.shape.as_ref().map(|shape| (shape.base.at(temperature), shape)),
            beta: temperature.beta(),
        }
    }
}

/// A tail model at one temperature.
#[derive(Clone, Debug)]
pub struct TailModelAt<'a> {
    prior: Vec<f64>,
    shape: Option<(Vec<f64>, &'a TailShape)>,
    beta: f64,
}

impl TailModelAt<'_> {
    /// How `handling` spreads the tail of a position with `code`: log-weights, `[classes]`, up to a
    /// constant; `None` where it needs none.
    ///
    /// # Panics
    /// When the shape is asked for with a code of another length than the rank.
    pub fn log_weights(&self, handling: TailHandling, code: &[i8]) -> Option<Cow<'_, [f64]>> {
        match (handling, &self.shape) {
            (TailHandling::Shape, Some((base, shape))) => {
                assert_eq!(code.len(), shape.rank, "a code of another rank");
                let along = |row: &[f32]| -> f64 {
                    row.iter().zip(code).map(|(d, c)| f64::from(*d) * f64::from(*c)).sum()
                };
                let moved = base.iter().zip(shape.basis.chunks_exact(shape.rank));
                Some(moved.map(|(b, row)| b + self.beta * along(row)).collect())
            }
            (TailHandling::Shape | TailHandling::Prior, _) => Some(Cow::Borrowed(&self.prior)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prior(classes: usize, slope: f32) -> TailPrior {
        let nodes = TailNodes::default();
        let weights = (0..nodes.len() * classes).map(|i| slope * (i % classes) as f32).collect();
        TailPrior::new(nodes, classes, weights).unwrap()
    }

    #[test]
    fn a_code_moves_the_weights_by_beta() {
        let shape = TailShape::new(prior(3, 1.0), 2, vec![0.5, 0.0, 0.0, 0.25, 1.0, -1.0]).unwrap();
        let model = TailModel::new(prior(3, 2.0), Some(shape)).unwrap();
        assert_eq!((model.rank(), model.classes()), (2, 3));
        let at = model.at(Temperature::new(2.0).unwrap());
        let weights = |handling, code: &[i8]| at.log_weights(handling, code).map(Cow::into_owned);
        assert_eq!(weights(TailHandling::Shape, &[2, 4]), Some(vec![0.5, 1.5, 1.0]));
        assert_eq!(weights(TailHandling::Shape, &[0, 0]), Some(vec![0.0, 1.0, 2.0]));
        assert_eq!(weights(TailHandling::Prior, &[2, 4]), Some(vec![0.0, 2.0, 4.0]));
        assert_eq!(weights(TailHandling::Uniform, &[2, 4]), None);
        let flat = TailModel::new(prior(3, 2.0), None).unwrap();
        let at = flat.at(Temperature::ONE);
        assert_eq!(at.log_weights(TailHandling::Shape, &[]), at.log_weights(TailHandling::Prior, &[]));
    }

    #[test]
    fn what_does_not_fit_is_no_model() {
        assert!(TailShape::new(prior(3, 1.0), 0, vec![]).is_none());
        assert!(TailShape::new(prior(3, 1.0), 1, vec![0.0; 4]).is_none());
        assert!(TailShape::new(prior(3, 1.0), 1, vec![0.0, f32::NAN, 0.0]).is_none());
        assert!(TailShape::new(prior(3, 1.0), MAX_RANK + 1, vec![0.0; 3 * (MAX_RANK + 1)]).is_none());
        let shape = TailShape::new(prior(4, 1.0), 1, vec![0.0; 4]).unwrap();
        assert!(TailModel::new(prior(3, 1.0), Some(shape)).is_none());
    }
}
