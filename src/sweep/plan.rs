//! The runs of a sweep, every config checked before the first of them starts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::report::PointReport;
use super::{SweepError, SweepFolder};
use crate::cache::CacheReader;
use crate::config::{ConfigError, Fault, Point, SweepConfig, TrainConfig, load_str};
use crate::target::Temperature;
use crate::train::{FoundRun, RunCaches, RunFolder, TrainReport, difference};

/// The key of the cache among those that change.
const CACHE: &str = "cache";
/// Points that are named for a fault.
const NAMED: usize = 2;
/// Keys that a run that exists may have otherwise: none of them changes what it computes.
const FREE: [&str; 7] = [
    "train.device",
    "train.threads",
    "train.prefetch",
    "train.keep_every",
    "tracking.every",
    "tracking.tensorboard",
    "tracking.mlflow",
];

/// A point, ready to run.
pub(super) struct Planned {
    pub(super) point: Point,
    pub(super) config: TrainConfig,
    pub(super) cache: Option<PathBuf>,
    /// What a run with `cache` is begun with.
    caches: RunCaches,
    pub(super) cache_bytes: Option<u64>,
    pub(super) found: FoundRun,
}

/// Every point of `config`.
///
/// # Errors
/// [`SweepError`]: all faults of all points at once, or a cache that cannot be read.
pub(super) fn points(config: &SweepConfig) -> Result<Vec<Planned>, SweepError> {
    let text = fs::read_to_string(&config.base)
        .map_err(|source| SweepError::Base { path: config.base.clone(), source })?;
    let origin = config.base.display().to_string();
    let (mut planned, mut faults) = (Vec::new(), Faults::default());
    for point in config.points() {
        let cache = match point.keys.get(CACHE) {
            Some(Value::String(cache)) => Some(PathBuf::from(cache)),
            _ => config.cache.clone(),
        };
        let all = config.set.iter().chain(&point.keys).filter(|(key, _)| *key != CACHE);
        match load_str::<TrainConfig>(&text, &origin, &overrides(all)) {
            Ok(train) => {
                if let (None, Some((name, weight))) = (&cache, train.loss.weights.first_of_targets()) {
                    let problem =
                        format!("is {weight}, but there is no cache; give cache, or set the weight to 0");
                    faults.add(Fault::new(format!("loss.weights.{name}"), problem).to_string(), &point.name);
                }
                let found = FoundRun::Nothing;
                let caches = RunCaches::default();
                planned.push(Planned { point, config: train, cache, caches, cache_bytes: None, found });
            }
            Err(ConfigError::Faults { faults: found, .. }) => {
                found.iter().for_each(|fault| faults.add(fault.to_string(), &point.name));
            }
            Err(error @ ConfigError::Override { .. }) => faults.add(error.to_string(), &point.name),
            Err(error) => return Err(error.into()),
        }
    }
    std::mem::take(&mut faults).none(&config.base, config.points().len())?;
    let mut known = BTreeMap::new();
    for planned in &mut planned {
        let Some(cache) = &planned.cache else { continue };
        if !known.contains_key(cache) {
            let reader = CacheReader::open(cache)?;
            let caches = RunCaches::of([&reader])?;
            known.insert(cache.clone(), (reader.manifest().clone(), caches));
        }
        if let Some((manifest, caches)) = known.get(cache) {
            planned.cache_bytes = Some(manifest.bytes());
            planned.caches.clone_from(caches);
            let loss = &planned.config.loss;
            let of_targets = loss.weights.of_targets();
            let mut ends = loss.temperature.ends().to_vec();
            ends.dedup();
            for temperature in ends.into_iter().filter(|_| of_targets) {
                let refused = Temperature::new(temperature).ok().map(|at| manifest.require_covered(at));
                if let Some(Err(refused)) = refused {
                    faults.add(
                        Fault::new("loss.temperature", refused.to_string()).to_string(),
                        &planned.point.name,
                    );
                }
            }
        }
    }
    faults.none(&config.base, config.points().len())?;
    Ok(planned)
}

/// Keys with their values as `--set` takes them.
fn overrides<'a>(keys: impl Iterator<Item = (&'a String, &'a Value)>) -> Vec<String> {
    // What TOML has no word for came from no TOML.
    let word =
        |value: &Value| toml::Value::try_from(value).map_or_else(|_| value.to_string(), |v| v.to_string());
    keys.map(|(key, value)| format!("{key}={}", word(value))).collect()
}

/// What is wrong with points; the same fault of many is told once.
#[derive(Default)]
struct Faults(BTreeMap<String, Vec<String>>);

impl Faults {
    fn add(&mut self, fault: String, point: &str) {
        self.0.entry(fault).or_default().push(point.to_owned());
    }

    fn none(self, base: &Path, points: usize) -> Result<(), SweepError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let noun = if self.0.len() == 1 { "fault" } else { "faults" };
        let mut faults = vec![format!("{} {noun}", self.0.len())];
        for (fault, names) in self.0 {
            let more = match names.len().saturating_sub(NAMED) {
                _ if names.len() == points => " (in every run)".to_owned(),
                0 => format!(" (in {})", names.join(" and ")),
                more => format!(" (in {} and {more} more)", names[..NAMED].join(", ")),
            };
            faults.push(fault + &more);
        }
        Err(SweepError::Points { base: base.to_owned(), faults })
    }
}

impl Planned {
    /// Looks for the run in `folder`, and refuses one that was begun with something else.
    ///
    /// # Errors
    /// [`SweepError::Changed`], [`SweepError::Read`], [`SweepError::Run`].
    pub(super) fn look(
        &mut self,
        folder: &SweepFolder,
        earlier: Option<&PointReport>,
    ) -> Result<(), SweepError> {
        let run = RunFolder::new(&folder.run(&self.point.name));
        self.found = run.found()?;
        if self.found == FoundRun::Nothing {
            return Ok(());
        }
        let path = folder.config(&self.point.name);
        let read = |source| SweepError::Read { path: path.clone(), source };
        let text = fs::read_to_string(&path).map_err(read)?;
        let begun: toml::Value = toml::from_str(&text).map_err(|error| read(std::io::Error::other(error)))?;
        let now = toml::Value::try_from(&self.config).map_err(|error| read(std::io::Error::other(error)))?;
        let changed = |key: String, kept: String, found: String| {
            Err(SweepError::Changed { path: folder.run(&self.point.name), key, kept, found })
        };
        if let Some((key, kept, found)) = difference(&begun, &now, &FREE) {
            return changed(key, kept, found);
        }
        // Also of a run that is done, which no longer looks for itself.
        if let Some(kept) = RunCaches::read(&run)? {
            if !kept.are(&self.caches) {
                return changed(CACHE.into(), kept.to_string(), self.caches.to_string());
            }
            return Ok(());
        }
        // A run that was begun before it kept what its cache was: its place has to do.
        let of_sweep = earlier.map(|point| point.cache.clone());
        let Some(kept) = of_sweep.or_else(|| cache_of_run(&run)) else {
            return Ok(());
        };
        let (kept, found) = (kept.as_deref().map(Path::new), self.cache.as_deref());
        if !same_folder(kept, found) {
            let word = |path: Option<&Path>| path.map_or("none".into(), |path| path.display().to_string());
            return changed(CACHE.into(), word(kept), word(found));
        }
        Ok(())
    }

    /// Writes down what the run is begun with.
    pub(super) fn write_config(&self, folder: &SweepFolder) -> Result<(), SweepError> {
        let path = folder.config(&self.point.name);
        let text = toml::to_string(&self.config).map_err(std::io::Error::other);
        text.and_then(|text| crate::durable::write_file(&path, text.as_bytes()))
            .map_err(|source| SweepError::Write { path, source })
    }
}

/// The cache that a run's summary names, if there is a summary.
fn cache_of_run(run: &RunFolder) -> Option<Option<String>> {
    let text = fs::read(run.summary()).ok()?;
    let report: TrainReport = serde_json::from_slice(&text).ok()?;
    Some(report.cache)
}

/// Whether both are the same folder, by whatever way.
fn same_folder(a: Option<&Path>, b: Option<&Path>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
        }
        (None, None) => true,
        _ => false,
    }
}

/// Runs in the folder that are no points any more.
pub(super) fn left_over(folder: &SweepFolder, points: &[Planned]) -> usize {
    let entries = folder.run("").read_dir().into_iter().flatten().flatten();
    entries
        .filter(|entry| !points.iter().any(|planned| entry.file_name() == planned.point.name.as_str()))
        .count()
}
