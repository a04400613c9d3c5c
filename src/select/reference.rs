//! Selection by definition, in `f64`: what the fast path is tested and measured against.

use crate::target::TailNodes;

/// Head and curve of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceRow {
    /// Class ids by falling logit, ties by rising id: `[k]`.
    pub ids: Vec<u32>,
    /// Logits relative to the largest: `[k]`.
    pub values: Vec<f64>,
    /// `g(β)` in nats at the nodes, empty when the head holds every class.
    pub curve: Vec<f64>,
}

/// The head of `k` classes and the tail curve of `row`, raw logits `[classes]`, by a full sort.
///
/// # Panics
/// When `row` is shorter than `k`.
pub fn select_row(row: &[f32], k: usize, nodes: &TailNodes) -> ReferenceRow {
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    let logit = |id: u32| f64::from(row[id as usize]);
    order.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
    let z_max = logit(order[0]);
    let (head, tail) = order.split_at(k);
    let log_sum = |beta: f64| {
        let largest = logit(tail[0]);
        let sum: f64 = tail.iter().map(|&id| (beta * (logit(id) - largest)).exp()).sum();
        beta * (largest - z_max) + sum.ln()
    };
    ReferenceRow {
        ids: head.to_vec(),
        values: head.iter().map(|&id| logit(id) - z_max).collect(),
        curve: if tail.is_empty() { vec![] } else { nodes.as_slice().iter().map(|&b| log_sum(b)).collect() },
    }
}
