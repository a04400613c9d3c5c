//! Whether a language model takes the documents of a row apart.
//!
//! Rows of several documents are asked about as such: places begin anew in each, and that no token sees another document is the
//! model's to see to (`tools/export_lm.py` writes models that do). Most exports do not, and then a token's target is
//! that of a text which nobody has: this is found out by asking.

use std::ops::Range;

use super::samples::{Prepared, Samples, token_row};
use super::source::{Source, SourceError};
use crate::cache::TokenRow;
use crate::ids::SampleView;

/// Rows among which one of several documents is looked for.
const ROWS: u64 = 64;
/// Positions at the beginning of a document that are compared: what is seen of others matters most there.
const POSITIONS: usize = 16;
/// Up to such a share of the logits' own size two answers may differ for their rounding, in half types or in whole numbers.
const ROUNDING: f64 = 0.05;
/// Logits so far below the largest are as good as none.
const LOWEST: f32 = -50.0;

/// What is to be said of a teacher that gives a document in a row of several another answer than the document alone;
/// `None` where it does not, and where no row has several.
pub(super) fn warning(source: &mut Source) -> Option<String> {
    let share = match ask(source) {
        Ok(share) => share.filter(|share| *share > ROUNDING)?,
        // Whoever is asked about whole batches only is none the worse for it.
        Err(error) => {
            return Some(format!(
                "warning: whether the teacher takes the documents of a row apart could not be found out: {error}"
            ));
        }
    };
    Some(format!(
        "warning: the teacher's answers depend on other documents of a row: its logits differ by {:.0} % from those that it gives \
         a document alone. Give each document rows of its own (dataset.rows.packing = \"document\"), or take a model that \
         tools/export_lm.py wrote",
        100.0 * share
    ))
}

/// By how much a document's logits differ in a row of several from those of the document alone, which has as long a row.
fn ask(source: &mut Source) -> Result<Option<f64>, SourceError> {
    let Some((view, row, document)) = of_several(&source.samples)? else { return Ok(None) };
    let alone = TokenRow { tokens: row.tokens[document.clone()].to_vec(), documents: vec![0] };
    let (length, compared) = (row.tokens.len(), document.len().min(POSITIONS));
    let mut logits = |row: TokenRow, wanted: Range<usize>| {
        let asked: Vec<bool> = (0..row.tokens.len()).map(|at| wanted.contains(&at)).collect();
        let prepared = Prepared::of_tokens(vec![view], vec![row], length)?;
        let mut found = Vec::new();
        source.answer(&prepared, &asked, |logits, _| {
            found.extend_from_slice(logits);
            Ok::<(), SourceError>(())
        })?;
        Ok::<Vec<f32>, SourceError>(found)
    };
    let among = logits(row, document.start..document.start + compared)?;
    let alone = logits(alone, 0..compared)?;
    Ok(Some(difference(&among, &alone, source.reading.classes)))
}

/// A row of several documents, and the longest of those that do not begin it.
fn of_several(samples: &Samples) -> Result<Option<(SampleView, TokenRow, Range<usize>)>, SourceError> {
    let Samples::Tokens(dataset) = samples else { return Ok(None) };
    for index in 0..dataset.len().min(ROWS) {
        let view = samples.row_at(index);
        let sequence = dataset.sequence(view.sample)?;
        let starts = sequence.document_starts();
        let ends = starts.iter().skip(1).copied().chain([sequence.tokens.len()]);
        let documents = starts.iter().zip(ends).skip(1).map(|(start, end)| *start..end);
        if let Some(longest) = documents.max_by_key(ExactSizeIterator::len) {
            return Ok(Some((view, token_row(sequence), longest)));
        }
    }
    Ok(None)
}

/// The mean difference of two answers `[positions, classes]`, each position's relative to the size of its logits; a constant
/// that is added to all of them is none, and what is far below the largest (masked classes) counts as [`LOWEST`].
pub(super) fn difference(one: &[f32], other: &[f32], classes: usize) -> f64 {
    let centred = |row: &[f32]| {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let row: Vec<f64> = row.iter().map(|z| f64::from((z - largest).max(LOWEST))).collect();
        let mean = row.iter().sum::<f64>() / classes as f64;
        row.into_iter().map(|z| z - mean).collect::<Vec<f64>>()
    };
    let size = |row: &[f64]| row.iter().map(|z| z * z).sum::<f64>().sqrt();
    let rows = one.chunks_exact(classes).zip(other.chunks_exact(classes)).map(|(one, other)| {
        let (one, other) = (centred(one), centred(other));
        let apart: Vec<f64> = one.iter().zip(&other).map(|(a, b)| a - b).collect();
        size(&apart) / size(&other).max(f64::MIN_POSITIVE)
    });
    let shares: Vec<f64> = rows.filter(|share| share.is_finite()).collect();
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_and_masks_hide_none() {
        let row = [4.0, 1.0, -2.0, -3.0];
        let moved = row.map(|z| z + 7.0);
        assert!(difference(&row, &moved, 4) < 1e-6);
        let other = [4.0, 2.0, -2.0, -3.0];
        let plain = difference(&row, &other, 4);
        assert!((0.1..0.3).contains(&plain), "{plain}");
        assert!((difference(&[row, row].concat(), &[row, other].concat(), 4) - plain / 2.0).abs() < 1e-9);
        let masked = |row: [f32; 4]| [&row[..], &[-1e9, f32::MIN]].concat();
        let masked = difference(&masked(row), &masked(other), 6);
        assert!(masked > ROUNDING / 4.0, "{masked}");
    }
}
