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

/// The rows that are wanted, and what there is of them: documents are laid into rows in their order, so that the first rows
/// need the first documents alone.
pub(super) struct Wanted {
    packing: Packing,
    length: u64,
    rows: u64,
    /// Tokens that are concatenated, without what stands between documents; or rows that documents fill.
    there: u64,
}

impl Wanted {
    pub(super) fn new(rows: &RowsConfig, wanted: u64) -> Self {
        Self { packing: rows.packing, length: rows.length as u64, rows: wanted, there: 0 }
    }

    /// A document of so many tokens is there.
    pub(super) fn add(&mut self, tokens: u64) {
        self.there += match self.packing {
            Packing::Document => tokens.div_ceil(self.length),
            Packing::Concatenate => tokens,
        };
    }

    /// Whether documents, and `begun` tokens of one that goes on, are enough.
    pub(super) fn is_met(&self, begun: u64) -> bool {
        match self.packing {
            Packing::Document => self.there + begun / self.length >= self.rows,
            Packing::Concatenate => self.there + begun >= self.rows.saturating_mul(self.length),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::dataset::tokens::corpus::CorpusBuilder;

    fn corpus(documents: &[Vec<u32>]) -> Corpus {
        let mut builder = CorpusBuilder::new(Some(1000), None, None);
        for (row, tokens) in documents.iter().enumerate() {
            builder.push(Path::new("x"), row as u64, tokens.iter().map(|t| i64::from(*t))).unwrap();
        }
        builder.finish()
    }

    fn rows(documents: &[Vec<u32>], config: &RowsConfig, end: Option<u32>) -> Vec<Sequence> {
        let corpus = corpus(documents);
        let plan = Plan::new(&corpus, config, end);
        (0..plan.len())
            .map(|row| {
                let mut out = Sequence::default();
                plan.fill(&corpus, row, &mut out);
                assert_eq!(out.tokens.len() as u64, plan.row_len(&corpus, row));
                out
            })
            .collect()
    }

    fn config(length: usize, packing: Packing, keep_rest: bool) -> RowsConfig {
        RowsConfig { length, packing, keep_rest, ..RowsConfig::default() }
    }

    fn row(tokens: &[u32], documents: &[u32]) -> Sequence {
        Sequence { tokens: tokens.to_vec(), documents: documents.to_vec() }
    }

    #[test]
    fn concatenated_documents_share_rows_and_know_their_bounds() {
        let documents = [vec![1, 2, 3], vec![4, 5], vec![6, 7, 8, 9]];
        let concatenate = config(4, Packing::Concatenate, true);
        // A separator at the end of a row is the last token of the document before it.
        assert_eq!(
            rows(&documents, &concatenate, Some(0)),
            [row(&[1, 2, 3, 0], &[0; 4]), row(&[4, 5, 0, 6], &[0, 0, 0, 1]), row(&[7, 8, 9], &[0; 3])]
        );
        assert_eq!(
            rows(&documents, &concatenate, None),
            [row(&[1, 2, 3, 4], &[0, 0, 0, 1]), row(&[5, 6, 7, 8], &[0, 1, 1, 1]), row(&[9], &[0])]
        );
        // A separator at the beginning of a row is all that is left of its document there.
        assert_eq!(
            rows(&documents, &config(3, Packing::Concatenate, false), Some(0)),
            [row(&[1, 2, 3], &[0; 3]), row(&[0, 4, 5], &[0, 1, 1]), row(&[0, 6, 7], &[0, 1, 1])]
        );
    }

    #[test]
    fn a_document_begins_a_row_and_goes_on_in_the_next() {
        let documents = [vec![1, 2, 3], vec![4, 5], vec![6, 7, 8, 9]];
        let found = rows(&documents, &config(2, Packing::Document, true), None);
        let tokens: Vec<&[u32]> = found.iter().map(|row| row.tokens.as_slice()).collect();
        assert_eq!(tokens, [&[1, 2][..], &[3], &[4, 5], &[6, 7], &[8, 9]]);
        assert!(found.iter().all(|row| row.documents.iter().all(|d| *d == 0)));
    }

    fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
        proptest::collection::vec(proptest::collection::vec(1u32..1000, 1..12), 1..20)
    }

    proptest! {
        /// As many documents as are wanted, the last as far as it was read, give the rows that all of them do.
        #[test]
        fn the_first_rows_are_those_of_all_documents(
            documents in documents(), length in 1usize..9, document_rows: bool, ends: bool, keep_rest: bool, cut in 1u64..9,
        ) {
            let packing = if document_rows { Packing::Document } else { Packing::Concatenate };
            let end = (ends && !document_rows).then_some(0);
            let config = config(length, packing, keep_rest);
            let all = rows(&documents, &config, end);
            for limit in 1..=all.len() {
                let mut wanted = Wanted::new(&config, limit as u64);
                let mut few: Vec<Vec<u32>> = Vec::new();
                'reading: for document in &documents {
                    for begun in (0..document.len() as u64).step_by(cut as usize) {
                        if wanted.is_met(begun) {
                            few.push(document[..begun as usize].to_vec());
                            break 'reading;
                        }
                    }
                    few.push(document.clone());
                    wanted.add(document.len() as u64);
                }
                few.retain(|document| !document.is_empty());
                let found = rows(&few, &config, end);
                prop_assert!(found.len() >= limit || few == documents, "{} of {limit}", found.len());
                prop_assert_eq!(&found[..limit], &all[..limit]);
            }
        }
    }

    proptest! {
        #[test]
        fn rows_one_after_another_are_the_documents(
            documents in documents(), length in 1usize..9, ends: bool, keep_rest: bool,
        ) {
            // No document has a 0, so that it marks the ends beyond doubt.
            let end = ends.then_some(0);
            let found = rows(&documents, &config(length, Packing::Concatenate, keep_rest), end);
            // What is expected, token by token: (token, document).
            let mut expected = Vec::new();
            for (number, document) in documents.iter().enumerate() {
                expected.extend(document.iter().map(|token| (*token, number)));
                if ends && number + 1 < documents.len() {
                    expected.push((0, number));
                }
            }
            if !keep_rest {
                expected.truncate(expected.len() / length * length);
            }
            let all: Vec<u32> = found.iter().flat_map(|row| row.tokens.clone()).collect();
            prop_assert_eq!(&all, &expected.iter().map(|(token, _)| *token).collect::<Vec<_>>());
            for (row, expected) in found.iter().zip(expected.chunks(length)) {
                let first = expected[0].1;
                let numbers: Vec<u32> = expected.iter().map(|(_, d)| (d - first) as u32).collect();
                prop_assert_eq!(&row.documents, &numbers);
            }
            // All but the last are full.
            prop_assert!(found.iter().rev().skip(1).all(|row| row.tokens.len() == length));
        }

        #[test]
        fn pieces_of_a_document_are_the_document(documents in documents(), length in 1usize..9) {
            let found = rows(&documents, &config(length, Packing::Document, true), None);
            let pieces: Vec<Vec<u32>> =
                documents.iter().flat_map(|d| d.chunks(length).map(<[u32]>::to_vec)).collect();
            let found: Vec<Vec<u32>> = found.into_iter().map(|row| row.tokens).collect();
            prop_assert_eq!(found, pieces);
        }
    }
}
