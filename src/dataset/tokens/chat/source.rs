//! Where a chat template lies.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::TokensError;
use super::super::tokenizer::json_file;
use crate::durable;

/// Names of templates, where a tokenizer has several.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// A chat template as it is written.
pub(super) struct Source {
    /// Its file.
    pub(super) path: PathBuf,
    /// The template.
    pub(super) text: String,
    /// Another one for chats with tools, where there is one.
    pub(super) with_tools: Option<String>,
}

impl Source {
    /// The template at `path`, or else beside `tokenizer`.
    pub(super) fn find(path: Option<&Path>, tokenizer: &Path) -> Result<Self, TokensError> {
        if let Some(path) = path {
            let missing = || TokensError::ChatTemplate {
                path: path.to_owned(),
                problem: match path.exists() {
                    true => "it has no key \"chat_template\" with a template, or with one called \"default\"",
                    false => "there is no such file",
                }
                .into(),
            };
            return Self::read(path)?.ok_or_else(missing);
        }
        for name in ["chat_template.jinja", "tokenizer_config.json", "chat_template.json"] {
            if let Some(found) = Self::read(&tokenizer.with_file_name(name))? {
                return Ok(found);
            }
        }
        Err(TokensError::NoChatTemplate { tokenizer: tokenizer.to_owned() })
    }

    /// What a file has of templates: all of it, or of a JSON file what stands under `chat_template`; `None` where there is none.
    fn read(path: &Path) -> Result<Option<Self>, TokensError> {
        let found = |text: Option<String>, with_tools| {
            text.map(|text| Self { path: path.to_owned(), text, with_tools })
        };
        if path.extension().is_none_or(|extension| extension != "json") {
            let other = path.with_file_name(format!("additional_chat_templates/{TOOL_USE}.jinja"));
            let other = if path.ends_with("chat_template.jinja") { text_of(&other)? } else { None };
            return Ok(found(text_of(path)?, other));
        }
        let config = json_file(path).map_err(|error| match error {
            TokensError::Tokenizer { path, problem } => TokensError::ChatTemplate { path, problem },
            other => other,
        })?;
        let template = config.as_ref().and_then(|config| config.get("chat_template"));
        Ok(match template {
            Some(Value::String(text)) => found(Some(text.clone()), None),
            // Several, by name.
            Some(Value::Array(named)) => {
                let called = |name| {
                    let entry = named.iter().find(|entry| entry["name"] == name)?;
                    Some(entry["template"].as_str()?.to_owned())
                };
                found(called(DEFAULT), called(TOOL_USE))
            }
            _ => None,
        })
    }
}

fn text_of(path: &Path) -> Result<Option<String>, TokensError> {
    let read = |source| TokensError::Read { path: path.to_owned(), source };
    durable::if_there(std::fs::read_to_string(path)).map_err(read)
}
