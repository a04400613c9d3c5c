//! Batches on a device, and a student's measures over a whole set.

use tch::{Device, Kind, Tensor};

use super::TrainError;
use super::setup::ValidationSet;
use crate::loader::{Batch, Order, Samples, stream};
use crate::loss::TargetTensors;
use crate::metrics::{Evaluation, Meter};
use crate::student::StudentError;

/// A batch as tensors.
pub(super) struct DeviceBatch {
    /// `[batch, …input shape]`, float.
    pub(super) inputs: Tensor,
    /// `[batch]`, int64.
    pub(super) labels: Option<Tensor>,
    pub(super) targets: Option<TargetTensors>,
}

impl DeviceBatch {
    pub(super) fn new(batch: &Batch, input_shape: &[usize], device: Device) -> Self {
        let mut shape = vec![batch.ids.len() as i64];
        shape.extend(input_shape.iter().map(|d| *d as i64));
        let labels = batch.labels.as_ref().map(|labels| {
            let labels: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
            Tensor::from_slice(&labels).to_device(device)
        });
        Self {
            inputs: Tensor::from_slice(&batch.inputs)
                .view(shape.as_slice())
                .to_kind(Kind::Float)
                .to_device(device),
            labels,
            targets: batch.targets.as_ref().map(|targets| TargetTensors::new(targets, device)),
        }
    }
}

/// A model as evaluation sees it: `[batch, …input shape]` to logits `[batch, classes]`.
pub(super) type Forward<'a> = dyn Fn(&Tensor) -> Result<Tensor, StudentError> + 'a;

/// Calls `each` with every batch and its logits, in the order of the dataset.
pub(super) fn for_each_batch(
    forward: &Forward<'_>,
    samples: &std::sync::Arc<Samples>,
    batch: usize,
    device: Device,
    mut each: impl FnMut(&Batch, &DeviceBatch, &Tensor) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let _guard = tch::no_grad_guard();
    for batch in stream(samples, Order::Sequential, batch, 2) {
        let batch = batch?;
        let on_device = DeviceBatch::new(&batch, samples.input_shape(), device);
        let logits = forward(&on_device.inputs)?;
        each(&batch, &on_device, &logits)?;
    }
    Ok(())
}

/// Everything that can be measured on `set`.
pub(super) fn evaluate(
    forward: &Forward<'_>,
    set: &ValidationSet,
    batch: usize,
    device: Device,
) -> Result<Evaluation, TrainError> {
    let mut meter = Meter::default();
    for_each_batch(forward, &set.samples, batch, device, |_, batch, logits| {
        let targets = set.kl.as_ref().zip(batch.targets.as_ref());
        meter.add(logits, batch.labels.as_ref(), targets);
        Ok(())
    })?;
    Ok(meter.finish())
}
