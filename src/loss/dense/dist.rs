//! DIST: relations between classes and between samples, in the place of probabilities themselves.
//!
//! Source: Huang, You, Wang, Qian & Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022:
//! Pearson's distance `1 − ρ`, of a sample's probabilities over the classes (inter-class) and of a class's over the
//! samples of a batch (intra-class). The default weights of both (1 and 1) and the factor `T²` are those of their code; so
//! is what is added to the product of the norms, by which a class of hardly any probability in a whole batch counts as
//! unrelated.

use tch::{Kind, Tensor};

/// Added to the product of the norms.
const EPS: f64 = 1e-8;

/// `1 − ρ(p_i, q_i)` of each sample i, over its classes: from 0 to 2.
///
/// # Shapes
/// `log_p`, `log_q`: `[positions, classes]`, of target and student. The result is `[positions]`.
pub fn dist_inter(log_p: &Tensor, log_q: &Tensor) -> Tensor {
    distance(&log_p.exp(), &log_q.exp(), -1)
}

/// The mean over classes j of `1 − ρ(p_j, q_j)`, over all samples of a batch: from 0 to 2. Of part of a batch it is
/// something else.
///
/// # Shapes
/// `log_p`, `log_q`: `[positions, classes]`, of target and student. The result is a scalar.
pub fn dist_intra(log_p: &Tensor, log_q: &Tensor) -> Tensor {
    distance(&log_p.exp(), &log_q.exp(), 0).mean(Kind::Float)
}

/// `1 − ρ` along a dimension.
fn distance(p: &Tensor, q: &Tensor, dim: i64) -> Tensor {
    let centred = |x: &Tensor| x - x.mean_dim([dim].as_slice(), true, Kind::Float);
    let dot = |a: &Tensor, b: &Tensor| (a * b).sum_dim_intlist(dim, false, Kind::Float);
    let norm = |x: &Tensor| x.norm_scalaropt_dim(2.0, [dim].as_slice(), false);
    let (p, q) = (centred(p), centred(q));
    1.0 - dot(&p, &q) / (norm(&p) * norm(&q) + EPS)
}
