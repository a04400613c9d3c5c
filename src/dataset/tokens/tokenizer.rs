//! What a `tokenizer.json` knows: which ids there are, what they mean, and how text becomes them.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TokensError;
use crate::config::Name;
use crate::digest::{Digest, Hasher};
use crate::durable;

/// What tokenizers that say nothing else call the end of a document.
const KNOWN_ENDS: [&str; 6] = ["<|endoftext|>", "<|end_of_text|>", "<|eos|>", "</s>", "<eos>", "[EOS]"];

/// Tells tokenizers apart by what their ids mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerIdentity {
    /// The file's name, for people; another file may hold the same tokenizer.
    pub file: String,
    /// Number of ids: the highest, plus 1.
    pub size: u32,
    /// Digest of every token with its id, and of which of them are added and special. How text is cut
    /// into tokens is no part of it, nor is how the file is written.
    pub digest: Digest,
}

/// A tokenizer, ready for use.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    identity: TokenizerIdentity,
    end: Option<u32>,
    /// What documents begin with.
    begin: Option<u32>,
}

impl Tokenizer {
    /// Reads the `tokenizer.json` at `path`, and the `tokenizer_config.json` beside it where there is
    /// one: that is where the end-of-sequence token stands.
    ///
    /// # Errors
    /// [`TokensError`]: no such file, or none of a tokenizer.
    pub fn open(path: &Path) -> Result<Self, TokensError> {
        let read = |source| TokensError::Read { path: path.to_owned(), source };
        let wrong = |problem: String| TokensError::Tokenizer { path: path.to_owned(), problem };
        let bytes = std::fs::read(path).map_err(read)?;
        let mut inner =
            tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| wrong(error.to_string()))?;
        // A file may carry its last user's settings, which would cut every document.
        inner.with_truncation(None).map_err(|error| wrong(error.to_string()))?;
        inner.with_padding(None);
        let identity = identify(&inner, path).ok_or_else(|| wrong("it has no tokens".into()))?;
        let end = find_end(&inner, path)?;
        Ok(Self { inner, identity, end, begin: None })
    }

    /// What tells it from others.
    pub fn identity(&self) -> &TokenizerIdentity {
        &self.identity
    }

    /// Whether an id of this tokenizer is another token in the other one. One may have tokens that the other lacks.
    pub fn contradicts(&self, other: &Self) -> bool {
        let another =
            |(token, id): (String, u32)| other.inner.id_to_token(id).is_some_and(|there| there != token);
        self.inner.get_vocab(true).into_iter().any(another)
    }

    /// The end-of-sequence token, where it could be found.
    pub fn end(&self) -> Option<u32> {
        self.end
    }

    /// The text of [`Self::end`].
    pub fn end_text(&self) -> Option<String> {
        self.end.map(|end| self.text(end))
    }

    /// The id of a token of the config.
    pub(super) fn id(&self, name: &Name) -> Option<u32> {
        match name {
            Name::Number(id) => Some(*id),
            Name::Text(text) => self.inner.token_to_id(text),
        }
    }

    /// The text of a token.
    pub(super) fn text(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_default()
    }

    /// The same with `begin` before each document.
    pub(super) fn beginning_with(self, begin: Option<u32>) -> Self {
        Self { begin, ..self }
    }

    /// Whether something is put before each document.
    pub(super) fn begins_documents(&self) -> bool {
        self.begin.is_some()
    }

    /// The token that the tokenizer puts before a text by itself, where it is one.
    pub(super) fn own_begin(&self) -> Option<u32> {
        let ids = |around| Some(self.inner.encode_fast("a", around).ok()?.get_ids().to_vec());
        let (plain, around) = (ids(false)?, ids(true)?);
        match around
            .strip_suffix(&*plain)
            .or_else(|| around.get(..1).filter(|_| around[1..].starts_with(&plain)))
        {
            Some([begin]) => Some(*begin),
            _ => None,
        }
    }

    /// The tokens of a document: of its text, behind what documents begin with, unless that is written out or there is no text.
    ///
    /// # Errors
    /// The library's own words.
    pub(super) fn document(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut tokens = self.encode(text)?;
        if let (Some(begin), Some(first)) = (self.begin, tokens.first())
            && *first != begin
        {
            tokens.insert(0, begin);
        }
        Ok(tokens)
    }

    /// The tokens of a text.
    ///
    /// Nothing is put around them, whatever the post-processor would: a document is cut anywhere, and
    /// what stands between documents is the config's. Special tokens that are written out in the
    /// text become their ids, as in every use of the library.
    ///
    /// # Errors
    /// The library's own words.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, special ones left out.
    ///
    /// # Errors
    /// The library's own words.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, String> {
        self.inner.decode(tokens, true).map_err(|error| error.to_string())
    }
}

fn identify(tokenizer: &tokenizers::Tokenizer, path: &Path) -> Option<TokenizerIdentity> {
    let vocabulary: BTreeMap<String, u32> = tokenizer.get_vocab(true).into_iter().collect();
    let added: BTreeMap<u32, _> = tokenizer.get_added_tokens_decoder().into_iter().collect();
    let size = vocabulary.values().chain(added.keys()).max()?.checked_add(1)?;
    let mut hasher = Hasher::new();
    // Lengths go before texts, so that no two maps are written alike.
    let mut text = |text: &str, id: u32, kind: u8| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
        hasher.update(&id.to_le_bytes());
        hasher.update(&[kind]);
    };
    text("vocabulary", vocabulary.len() as u32, 0);
    for (token, id) in &vocabulary {
        text(token, *id, 0);
    }
    text("added", added.len() as u32, 0);
    for (id, token) in &added {
        text(&token.content, *id, 1 + u8::from(token.special));
    }
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Some(TokenizerIdentity { file, size, digest: hasher.finish() })
}

/// The end-of-sequence token: as the `tokenizer_config.json` beside the file says, or else the only
/// special token with a name that is known for it.
fn find_end(tokenizer: &tokenizers::Tokenizer, path: &Path) -> Result<Option<u32>, TokensError> {
    if let Some(config) = json_file(&path.with_file_name("tokenizer_config.json"))?
        && let Some(id) = config.get("eos_token").and_then(word).and_then(|end| tokenizer.token_to_id(end))
    {
        return Ok(Some(id));
    }
    let added = tokenizer.get_added_tokens_decoder();
    let mut known = added
        .iter()
        .filter(|(_, token)| token.special && KNOWN_ENDS.contains(&token.content.as_str()))
        .map(|(id, _)| *id);
    Ok(known.next().filter(|_| known.next().is_none()))
}

/// What a JSON file beside a tokenizer says, where there is one.
pub(super) fn json_file(path: &Path) -> Result<Option<Value>, TokensError> {
    let read = |source| TokensError::Read { path: path.to_owned(), source };
    let Some(bytes) = durable::if_there(std::fs::read(path)).map_err(read)? else {
        return Ok(None);
    };
    let wrong = |problem: serde_json::Error| TokensError::Tokenizer {
        path: path.to_owned(),
        problem: problem.to_string(),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}

/// A token of a `tokenizer_config.json`: written as a word, or as an added token with its flags.
pub(super) fn word(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}
