//! A config with every key and every default, to begin with: TOML that is made of the JSON Schema.

use serde_json::Value;

use super::Config;
use super::shape::{Definitions, key_in, kind_of, kinds, named, properties, required, type_of, words};

/// Columns of a comment.
const WIDTH: usize = 110;

/// Every key of `C` with what it means. What has a default stands with it; what is required, and what may be left out
/// and has none, stands in comments, as do the kinds of which one is to be chosen.
pub fn outline<C: Config>() -> String {
    let schema = schemars::schema_for!(C);
    let root = schema.as_value();
    let mut page = Page { definitions: Definitions::of(root), text: String::new() };
    page.keys(root, "", "", true);
    page.text
}

/// What `schemars(skip_serializing_if)` is for a key that is not written while it has its default: `schemars` would
/// leave such a default out of the schema, and so out of all that is made of it.
pub(super) fn never<T>(_: &T) -> bool {
    false
}

struct Page<'a> {
    definitions: Definitions<'a>,
    text: String,
}

/// What a key holds.
enum Holds<'a> {
    /// A value that fits in a line.
    Line,
    /// Keys of its own.
    Table(&'a Value),
    /// Keys that depend on a kind.
    Kinds(&'a [Value]),
    /// Tables under names that the user gives.
    Named(&'a Value),
    /// Any number of tables.
    Listed(&'a Value),
}

impl<'a> Page<'a> {
    fn holds(&self, schema: &'a Value) -> Holds<'a> {
        let schema = self.definitions.choose(schema, false);
        if let Some(kinds) = kinds(schema) {
            return Holds::Kinds(kinds);
        }
        let item = schema.get("items").map(|item| self.definitions.choose(item, false));
        if let Some(item) = item.filter(|item| item.get("properties").is_some()) {
            return Holds::Listed(item);
        }
        match named(schema) {
            _ if schema.get("properties").is_some() => Holds::Table(schema),
            Some(inner @ Value::Object(_)) => Holds::Named(inner),
            _ => Holds::Line,
        }
    }

    fn comment(&mut self, before: &str, text: &str) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && before.len() + 3 + line.len() + word.len() > WIDTH {
                self.text.push_str(&format!("{before}# {line}\n"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            self.text.push_str(&format!("{before}# {line}\n"));
        }
    }

    /// The keys of a table at `path`: values first, as TOML wants it, then tables. `before` stands before each line
    /// of what is off; `gaps`: whether empty lines part the tables.
    fn keys(&mut self, schema: &'a Value, path: &str, before: &str, gaps: bool) {
        let must: Vec<&str> = required(schema).collect();
        for (name, property) in properties(schema) {
            if matches!(self.holds(property), Holds::Line) {
                self.line(name, property, must.contains(&name.as_str()), before);
            }
        }
        for (name, property) in properties(schema) {
            let inner = key_in(path, name);
            let optional = property.get("anyOf").is_some();
            let off = if optional && before.is_empty() { "# " } else { before };
            let holds = self.holds(property);
            if matches!(holds, Holds::Line) {
                continue;
            }
            if gaps {
                self.text.push('\n');
            }
            let about = property
                .get("description")
                .or_else(|| self.definitions.choose(property, false).get("description"));
            let about = about.and_then(Value::as_str).unwrap_or_default();
            let needed = if must.contains(&name.as_str()) { "Required. " } else { "" };
            match holds {
                Holds::Line => {}
                Holds::Table(table) => {
                    self.comment(before, &format!("{needed}{about}"));
                    self.text.push_str(&format!("{off}[{inner}]\n"));
                    self.keys(table, &inner, off, false);
                }
                Holds::Named(table) => {
                    self.comment(before, &format!("{needed}{about}"));
                    self.text.push_str(&format!("# [{inner}.NAME]\n"));
                    let table = self.definitions.choose(table, false);
                    self.keys(table, &format!("{inner}.NAME"), "# ", false);
                }
                Holds::Listed(table) => {
                    self.comment(before, &format!("{needed}{about} Any number of tables:"));
                    self.text.push_str(&format!("# [[{inner}]]\n"));
                    self.keys(table, &inner, "# ", false);
                }
                Holds::Kinds(kinds) => {
                    self.comment(before, &format!("{needed}{about} One of these:"));
                    let chosen = property.pointer("/default/kind").and_then(Value::as_str);
                    for kind in kinds {
                        let own = kind_of(kind);
                        let off = if own == chosen && before.is_empty() { "" } else { "# " };
                        let about = kind.get("description").and_then(Value::as_str).unwrap_or_default();
                        self.comment(before, about);
                        self.text.push_str(&format!("{off}[{inner}]\n"));
                        if let Some(own) = own {
                            self.text.push_str(&format!("{off}kind = \"{own}\"\n"));
                        }
                        self.keys(kind, &inner, off, false);
                    }
                }
            }
        }
    }

    fn line(&mut self, name: &str, property: &'a Value, required: bool, before: &str) {
        let schema = self.definitions.choose(property, false);
        if schema.get("const").is_some() {
            return;
        }
        let about = property.get("description").or_else(|| schema.get("description"));
        let about = about.and_then(Value::as_str).unwrap_or_default().to_owned();
        let words: Vec<String> = words(schema).into_iter().map(|word| format!("\"{word}\"")).collect();
        let choice = if words.is_empty() { String::new() } else { format!(" One of {}.", words.join(", ")) };
        self.comment(before, &format!("{about}{choice}"));
        let default = property.get("default").filter(|default| !default.is_null());
        let line = match default.and_then(|default| toml::Value::try_from(default).ok()) {
            Some(default) => format!("{before}{name} = {default}\n"),
            None => {
                let state = if required { "required" } else { "may be left out" };
                format!("# {name} = …  # {}, {state}\n", in_a_word(schema))
            }
        };
        self.text.push_str(&line);
    }
}

/// A type in a word.
fn in_a_word(schema: &Value) -> &str {
    match type_of(schema) {
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("boolean") => "true or false",
        Some("array") => "a list",
        Some("string") => "text",
        _ => "a value",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    use serde_json::Map;

    use crate::config::mend::Mender;
    use crate::config::{CacheConfig, TrainConfig, load_str};

    /// What is said, without the lines that are comments.
    fn said(text: &str) -> toml::Table {
        text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// Nothing that stands in it is unknown or of another type: only what is required is missing.
    fn only_lacks<C: Config>(text: &str, expected: &[&str]) {
        let Err(error) = load_str::<C>(text, "outline", &[]) else { panic!("nothing is missing") };
        let error = error.to_string();
        for line in error.lines().skip(1) {
            assert!(expected.iter().any(|key| line.contains(key)), "{line}\nin {error}");
        }
    }

    #[test]
    fn an_outline_is_a_config_without_what_is_required() {
        let text = outline::<TrainConfig>();
        let table = said(&text);
        assert_eq!(table["schedule"]["kind"].as_str(), Some("constant"), "{text}");
        assert_eq!(table["train"]["accumulate"].as_integer(), Some(1));
        assert_eq!(table["loss"]["temperature"].as_float(), Some(1.0));
        for words in ["# kind = \"adamw\"", "# batch = …  # a whole number, required", "# [validation.NAME]"]
        {
            assert!(text.contains(words), "{words}\n{text}");
        }
        only_lacks::<TrainConfig>(
            &text,
            &["student", "optimizer", "train.epochs", "train.batch", "loss.weights"],
        );
        let text = outline::<CacheConfig>();
        assert_eq!(said(&text)["storage"]["level"].as_integer(), Some(19), "{text}");
        assert!(text.contains("# [[features]]\n"), "{text}");
        only_lacks::<CacheConfig>(&text, &["dataset", "teacher", "head"]);
    }

    /// With what is required, the defaults that are written out are those that are left out.
    #[test]
    fn what_is_written_out_is_what_is_left_out() {
        let needed = [
            "student={ kind = \"mlp\", hidden = [8], classes = 3 }",
            "optimizer={ kind = \"adamw\", learning_rate = 0.1 }",
            "loss.weights={ cross_entropy = 1.0 }",
            "train.epochs=1",
            "train.batch=2",
        ]
        .map(str::to_owned);
        let written: TrainConfig = load_str(&outline::<TrainConfig>(), "outline", &needed).unwrap();
        let left: TrainConfig = load_str("", "nothing", &needed).unwrap();
        assert_eq!(written, left);
    }

    /// A line of an outline: the table it is in, its key, and its value, if that is there.
    type Line = (String, String, Option<toml::Value>);

    /// The lines that a schema asks for.
    fn asked<'a>(schema: &'a Value, definitions: Definitions<'a>, path: &str, lines: &mut Vec<Line>) {
        let must: Vec<&str> = required(schema).collect();
        for (name, property) in properties(schema) {
            let plain = definitions.choose(property, false);
            let inner = key_in(path, name);
            if plain.get("const").is_some() {
                continue;
            }
            let default = property.get("default");
            let may_be_none = plain != property && property.get("anyOf").is_some()
                || property["type"].as_array().is_some_and(|types| types.contains(&"null".into()));
            assert!(
                default.is_some() || may_be_none || must.contains(&name.as_str()),
                "{inner} has a default that its schema does not tell: add \
                 #[schemars(skip_serializing_if = \"super::outline::never\")]"
            );
            let item = plain.get("items").map(|item| definitions.choose(item, false));
            if let Some(kinds) = kinds(plain) {
                kinds.iter().for_each(|kind| asked(kind, definitions, &inner, lines));
            } else if let Some(item) = item.filter(|item| item.get("properties").is_some()) {
                asked(item, definitions, &inner, lines);
            } else if plain.get("properties").is_some() {
                asked(plain, definitions, &inner, lines);
            } else if let Some(inner_table) = named(plain).filter(|named| named.is_object()) {
                asked(definitions.choose(inner_table, false), definitions, &format!("{inner}.NAME"), lines);
            } else {
                let default = default.filter(|default| !default.is_null());
                lines.push((path.into(), name.clone(), default.map(|v| toml::Value::try_from(v).unwrap())));
            }
        }
    }

    /// The lines that a text has, in comments or not.
    fn printed(text: &str) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut path = String::new();
        for line in text.lines() {
            let line = line.strip_prefix("# ").unwrap_or(line);
            if let Some(table) = line.strip_prefix('[').filter(|_| !line.contains(' ')) {
                path = table.trim_start_matches('[').trim_end_matches(']').to_owned();
            }
            let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| !key.contains([' ', '`']))
            else {
                continue;
            };
            if key == "kind" && path != "loss.features" && path != "teacher" {
                continue;
            }
            let value = (!value.starts_with('…'))
                .then(|| format!("v = {value}").parse::<toml::Table>().unwrap().remove("v").unwrap());
            lines.push((path.clone(), key.to_owned(), value));
        }
        lines
    }

    /// `value` with every default of `schema` that it does not have.
    fn filled<'a>(value: &Value, schema: &'a Value, definitions: Definitions<'a>) -> Value {
        let mut schema = definitions.choose(schema, value.is_object());
        if let Some(kinds) = kinds(schema) {
            let own = |kind: &&Value| kind_of(kind) == value["kind"].as_str();
            schema = kinds.iter().find(own).unwrap();
        }
        match value {
            Value::Object(table) => {
                let mut table: Map<String, Value> = table.clone();
                for (name, property) in properties(schema) {
                    let given = table.get(name).or(property.get("default")).cloned();
                    table.extend(given.map(|value| (name.clone(), filled(&value, property, definitions))));
                }
                if let Some(inner) = named(schema) {
                    table.values_mut().for_each(|value| *value = filled(value, inner, definitions));
                }
                table.into()
            }
            Value::Array(items) => {
                items.iter().map(|item| filled(item, &schema["items"], definitions)).collect()
            }
            other => other.clone(),
        }
    }

    fn every_default_is_told<C: Config + Debug + PartialEq>() {
        let schema = schemars::schema_for!(C);
        let root = schema.as_value();
        let definitions = Definitions::of(root);
        let (mut expected, mut found) = (Vec::new(), printed(&outline::<C>()));
        asked(root, definitions, "", &mut expected);
        let by_key = |a: &Line, b: &Line| format!("{a:?}").cmp(&format!("{b:?}"));
        expected.sort_by(by_key);
        found.sort_by(by_key);
        assert!(expected.len() > 60, "{expected:?}");
        for (expected, found) in expected.iter().zip(&found) {
            assert_eq!(expected, found);
        }
        assert_eq!(expected.len(), found.len());
        // What the schema tells is what the code takes: of every section, and of every kind of it.
        let mender = Mender::new(&Value::Null, root);
        let least = &mender.mended(&Value::Object(Map::new()))[0];
        let read = |tree: &Value| serde_json::from_value::<C>(tree.clone());
        for (name, property) in properties(root) {
            for section in mender.stand_ins(property) {
                let mut tree = least.clone();
                tree[name] = section;
                let whole = filled(&tree, root, definitions);
                assert_ne!(whole, tree, "nothing is told of {name}");
                // Nodes of the tail have checks of their own, which what stands in does not pass.
                let Ok(left) = read(&tree) else {
                    assert_eq!(name, "tail", "{tree:#}");
                    continue;
                };
                assert_eq!(read(&whole).unwrap(), left, "{whole:#}");
            }
        }
    }

    #[test]
    fn every_default_of_a_training_config_is_told() {
        every_default_is_told::<TrainConfig>();
    }

    #[test]
    fn every_default_of_a_caches_config_is_told() {
        every_default_is_told::<CacheConfig>();
    }

    #[test]
    fn defaults_that_are_not_written_into_runs_are_told() {
        let text = outline::<TrainConfig>();
        for line in [
            "precision = \"f32\"",
            "deterministic = false",
            "validate_every = 1",
            "per = \"step\"",
            "# stem = \"small\"",
            "gradient_norm = false",
            "tensorboard = false",
            "nkd = 0.0",
            "gamma = 1.5",
            "# layer = \"features\"",
            "# threads = …  # a whole number, may be left out",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
