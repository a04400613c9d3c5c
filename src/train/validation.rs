//! Validation sets, opened and checked against the student that is to be measured on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tch::Device;

use super::setup::{Knows, check_dataset, target_space, words};
use super::{TrainError, responses as of_responses};
use crate::cache::CacheReader;
use crate::config::{LossConfig, MetricConfig, TermWeights, ValidationConfig};
use crate::dataset::{self, DatasetError};
use crate::loader::Samples;
use crate::loss::{KlDivergence, TargetSpace, WeightedLoss};
use crate::metrics::{Measure, Metric};
use crate::preprocess::Preprocess;
use crate::student::{self, Asked, Model};
use crate::target::Temperature;

/// A named validation set.
pub(super) struct ValidationSet {
    pub(super) name: String,
    pub(super) samples: Arc<Samples>,
    /// `KL` at T = 1, where the set has a cache.
    pub(super) kl: Option<KlDivergence>,
    /// What training minimises, where it can be computed here, and the weights of its terms.
    pub(super) loss: Option<(WeightedLoss, TermWeights)>,
    /// Measures that programs compute.
    pub(super) commands: BTreeMap<String, MetricConfig>,
    classes: usize,
    labelled: bool,
}

impl ValidationSet {
    /// Whether its samples are rows of tokens.
    pub(super) fn is_of_tokens(&self) -> bool {
        self.samples.image_shape().is_none()
    }

    /// Whether samples have labels; of tokens, the next one is.
    pub(super) fn is_labelled(&self) -> bool {
        self.labelled
    }

    /// Refuses images that `model` cannot be asked about, before anything has been learned or written.
    pub(super) fn check(&self, model: &dyn Model, device: Device) -> Result<(), TrainError> {
        let Some(shape) = self.samples.image_shape() else { return Ok(()) };
        student::try_out(model, Asked::Images(shape), self.classes as i64, device)
            .map_err(|source| TrainError::Set { set: self.name.clone(), shape: shape.to_vec(), source })
    }

    /// What can be measured on it, the commands' measures last.
    pub(super) fn measures(&self) -> Vec<Measure> {
        let has = |metric: &Metric| match metric {
            Metric::Accuracy | Metric::CrossEntropy | Metric::CalibrationError => self.labelled,
            Metric::AccuracyTop5 => self.labelled && self.classes > 5,
            Metric::F1 | Metric::F1Weighted => self.labelled && !self.is_of_tokens(),
            Metric::Loss => self.loss.is_some(),
            Metric::Perplexity => self.is_of_tokens(),
            Metric::Agreement | Metric::Kl => self.kl.is_some(),
            Metric::Acceptance => {
                self.is_of_tokens() && self.kl.as_ref().is_some_and(KlDivergence::is_of_every_class)
            }
        };
        let own = Metric::ALL.into_iter().filter(has).map(Measure::from);
        let of_commands = self.commands.iter().map(|(name, command)| Measure::of_command(name, command));
        own.chain(of_commands).collect()
    }
}

/// Opens a validation set for a student.
pub(super) fn open(
    name: &str,
    config: &ValidationConfig,
    student: &Knows<'_>,
    loss: &LossConfig,
    device: Device,
) -> Result<ValidationSet, TrainError> {
    let Knows { preprocess, classes, class_names, responses, measured } = *student;
    check_names(name, &config.metrics)?;
    let in_set = |source| TrainError::InSet { set: name.to_owned(), source: Box::new(source) };
    let cache = config.cache.as_deref().map(CacheReader::open).transpose().map_err(|e| in_set(e.into()))?;
    let of_tokens = cache.as_ref().is_some_and(|cache| cache.manifest().dataset.tokens.is_some());
    let key = format!("validation.{name}");
    let opened = |samples, space: Option<&TargetSpace>, labelled| {
        let kl =
            space.map(|space| KlDivergence::new(space, Temperature::ONE, loss.tail, device)).transpose()?;
        Ok(ValidationSet {
            name: name.to_owned(),
            samples,
            kl,
            loss: loss_on(loss, space, labelled, device),
            commands: config.metrics.clone(),
            classes,
            labelled,
        })
    };
    let problem = match (preprocess, of_tokens) {
        (None, false) => "expected the cache of a set of tokens, because the student is a language model",
        (Some(_), true) => "is a cache of tokens, and the student learns from images",
        _ if of_tokens && config.dataset.is_some() => "its cache keeps the tokens; leave dataset out",
        _ => "",
    };
    if !problem.is_empty() {
        return Err(TrainError::OfTokens { key, problem: problem.into() });
    }
    if let Some(cache) = cache.as_ref().filter(|_| of_tokens) {
        check_set_classes(&format!("{key}.cache"), classes, cache)?;
        refuse_draws(&format!("{key}.cache"), cache)?;
    }
    if of_tokens && let Some(cache) = cache {
        let space = target_space(&cache);
        let samples = Samples::tokens(cache, true).with_responses(responses.cloned());
        of_responses::told(&samples).map_err(in_set)?;
        return opened(Arc::new(samples), Some(&space), true);
    }
    let dataset = config.dataset.as_ref().ok_or(TrainError::NoDataset)?;
    let dataset_key = format!("{key}.dataset");
    let opened_images = dataset::open_images(dataset, &dataset_key).and_then(|dataset| match class_names {
        Some(names) => dataset::with_classes_of(dataset, names, measured.then_some(&dataset_key)),
        None => Ok(dataset),
    });
    let dataset = opened_images.map_err(|error| match error {
        DatasetError::Kind { .. } | DatasetError::ClassName { .. } => error.into(),
        _ => in_set(error.into()),
    })?;
    dataset::check_labels(dataset.as_ref(), classes).map_err(|error| in_set(error.into()))?;
    if let Some(cache) = &cache {
        check_dataset(&dataset_key, dataset.as_ref(), cache)?;
        let key = format!("{key}.cache");
        refuse_views(&key, cache)?;
        refuse_draws(&key, cache)?;
        check_set_classes(&key, classes, cache)?;
    }
    let preprocess = preprocess.cloned().unwrap_or_default();
    let preprocess =
        Preprocess::new(&preprocess, dataset.sample_shape()).map_err(|error| in_set(error.into()))?;
    let labelled = dataset.labels_digest().is_some();
    let space = cache.as_ref().map(target_space);
    opened(Arc::new(Samples::images(dataset, preprocess, cache)), space.as_ref(), labelled)
}

/// What training minimises in the end, where a set has the targets and the labels that its terms need, its cache knows
/// them at the temperature, and a part of the samples has a value of its own.
fn loss_on(
    config: &LossConfig,
    space: Option<&TargetSpace>,
    labelled: bool,
    device: Device,
) -> Option<(WeightedLoss, TermWeights)> {
    let mut config = config.settled();
    // Of teachers: a set has the targets of one.
    config.mixture.weights.clear();
    let weights = &config.weights;
    if (weights.of_targets() && space.is_none()) || (weights.of_labels().is_some() && !labelled) {
        return None;
    }
    if config.of_whole_batch() || !config.features.is_empty() || !config.returned.is_empty() {
        return None;
    }
    let loss =
        WeightedLoss::new(&config, space.map(std::slice::from_ref).unwrap_or_default(), device).ok()?;
    Some((loss, weights.map(|weight| weight.largest())))
}

/// A command's measure is called otherwise than what is measured anyway.
fn check_names(set: &str, commands: &BTreeMap<String, MetricConfig>) -> Result<(), TrainError> {
    let own = || Metric::ALL.into_iter().map(Metric::as_str).chain(["samples"]);
    match commands.keys().find(|name| own().any(|own| own == name.as_str())) {
        Some(name) => Err(TrainError::MetricName { set: set.to_owned(), name: name.clone() }),
        None => Ok(()),
    }
}

/// The same of a set's cache, `key`, where the student's classes are settled.
fn check_set_classes(key: &str, classes: usize, cache: &CacheReader) -> Result<(), TrainError> {
    let cached = cache.manifest().classes;
    if cached == classes {
        return Ok(());
    }
    Err(TrainError::Mismatch {
        key: key.to_owned(),
        cache: cache.dir().to_owned(),
        cached: format!("{cached} classes"),
        found: format!("a student of {classes} classes"),
        hint: "give a cache of the same teacher's",
    })
}

/// Students are measured on samples as they are.
fn refuse_views(key: &str, cache: &CacheReader) -> Result<(), TrainError> {
    let Some(augment) = &cache.manifest().augment else { return Ok(()) };
    Err(TrainError::Mismatch {
        key: key.to_owned(),
        cache: cache.dir().to_owned(),
        cached: words(Some(&augment.config)),
        found: "samples as they are, which students are measured on".into(),
        hint: "build a cache of this set without [augment]",
    })
}

/// Students are measured against what a teacher says, not against draws from it.
fn refuse_draws(key: &str, cache: &CacheReader) -> Result<(), TrainError> {
    let Some(draws) = cache.manifest().draws() else { return Ok(()) };
    Err(TrainError::Mismatch {
        key: key.to_owned(),
        cache: cache.dir().to_owned(),
        cached: format!(
            "{} draws from each softmax at temperature {}",
            draws.number(),
            draws.temperature().get()
        ),
        found: "whole targets, which the KL to the teacher is measured against".into(),
        hint: "build a cache of this set with head.k, or leave validation's cache out",
    })
}
