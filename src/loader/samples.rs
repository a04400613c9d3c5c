//! The samples of a run, how they become a student's input, and the cache over them.

use std::borrow::Cow;
use std::iter;
use std::ops::Range;

use super::responses::Responses;
use crate::cache::{CacheError, CacheReader, TokenRow, Wanted};
use crate::dataset::{Dataset, DatasetError};
use crate::digest::Digest;
use crate::ids::{SampleId, SampleView};
use crate::permutation::Permutation;
use crate::preprocess::{Preprocess, PreprocessError};
use crate::target::{FeatureBatch, TargetBatch};

/// What stands for a label where a position has none: the last token of a document has no next one.
pub const NO_LABEL: i64 = -1;

/// Sets the order of which a part is taken apart from that of an epoch and of a split, under the same seed.
const PART_STREAM: u64 = 0x7061_7274;

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
    /// Where in the above the positions are that are asked about, row after row: `[positions]`. None of the padding is, and all others
    /// are unless responses alone are learned from.
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
    /// Cached targets, one for each cache: `[positions, …]`; none where they are not asked for.
    pub targets: Vec<TargetBatch>,
    /// The features that were asked for, in that order: `[positions, width]` each.
    pub features: Vec<FeatureBatch>,
}

/// How much there is of what the means of a step are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows.
    pub samples: usize,
    /// Samples, or tokens that are no padding.
    pub positions: usize,
    /// Positions with a label.
    pub labels: usize,
}

impl Counts {
    /// Of both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            samples: self.samples + other.samples,
            positions: self.positions + other.positions,
            labels: self.labels + other.labels,
        }
    }
}

impl Batch {
    /// The same rows of tokens with the positions at `wanted` alone.
    fn of(self, wanted: &[usize]) -> Self {
        fn picked(values: &[i64], wanted: &[usize]) -> Vec<i64> {
            wanted.iter().map(|at| values[*at]).collect()
        }
        let inputs = match self.inputs {
            Inputs::Tokens(mut tokens) => {
                tokens.positions = picked(&tokens.positions, wanted);
                Inputs::Tokens(tokens)
            }
            images @ Inputs::Images(_) => images,
        };
        Self {
            ids: self.ids,
            inputs,
            labels: self.labels.map(|labels| picked(&labels, wanted)),
            targets: self.targets.iter().map(|targets| targets.of(wanted)).collect(),
            features: self.features.iter().map(|vectors| vectors.of(wanted)).collect(),
        }
    }

    /// How much of what is in it.
    pub fn counts(&self) -> Counts {
        let positions = match &self.inputs {
            Inputs::Images(_) => self.ids.len(),
            Inputs::Tokens(tokens) => tokens.positions.len(),
        };
        let labels = self.labels.iter().flatten().filter(|label| **label != NO_LABEL).count();
        Counts { samples: self.ids.len(), positions, labels }
    }
}

/// Everything a batch is made of.
pub struct Samples {
    source: Source,
    /// Further caches over the same samples.
    further: Vec<CacheReader>,
    /// Places of features in the cache's manifest.
    features: Vec<usize>,
    /// The samples that are there, where not all are, rising: indices of the dataset's own order.
    part: Option<Vec<u64>>,
    /// What is learned from of rows of tokens, where not all is.
    responses: Option<Responses>,
}

enum Source {
    Images { dataset: Box<dyn Dataset>, preprocess: Box<Preprocess>, cache: Option<CacheReader> },
    Tokens { cache: CacheReader, targets: bool },
}

impl Samples {
    /// Images and the cache over them. Whether they belong together is for the caller to have checked.
    pub fn images(dataset: Box<dyn Dataset>, preprocess: Preprocess, cache: Option<CacheReader>) -> Self {
        Self::of(Source::Images { dataset, preprocess: Box::new(preprocess), cache })
    }

    /// The rows of tokens that a cache keeps beside their targets; without `targets`, only those.
    pub fn tokens(cache: CacheReader, targets: bool) -> Self {
        Self::of(Source::Tokens { cache, targets })
    }

    fn of(source: Source) -> Self {
        Self { source, further: Vec::new(), features: Vec::new(), part: None, responses: None }
    }

    /// The same with the targets of further caches beside the cache's in every batch. Whether they are over the same
    /// samples is for the caller to have checked.
    pub fn with_further(mut self, further: Vec<CacheReader>) -> Self {
        self.further = further;
        self
    }

    /// The same with the cache's features at these places of its manifest in every batch.
    pub fn with_features(mut self, features: Vec<usize>) -> Self {
        self.features = features;
        self
    }

    /// A part of them, drawn by `seed`: of two parts by one seed, the smaller one's samples are among the larger one's. All, where
    /// there are no more than `count`.
    pub fn with_part(mut self, count: u64, seed: u64) -> Self {
        let order = Permutation::new(self.len(), seed, PART_STREAM);
        if count < order.len() {
            let mut part: Vec<u64> = (0..count).map(|position| order.at(position)).collect();
            // Neighbours in files stay neighbours.
            part.sort_unstable();
            self.part = Some(part);
        }
        self
    }

    /// Rows of tokens of which only what lies in responses is in a batch: positions, and with them labels, targets and features.
    pub fn with_responses(mut self, responses: Option<Responses>) -> Self {
        self.responses = responses;
        self
    }

    /// Where in the dataset's own order the samples at `indices` are.
    fn places<'a>(&self, indices: &'a [u64]) -> Cow<'a, [u64]> {
        match &self.part {
            Some(part) => indices.iter().map(|index| part[*index as usize]).collect(),
            None => Cow::Borrowed(indices),
        }
    }

    /// The targets of every cache.
    fn targets(&self, first: TargetBatch, rows: &[SampleView]) -> Result<Vec<TargetBatch>, LoaderError> {
        let mut targets = vec![first];
        for cache in &self.further {
            let mut more = TargetBatch::default();
            cache.gather(&rows_of(cache, rows)?, &mut more)?;
            targets.push(more);
        }
        Ok(targets)
    }

    fn features(&self, cache: &CacheReader, rows: &[u64]) -> Result<Vec<FeatureBatch>, CacheError> {
        let gather = |feature: &usize| {
            let mut vectors = FeatureBatch::default();
            cache.gather_feature(*feature, rows, &mut vectors)?;
            Ok(vectors)
        };
        self.features.iter().map(gather).collect()
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        if let Some(part) = &self.part {
            return part.len() as u64;
        }
        match &self.source {
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
        match &self.source {
            Source::Images { preprocess, .. } => Some(preprocess.output_shape()),
            Source::Tokens { .. } => None,
        }
    }

    /// Identifies the samples, wherever they lie.
    pub fn fingerprint(&self) -> &Digest {
        match &self.source {
            Source::Images { dataset, .. } => dataset.fingerprint(),
            Source::Tokens { cache, .. } => &cache.manifest().dataset.fingerprint,
        }
    }

    /// Identifies their labels; `None` without, and of tokens, whose labels are tokens.
    pub fn labels_digest(&self) -> Option<&Digest> {
        match &self.source {
            Source::Images { dataset, .. } => dataset.labels_digest(),
            Source::Tokens { .. } => None,
        }
    }

    /// What the classes are called that labels count, where that is known.
    pub fn class_names(&self) -> Option<&[String]> {
        match &self.source {
            Source::Images { dataset, .. } => dataset.class_names(),
            Source::Tokens { .. } => None,
        }
    }

    /// The cache over them.
    pub fn cache(&self) -> Option<&CacheReader> {
        match &self.source {
            Source::Images { cache, .. } => cache.as_ref(),
            Source::Tokens { cache, .. } => Some(cache),
        }
    }

    /// Every cache over them, in the order of the targets in a batch.
    pub fn caches(&self) -> impl Iterator<Item = &CacheReader> {
        self.cache().into_iter().chain(&self.further)
    }

    /// Views of each sample.
    pub fn views(&self) -> u16 {
        match &self.source {
            Source::Images { preprocess, .. } => preprocess.views(),
            Source::Tokens { .. } => 1,
        }
    }

    /// Asks for what batches take out of the caches for the view `view` of the samples `range`, in the dataset's own
    /// order, so that it is in memory when they want it. What is wrong with it is for them to say.
    pub(super) fn will_need(&self, range: Range<u64>, view: u16) {
        let id = |index: u64| match (&self.source, self.places(&[index])[0]) {
            (Source::Images { dataset, .. }, place) => Some(dataset.id_at(place)),
            (Source::Tokens { cache, .. }, place) => cache.sample_id(place).ok(),
        };
        let (Some(first), Some(last)) = (id(range.start), id(range.end - 1)) else { return };
        let targets = !matches!(self.source, Source::Tokens { targets: false, .. });
        let none: &[usize] = &[];
        let own = self.cache().map(|cache| (cache, Wanted { targets, features: &self.features }));
        let further = self.further.iter().map(|cache| (cache, Wanted { targets, features: none }));
        for (cache, wanted) in own.into_iter().chain(further) {
            let row = |sample: SampleId| cache.row_of(sample, view).ok().flatten();
            // Rows lie in the order of the samples.
            if let (Some(first), Some(last)) = (row(first), row(last)) {
                cache.will_need(first..last + 1, wanted);
            }
        }
    }

    /// What [`Self::batch`] would count of the samples at `indices`, without making one.
    ///
    /// # Errors
    /// [`LoaderError`].
    pub fn counts(&self, indices: &[u64]) -> Result<Counts, LoaderError> {
        let samples = indices.len();
        let indices = &*self.places(indices);
        match &self.source {
            Source::Images { dataset, .. } => {
                let ids: Vec<SampleId> = indices.iter().map(|index| dataset.id_at(*index)).collect();
                let labels = labels_of(dataset.as_ref(), &ids)?.map_or(0, |labels| labels.len());
                Ok(Counts { samples, positions: samples, labels })
            }
            Source::Tokens { cache, .. } => {
                let mut counts = Counts { samples, ..Counts::default() };
                cache.open_shards_of(indices)?;
                for index in indices {
                    if let Some(row) = cache.tokens(*index)? {
                        let learned = self.learned(std::slice::from_ref(&row));
                        let learned = learned.unwrap_or_else(|| (0..row.tokens.len()).collect());
                        let next = row.next_tokens();
                        counts.positions += learned.len();
                        counts.labels += learned.iter().filter(|at| next[**at].is_some()).count();
                    }
                }
                Ok(counts)
            }
        }
    }

    /// The view `view` of the samples at `indices` of the dataset's own order.
    ///
    /// # Errors
    /// [`LoaderError`].
    pub fn batch(&self, indices: &[u64], view: u16) -> Result<Batch, LoaderError> {
        let indices = &*self.places(indices);
        match &self.source {
            Source::Images { dataset, preprocess, cache } => {
                let ids: Vec<SampleId> = indices.iter().map(|index| dataset.id_at(*index)).collect();
                let labels = labels_of(dataset.as_ref(), &ids)?;
                let rows: Vec<SampleView> = ids.iter().map(|id| SampleView { sample: *id, view }).collect();
                let inputs = Inputs::Images(preprocess.batch(dataset.as_ref(), &rows)?);
                let Some(cache) = cache else {
                    return Ok(Batch { ids, inputs, labels, targets: Vec::new(), features: Vec::new() });
                };
                let places = rows_of(cache, &rows)?;
                let mut targets = TargetBatch::default();
                cache.gather(&places, &mut targets)?;
                let targets = self.targets(targets, &rows)?;
                let features = self.features(cache, &places)?;
                Ok(Batch { ids, inputs, labels, targets, features })
            }
            Source::Tokens { cache, targets: asked } => {
                let further = self.further.iter().filter(|_| *asked);
                iter::once(cache).chain(further).try_for_each(|cache| cache.open_shards_of(indices))?;
                let mut rows = Vec::with_capacity(indices.len());
                for index in indices {
                    rows.extend(cache.tokens(*index)?);
                }
                let next = rows.iter().flat_map(TokenRow::next_tokens);
                let labels = next.map(|token| token.map_or(NO_LABEL, i64::from)).collect();
                let ids: Vec<SampleId> =
                    indices.iter().map(|row| cache.sample_id(*row)).collect::<Result<_, _>>()?;
                let mut targets = Vec::new();
                if *asked {
                    let mut first = TargetBatch::default();
                    cache.gather(indices, &mut first)?;
                    let rows: Vec<SampleView> =
                        ids.iter().map(|id| SampleView { sample: *id, view }).collect();
                    targets = self.targets(first, &rows)?;
                }
                let batch = Batch {
                    ids,
                    inputs: Inputs::Tokens(TokenInputs::new(&rows)),
                    labels: Some(labels),
                    targets,
                    features: self.features(cache, indices)?,
                };
                Ok(match self.learned(&rows) {
                    Some(learned) => batch.of(&learned),
                    None => batch,
                })
            }
        }
    }

    /// How many positions of the rows at `indices` are in a batch, and how many there are.
    ///
    /// # Errors
    /// [`LoaderError`].
    pub fn learned_of(&self, indices: &[u64]) -> Result<(usize, usize), LoaderError> {
        let Source::Tokens { cache, .. } = &self.source else { return Ok((indices.len(), indices.len())) };
        let (mut learned, mut all) = (0, 0);
        for place in &*self.places(indices) {
            let Some(row) = cache.tokens(*place)? else { continue };
            all += row.tokens.len();
            learned +=
                self.learned(std::slice::from_ref(&row)).map_or(row.tokens.len(), |learned| learned.len());
        }
        Ok((learned, all))
    }

    /// What is learned from of rows of tokens, where not all is.
    pub fn responses(&self) -> Option<&Responses> {
        self.responses.as_ref()
    }

    /// Which positions of `rows` are in a batch; `None` where all are.
    fn learned(&self, rows: &[TokenRow]) -> Option<Vec<usize>> {
        let responses = self.responses.as_ref()?;
        let learned = rows.iter().flat_map(|row| responses.of(row));
        Some(learned.enumerate().filter_map(|(at, learned)| learned.then_some(at)).collect())
    }
}

/// Labels of samples; `None` in an unlabelled dataset.
fn labels_of(dataset: &dyn Dataset, ids: &[SampleId]) -> Result<Option<Vec<i64>>, DatasetError> {
    ids.iter().map(|id| Ok(dataset.label(*id)?.map(i64::from))).collect()
}

/// Where `rows` are in the cache.
fn rows_of(cache: &CacheReader, rows: &[SampleView]) -> Result<Vec<u64>, LoaderError> {
    let row = |SampleView { sample, view }: &SampleView| match cache.row_of(*sample, *view)? {
        Some(row) => Ok(row),
        None => Err(LoaderError::NotCached { cache: cache.dir().to_owned(), sample: *sample, view: *view }),
    };
    rows.iter().map(row).collect()
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
