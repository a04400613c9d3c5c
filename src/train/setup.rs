//! Opens everything a run needs, and refuses what does not belong together.

use std::path::Path;
use std::sync::Arc;

use tch::Device;

use super::TrainError;
use crate::cache::{CacheReader, Manifest};
use crate::config::{AugmentConfig, PreprocessConfig, TrainConfig, ValidationConfig};
use crate::dataset::{self, Dataset, DatasetError};
use crate::loader::Samples;
use crate::loss::{KlDivergence, LossError, TargetSpace};
use crate::metrics::Metric;
use crate::preprocess::Preprocess;
use crate::target::{TailHandling, Temperature};

/// Training samples and what their targets have in common.
pub(super) struct Training {
    pub(super) samples: Arc<Samples>,
    pub(super) classes: usize,
    pub(super) space: Option<TargetSpace>,
    /// What the student's inputs are made with; `None` where they are tokens.
    pub(super) preprocess: Option<PreprocessConfig>,
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
    /// Whether its samples are rows of tokens.
    pub(super) fn is_of_tokens(&self) -> bool {
        self.samples.image_shape().is_none()
    }

    /// What can be measured on it.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let has = |metric: &Metric| match metric {
            Metric::Accuracy | Metric::CrossEntropy | Metric::CalibrationError => self.labelled,
            Metric::Perplexity => self.is_of_tokens(),
            Metric::Agreement | Metric::Kl => self.kl.is_some(),
            Metric::Acceptance => self.kl.is_some() && self.is_of_tokens(),
        };
        Metric::ALL.into_iter().filter(has).collect()
    }
}

/// Opens the training samples of `config` and joins them with the cache in `cache`.
pub(super) fn training(config: &TrainConfig, cache: Option<&Path>) -> Result<Training, TrainError> {
    let weights = &config.loss.weights;
    if let (None, Some((name, weight))) = (cache, weights.first_of_targets()) {
        return Err(TrainError::NoCache { name, weight });
    }
    let cache = cache.map(CacheReader::open).transpose()?;
    match cache {
        Some(cache) if cache.manifest().dataset.tokens.is_some() => training_on_tokens(config, cache),
        cache => training_on_images(config, cache),
    }
}

/// The rows of tokens that `cache` keeps.
fn training_on_tokens(config: &TrainConfig, cache: CacheReader) -> Result<Training, TrainError> {
    for (key, given) in [
        ("dataset", config.dataset.is_some()),
        ("preprocess", config.preprocess.is_some()),
        ("augment", config.augment.is_some()),
    ] {
        if given {
            let problem =
                format!("{} keeps the tokens it was built over; leave the key out", cache.dir().display());
            return Err(TrainError::OfTokens { key: key.into(), problem });
        }
    }
    if config.loss.of_whole_batch() {
        return Err(LossError::InParts { gamma: config.loss.dist.gamma }.into());
    }
    check_tokenizer(config, &cache)?;
    let classes = check_classes(config.student.classes(), &cache)?;
    let space = Some(target_space(&cache));
    let targets = config.loss.weights.of_targets();
    let samples = Arc::new(Samples::tokens(cache, targets));
    Ok(Training { samples, classes, space, preprocess: None, augment: None })
}

/// The tokenizer must give the ids that the teacher saw.
fn check_tokenizer(config: &TrainConfig, cache: &CacheReader) -> Result<(), TrainError> {
    let Some(path) = &config.tokenizer else { return Ok(()) };
    let found = dataset::Tokenizer::open(path).map_err(DatasetError::from)?.identity().digest.clone();
    let cached = cache.manifest().dataset.tokens.as_ref().and_then(|tokens| tokens.tokenizer.as_ref());
    match cached {
        Some(cached) if *cached != found => Err(TrainError::Mismatch {
            key: "tokenizer".into(),
            cache: cache.dir().to_owned(),
            cached: format!("tokens of {cached}"),
            found: format!("{found} in {}", path.display()),
            hint: "give the teacher's own tokenizer.json",
        }),
        _ => Ok(()),
    }
}

/// Images, and the cache over them.
fn training_on_images(config: &TrainConfig, cache: Option<CacheReader>) -> Result<Training, TrainError> {
    let weights = &config.loss.weights;
    if let Some(path) = &config.tokenizer {
        let problem = format!(
            "{} is of a cache of tokens, and the samples are images; leave the key out",
            path.display()
        );
        return Err(TrainError::OfTokens { key: "tokenizer".into(), problem });
    }
    let dataset = config.dataset.as_ref().ok_or(TrainError::NoDataset)?;
    let dataset = dataset::open_images(dataset, "dataset")?;
    if let Some((name, weight)) = weights.of_labels().filter(|_| dataset.labels_digest().is_none()) {
        return Err(TrainError::NoLabels { name, weight });
    }
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
    let samples = Arc::new(Samples::images(dataset, prepared, cache));
    Ok(Training { samples, classes, space, preprocess: Some(preprocess), augment })
}

/// Opens a validation set for students of `classes` classes.
pub(super) fn validation(
    name: &str,
    config: &ValidationConfig,
    preprocess: Option<&PreprocessConfig>,
    classes: usize,
    tail: TailHandling,
    device: Device,
) -> Result<ValidationSet, TrainError> {
    let cache = config.cache.as_deref().map(CacheReader::open).transpose()?;
    let of_tokens = cache.as_ref().is_some_and(|cache| cache.manifest().dataset.tokens.is_some());
    let key = format!("validation.{name}");
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
        check_classes(Some(classes), cache)?;
        refuse_draws(&format!("{key}.cache"), cache)?;
    }
    if of_tokens && let Some(cache) = cache {
        let kl = Some(KlDivergence::new(&target_space(&cache), Temperature::ONE, tail, device)?);
        let samples = Arc::new(Samples::tokens(cache, true));
        return Ok(ValidationSet { name: name.to_owned(), samples, kl, labelled: true });
    }
    let dataset = config.dataset.as_ref().ok_or(TrainError::NoDataset)?;
    let dataset = dataset::open_images(dataset, &format!("{key}.dataset"))?;
    dataset::check_labels(dataset.as_ref(), classes)?;
    let mut kl = None;
    if let Some(cache) = &cache {
        check_dataset(&format!("validation.{name}.dataset"), dataset.as_ref(), cache)?;
        let key = format!("{key}.cache");
        refuse_views(&key, cache)?;
        refuse_draws(&key, cache)?;
        check_classes(Some(classes), cache)?;
        kl = Some(KlDivergence::new(&target_space(cache), Temperature::ONE, tail, device)?);
    }
    let preprocess =
        Preprocess::new(preprocess.unwrap_or(&PreprocessConfig::default()), dataset.sample_shape())?;
    let labelled = dataset.labels_digest().is_some();
    let samples = Arc::new(Samples::images(dataset, preprocess, cache));
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
