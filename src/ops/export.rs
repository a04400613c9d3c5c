//! `kd-cache export`: a cache's rows for tools that read neither Arrow nor Parquet.

mod jsonl;
mod npy;
mod npz;
mod selection;

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use schemars::JsonSchema;
use serde::Serialize;

use super::Progress;
use crate::cache::{CacheError, CacheReader};
use crate::durable;
use crate::target::{NotCovered, Temperature};
use selection::Selection;

pub use jsonl::{ExportRow, ExportTarget};

/// Numbers held at a time: what bounds memory, whatever the size of head and shards.
const CELLS: usize = 1 << 18;

/// What a cache is exported as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportForm {
    /// JSON Lines: one object a row.
    Jsonl,
    /// NumPy's archive: one array a column.
    Npz,
}

impl fmt::Display for ExportForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jsonl => "jsonl",
            Self::Npz => "npz",
        })
    }
}

/// What is exported.
#[derive(Clone, Debug)]
pub struct ExportSettings {
    /// As what.
    pub form: ExportForm,
    /// Decoded at this temperature; raw logits and curves without one.
    pub temperature: Option<Temperature>,
    /// Only the samples with these ids.
    pub samples: Option<Range<u64>>,
}

/// Where it goes.
pub enum ExportTo<'a> {
    /// A file, which is there whole or not at all.
    File(&'a Path),
    /// Whatever takes bytes.
    Stream(&'a mut dyn Write),
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ExportReport {
    /// As what.
    pub form: ExportForm,
    /// The temperature it was decoded at; absent when it is raw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Rows written.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Names of the columns: an object's keys, or an archive's arrays.
    pub columns: Vec<String>,
}

/// Why a cache could not be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No row is left.
    #[error("--samples {}..{}: the cache has none of them (its samples are {first} to {last})", asked.start, asked.end)]
    Samples {
        /// Asked for.
        asked: Range<u64>,
        /// The lowest id.
        first: u64,
        /// The highest id.
        last: u64,
    },
    /// Not covered by the nodes.
    #[error(transparent)]
    Temperature(#[from] NotCovered),
    /// An archive of decoded targets.
    #[error(
        "--to npz holds raw logits and curves, which serve every temperature; leave --temperature out, or use --to jsonl"
    )]
    RawOnly,
    /// An archive into a pipe.
    #[error("--to npz needs a file, because an archive is not written in one go; give --out FILE")]
    NeedsFile,
    /// Something is in the way that is not to be replaced.
    #[error("--out {path}: {problem}")]
    Out {
        /// Where it was to go.
        path: PathBuf,
        /// What is wrong with that, and the way out.
        problem: &'static str,
    },
    /// The result could not be written.
    #[error("cannot write {path}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// On request; what was written so far is removed where it was to be a file.
    #[error("interrupted")]
    Interrupted,
}

/// What may go wrong on the way, before it is known where to.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Write(#[from] io::Error),
    #[error("interrupted")]
    Stopped,
}

impl Failure {
    fn writing(self, path: &Path) -> ExportError {
        match self {
            Self::Cache(error) => error.into(),
            Self::Write(source) => ExportError::Write { path: path.to_owned(), source },
            Self::Stopped => ExportError::Interrupted,
        }
    }
}

/// Writes the rows of the complete cache in `dir`, in their order, holding a few of them at a time.
///
/// # Errors
/// [`ExportError`]; a file that was there before is then untouched.
pub fn export(
    dir: &Path,
    settings: &ExportSettings,
    to: ExportTo<'_>,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<ExportReport, ExportError> {
    let reader = CacheReader::open(dir)?;
    if let Some(temperature) = settings.temperature {
        reader.manifest().require_covered(temperature)?;
    }
    let selection = Selection::new(&reader, settings.samples.clone(), stop)?;
    let (bytes, columns) = match (settings.form, to) {
        (ExportForm::Npz, _) if settings.temperature.is_some() => return Err(ExportError::RawOnly),
        (ExportForm::Npz, ExportTo::Stream(_)) => return Err(ExportError::NeedsFile),
        (ExportForm::Npz, ExportTo::File(path)) => {
            let bytes = write_file(dir, path, |file| npz::write(&selection, file, progress))?;
            (bytes, npz::all_columns(reader.manifest()))
        }
        (ExportForm::Jsonl, ExportTo::File(path)) => {
            let write = |mut file| jsonl::write(&selection, settings.temperature, &mut file, progress);
            (write_file(dir, path, write)?, words(jsonl::columns(reader.manifest(), settings.temperature)))
        }
        (ExportForm::Jsonl, ExportTo::Stream(out)) => {
            let bytes = jsonl::write(&selection, settings.temperature, out, progress)
                .map_err(|failure| failure.writing(Path::new("standard output")))?;
            (bytes, words(jsonl::columns(reader.manifest(), settings.temperature)))
        }
    };
    Ok(ExportReport {
        form: settings.form,
        temperature: settings.temperature.map(Temperature::get),
        rows: selection.rows(),
        bytes,
        columns,
    })
}

fn words(words: Vec<&str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

/// Has `write` make the file at `path`, and gives its size.
fn write_file(
    cache: &Path,
    path: &Path,
    write: impl FnOnce(std::fs::File) -> Result<u64, Failure>,
) -> Result<u64, ExportError> {
    check_out(cache, path)?;
    let mut bytes = 0;
    durable::replace_file(path, |temporary| {
        bytes = write(std::fs::File::create(temporary)?)?;
        Ok(())
    })
    .map_err(|failure: Failure| failure.writing(path))?;
    Ok(bytes)
}

/// Refuses a place where a file would replace what is none, or a part of the cache.
fn check_out(cache: &Path, path: &Path) -> Result<(), ExportError> {
    let refuse = |problem| Err(ExportError::Out { path: path.to_owned(), problem });
    if path.file_name().is_none() {
        return refuse("expected the path of a file");
    }
    // Renaming over a device, a pipe or a folder would do away with it.
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        return refuse("is there and is no plain file; give another path, or - for standard output");
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let inside = match (folder.canonicalize(), cache.canonicalize()) {
        (Ok(folder), Ok(cache)) => folder.starts_with(cache),
        // A folder that is not there is told when it is written into.
        _ => false,
    };
    if inside { refuse("lies inside the cache; give a path outside of it") } else { Ok(()) }
}
