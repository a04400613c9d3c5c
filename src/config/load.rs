//! From TOML text and overrides to a checked config.

use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::check::check_tree;
use super::fault::lies_in;
use super::mend::Mender;
use super::{ConfigError, Fault};

/// A config that can be checked beyond the types of its values.
pub trait Config: DeserializeOwned + JsonSchema {
    /// Everything that is wrong with the values, each by itself or against another.
    fn validate(&self) -> Vec<Fault>;
}

/// Reads the config at `path` with `overrides` (each `key=value`, the value TOML or a bare word).
///
/// # Errors
/// [`ConfigError`]: the file is missing or no TOML, an override is malformed, or the values are
/// wrong, in which case all faults are listed.
pub fn load<C: Config>(path: &Path, overrides: &[String]) -> Result<C, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    load_str(&text, &path.display().to_string(), overrides)
}

/// Reads a config from `text`; `origin` names it in errors.
///
/// # Errors
/// As [`load`], but for reading.
pub fn load_str<C: Config>(text: &str, origin: &str, overrides: &[String]) -> Result<C, ConfigError> {
    let mut table: toml::Table = text
        .parse()
        .map_err(|source| ConfigError::Syntax { origin: origin.to_owned(), source: Box::new(source) })?;
    for given in overrides {
        apply_override(&mut table, given)?;
    }
    let mut faults = Vec::new();
    let tree = to_json(toml::Value::Table(table), "", &mut faults);
    checked(tree, faults, origin)
}

/// The config that `tree` is, unless there are `faults` already or more are found.
pub(super) fn checked<C: Config>(
    tree: Value,
    mut faults: Vec<Fault>,
    origin: &str,
) -> Result<C, ConfigError> {
    let schema = schemars::schema_for!(C);
    check_tree(&tree, schema.as_value(), &mut faults);
    let mut mender = Mender::new(&tree, schema.as_value());
    loop {
        let mut mended = mender.mended(&tree).into_iter();
        let refused = match mended.next().map(read::<C>) {
            Some(Ok(config)) => {
                let more = config.validate();
                if more.is_empty() && faults.is_empty() {
                    return Ok(config);
                }
                let more = standing::<C>(more, mended, &faults);
                faults.extend(more);
                break;
            }
            Some(Err(fault)) => fault,
            None => break,
        };
        // What the schema does not say: checks inside `try_from`. The rest is read without it. Of a value in which
        // something else is misread it may be the consequence.
        let goes_on = mender.refuse(&refused.key);
        if !faults.iter().any(|known| lies_in(&known.key, &refused.key)) {
            faults.push(refused);
        }
        if !goes_on {
            break;
        }
    }
    faults.sort_by(|a, b| a.key.cmp(&b.key));
    Err(ConfigError::Faults { origin: origin.to_owned(), faults })
}

/// Those `found` that are there in all `others` too, however what is known to be wrong is mended.
fn standing<C: Config>(
    mut found: Vec<Fault>,
    others: impl Iterator<Item = Value>,
    known: &[Fault],
) -> Vec<Fault> {
    found.retain(|fault| !known.iter().any(|known| lies_in(&fault.key, &known.key)));
    for config in others.filter_map(|other| read::<C>(other).ok()) {
        let there = config.validate();
        found.retain(|fault| there.contains(fault));
    }
    found
}

fn read<C: Config>(tree: Value) -> Result<C, Fault> {
    serde_path_to_error::deserialize(tree)
        .map_err(|error| Fault::new(key(error.path()), error.inner().to_string()))
}

/// A place as a key; the document's root is none.
fn key(path: &serde_path_to_error::Path) -> String {
    if path.iter().next().is_none() { String::new() } else { path.to_string() }
}

/// The dotted key and the value of `key=value`.
pub(super) fn split_override(given: &str) -> Result<(String, toml::Value), ConfigError> {
    let fail = |problem: String| ConfigError::Override { given: given.to_owned(), problem };
    let (key, value) = given.split_once('=').ok_or_else(|| fail("expected key=value".into()))?;
    let key = key.trim();
    if key.is_empty() || key.split('.').any(|part| part.trim().is_empty()) {
        return Err(fail("expected a dotted key before '='".into()));
    }
    let value = value.trim();
    // A value that is no TOML by itself is a bare word: paths and names need no quotes.
    let value = match format!("v = {value}").parse::<toml::Table>() {
        Ok(mut parsed) if parsed.len() == 1 => {
            parsed.remove("v").unwrap_or_else(|| toml::Value::String(value.to_owned()))
        }
        _ => toml::Value::String(value.to_owned()),
    };
    let parts: Vec<&str> = key.split('.').map(str::trim).collect();
    Ok((parts.join("."), value))
}

/// Sets one dotted key, making the tables on its way.
fn apply_override(table: &mut toml::Table, given: &str) -> Result<(), ConfigError> {
    let fail = |problem: String| ConfigError::Override { given: given.to_owned(), problem };
    let (key, value) = split_override(given)?;
    let mut here = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            here.insert(part.to_owned(), value);
            return Ok(());
        }
        let next = here.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        here = next
            .as_table_mut()
            .ok_or_else(|| fail(format!("{part} is a value, not a table that has keys of its own")))?;
    }
    Ok(())
}

/// TOML as JSON; what JSON cannot hold is a fault.
pub(super) fn to_json(value: toml::Value, key: &str, faults: &mut Vec<Fault>) -> Value {
    match value {
        toml::Value::String(s) => Value::String(s),
        toml::Value::Integer(i) => i.into(),
        toml::Value::Float(f) => serde_json::Number::from_f64(f).map_or_else(
            || {
                faults.push(Fault::new(key, format!("expected a finite number, found {f}")));
                Value::Null
            },
            Value::Number,
        ),
        toml::Value::Boolean(b) => Value::Bool(b),
        toml::Value::Datetime(d) => Value::String(d.to_string()),
        toml::Value::Array(items) => Value::Array(
            items
                .into_iter()
                .enumerate()
                .map(|(i, item)| to_json(item, &format!("{key}[{i}]"), faults))
                .collect(),
        ),
        toml::Value::Table(table) => Value::Object(
            table
                .into_iter()
                .map(|(name, item)| {
                    let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    (name, to_json(item, &inner, faults))
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CacheConfig;

    const GOOD: &str = r#"
        [dataset]
        kind = "idx"
        images = "a.gz"
        [teacher]
        kind = "onnx"
        path = "t.onnx"
        [head]
        k = 3
    "#;

    fn faults(text: &str, overrides: &[&str]) -> Vec<String> {
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        match load_str::<CacheConfig>(text, "test", &overrides) {
            Ok(_) => vec![],
            Err(ConfigError::Faults { faults, .. }) => faults.iter().map(Fault::to_string).collect(),
            Err(other) => vec![other.to_string()],
        }
    }

    #[test]
    fn overrides_are_toml_or_bare_words() {
        let set =
            ["head.k=5".to_owned(), "teacher.path=/tmp/x y.onnx".into(), "tail.nodes=[0.5, 1.0]".into()];
        let config: CacheConfig = load_str(GOOD, "test", &set).unwrap();
        assert_eq!(config.head.k, Some(5));
        assert_eq!(config.teacher.path.to_str(), Some("/tmp/x y.onnx"));
        assert_eq!(config.tail.nodes.as_slice(), [0.5, 1.0]);
    }

    #[test]
    fn all_faults_come_at_once_with_the_nearest_key() {
        let found =
            faults(GOOD, &["head.k=0", "head.kk=2", "teacher.kind=onyx", "dataset.imags=x", "seed=-1"]);
        assert_eq!(
            found,
            [
                "dataset.imags: unknown key; did you mean images? (known: images, kind, labels, limit)",
                "head.k: expected at least 1, found 0",
                "head.kk: unknown key; did you mean k? (known: draws, k, mass, max_k, temperature)",
                "seed: expected at least 0, found -1",
                "teacher.kind: expected one of onnx, torchscript, command, found \"onyx\"; did you mean onnx?",
            ]
        );
    }

    #[test]
    fn values_are_checked_beside_a_wrong_key() {
        let found = faults(
            GOOD,
            &["head.kk=2", "preprocess.std=[0.0]", "tail.nodes=[1.0]", "storage.shard_samples=0"],
        );
        assert_eq!(
            found,
            [
                "head.kk: unknown key; did you mean k? (known: draws, k, mass, max_k, temperature)",
                "preprocess.std: expected positive values, found 0",
                "storage.shard_samples: expected at least 1, found 0",
            ]
        );
        // Checks inside `try_from` are no exception.
        let found = faults(GOOD, &["head.kk=2", "tail.nodes=[0.5]"]);
        assert_eq!(
            found,
            [
                "head.kk: unknown key; did you mean k? (known: draws, k, mass, max_k, temperature)",
                "tail.nodes: the nodes must contain 1 (T = 1), found [0.5]",
            ]
        );
        // A consequence is no fault of its own.
        let found = faults(GOOD, &["preprocess.men=[0.1,0.2]", "preprocess.std=[1.0,1.0]"]);
        assert_eq!(
            found,
            ["preprocess.men: unknown key; did you mean mean? (known: channels, crop, \
                 interpolation, layout, mean, resize, scale, size, std)"]
        );
    }

    #[test]
    fn missing_keys_and_wrong_types_are_named() {
        let found = faults("[dataset]\nkind = \"idx\"\nimages = 3\n[head]\nk = \"three\"", &[]);
        assert_eq!(
            found,
            [
                "dataset.images: expected a string, found 3",
                "head.k: expected an integer, found \"three\"",
                "teacher: missing",
            ]
        );
    }

    #[test]
    fn a_key_through_a_value_is_refused() {
        let found = faults(GOOD, &["head.k.x=1"]);
        assert_eq!(found, ["--set \"head.k.x=1\": k is a value, not a table that has keys of its own"]);
    }
}
