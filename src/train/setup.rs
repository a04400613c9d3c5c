//! Opens everything a run needs, and refuses what does not belong together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tch::Device;

use super::TrainError;
use crate::cache::{CacheReader, Manifest};
use crate::config::{
    AugmentConfig, FeatureLossConfig, LossConfig, MetricConfig, PreprocessConfig, TermWeights, TrainConfig,
    ValidationConfig,
};
use crate::dataset::{self, Dataset, DatasetError};
use crate::digest::Digest;
use crate::loader::Samples;
use crate::loss::{KlDivergence, LossError, TargetSpace, WeightedLoss};
use crate::metrics::{Measure, Metric};
use crate::preprocess::Preprocess;
use crate::student::{self, Asked, Model};
use crate::target::Temperature;

/// Training samples and what their targets have in common.
pub(super) struct Training {
    pub(super) samples: Arc<Samples>,
    pub(super) classes: usize,
    /// One for each cache.
    pub(super) spaces: Vec<TargetSpace>,
    /// What the student's inputs are made with; `None` where they are tokens.
    pub(super) preprocess: Option<PreprocessConfig>,
    /// What views there are of each sample.
    pub(super) augment: Option<AugmentConfig>,
    /// Widths of the teacher's features that terms are on, a term each.
    pub(super) widths: Vec<i64>,
}

impl Training {
    /// What the student is asked with. Classes are called as the samples' are where these count: where labels are learned from, or there are
    /// as many as of the teacher; of a folder that only holds images, its folders' names mean nothing.
    pub(super) fn knows(&self, loss: &LossConfig) -> Knows<'_> {
        let count = |names: &&[String]| loss.weights.of_labels().is_some() || names.len() == self.classes;
        Knows {
            preprocess: self.preprocess.as_ref(),
            classes: self.classes,
            class_names: self.samples.class_names().filter(count),
            measured: true,
        }
    }
}

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

/// Opens the training samples of `config` and joins them with the caches in `caches`.
pub(super) fn training(config: &TrainConfig, caches: &[PathBuf]) -> Result<Training, TrainError> {
    let weights = &config.loss.weights;
    let cache = caches.first();
    if let (None, Some((name, weight))) = (cache, weights.first_of_targets()) {
        return Err(TrainError::NoCache { name, weight });
    }
    if let (None, [feature, ..]) = (cache, &config.loss.features[..]) {
        return Err(TrainError::NoFeatureCache { name: feature.name.clone() });
    }
    let cache = cache.map(|path| CacheReader::open(path)).transpose()?;
    let further = match &cache {
        Some(first) => further(first, &caches[1..])?,
        None => Vec::new(),
    };
    match cache {
        Some(cache) if cache.manifest().dataset.tokens.is_some() => {
            training_on_tokens(config, cache, further)
        }
        cache => training_on_images(config, cache, further),
    }
}

/// Opens the caches of further teachers, which must be over the samples of the `first`.
fn further(first: &CacheReader, caches: &[PathBuf]) -> Result<Vec<CacheReader>, TrainError> {
    let open = |path: &PathBuf| {
        let cache = CacheReader::open(path)?;
        let says = |cache: &CacheReader| {
            let Manifest { dataset, samples, classes, augment, .. } = cache.manifest();
            let views = words(augment.as_ref().map(|augment| &augment.config));
            let fingerprint = &dataset.fingerprint;
            format!("{samples} samples with fingerprint {fingerprint}, {classes} classes, {views}")
        };
        let (cached, found) = (says(&cache), says(first));
        if cached == found {
            return Ok(cache);
        }
        let found = format!("{found} in {}", first.dir().display());
        let hint = "build all caches over the same samples, classes and views";
        Err(TrainError::Mismatch { key: "--cache".into(), cache: path.clone(), cached, found, hint })
    };
    caches.iter().map(open).collect()
}

/// What the targets of the caches have in common, one for each.
fn spaces<'a>(
    first: impl IntoIterator<Item = &'a CacheReader>,
    further: &'a [CacheReader],
) -> Vec<TargetSpace> {
    first.into_iter().chain(further).map(target_space).collect()
}

/// The rows of tokens that `cache` keeps.
fn training_on_tokens(
    config: &TrainConfig,
    cache: CacheReader,
    further: Vec<CacheReader>,
) -> Result<Training, TrainError> {
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
    let spaces = spaces([&cache], &further);
    let targets = config.loss.weights.of_targets();
    let (places, widths) = features(config, &cache)?;
    let samples = Arc::new(Samples::tokens(cache, targets).with_further(further).with_features(places));
    Ok(Training { samples, classes, spaces, preprocess: None, augment: None, widths })
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

/// Images, and the caches over them.
fn training_on_images(
    config: &TrainConfig,
    cache: Option<CacheReader>,
    further: Vec<CacheReader>,
) -> Result<Training, TrainError> {
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
    let spaces = spaces(&cache, &further);
    let found = cache.as_ref().map(|cache| features(config, cache)).transpose()?;
    let (places, widths) = found.unwrap_or_default();
    let samples = Samples::images(dataset, prepared, cache).with_further(further).with_features(places);
    Ok(Training {
        samples: Arc::new(samples),
        classes,
        spaces,
        preprocess: Some(preprocess),
        augment,
        widths,
    })
}

/// What a student is asked with.
pub(super) struct Knows<'a> {
    /// How images are prepared; `None` where it reads tokens.
    pub(super) preprocess: Option<&'a PreprocessConfig>,
    /// Classes that it tells apart.
    pub(super) classes: usize,
    /// What they are called, where that is known.
    pub(super) class_names: Option<&'a [String]>,
    /// Whether it is measured, for which labels must count as its classes do. What is only predicted may have others.
    pub(super) measured: bool,
}

/// Opens a validation set for a student.
pub(super) fn validation(
    name: &str,
    config: &ValidationConfig,
    student: &Knows<'_>,
    loss: &LossConfig,
    device: Device,
) -> Result<ValidationSet, TrainError> {
    let Knows { preprocess, classes, class_names, measured } = *student;
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
        return opened(Arc::new(Samples::tokens(cache, true)), Some(&space), true);
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

/// Where the features of `loss.features` are in the cache's manifest, and their widths.
fn features(config: &TrainConfig, cache: &CacheReader) -> Result<(Vec<usize>, Vec<i64>), TrainError> {
    let kept = &cache.manifest().features;
    let find = |wanted: &FeatureLossConfig| {
        let place = kept.iter().position(|feature| feature.name == wanted.name);
        let place = place.ok_or_else(|| TrainError::NoFeature {
            name: wanted.name.clone(),
            cache: cache.dir().to_owned(),
            known: kept.iter().map(|feature| feature.name.clone()).collect::<Vec<_>>().join(", "),
        })?;
        Ok((place, kept[place].width as i64))
    };
    config.loss.features.iter().map(find).collect()
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
        let told = |samples: u64, shape: &[usize], fingerprint: &Digest| {
            // A folder's images have any height and width.
            let shape = if shape.contains(&0) { "any size".to_owned() } else { format!("shape {shape:?}") };
            format!("{samples} samples of {shape} with fingerprint {fingerprint}")
        };
        return mismatch(
            key.to_owned(),
            told(*samples, &cached.sample_shape, &cached.fingerprint),
            told(dataset.len(), dataset.sample_shape(), dataset.fingerprint()),
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
