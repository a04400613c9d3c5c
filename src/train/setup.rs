//! Opens everything a run needs, and refuses what does not belong together.

use std::path::Path;
use std::sync::Arc;

use tch::Device;

use super::TrainError;
use crate::cache::{CacheReader, Manifest};
use crate::config::{AugmentConfig, PreprocessConfig, TrainConfig, ValidationConfig};
use crate::dataset::{self, Dataset};
use crate::loader::Samples;
use crate::loss::{KlDivergence, TargetSpace};
use crate::metrics::Metric;
use crate::preprocess::Preprocess;
use crate::target::{TailHandling, Temperature};

/// Training samples and what their targets have in common.
pub(super) struct Training {
    pub(super) samples: Arc<Samples>,
    pub(super) classes: usize,
    pub(super) space: Option<TargetSpace>,
    /// What the student's inputs are made with.
    pub(super) preprocess: PreprocessConfig,
    /// What views there are of each sample.
    pub(super) augment: Option<AugmentConfig>,
}

/// A named validation set.
pub(super) struct ValidationSet {
    pub(super) name: String,
    pub(super) samples: Arc<Samples>,
    /// `KL` at T = 1, where the set has a cache.
    pub(super) kl: Option<KlDivergence>,
    labelled: bool,
}

impl ValidationSet {
    /// What can be measured on it.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let has = |metric: &Metric| match metric {
            Metric::Accuracy | Metric::CrossEntropy => self.labelled,
            Metric::Agreement | Metric::Kl => self.kl.is_some(),
        };
        Metric::ALL.into_iter().filter(has).collect()
    }
}

/// Opens the training samples of `config` and joins them with the cache in `cache`.
pub(super) fn training(config: &TrainConfig, cache: Option<&Path>) -> Result<Training, TrainError> {
    let weights = &config.loss.weights;
    if cache.is_none() && weights.kl > 0.0 {
        return Err(TrainError::NoCache { weight: weights.kl });
    }
    let dataset = dataset::open_images(&config.dataset, "dataset")?;
    if weights.cross_entropy > 0.0 && dataset.labels_digest().is_none() {
        return Err(TrainError::NoLabels { weight: weights.cross_entropy });
    }
    let cache = cache.map(CacheReader::open).transpose()?;
    let given = config.student.classes();
    let classes = match &cache {
        Some(cache) => {
            check_dataset("dataset", dataset.as_ref(), cache)?;
            check_classes(given, cache)?
        }
        None => given.ok_or(TrainError::NoClasses)?,
    };
    dataset::check_labels(dataset.as_ref(), classes)?;
    let preprocess = match (&config.preprocess, &cache) {
        (Some(given), _) => given.clone(),
        (None, Some(cache)) => cache
            .manifest()
            .preprocess
            .as_ref()
            .map(|preprocess| preprocess.config.clone())
            .unwrap_or_default(),
        (None, None) => PreprocessConfig::default(),
    };
    let augment = match &cache {
        Some(cache) => check_views(config.augment.as_ref(), cache)?,
        None => config.augment.clone(),
    };
    let prepared = Preprocess::with_views(&preprocess, augment.as_ref(), dataset.sample_shape())?;
    let space = cache.as_ref().map(target_space);
    let samples = Arc::new(Samples::new(dataset, prepared, cache));
    Ok(Training { samples, classes, space, preprocess, augment })
}

/// Opens a validation set for students of `classes` classes.
pub(super) fn validation(
    name: &str,
    config: &ValidationConfig,
    preprocess: &PreprocessConfig,
    classes: usize,
    tail: TailHandling,
    device: Device,
) -> Result<ValidationSet, TrainError> {
    let dataset = dataset::open_images(&config.dataset, &format!("validation.{name}.dataset"))?;
    dataset::check_labels(dataset.as_ref(), classes)?;
    let cache = config.cache.as_deref().map(CacheReader::open).transpose()?;
    let mut kl = None;
    if let Some(cache) = &cache {
        check_dataset(&format!("validation.{name}.dataset"), dataset.as_ref(), cache)?;
        let key = format!("validation.{name}.cache");
        refuse_views(&key, cache)?;
        refuse_draws(&key, cache)?;
        check_classes(Some(classes), cache)?;
        kl = Some(KlDivergence::new(&target_space(cache), Temperature::ONE, tail, device)?);
    }
    let preprocess = Preprocess::new(preprocess, dataset.sample_shape())?;
    let labelled = dataset.labels_digest().is_some();
    let samples = Arc::new(Samples::new(dataset, preprocess, cache));
    Ok(ValidationSet { name: name.to_owned(), samples, kl, labelled })
}

fn target_space(cache: &CacheReader) -> TargetSpace {
    let manifest = cache.manifest();
    TargetSpace {
        classes: manifest.classes,
        k: manifest.head.k,
        draws: manifest.draws(),
        nodes: manifest.tail.nodes.clone(),
        tail_model: cache.tail_model().cloned(),
    }
}

/// The samples must be the ones the teacher saw, and so must be the labels where both have some.
fn check_dataset(key: &str, dataset: &dyn Dataset, cache: &CacheReader) -> Result<(), TrainError> {
    let Manifest { dataset: cached, samples, .. } = cache.manifest();
    let mismatch = |key: String, cached: String, found: String, hint| {
        Err(TrainError::Mismatch { key, cache: cache.dir().to_owned(), cached, found, hint })
    };
    if dataset.fingerprint() != &cached.fingerprint {
        return mismatch(
            key.to_owned(),
            format!(
                "{samples} samples of shape {:?} with fingerprint {}",
                cached.sample_shape, cached.fingerprint
            ),
            format!(
                "{} samples of shape {:?} with fingerprint {}",
                dataset.len(),
                dataset.sample_shape(),
                dataset.fingerprint()
            ),
            "train on the samples the cache was built over, or build a cache over these",
        );
    }
    if let (Some(found), Some(cached)) = (dataset.labels_digest(), &cached.labels)
        && found != cached
    {
        let hint = "use the labels the cache was built with (a cache built without labels goes with any)";
        return mismatch(format!("{key}.labels"), cached.to_string(), found.to_string(), hint);
    }
    Ok(())
}

fn check_classes(given: Option<usize>, cache: &CacheReader) -> Result<usize, TrainError> {
    let cached = cache.manifest().classes;
    match given {
        Some(given) if given != cached => Err(TrainError::Mismatch {
            key: "student.classes".into(),
            cache: cache.dir().to_owned(),
            cached: format!("{cached} classes"),
            found: format!("{given}"),
            hint: "leave the key out to take the cache's",
        }),
        _ => Ok(cached),
    }
}

/// The views that the teacher saw, which a config need not give and may not change.
fn check_views(
    given: Option<&AugmentConfig>,
    cache: &CacheReader,
) -> Result<Option<AugmentConfig>, TrainError> {
    let cached = cache.manifest().augment.as_ref().map(|augment| &augment.config);
    match given {
        Some(given) if Some(given) != cached => Err(TrainError::Mismatch {
            key: "augment".into(),
            cache: cache.dir().to_owned(),
            cached: words(cached),
            found: words(Some(given)),
            hint: "leave the table out to take the cache's, or build a cache with this one",
        }),
        _ => Ok(cached.cloned()),
    }
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

/// Views in a line.
fn words(augment: Option<&AugmentConfig>) -> String {
    let json = augment.and_then(|augment| serde_json::to_string(augment).ok());
    json.unwrap_or_else(|| "no views".into())
}
