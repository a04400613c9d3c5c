//! The name of an output, which may be a number.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

/// A name as configs may give it: as text, or where it is a place in a tuple (or one of the numbers that exporters call
/// outputs by) as a number.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OutputName {
    Text(String),
    Place(u32),
}

impl From<OutputName> for String {
    fn from(name: OutputName) -> Self {
        match name {
            OutputName::Text(text) => text,
            OutputName::Place(place) => place.to_string(),
        }
    }
}

// By hand: one schema with two types, of which the check of configs can say more than of a choice of two.
impl JsonSchema for OutputName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OutputName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "minimum": 0, "maximum": u32::MAX })
    }
}

/// For a key that must be there.
pub(super) fn required<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    OutputName::deserialize(from).map(String::from)
}

/// For a key that may be left out.
pub(super) fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Option::<OutputName>::deserialize(from).map(|name| name.map(String::from))
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
