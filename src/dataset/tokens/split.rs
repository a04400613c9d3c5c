//! Parts documents in training and validation.

use super::TokensError;
use super::corpus::Corpus;
use crate::config::{Part, SplitConfig};
use crate::permutation::Permutation;

/// Sets the order of documents apart from that of samples in an epoch, under the same seed.
const STREAM: u64 = 0x73_706c_6974;

/// Leaves only the documents of the part that `split` names.
///
/// The validation documents are the first of a seeded order, so that they depend on the seed, the
/// share and the number of documents, and not on how these are written or tokenised.
pub(super) fn apply(corpus: &mut Corpus, split: &SplitConfig) -> Result<(), TokensError> {
    let documents = corpus.len() as u64;
    let held_out = (documents as f64 * split.validation).round() as u64;
    let remain = match split.part {
        Part::Validation => held_out,
        Part::Train => documents - held_out.min(documents),
    };
    if remain == 0 {
        let (share, part) = (split.validation, split.part.as_str());
        return Err(TokensError::Split { share, documents, part });
    }
    let order = Permutation::new(documents, split.seed, STREAM);
    let mut validation = vec![false; corpus.len()];
    for position in 0..held_out.min(documents) {
        validation[order.at(position) as usize] = true;
    }
    corpus.retain(|document| validation[document] == (split.part == Part::Validation));
    Ok(())
}
