//! A student's measures over a whole set.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::{Device, Tensor};

use super::predictions::{PredictionColumns, PredictionWriter};
use super::sums::Sums;
use super::upload::{DeviceBatch, chunks, on_device};
use super::validation::ValidationSet;
use super::{TrainError, command};
use crate::config::MetricConfig;
use crate::loader::{Batch, Order, Samples, Turn, stream};
use crate::loss::Means;
use crate::metrics::{Evaluation, Meter};
use crate::student::Model;

/// Calls `each` with every batch and the model's features of it, in the order of the dataset, until it breaks off.
pub(super) fn for_each_batch(
    model: &dyn Model,
    samples: &std::sync::Arc<Samples>,
    batch: usize,
    device: Device,
    mut each: impl FnMut(&Batch, &DeviceBatch, &Tensor) -> Result<ControlFlow<()>, TrainError>,
) -> Result<(), TrainError> {
    let _guard = tch::no_grad_guard();
    // Whichever rank measures does so alone.
    let turns = stream(samples, Order::Sequential, batch, 2, 0).map(|batch| batch.map(Turn::own));
    for loaded in on_device(samples, turns, 1, device) {
        let mut loaded = loaded?;
        let Some((host, there)) = loaded.own(samples, device) else { continue };
        let features = model.features(&there.inputs)?;
        if each(host, &there, &features)?.is_break() {
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
        for (start, len) in chunks(features, classes) {
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
