//! Top-k log-probabilities that other tools kept, as rows of tokens and what follows each: for each token some
//! classes and their log-probabilities at T = 1, in the tool's own order.
//!
//! Whatever a tool calls its positions, here a position is a token, and its entry is the distribution of the
//! token *after* it. Nothing is known of classes that are not in an entry but what they have together, and that at
//! T = 1 only.

mod axolotl;
mod codec;
mod distillkit;
mod error;
mod npz;
mod parquet;
mod target;
mod vllm;

use std::fmt;
use std::path::{Path, PathBuf};

pub use error::ForeignError;
pub use target::{Head, MIN_TAIL_MASS};

use crate::dataset;

/// Whose files they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignFormat {
    /// JSON Lines of vLLM's: `prompt_token_ids` and `prompt_logprobs`.
    VllmJsonl,
    /// The Parquet files of DistillKit's capture, with the `compression_config.yaml` beside them.
    Distillkit,
    /// JSON Lines or Parquet for axolotl's KD plugin, raw or prepared.
    Axolotl,
    /// NumPy arrays: `input_ids`, `token_ids`, `logprobs`.
    Npz,
}

impl ForeignFormat {
    /// The word used on the command line and in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VllmJsonl => "vllm-jsonl",
            Self::Distillkit => "distillkit",
            Self::Axolotl => "axolotl",
            Self::Npz => "npz",
        }
    }

    fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::VllmJsonl => &["jsonl"],
            Self::Distillkit => &["parquet"],
            Self::Axolotl => &["jsonl", "parquet"],
            Self::Npz => &["npz"],
        }
    }
}

impl fmt::Display for ForeignFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A row: tokens, and what follows each of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForeignRow {
    /// Where it stands, for people.
    pub place: Place,
    /// The tokens whose successor's distribution is there: `[positions]`.
    pub tokens: Vec<u32>,
    /// The token after the last of them, where it is there: nothing was said of what follows it.
    pub last: Option<u32>,
    /// The text that all of these are the tokens of, where it is there.
    pub text: Option<String>,
    /// Classes of all entries, one entry after the other.
    ids: Vec<u32>,
    /// Their log-probabilities at T = 1.
    logprobs: Vec<f32>,
    /// Where entries end: `[positions]`.
    ends: Vec<usize>,
}

/// A row of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// `line 3` or `row 2`.
    pub row: String,
}

impl Place {
    fn new(path: &Path, row: String) -> Self {
        Self { path: path.to_owned(), row }
    }

    /// A fault of this row.
    fn wrong(&self, problem: impl Into<String>) -> ForeignError {
        ForeignError::Row { path: self.path.clone(), row: self.row.clone(), problem: problem.into() }
    }

    /// A fault of one of its positions.
    pub fn wrong_at(&self, position: usize, problem: &str) -> ForeignError {
        self.wrong(format!("position {position}: {problem}"))
    }
}

impl ForeignRow {
    fn new(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    /// Classes and log-probabilities of what follows the token at `position`.
    pub fn entry(&self, position: usize) -> (&[u32], &[f32]) {
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        let end = self.ends[position];
        (&self.ids[start..end], &self.logprobs[start..end])
    }

    /// Adds what follows the next token.
    fn push(&mut self, entry: impl IntoIterator<Item = (u32, f32)>) {
        for (id, logprob) in entry {
            self.ids.push(id);
            self.logprobs.push(logprob);
        }
        self.ends.push(self.ids.len());
    }

    /// Keeps those of `tokens` that have an entry: all, or all but the last, which nothing was said after.
    fn close(mut self, mut tokens: Vec<u32>) -> Result<Self, ForeignError> {
        let (given, entries) = (tokens.len(), self.ends.len());
        if entries == 0 || !(entries..=entries + 1).contains(&given) {
            return Err(self.place.wrong(format!(
                "expected what follows each of {given} tokens, or each but the last, found {entries} entries"
            )));
        }
        self.last = (given > entries).then(|| tokens.pop()).flatten();
        self.tokens = tokens;
        Ok(self)
    }
}

/// Rows in the order of their files.
pub type ForeignRows<'a> = Box<dyn Iterator<Item = Result<ForeignRow, ForeignError>> + 'a>;

/// The files of an import.
#[derive(Debug)]
pub struct ForeignSource {
    format: ForeignFormat,
    files: Vec<PathBuf>,
    codec: Option<codec::Codec>,
}

impl ForeignSource {
    /// Finds the files that `paths` (files, folders, patterns) stand for. `codec` is DistillKit's compression
    /// config; unless given, it is looked for beside the first file.
    ///
    /// # Errors
    /// [`ForeignError`]: there are none, or the config of a codec is missing or not understood.
    pub fn open(
        format: ForeignFormat,
        paths: &[PathBuf],
        codec: Option<&Path>,
    ) -> Result<Self, ForeignError> {
        let files = dataset::files(paths, format.extensions())?;
        let first = files.first().ok_or(ForeignError::NoFiles)?;
        let codec = match format {
            ForeignFormat::Distillkit => codec::Codec::find(codec, first)?,
            _ => None,
        };
        Ok(Self { format, files, codec })
    }

    /// The files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Reads all rows, from the first.
    pub fn rows(&self) -> ForeignRows<'_> {
        Box::new(self.files.iter().flat_map(|path| self.rows_of(path)))
    }

    fn rows_of<'a>(&'a self, path: &'a Path) -> ForeignRows<'a> {
        let opened = match self.format {
            ForeignFormat::VllmJsonl => vllm::rows(path),
            ForeignFormat::Distillkit => distillkit::rows(path, self.codec.as_ref()),
            ForeignFormat::Axolotl => axolotl::rows(path),
            ForeignFormat::Npz => npz::rows(path),
        };
        opened.unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
    }
}

/// The lines of a file that are not empty, and their numbers from 1.
fn lines(
    path: &Path,
) -> Result<impl Iterator<Item = Result<(Place, String), ForeignError>> + use<'_>, ForeignError> {
    use std::io::BufRead;
    let read = |source| ForeignError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(read)?;
    let lines = std::io::BufReader::with_capacity(1 << 20, file).lines();
    let numbered = lines.zip(1..).map(move |(line, number): (_, u64)| {
        let line = line.map_err(|source| ForeignError::Read { path: path.to_owned(), source })?;
        Ok((Place::new(path, format!("line {number}")), line))
    });
    Ok(numbered.filter(|line| !matches!(line, Ok((_, line)) if line.trim().is_empty())))
}
