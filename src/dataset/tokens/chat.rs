//! Chats as text: messages laid out by the chat template of a tokenizer, as `transformers` does it.
//!
//! A template is Jinja's language as `apply_chat_template` of `transformers` has it: blocks trimmed, methods of Python's
//! strings, `raise_exception`, JSON as Python writes it, `{% generation %}` without effect. Of the date it is told what the config says,
//! as the same config would give other bytes tomorrow.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use chrono::{NaiveDate, NaiveDateTime};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::{Value, json};

use super::TokensError;
use super::python_json::Style;
use super::tokenizer::{json_file, word};
use crate::config::ChatConfig;
use crate::durable;

/// An answer that stands for any.
const ANSWER: &str = "kd-cache";
/// Names that go by for what an assistant thought before it answered; templates look for the first or the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// The name of the one template.
const NAME: &str = "chat";
/// The function by which templates ask for the date.
const TODAY: &str = "strftime_now";
/// What ShareGPT calls those who speak.
const SPEAKERS: [(&str, &str); 2] = [("human", "user"), ("gpt", "assistant")];

/// A chat template, ready for use.
pub(super) struct ChatTemplate {
    path: PathBuf,
    engine: Environment<'static>,
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
        let beside = |name: &str| tokenizer.with_file_name(name);
        let config = beside("tokenizer_config.json");
        let found = match &chat.template {
            Some(path) => Some((path.clone(), required(path)?)),
            None => {
                let mut found = None;
                for path in [beside("chat_template.jinja"), config.clone(), beside("chat_template.json")] {
                    if let Some(text) = read(&path)? {
                        found = Some((path, text));
                        break;
                    }
                }
                found
            }
        };
        let (path, source) =
            found.ok_or_else(|| TokensError::NoChatTemplate { tokenizer: tokenizer.to_owned() })?;
        let dateless = chat.date.is_none() && source.contains(TODAY);
        let wrong = |error: Error| TokensError::ChatTemplate { path: path.clone(), problem: told(&error) };
        let mut engine = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        engine.set_syntax(syntax.map_err(wrong)?);
        engine.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        engine.add_function("raise_exception", |problem: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, problem))
        });
        if let Some(day) = chat.day() {
            engine.add_function(TODAY, move |format: String| strftime(day, &format));
        }
        engine.add_filter("tojson", to_json);
        engine.add_test("iterable", is_iterable);
        engine.add_template_owned(NAME, without_generation(&source)).map_err(wrong)?;
        let special = json_file(&config)?.map(|config| special_tokens(&config)).unwrap_or_default();
        Ok(Self { path, engine, special, dateless })
    }

    /// The text of a chat.
    ///
    /// `messages` is a list of objects with `role` and `content` (or ShareGPT's `from` and `value`), and whatever else
    /// the template looks at; `tools` what it is told of tools.
    ///
    /// # Errors
    /// The engine's own words, or the template's.
    pub(super) fn render(&self, messages: Value, tools: Option<Value>) -> Result<String, String> {
        let Value::Array(messages) = unpacked(messages)? else {
            return Err("expected a list of messages".into());
        };
        let messages = messages.into_iter().map(message).collect::<Result<Vec<_>, _>>()?;
        let tools = tools.map(unpacked).transpose()?;
        self.lay_out(&messages, tools.as_ref(), false)
    }

    fn lay_out(&self, messages: &[Value], tools: Option<&Value>, prompt: bool) -> Result<String, String> {
        let words = minijinja::Value::from(Serde(&self.special));
        let (messages, tools) = (Serde(messages), tools.map(Serde));
        let chat = context! { messages, tools, documents => (), add_generation_prompt => prompt, ..words };
        let template = self.engine.get_template(NAME).map_err(|error| told(&error))?;
        template.render(chat).map_err(|error| {
            let hint =
                if self.dateless { "; the template asks for today's date (dataset.chat.date)" } else { "" };
            told(&error) + hint
        })
    }

    /// What a person should know: what lays out chats, and between what answers then stand, where that can be seen.
    pub(super) fn note(&self) -> String {
        let mut note = format!("dataset: chats are laid out by {}", self.path.display());
        let question = json!({ "role": "user", "content": "a" });
        let answer = json!({ "role": "assistant", "content": ANSWER });
        let of = |messages: &[Value], prompt| self.lay_out(messages, None, prompt).ok();
        let asked = of(std::slice::from_ref(&question), false);
        let prompted = of(std::slice::from_ref(&question), true);
        let whole = of(&[question, answer], false);
        let (Some(asked), Some(prompted), Some(whole)) = (asked, prompted, whole) else { return note };
        let behind = |text: &str| Some(text.strip_prefix(&asked)?.to_owned());
        let (Some(prompt), Some(answered)) = (behind(&prompted), behind(&whole)) else { return note };
        // What a template begins an answer with that is still to come may differ from what stands before one that was given.
        let same = prompt.chars().zip(answered.chars()).take_while(|(a, b)| a == b);
        let mut begin: String = same.map(|(letter, _)| letter).collect();
        // Tags that differ begin alike.
        if begin.len() < prompt.len()
            && let Some(open) = begin.rfind('<').filter(|open| !begin[*open..].contains('>'))
        {
            begin.truncate(open);
        }
        if begin.trim().is_empty() {
            return note;
        }
        note += &format!("; an answer stands behind {begin:?} (responses.begin)");
        let end = answered.rsplit_once(ANSWER).map_or("", |(_, end)| end.trim());
        if !end.is_empty() {
            note += &format!(", up to {end:?} (responses.end)");
        }
        note
    }
}

/// What is written as JSON in a text, as tables have it in which rows differ in their keys.
fn unpacked(value: Value) -> Result<Value, String> {
    match value {
        Value::String(text) => {
            serde_json::from_str(&text).map_err(|error| format!("{text:?} is no JSON: {error}"))
        }
        value => Ok(value),
    }
}

/// A day as Python's `strftime` writes it.
fn strftime(day: NaiveDate, format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let written = write!(text, "{}", NaiveDateTime::from(day).format(format));
    let problem =
        || Error::new(ErrorKind::InvalidOperation, format!("{TODAY}: {format:?} is no format of dates"));
    written.map(|()| text).map_err(|_| problem())
}

/// The test `iterable`, in which nothing is nothing to go through, as in Python.
fn is_iterable(value: &minijinja::Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// A message as templates expect it.
fn message(message: Value) -> Result<Value, String> {
    let Value::Object(mut message) = message else {
        return Err(format!("expected messages that are objects, found {message}"));
    };
    if let Some(from) = message.shift_remove("from") {
        let speaker = SPEAKERS.iter().find(|(name, _)| from == *name);
        message.insert("role".into(), speaker.map_or(from, |(_, role)| (*role).into()));
        if let Some(value) = message.shift_remove("value") {
            message.insert("content".into(), value);
        }
    }
    if !message.contains_key("role") {
        let keys: Vec<&str> = message.keys().map(String::as_str).collect();
        return Err(format!("expected messages with a key \"role\", found the keys {}", keys.join(", ")));
    }
    let thought =
        REASONING.iter().find_map(|key| message.get(*key).filter(|thought| !thought.is_null()).cloned());
    if let Some(thought) = thought {
        message.entry("thinking").or_insert_with(|| thought.clone());
        message.insert("reasoning_content".into(), thought);
    }
    Ok(message.into())
}

/// The template in a file that must have one.
fn required(path: &Path) -> Result<String, TokensError> {
    let missing = || TokensError::ChatTemplate {
        path: path.to_owned(),
        problem: if path.exists() { "it has no key \"chat_template\"" } else { "there is no such file" }
            .into(),
    };
    read(path)?.ok_or_else(missing)
}

/// The template in a file: all of it, or of a JSON file what stands under `chat_template`; `None` where there is none.
fn read(path: &Path) -> Result<Option<String>, TokensError> {
    if path.extension().is_none_or(|extension| extension != "json") {
        let read = |source| TokensError::Read { path: path.to_owned(), source };
        return durable::if_there(std::fs::read_to_string(path)).map_err(read);
    }
    Ok(json_file(path)?.and_then(|config| match config.get("chat_template")? {
        Value::String(text) => Some(text.clone()),
        // Several, by name.
        Value::Array(named) => named
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| Some(entry["template"].as_str()?.to_owned())),
        _ => None,
    }))
}

/// Tokens that a `tokenizer_config.json` gives names, which templates write: as words, or as added tokens with flags.
fn special_tokens(config: &Value) -> BTreeMap<String, String> {
    let named = config.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    named.filter_map(|(name, token)| Some((name.clone(), word(token)?.to_owned()))).collect()
}

/// A template without `{% generation %}`, by which `transformers` finds the tokens of answers: a condition that holds.
fn without_generation(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, behind)) = rest.split_once("{%") {
        let Some((tag, after)) = behind.split_once("%}") else { break };
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let tag = match word {
            "generation" => tag.replace(word, "if true"),
            "endgeneration" => tag.replace(word, "endif"),
            _ => tag.to_owned(),
        };
        text += &format!("{before}{{%{tag}%}}");
        rest = after;
    }
    text + rest
}

/// An error and what it came from, on a line.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// The filter `tojson` of `transformers`: Python's `json.dumps`, which escapes nothing for HTML.
fn to_json(value: minijinja::Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let wrong = |problem: String| Error::new(ErrorKind::BadSerialization, problem);
    let style = Style {
        indent: indent.or(options.get("indent")?),
        separators: options.get("separators")?,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let value = serde_json::to_value(&value).map_err(|error| wrong(error.to_string()))?;
    style.dumps(value).map_err(wrong)
}
