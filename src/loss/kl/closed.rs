//! The divergence and its gradient by their closed form, in a few of libtorch's operators: what devices other than the
//! CPU have in place of [`fused`](crate::loss::fused).

use tch::{Kind, Tensor};

use super::{KlDivergence, Tail, log_target};
use crate::loss::TargetTensors;

/// Targets as they enter the gradient `softmax(s / T) − p`.
pub(in crate::loss) struct Probabilities<'a> {
    off_head: OffHead<'a>,
    /// Ids, and what is to be added at them: `[positions, k]` each.
    head: Option<(&'a Tensor, Tensor)>,
}

/// What has to be taken away from the softmax, of all classes.
enum OffHead<'a> {
    Nothing,
    /// Of each class: `[positions, classes]`.
    Dense(Tensor),
    /// One vector, `[classes]`, times a number of each position, `[positions, 1]`.
    Product(Tensor, &'a Tensor),
}

impl Probabilities<'_> {
    /// Takes them, times `weight`, away from `q`, `[positions, classes]`.
    pub(in crate::loss) fn take_from(&self, q: &mut Tensor, weight: f64) {
        match &self.off_head {
            OffHead::Nothing => {}
            OffHead::Dense(p) => {
                let weight = Tensor::full([1], -weight, (Kind::Float, q.device()));
                drop(q.addcmul_(p, &weight));
            }
            OffHead::Product(mass, w) => {
                drop(q.addcmul_(&(mass * -weight), w));
            }
        }
        if let Some((ids, added)) = &self.head {
            // What fills a head up adds 0, so that in whatever order things are added the sum is the same.
            drop(q.scatter_add_(-1, ids, &(added * weight)));
        }
    }
}

impl KlDivergence {
    /// Whether [`Self::closed`] gives something: of a bucket it does not.
    pub(in crate::loss) fn has_closed_form(&self) -> bool {
        !matches!(self.tail, Tail::Bucket)
    }

    /// The divergence of each sample, `[positions]`, from `log_q`, the student's `[positions, classes]` at the
    /// divergence's temperature, and what its gradient by the scaled logits takes away from the student's softmax. Keeps
    /// no gradients. `None` for a bucket, whose gradient is another.
    pub(in crate::loss) fn closed<'a>(
        &'a self,
        log_q: &Tensor,
        targets: &'a TargetTensors,
    ) -> Option<(Tensor, Probabilities<'a>)> {
        let target = self.decoder.decode(targets);
        if let (Tail::Dense { log_w, basis }, Some(log_tail)) = (&self.tail, &target.log_tail) {
            let log_p = log_target(&log_q.size(), targets, &target.log_head, log_tail, log_w, basis.as_ref());
            let p = log_p.exp();
            let mut apart = log_p;
            apart -= log_q;
            let of_positions = apart.g_mul_(&p).sum_dim_intlist(-1, false, Kind::Float);
            return Some((of_positions, Probabilities { off_head: OffHead::Dense(p), head: None }));
        }
        let on_head = log_q.gather(-1, &targets.ids, false);
        let in_head = targets.in_head();
        let p = match &in_head {
            None => target.log_head.exp(),
            Some(in_head) => target.log_head.exp() * in_head.to_kind(Kind::Float),
        };
        let head = (&p * (&target.log_head - &on_head)).sum_dim_intlist(-1, false, Kind::Float);
        match (&self.tail, &target.log_tail) {
            (Tail::Bucket, Some(_)) => None,
            (Tail::Product { w, in_columns, log_w, negative_entropy, .. }, Some(log_tail)) => {
                let log_w = log_w.index_select(0, &targets.ids.reshape([-1])).view_as(&targets.ids);
                let head_w = match &in_head {
                    None => log_w.exp(),
                    Some(in_head) => log_w.exp() * in_head,
                };
                let kept: Tensor = 1.0 - head_w.sum_dim_intlist(-1, true, Kind::Double);
                let kept = kept.clamp_min(f64::MIN_POSITIVE);
                let of_head = (&head_w * (log_w - &on_head)).sum_dim_intlist(-1, true, Kind::Double);
                // Σ w (log w − log q), of all classes and less those of the head.
                let mean = log_q.matmul(in_columns).narrow(-1, 0, 1).to_kind(Kind::Double);
                let all: Tensor = *negative_entropy - mean;
                let log_tail = log_tail.to_kind(Kind::Double).unsqueeze(-1);
                let mass = log_tail.exp();
                let tail = &mass * (log_tail + (all - of_head) / &kept - kept.log());
                let mass = (mass / kept).to_kind(Kind::Float);
                let added = &mass * head_w.to_kind(Kind::Float) - p;
                let off_head = OffHead::Product(mass, w);
                let of_positions = head + tail.to_kind(Kind::Float).squeeze_dim(-1);
                Some((of_positions, Probabilities { off_head, head: Some((&targets.ids, added)) }))
            }
            _ => {
                let head_alone = Some((&targets.ids, -p));
                Some((head, Probabilities { off_head: OffHead::Nothing, head: head_alone }))
            }
        }
    }
}
