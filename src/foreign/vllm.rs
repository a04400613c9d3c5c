//! vLLM's `prompt_logprobs`, a request a line.
//!
//! A line is what `RequestOutput` has (`prompt_token_ids`, `prompt_logprobs`) or a response of the
//! OpenAI-compatible server (the same in `choices`). Entry i is the distribution of token i given those before it,
//! and the first is null. An entry has the k most probable classes, and token i itself where it is none of these.
//!
//! Source: vLLM's documentation of `SamplingParams.prompt_logprobs` and `RequestOutput`.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ForeignError, ForeignRow, ForeignRows, Place, lines};

#[derive(Deserialize)]
struct Request {
    #[serde(flatten)]
    own: Prompt,
    #[serde(default)]
    choices: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    prompt: Option<Value>,
    prompt_token_ids: Option<Vec<u32>>,
    prompt_logprobs: Option<Vec<Option<Map<String, Value>>>>,
}

pub(super) fn rows(path: &Path) -> Result<ForeignRows<'_>, ForeignError> {
    Ok(Box::new(lines(path)?.flat_map(|line| {
        let rows = line.and_then(|(place, line)| requests(place, &line));
        match rows {
            Ok(rows) => rows.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    })))
}

fn requests(place: Place, line: &str) -> Result<Vec<ForeignRow>, ForeignError> {
    let request: Request = serde_json::from_str(line).map_err(|error| place.wrong(error.to_string()))?;
    let Request { own, choices } = request;
    let text = own.prompt.clone();
    let all = if own.prompt_logprobs.is_some() { vec![own] } else { choices };
    if all.is_empty() {
        return Err(place.wrong(
            "expected prompt_logprobs, here or in choices, found none; ask vLLM with prompt_logprobs=k",
        ));
    }
    all.into_iter().map(|prompt| row(place.clone(), prompt, text.as_ref())).collect()
}

fn row(place: Place, prompt: Prompt, text: Option<&Value>) -> Result<ForeignRow, ForeignError> {
    let Some(tokens) = prompt.prompt_token_ids else {
        return Err(place.wrong(
            "expected prompt_token_ids, found none; the server gives them with return_token_ids=true",
        ));
    };
    let entries = prompt.prompt_logprobs.unwrap_or_default();
    if entries.len() != tokens.len() || tokens.len() < 2 {
        return Err(place.wrong(format!(
            "expected at least 2 prompt_token_ids and as many prompt_logprobs, found {} and {}",
            tokens.len(),
            entries.len()
        )));
    }
    let text = prompt.prompt.as_ref().or(text).and_then(Value::as_str).map(str::to_owned);
    let mut row = ForeignRow { text, ..ForeignRow::new(place) };
    let asked = asked(&entries, &tokens);
    for (at, entry) in entries.into_iter().enumerate().skip(1) {
        // Of the token before it.
        let entry = entry.ok_or_else(|| row.place.wrong_at(at - 1, "prompt_logprobs is null"))?;
        let entry =
            classes(&entry, tokens[at], asked).map_err(|problem| row.place.wrong_at(at - 1, &problem))?;
        row.push(entry);
    }
    row.close(tokens)
}

/// How many classes were asked for, by the entries of a row: the fewest that one has, and one less where each has as many and the token that
/// followed is the least probable of every one, for it was added then.
fn asked(entries: &[Option<Map<String, Value>>], tokens: &[u32]) -> usize {
    let given = || entries.iter().zip(tokens).filter_map(|(entry, token)| Some((entry.as_ref()?, token)));
    let fewest = given().map(|(entry, _)| entry.len()).min().unwrap_or(0);
    let is_added = |(entry, token): (&Map<String, Value>, &u32)| {
        let followed = entry.get(&token.to_string()).and_then(Value::as_f64);
        let others = entry.iter().filter(|(id, _)| **id != token.to_string());
        let mut others = others.filter_map(|(_, value)| value.as_f64());
        followed.is_some_and(|followed| others.all(|other| other > followed))
    };
    /// Entries that must agree: of few, chance may have every token that followed be the least.
    const AGREE: usize = 4;
    let all_alike = given().count() >= AGREE && given().all(|(entry, _)| entry.len() == fewest);
    fewest - usize::from(fewest > 1 && all_alike && given().all(is_added))
}

/// An entry's classes, without the one that was added because it followed: the one whose rank is beyond them, or, where nobody gives ranks, the
/// least probable of more than were `asked` for.
fn classes(entry: &Map<String, Value>, followed: u32, asked: usize) -> Result<Vec<(u32, f32)>, String> {
    let mut found = Vec::with_capacity(entry.len());
    let (mut added, mut ranked) = (None, false);
    for (id, value) in entry {
        let class: u32 = id.parse().map_err(|_| format!("expected the id of a token, found \"{id}\""))?;
        let (logprob, rank) = match value {
            Value::Object(object) => (object.get("logprob"), object.get("rank").and_then(Value::as_u64)),
            plain => (Some(plain), None),
        };
        // JSON has no infinity: null is what most writers make of it.
        let logprob = match logprob {
            Some(Value::Null) => f64::NEG_INFINITY,
            Some(value) if value.is_number() => value.as_f64().unwrap_or(f64::NAN),
            _ => return Err(format!("expected a logprob for token {class}, found {value}")),
        };
        ranked |= rank.is_some();
        if class == followed && rank.is_some_and(|rank| rank > entry.len() as u64) {
            added = Some(found.len());
        }
        found.push((class, logprob as f32));
    }
    if !found.iter().any(|(class, _)| *class == followed) {
        return Err(format!(
            "none of its {} classes is the token that follows, {followed}, which vLLM always gives: tokens and \
             log-probabilities do not belong together",
            found.len()
        ));
    }
    if !ranked && found.len() == asked + 1 {
        let least = (0..found.len()).min_by(|a, b| found[*a].1.total_cmp(&found[*b].1));
        added = least.filter(|least| found[*least].0 == followed);
    }
    if let Some(added) = added {
        found.swap_remove(added);
    }
    Ok(found)
}
