//! The divergence and some of the terms by definition, in `f64`, one sample at a time: what the fast paths are held to.

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

/// Every class's probability in `target`, whose tail has `code` in `model`, as `tail` sees it.
pub(super) fn dense(
    target: &PositionTarget<'_>,
    temperature: Temperature,
    tail: TailHandling,
    (model, code): (&TailModel, &[i8]),
) -> Vec<f64> {
    target.dense(temperature, tail, model.at(temperature).log_weights(tail, code).as_deref())
}

/// `1 − ρ` of two lists of numbers.
fn pearson_distance(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        ab += (a - mean_a) * (b - mean_b);
        aa += (a - mean_a).powi(2);
        bb += (b - mean_b).powi(2);
    }
    1.0 - ab / (aa.sqrt() * bb.sqrt() + 1e-8)
}

/// DIST of a batch without its factor: `p` and `q` hold a row for each sample.
pub(super) fn dist(p: &[Vec<f64>], q: &[Vec<f64>], beta: f64, gamma: f64) -> f64 {
    let inter = p.iter().zip(q).map(|(p, q)| pearson_distance(p, q)).sum::<f64>() / p.len() as f64;
    let classes = p[0].len();
    let column = |rows: &[Vec<f64>], class: usize| rows.iter().map(|row| row[class]).collect::<Vec<f64>>();
    let intra = (0..classes).map(|class| pearson_distance(&column(p, class), &column(q, class))).sum::<f64>();
    beta * inter + gamma * intra / classes as f64
}

/// Normalised KD of a sample: probabilities of its label at T = 1, and all at `T`.
pub(super) fn nkd(label: usize, at_one: (f64, f64), p: &[f64], q: &[f64], weight: f64) -> f64 {
    let without = |x: &[f64]| -> Vec<f64> {
        let rest: f64 = x.iter().enumerate().filter(|(class, _)| *class != label).map(|(_, x)| x).sum();
        x.iter().enumerate().filter(|(class, _)| *class != label).map(|(_, x)| x / rest).collect()
    };
    let others: f64 = without(p).iter().zip(without(q)).map(|(p, q)| p * q.ln()).sum();
    -at_one.0 * at_one.1.ln() - weight * others
}

/// The mean cost of the pairs of the first `top` classes of a head that differ in their logits.
pub(super) fn ranking(student: &[f64], ids: &[u32], values: &[f32], top: usize) -> f64 {
    let (mut sum, mut pairs) = (0.0, 0.0);
    let ranked: Vec<(u32, f32)> = ids.iter().copied().zip(values.iter().copied()).take(top).collect();
    for (i, a) in &ranked {
        for (j, b) in &ranked {
            if a > b {
                sum += (1.0 + (student[*j as usize] - student[*i as usize]).exp()).ln();
                pairs += 1.0;
            }
        }
    }
    if pairs > 0.0 { sum / pairs } else { 0.0 }
}
