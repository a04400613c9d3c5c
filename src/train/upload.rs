//! Batches on a device, ahead of the steps that need them.

use std::sync::Arc;

use tch::{Device, Tensor};

use crate::libtorch::upload;
use crate::loader::{Ahead, Batch, Counts, Inputs, LoaderError, Samples, TokenInputs, Turn};
use crate::loss::{Means, TargetTensors};
use crate::student::{Input, TokenTensors};
use crate::target::FeatureBatch;

/// Batches that wait on a GPU.
const AHEAD: usize = 2;

/// Logits of so many classes and positions at once, at most: what bounds memory where there are many of both. On a GPU
/// every part costs dozens of operators that have to be asked for, and so it is given larger ones.
fn chunk_values(device: Device) -> usize {
    if device == Device::Cpu { 1 << 23 } else { 1 << 26 }
}

/// A batch in its turn, and the same as tensors where it was brought to its device ahead.
pub(super) struct Loaded {
    turn: Turn,
    there: Option<DeviceBatch>,
}

impl Loaded {
    /// What is in the batch, whichever rank's it is.
    pub(super) fn counts(&self) -> Counts {
        self.turn.counts
    }

    /// The batch of `samples`, and the same on `device`; `None` where it is another rank's.
    pub(super) fn own(&mut self, samples: &Samples, device: Device) -> Option<(&Batch, DeviceBatch)> {
        let host = self.turn.batch.as_ref()?;
        let there = self.there.take();
        Some((host, there.unwrap_or_else(|| DeviceBatch::new(host, samples.image_shape(), device))))
    }
}

/// The batches of `samples` in their turns, for steps of `group` of them on `device`. To a GPU another thread brings them,
/// while the steps before theirs are made; but not those of larger groups, which would all be there at once.
pub(super) fn on_device(
    samples: &Arc<Samples>,
    turns: impl Iterator<Item = Result<Turn, LoaderError>> + Send + 'static,
    group: usize,
    device: Device,
) -> Box<dyn Iterator<Item = Result<Loaded, LoaderError>>> {
    if device == Device::Cpu || group > 1 {
        return Box::new(turns.map(|turn| Ok(Loaded { turn: turn?, there: None })));
    }
    let samples = Arc::clone(samples);
    Box::new(Ahead::of(AHEAD, move |to| {
        for turn in turns {
            let loaded = turn.map(|turn| {
                let there = turn.batch.as_ref();
                let there = there.map(|host| DeviceBatch::new(host, samples.image_shape(), device));
                Loaded { turn, there }
            });
            let failed = loaded.is_err();
            if to.send(loaded).is_err() || failed {
                break;
            }
        }
    }))
}

/// A batch as tensors.
pub(super) struct DeviceBatch {
    pub(super) inputs: Input,
    /// `[positions]`, int64.
    pub(super) labels: Option<Tensor>,
    /// One for each cache.
    pub(super) targets: Vec<TargetTensors>,
    /// `[positions, width]` each, float.
    pub(super) features: Vec<Tensor>,
}

impl DeviceBatch {
    pub(super) fn new(batch: &Batch, image_shape: Option<&[usize]>, device: Device) -> Self {
        let inputs = match &batch.inputs {
            Inputs::Images(images) => {
                let mut shape = vec![batch.ids.len() as i64];
                shape.extend(image_shape.unwrap_or_default().iter().map(|d| *d as i64));
                Input::Images(upload(Tensor::from_slice(images).view(shape.as_slice()), device))
            }
            Inputs::Tokens(tokens) => Input::Tokens(tokens_on(tokens, device)),
        };
        Self {
            inputs,
            labels: batch.labels.as_ref().map(|labels| upload(Tensor::from_slice(labels), device)),
            targets: batch.targets.iter().map(|targets| TargetTensors::new(targets, device)).collect(),
            features: batch.features.iter().map(|vectors| vectors_on(vectors, device)).collect(),
        }
    }

    /// The positions `start..start + len`: labels and targets.
    pub(super) fn part(&self, start: i64, len: i64) -> (Option<Tensor>, Vec<TargetTensors>) {
        let labels = self.labels.as_ref().map(|labels| labels.narrow(0, start, len));
        (labels, self.targets.iter().map(|targets| targets.rows(start, len)).collect())
    }
}

/// What the means of several batches together are over: those of all ranks.
pub(super) fn means(batches: &[Loaded]) -> Means {
    let Counts { positions, labels, .. } =
        batches.iter().map(Loaded::counts).fold(Counts::default(), Counts::and);
    Means { positions, labels }
}

fn vectors_on(vectors: &FeatureBatch, device: Device) -> Tensor {
    let shape = [vectors.rows() as i64, vectors.width as i64];
    upload(Tensor::from_slice(&vectors.values).view(shape), device)
}

fn tokens_on(tokens: &TokenInputs, device: Device) -> TokenTensors {
    let shape = [tokens.rows as i64, tokens.length as i64];
    let tensor = |values: &[i64]| upload(Tensor::from_slice(values).view(shape), device);
    // The common case, rows of one document and one length, needs no mask.
    let plain = tokens.documents.iter().all(|number| *number == 0);
    TokenTensors {
        tokens: tensor(&tokens.tokens),
        places: tensor(&tokens.places),
        documents: (!plain).then(|| tensor(&tokens.documents)),
        positions: upload(Tensor::from_slice(&tokens.positions), device),
    }
}

/// Positions of `features`, as ranges of a start and a length, of which the logits over `classes` may exist at once.
pub(super) fn chunks(features: &Tensor, classes: usize) -> impl Iterator<Item = (i64, i64)> + use<> {
    let positions = features.size()[0];
    let step = (chunk_values(features.device()) / classes.max(1)).max(1) as i64;
    (0..positions).step_by(step as usize).map(move |start| (start, step.min(positions - start)))
}
