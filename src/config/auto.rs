//! A number of something, or the word for what the program finds out by itself.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The word for [`NumberOrAuto::Auto`].
const AUTO: &str = "auto";

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberOrAuto {
    /// So many.
    Of(NonZeroUsize),
    /// As many as serve best, measured when the work begins.
    Auto,
}

impl fmt::Display for NumberOrAuto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(number) => number.fmt(f),
            Self::Auto => f.write_str(AUTO),
        }
    }
}

impl Serialize for NumberOrAuto {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Of(number) => number.serialize(serializer),
            Self::Auto => serializer.serialize_str(AUTO),
        }
    }
}

impl<'de> Deserialize<'de> for NumberOrAuto {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrWord)
    }
}

struct NumberOrWord;

impl Visitor<'_> for NumberOrWord {
    type Value = NumberOrAuto;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from 1 on, or \"{AUTO}\"")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<NumberOrAuto, E> {
        let known = usize::try_from(number).ok().and_then(NonZeroUsize::new);
        known.map(NumberOrAuto::Of).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<NumberOrAuto, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<NumberOrAuto, E> {
        match word {
            AUTO => Ok(NumberOrAuto::Auto),
            _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
        }
    }
}

impl JsonSchema for NumberOrAuto {
    fn schema_name() -> Cow<'static, str> {
        "NumberOrAuto".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Bounds are of numbers alone, patterns of strings.
        json_schema!({ "type": ["integer", "string"], "minimum": 1, "pattern": format!("^{AUTO}$") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_the_word_is_read_and_written_and_nothing_else_is() {
        for (json, number) in
            [("7", NumberOrAuto::Of(NonZeroUsize::new(7).unwrap())), ("\"auto\"", NumberOrAuto::Auto)]
        {
            assert_eq!(serde_json::from_str::<NumberOrAuto>(json).unwrap(), number);
            assert_eq!(serde_json::to_string(&number).unwrap(), json);
            assert_eq!(number.to_string(), json.trim_matches('"'));
        }
        for wrong in ["0", "-3", "1.5", "\"automatic\"", "[]"] {
            let error = serde_json::from_str::<NumberOrAuto>(wrong).unwrap_err().to_string();
            assert!(error.contains("expected a whole number from 1 on, or \"auto\""), "{wrong}: {error}");
        }
    }
}
