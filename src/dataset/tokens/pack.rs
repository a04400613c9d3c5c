//! Lays documents into rows, without moving a token.

use super::Sequence;
use super::corpus::Corpus;
use crate::config::{Packing, RowsConfig};

/// Where each row begins and ends.
pub(super) struct Plan {
    packing: Packing,
    /// Tokens in a row at most.
    length: u64,
    /// Stands between documents.
    end: Option<u32>,
    /// Concatenated: the place of each document's first token among all. A document a row: the
    /// document's first row. One entry more, for what comes after the last.
    starts: Vec<u64>,
    rows: u64,
}

impl Plan {
    /// `end` stands between documents that are concatenated.
    pub(super) fn new(corpus: &Corpus, rows: &RowsConfig, end: Option<u32>) -> Self {
        let length = rows.length as u64;
        let mut starts = Vec::with_capacity(corpus.len() + 1);
        let mut at = 0;
        for document in 0..corpus.len() {
            starts.push(at);
            let tokens = corpus.document_len(document);
            at += match rows.packing {
                Packing::Document => tokens.div_ceil(length),
                Packing::Concatenate if document + 1 < corpus.len() => tokens + u64::from(end.is_some()),
                Packing::Concatenate => tokens,
            };
        }
        starts.push(at);
        let rows_in_all = match rows.packing {
            Packing::Document => at,
            Packing::Concatenate if rows.keep_rest => at.div_ceil(length),
            Packing::Concatenate => at / length,
        };
        Self { packing: rows.packing, length, end, starts, rows: rows_in_all }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> u64 {
        self.rows
    }

    /// Leaves only the first `limit` rows.
    pub(super) fn truncate(&mut self, limit: u64) {
        self.rows = self.rows.min(limit);
    }

    /// Tokens of all rows together, when nothing is left out at the end.
    pub(super) fn tokens(&self, corpus: &Corpus) -> u64 {
        match self.packing {
            Packing::Concatenate => self.starts.last().copied().unwrap_or(0),
            Packing::Document => (0..corpus.len()).map(|document| corpus.document_len(document)).sum(),
        }
    }

    /// Tokens of row `row`, below [`Self::len`].
    pub(super) fn row_len(&self, corpus: &Corpus, row: u64) -> u64 {
        match self.packing {
            Packing::Concatenate => {
                let all = self.starts.last().copied().unwrap_or(0);
                self.length.min(all - row * self.length)
            }
            Packing::Document => {
                let document = self.document_at(row);
                let before = (row - self.starts[document]) * self.length;
                self.length.min(corpus.document_len(document) - before)
            }
        }
    }

    /// Makes `out` row `row`, below [`Self::len`].
    pub(super) fn fill(&self, corpus: &Corpus, row: u64, out: &mut Sequence) {
        out.tokens.clear();
        out.documents.clear();
        let len = self.row_len(corpus, row);
        if self.packing == Packing::Document {
            let document = self.document_at(row);
            let before = (row - self.starts[document]) * self.length;
            corpus.read(document, before, len as usize, &mut out.tokens);
            out.documents.resize(len as usize, 0);
            return;
        }
        let mut at = row * self.length;
        let mut left = len;
        let first = self.document_at(at);
        let mut document = first;
        while left > 0 {
            let before = at - self.starts[document];
            let here = (corpus.document_len(document) - before).min(left);
            corpus.read(document, before, here as usize, &mut out.tokens);
            (at, left) = (at + here, left - here);
            // What ends a document is its last token.
            if let Some(end) = self.end.filter(|_| left > 0 && at < self.starts[document + 1]) {
                out.tokens.push(end);
                (at, left) = (at + 1, left - 1);
            }
            out.documents.resize(out.tokens.len(), (document - first) as u32);
            document += 1;
        }
    }

    /// The document that the place or row `at` belongs to.
    fn document_at(&self, at: u64) -> usize {
        self.starts.partition_point(|start| *start <= at) - 1
    }
}
