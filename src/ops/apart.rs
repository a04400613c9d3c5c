//! Whether a language model takes the documents of a row apart.
//!
//! Rows of several documents are asked about as such: places begin anew in each, and that no token sees another document is the
//! model's to see to (`tools/export_lm.py` writes models that do). Most exports do not, and then a token's target is
//! that of a text which nobody has: this is found out by asking.

use std::ops::Range;

use super::samples::{Prepared, Samples, token_row};
use super::source::{Source, SourceError};
use crate::answers::difference;
use crate::cache::TokenRow;
use crate::ids::SampleView;

/// Rows among which one of several documents is looked for.
const ROWS: u64 = 64;
/// Positions at the beginning of a document that are compared: what is seen of others matters most there.
const POSITIONS: usize = 16;
/// Up to such a share of the logits' own size two answers may differ for their rounding, in half types or in whole numbers.
const ROUNDING: f64 = 0.05;

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
        source.logits(&Prepared::of_tokens(vec![view], vec![row], length)?, &asked)
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
