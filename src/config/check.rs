//! Compares a config tree with its JSON Schema and words every difference for a person.
//!
//! A general validator would stop at "matches no variant" where configs have tagged choices;
//! this walk knows that a `kind` selects the variant, and suggests the nearest key. It covers
//! what `schemars` generates for this crate's configs, no more; the generated schemas are also
//! checked with a general validator in `tests/schemas.rs`.

use serde_json::{Map, Value};

use super::Fault;
use super::shape::{Definitions, key_in, kind_of, required};

/// Adds every difference between `tree` and `schema` to `faults`.
pub(super) fn check_tree(tree: &Value, schema: &Value, faults: &mut Vec<Fault>) {
    Walk { definitions: Definitions::of(schema), faults }.value(tree, schema, "");
}

/// Whether there is no difference between `value` and `schema`.
pub(super) fn fits<'a>(value: &Value, schema: &'a Value, definitions: Definitions<'a>) -> bool {
    let mut faults = Vec::new();
    Walk { definitions, faults: &mut faults }.value(value, schema, "");
    faults.is_empty()
}

struct Walk<'a, 'f> {
    definitions: Definitions<'a>,
    faults: &'f mut Vec<Fault>,
}

impl<'a> Walk<'a, '_> {
    fn fault(&mut self, key: &str, problem: String) {
        self.faults.push(Fault::new(key, problem));
    }

    fn value(&mut self, value: &Value, schema: &'a Value, key: &str) {
        // TOML has no null: it stands where JSON cannot hold what was given, and that is told already.
        if value.is_null() {
            return;
        }
        let schema = self.definitions.choose(schema, value.is_object());
        if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
            self.choice(value, variants, key);
            return;
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            self.word(value, words.iter().filter_map(Value::as_str).collect(), key);
            return;
        }
        if !self.has_type(value, schema, key) {
            return;
        }
        match value {
            Value::Object(object) => self.object(object, schema, key),
            Value::Array(items) => {
                let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
                if (items.len() as u64) < least {
                    self.fault(key, format!("expected at least {least} of them, found {}", items.len()));
                }
                if let Some(most) = schema.get("maxItems").and_then(Value::as_u64)
                    && items.len() as u64 > most
                {
                    self.fault(key, format!("expected at most {most} of them, found {}", items.len()));
                }
                if let Some(item_schema) = schema.get("items") {
                    for (i, item) in items.iter().enumerate() {
                        self.value(item, item_schema, &format!("{key}[{i}]"));
                    }
                }
            }
            Value::Number(number) => self.bounds(number.as_f64().unwrap_or(f64::NAN), value, schema, key),
            _ => {}
        }
    }

    fn has_type(&mut self, value: &Value, schema: &Value, key: &str) -> bool {
        let allowed: Vec<&str> = match schema.get("type") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => return true,
        };
        let fits = allowed.iter().any(|name| match *name {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            _ => false,
        });
        if !fits {
            let words = allowed.into_iter().filter(|name| *name != "null").map(|name| match name {
                "object" => "a table",
                "array" => "a list",
                "integer" => "an integer",
                "number" => "a number",
                "boolean" => "true or false",
                _ => "a string",
            });
            let words: Vec<&str> = words.collect();
            self.fault(key, format!("expected {}, found {}", words.join(" or "), short(value)));
        }
        fits
    }

    fn bounds(&mut self, number: f64, value: &Value, schema: &Value, key: &str) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        // The only types whose bounds `schemars` leaves to their names, and TOML's numbers exceed.
        let largest = match schema.get("format").and_then(Value::as_str) {
            Some("uint32") => Some(f64::from(u32::MAX)),
            Some("int32") => Some(f64::from(i32::MAX)),
            _ => None,
        };
        if let Some(least) = bound("minimum").filter(|least| number < *least) {
            self.fault(key, format!("expected at least {least}, found {value}"));
        } else if let Some(most) = bound("maximum").or(largest).filter(|most| number > *most) {
            self.fault(key, format!("expected at most {most}, found {value}"));
        } else if let Some(above) = bound("exclusiveMinimum").filter(|above| number <= *above) {
            self.fault(key, format!("expected more than {above}, found {value}"));
        } else if let Some(below) = bound("exclusiveMaximum").filter(|below| number >= *below) {
            self.fault(key, format!("expected less than {below}, found {value}"));
        }
    }

    fn object(&mut self, object: &Map<String, Value>, schema: &'a Value, key: &str) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let inner = |name: &str| key_in(key, name);
        for (name, value) in object {
            if let Some(known) = properties.and_then(|p| p.get(name)) {
                self.value(value, known, &inner(name));
                continue;
            }
            match schema.get("additionalProperties") {
                Some(Value::Bool(false)) => {
                    let known: Vec<&str> =
                        properties.map(|p| p.keys().map(String::as_str).collect()).unwrap_or_default();
                    let hint = did_you_mean(name, &known);
                    let mut known = known;
                    known.sort_unstable();
                    self.fault(&inner(name), format!("unknown key{hint} (known: {})", known.join(", ")));
                }
                Some(any @ Value::Object(_)) => self.value(value, any, &inner(name)),
                _ => {}
            }
        }
        for name in required(schema).filter(|name| !object.contains_key(*name)) {
            self.fault(&inner(name), "missing".into());
        }
    }

    /// A choice: of words, or of tables told apart by `kind`.
    fn choice(&mut self, value: &Value, variants: &'a [Value], key: &str) {
        let words: Vec<&str> =
            variants.iter().filter_map(|v| v.get("const").and_then(Value::as_str)).collect();
        if words.len() == variants.len() {
            self.word(value, words, key);
            return;
        }
        let Some(object) = value.as_object() else {
            self.fault(key, format!("expected a table, found {}", short(value)));
            return;
        };
        let kinds: Vec<&str> = variants.iter().filter_map(kind_of).collect();
        let kind_key = key_in(key, "kind");
        let kind = object.get("kind");
        if let Some(variant) =
            variants.iter().find(|v| kind_of(v).is_some_and(|k| kind.is_some_and(|kind| kind == k)))
        {
            self.object(object, variant, key);
            return;
        }
        let meant = kind.and_then(Value::as_str).and_then(|kind| likely(kind, &kinds));
        match kind {
            Some(kind) => self.word(kind, kinds, &kind_key),
            None => self.fault(&kind_key, format!("missing; expected one of {}", kinds.join(", "))),
        }
        // What else is wrong is wrong with the likely kind, or with every kind.
        let possible = variants.iter().filter(|v| meant.is_none_or(|meant| kind_of(v) == Some(meant)));
        let faults_of = |variant: &'a Value| {
            let mut faults = Vec::new();
            Walk { definitions: self.definitions, faults: &mut faults }.object(object, variant, key);
            faults
        };
        let shared = possible.map(faults_of).reduce(|mut shared, others| {
            shared.retain(|fault| others.contains(fault));
            shared
        });
        self.faults.extend(shared.into_iter().flatten().filter(|fault| fault.key != kind_key));
    }

    fn word(&mut self, value: &Value, words: Vec<&str>, key: &str) {
        if value.as_str().is_some_and(|v| words.contains(&v)) {
            return;
        }
        let hint = value.as_str().map(|v| did_you_mean(v, &words)).unwrap_or_default();
        self.fault(key, format!("expected one of {}, found {}{hint}", words.join(", "), short(value)));
    }
}

/// "; did you mean x?" for what is likely, or nothing.
fn did_you_mean(found: &str, known: &[&str]) -> String {
    likely(found, known).map(|meant| format!("; did you mean {meant}?")).unwrap_or_default()
}

/// What others call keys of ours.
const OTHER_WORDS: [(&str, &str); 4] =
    [("lr", "learning_rate"), ("wd", "weight_decay"), ("batch_size", "batch"), ("num_epochs", "epochs")];

/// The nearest of `known`, if it is near enough to be meant.
pub(super) fn likely<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let ours = OTHER_WORDS.iter().find(|(other, _)| *other == found).map(|(_, ours)| *ours);
    if let Some(known) = known.iter().find(|known| Some(**known) == ours) {
        return Some(known);
    }
    nearest(found, known).filter(|(likeness, _)| *likeness > 0.75).map(|(_, nearest)| nearest)
}

/// The nearest of `known`, and how near it is, from 0 to 1.
pub(crate) fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<(f64, &'a str)> {
    // Jaro and Winkler favour a shared beginning; of short words with two letters swapped they see
    // too little.
    let likeness = |k: &str| match strsim::damerau_levenshtein(found, k) {
        1 => 1.0,
        _ => strsim::jaro_winkler(found, k),
    };
    known.iter().map(|k| (likeness(k), *k)).max_by(|a, b| a.0.total_cmp(&b.0))
}

/// A value, shortened to fit a line.
fn short(value: &Value) -> String {
    let text = match value {
        Value::Object(_) => return "a table".into(),
        other => other.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
