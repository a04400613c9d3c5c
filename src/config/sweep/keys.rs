//! Dotted keys, in the order in which a file has them.
//!
//! `loss.temperature = 4`, `"loss.temperature" = 4` and a table `[set.loss]` say the same: one value changes. A
//! table in braces is a value of its own. Once parsed, both are tables and sorted; where each stands in the text
//! tells them apart.

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::load::{split_override, to_json};
use super::super::{ConfigError, Fault};
use super::Keys;

/// The keys that hold keys.
const SET: &str = "set";
const GRID: &str = "grid";
const LIST: &str = "list";

/// The config in `text`, its keys of training configs written out with dots, and what JSON cannot hold of it.
pub(super) fn tree(
    text: &str,
    origin: &str,
    overrides: &[String],
) -> Result<(Value, Vec<Fault>), ConfigError> {
    let syntax = |source| ConfigError::Syntax { origin: origin.to_owned(), source: Box::new(source) };
    let mut values: toml::Table = text.parse().map_err(syntax)?;
    let places = DeTable::parse(text).map_err(syntax)?;
    let mut reader = Reader { text, faults: Vec::new() };
    let mut tree = Map::new();
    for name in [SET, GRID] {
        let place = places.get_ref().get(name).map(Spanned::get_ref);
        if let (Some(DeValue::Table(place)), Some(toml::Value::Table(_))) = (place, values.get(name)) {
            let Some(toml::Value::Table(table)) = values.remove(name) else { continue };
            tree.insert(name.into(), reader.keys(place, table, name).into());
        }
    }
    if let (Some(DeValue::Array(places)), Some(toml::Value::Array(tables))) =
        (places.get_ref().get(LIST).map(Spanned::get_ref), values.get(LIST))
    {
        let entries = places.iter().zip(tables.clone()).enumerate().map(|(at, (place, value))| {
            let key = format!("{LIST}[{at}]");
            match (place.get_ref(), value) {
                (DeValue::Table(place), toml::Value::Table(table)) => reader.keys(place, table, &key).into(),
                (_, value) => to_json(value, &key, &mut reader.faults),
            }
        });
        let entries: Vec<Value> = entries.collect();
        values.remove(LIST);
        tree.insert(LIST.into(), entries.into());
    }
    for (name, value) in values {
        tree.insert(name.clone(), to_json(value, &name, &mut reader.faults));
    }
    for given in overrides {
        change(&mut tree, given, &mut reader.faults)?;
    }
    Ok((tree.into(), reader.faults))
}

struct Reader<'a> {
    text: &'a str,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    /// The keys of a table, which is called `origin`.
    fn keys(&mut self, places: &DeTable<'_>, table: toml::Table, origin: &str) -> Keys {
        let mut found = Vec::new();
        self.flatten(places, table, "", &mut found);
        found.sort_by_key(|(place, ..)| *place);
        let mut keys = Keys::new();
        for (_, key, value) in found {
            let full = format!("{origin}.{key}");
            let value = kind_first(to_json(value, &full, &mut self.faults));
            if keys.insert(key, value).is_some() {
                self.faults.push(Fault::new(full, "is given twice"));
            }
        }
        keys
    }

    fn flatten(
        &self,
        places: &DeTable<'_>,
        mut table: toml::Table,
        before: &str,
        found: &mut Vec<(usize, String, toml::Value)>,
    ) {
        for (name, place) in places.iter() {
            let Some(value) = table.remove(name.get_ref().as_ref()) else { continue };
            let key = if before.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{before}.{}", name.get_ref())
            };
            match (place.get_ref(), value) {
                (DeValue::Table(inner), toml::Value::Table(table)) if !self.is_in_braces(place) => {
                    self.flatten(inner, table, &key, found);
                }
                (_, value) => found.push((name.span().start, key, value)),
            }
        }
    }

    fn is_in_braces(&self, place: &Spanned<DeValue<'_>>) -> bool {
        self.text.get(place.span()).is_some_and(|text| text.starts_with('{'))
    }
}

/// Puts what a table is before what it has: names and reports are read from left to right.
fn kind_first(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(kind_first).collect(),
        Value::Object(table) => {
            let (kind, rest): (Vec<_>, Vec<_>) = table.into_iter().partition(|(key, _)| key == "kind");
            let all = kind.into_iter().chain(rest).map(|(key, value)| (key, kind_first(value)));
            Value::Object(all.collect())
        }
        other => other,
    }
}

/// Applies one `key=value` of the command line.
fn change(tree: &mut Map<String, Value>, given: &str, faults: &mut Vec<Fault>) -> Result<(), ConfigError> {
    let (key, value) = split_override(given)?;
    let value = kind_first(to_json(value, &key, faults));
    if let Some((name @ (SET | GRID), key)) = key.split_once('.') {
        let keys = tree.entry(name).or_insert_with(|| Map::new().into());
        if let Some(keys) = keys.as_object_mut() {
            keys.insert(key.to_owned(), value);
        }
        return Ok(());
    }
    if [SET, GRID, LIST].contains(&key.as_str()) || key.contains('.') {
        let problem = "expected set.KEY=VALUE, grid.KEY=[VALUE, …], or base, cache, jobs or rank_by".into();
        return Err(ConfigError::Override { given: given.to_owned(), problem });
    }
    tree.insert(key, value);
    Ok(())
}
