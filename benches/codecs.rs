//! What does a position cost in bytes and in time, and what do its bytes lose?
//!
//!     cargo bench --profile release --bench codecs -- FIT MEASURE CLASSES VARIANTS [--json]
//!     cargo bench --profile release --bench codecs -- fit.f32 measure.f32 49152 12:0,12:8,50:8
//!
//! `FIT` and `MEASURE` are raw logits, little-endian single precision, `[positions, CLASSES]`: the first
//! for the fit of tail model and codes, the second, of other documents, for everything that is told
//! (`tools/dump_logits.py` makes both from a language model). `VARIANTS` are `k:rank` or `k:rank:step`, the
//! step of logits, in nats, being the programs' default otherwise. Without arguments: made-up logits of 1,000 classes, a bias and a map of 24 hidden numbers, which say whether it works and
//! nothing of any teacher.
//!
//! For each variant: bytes a position, quantized and packed in rows as a cache of the Arrow form has them;
//! seconds of the fit on all threads; and on **one** thread microseconds a position for selection with
//! curve, for the tail code, for rounding and packing, and for unpacking to ids, probabilities at T = 2 and
//! the tail's mass. Then, at T = 1, 2 and 4, of what is unpacked: the root mean square over positions of the
//! 2-norm of the difference to the full softmax, the mean KL from it in nats, and the 1-norm of the mean
//! difference. `--json` prints a line of JSON for each, which `tools/compare_codecs.py` reads.

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

use std::hint::black_box;
use std::time::Instant;

use kd_cache::config::{DEFAULT_CURVE_STEP, DEFAULT_STEP, DEFAULT_STEP_GROWTH};
use kd_cache::encoding::{Codebook, Layout, QuantisedBatch, Scale, Steps};
use kd_cache::permutation::Permutation;
use kd_cache::select::Selector;
use kd_cache::tail_model::{Fitted, TailFit};
use kd_cache::target::{PositionTarget, TailHandling, TailModelAt, TailNodes, TargetBatch, Temperature};
use rayon::prelude::*;
use serde_json::json;

/// Positions handed over at once, as a teacher would.
const BATCH: usize = 128;
/// Positions of a row.
const ROW: usize = 512;
/// The temperature of what is timed: no node that is stored for T = 1 alone would do.
const TIMED: f64 = 2.0;

struct Question {
    fit: Vec<f32>,
    measure: Vec<f32>,
    classes: usize,
    variants: Vec<Variant>,
}

#[derive(Clone, Copy)]
struct Variant {
    k: usize,
    rank: usize,
    step: f64,
}

impl Variant {
    fn parse(text: &str) -> Self {
        let mut parts = text.split(':');
        let k = parts.next().unwrap().parse().unwrap();
        let rank = parts.next().unwrap().parse().unwrap();
        Self { k, rank, step: parts.next().map_or(DEFAULT_STEP, |step| step.parse().unwrap()) }
    }
}

/// What is found out of a variant.
#[derive(Default)]
struct Found {
    bytes: f64,
    fit_seconds: f64,
    /// Microseconds a position.
    select: f64,
    code: f64,
    pack: f64,
    unpack: f64,
    /// Temperature, rms, KL, drift.
    errors: Vec<[f64; 4]>,
}

fn main() {
    // cargo adds `--bench`.
    let (flags, arguments): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.starts_with("--"));
    let as_json = flags.iter().any(|flag| flag == "--json");
    let question = match &arguments[..] {
        [fit, measure, classes, variants] => Question {
            fit: read(fit),
            measure: read(measure),
            classes: classes.parse().unwrap(),
            variants: variants.split(',').map(Variant::parse).collect(),
        },
        _ => made_up(),
    };
    let classes = question.classes;
    if !as_json {
        let (fit, measure) = (question.fit.len() / classes, question.measure.len() / classes);
        println!("{fit} positions fitted, {measure} measured, {classes} classes");
        println!("                           |  us a position, one thread       |  rms / KL / drift");
        println!("   k rank   step  B  fit s | select   code   pack  unpack     |  T = 1, 2, 4");
    }
    for variant in &question.variants {
        let found = ask(&question, *variant);
        let Variant { k, rank, step } = variant;
        let Found { bytes, fit_seconds, select, code, pack, unpack, errors } = &found;
        if as_json {
            let at = |[t, rms, kl, drift]: &[f64; 4]| {
                (t.to_string(), json!({ "rms": rms, "kl": kl, "drift": drift }))
            };
            let errors: serde_json::Map<_, _> = errors.iter().map(at).collect();
            println!(
                "{}",
                json!({
                    "k": k, "rank": rank, "step": step, "bytes": bytes, "fit_seconds": fit_seconds, "select": select,
                    "code": code, "pack": pack, "unpack": unpack, "errors": errors,
                })
            );
            continue;
        }
        print!("{k:>4} {rank:>3} {step:>6} {bytes:>5.1} {fit_seconds:>5.1} |");
        print!("{select:>7.1} {code:>6.1} {pack:>6.2} {unpack:>7.2}     |");
        println!(
            "{}",
            errors.iter().map(|[_, r, kl, d]| format!("  {r:.4} / {kl:.3} / {d:.3}")).collect::<String>()
        );
    }
}

fn ask(question: &Question, Variant { k, rank, step }: Variant) -> Found {
    let Question { fit, measure, classes, .. } = question;
    let nodes = TailNodes::default();
    let selector = Selector::new(*classes, k, &nodes).unwrap();
    let scale = Scale::from(Steps::new(step, DEFAULT_STEP_GROWTH, DEFAULT_CURVE_STEP).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("sample");
    let mut sample = TailFit::new(*classes, k, &nodes, rank, &scratch).unwrap();
    let mut seen = TargetBatch::default();
    for logits in fit.chunks(BATCH * classes) {
        let targets = selector.select(logits).unwrap();
        sample.add(logits, &targets).unwrap();
        seen.extend(&targets);
    }
    let (fit_seconds, fitted) = seconds(|| sample.finish(&mut || true).unwrap());
    (seen.rank, seen.codes) = (rank, fitted.codes.clone());
    let layout = Layout { classes: *classes, k, variable: false, nodes: Some(nodes.clone()), rank };
    let popularity = fitted.model.prior().at(Temperature::ONE);
    let codebook = Codebook::fit(layout, scale.curve_step(), &scale.quantise(&seen), Some(&popularity));
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut found = one_thread.install(|| times(measure, *classes, &selector, &fitted, &scale, &codebook));
    found.0.fit_seconds = fit_seconds;
    for temperature in [1.0, 2.0, 4.0] {
        let at = Temperature::new(temperature).unwrap();
        let [rms, kl, drift] = errors(measure, &found.1, &nodes, at, &fitted.model.at(at));
        found.0.errors.push([temperature, rms, kl, drift]);
    }
    found.0
}

/// Times of everything on this thread, and what is unpacked in the end.
fn times(
    logits: &[f32],
    classes: usize,
    selector: &Selector,
    fitted: &Fitted,
    scale: &Scale,
    codebook: &Codebook,
) -> (Found, TargetBatch) {
    let (select, mut targets) = seconds(|| selector.select(logits).unwrap());
    let (code, ()) =
        seconds(|| fitted.encoder.iter().for_each(|encoder| encoder.encode(logits, &mut targets)));
    targets.rank = fitted.model.rank();
    let rows: Vec<std::ops::Range<usize>> =
        (0..targets.rows).step_by(ROW).map(|start| start..(start + ROW).min(targets.rows)).collect();
    let (pack, packed) = seconds(|| {
        let quantised: QuantisedBatch = scale.quantise(&targets);
        let mut packed: Vec<Vec<u8>> = vec![Vec::new(); rows.len()];
        rows.iter().zip(&mut packed).for_each(|(row, bytes)| codebook.pack(&quantised, row.clone(), bytes));
        packed
    });
    let mut out = TargetBatch::default();
    out.resize(targets.rows, targets.k, targets.nodes, targets.rank);
    let (unpack, ()) = seconds(|| {
        for (row, bytes) in rows.iter().zip(&packed) {
            codebook.unpack(bytes, row.len(), 0..row.len(), scale, &mut out, row.start).unwrap();
        }
        probabilities(&out, classes, selector.nodes());
    });
    let each = |seconds: f64| seconds * 1e6 / targets.rows as f64;
    let bytes = packed.iter().map(Vec::len).sum::<usize>() as f64 / targets.rows as f64;
    let found = Found {
        bytes,
        select: each(select),
        code: each(code),
        pack: each(pack),
        unpack: each(unpack),
        ..Found::default()
    };
    (found, out)
}

/// Probabilities of heads and masses of tails at the timed temperature.
fn probabilities(targets: &TargetBatch, classes: usize, nodes: &TailNodes) {
    let temperature = Temperature::new(TIMED).unwrap();
    let beta = temperature.beta() as f32;
    let weights: Vec<f32> = nodes.weights(temperature).iter().map(|w| *w as f32).collect();
    let at_zero = weights[0] * ((classes - targets.k) as f32).ln();
    let mut p = vec![0.0f32; targets.k];
    for row in 0..targets.rows {
        let (_, values, curve) = targets.row(row);
        let tail = (at_zero + curve.iter().zip(&weights[1..]).map(|(g, w)| g * w).sum::<f32>()).exp();
        let mut sum = tail;
        for (p, value) in p.iter_mut().zip(values) {
            *p = (value * beta).exp();
            sum += *p;
        }
        p.iter_mut().for_each(|p| *p /= sum);
        black_box((&p, tail / sum));
    }
}

fn seconds<T>(of: impl FnOnce() -> T) -> (f64, T) {
    let begun = Instant::now();
    let done = of();
    (begun.elapsed().as_secs_f64(), done)
}

/// Root mean square, mean KL and drift of the targets of `logits` at a temperature.
fn errors(
    logits: &[f32],
    targets: &TargetBatch,
    nodes: &TailNodes,
    temperature: Temperature,
    model: &TailModelAt<'_>,
) -> [f64; 3] {
    let classes = logits.len() / targets.rows;
    let handling = if targets.rank > 0 { TailHandling::Shape } else { TailHandling::Prior };
    let zero = || (0.0, 0.0, vec![0.0f64; classes]);
    let (square, kl, difference) = logits
        .par_chunks(classes)
        .enumerate()
        .fold(zero, |(mut square, mut kl, mut difference), (row, z)| {
            let (ids, values, curve) = targets.row(row);
            let target = PositionTarget { classes, ids, values, nodes, curve };
            let weights = model.log_weights(handling, targets.code(row));
            let cached = target.dense(temperature, handling, weights.as_deref());
            let largest = z.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f64> = z.iter().map(|z| (temperature.beta() * f64::from(z - largest)).exp()).collect();
            let sum: f64 = e.iter().sum();
            for ((e, q), difference) in e.iter().zip(&cached).zip(&mut difference) {
                let p = e / sum;
                square += (p - q) * (p - q);
                *difference += q - p;
                if p > 0.0 {
                    kl += p * (p / q).ln();
                }
            }
            (square, kl, difference)
        })
        .reduce(zero, |mut a, b| {
            a.2.iter_mut().zip(&b.2).for_each(|(a, b)| *a += b);
            (a.0 + b.0, a.1 + b.1, a.2)
        });
    let n = targets.rows as f64;
    [(square / n).sqrt(), kl / n, difference.iter().map(|d| (d / n).abs()).sum()]
}

fn read(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
}

fn made_up() -> Question {
    const CLASSES: usize = 1000;
    const HIDDEN: usize = 24;
    let random = Permutation::new(1 << 24, 3, 0);
    let noise = |at: usize| random.at(at as u64 % (1 << 24)) as f32 / (1 << 23) as f32 - 1.0;
    let rows = |first: usize, rows: usize| -> Vec<f32> {
        (first * CLASSES..(first + rows) * CLASSES)
            .map(|at| {
                let (row, class) = (at / CLASSES, at % CLASSES);
                let along = |i: usize| {
                    // The first directions count most, as they do in teachers.
                    noise(row * 101 + i) * noise((1 << 20) + class * 37 + i) * 3.0 / (1.0 + i as f32).sqrt()
                };
                (0..HIDDEN).map(along).sum::<f32>() - 1.5 * (class as f32).ln_1p()
            })
            .collect()
    };
    Question {
        fit: rows(0, 2048),
        measure: rows(2048, 1024),
        classes: CLASSES,
        variants: [0, 1, 2, 4, 8, 16].map(|rank| Variant { k: 8, rank, step: DEFAULT_STEP }).to_vec(),
    }
}
