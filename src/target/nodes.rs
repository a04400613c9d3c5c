//! The inverse temperatures at which tail curves and priors are kept, and reading between them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Temperature;

/// The nodes a cache has unless its config says otherwise.
///
/// Powers of two of 1/8 up to 1, and 3/4: one `exp` per logit gives all of them, and the
/// interpolation error on real language-model logits stays near 0.001 nats for `T` from 1 to 20.
pub const DEFAULT_NODES: [f64; 5] = [0.125, 0.25, 0.5, 0.75, 1.0];

/// Largest number of nodes: beyond it, polynomial interpolation swings between the nodes.
pub const MAX_NODES: usize = 16;

/// Why a list of nodes was refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum NodesError {
    /// None at all, or too many.
    #[error("expected 1 to {MAX_NODES} nodes, found {0}")]
    Count(usize),
    /// A node that is no inverse temperature.
    #[error("node {0} is not a positive, finite inverse temperature")]
    Value(f64),
    /// Nodes that do not rise.
    #[error("nodes must rise strictly, but {1} follows {0}")]
    Order(f64, f64),
    /// No node at T = 1, where every teacher predicts.
    #[error("the nodes must contain 1 (T = 1), found {0:?}")]
    WithoutOne(Vec<f64>),
}

/// A temperature at which a cache's targets are not known.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum NotCovered {
    /// A tail's curve would have to be extrapolated.
    #[error(
        "temperature {temperature} is below {lowest}, the lowest this cache's tail nodes cover; build with tail.nodes up to {beta}"
    )]
    Nodes {
        /// Asked for.
        temperature: f64,
        /// The lowest covered.
        lowest: f64,
        /// The node that would cover it.
        beta: f64,
    },
    /// Targets were sampled at another.
    #[error(
        "temperature {temperature}: this cache's targets were drawn at temperature {drawn} and mean nothing at another; build one with head.temperature = {temperature}, or with head.k instead of head.draws, which serves every temperature"
    )]
    Draws {
        /// Asked for.
        temperature: f64,
        /// That of the draws.
        drawn: f64,
    },
}

/// Strictly rising inverse temperatures `β > 0`, among them 1; `β = 0` is an implied further node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct TailNodes(Vec<f64>);

impl Default for TailNodes {
    fn default() -> Self {
        Self(DEFAULT_NODES.to_vec())
    }
}

impl TryFrom<Vec<f64>> for TailNodes {
    type Error = NodesError;

    fn try_from(nodes: Vec<f64>) -> Result<Self, NodesError> {
        if nodes.is_empty() || nodes.len() > MAX_NODES {
            return Err(NodesError::Count(nodes.len()));
        }
        if let Some(&bad) = nodes.iter().find(|b| !(b.is_finite() && **b > 0.0)) {
            return Err(NodesError::Value(bad));
        }
        if let Some(pair) = nodes.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(NodesError::Order(pair[0], pair[1]));
        }
        if !nodes.contains(&1.0) {
            return Err(NodesError::WithoutOne(nodes));
        }
        Ok(Self(nodes))
    }
}

impl From<TailNodes> for Vec<f64> {
    fn from(nodes: TailNodes) -> Self {
        nodes.0
    }
}

impl TailNodes {
    /// The nodes, rising.
    pub fn as_slice(&self) -> &[f64] {
        &self.0
    }

    /// How many there are, the implied `β = 0` not counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: a list of nodes has at least one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where `β = 1` stands.
    pub fn index_of_one(&self) -> usize {
        // Construction refuses lists without it.
        self.0.iter().position(|&b| b == 1.0).unwrap_or(0)
    }

    /// The lowest temperature these nodes cover; below it the curve would be extrapolated.
    pub fn lowest_temperature(&self) -> f64 {
        self.0.last().map_or(1.0, |b| b.recip())
    }

    /// Whether the nodes cover `temperature` (every higher one is covered by `β = 0`).
    pub fn covers(&self, temperature: Temperature) -> bool {
        // A hair of slack: 1/T of a written-out decimal may round past the last node.
        temperature.beta() <= self.0.last().map_or(0.0, |b| b * (1.0 + 1e-12))
    }

    /// Refuses a temperature that these nodes do not cover.
    ///
    /// # Errors
    /// [`NotCovered::Nodes`].
    pub fn require(&self, temperature: Temperature) -> Result<(), NotCovered> {
        if self.covers(temperature) {
            return Ok(());
        }
        let (lowest, beta) = (self.lowest_temperature(), temperature.beta());
        Err(NotCovered::Nodes { temperature: temperature.get(), lowest, beta })
    }

    /// The weights `w` with which node values give the value at `temperature`:
    /// `y(β) = w[0] y(0) + Σ_n w[n + 1] y(β_n)`.
    ///
    /// They are the Lagrange weights of the polynomial through `β = 0` and all nodes, in the
    /// barycentric form (Berrut & Trefethen, "Barycentric Lagrange Interpolation", SIAM Review
    /// 46, 2004), sum to 1, and are exactly one-hot at a node.
    pub fn weights(&self, temperature: Temperature) -> Vec<f64> {
        let beta = temperature.beta();
        let points: Vec<f64> = std::iter::once(0.0).chain(self.0.iter().copied()).collect();
        let mut weights = vec![0.0; points.len()];
        if let Some(hit) = points.iter().position(|p| (p - beta).abs() < 1e-12) {
            weights[hit] = 1.0;
            return weights;
        }
        for (i, weight) in weights.iter_mut().enumerate() {
            let mut product = beta - points[i];
            for (j, point) in points.iter().enumerate() {
                if i != j {
                    product *= points[i] - point;
                }
            }
            *weight = product.recip();
        }
        let sum: f64 = weights.iter().sum();
        for weight in &mut weights {
            *weight /= sum;
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_no_list_of_nodes() {
        assert_eq!(TailNodes::try_from(vec![]), Err(NodesError::Count(0)));
        assert_eq!(TailNodes::try_from(vec![0.0, 1.0]), Err(NodesError::Value(0.0)));
        assert_eq!(TailNodes::try_from(vec![1.0, 1.0]), Err(NodesError::Order(1.0, 1.0)));
        assert_eq!(TailNodes::try_from(vec![0.5]), Err(NodesError::WithoutOne(vec![0.5])));
    }

    #[test]
    fn one_hot_at_a_node() {
        let nodes = TailNodes::default();
        let weights = nodes.weights(Temperature::new(4.0).unwrap());
        assert_eq!(weights, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn covers_every_temperature_from_the_last_node_up() {
        let nodes = TailNodes::default();
        assert!(nodes.covers(Temperature::ONE) && nodes.covers(Temperature::new(1e6).unwrap()));
        assert!(!nodes.covers(Temperature::new(0.99).unwrap()));
        let refused = nodes.require(Temperature::new(0.5).unwrap()).unwrap_err();
        assert_eq!(refused, NotCovered::Nodes { temperature: 0.5, lowest: 1.0, beta: 2.0 });
    }

    proptest! {
        /// Six points determine a polynomial of degree five: the weights must reproduce it.
        #[test]
        fn reproduces_polynomials(c in proptest::array::uniform6(-3.0f64..3.0), t in 1.0f64..40.0) {
            let at = |b: f64| c.iter().rev().fold(0.0, |sum, c| sum * b + c);
            let nodes = TailNodes::default();
            let t = Temperature::new(t).unwrap();
            let w = nodes.weights(t);
            let read = w[0] * at(0.0) + nodes.as_slice().iter().zip(&w[1..]).map(|(&b, w)| w * at(b)).sum::<f64>();
            prop_assert!((read - at(t.beta())).abs() < 1e-9);
        }
    }
}
