//! Rows of tokens as a language model takes them, and which of its positions are asked for.

#[cfg(any(test, feature = "onnx"))]
use std::borrow::Cow;
#[cfg(any(test, feature = "onnx", feature = "torch"))]
use std::ops::Range;

use super::TeacherError;

/// Rows of tokens for one forward pass, padded at the right.
///
/// A row may hold several documents. Places (`position_ids`) are counted from 0 in each, and a model that
/// `tools/export_lm.py` wrote lets no token see another document's: the row then gives what each document
/// alone would. What other models make of restarting places is theirs; where one ignores them, the
/// documents of a row see each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    length: usize,
    ids: Vec<i64>,
    positions: Vec<i64>,
    valid: Vec<usize>,
}

impl TokenBatch {
    /// A batch without rows, for rows of up to `length` tokens.
    pub fn new(length: usize) -> Self {
        Self { length, ids: Vec::new(), positions: Vec::new(), valid: Vec::new() }
    }

    /// Adds a row: tokens, and each one's place in its document.
    ///
    /// # Errors
    /// [`TeacherError::Tokens`]: more tokens than the length, or another number of places.
    pub fn push(&mut self, ids: &[i64], positions: &[i64]) -> Result<(), TeacherError> {
        let row = self.valid.len();
        if ids.len() > self.length {
            let problem = format!("expected at most {} tokens, found {}", self.length, ids.len());
            return Err(TeacherError::Tokens { row, problem });
        }
        if positions.len() != ids.len() {
            let problem =
                format!("expected a place for each of {} tokens, found {}", ids.len(), positions.len());
            return Err(TeacherError::Tokens { row, problem });
        }
        self.valid.push(ids.len());
        self.ids.extend_from_slice(ids);
        self.ids.resize(self.valid.len() * self.length, 0);
        self.positions.extend_from_slice(positions);
        self.positions.resize(self.valid.len() * self.length, 0);
        Ok(())
    }

    /// Adds a row of whole documents, one behind the other.
    ///
    /// # Errors
    /// [`TeacherError::Tokens`]: together they are longer than the length.
    pub fn push_documents(&mut self, documents: &[&[i64]]) -> Result<(), TeacherError> {
        let positions: Vec<i64> = documents.iter().flat_map(|one| 0..one.len() as i64).collect();
        self.push(&documents.concat(), &positions)
    }

    /// Takes all rows out, and keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.valid.clear();
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.valid.len()
    }

    /// Tokens of a row, padding among them.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Tokens `[rows, length]`; padding is 0.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// Each token's place in its document, `[rows, length]`; padding is 0.
    pub fn positions(&self) -> &[i64] {
        &self.positions
    }

    /// Tokens of each row that are no padding, `[rows]`: a pass gives as many outputs.
    pub fn valid(&self) -> &[usize] {
        &self.valid
    }

    /// 1 for a token and 0 for padding, `[rows, length]`.
    pub fn mask(&self) -> Vec<i64> {
        let row = |valid: &usize| (0..self.length).map(|at| i64::from(at < *valid)).collect::<Vec<_>>();
        self.valid.iter().flat_map(row).collect()
    }

    #[cfg(any(test, feature = "onnx"))]
    /// `values` `[rows, length]` as `[to_rows, to_length]`, for a model that is fixed to a larger shape.
    pub(super) fn padded<'a>(&self, values: &'a [i64], to_rows: usize, to_length: usize) -> Cow<'a, [i64]> {
        if (to_rows, to_length) == (self.rows(), self.length) {
            return values.into();
        }
        let mut padded = vec![0; to_rows * to_length];
        let sources = values.chunks_exact(self.length.max(1));
        for (to, from) in padded.chunks_exact_mut(to_length.max(1)).zip(sources) {
            to[..self.length].copy_from_slice(from);
        }
        padded.into()
    }

    #[cfg(any(test, feature = "onnx", feature = "torch"))]
    /// The valid positions of an output `[…, length, …]`, at most `chunk` at a time: each chunk as ranges of
    /// positions, those that touch made one.
    pub(super) fn chunks(&self, length: usize, chunk: usize) -> Vec<Vec<Range<usize>>> {
        let mut chunks: Vec<Vec<Range<usize>>> = Vec::new();
        let mut room = 0;
        for (row, valid) in self.valid.iter().enumerate() {
            let mut start = row * length;
            let end = start + valid;
            while start < end {
                if room == 0 {
                    chunks.push(Vec::new());
                    room = chunk.max(1);
                }
                let stop = end.min(start.saturating_add(room));
                room -= stop - start;
                if let Some(ranges) = chunks.last_mut() {
                    match ranges.last_mut() {
                        Some(last) if last.end == start => last.end = stop,
                        _ => ranges.push(start..stop),
                    }
                }
                start = stop;
            }
        }
        chunks
    }

    /// The same for logits that stay on a device: those that lie one behind the other, as many as do. Chunks keep small what is
    /// brought here; what stays there is there as a whole, and a piece of it takes no copy. Where there would be many small
    /// pieces, each to be asked about and waited for, there are chunks.
    #[cfg(any(test, feature = "onnx", feature = "torch"))]
    pub(super) fn pieces(&self, length: usize, chunk: usize) -> Vec<Vec<Range<usize>>> {
        let pieces: Vec<Range<usize>> = self.chunks(length, usize::MAX).into_iter().flatten().collect();
        let positions: usize = pieces.iter().map(Range::len).sum();
        if positions < pieces.len().saturating_mul(chunk / 2) {
            return self.chunks(length, chunk);
        }
        pieces.into_iter().map(|range| vec![range]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> TokenBatch {
        let mut batch = TokenBatch::new(4);
        batch.push_documents(&[&[1, 2], &[3, 4]]).unwrap();
        batch.push_documents(&[]).unwrap();
        batch.push_documents(&[&[5]]).unwrap();
        batch.push(&[6, 7, 8], &[4, 5, 6]).unwrap();
        batch
    }

    #[test]
    fn rows_are_padded_at_the_right_and_places_restart() {
        let batch = batch();
        assert_eq!(batch.ids(), [1, 2, 3, 4, 0, 0, 0, 0, 5, 0, 0, 0, 6, 7, 8, 0]);
        assert_eq!(batch.positions(), [0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 4, 5, 6, 0]);
        assert_eq!(batch.mask(), [1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0]);
        assert_eq!(batch.valid(), [4, 0, 1, 3]);
        let mut two = TokenBatch::new(2);
        two.push(&[1, 2], &[0, 1]).unwrap();
        assert_eq!(*two.padded(two.ids(), 2, 3), [1, 2, 0, 0, 0, 0]);
        assert!(matches!(two.padded(two.ids(), 1, 2), Cow::Borrowed(_)));
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "a chunk of one range")]
    fn chunks_are_full_and_cross_rows() {
        let batch = batch();
        assert_eq!(batch.chunks(4, 3), [vec![0..3], vec![3..4, 8..9, 12..13], vec![13..15]]);
        assert_eq!(batch.chunks(5, 100), [vec![0..4, 10..11, 15..18]]);
        assert_eq!(batch.chunks(4, 1).len(), 8);
        assert!(TokenBatch::new(4).chunks(4, 3).is_empty());
        assert_eq!(batch.pieces(4, 5), [vec![0..4], vec![8..9], vec![12..15]]);
        assert_eq!(batch.pieces(4, 6), batch.chunks(4, 6));
        let mut full = TokenBatch::new(2);
        full.push(&[1, 2], &[0, 1]).unwrap();
        full.push(&[1, 2], &[0, 1]).unwrap();
        assert_eq!(full.chunks(2, 8), [vec![0..4]], "full rows touch");
        assert_eq!(full.pieces(2, 8), [vec![0..4]]);
    }

    #[test]
    fn a_row_that_does_not_fit_is_refused() {
        let mut batch = batch();
        let error = batch.push(&[0; 5], &[0; 5]).unwrap_err().to_string();
        assert_eq!(error, "row 4 of a batch of tokens: expected at most 4 tokens, found 5");
        let error = batch.push(&[0; 3], &[0; 2]).unwrap_err().to_string();
        assert_eq!(error, "row 4 of a batch of tokens: expected a place for each of 3 tokens, found 2");
        assert_eq!(batch.rows(), 4);
    }
}
