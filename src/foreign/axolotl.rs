//! Rows for axolotl's KD plugin, in JSON Lines or Parquet.
//!
//! Three forms, all with `input_ids`: `logprobs` as lists of `{"logprob": −0.1, "token": "token_id:5"}`; `logprobs`
//! as numbers with `target_token_ids`; and prepared data, `target_logprobs` with `target_token_ids`. Entry i is the
//! distribution of token i given those before it; where there are fewer entries than tokens, they are those of the
//! last tokens. axolotl writes the temperature and the renormalisation of its config into prepared data: what
//! comes from them means what was written.
//!
//! Source: axolotl, `integrations/kd/chat_template.py` and `collator.py`.

use std::path::Path;

use serde::Deserialize;

use super::parquet::{format_error, open};
use super::{ForeignError, ForeignRow, ForeignRows, Place, lines};

#[derive(Deserialize)]
struct Sample {
    input_ids: Vec<u32>,
    logprobs: Option<Vec<Option<Vec<Entry>>>>,
    target_logprobs: Option<Vec<Option<Vec<Entry>>>>,
    target_token_ids: Option<Vec<Option<Vec<u32>>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    /// `null` is −∞.
    Plain(Option<f32>),
    Named {
        logprob: Option<f32>,
        token: String,
    },
}

pub(super) fn rows(path: &Path) -> Result<ForeignRows<'_>, ForeignError> {
    if path.extension().is_some_and(|extension| extension == "parquet") {
        return from_parquet(path);
    }
    Ok(Box::new(lines(path)?.map(|line| line.and_then(|(place, line)| row(place, &line)))))
}

/// Through JSON, which is slow and the same for every nesting of types that writers choose.
fn from_parquet(path: &Path) -> Result<ForeignRows<'_>, ForeignError> {
    let (_, batches) = open(
        path,
        &[
            &["input_ids", "target_logprobs", "target_token_ids"],
            &["input_ids", "logprobs", "target_token_ids"],
            &["input_ids", "logprobs"],
        ],
    )?;
    let mut number = 0;
    Ok(Box::new(batches.flat_map(move |batch| {
        let wrong = |problem: String| format_error(path, "rows of Parquet", problem);
        let text = batch.and_then(|batch| {
            let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
            writer.write(&batch)?;
            writer.finish()?;
            Ok(writer.into_inner())
        });
        let text = match text.map_err(|error| wrong(error.to_string())) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => return vec![Err(error)],
        };
        let mut rows = Vec::new();
        for line in text.lines() {
            rows.push(row(Place::new(path, format!("row {number}")), line));
            number += 1;
        }
        rows
    })))
}

fn row(place: Place, line: &str) -> Result<ForeignRow, ForeignError> {
    let sample: Sample = serde_json::from_str(line).map_err(|error| place.wrong(error.to_string()))?;
    let tokens = sample.input_ids;
    let Some(entries) = sample.target_logprobs.or(sample.logprobs) else {
        return Err(place.wrong("expected logprobs or target_logprobs, found neither"));
    };
    let mut ids = sample.target_token_ids.map(Vec::into_iter);
    if entries.len() + 1 < tokens.len() {
        return Err(place.wrong(format!(
            "{} tokens and {} entries: nothing was said of the tokens before them, and a cache has a target for \
             each position; capture the log-probabilities of the prompt too",
            tokens.len(),
            entries.len()
        )));
    }
    if entries.len() > tokens.len() {
        return Err(place.wrong(format!("{} tokens, and {} entries", tokens.len(), entries.len())));
    }
    // Of entries for all tokens the first says what the first token is, which nothing stands before.
    let skipped = (entries.len() + 1).saturating_sub(tokens.len());
    let mut row = ForeignRow::new(place);
    for (at, entry) in entries.into_iter().enumerate() {
        let ids = ids.as_mut().and_then(Iterator::next).flatten();
        if at < skipped {
            continue;
        }
        let position = at - skipped;
        let entry = classes(entry.unwrap_or_default(), ids);
        let entry = entry.map_err(|problem| row.place.wrong_at(position, &problem))?;
        if entry.iter().all(|(_, logprob)| !logprob.is_finite()) {
            return Err(row.place.wrong_at(
                position,
                "nothing was said of what follows, and a cache has a target for each position; capture the \
                 log-probabilities of the prompt too",
            ));
        }
        row.push(entry);
    }
    row.close(tokens)
}

fn classes(entry: Vec<Entry>, ids: Option<Vec<u32>>) -> Result<Vec<(u32, f32)>, String> {
    let mut ids = ids.map(Vec::into_iter);
    let class = |entry: Entry| {
        let given = ids.as_mut().and_then(Iterator::next);
        let (id, logprob) = match entry {
            Entry::Named { logprob, token } => {
                let id = token.rsplit(':').next().and_then(|id| id.trim().parse().ok());
                (Some(id.ok_or_else(|| format!("expected \"token_id:N\", found \"{token}\""))?), logprob)
            }
            Entry::Plain(logprob) => (given, logprob),
        };
        let id = id.ok_or("expected as many target_token_ids as log-probabilities, found fewer")?;
        Ok((id, logprob.unwrap_or(f32::NEG_INFINITY)))
    };
    entry.into_iter().map(class).collect()
}
