//! Where the tail's mass lies on average.

use super::{TailNodes, Temperature};

/// Log-weights `b_β(j)` of every class at every node; `b_0 = 0` for all classes.
///
/// A position's tail is spread as `q_j ∝ exp(b_β(j))` over the classes outside its head. A
/// constant added to all classes of a node changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct TailPrior {
    nodes: TailNodes,
    classes: usize,
    log_weights: Vec<f32>,
}

impl TailPrior {
    /// A prior from `log_weights`, `[nodes, classes]` node after node.
    ///
    /// Returns `None` when the length is not `nodes × classes` or a weight is not finite.
    pub fn new(nodes: TailNodes, classes: usize, log_weights: Vec<f32>) -> Option<Self> {
        let sound = log_weights.len() == nodes.len() * classes
            && classes > 0
            && log_weights.iter().all(|b| b.is_finite());
        sound.then_some(Self { nodes, classes, log_weights })
    }

    /// The nodes the weights stand at.
    pub fn nodes(&self) -> &TailNodes {
        &self.nodes
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The log-weights at one node: `[classes]`.
    ///
    /// # Panics
    /// When `node` is not below the number of nodes.
    pub fn at_node(&self, node: usize) -> &[f32] {
        &self.log_weights[node * self.classes..(node + 1) * self.classes]
    }

    /// The log-weights at any temperature, read between the nodes: `[classes]`.
    pub fn at(&self, temperature: Temperature) -> Vec<f64> {
        // b_0 = 0 contributes nothing, so the first weight is not used.
        let weights = self.nodes.weights(temperature);
        let mut out = vec![0.0; self.classes];
        for (node, weight) in weights[1..].iter().enumerate() {
            for (o, b) in out.iter_mut().zip(self.at_node(node)) {
                *o += weight * f64::from(*b);
            }
        }
        out
    }
}
