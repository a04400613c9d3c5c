//! Documents as rows of tokens: what a language model reads, and predicts at every position of.
//!
//! ```text
//! files → text, chats or tables → tokenizer ─┐
//!         .bin, .npy (mapped) ───────────────┴→ documents → a part of them → rows
//! ```
//!
//! What is tokenised or decoded is held in memory, two bytes a token where the vocabulary has at most
//! 65,536 ids and four otherwise: a corpus of a billion tokens takes 2 or 4 GB, and a document 32 bytes
//! more. `.bin` and `.npy` stay where they are: they are mapped, read through once when they are opened, and
//! each row is gathered from the map. So tokenise a large corpus once, into a `.bin`.

mod chat;
mod corpus;
mod error;
mod files;
mod ipc;
mod npy;
mod open;
mod pack;
mod rows;
mod split;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod tokenizer;

pub use error::TokensError;
pub use files::resolve as files;
pub use rows::fingerprint;
pub use tokenizer::{Tokenizer, TokenizerIdentity};

use super::DatasetError;
use crate::config::DatasetConfig;
use crate::digest::Digest;
use crate::ids::SampleId;

/// A row of tokens, and where its documents begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids, `[length of the row]`.
    pub tokens: Vec<u32>,
    /// For each token the number of its document in this row, `[length of the row]`: from 0, never
    /// falling, each a step of at most 1. A token predicts the next, and attends to those before it,
    /// only where the numbers are the same. What ends a document is the last token of it.
    pub documents: Vec<u32>,
}

impl Sequence {
    /// The positions at which documents begin; the first is 0.
    pub fn document_starts(&self) -> Vec<usize> {
        let begins = |at: &usize| *at == 0 || self.documents[*at] != self.documents[at - 1];
        (0..self.documents.len()).filter(begins).collect()
    }
}

/// Rows of tokens, addressed by id.
pub trait TokenDataset: Send + Sync {
    /// Number of rows.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of all rows together.
    fn tokens(&self) -> u64;

    /// The id of the row at `index` in the dataset's own order, `index < len()`.
    fn id_at(&self, index: u64) -> SampleId;

    /// One row.
    ///
    /// # Errors
    /// [`DatasetError::NoSuchSample`].
    fn sequence(&self, id: SampleId) -> Result<Sequence, DatasetError>;

    /// Tokens of one row, without reading them.
    ///
    /// # Errors
    /// [`DatasetError::NoSuchSample`].
    fn sequence_len(&self, id: SampleId) -> Result<usize, DatasetError>;

    /// Tokens of the longest row.
    fn length(&self) -> usize;

    /// Number of ids that the config or else the tokenizer knows, where there is either: every token
    /// is below it. A teacher may have more classes, never fewer.
    fn vocabulary(&self) -> Option<u32>;

    /// The largest id in any row.
    fn largest_token(&self) -> u32;

    /// What the ids mean, where a tokenizer is given.
    fn tokenizer(&self) -> Option<&TokenizerIdentity>;

    /// The id that stands between documents of a row, where one does.
    fn end_of_document(&self) -> Option<u32>;

    /// What a person should know of the rows, a line each.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// Identifies the rows: their number, and the tokens and boundaries of each. How documents were
    /// written, compressed and tokenised is no part of it.
    fn fingerprint(&self) -> &Digest;
}

/// Opens the rows that `config` describes; `None` where it describes images.
pub(super) fn open(config: &DatasetConfig) -> Result<Option<Box<dyn TokenDataset>>, TokensError> {
    Ok(match config {
        DatasetConfig::Idx { .. } | DatasetConfig::Folder(_) => None,
        DatasetConfig::Text(config) => Some(Box::new(open::text(config)?)),
        DatasetConfig::Jsonl(config) => Some(Box::new(open::jsonl(config)?)),
        DatasetConfig::Parquet(config) => Some(Box::new(open::parquet(config)?)),
        DatasetConfig::Tokens(config) => Some(Box::new(open::tokens(config)?)),
    })
}
