//! Chats as text: messages laid out by the chat template of a tokenizer, as `transformers` does it.

mod jinja;
mod message;
mod python_json;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde_json::{Value, json};

use self::source::Source;
use super::TokensError;
use super::tokenizer::{json_file, word};
use crate::causes;
use crate::config::ChatConfig;

/// Answers that stand for any.
const ANSWER: &str = "kd-cache";

/// A chat template, ready for use.
pub(super) struct ChatTemplate {
    path: PathBuf,
    engine: Environment<'static>,
    /// The name of the template, and of the one for chats with tools.
    name: String,
    with_tools: Option<String>,
    /// `bos_token` and its like.
    special: BTreeMap<String, String>,
    /// Whether the template asks for a date and is given none.
    dateless: bool,
}

impl ChatTemplate {
    /// Reads the template of `config`, or else the one beside `tokenizer`, a `tokenizer.json`: `chat_template.jinja`, or
    /// what `tokenizer_config.json` or `chat_template.json` has under `chat_template`.
    ///
    /// # Errors
    /// [`TokensError`]: there is none, or it is none.
    pub(super) fn open(chat: &ChatConfig, tokenizer: &Path) -> Result<Self, TokensError> {
        let Source { path, text, with_tools } = Source::find(chat.template.as_deref(), tokenizer)?;
        let wrong = |problem: String| TokensError::ChatTemplate { path: path.clone(), problem };
        let mut engine = jinja::engine(chat.day()).map_err(|error| wrong(causes::told(&error)))?;
        // What errors call it.
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let dateless = chat.date.is_none()
            && [Some(&text), with_tools.as_ref()]
                .into_iter()
                .flatten()
                .any(|text| text.contains(jinja::TODAY));
        let mut add = |name: &str, text: &str| {
            let text = jinja::as_read(text);
            engine.add_template_owned(name.to_owned(), text).map_err(|error| wrong(causes::told(&error)))
        };
        add(&name, &text)?;
        let tools_name = format!("{name} (tool_use)");
        with_tools.as_deref().map(|text| add(&tools_name, text)).transpose()?;
        let with_tools = with_tools.map(|_| tools_name);
        let config = json_file(&tokenizer.with_file_name("tokenizer_config.json"))?;
        let special = config.map(|config| special_tokens(&config)).unwrap_or_default();
        Ok(Self { path, engine, name, with_tools, special, dateless })
    }

    /// The text of a chat.
    ///
    /// `messages` is a list of objects with `role` and `content` (or ShareGPT's `from` and `value`), and whatever else
    /// the template looks at; `tools` what it is told of tools. Either may be JSON in a text.
    ///
    /// # Errors
    /// What is no list of messages, the engine's own words, or the template's.
    pub(super) fn render(&self, messages: Value, tools: Option<Value>) -> Result<String, String> {
        self.lay_out(&message::all_of(messages)?, message::tools(tools)?.as_ref(), false)
    }

    fn lay_out(&self, messages: &[Value], tools: Option<&Value>, prompt: bool) -> Result<String, String> {
        let name = self.with_tools.as_ref().filter(|_| tools.is_some()).unwrap_or(&self.name);
        let words = minijinja::Value::from(Serde(&self.special));
        let (messages, tools) = (Serde(messages), tools.map(Serde));
        let chat = context! { messages, tools, documents => (), add_generation_prompt => prompt, ..words };
        let rendered = self.engine.get_template(name).and_then(|template| template.render(chat));
        rendered.map_err(|error| {
            let problem = causes::told(&error);
            // In a macro a function that is not there is an undefined value.
            let asked = problem.contains(jinja::TODAY) || problem.contains("not callable");
            match self.dateless && asked {
                true => problem + "; the template asks for today's date (dataset.chat.date)",
                false => problem,
            }
        })
    }

    /// What a person should know: what lays out chats, and between what answers then stand, where that can be seen.
    pub(super) fn note(&self) -> String {
        let mut note = format!("dataset: chats are laid out by {}", self.path.display());
        if self.dateless {
            note += ", which asks for today's date and is told none (chat.date)";
        }
        if let Some((begin, end)) = self.between() {
            note +=
                &format!("; answers stand between {begin:?} and {end:?} (responses.begin and responses.end)");
        }
        note
    }

    /// What stands before every answer, and what behind it, without the spaces and line ends around them, which tokens join with
    /// what follows.
    fn between(&self) -> Option<(String, String)> {
        let question = json!({ "role": "user", "content": "a" });
        let answer = json!({ "role": "assistant", "content": ANSWER });
        // Of several answers, as templates write the last one otherwise.
        let turns = [question.clone(), answer.clone(), question, answer];
        let of = |turns: &[Value], prompt| self.lay_out(turns, None, prompt).ok();
        let (asked, prompted, whole) = (of(&turns[..1], false)?, of(&turns[..1], true)?, of(&turns, false)?);
        let parts: Vec<&str> = whole.strip_prefix(&asked)?.split(ANSWER).collect();
        let [first, between, last] = parts[..] else { return None };
        let mut begin = common(prompted.strip_prefix(&asked)?, first);
        while !between.contains(begin) {
            begin = &begin[..begin.char_indices().next_back()?.0];
        }
        let (begin, end) = (whole_tags(begin).trim(), whole_tags(common(between, last)).trim());
        (!begin.is_empty() && !end.is_empty()).then(|| (begin.to_owned(), end.to_owned()))
    }
}

/// What two texts begin with.
fn common<'a>(one: &'a str, other: &str) -> &'a str {
    let differs = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b);
    let end = differs.map_or(one.len().min(other.len()), |((at, _), _)| at);
    &one[..end]
}

/// A text without a tag that is cut off, as tags that differ begin alike.
fn whole_tags(text: &str) -> &str {
    match text.rfind('<') {
        Some(open) if !text[open..].contains('>') => &text[..open],
        _ => text,
    }
}

/// Tokens that a `tokenizer_config.json` gives names, which templates write: as words, or as added tokens with flags.
fn special_tokens(config: &Value) -> BTreeMap<String, String> {
    let named = config.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    named.filter_map(|(name, token)| Some((name.clone(), word(token)?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_ends_with_letters_and_tags() {
        assert_eq!(common("日本", "日木"), "日");
        assert_eq!(common("ab", "abc"), "ab");
        assert_eq!(common("abc", "ab"), "ab");
        assert_eq!(common("", "b"), "");
        assert_eq!(whole_tags("<a>\n<th"), "<a>\n");
        assert_eq!(whole_tags("<a>b"), "<a>b");
        assert_eq!(whole_tags("a: "), "a: ");
    }
}
