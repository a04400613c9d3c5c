//! Documents of text, tokenised side by side and kept in order.

use std::borrow::Cow;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::TokensError;
use super::chat::ChatTemplate;
use super::corpus::CorpusBuilder;
use super::error::kind;
use super::tokenizer::Tokenizer;
use crate::dataset::packed;

/// About how much text is at work at once: enough for every thread, little against the tokens.
const BATCH_BYTES: usize = 16 << 20;
/// The same for files, whose sizes are not known beforehand.
const BATCH_FILES: usize = 256;

/// The byte-order mark that some programs put before UTF-8, which is no part of it.
const MARK: &str = "\u{feff}";

/// What of the object in a line becomes a document.
pub(super) enum Content<'a> {
    /// Text, under this key.
    Text(&'a str),
    /// Messages there, which the template lays out, and what is said of tools.
    Chat(&'a str, &'a ChatTemplate),
}

/// The key or column of what templates are told of tools.
pub(super) const TOOLS: &str = "tools";

/// Adds files, each a document.
pub(super) fn read_files(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    corpus: &mut CorpusBuilder,
) -> Result<(), TokensError> {
    for batch in files.chunks(corpus.at_once(BATCH_FILES)) {
        if corpus.is_full() {
            break;
        }
        let documents: Vec<_> = batch
            .par_iter()
            .map(|path| {
                let read = |source| TokensError::Read { path: path.clone(), source };
                let mut bytes = Vec::new();
                packed::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(read)?;
                let text = utf8(path, &bytes, 0)?;
                encode(tokenizer, text.strip_prefix(MARK).unwrap_or(text), || path.display().to_string())
            })
            .collect();
        for (path, tokens) in batch.iter().zip(documents) {
            corpus.push(path, 0, tokens?.into_iter().map(i64::from))?;
        }
    }
    Ok(())
}

/// Adds the lines of a JSON Lines file, each an object with `content`. Blank lines
/// count as lines, but are no documents.
pub(super) fn read_jsonl(
    path: &Path,
    content: &Content,
    tokenizer: &Tokenizer,
    corpus: &mut CorpusBuilder,
) -> Result<(), TokensError> {
    let read = |source| TokensError::Read { path: path.to_owned(), source };
    let mut file = packed::open(path).map_err(read)?;
    let mut batch = Vec::new();
    let (mut number, mut offset, mut held) = (0, 0, 0);
    loop {
        let mut line = Vec::new();
        let length = file.read_until(b'\n', &mut line).map_err(read)?;
        if length == 0 {
            return add_lines(path, content, &batch, tokenizer, corpus);
        }
        number += 1;
        let mark = if number == 1 && line.starts_with(MARK.as_bytes()) { MARK.len() } else { 0 };
        line.drain(..mark);
        if !line.trim_ascii().is_empty() {
            batch.push((number, offset + mark as u64, line));
        }
        held += length;
        offset += length as u64;
        if held >= corpus.at_once(BATCH_BYTES) {
            add_lines(path, content, &batch, tokenizer, corpus)?;
            batch.clear();
            held = 0;
            if corpus.is_full() {
                return Ok(());
            }
        }
    }
}

/// Adds lines, given with their number and the byte of the (unpacked) file at which they begin.
fn add_lines(
    path: &Path,
    content: &Content,
    lines: &[(u64, u64, Vec<u8>)],
    tokenizer: &Tokenizer,
    corpus: &mut CorpusBuilder,
) -> Result<(), TokensError> {
    let documents: Vec<_> = lines
        .par_iter()
        .map(|(number, offset, line)| {
            let line = utf8(path, line, *offset)?;
            let text = text_of(path, content, *number, line)?;
            encode(tokenizer, &text, || format!("{}, line {number}", path.display()))
        })
        .collect();
    for ((number, ..), tokens) in lines.iter().zip(documents) {
        corpus.push(path, *number, tokens?.into_iter().map(i64::from))?;
    }
    Ok(())
}

/// The text in a line.
fn text_of(path: &Path, content: &Content, line: u64, json: &str) -> Result<String, TokensError> {
    let wrong =
        |expected: String, found: String| TokensError::Line { path: path.to_owned(), line, expected, found };
    let value: Value = serde_json::from_str(json)
        .map_err(|error| wrong("a JSON object".into(), format!("what is no JSON: {error}")))?;
    let Value::Object(mut object) = value else {
        return Err(wrong("a JSON object".into(), kind(&value).into()));
    };
    let (key, name) = match content {
        Content::Text(key) => (key, "field"),
        Content::Chat(key, _) => (key, "chat.messages"),
    };
    let Some(value) = object.shift_remove(*key) else {
        let known: Vec<&str> = object.keys().map(String::as_str).collect();
        let expected = format!("a key {key:?} (dataset.{name})");
        return Err(wrong(expected, format!("the keys {}", known.join(", "))));
    };
    match (content, value) {
        (Content::Text(_), Value::String(text)) => Ok(text),
        (Content::Text(_), other) => Err(wrong(format!("text under {key:?}"), kind(&other).into())),
        (Content::Chat(_, template), messages) => {
            chat(template, messages, &mut object, || format!("{}, line {line}", path.display()))
        }
    }
}

/// The text of messages, which stand beside `object`.
fn chat(
    template: &ChatTemplate,
    messages: Value,
    object: &mut Map<String, Value>,
    place: impl Fn() -> String,
) -> Result<String, TokensError> {
    let laid_out = template.render(messages, object.shift_remove(TOOLS));
    laid_out.map_err(|problem| TokensError::Chat { place: place(), problem })
}

/// Adds texts of a table, given with their row.
pub(super) fn add_rows(
    path: &Path,
    rows: &[(u64, Cow<'_, str>)],
    tokenizer: &Tokenizer,
    corpus: &mut CorpusBuilder,
) -> Result<(), TokensError> {
    let documents: Vec<_> = rows
        .par_iter()
        .map(|(row, text)| encode(tokenizer, text, || format!("{}, row {row}", path.display())))
        .collect();
    for ((row, _), tokens) in rows.iter().zip(documents) {
        corpus.push(path, *row, tokens?.into_iter().map(i64::from))?;
    }
    Ok(())
}

/// Adds chats of a table, given with their row, their messages under `key`.
pub(super) fn add_chats(
    path: &Path,
    rows: Vec<(u64, Map<String, Value>)>,
    (key, template): (&str, &ChatTemplate),
    tokenizer: &Tokenizer,
    corpus: &mut CorpusBuilder,
) -> Result<(), TokensError> {
    let texts = rows.into_par_iter().map(|(row, mut object)| {
        let mut messages = object.shift_remove(key).unwrap_or_default();
        // A table has every key in every row. What is null was left out, and a content may be.
        for message in messages.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            if message.contains_key("role") {
                message.entry("content").or_insert(Value::Null);
            }
        }
        let text = chat(template, messages, &mut object, || format!("{}, row {row}", path.display()))?;
        Ok((row, text.into()))
    });
    let texts: Vec<Result<(u64, Cow<str>), TokensError>> = texts.collect();
    // The first that is wrong is told, whichever thread was the quickest.
    let texts = texts.into_iter().collect::<Result<Vec<_>, _>>()?;
    add_rows(path, &texts, tokenizer, corpus)
}

fn encode(tokenizer: &Tokenizer, text: &str, place: impl Fn() -> String) -> Result<Vec<u32>, TokensError> {
    tokenizer.document(text).map_err(|problem| TokensError::Tokenize { place: place(), problem })
}

/// `bytes`, which begin at `offset` of the file, as text.
fn utf8<'a>(path: &Path, bytes: &'a [u8], offset: u64) -> Result<&'a str, TokensError> {
    std::str::from_utf8(bytes).map_err(|error| TokensError::Utf8 {
        path: path.to_owned(),
        offset: offset + error.valid_up_to() as u64,
    })
}
