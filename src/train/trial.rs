//! What a module of the user's does that a student is not to do, found out by asking it before it learns.
//!
//! A module does not say how it was exported: one that was traced as it trains has dropout that is never off, or goes by its
//! batch for ever, so that what is measured of it is chance.

use tch::{Device, Kind, Tensor};

use super::TrainError;
use super::upload::DeviceBatch;
use crate::config::{StudentConfig, TrainConfig};
use crate::loader::{Inputs, Samples};
use crate::student::Student;

/// Samples that it is asked about, if a batch has as many.
const ROWS: u64 = 8;
/// Positions of a row of tokens that are compared.
const POSITIONS: i64 = 16;
/// The share of the logits' own size by which two answers to one question may differ: kernels on a GPU may add in any order.
const AGAIN: f64 = 0.01;
/// The same of a sample alone and among others.
const ALONE: f64 = 0.2;
/// How far from 1 a softmax's sum may be.
const SUM: f64 = 1e-3;

/// Warnings of what `student` does, if it is a module of the user's; none of a built-in one. What cannot be asked is not told of: who
/// cannot answer will be told so soon enough, and a module may take no sample alone.
pub(super) fn of_student(
    config: &TrainConfig,
    student: &mut dyn Student,
    samples: &Samples,
    device: Device,
) -> Vec<String> {
    if !matches!(config.student, StudentConfig::Torchscript { .. }) {
        return Vec::new();
    }
    student.set_training(false);
    let _guard = tch::no_grad_guard();
    let mut found = Vec::new();
    found.extend(of_several_documents(samples));
    // A language model's rows have many positions, each with all logits.
    let most = if samples.image_shape().is_some() { ROWS } else { 1 };
    let indices: Vec<u64> = (0..samples.len().min(most).min(config.train.batch as u64)).collect();
    let (Ok(first), Ok(again)) =
        (ask(student, samples, &indices, device), ask(student, samples, &indices, device))
    else {
        return found;
    };
    let differs = |share: f64, how: &str| {
        format!(
            "warning: the student's answers to the same samples differ {how}, by {:.0} %, in evaluation mode too: what is measured of \
             it is chance. Save the module with torch.jit.script; one that was traced as it trains stays so",
            100.0 * share
        )
    };
    match apart(&first, &again) {
        Some(share) if share > AGAIN => {
            found.push(differs(share, "from one time to the next, as with dropout that is on"));
        }
        _ => {
            let alone = indices.iter().map(|index| ask(student, samples, &[*index], device));
            let alone = alone.collect::<Result<Vec<_>, TrainError>>().ok();
            let share = alone.and_then(|alone| apart(&Tensor::f_cat(&alone, 0).ok()?, &first));
            let share = share.filter(|share| *share > ALONE);
            found.extend(share.map(|share| differs(share, "with what else is in the batch")));
        }
    }
    let sums = first.sum_dim_intlist(-1, false, Kind::Double) - 1.0;
    let is_softmax = first.min().double_value(&[]) >= 0.0 && sums.abs().max().double_value(&[]) < SUM;
    if is_softmax {
        found.push(
            "warning: the student returns probabilities, and losses take logits: leave the softmax out of the module".to_owned(),
        );
    }
    found
}

/// Logits of some samples, of no more than [`POSITIONS`] of each row of tokens.
fn ask(
    student: &dyn Student,
    samples: &Samples,
    indices: &[u64],
    device: Device,
) -> Result<Tensor, TrainError> {
    let there = DeviceBatch::new(&samples.batch(indices, 0)?, samples.image_shape(), device);
    let features = student.features(&there.inputs)?;
    let positions = if samples.image_shape().is_some() { i64::MAX } else { POSITIONS };
    let features = features.narrow(0, 0, features.size().first().copied().unwrap_or(0).min(positions));
    Ok(student.head(&features).to_kind(Kind::Double))
}

/// What is to be said of rows of several documents, of which a module is given the tokens alone.
fn of_several_documents(samples: &Samples) -> Option<String> {
    let indices: Vec<u64> = (0..samples.len().min(ROWS)).collect();
    let Inputs::Tokens(tokens) = samples.batch(&indices, 0).ok()?.inputs else { return None };
    tokens.documents.iter().any(|document| *document > 0).then(|| {
        "warning: rows hold several documents, and a TorchScript student is given the tokens alone: it sees documents before its own, \
         which the teacher may not have. dataset.rows.packing = \"document\" in the cache's config gives each rows of its own"
            .to_owned()
    })
}

/// The mean difference of two answers, each position's relative to the size of its logits around their mean; `None` where they are of
/// different shapes.
fn apart(one: &Tensor, other: &Tensor) -> Option<f64> {
    if one.size() != other.size() {
        return None;
    }
    let centred = |logits: &Tensor| logits - logits.mean_dim(-1, true, Kind::Double);
    let (one, other) = (centred(one), centred(other));
    let size = |logits: &Tensor| logits.square().sum_dim_intlist(-1, false, Kind::Double).sqrt();
    let share = size(&(&one - &other)) / size(&other).clamp_min(f64::MIN_POSITIVE);
    Some(share.mean(Kind::Double).double_value(&[]))
}
