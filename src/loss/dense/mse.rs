//! Squared differences, of probabilities and of logits.

use tch::{Kind, Tensor};

use super::centred;

/// `Σ (p − q)²`, from 0 to 2.
///
/// # Shapes
/// `log_p`, `log_q`: `[positions, classes]`, of target and student. The result is `[positions]`.
pub fn mse(log_p: &Tensor, log_q: &Tensor) -> Tensor {
    let off = log_p.exp() - log_q.exp();
    (&off * &off).sum_dim_intlist(-1, false, Kind::Float)
}

/// The mean squared difference of the head's logits, each side relative to its own mean over the head: what no
/// temperature changes. Source: Ba & Caruana, "Do Deep Nets Really Need to be Deep?", 2014, for all classes.
///
/// # Shapes
/// `values`, `student`: `[positions, k]`, raw logits of the head's classes; `in_head`: `[positions, k]`, 1 for what is
/// in a head and 0 for what fills it up, `None` where nothing does. The result is `[positions]`.
pub fn logit_mse(values: &Tensor, student: &Tensor, in_head: Option<&Tensor>) -> Tensor {
    let off = centred(&(student - values), in_head);
    let Some(in_head) = in_head else {
        return (&off * &off).mean_dim([-1i64].as_slice(), false, Kind::Float);
    };
    let count = in_head.sum_dim_intlist(-1, false, Kind::Float);
    (&off * &off).sum_dim_intlist(-1, false, Kind::Float) / count
}
