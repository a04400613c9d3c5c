//! Why other tools' log-probabilities could not be read.

use std::path::PathBuf;

use crate::dataset::TokensError;

/// Why other tools' log-probabilities could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignError {
    /// No file was given.
    #[error("no files to import; name files, folders or patterns")]
    NoFiles,
    /// A path stands for nothing.
    #[error(transparent)]
    Files(#[from] TokensError),
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not of the format.
    #[error("{path}: expected {expected}, found {found}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A row is not what it should be.
    #[error("{path}, {row}: {problem}")]
    Row {
        /// The file.
        path: PathBuf,
        /// `line 3` or `row 2`.
        row: String,
        /// Expected, found, and the way out.
        problem: String,
    },
}
