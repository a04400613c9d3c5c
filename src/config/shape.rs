//! The JSON Schema of a config, read: what `schemars` generates for this crate's configs, no more.

use serde_json::Value;

/// The schemas that others refer to by name.
#[derive(Clone, Copy)]
pub(super) struct Definitions<'a>(Option<&'a Value>);

impl<'a> Definitions<'a> {
    /// Those of the schema `root`.
    pub(super) fn of(root: &'a Value) -> Self {
        Self(root.get("$defs"))
    }

    /// Follows `$ref`.
    fn follow(self, schema: &'a Value) -> &'a Value {
        let path = schema.get("$ref").and_then(Value::as_str);
        let name = path.and_then(|path| path.strip_prefix("#/$defs/"));
        name.and_then(|name| self.0?.get(name)).unwrap_or(schema)
    }

    /// What `schema` says of a value, which is a table or none. An optional value is `anyOf: [schema, null]`: TOML has
    /// no null, so the first is meant. Or a number or a table: a table is compared with the one, and everything else
    /// with the other.
    pub(super) fn choose(self, schema: &'a Value, is_table: bool) -> &'a Value {
        let schema = self.follow(schema);
        let Some(options) = schema.get("anyOf").and_then(Value::as_array) else { return schema };
        let mut options = options.iter().filter(|option| option.get("type") != Some(&"null".into()));
        let first = options.next();
        let table = options.find(|_| is_table);
        table.or(first).map_or(schema, |option| self.choose(option, is_table))
    }
}

/// The tables of which one is to be chosen by its `kind`.
pub(super) fn kinds(schema: &Value) -> Option<&Vec<Value>> {
    let all = schema.get("oneOf").and_then(Value::as_array)?;
    all.iter().all(|one| kind_of(one).is_some()).then_some(all)
}

/// The `kind` of one of them.
pub(super) fn kind_of(table: &Value) -> Option<&str> {
    table.pointer("/properties/kind/const").and_then(Value::as_str)
}

/// The words that a value may be; none where it is anything else.
pub(super) fn words(schema: &Value) -> Vec<&str> {
    let list = |name: &str| schema.get(name).and_then(Value::as_array).into_iter().flatten();
    let consts = list("oneOf").filter_map(|one| one.get("const").or_else(|| one.pointer("/enum/0")));
    consts.chain(list("enum")).filter_map(Value::as_str).collect()
}

/// The keys of a table and their schemas.
pub(super) fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

/// The schema of the keys that the user names, where a table has such.
pub(super) fn named(schema: &Value) -> Option<&Value> {
    schema.get("additionalProperties").filter(|named| **named != Value::Bool(false))
}

/// The keys that a table must have.
pub(super) fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The first of a value's types that is not null.
pub(super) fn type_of(schema: &Value) -> Option<&str> {
    match schema.get("type") {
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        one => one.and_then(Value::as_str),
    }
}

/// The key `name` of the table `table`, which is the config itself where it has no name.
pub(super) fn key_in(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}
