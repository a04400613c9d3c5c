//! The divergence and every further term by definition, in `f64`, one sample at a time: what the fast paths are held to.
//!
//! Each is written from the formula of its source; `p` is the target and `q` the student, without the factor `T²`.

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

/// Cross-entropy of the student at T = 1 on `1 − smoothing` of the label and `smoothing` of all classes evenly (Szegedy
/// et al., 2016, section 7).
pub(super) fn cross_entropy(student: &[f64], label: usize, smoothing: f64) -> f64 {
    let evenly = smoothing / student.len() as f64;
    let of_class = |(class, log_q): (usize, &f64)| {
        let wanted = evenly + if class == label { 1.0 - smoothing } else { 0.0 };
        -wanted * log_q
    };
    log_softmax(student, 1.0).iter().enumerate().map(of_class).sum()
}

/// `KL(a ‖ b)` of two distributions (Kullback & Leibler, 1951).
fn divergence(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| plogp(*a, *b)).sum()
}

/// `KL(q ‖ p)` (Gu et al., "MiniLLM", 2024).
pub(super) fn reverse_kl(p: &[f64], q: &[f64]) -> f64 {
    divergence(q, p)
}

/// Generalised Jensen–Shannon divergence (Agarwal et al., GKD, 2024, equation 1).
pub(super) fn jsd(p: &[f64], q: &[f64], beta: f64) -> f64 {
    let between: Vec<f64> = p.iter().zip(q).map(|(p, q)| beta * p + (1.0 - beta) * q).collect();
    beta * divergence(p, &between) + (1.0 - beta) * divergence(q, &between)
}

/// Total variation: half the sum of absolute differences (Wen et al., 2023, section 3).
pub(super) fn total_variation(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0
}

/// The sum of squared differences of probabilities (Brier, 1950, of two distributions).
pub(super) fn mse(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| (p - q).powi(2)).sum()
}

/// `a · b`.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// 1 less the cosine of two lists of numbers, as PyTorch's `cosine_embedding_loss` has it for targets of 1.
pub(super) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    1.0 - dot(a, b) / ((dot(a, a) + 1e-12) * (dot(b, b) + 1e-12)).sqrt()
}

/// The student's and the teacher's logits of a head's classes, each side less its mean.
fn centred_head(student: &[f64], ids: &[u32], values: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let centred = |logits: Vec<f64>| -> Vec<f64> {
        let mean = logits.iter().sum::<f64>() / logits.len() as f64;
        logits.iter().map(|logit| logit - mean).collect()
    };
    let of_student = ids.iter().map(|id| student[*id as usize]).collect();
    (centred(of_student), centred(values.iter().map(|value| f64::from(*value)).collect()))
}

/// The mean squared difference of a head's logits (Ba & Caruana, 2014, equation 1, for all classes), each side less its
/// mean.
pub(super) fn logit_mse(student: &[f64], ids: &[u32], values: &[f32]) -> f64 {
    let (student, teacher) = centred_head(student, ids, values);
    student.iter().zip(&teacher).map(|(s, z)| (s - z).powi(2)).sum::<f64>() / ids.len() as f64
}

/// 1 less the cosine of a head's logits, each side less its mean; 0 where the teacher's are all equal.
pub(super) fn logit_cosine(student: &[f64], ids: &[u32], values: &[f32]) -> f64 {
    if values.iter().all(|value| *value == values[0]) {
        return 0.0;
    }
    let (student, teacher) = centred_head(student, ids, values);
    cosine(&student, &teacher)
}

/// All classes but the label, which sum to 1 again.
fn without(label: usize, x: &[f64]) -> Vec<f64> {
    let others = || x.iter().enumerate().filter(|(class, _)| *class != label).map(|(_, x)| x);
    let rest: f64 = others().sum();
    others().map(|x| x / rest).collect()
}

/// Decoupled KD (Zhao et al., 2022, equation 7): the label against all else, and all else by itself.
pub(super) fn dkd(label: usize, p: &[f64], q: &[f64], alpha: f64, beta: f64) -> f64 {
    let of_label = |x: &[f64]| {
        let others = x.iter().enumerate().filter(|(class, _)| *class != label).map(|(_, x)| x);
        [x[label], others.sum()]
    };
    alpha * divergence(&of_label(p), &of_label(q)) + beta * divergence(&without(label, p), &without(label, q))
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
    let others: f64 = without(label, p).iter().zip(without(label, q)).map(|(p, q)| p * q.ln()).sum();
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
