//! Opens what a run learns from, and refuses what does not belong together.

use std::path::PathBuf;
use std::sync::Arc;

use super::{TrainError, responses};
use crate::cache::{CacheReader, Manifest};
use crate::config::{AugmentConfig, FeatureLossConfig, LossConfig, PreprocessConfig, TrainConfig};
use crate::dataset::{self, Dataset, DatasetError};
use crate::digest::Digest;
use crate::loader::{Responses, Samples};
use crate::loss::{LossError, TargetSpace};
use crate::preprocess::Preprocess;

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

/// What a student is asked with.
pub(super) struct Knows<'a> {
    /// How images are prepared; `None` where it reads tokens.
    pub(super) preprocess: Option<&'a PreprocessConfig>,
    /// Classes that it tells apart.
    pub(super) classes: usize,
    /// What they are called, where that is known.
    pub(super) class_names: Option<&'a [String]>,
    /// What of tokens it is asked about, where not about all.
    pub(super) responses: Option<&'a Responses>,
    /// Whether it is measured, for which labels must count as its classes do. What is only predicted may have others.
    pub(super) measured: bool,
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
            responses: self.samples.responses(),
            measured: true,
        }
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
    let samples = Samples::tokens(cache, targets).with_further(further).with_features(places);
    let samples = samples.with_responses(responses::of_config(config)?);
    Ok(Training {
        samples: Arc::new(part(config, samples)?),
        classes,
        spaces,
        preprocess: None,
        augment: None,
        widths,
    })
}

/// As many of `samples` as are to be learned from.
fn part(config: &TrainConfig, samples: Samples) -> Result<Samples, TrainError> {
    match config.train.max_samples {
        None => Ok(samples),
        Some(count) if count <= samples.len() => Ok(samples.with_part(count, config.seed)),
        Some(count) => Err(TrainError::Part { count, samples: samples.len() }),
    }
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
    if config.responses.is_some() {
        let problem = "is of a cache of tokens, and the samples are images; leave the key out".into();
        return Err(TrainError::OfTokens { key: "responses".into(), problem });
    }
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
        samples: Arc::new(part(config, samples)?),
        classes,
        spaces,
        preprocess: Some(preprocess),
        augment,
        widths,
    })
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

pub(super) fn target_space(cache: &CacheReader) -> TargetSpace {
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
pub(super) fn check_dataset(key: &str, dataset: &dyn Dataset, cache: &CacheReader) -> Result<(), TrainError> {
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

/// Views in a line.
pub(super) fn words(augment: Option<&AugmentConfig>) -> String {
    let json = augment.and_then(|augment| serde_json::to_string(augment).ok());
    json.unwrap_or_else(|| "no views".into())
}
