//! What a module of the user's does that a student is not to do, found out by asking it before it learns.
//!
//! A module does not say how it was exported: one that was traced as it trains has dropout that is never off, or goes by its
//! batch for ever, so that what is measured of it is chance.

use tch::{Device, Kind, Tensor};

use super::TrainError;
use super::upload::DeviceBatch;
use crate::config::StudentConfig;
use crate::loader::{Inputs, Samples};
use crate::student::Student;

/// Samples that it is asked about.
const ROWS: u64 = 8;
/// The share of the logits' own size by which two answers to one question may differ: kernels on a GPU may add in any order.
const AGAIN: f64 = 0.01;
/// The same of a sample alone and among others.
const ALONE: f64 = 0.2;
/// How far from 1 a softmax's sum may be.
const SUM: f64 = 1e-3;

/// Warnings of what `student` does, if it is a module of the user's; none of a built-in one.
///
/// # Errors
/// [`TrainError`]: the samples cannot be read, or the module fails.
pub(super) fn of_student(
    config: &StudentConfig,
    student: &mut dyn Student,
    samples: &Samples,
    device: Device,
) -> Result<Vec<String>, TrainError> {
    if !matches!(config, StudentConfig::Torchscript { .. }) {
        return Ok(Vec::new());
    }
    student.set_training(false);
    let _guard = tch::no_grad_guard();
    let ask = |indices: &[u64]| {
        let batch = samples.batch(indices, 0)?;
        let there = DeviceBatch::new(&batch, samples.image_shape(), device);
        let logits = student.head(&student.features(&there.inputs)?).to_kind(Kind::Double);
        Ok::<_, TrainError>((logits, batch))
    };
    let indices: Vec<u64> = (0..samples.len().min(ROWS)).collect();
    let ((first, batch), (again, _)) = (ask(&indices)?, ask(&indices)?);
    let mut found = Vec::new();
    let mut differs = |share: f64, most: f64, how: &str| {
        if share > most {
            found.push(format!(
                "warning: the student's answers to the same samples differ {how}, by {:.0} %, in evaluation mode too: what is measured of \
                 it is chance. Save the module with torch.jit.script; one that was traced as it trains stays so",
                100.0 * share
            ));
        }
    };
    differs(apart(&first, &again), AGAIN, "from one time to the next, as with dropout that is on");
    match &batch.inputs {
        Inputs::Images(_) if apart(&first, &again) <= AGAIN => {
            let alone = indices.iter().map(|index| Ok(ask(&[*index])?.0)).collect::<Result<Vec<_>, TrainError>>()?;
            differs(apart(&Tensor::cat(&alone, 0), &first), ALONE, "with what else is in the batch");
        }
        Inputs::Tokens(tokens) if tokens.documents.iter().any(|document| *document > 0) => found.push(
            "warning: rows hold several documents, and a TorchScript student is given the tokens alone: it sees documents before its own, \
             which the teacher may not have. dataset.rows.packing = \"document\" in the cache's config gives each rows of its own"
                .to_owned(),
        ),
        _ => {}
    }
    let sums = first.sum_dim_intlist(-1, false, Kind::Double) - 1.0;
    let is_softmax = first.min().double_value(&[]) >= 0.0 && sums.abs().max().double_value(&[]) < SUM;
    if is_softmax {
        found.push(
            "warning: the student returns probabilities, and losses take logits: leave the softmax out of the module".to_owned(),
        );
    }
    Ok(found)
}

/// The mean difference of two answers, each position's relative to the size of its logits around their mean.
fn apart(one: &Tensor, other: &Tensor) -> f64 {
    let centred = |logits: &Tensor| logits - logits.mean_dim(-1, true, Kind::Double);
    let (one, other) = (centred(one), centred(other));
    let size = |logits: &Tensor| logits.square().sum_dim_intlist(-1, false, Kind::Double).sqrt();
    let share = size(&(&one - &other)) / size(&other).clamp_min(f64::MIN_POSITIVE);
    share.mean(Kind::Double).double_value(&[])
}
