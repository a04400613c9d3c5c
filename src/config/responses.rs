//! Which tokens of documents are learned from: those of responses.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::Fault;

/// Learns from responses alone, as those of chats and of prompts with completions: what lies behind `begin`, up to `end` and with it.
///
/// Which tokens these are is looked for in the rows of the cache, so that it may change from run to run. A document that begins in an
/// earlier row begins outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponsesConfig {
    /// What stands before a response and is not learned: `"<|im_start|>assistant"`, say. As text, which the key `tokenizer`
    /// makes tokens of, or as ids, for texts whose tokens are others where more stands around them.
    pub begin: Tokens,
    /// What a response ends with, and is learned with it: `"<|im_end|>"`, say. Default: the end of its document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Tokens>,
}

/// Tokens that follow each other, by their text or by their ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Tokens {
    /// Their ids.
    Ids(Vec<u32>),
    /// What a tokenizer makes them of.
    Text(String),
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ids(ids) => write!(f, "{ids:?}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

// By hand: one schema with two types, of which the check of configs can say more than of a choice of two.
impl JsonSchema for Tokens {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Tokens".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let id = json_schema!({ "type": "integer", "minimum": 0, "maximum": u32::MAX });
        json_schema!({ "type": ["string", "array"], "minLength": 1, "minItems": 1, "items": id })
    }
}

impl ResponsesConfig {
    /// Whether any of its tokens are given as text.
    pub fn has_text(&self) -> bool {
        [Some(&self.begin), self.end.as_ref()]
            .into_iter()
            .flatten()
            .any(|tokens| matches!(tokens, Tokens::Text(_)))
    }

    /// Everything that is wrong with the values, of a config that names a tokenizer or not.
    pub(super) fn validate(&self, tokenizer: bool) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (key, tokens) in [("responses.begin", Some(&self.begin)), ("responses.end", self.end.as_ref())] {
            match tokens {
                Some(Tokens::Text(text)) if text.is_empty() => {
                    faults.push(Fault::new(key, "expected a text or ids, found an empty text"));
                }
                Some(text @ Tokens::Text(_)) if !tokenizer => {
                    let problem = format!("expected ids, or the key tokenizer beside it, found {text}");
                    faults.push(Fault::new(key, problem));
                }
                _ => {}
            }
        }
        faults
    }
}
