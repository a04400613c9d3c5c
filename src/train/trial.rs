//! What a module of the user's does that a student is not to do, found out by asking it before it learns.
//!
//! A module does not say how it was exported: one that was traced as it trains has dropout that is never off, or goes by its
//! batch for ever, so that what is measured of it is chance.

use tch::{Device, Kind, Tensor};

use super::upload::DeviceBatch;
use crate::answers::{AGAIN, ALONE, ROWS, difference};
use crate::config::{StudentConfig, TrainConfig};
use crate::loader::{Inputs, Samples};
use crate::student::{Input, Student};

/// Positions of a row of tokens that are compared.
const POSITIONS: i64 = 16;
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
    let count = samples.len().min(most).min(config.train.batch as u64);
    let Some(answers) = Answers::of(student, samples, count, device) else { return found };
    found.extend(answers.differ());
    found.extend(answers.are_probabilities().then(|| {
        "warning: the student returns probabilities, and losses take logits: leave the softmax out of the module".to_owned()
    }));
    found
}

/// What a student says of the same samples when asked again, `[positions, classes]` each.
struct Answers {
    classes: usize,
    first: Vec<f32>,
    again: Vec<f32>,
    /// Of each sample by itself, where the module takes one.
    alone: Option<Vec<f32>>,
}

impl Answers {
    /// Of the first `count` samples; `None` where it cannot be asked.
    fn of(student: &dyn Student, samples: &Samples, count: u64, device: Device) -> Option<Self> {
        let upload = |indices: &[u64]| {
            let batch = samples.batch(indices, 0).ok()?;
            Some(DeviceBatch::new(&batch, samples.image_shape(), device).inputs)
        };
        let positions = if samples.image_shape().is_some() { i64::MAX } else { POSITIONS };
        let ask = |inputs: &Input| {
            let features = student.features(inputs).ok()?;
            let features = features.narrow(0, 0, features.size().first()?.min(&positions).to_owned());
            Some(student.head(&features))
        };
        let numbers = |logits: &Tensor| {
            let logits = logits.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
            Vec::<f32>::try_from(logits.view(-1)).ok()
        };
        let indices: Vec<u64> = (0..count).collect();
        let together = upload(&indices)?;
        let first = ask(&together)?;
        // A row without a response, or a module that answers nothing.
        if first.numel() == 0 {
            return None;
        }
        let classes = usize::try_from(*first.size().last()?).ok()?;
        let alone = indices.iter().map(|index| numbers(&ask(&upload(&[*index])?)?));
        let alone = alone.collect::<Option<Vec<_>>>().map(|alone| alone.concat());
        Some(Self { classes, first: numbers(&first)?, again: numbers(&ask(&together)?)?, alone })
    }

    /// What is to be said where they differ.
    fn differ(&self) -> Option<String> {
        let apart = |other: &[f32]| {
            (other.len() == self.first.len()).then(|| difference(other, &self.first, self.classes))
        };
        let again = apart(&self.again).filter(|share| *share > AGAIN);
        let alone = || self.alone.as_deref().and_then(apart).filter(|share| *share > ALONE);
        let (share, how) = match again {
            Some(share) => (share, "from one time to the next, as with dropout that is on"),
            None => (alone()?, "with what else is in the batch"),
        };
        Some(format!(
            "warning: the student's answers to the same samples differ {how}, by {:.0} %, in evaluation mode too: what is measured of \
             it is chance. Save the module with torch.jit.script; one that was traced as it trains stays so",
            100.0 * share
        ))
    }

    fn are_probabilities(&self) -> bool {
        let sums_to_one = |row: &[f32]| {
            let sum: f64 = row.iter().map(|p| f64::from(*p)).sum();
            row.iter().all(|p| *p >= 0.0) && (sum - 1.0).abs() < SUM
        };
        self.first.chunks_exact(self.classes).all(sums_to_one)
    }
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
