//! Pairwise ranking: the order in which the teacher has the head's classes.

use tch::{Kind, Tensor};

use super::TargetTensors;

/// The mean of `log(1 + exp(s_j − s_i))` over the pairs of a head's classes of which the teacher prefers i to j, `s`
/// being the student's raw logits: RankNet's cost where the order is certain (Burges et al., "Learning to Rank using
/// Gradient Descent", ICML 2005, with a target probability of 1), in nats. Pairs that the teacher does not
/// tell apart (equal logits, as quantised ones may be) are left out. No temperature changes an order.
///
/// # Shapes
/// `logits`: `[positions, classes]`, raw. The result is `[positions]`, 0 where a head has no pair. `top`: how many of
/// each head's classes are ranked, of `k`; `[positions, top² / 2]` numbers are kept for the gradient.
pub fn ranking(logits: &Tensor, targets: &TargetTensors, top: Option<usize>) -> Tensor {
    let k = targets.ids.size()[1];
    let top = top.map_or(k, |top| k.min(i64::try_from(top).unwrap_or(k)));
    let first = |tensor: &Tensor| tensor.narrow(-1, 0, top);
    let student = logits.to_kind(Kind::Float).gather(-1, &first(&targets.ids), false);
    // Heads are sorted, the largest logit first.
    let pairs = Tensor::triu_indices(top, top, 1, (Kind::Int64, logits.device()));
    let (above, below) = (pairs.get(0), pairs.get(1));
    let of = |tensor: &Tensor, which: &Tensor| tensor.index_select(-1, which);
    let counts = tch::no_grad(|| {
        let values = first(&targets.values);
        let apart = of(&values, &above).gt_tensor(&of(&values, &below)).to_kind(Kind::Float);
        match targets.in_head() {
            // Of a pair, what stands below is what may fill the head up.
            Some(in_head) => apart * of(&first(&in_head), &below).to_kind(Kind::Float),
            None => apart,
        }
    });
    let cost = -(of(&student, &above) - of(&student, &below)).log_sigmoid();
    let number = counts.sum_dim_intlist(-1, false, Kind::Float).clamp_min(1.0);
    (cost * counts).sum_dim_intlist(-1, false, Kind::Float) / number
}
