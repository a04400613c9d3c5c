//! What a teacher is asked about, and the teacher: images or rows of tokens.

use std::ops::ControlFlow;

use super::source::SourceError;
use crate::cache::TokenRow;
use crate::config::CacheConfig;
use crate::dataset::{self, AnyDataset, Dataset, Sequence, TokenDataset};
use crate::digest::Digest;
use crate::ids::{Position, SampleId, SampleView};
use crate::permutation::Permutation;
use crate::preprocess::Preprocess;
use crate::teacher::{self, RawOutput, Teacher, TeacherError, TokenBatch, TokenTeacher};

/// A row of tokens from which a sample of positions is drawn gives at least this share of them: neighbours
/// are alike, and so a sample over many rows says more, but each row costs a forward pass.
const SHARE_OF_A_ROW: u64 = 8;
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

    /// What a person should know of them, a line each.
    pub(super) fn notes(&self) -> &[String] {
        match self {
            Self::Images { dataset, .. } => dataset.notes(),
            Self::Tokens(dataset) => dataset.notes(),
        }
    }

    /// Positions of the longest row.
    pub(super) fn longest(&self) -> u64 {
        match self {
            Self::Images { .. } => 1,
            Self::Tokens(dataset) => dataset.length() as u64,
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
                let tokens = rows.iter().map(|row| Ok(token_row(dataset.sequence(row.sample)?)));
                let tokens = tokens.collect::<Result<_, SourceError>>()?;
                Prepared::of_tokens(rows, tokens, 0)
            }
        }
    }

    /// `wanted` positions, drawn with `seed` from its stream `stream`, by rising sample; all of them where there are
    /// no more.
    pub(super) fn draw(&self, wanted: u64, seed: u64, stream: u64) -> Result<Vec<Wanted>, SourceError> {
        let all = u128::from(self.positions());
        let order = Permutation::new(self.rows(), seed, stream);
        let mut left = wanted;
        let mut drawn = Vec::new();
        for index in (0..self.rows()).map(|at| order.at(at)) {
            if left == 0 {
                break;
            }
            let row = self.row_at(index);
            let count = self.positions_of(row.sample)? as u64;
            // Of rows however long the same share, so that positions are about as likely as one another.
            let share = count.div_ceil(SHARE_OF_A_ROW).max(share(count, wanted, all));
            let take = share.min(left).min(count);
            if take == 0 {
                continue;
            }
            left -= take;
            let order = Permutation::new(count, seed, stream ^ ROW_STREAM.wrapping_mul(index + 1));
            let mut positions: Vec<usize> = (0..take).map(|at| order.at(at) as usize).collect();
            positions.sort_unstable();
            drawn.push((index, Wanted { row, positions }));
        }
        drawn.sort_unstable_by_key(|(index, _)| *index);
        Ok(drawn.into_iter().map(|(_, wanted)| wanted).collect())
    }
}

/// `count · wanted / all`, rounded up.
fn share(count: u64, wanted: u64, all: u128) -> u64 {
    let share = (u128::from(count) * u128::from(wanted)).div_ceil(all.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// A row as the cache keeps it.
pub(super) fn token_row(sequence: Sequence) -> TokenRow {
    let documents = sequence.document_starts().into_iter().map(|at| at as u32).collect();
    TokenRow { tokens: sequence.tokens, documents }
}

impl Prepared {
    /// Rows of tokens, padded to the longest of them, or to `length` where that is more.
    pub(super) fn of_tokens(
        rows: Vec<SampleView>,
        tokens: Vec<TokenRow>,
        length: usize,
    ) -> Result<Self, SourceError> {
        let longest = tokens.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        let mut batch = TokenBatch::new(longest.max(length));
        for row in &tokens {
            let ids: Vec<i64> = row.tokens.iter().map(|token| i64::from(*token)).collect();
            let places: Vec<i64> = row.places().into_iter().map(i64::from).collect();
            batch.push(&ids, &places)?;
        }
        Ok(Self { rows, input: Input::Tokens(batch), tokens })
    }

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

    /// Rows of every batch, where the model was made for so many.
    pub(super) fn fixed_batch(&self) -> Option<usize> {
        match self {
            Self::Images(teacher) => teacher.fixed_batch(),
            Self::Tokens(teacher) => teacher.fixed_batch(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{DatasetError, TokenizerIdentity};

    /// Rows of so many tokens.
    struct Lengths(Vec<usize>, Digest);

    impl TokenDataset for Lengths {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }
        fn tokens(&self) -> u64 {
            self.0.iter().sum::<usize>() as u64
        }
        fn id_at(&self, index: u64) -> SampleId {
            SampleId(index)
        }
        fn sequence(&self, _: SampleId) -> Result<Sequence, DatasetError> {
            unreachable!("nothing is read to draw")
        }
        fn sequence_len(&self, id: SampleId) -> Result<usize, DatasetError> {
            Ok(self.0[id.0 as usize])
        }
        fn length(&self) -> usize {
            self.0.iter().copied().max().unwrap_or(0)
        }
        fn vocabulary(&self) -> Option<u32> {
            None
        }
        fn largest_token(&self) -> u32 {
            0
        }
        fn tokenizer(&self) -> Option<&TokenizerIdentity> {
            None
        }
        fn end_of_document(&self) -> Option<u32> {
            None
        }
        fn fingerprint(&self) -> &Digest {
            &self.1
        }
    }

    /// What is drawn of rows of `lengths`: how many rows, and how many positions of each row.
    fn drawn(lengths: &[usize], wanted: u64) -> (usize, Vec<usize>) {
        let samples = Samples::Tokens(Box::new(Lengths(lengths.to_vec(), Digest::of_bytes(b""))));
        let mut of_rows = vec![0; lengths.len()];
        let drawn = samples.draw(wanted, 3, 0).unwrap();
        assert!(drawn.windows(2).all(|pair| pair[0].row.sample < pair[1].row.sample));
        for Wanted { row, positions } in &drawn {
            let length = lengths[row.sample.0 as usize];
            assert!(positions.windows(2).all(|pair| pair[0] < pair[1]) && positions.last() < Some(&length));
            of_rows[row.sample.0 as usize] = positions.len();
        }
        (drawn.len(), of_rows)
    }

    #[test]
    fn as_many_positions_are_drawn_as_are_wanted_however_long_rows_are() {
        // A row of many tokens among many of few: an eighth of each.
        let mut lengths = vec![20; 4000];
        lengths[1234] = 8192;
        for wanted in [1, 100, 4096, 20_000, 60_000, 88_172 - 1] {
            let (rows, of_rows) = drawn(&lengths, wanted);
            assert_eq!(of_rows.iter().sum::<usize>() as u64, wanted);
            assert!(rows as u64 >= (wanted / 1024).min(4000), "{wanted} of {rows} rows");
        }
        let (rows, _) = drawn(&lengths, 4096);
        assert!(rows > 900, "{rows}");
        assert_eq!(drawn(&lengths, 1 << 40).1, lengths);
        assert_eq!(drawn(&[5, 0, 3], 100).1, [5, 0, 3]);
        // Rows that are alike.
        assert_eq!(drawn(&[512; 8], 512).1, [64; 8]);
        assert_eq!(drawn(&[512; 8], 2048).1, [256; 8]);
        assert_eq!(drawn(&[512; 400], 4096).0, 64);
        assert_eq!(drawn(&[1; 400], 64).0, 64);
    }
}
