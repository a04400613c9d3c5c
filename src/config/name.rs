//! A name that may be a number.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// What configs name by its text or by its number: a token by its id, an output by its place in a tuple (or by the numbers that
/// exporters call outputs by).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Name {
    /// A token's id, an output's place.
    Number(u32),
    /// A token's text in the tokenizer's vocabulary, an output's name.
    Text(String),
}

impl Name {
    /// The number, where that is what the config gives.
    pub fn number(&self) -> Option<u32> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// As text, where the number is one more name.
impl From<Name> for String {
    fn from(name: Name) -> Self {
        match name {
            Name::Number(number) => number.to_string(),
            Name::Text(text) => text,
        }
    }
}

// By hand: one schema with two types, where the derive would make a choice of two schemas, of which
// the check of configs could say less.
impl JsonSchema for Name {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "minimum": 0, "maximum": u32::MAX })
    }
}

/// For a key that must be there and is kept as text.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Name::deserialize(from).map(String::from)
}

/// For a key that may be left out and is kept as text.
pub(super) fn optional_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Option::<Name>::deserialize(from).map(|name| name.map(String::from))
}

#[cfg(test)]
mod tests {
    use crate::config::{FeatureConfig, TeacherConfig};

    #[test]
    fn places_may_be_numbers() {
        let teacher = |output: &str| {
            toml::from_str::<TeacherConfig>(&format!(
                "kind = 'torchscript'\npath = 'a.pt'\noutput = {output}"
            ))
        };
        assert_eq!(teacher("1").unwrap().output.as_deref(), Some("1"));
        assert_eq!(teacher("'logits'").unwrap().output.as_deref(), Some("logits"));
        assert!(teacher("-1").is_err() && teacher("1.5").is_err());
        let feature: FeatureConfig = toml::from_str("name = 'a'\noutput = 2").unwrap();
        assert_eq!(feature.output, "2");
    }
}
