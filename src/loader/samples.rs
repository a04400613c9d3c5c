//! A dataset, how it becomes a student's input, and the cache over it.

use crate::cache::{CacheError, CacheReader};
use crate::dataset::{Dataset, DatasetError};
use crate::ids::{SampleId, SampleView};
use crate::preprocess::{Preprocess, PreprocessError};
use crate::target::TargetBatch;

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

/// Samples in host memory.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Who they are: `[rows]`.
    pub ids: Vec<SampleId>,
    /// Prepared: `[rows, …input shape]`, row-major.
    pub inputs: Vec<f32>,
    /// Hard labels: `[rows]`; `None` in an unlabelled dataset.
    pub labels: Option<Vec<u32>>,
    /// Cached targets: `[rows, …]`; `None` without a cache.
    pub targets: Option<TargetBatch>,
}

/// Everything a batch is made of.
pub struct Samples {
    dataset: Box<dyn Dataset>,
    preprocess: Preprocess,
    cache: Option<CacheReader>,
}

impl Samples {
    /// Joins the three. Whether they belong together is for the caller to have checked.
    pub fn new(dataset: Box<dyn Dataset>, preprocess: Preprocess, cache: Option<CacheReader>) -> Self {
        Self { dataset, preprocess, cache }
    }

    /// The samples.
    pub fn dataset(&self) -> &dyn Dataset {
        self.dataset.as_ref()
    }

    /// Dimensions of one prepared sample.
    pub fn input_shape(&self) -> &[usize] {
        self.preprocess.output_shape()
    }

    /// The cache over them.
    pub fn cache(&self) -> Option<&CacheReader> {
        self.cache.as_ref()
    }

    /// Views of each sample.
    pub fn views(&self) -> u16 {
        self.preprocess.views()
    }

    /// The view `view` of the samples at `indices` of the dataset's own order.
    ///
    /// # Errors
    /// [`LoaderError`].
    pub fn batch(&self, indices: &[u64], view: u16) -> Result<Batch, LoaderError> {
        let ids: Vec<SampleId> = indices.iter().map(|index| self.dataset.id_at(*index)).collect();
        let labels = ids.iter().map(|id| self.dataset.label(*id)).collect::<Result<Option<Vec<u32>>, _>>()?;
        let rows: Vec<SampleView> = ids.iter().map(|id| SampleView { sample: *id, view }).collect();
        Ok(Batch {
            inputs: self.preprocess.batch(self.dataset.as_ref(), &rows)?,
            labels,
            targets: self.cache.as_ref().map(|cache| targets(cache, &rows)).transpose()?,
            ids,
        })
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
