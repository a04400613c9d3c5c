//! What a teacher is asked about, and the teacher: images or rows of tokens.

use std::ops::ControlFlow;

use super::source::SourceError;
use crate::cache::TokenRow;
use crate::config::CacheConfig;
use crate::dataset::{self, AnyDataset, Dataset, TokenDataset};
use crate::digest::Digest;
use crate::ids::{Position, SampleId, SampleView};
use crate::permutation::Permutation;
use crate::preprocess::Preprocess;
use crate::teacher::{self, RawOutput, Teacher, TeacherError, TokenBatch, TokenTeacher};

/// A row of tokens from which a sample of positions is drawn gives at least this share of them: neighbours
/// are alike, and so a sample over many rows says more, but each row costs a forward pass.
const SHARE_OF_A_ROW: usize = 8;
/// Parts the order in which a row's positions are drawn from that of other rows.
const ROW_STREAM: u64 = 0x9e37_79b9_7f4a_7c15;

/// The samples of a dataset, as its teacher takes them.
pub(super) enum Samples {
    Images { dataset: Box<dyn Dataset>, preprocess: Box<Preprocess> },
    Tokens(Box<dyn TokenDataset>),
}

/// A batch that is ready for the teacher.
pub(super) struct Prepared {
    pub(super) rows: Vec<SampleView>,
    input: Input,
    /// What rows of tokens are made of; empty for images.
    pub(super) tokens: Vec<TokenRow>,
}

enum Input {
    Images(Vec<f32>),
    Tokens(TokenBatch),
}

/// Some positions of a row, rising.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) row: SampleView,
    pub(super) positions: Vec<usize>,
}

impl Samples {
    /// Opens the dataset of `config`.
    pub(super) fn open(config: &CacheConfig) -> Result<Self, SourceError> {
        Ok(match dataset::open(&config.dataset)? {
            AnyDataset::Images(dataset) => {
                let augment = config.augment.as_ref();
                let preprocess = Preprocess::with_views(&config.preprocess, augment, dataset.sample_shape())?;
                Self::Images { dataset, preprocess: Box::new(preprocess) }
            }
            AnyDataset::Tokens(dataset) => Self::Tokens(dataset),
        })
    }

    /// Number of samples.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Images { dataset, .. } => dataset.len(),
            Self::Tokens(dataset) => dataset.len(),
        }
    }

    /// Views of each sample.
    pub(super) fn views(&self) -> u16 {
        match self {
            Self::Images { preprocess, .. } => preprocess.views(),
            Self::Tokens(_) => 1,
        }
    }

    /// Views of all samples together: rows of a cache.
    pub(super) fn rows(&self) -> u64 {
        self.len().saturating_mul(u64::from(self.views()))
    }

    /// Positions of all rows together.
    pub(super) fn positions(&self) -> u64 {
        match self {
            Self::Images { .. } => self.rows(),
            Self::Tokens(dataset) => dataset.tokens(),
        }
    }

    /// Positions of one sample.
    pub(super) fn positions_of(&self, id: SampleId) -> Result<usize, SourceError> {
        match self {
            Self::Images { .. } => Ok(1),
            Self::Tokens(dataset) => Ok(dataset.sequence_len(id)?),
        }
    }

    /// The row at `index < rows()`: samples in the order of the dataset, each with all its views.
    pub(super) fn row_at(&self, index: u64) -> SampleView {
        let views = u64::from(self.views());
        let (place, view) = (index / views, (index % views) as u16);
        let sample = match self {
            Self::Images { dataset, .. } => dataset.id_at(place),
            Self::Tokens(dataset) => dataset.id_at(place),
        };
        SampleView { sample, view }
    }

    /// A sample's label; `None` where there are none.
    pub(super) fn label(&self, id: SampleId) -> Result<Option<u32>, SourceError> {
        match self {
            Self::Images { dataset, .. } => Ok(dataset.label(id)?),
            Self::Tokens(_) => Ok(None),
        }
    }

    /// Samples as the teacher's input.
    pub(super) fn prepare(&self, rows: Vec<SampleView>) -> Result<Prepared, SourceError> {
        match self {
            Self::Images { dataset, preprocess } => {
                let inputs = preprocess.batch(dataset.as_ref(), &rows)?;
                Ok(Prepared { rows, input: Input::Images(inputs), tokens: Vec::new() })
            }
            Self::Tokens(dataset) => {
                let mut all = Vec::with_capacity(rows.len());
                for row in &rows {
                    let sequence = dataset.sequence(row.sample)?;
                    let documents = sequence.document_starts().into_iter().map(|at| at as u32).collect();
                    all.push(TokenRow { tokens: sequence.tokens, documents });
                }
                // Padded to the longest row of the batch only.
                let longest = all.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
                let mut batch = TokenBatch::new(longest);
                for row in &all {
                    let tokens: Vec<i64> = row.tokens.iter().map(|token| i64::from(*token)).collect();
                    let places: Vec<i64> = row.places().into_iter().map(i64::from).collect();
                    batch.push(&tokens, &places)?;
                }
                Ok(Prepared { rows, input: Input::Tokens(batch), tokens: all })
            }
        }
    }

    /// About `wanted` positions, drawn with `seed` from its stream `stream`, by rising sample; all of them
    /// where there are no more.
    pub(super) fn draw(&self, wanted: u64, seed: u64, stream: u64) -> Result<Vec<Wanted>, SourceError> {
        let length = match self {
            Self::Images { .. } => 1,
            Self::Tokens(dataset) => dataset.length(),
        };
        let per_row = length.div_ceil(SHARE_OF_A_ROW).max(1) as u64;
        let rows = wanted.div_ceil(per_row).min(self.rows());
        let order = Permutation::new(self.rows(), seed, stream);
        let mut indices: Vec<u64> = (0..rows).map(|at| order.at(at)).collect();
        indices.sort_unstable();
        let mut left = wanted;
        let mut drawn = Vec::with_capacity(indices.len());
        for (at, index) in indices.into_iter().enumerate() {
            let row = self.row_at(index);
            let count = self.positions_of(row.sample)? as u64;
            let take = left.div_ceil(rows - at as u64).min(count);
            left -= take;
            let order = Permutation::new(count, seed, stream ^ ROW_STREAM.wrapping_mul(index + 1));
            let mut positions: Vec<usize> = (0..take).map(|at| order.at(at) as usize).collect();
            positions.sort_unstable();
            drawn.push(Wanted { row, positions });
        }
        Ok(drawn)
    }
}

impl Prepared {
    /// What is asked about, in the order in which the teacher answers.
    pub(super) fn positions(&self) -> Vec<Position> {
        let of = |row: SampleView, count: u32| (0..count).map(move |position| Position { row, position });
        match &self.input {
            Input::Images(_) => self.rows.iter().flat_map(|row| of(*row, 1)).collect(),
            Input::Tokens(_) => {
                let rows = self.rows.iter().zip(&self.tokens);
                rows.flat_map(|(row, made)| of(*row, made.tokens.len() as u32)).collect()
            }
        }
    }
}

/// The teacher of samples of either kind.
pub(super) enum Model {
    Images(Box<dyn Teacher>),
    Tokens(Box<dyn TokenTeacher>),
}

impl Model {
    /// Loads the teacher of `config` for `samples`.
    pub(super) fn open(config: &CacheConfig, samples: &Samples) -> Result<Self, TeacherError> {
        Ok(match samples {
            Samples::Images { preprocess, .. } => {
                Self::Images(teacher::open(&config.teacher, &config.features, preprocess.output_shape())?)
            }
            Samples::Tokens(dataset) => {
                Self::Tokens(teacher::open_tokens(&config.teacher, &config.features, dataset.length())?)
            }
        })
    }

    /// The runtime and its version.
    pub(super) fn runtime(&self) -> &str {
        match self {
            Self::Images(teacher) => teacher.runtime(),
            Self::Tokens(teacher) => teacher.runtime(),
        }
    }

    /// The model's digest, where it is not that of the file `teacher.path`.
    pub(super) fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Images(teacher) => teacher.digest(),
            Self::Tokens(teacher) => teacher.digest(),
        }
    }

    /// One forward pass; `sink` is given the outputs of all positions, in order and in pieces, until it
    /// breaks.
    pub(super) fn forward(
        &mut self,
        batch: &Prepared,
        sink: &mut dyn FnMut(RawOutput) -> ControlFlow<()>,
    ) -> Result<(), TeacherError> {
        match (self, &batch.input) {
            (Self::Images(teacher), Input::Images(inputs)) => {
                // Whether it breaks or not: there is one piece.
                let _ended = sink(teacher.forward(inputs, batch.rows.len())?);
                Ok(())
            }
            (Self::Tokens(teacher), Input::Tokens(tokens)) => teacher.forward(tokens, sink),
            // Both were opened for the same samples.
            _ => {
                Err(TeacherError::Tokens { row: 0, problem: "expected a batch of the teacher's kind".into() })
            }
        }
    }
}
