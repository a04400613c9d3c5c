//! Reads samples by id: images as raw bytes with their labels, or rows of tokens.

mod decode;
mod folder;
mod idx;
mod packed;
mod relabelled;
mod split;
mod tokens;

pub use folder::FolderError;
pub use relabelled::with_classes_of;
pub use tokens::{Sequence, TokenDataset, Tokenizer, TokenizerIdentity, TokensError, files, fingerprint};

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::config::DatasetConfig;
use crate::digest::Digest;
use crate::ids::SampleId;

/// A sample as it is before preprocessing: lent where the dataset has it at hand, made for the asking where
/// it has to be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample<'a> {
    /// Bytes, row-major in `shape`.
    pub bytes: Cow<'a, [u8]>,
    /// `[height, width]`, `[height, width, channels]` or `[features]`.
    pub shape: Cow<'a, [usize]>,
}

/// Samples that are images or features, addressed by id.
pub trait Dataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Dimensions of one sample's raw bytes, without the sample dimension; 0 where they differ from sample to
    /// sample.
    fn sample_shape(&self) -> &[usize];

    /// The id of the sample at `index` in the dataset's own order, `index < len()`.
    fn id_at(&self, index: u64) -> SampleId;

    /// One sample.
    ///
    /// # Errors
    /// [`DatasetError::NoSuchSample`]; of files that are read only now, whatever is wrong with them.
    fn sample(&self, id: SampleId) -> Result<Sample<'_>, DatasetError>;

    /// One sample's label, or `None` in an unlabelled dataset.
    ///
    /// # Errors
    /// [`DatasetError::NoSuchSample`].
    fn label(&self, id: SampleId) -> Result<Option<u32>, DatasetError>;

    /// Identifies the samples (shape, order and content; not the labels, nor how they are
    /// compressed).
    fn fingerprint(&self) -> &Digest;

    /// Identifies the labels, or `None` in an unlabelled dataset.
    fn labels_digest(&self) -> Option<&Digest>;

    /// What the classes are called that labels count, where that is known.
    fn class_names(&self) -> Option<&[String]> {
        None
    }

    /// One sample's file, below the dataset's folder; `None` where many samples are in a file.
    ///
    /// # Errors
    /// [`DatasetError::NoSuchSample`].
    fn file(&self, _: SampleId) -> Result<Option<&Path>, DatasetError> {
        Ok(None)
    }

    /// What a person should know of it, a line each.
    fn notes(&self) -> &[String] {
        &[]
    }
}

/// A dataset of one kind or the other.
pub enum AnyDataset {
    /// Images or features, with or without labels.
    Images(Box<dyn Dataset>),
    /// Rows of tokens.
    Tokens(Box<dyn TokenDataset>),
}

/// Opens the dataset that `config` describes.
///
/// Text is tokenised here, and every token of every kind is read once, for its value to be checked
/// and for the fingerprint.
///
/// # Errors
/// [`DatasetError`]: a file is missing, malformed, truncated, or disagrees with another or with the
/// config.
pub fn open(config: &DatasetConfig) -> Result<AnyDataset, DatasetError> {
    match tokens::open(config)? {
        Some(tokens) => Ok(AnyDataset::Tokens(tokens)),
        None => Ok(AnyDataset::Images(open_images(config, "dataset")?)),
    }
}

/// Opens the dataset that `config` describes, where only images will do; `key` is the config's name
/// for it.
///
/// # Errors
/// As [`open`], and [`DatasetError::Kind`] before anything is read of a dataset of tokens.
pub fn open_images(config: &DatasetConfig, key: &str) -> Result<Box<dyn Dataset>, DatasetError> {
    match config {
        DatasetConfig::Idx { images, labels, limit } => {
            Ok(Box::new(idx::IdxDataset::open(images, labels.as_deref(), *limit)?))
        }
        DatasetConfig::Folder(config) => Ok(Box::new(folder::FolderDataset::open(config)?)),
        tokens => Err(DatasetError::Kind { key: key.to_owned(), found: tokens.kind() }),
    }
}

/// Checks that every label names one of `classes` classes.
///
/// # Errors
/// [`DatasetError::Label`] for the first that does not.
pub fn check_labels(dataset: &dyn Dataset, classes: usize) -> Result<(), DatasetError> {
    for index in 0..dataset.len() {
        let id = dataset.id_at(index);
        match dataset.label(id)? {
            None => return Ok(()),
            Some(label) if label as usize >= classes => {
                return Err(DatasetError::Label { sample: id, label, classes });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Why a dataset could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// Tokens where images are wanted.
    #[error("{key}.kind: expected images (\"folder\" or \"idx\"), found {found:?}, which is of tokens")]
    Kind {
        /// The config's name for the dataset.
        key: String,
        /// The kind.
        found: &'static str,
    },
    /// A folder of images.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A dataset of tokens.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what its place in the config says.
    #[error("{path}: expected {expected}, found {found}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A file's length disagrees with its header.
    #[error(
        "{path} is truncated or overlong: its header promises {expected} bytes after it, found {found}; fetch the file again"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes that the header promises.
        expected: u64,
        /// Bytes found (`more` when there were more).
        found: String,
    },
    /// The limit exceeds the dataset.
    #[error("dataset.limit: expected at most the {samples} samples of {path}, found {limit}")]
    Limit {
        /// The file.
        path: PathBuf,
        /// Samples in it.
        samples: u64,
        /// The limit asked for.
        limit: u64,
    },
    /// A label names no class.
    #[error(
        "dataset.labels: expected labels from 0 to {} ({classes} classes), found {label} for sample {sample}",
        classes - 1
    )]
    Label {
        /// The sample.
        sample: SampleId,
        /// Its label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// A class that is to be counted as in another dataset, which has none of that name.
    #[error(
        "{key}: expected folders named as the classes that the student was trained on ({}), found {name:?}: labels are \
         counted by these names; rename the folder, or leave it out",
        some_of(known)
    )]
    ClassName {
        /// The config's name for the dataset.
        key: String,
        /// The class.
        name: String,
        /// What classes there are.
        known: Vec<String>,
    },
    /// An id that the dataset does not have.
    #[error("the dataset has no sample {sample} (it has {samples} samples)")]
    NoSuchSample {
        /// The id.
        sample: SampleId,
        /// Samples in the dataset.
        samples: u64,
    },
}

/// The first of many names.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
}
