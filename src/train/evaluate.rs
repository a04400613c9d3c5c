//! Batches on a device, and a student's measures over a whole set.

use tch::{Device, Kind, Tensor};

use super::TrainError;
use super::setup::ValidationSet;
use crate::loader::{Batch, Inputs, Order, Samples, TokenInputs, stream};
use crate::loss::{Means, TargetTensors};
use crate::metrics::{Evaluation, Meter};
use crate::student::{Input, Model, TokenTensors};

/// Logits of so many classes and positions at once, at most: what bounds memory where there are many of both.
const CHUNK_VALUES: usize = 1 << 23;

/// A batch as tensors.
pub(super) struct DeviceBatch {
    pub(super) inputs: Input,
    /// `[positions]`, int64.
    pub(super) labels: Option<Tensor>,
    pub(super) targets: Option<TargetTensors>,
}

impl DeviceBatch {
    pub(super) fn new(batch: &Batch, image_shape: Option<&[usize]>, device: Device) -> Self {
        let inputs = match &batch.inputs {
            Inputs::Images(images) => {
                let mut shape = vec![batch.ids.len() as i64];
                shape.extend(image_shape.unwrap_or_default().iter().map(|d| *d as i64));
                let images = Tensor::from_slice(images).view(shape.as_slice());
                Input::Images(images.to_kind(Kind::Float).to_device(device))
            }
            Inputs::Tokens(tokens) => Input::Tokens(on_device(tokens, device)),
        };
        Self {
            inputs,
            labels: batch.labels.as_ref().map(|labels| Tensor::from_slice(labels).to_device(device)),
            targets: batch.targets.as_ref().map(|targets| TargetTensors::new(targets, device)),
        }
    }

    /// The positions `start..start + len`: labels and targets.
    pub(super) fn part(&self, start: i64, len: i64) -> (Option<Tensor>, Option<TargetTensors>) {
        let labels = self.labels.as_ref().map(|labels| labels.narrow(0, start, len));
        (labels, self.targets.as_ref().map(|targets| targets.rows(start, len)))
    }
}

/// What the means of several batches together are over.
pub(super) fn means(batches: &[Batch]) -> Means {
    let positions = |batch: &Batch| match &batch.inputs {
        Inputs::Images(_) => batch.ids.len(),
        Inputs::Tokens(tokens) => tokens.positions.len(),
    };
    let labelled = |batch: &Batch| batch.labels.iter().flatten().filter(|label| **label >= 0).count();
    Means { positions: batches.iter().map(positions).sum(), labels: batches.iter().map(labelled).sum() }
}

fn on_device(tokens: &TokenInputs, device: Device) -> TokenTensors {
    let shape = [tokens.rows as i64, tokens.length as i64];
    let tensor = |values: &[i64]| Tensor::from_slice(values).view(shape).to_device(device);
    // The common case, rows of one document and one length, needs no mask.
    let plain = tokens.documents.iter().all(|number| *number == 0);
    TokenTensors {
        tokens: tensor(&tokens.tokens),
        places: tensor(&tokens.places),
        documents: (!plain).then(|| tensor(&tokens.documents)),
        positions: Tensor::from_slice(&tokens.positions).to_device(device),
    }
}

/// Positions, as ranges of a start and a length, of which the logits may exist at once.
pub(super) fn chunks(positions: i64, classes: usize) -> impl Iterator<Item = (i64, i64)> {
    let step = (CHUNK_VALUES / classes.max(1)).max(1) as i64;
    (0..positions).step_by(step as usize).map(move |start| (start, step.min(positions - start)))
}

/// Calls `each` with every batch and the model's features of it, in the order of the dataset.
pub(super) fn for_each_batch(
    model: &dyn Model,
    samples: &std::sync::Arc<Samples>,
    batch: usize,
    device: Device,
    mut each: impl FnMut(&Batch, &DeviceBatch, &Tensor) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let _guard = tch::no_grad_guard();
    for batch in stream(samples, Order::Sequential, batch, 2, 0) {
        let batch = batch?;
        let on_device = DeviceBatch::new(&batch, samples.image_shape(), device);
        let features = model.features(&on_device.inputs)?;
        each(&batch, &on_device, &features)?;
    }
    Ok(())
}

/// Everything that can be measured on `set`.
pub(super) fn evaluate(
    model: &dyn Model,
    set: &ValidationSet,
    batch: usize,
    classes: usize,
    device: Device,
) -> Result<Evaluation, TrainError> {
    let mut meter = Meter::new(set.is_of_tokens());
    for_each_batch(model, &set.samples, batch, device, |_, batch, features| {
        for (start, len) in chunks(features.size()[0], classes) {
            let (labels, targets) = batch.part(start, len);
            let targets = set.kl.as_ref().zip(targets.as_ref());
            meter.add(&model.head(&features.narrow(0, start, len)), labels.as_ref(), targets);
        }
        Ok(())
    })?;
    Ok(meter.finish())
}
