//! The samples of a run, how they become a student's input, and the cache over them.

use crate::cache::{CacheError, CacheReader, TokenRow};
use crate::dataset::{Dataset, DatasetError};
use crate::ids::{SampleId, SampleView};
use crate::preprocess::{Preprocess, PreprocessError};
use crate::target::TargetBatch;

/// What stands for a label where a position has none: the last token of a document has no next one.
pub const NO_LABEL: i64 = -1;

/// Why a batch could not be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// The dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// What becomes of a sample.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The cache lacks a sample of the dataset.
    #[error("{cache} has no target for sample {sample}, view {view}; build it over the same dataset")]
    NotCached {
        /// The cache's folder.
        cache: std::path::PathBuf,
        /// The sample.
        sample: SampleId,
        /// The view.
        view: u16,
    },
}

/// What a student is given, in host memory.
#[derive(Clone, Debug)]
pub enum Inputs {
    /// Prepared images: `[rows, …input shape]`, row-major.
    Images(Vec<f32>),
    /// Rows of tokens.
    Tokens(TokenInputs),
}

/// Rows of tokens, padded to the longest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenInputs {
    /// Number of rows.
    pub rows: usize,
    /// Tokens of the longest.
    pub length: usize,
    /// Tokens, 0 where a row has ended: `[rows, length]`.
    pub tokens: Vec<i64>,
    /// Each token's place in its document: `[rows, length]`.
    pub places: Vec<i64>,
    /// The number of each token's document in the row, −1 where it has ended: `[rows, length]`.
    pub documents: Vec<i64>,
    /// Where in the above the positions are that are none of the padding, row after row: `[positions]`.
    pub positions: Vec<i64>,
}

impl TokenInputs {
    fn new(rows: &[TokenRow]) -> Self {
        let length = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        let mut inputs = Self { rows: rows.len(), length, ..Self::default() };
        for (at, row) in rows.iter().enumerate() {
            let end = (at + 1) * length;
            inputs.tokens.extend(row.tokens.iter().map(|token| i64::from(*token)));
            inputs.places.extend(row.places().into_iter().map(i64::from));
            inputs.documents.extend(row.numbers().into_iter().map(i64::from));
            inputs.positions.extend((0..row.tokens.len()).map(|place| (at * length + place) as i64));
            inputs.tokens.resize(end, 0);
            inputs.places.resize(end, 0);
            inputs.documents.resize(end, -1);
        }
        inputs
    }
}

/// Samples in host memory. A position is a sample, or where samples are rows of tokens each of these.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Who they are: `[rows]`.
    pub ids: Vec<SampleId>,
    /// What a student is given of them.
    pub inputs: Inputs,
    /// Hard labels, or the token that follows: `[positions]`, [`NO_LABEL`] where there is none; `None` in an
    /// unlabelled dataset.
    pub labels: Option<Vec<i64>>,
    /// Cached targets: `[positions, …]`; `None` where they are not asked for.
    pub targets: Option<TargetBatch>,
}

/// Everything a batch is made of.
pub struct Samples(Source);

enum Source {
    Images { dataset: Box<dyn Dataset>, preprocess: Box<Preprocess>, cache: Option<CacheReader> },
    Tokens { cache: CacheReader, targets: bool },
}

impl Samples {
    /// Images and the cache over them. Whether they belong together is for the caller to have checked.
    pub fn images(dataset: Box<dyn Dataset>, preprocess: Preprocess, cache: Option<CacheReader>) -> Self {
        Self(Source::Images { dataset, preprocess: Box::new(preprocess), cache })
    }

    /// The rows of tokens that a cache keeps beside their targets; without `targets`, only those.
    pub fn tokens(cache: CacheReader, targets: bool) -> Self {
        Self(Source::Tokens { cache, targets })
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Source::Images { dataset, .. } => dataset.len(),
            Source::Tokens { cache, .. } => cache.rows(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Dimensions of one prepared image; `None` for rows of tokens.
    pub fn image_shape(&self) -> Option<&[usize]> {
        match &self.0 {
            Source::Images { preprocess, .. } => Some(preprocess.output_shape()),
            Source::Tokens { .. } => None,
        }
    }

    /// The cache over them.
    pub fn cache(&self) -> Option<&CacheReader> {
        match &self.0 {
            Source::Images { cache, .. } => cache.as_ref(),
            Source::Tokens { cache, .. } => Some(cache),
        }
    }

    /// Views of each sample.
    pub fn views(&self) -> u16 {
        match &self.0 {
            Source::Images { preprocess, .. } => preprocess.views(),
            Source::Tokens { .. } => 1,
        }
    }

    /// The view `view` of the samples at `indices` of the dataset's own order.
    ///
    /// # Errors
    /// [`LoaderError`].
    pub fn batch(&self, indices: &[u64], view: u16) -> Result<Batch, LoaderError> {
        match &self.0 {
            Source::Images { dataset, preprocess, cache } => {
                let ids: Vec<SampleId> = indices.iter().map(|index| dataset.id_at(*index)).collect();
                let label = |id: &SampleId| Ok(dataset.label(*id)?.map(i64::from));
                let labels = ids.iter().map(label).collect::<Result<Option<Vec<i64>>, DatasetError>>()?;
                let rows: Vec<SampleView> = ids.iter().map(|id| SampleView { sample: *id, view }).collect();
                let inputs = Inputs::Images(preprocess.batch(dataset.as_ref(), &rows)?);
                let targets = cache.as_ref().map(|cache| targets(cache, &rows)).transpose()?;
                Ok(Batch { ids, inputs, labels, targets })
            }
            Source::Tokens { cache, targets: asked } => {
                let mut rows = Vec::with_capacity(indices.len());
                for index in indices {
                    rows.extend(cache.tokens(*index)?);
                }
                let next = rows.iter().flat_map(TokenRow::next_tokens);
                let labels = next.map(|token| token.map_or(NO_LABEL, i64::from)).collect();
                let mut targets = TargetBatch::default();
                if *asked {
                    cache.gather(indices, &mut targets)?;
                }
                Ok(Batch {
                    ids: indices.iter().map(|row| cache.sample_id(*row)).collect::<Result<_, _>>()?,
                    inputs: Inputs::Tokens(TokenInputs::new(&rows)),
                    labels: Some(labels),
                    targets: asked.then_some(targets),
                })
            }
        }
    }
}

fn targets(cache: &CacheReader, rows: &[SampleView]) -> Result<TargetBatch, LoaderError> {
    let row = |SampleView { sample, view }: &SampleView| match cache.row_of(*sample, *view)? {
        Some(row) => Ok(row),
        None => Err(LoaderError::NotCached { cache: cache.dir().to_owned(), sample: *sample, view: *view }),
    };
    let rows = rows.iter().map(row).collect::<Result<Vec<u64>, LoaderError>>()?;
    let mut targets = TargetBatch::default();
    cache.gather(&rows, &mut targets)?;
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_to_the_longest() {
        let row = |tokens: &[u32], documents: &[u32]| TokenRow {
            tokens: tokens.to_vec(),
            documents: documents.to_vec(),
        };
        let inputs = TokenInputs::new(&[row(&[5, 6], &[0]), row(&[7, 8, 9], &[0, 1])]);
        assert_eq!((inputs.rows, inputs.length), (2, 3));
        assert_eq!(inputs.tokens, [5, 6, 0, 7, 8, 9]);
        assert_eq!(inputs.places, [0, 1, 0, 0, 0, 1]);
        assert_eq!(inputs.documents, [0, 0, -1, 0, 1, 1]);
        assert_eq!(inputs.positions, [0, 1, 3, 4, 5]);
    }
}
