//! The config of `kd-train sweep`: one training config, and what changes from run to run.

mod keys;
mod points;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Config, ConfigError, Fault, NumberOrAuto, load};

pub use points::Point;

/// Dotted keys of the training config and their values, in the order of the file.
pub type Keys = serde_json::Map<String, Value>;

/// Runs of one sweep, at most: more are a slip of the pen.
const MOST_POINTS: usize = 10_000;
/// The key that is no key of a training config.
const CACHE: &str = "cache";

/// One training config, and what changes from run to run.
///
/// Keys are those of the training config, dotted (`loss.temperature`). A dotted key changes one value; a table in
/// braces is a value, and replaces what the training config has there. `cache` may be swept like any other key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "kd-train sweep configuration")]
pub struct SweepConfig {
    /// The training config that every run begins with. A relative path begins at the sweep's own file.
    pub base: PathBuf,
    /// The cache over the training samples; without it, labels alone are used. A relative path begins at the
    /// sweep's own file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Runs at a time. With `"auto"` the first is alone until it has ended an epoch or worked for a minute; then there are as
    /// many as cores and the memory that it was seen to need have room for, or one where any is on a GPU. Where the training
    /// config gives no `train.threads`, each of several gets its share of the cores when it begins.
    #[serde(default = "one")]
    pub jobs: NumberOrAuto,
    /// What ranks the runs: `train_loss`, or a measure on a validation set, `set.metric`. Default: what chose the
    /// epoch of the first run; where that is `last`, the first measure of its first validation set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_by: Option<String>,
    /// Keys that are changed for all runs.
    #[serde(default, skip_serializing_if = "Keys::is_empty")]
    #[schemars(with = "BTreeMap<String, Value>")]
    pub set: Keys,
    /// Keys with a list of values each: every combination is a run. The first key changes slowest.
    #[serde(default, skip_serializing_if = "Keys::is_empty")]
    #[schemars(with = "BTreeMap<String, Values>")]
    pub grid: Keys,
    /// Keys that change together, one table a run; beside a grid, each with every combination of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<BTreeMap<String, Value>>")]
    pub list: Vec<Keys>,
}

/// The schema of what a key of the grid holds: values, or, as long as its dots are not read as one key, more keys.
struct Values;

impl JsonSchema for Values {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Values".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "array", "items": true }, { "type": "object" }] })
    }
}

fn one() -> NumberOrAuto {
    NumberOrAuto::Of(NonZeroUsize::MIN)
}

/// Reads the sweep's config at `path` with `overrides`: `jobs=2`, `grid.seed=[0, 1]`, `set.train.epochs=3`.
///
/// # Errors
/// As [`load`](super::load()): all faults at once.
pub fn load_sweep(path: &Path, overrides: &[String]) -> Result<SweepConfig, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let origin = path.display().to_string();
    let (tree, faults) = keys::tree(&text, &origin, overrides)?;
    let mut config: SweepConfig = load::checked(tree, faults, &origin)?;
    config.begin_at(path.parent().unwrap_or(Path::new("")));
    Ok(config)
}

impl SweepConfig {
    /// Puts `folder` before relative paths to other files.
    fn begin_at(&mut self, folder: &Path) {
        self.base = folder.join(&self.base);
        self.cache = self.cache.take().map(|cache| folder.join(cache));
        let place = |value: &mut Value| {
            if let Value::String(path) = value {
                *path = folder.join(&*path).display().to_string();
            }
        };
        if let Some(Value::Array(caches)) = self.grid.get_mut(CACHE) {
            caches.iter_mut().for_each(place);
        }
        self.list.iter_mut().filter_map(|keys| keys.get_mut(CACHE)).for_each(place);
    }
}

impl Config for SweepConfig {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.grid.is_empty() && self.list.is_empty() {
            faults.push(Fault::new(
                "grid",
                "missing; expected [grid] or [[list]], what changes from run to run",
            ));
        }
        if self.set.contains_key(CACHE) {
            faults.push(Fault::new("set.cache", "expected cache beside base, or among the keys that change"));
        }
        for (key, values) in &self.grid {
            faults.extend(values_of(&format!("grid.{key}"), values));
            if key == CACHE {
                let items = values.as_array().into_iter().flatten();
                faults.extend(items.flat_map(|value| cache_of("grid.cache", value)));
            }
        }
        for (at, keys) in self.list.iter().enumerate() {
            let key = format!("list[{at}]");
            if keys.is_empty() {
                faults.push(Fault::new(&key, "expected a key that changes, found none"));
            }
            if let Some(before) = self.list[..at].iter().position(|other| other == keys) {
                faults.push(Fault::new(&key, format!("is list[{before}] once more")));
            }
            faults.extend(
                keys.get(CACHE).into_iter().flat_map(|value| cache_of(&format!("{key}.cache"), value)),
            );
        }
        faults.extend(self.twice());
        let points = self.number_of_points();
        if points > MOST_POINTS {
            faults.push(Fault::new("grid", format!("expected at most {MOST_POINTS} runs, found {points}")));
        }
        faults
    }
}

impl SweepConfig {
    /// Keys that are given where what is applied later would replace them: `set`, then `list`, then `grid`.
    fn twice(&self) -> Vec<Fault> {
        let mut given: Vec<(&str, &str)> = self.set.keys().map(|key| ("set", key.as_str())).collect();
        let mut listed: Vec<&str> =
            self.list.iter().flat_map(|keys| keys.keys().map(String::as_str)).collect();
        listed.sort_unstable();
        listed.dedup();
        let mut faults = Vec::new();
        for (of, keys) in [("list", listed), ("grid", self.grid.keys().map(String::as_str).collect())] {
            for key in &keys {
                let inside = |old: &str| {
                    old.strip_prefix(*key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                };
                if let Some((place, old)) = given.iter().find(|(_, old)| inside(old)) {
                    let problem = format!("would replace {place}.{old}; give one of them");
                    faults.push(Fault::new(format!("{of}.{key}"), problem));
                }
            }
            given.extend(keys.into_iter().map(|key| (of, key)));
        }
        faults
    }
}

/// What is wrong with the values of a key of the grid.
fn values_of(key: &str, values: &Value) -> Option<Fault> {
    let Some(values) = values.as_array() else {
        return Some(Fault::new(key, "expected a list, found a table"));
    };
    if values.is_empty() {
        return Some(Fault::new(key, "expected at least one value, found none"));
    }
    let twice = values.iter().enumerate().find(|(at, value)| values[..*at].contains(value));
    twice.map(|(_, value)| Fault::new(key, format!("expected values that differ, found {value} twice")))
}

fn cache_of(key: &str, value: &Value) -> Option<Fault> {
    (!value.is_string()).then(|| Fault::new(key, format!("expected a cache's folder, found {value}")))
}

#[cfg(test)]
mod tests;
