//! A config with every key and every default, to begin with: TOML that is made of the JSON Schema.

use serde_json::Value;

use super::Config;

/// Columns of a comment.
const WIDTH: usize = 110;

/// Every key of `C` with what it means. What has a default stands with it; what is required, and what is off unless
/// given, stands in comments, as do the kinds of which one is to be chosen.
pub fn outline<C: Config>() -> String {
    let schema = schemars::schema_for!(C);
    let root = schema.as_value();
    let mut page = Page { definitions: root.get("$defs"), text: String::new() };
    page.keys(root, "", "", true);
    page.text
}

struct Page<'a> {
    definitions: Option<&'a Value>,
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
    /// Follows `$ref`, and takes the one of an optional value that is no null.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let reference = schema.get("$ref").and_then(Value::as_str);
        if let Some(name) = reference.and_then(|path| path.strip_prefix("#/$defs/")) {
            return self.definitions.and_then(|all| all.get(name)).unwrap_or(schema);
        }
        let options = schema.get("anyOf").and_then(Value::as_array);
        let inner = options.and_then(|all| all.iter().find(|one| one.get("type") != Some(&"null".into())));
        inner.map_or(schema, |inner| self.resolve(inner))
    }

    fn holds(&self, schema: &'a Value) -> Holds<'a> {
        let schema = self.resolve(schema);
        if let Some(all) = schema.get("oneOf").and_then(Value::as_array) {
            let tagged = |one: &Value| one.pointer("/properties/kind/const").is_some();
            return if all.iter().all(tagged) { Holds::Kinds(all) } else { Holds::Line };
        }
        let item = schema.get("items").map(|item| self.resolve(item));
        if let Some(item) = item.filter(|item| item.get("properties").is_some()) {
            return Holds::Listed(item);
        }
        match (schema.get("properties"), schema.get("additionalProperties")) {
            (Some(_), _) => Holds::Table(schema),
            (None, Some(Value::Object(_))) => Holds::Named(&schema["additionalProperties"]),
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
        let properties = || schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let required = |name: &str| {
            let all = schema.get("required").and_then(Value::as_array);
            all.is_some_and(|all| all.iter().any(|one| one == name))
        };
        for (name, property) in properties() {
            if matches!(self.holds(property), Holds::Line) {
                self.line(name, property, required(name), before);
            }
        }
        for (name, property) in properties() {
            let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let optional = property.get("anyOf").is_some();
            let off = if optional && before.is_empty() { "# " } else { before };
            let holds = self.holds(property);
            if matches!(holds, Holds::Line) {
                continue;
            }
            if gaps {
                self.text.push('\n');
            }
            let about = property.get("description").or_else(|| self.resolve(property).get("description"));
            let about = about.and_then(Value::as_str).unwrap_or_default();
            let needed = if required(name) { "Required. " } else { "" };
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
                    self.keys(self.resolve(table), &format!("{inner}.NAME"), "# ", false);
                }
                Holds::Listed(table) => {
                    self.comment(before, &format!("{needed}{about} Any number of tables:"));
                    self.text.push_str(&format!("# [[{inner}]]\n"));
                    self.keys(table, &inner, "# ", false);
                }
                Holds::Kinds(kinds) => {
                    self.comment(before, &format!("{needed}{about} One of these:"));
                    let chosen = property.pointer("/default/kind");
                    for kind in kinds {
                        let own = kind.pointer("/properties/kind/const");
                        let off = if own == chosen && before.is_empty() { "" } else { "# " };
                        let about = kind.get("description").and_then(Value::as_str).unwrap_or_default();
                        self.comment(before, about);
                        self.text.push_str(&format!("{off}[{inner}]\n"));
                        if let Some(own) = own {
                            self.text.push_str(&format!("{off}kind = {own}\n"));
                        }
                        self.keys(kind, &inner, off, false);
                    }
                }
            }
        }
    }

    fn line(&mut self, name: &str, property: &'a Value, required: bool, before: &str) {
        let schema = self.resolve(property);
        if schema.get("const").is_some() {
            return;
        }
        let about = property.get("description").or_else(|| schema.get("description"));
        let about = about.and_then(Value::as_str).unwrap_or_default().to_owned();
        let words = self.words(schema);
        let choice = if words.is_empty() { String::new() } else { format!(" One of {}.", words.join(", ")) };
        self.comment(before, &format!("{about}{choice}"));
        let default = property.get("default").filter(|default| !default.is_null());
        let line = match default.and_then(|default| toml::Value::try_from(default).ok()) {
            Some(default) => format!("{before}{name} = {default}\n"),
            None => {
                let state = if required { "required" } else { "off unless given" };
                format!("# {name} = …  # {}, {state}\n", type_of(schema))
            }
        };
        self.text.push_str(&line);
    }

    /// The words that a value may be.
    fn words(&self, schema: &Value) -> Vec<String> {
        let consts = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
        let consts = consts.filter_map(|one| one.get("const").or_else(|| one.pointer("/enum/0")));
        let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
        consts.chain(listed).filter_map(Value::as_str).map(|word| format!("\"{word}\"")).collect()
    }
}

/// A type in a word.
fn type_of(schema: &Value) -> &str {
    let name = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        one => one.and_then(Value::as_str),
    };
    match name {
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
        assert_eq!(said(&text)["storage"]["shard_samples"].as_integer(), Some(8192), "{text}");
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
}
