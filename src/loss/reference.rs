//! The divergence by definition, in `f64`, one sample at a time: what the fast paths are held to.

use crate::target::{PositionTarget, TailHandling, TailModel, Temperature};

/// `KL(p ‖ softmax(s / T))` in nats, `p` being `target`, whose tail has `code` in `model`, as `tail`
/// sees it.
pub(super) fn kl(
    student: &[f64],
    target: &PositionTarget<'_>,
    temperature: Temperature,
    tail: TailHandling,
    (model, code): (&TailModel, &[i8]),
) -> f64 {
    let log_q = log_softmax(student, temperature.beta());
    if tail == TailHandling::Bucket {
        let decoded = target.decode_as(temperature, tail);
        let on_head = target.ids.iter().zip(&decoded.probabilities);
        let head: f64 = on_head.map(|(id, p)| p * (p.ln() - log_q[*id as usize])).sum();
        let off_head = |class: &usize| !target.ids.contains(&(*class as u32));
        let rest: f64 = (0..student.len()).filter(off_head).map(|class| log_q[class].exp()).sum();
        return head + plogp(decoded.tail_mass, rest);
    }
    let p = target.dense(temperature, tail, model.at(temperature).log_weights(tail, code).as_deref());
    p.iter().zip(&log_q).map(|(p, log_q)| plogp(*p, log_q.exp())).sum()
}

fn plogp(p: f64, q: f64) -> f64 {
    if p > 0.0 { p * (p.ln() - q.ln()) } else { 0.0 }
}

pub(super) fn log_softmax(z: &[f64], beta: f64) -> Vec<f64> {
    let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = z.iter().map(|z| ((z - largest) * beta).exp()).sum::<f64>().ln();
    z.iter().map(|z| (z - largest) * beta - log_sum).collect()
}
