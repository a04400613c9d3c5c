//! Parts documents in training and validation.

use super::TokensError;
use super::corpus::Corpus;
use crate::config::SplitConfig;
use crate::dataset::split;

/// Leaves only the documents of the part that `split` names.
pub(super) fn apply(corpus: &mut Corpus, split: &SplitConfig) -> Result<(), TokensError> {
    let documents = corpus.len() as u64;
    let part = split::part(documents, split).ok_or(TokensError::Split {
        share: split.validation,
        documents,
        part: split.part.as_str(),
    })?;
    corpus.retain(|document| part[document]);
    Ok(())
}
