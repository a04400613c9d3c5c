//! What a config could be once its faults are mended, so that the rest can be checked in the same breath.
//!
//! A value that cannot be read leaves a gap. What will stand there is unknown: nothing, if the key may be left out, or
//! any value that its schema allows. A few of them that are far apart are tried, one gap after the other. What is wrong
//! with the rest whatever stands in the gaps is a fault of its own; what goes away with any of them may be no more than
//! a consequence.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::check::{fits, likely};
use super::fault::lies_in;
use super::shape::{Definitions, key_in, kind_of, kinds, named, properties, required, type_of, words};

/// A whole number is at most so much more than the least that is allowed, where nothing bounds it: as a `u32` it can
/// still be doubled.
const FAR: i64 = 1 << 30;

/// Fills a config's gaps.
pub(super) struct Mender<'a> {
    schema: &'a Value,
    definitions: Definitions<'a>,
    /// Lengths of the config's lists: one that cannot be read may have to be as long as another.
    lengths: BTreeSet<usize>,
    /// Keys whose values fit the schema and cannot be read all the same.
    refused: Vec<String>,
}

impl<'a> Mender<'a> {
    /// Of the config `tree`, which should fit `schema`.
    pub(super) fn new(tree: &Value, schema: &'a Value) -> Self {
        let mut lengths = BTreeSet::new();
        find_lengths(tree, &mut lengths);
        Self { schema, definitions: Definitions::of(schema), lengths, refused: Vec::new() }
    }

    /// Makes a gap at `key`; false if nothing new comes of it.
    pub(super) fn refuse(&mut self, key: &str) -> bool {
        let new = !key.is_empty() && !self.refused.iter().any(|known| known == key);
        if new {
            self.refused.push(key.to_owned());
        }
        new
    }

    /// `tree` with what is likeliest in all gaps, and then with all else that is tried in each. Without gaps it is
    /// `tree` alone.
    pub(super) fn mended(&self, tree: &Value) -> Vec<Value> {
        let mut first = Pass { mender: self, chosen: None, gaps: Vec::new() };
        let mut trees = vec![first.whole(tree)];
        for (key, options) in first.gaps {
            for at in 1..options {
                let mut pass = Pass { mender: self, chosen: Some((&key, at)), gaps: Vec::new() };
                trees.push(pass.whole(tree));
            }
        }
        trees
    }

    /// Values that `schema` allows, at least one.
    pub(super) fn stand_ins(&self, schema: &'a Value) -> Vec<Value> {
        let schema = self.definitions.choose(schema, false);
        if let Some(kinds) = kinds(schema) {
            return kinds.iter().flat_map(|kind| self.tables(kind)).collect();
        }
        let words = words(schema);
        if !words.is_empty() {
            return words.into_iter().map(Value::from).collect();
        }
        match type_of(schema) {
            Some("object") => self.tables(schema),
            Some("array") => self.lists(schema),
            Some("integer") => whole_numbers(schema),
            Some("number") => numbers(schema),
            Some("boolean") => vec![false.into(), true.into()],
            _ => vec!["x".into(), "y".into()],
        }
    }

    /// Tables with nothing but what they must have, of small values and of large ones, and such with every key.
    fn tables(&self, schema: &'a Value) -> Vec<Value> {
        let must: Vec<&str> = required(schema).collect();
        let table = |all: bool, last: bool| -> Value {
            let keys = properties(schema).filter(|(name, _)| all || must.contains(&name.as_str()));
            let value = |schema: &'a Value| match schema.get("const") {
                Some(word) => Some(word.clone()),
                None if last => self.stand_ins(schema).pop(),
                None => self.stand_ins(schema).into_iter().next(),
            };
            let mut table: Map<String, Value> =
                keys.filter_map(|(name, schema)| Some((name.clone(), value(schema)?))).collect();
            if let Some(named) = named(schema).filter(|_| all) {
                table.extend(value(named).map(|value| ("x".to_owned(), value)));
            }
            table.into()
        };
        let mut tables = [(false, false), (false, true), (true, false), (true, true)]
            .map(|(all, last)| table(all, last))
            .to_vec();
        tables.dedup();
        tables
    }

    fn lists(&self, schema: &'a Value) -> Vec<Value> {
        let bound =
            |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let (least, most) = (bound("minItems").unwrap_or(0), bound("maxItems").unwrap_or(usize::MAX));
        let item = schema.get("items").and_then(|items| self.stand_ins(items).into_iter().next());
        let item = item.unwrap_or(Value::from("x"));
        let lengths: BTreeSet<usize> = [least, 1].into_iter().chain(self.lengths.iter().copied()).collect();
        lengths.range(least..=most).map(|length| vec![item.clone(); *length].into()).collect()
    }
}

/// One way through a config.
struct Pass<'m, 'a> {
    mender: &'m Mender<'a>,
    /// The gap in which not the likeliest stands, and which of its options does.
    chosen: Option<(&'m str, usize)>,
    /// The gaps that were met, and how many options there are for each.
    gaps: Vec<(String, usize)>,
}

impl<'a> Pass<'_, 'a> {
    fn whole(&mut self, tree: &Value) -> Value {
        self.value(tree, self.mender.schema, "", false).unwrap_or_default()
    }

    /// Which of a gap's `options` is taken.
    fn take(&mut self, key: &str, options: usize) -> usize {
        self.gaps.push((key.to_owned(), options));
        self.chosen.filter(|(chosen, _)| *chosen == key).map_or(0, |(_, at)| at)
    }

    /// What stands in the gap `key`.
    fn gap(&mut self, schema: &'a Value, key: &str, optional: bool) -> Option<Value> {
        let mut options = self.mender.stand_ins(schema);
        let nothing = usize::from(optional);
        let at = self.take(key, options.len() + nothing);
        at.checked_sub(nothing).filter(|at| *at < options.len()).map(|at| options.swap_remove(at))
    }

    /// `value`, or as much of it as can be read.
    fn value(&mut self, value: &Value, schema: &'a Value, key: &str, optional: bool) -> Option<Value> {
        let definitions = self.mender.definitions;
        let of_value = definitions.choose(schema, value.is_object());
        let refused = self.mender.refused.iter().any(|refused| lies_in(refused, key));
        if !refused && !holds_null(value) && fits(value, of_value, definitions) {
            return Some(value.clone());
        }
        let all = self.mender.refused.iter().any(|refused| refused == key);
        match value {
            Value::Object(table) if !all && type_of(of_value) == Some("object") => {
                Some(self.table(table, of_value, key))
            }
            Value::Object(table) if !all && kinds(of_value).is_some() => {
                let kinds = kinds(of_value).map(Vec::as_slice).unwrap_or_default();
                Some(self.one_of(table, kinds, key))
            }
            Value::Array(items) if !all && may_have(of_value, items.len()) => {
                let items = items.iter().enumerate().filter_map(|(at, item)| match of_value.get("items") {
                    Some(schema) => self.value(item, schema, &format!("{key}[{at}]"), false),
                    None => Some(item.clone()),
                });
                Some(items.collect())
            }
            _ => self.gap(schema, key, optional),
        }
    }

    /// A table whose kind may be unknown.
    fn one_of(&mut self, table: &Map<String, Value>, kinds: &'a [Value], key: &str) -> Value {
        let given = table.get("kind").and_then(Value::as_str);
        let names: Vec<&str> = kinds.iter().filter_map(kind_of).collect();
        let meant = given
            .and_then(|given| names.iter().find(|name| **name == given).copied().or(likely(given, &names)));
        let at = match names.iter().position(|name| Some(*name) == meant) {
            Some(at) => at,
            None => self.take(&key_in(key, "kind"), kinds.len()),
        };
        let mut table = table.clone();
        table.insert("kind".into(), names[at].into());
        self.table(&table, &kinds[at], key)
    }

    fn table(&mut self, table: &Map<String, Value>, schema: &'a Value, key: &str) -> Value {
        let mut mended = Map::new();
        let must: Vec<&str> = required(schema).collect();
        for (name, property) in properties(schema) {
            let (inner, optional) = (key_in(key, name), !must.contains(&name.as_str()));
            let found = match table.get(name) {
                Some(value) => self.value(value, property, &inner, optional),
                None if optional => None,
                None => self.gap(property, &inner, false),
            };
            mended.extend(found.map(|value| (name.clone(), value)));
        }
        let further = table.iter().filter(|(name, _)| properties(schema).all(|(known, _)| known != *name));
        for (name, value) in further {
            let inner = key_in(key, name);
            if let Some(named) = named(schema) {
                mended.extend(self.value(value, named, &inner, true).map(|value| (name.clone(), value)));
                continue;
            }
            let mut options = self.meant(name, value, table, schema);
            let at = self.take(&inner, options.len() + 1);
            if (1..=options.len()).contains(&at) {
                mended.extend([options.swap_remove(at - 1)]);
            }
        }
        mended.into()
    }

    /// What may be meant by the key `name`, which `schema` does not have: the one that it is nearly called, or any
    /// other that is not given.
    fn meant(
        &self,
        name: &str,
        value: &Value,
        table: &Map<String, Value>,
        schema: &'a Value,
    ) -> Vec<(String, Value)> {
        let names: Vec<&str> = properties(schema).map(|(known, _)| known.as_str()).collect();
        let likely = likely(name, &names);
        let fitting = properties(schema)
            .filter(|(known, _)| likely.is_none_or(|likely| likely == known.as_str()))
            .filter(|(known, property)| !table.contains_key(*known) && property.get("const").is_none());
        let mut options = Vec::new();
        for (known, property) in fitting {
            if fits(value, property, self.mender.definitions) {
                options.push((known.clone(), value.clone()));
            }
            options.extend(self.mender.stand_ins(property).into_iter().map(|value| (known.clone(), value)));
        }
        options
    }
}

/// Whether a list of so many may be what `schema` describes.
fn may_have(schema: &Value, items: usize) -> bool {
    let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
    let items = items as u64;
    type_of(schema) == Some("array")
        && bound("minItems").is_none_or(|least| items >= least)
        && bound("maxItems").is_none_or(|most| items <= most)
}

fn whole_numbers(schema: &Value) -> Vec<Value> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_i64);
    let least = bound("minimum").unwrap_or(0);
    let most = bound("maximum").unwrap_or(least.saturating_add(FAR));
    vec![least.into(), most.into()]
}

fn numbers(schema: &Value) -> Vec<Value> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    // Far from bounds that are no values themselves, and from each other.
    let (near, far) = (1e-3, 1e9);
    let least = bound("minimum").or(bound("exclusiveMinimum").map(|above| above + near)).unwrap_or(0.0);
    let most =
        bound("maximum").or(bound("exclusiveMaximum").map(|below| below - near)).unwrap_or(least + far);
    vec![least.into(), most.into()]
}

/// Whether anything in `value` could not be held, which is told where it was read.
fn holds_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(holds_null),
        Value::Object(table) => table.values().any(holds_null),
        _ => false,
    }
}

fn find_lengths(value: &Value, lengths: &mut BTreeSet<usize>) {
    match value {
        Value::Array(items) => {
            lengths.insert(items.len());
            items.iter().for_each(|item| find_lengths(item, lengths));
        }
        Value::Object(table) => table.values().for_each(|value| find_lengths(value, lengths)),
        _ => {}
    }
}
