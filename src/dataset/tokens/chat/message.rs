//! Messages as templates expect them, from what data sets hold.

use serde_json::{Map, Value};

use super::super::error::kind;

/// Names that go by for what an assistant thought before it answered; templates look for the first or the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// What ShareGPT and its like call those who speak.
const SPEAKERS: [(&str, &str); 4] =
    [("human", "user"), ("gpt", "assistant"), ("chatgpt", "assistant"), ("bot", "assistant")];

/// The messages of a chat.
pub(super) fn all_of(messages: Value) -> Result<Vec<Value>, String> {
    match unpacked(messages, "messages")? {
        Value::Array(messages) => messages.into_iter().map(message).collect(),
        other => Err(format!("expected a list of messages, found {}", kind(&other))),
    }
}

/// What a template is told of tools: nothing, where there are none.
pub(super) fn tools(tools: Option<Value>) -> Result<Option<Value>, String> {
    let said = tools.filter(|tools| !tools.is_null() && tools != "");
    said.map(|tools| unpacked(tools, "tools")).transpose()
}

/// What is written as JSON in a text, as tables have it in which rows differ in their keys.
fn unpacked(value: Value, what: &str) -> Result<Value, String> {
    let Value::String(text) = value else { return Ok(value) };
    let wrong =
        |error| format!("expected {what}, as a list or as JSON in a text, found what is no JSON: {error}");
    serde_json::from_str(&text).map_err(wrong)
}

/// A message with the keys that templates know. What is null is not there, but for a content: templates ask whether a key is
/// there, and those who write data sets give every message every key.
fn message(message: Value) -> Result<Value, String> {
    let Value::Object(mut message) = message else {
        return Err(format!("expected messages that are objects, found {}", kind(&message)));
    };
    message.retain(|key, value| key == "content" || !value.is_null());
    if !message.contains_key("role") {
        rename(&mut message);
    }
    if !message.contains_key("role") {
        let keys: Vec<&str> = message.keys().map(String::as_str).collect();
        return Err(format!("expected messages with a key \"role\", found the keys {}", keys.join(", ")));
    }
    if let Some(Value::Array(parts)) = message.get_mut("content") {
        for part in parts.iter_mut().filter_map(Value::as_object_mut) {
            part.retain(|_, value| !value.is_null());
        }
    }
    if let Some(thought) = REASONING.iter().find_map(|key| message.get(*key)).cloned() {
        message.entry("thinking").or_insert_with(|| thought.clone());
        message.insert("reasoning_content".into(), thought);
    }
    Ok(message.into())
}

/// ShareGPT's keys and speakers as those of everybody else.
fn rename(message: &mut Map<String, Value>) {
    let Some(from) = message.shift_remove("from") else { return };
    let called = |name: &str| from.as_str().is_some_and(|from| from.eq_ignore_ascii_case(name));
    let speaker = SPEAKERS.iter().find(|(name, _)| called(name));
    message.insert("role".into(), speaker.map_or_else(|| from.clone(), |(_, role)| (*role).into()));
    if let Some(value) = message.shift_remove("value") {
        message.entry("content").or_insert(value);
    }
}
