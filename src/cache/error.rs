//! What can be wrong with a cache on disk.

use std::path::PathBuf;

/// Why a cache could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A file or folder could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {path}; what was committed before is kept, run the same command again to go on")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no cache.
    #[error("{path} holds no cache: {}", if path.is_dir() { "manifest.json is missing" } else { "there is no such folder" })]
    NotACache {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something else.
    #[error("{path} is not empty and holds no cache ({found}); choose another folder")]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// The first thing in it.
        found: String,
    },
    /// The cache was not finished.
    #[error(
        "{path} is incomplete: {committed} of {expected} shards; run the command that began it again to finish it"
    )]
    Incomplete {
        /// The folder.
        path: PathBuf,
        /// Shards committed.
        committed: usize,
        /// Shards that the finished cache has.
        expected: u64,
    },
    /// A JSON file of the cache does not parse.
    #[error("{path}: {problem}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        problem: String,
    },
    /// A newer or unknown format.
    #[error(
        "{path}: expected format kd-cache, version {oldest} to {newest}, found {found}; use a kd-cache that reads it"
    )]
    Version {
        /// The manifest.
        path: PathBuf,
        /// The oldest version this build reads.
        oldest: u32,
        /// The newest version this build reads.
        newest: u32,
        /// What was found.
        found: String,
    },
    /// A file is not what the manifest says.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What disagrees.
        what: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The codebook holds no codes.
    #[error("{path}: not a sound codebook")]
    Codebook {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: crate::encoding::CodebookError,
    },
    /// A file is no sound Arrow IPC, or no sound Parquet.
    #[error("{path}: not a sound {} file", if path.extension().is_some_and(|e| e == "parquet") { "Parquet" } else { "Arrow IPC" })]
    Arrow {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// Another process writes into the cache.
    #[error("{path} is being written by another process; wait for it, or choose another folder")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The cache was made with other settings.
    #[error(
        "{path} was made with other settings; choose another folder, or go back to them:{}",
        list(differences)
    )]
    Mismatch {
        /// The folder.
        path: PathBuf,
        /// Each setting that differs: name, in the cache, asked for.
        differences: Vec<(String, String, String)>,
    },
}

fn list(differences: &[(String, String, String)]) -> String {
    differences
        .iter()
        .map(|(key, found, wanted)| format!("\n  {key}: the cache has {found}, this build {wanted}"))
        .collect()
}
