//! Batches on a device, and a student's measures over a whole set.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::{Device, Kind, Tensor};

use super::predictions::{PredictionColumns, PredictionWriter};
use super::setup::ValidationSet;
use super::sums::Sums;
use super::{TrainError, command};
use crate::config::MetricConfig;
use crate::loader::{Batch, Inputs, Order, Samples, TokenInputs, stream};
use crate::loss::{Means, TargetTensors};
use crate::metrics::{Evaluation, Meter};
use crate::student::{Input, Model, TokenTensors};
use crate::target::FeatureBatch;

/// Logits of so many classes and positions at once, at most: what bounds memory where there are many of both.
const CHUNK_VALUES: usize = 1 << 23;

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
                let images = Tensor::from_slice(images).view(shape.as_slice());
                Input::Images(images.to_kind(Kind::Float).to_device(device))
            }
            Inputs::Tokens(tokens) => Input::Tokens(on_device(tokens, device)),
        };
        Self {
            inputs,
            labels: batch.labels.as_ref().map(|labels| Tensor::from_slice(labels).to_device(device)),
            targets: batch.targets.iter().map(|targets| TargetTensors::new(targets, device)).collect(),
            features: batch.features.iter().map(|vectors| on(vectors, device)).collect(),
        }
    }

    /// The positions `start..start + len`: labels and targets.
    pub(super) fn part(&self, start: i64, len: i64) -> (Option<Tensor>, Vec<TargetTensors>) {
        let labels = self.labels.as_ref().map(|labels| labels.narrow(0, start, len));
        (labels, self.targets.iter().map(|targets| targets.rows(start, len)).collect())
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

fn on(vectors: &FeatureBatch, device: Device) -> Tensor {
    let shape = [vectors.rows() as i64, vectors.width as i64];
    Tensor::from_slice(&vectors.values).view(shape).to_device(device)
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

/// Calls `each` with every batch and the model's features of it, in the order of the dataset, until it breaks off.
pub(super) fn for_each_batch(
    model: &dyn Model,
    samples: &std::sync::Arc<Samples>,
    batch: usize,
    device: Device,
    mut each: impl FnMut(&Batch, &DeviceBatch, &Tensor) -> Result<ControlFlow<()>, TrainError>,
) -> Result<(), TrainError> {
    let _guard = tch::no_grad_guard();
    for batch in stream(samples, Order::Sequential, batch, 2, 0) {
        let batch = batch?;
        let on_device = DeviceBatch::new(&batch, samples.image_shape(), device);
        let features = model.features(&on_device.inputs)?;
        if each(&batch, &on_device, &features)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Everything that can be measured on `set`; `None` when `stop` was set.
pub(super) fn evaluate(
    model: &dyn Model,
    set: &ValidationSet,
    batch: usize,
    classes: usize,
    device: Device,
    stop: &AtomicBool,
) -> Result<Option<Evaluation>, TrainError> {
    let mut meter = Meter::new(set.is_of_tokens());
    let mut sums = Sums::default();
    let mut file = ForCommands::open(set)?;
    let mut stopped = false;
    for_each_batch(model, &set.samples, batch, device, |host, batch, features| {
        if stop.load(Ordering::Relaxed) {
            stopped = true;
            return Ok(ControlFlow::Break(()));
        }
        for (start, len) in chunks(features.size()[0], classes) {
            let (labels, targets) = batch.part(start, len);
            let logits = model.head(&features.narrow(0, start, len));
            let range = start as usize..(start + len) as usize;
            if let Some((loss, _)) = &set.loss {
                let of_part = host.labels.iter().flat_map(|labels| &labels[range.clone()]);
                let over =
                    Means { positions: range.len(), labels: of_part.filter(|label| **label >= 0).count() };
                sums.add(&loss.forward(&logits, labels.as_ref(), &targets, over), over, None);
            }
            if let Some(file) = &mut file {
                file.writer.add(host, range.start, &logits)?;
            }
            meter.add(&logits, labels.as_ref(), set.kl.as_ref().zip(targets.first()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if stopped {
        return Ok(None);
    }
    let mut measured = meter.finish();
    measured.loss = set.loss.as_ref().map(|(_, weights)| sums.loss(weights));
    let Some(file) = file else { return Ok(Some(measured)) };
    file.writer.finish()?;
    for (name, config) in &set.commands {
        let key = format!("validation.{}.metrics.{name}", set.name);
        let Some(value) = command::measure(&key, config, &file.path, stop)? else { return Ok(None) };
        measured.of_commands.insert(name.clone(), value);
    }
    Ok(Some(measured))
}

/// The predictions that a set's commands read: a file that is gone with this.
struct ForCommands {
    writer: PredictionWriter,
    path: PathBuf,
    /// What removes it.
    _folder: tempfile::TempDir,
}

impl ForCommands {
    /// `None` where there are no commands.
    fn open(set: &ValidationSet) -> Result<Option<Self>, TrainError> {
        let asked = |config: &MetricConfig| PredictionColumns { top: config.top, logits: config.logits };
        let Some(columns) = set.commands.values().map(asked).reduce(PredictionColumns::and) else {
            return Ok(None);
        };
        let folder = tempfile::Builder::new().prefix("kd-train-").tempdir();
        let folder = folder.map_err(|source| TrainError::Write { path: std::env::temp_dir(), source })?;
        let path = folder.path().join("predictions.parquet");
        Ok(Some(Self {
            writer: PredictionWriter::create(&path, set.is_of_tokens(), set.is_labelled(), columns)?,
            path,
            _folder: folder,
        }))
    }
}
