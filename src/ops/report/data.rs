//! The report's data, and what is read for it.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::size::SizeReport;
use super::targets::{KeptMass, LabelRanks, TargetShape, tell};
use crate::cache::{
    AugmentIdentity, CacheError, CacheReader, DatasetIdentity, FileEntry, Manifest, PreprocessIdentity,
    ShardEntry, TeacherIdentity,
};
use crate::digest::Digest;
use crate::ids::SampleId;
use crate::ops::{FidelityReport, InspectReport, Progress};
use crate::permutation::Permutation;
use crate::target::Temperature;

/// Stream of the seed from which positions are drawn; the tail model's sample is stream 0, that
/// of `kd-cache fidelity` stream 1.
const STREAM: u64 = 2;

/// Why a cache could not be reported on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// An unfinished cache without a committed shard.
    #[error("{path} has no committed shard yet; run the same kd-cache build again to go on")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// Head and curve of a position that make no probabilities.
    #[error(
        "sample {sample}: expected probabilities that sum to 1 at T = {temperature}, found others; kd-cache verify says what is damaged"
    )]
    Target {
        /// The sample.
        sample: SampleId,
        /// The temperature.
        temperature: f64,
    },
    /// The fidelity file could not be read.
    #[error("--fidelity: cannot read {path}")]
    ReadFidelity {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The fidelity file holds something else.
    #[error("--fidelity: {path}: expected what kd-cache fidelity --format json prints, found {problem}")]
    ParseFidelity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The fidelity file is of another cache.
    #[error("--fidelity: {path} is of another cache: {what}: this one has {expected}, the file {found}")]
    OtherFidelity {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// In the cache.
        expected: String,
        /// In the file.
        found: String,
    },
}

/// What is to be reported on.
#[derive(Clone, Debug)]
pub struct ReportSettings {
    /// Positions to look at, at most; drawn with the cache's seed.
    pub samples: u64,
    /// The JSON of [`FidelityReport`], when fidelity has been measured.
    pub fidelity: Option<PathBuf>,
}

/// What a cache is made of, with every digest.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Provenance {
    /// Identifies the cache as it is: the manifest's digest.
    pub digest: Digest,
    /// Seed of the tail model's sample, and of this report's.
    pub seed: u64,
    /// Samples from which the tail model was fitted.
    pub fit_samples: u64,
    /// Who predicted.
    pub teacher: TeacherIdentity,
    /// What was predicted on.
    pub dataset: DatasetIdentity,
    /// How samples became the teacher's input; absent where they are tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<PreprocessIdentity>,
    /// What views of a sample are; absent where there are none but the sample itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<AugmentIdentity>,
    /// The tail model's file; absent when the head holds every class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail_model: Option<FileEntry>,
    /// Digest of the tail model's file in the cache that it was taken from; absent where it was fitted to
    /// this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail_model_from: Option<Digest>,
    /// What gave predictions their tail codes; absent for rank 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<FileEntry>,
    /// The codes of quantized positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codebook: Option<FileEntry>,
    /// The committed shards.
    pub shards: Vec<ShardEntry>,
}

impl Provenance {
    fn of_manifest(manifest: &Manifest) -> Result<Self, CacheError> {
        Ok(Self {
            digest: manifest.digest()?,
            seed: manifest.seed,
            fit_samples: manifest.tail.fit_samples,
            teacher: manifest.teacher.clone(),
            dataset: manifest.dataset.clone(),
            preprocess: manifest.preprocess.clone(),
            augment: manifest.augment.clone(),
            tail_model: manifest.tail.model.clone(),
            tail_model_from: manifest.tail.from.clone(),
            encoder: manifest.tail.encoder.clone(),
            codebook: manifest.storage.codebook.clone(),
            shards: manifest.shards.clone(),
        })
    }
}

/// What a cache's targets are like, where its bytes are and what it is made of.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CacheReport {
    /// What `kd-cache inspect` says.
    pub cache: InspectReport,
    /// Positions looked at.
    pub positions: u64,
    /// Mass of the head by temperature.
    pub kept_mass: Vec<KeptMass>,
    /// Entropy and probabilities by rank, at T = 1 and at a higher temperature.
    pub shapes: Vec<TargetShape>,
    /// Where labels stand in the head; absent without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelRanks>,
    /// Where the bytes are.
    pub size: SizeReport,
    /// How far targets are from the teacher's full softmax; absent unless it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<FidelityReport>,
    /// Digests, settings and files.
    pub provenance: Provenance,
}

/// Reports on the cache in `dir`, finished or not, from its shards alone: no teacher, no data.
///
/// # Errors
/// [`ReportError`].
pub fn report(
    dir: &Path,
    settings: &ReportSettings,
    progress: &dyn Progress,
) -> Result<CacheReport, ReportError> {
    let reader = CacheReader::open_partial(dir)?;
    let manifest = reader.manifest();
    if reader.rows() == 0 {
        return Err(ReportError::Empty { path: dir.to_owned() });
    }
    if manifest.has_tail() && reader.tail_model().is_none() {
        // Only the tail model vouches for the number of classes, for each of which memory is needed.
        return Err(ReportError::Cache(CacheError::Damaged {
            path: dir.to_owned(),
            what: "tail.model".into(),
            expected: "a file, because k < classes".into(),
            found: "none".into(),
        }));
    }
    let cache = InspectReport::of_reader(&reader)?;
    // Whatever is asked of the file is asked before the work begins.
    let fidelity = settings.fidelity.as_deref().map(|path| read_fidelity(path, &cache)).transpose()?;
    let positions = settings.samples.min(reader.rows());
    let order = Permutation::new(reader.rows(), manifest.seed, STREAM);
    let mut rows: Vec<u64> = (0..positions).map(|at| order.at(at)).collect();
    rows.sort_unstable();
    progress.phase("report", positions, 0);
    let told = tell(&reader, &rows, progress);
    progress.finish();
    let told = told?;
    Ok(CacheReport {
        positions: told.positions,
        kept_mass: told.kept_mass,
        shapes: told.shapes,
        labels: told.labels,
        size: SizeReport::of_reader(&reader)?,
        fidelity,
        provenance: Provenance::of_manifest(manifest)?,
        cache,
    })
}

/// The fidelity in `path`, which must be this cache's.
fn read_fidelity(path: &Path, cache: &InspectReport) -> Result<FidelityReport, ReportError> {
    let rounded = |bytes: f64| format!("{bytes:.6}");
    let path_buf = || path.to_owned();
    let text =
        std::fs::read(path).map_err(|source| ReportError::ReadFidelity { path: path_buf(), source })?;
    let found: FidelityReport = serde_json::from_slice(&text)
        .map_err(|error| ReportError::ParseFidelity { path: path_buf(), problem: error.to_string() })?;
    if let Some(row) = found.rows.iter().find(|row| Temperature::new(row.temperature).is_err()) {
        let problem = format!("temperature {}", row.temperature);
        return Err(ReportError::ParseFidelity { path: path_buf(), problem });
    }
    // A file names no cache; the bytes per position tell most of them apart.
    for (what, expected, found) in [
        ("classes", cache.classes.to_string(), found.classes.to_string()),
        ("k", cache.k.to_string(), found.k.to_string()),
        // JSON may cost the last bit.
        ("bytes per position", rounded(cache.bytes_per_position), rounded(found.bytes_per_position)),
    ] {
        if expected != found {
            return Err(ReportError::OtherFidelity { path: path_buf(), what, expected, found });
        }
    }
    Ok(found)
}
