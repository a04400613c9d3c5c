//! A corpus in rows, each checked and counted in the fingerprint once.

use super::corpus::Corpus;
use super::pack::Plan;
use super::{Sequence, TokenDataset, TokenizerIdentity};
use crate::dataset::DatasetError;
use crate::digest::{Digest, Hasher};
use crate::ids::SampleId;

/// What is known of the ids.
pub(super) struct Meaning {
    pub(super) vocabulary: Option<u32>,
    pub(super) tokenizer: Option<TokenizerIdentity>,
    pub(super) end_of_document: Option<u32>,
    /// Lines for people.
    pub(super) notes: Vec<String>,
}

/// The fingerprint of rows of tokens as it is made.
struct Fingerprint {
    hasher: Hasher,
    bytes: Vec<u8>,
}

impl Fingerprint {
    fn new(rows: u64) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(b"tokens-u32");
        hasher.update(&rows.to_le_bytes());
        Self { hasher, bytes: Vec::new() }
    }

    /// Adds the next row: its tokens, and where its documents begin.
    fn add(&mut self, tokens: &[u32], starts: &[usize]) {
        let bytes = &mut self.bytes;
        bytes.clear();
        bytes.extend((tokens.len() as u64).to_le_bytes());
        bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        bytes.extend((starts.len() as u64).to_le_bytes());
        bytes.extend(starts.iter().flat_map(|start| (*start as u64).to_le_bytes()));
        self.hasher.update(bytes);
    }
}

/// What [`TokenDataset::fingerprint`] is of `rows` that are one document each.
pub fn fingerprint<'a>(rows: impl ExactSizeIterator<Item = &'a [u32]>) -> Digest {
    let mut print = Fingerprint::new(rows.len() as u64);
    for row in rows {
        print.add(row, if row.is_empty() { &[] } else { &[0] });
    }
    print.hasher.finish()
}

/// Rows of tokens; sample ids are row numbers.
pub(super) struct Rows {
    corpus: Corpus,
    plan: Plan,
    meaning: Meaning,
    length: usize,
    tokens: u64,
    largest: u32,
    fingerprint: Digest,
}

impl Rows {
    /// Goes through all rows once.
    pub(super) fn new(corpus: Corpus, plan: Plan, meaning: Meaning) -> Self {
        let mut print = Fingerprint::new(plan.len());
        let (mut length, mut tokens, mut largest) = (0, 0, 0);
        let mut row = Sequence::default();
        for index in 0..plan.len() {
            plan.fill(&corpus, index, &mut row);
            print.add(&row.tokens, &row.document_starts());
            length = length.max(row.tokens.len());
            tokens += row.tokens.len() as u64;
            largest = row.tokens.iter().copied().fold(largest, u32::max);
        }
        Self { corpus, plan, meaning, length, tokens, largest, fingerprint: print.hasher.finish() }
    }

    fn row(&self, id: SampleId) -> Result<u64, DatasetError> {
        match id.0 {
            row if row < self.plan.len() => Ok(row),
            _ => Err(DatasetError::NoSuchSample { sample: id, samples: self.plan.len() }),
        }
    }
}

impl TokenDataset for Rows {
    fn len(&self) -> u64 {
        self.plan.len()
    }

    fn tokens(&self) -> u64 {
        self.tokens
    }

    fn id_at(&self, index: u64) -> SampleId {
        SampleId(index)
    }

    fn sequence(&self, id: SampleId) -> Result<Sequence, DatasetError> {
        let mut out = Sequence::default();
        self.plan.fill(&self.corpus, self.row(id)?, &mut out);
        Ok(out)
    }

    fn sequence_len(&self, id: SampleId) -> Result<usize, DatasetError> {
        Ok(self.plan.row_len(&self.corpus, self.row(id)?) as usize)
    }

    fn length(&self) -> usize {
        self.length
    }

    fn vocabulary(&self) -> Option<u32> {
        self.meaning.vocabulary
    }

    fn largest_token(&self) -> u32 {
        self.largest
    }

    fn tokenizer(&self) -> Option<&TokenizerIdentity> {
        self.meaning.tokenizer.as_ref()
    }

    fn end_of_document(&self) -> Option<u32> {
        self.meaning.end_of_document
    }

    fn notes(&self) -> &[String] {
        &self.meaning.notes
    }

    fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }
}
