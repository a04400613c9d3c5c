//! `kd-cache import`: log-probabilities that another tool kept, as a cache.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;

use super::{InspectReport, Progress};
use crate::cache::{
    Beginnings, CacheError, CacheWriter, DatasetIdentity, Found, HeadLayout, Manifest, ShardRows,
    StorageLayout, TailLayout, TeacherIdentity, TeacherRun, TokenRow, TokensIdentity, format,
};
use crate::config::{StorageForm, ValueEncoding};
use crate::dataset::{self, Tokenizer, TokensError};
use crate::digest::{Digest, Hasher};
use crate::foreign::{ForeignError, ForeignFormat, ForeignRow, ForeignSource, Head};
use crate::ids::SampleId;
use crate::tail_model::NearTail;
use crate::target::{NodesError, TailModel, TailNodes, TargetBatch};

/// Tokens that a tokenizer may put around a text, together.
const AROUND_TEXT: usize = 2;

/// Why nothing could be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The other tool's files.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// The cache on disk.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The tokenizer.
    #[error("--tokenizer: {0}")]
    Tokenizer(#[from] TokensError),
    /// Nobody said how many classes there are.
    #[error(
        "--classes: expected the number of the teacher's logits, because what a tail's mass is spread over is not in these files; or give --tokenizer"
    )]
    NoClasses,
    /// Fewer classes than tokens.
    #[error("--classes: expected at least the tokenizer's {tokens} tokens, found {found}")]
    Classes {
        /// The tokenizer's.
        tokens: usize,
        /// Given.
        found: usize,
    },
    /// More classes asked for than every position has.
    #[error("--k: expected at most {most}, which is what {place} has, found {found}")]
    K {
        /// The fewest at any position.
        most: usize,
        /// Where.
        place: String,
        /// Asked for.
        found: usize,
    },
    /// The files have no rows.
    #[error("there are no rows in {files} files")]
    Empty {
        /// How many were read.
        files: usize,
    },
    /// What cannot be: 1 is a list of nodes.
    #[error(transparent)]
    Nodes(#[from] NodesError),
}

/// What to import, and what the cache is to be.
#[derive(Clone, Debug)]
pub struct ImportSettings {
    /// Whose files they are.
    pub from: ForeignFormat,
    /// Files, folders and patterns.
    pub paths: Vec<PathBuf>,
    /// DistillKit's compression config, if it is not beside the files.
    pub codec: Option<PathBuf>,
    /// The teacher's `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// The number of the teacher's logits; the tokenizer's tokens unless given.
    pub classes: Option<usize>,
    /// The teacher's name: with all that it said, the only thing by which it is known.
    pub teacher: String,
    /// Head size; unless given what every position has.
    pub k: Option<usize>,
    /// The form of the shards.
    pub form: StorageForm,
    /// `f16` or `f32`.
    pub values: ValueEncoding,
    /// The zstd level of Parquet.
    pub level: i32,
    /// Rows of tokens per shard.
    pub shard_samples: u64,
}

/// What was imported.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(title = "kd-cache import report")]
pub struct ImportReport {
    /// Whether every shard is there; otherwise the same command goes on where it was.
    pub complete: bool,
    /// Files that were read.
    pub files: usize,
    /// Mass at T = 1 of what each position's files have, on average: what is left is the tail.
    pub mean_mass: f64,
    /// Wall-clock time of this run.
    pub seconds: f64,
    /// What the cache is.
    pub cache: InspectReport,
}

/// Writes a cache of what `settings` names to `dir`, or goes on with an interrupted run.
///
/// Files are read twice: once to check them and to learn what rows and classes there are, once to write. Every
/// fault is found in the first reading, before anything is written. In memory are the tokens of all rows and a
/// shard of targets. `None` when `stop` was set in the first reading.
///
/// # Errors
/// [`ImportError`], naming file, row and position.
pub fn import(
    settings: &ImportSettings,
    dir: &Path,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Option<ImportReport>, ImportError> {
    let begun = Instant::now();
    let source = ForeignSource::open(settings.from, &settings.paths, settings.codec.as_deref())?;
    let tokenizer = settings.tokenizer.as_deref().map(Tokenizer::open).transpose()?;
    let classes = classes(settings, tokenizer.as_ref())?;
    let Some(survey) = Survey::of(&source, classes, tokenizer.as_ref(), stop, progress)? else {
        return Ok(None);
    };
    let plan = plan(settings, &survey, classes, tokenizer.as_ref())?;
    let report = |manifest: &Manifest| ImportReport {
        complete: manifest.complete,
        files: source.files().len(),
        mean_mass: survey.mass / survey.tokens.len() as f64,
        seconds: begun.elapsed().as_secs_f64(),
        cache: InspectReport::of_manifest(manifest),
    };
    let mut writer = match CacheWriter::open_or_mend(dir, plan, settings.level)? {
        Found::Complete(manifest) => return Ok(Some(report(&manifest))),
        Found::Writer(writer) => *writer,
    };
    if !writer.is_planned() {
        let prior = survey.near.prior(&writer.manifest().tail.nodes);
        let model =
            prior.filter(|_| writer.manifest().has_tail()).and_then(|prior| TailModel::new(prior, None));
        writer.begin(Beginnings { model: model.as_ref(), ..Beginnings::default() })?;
    }
    let manifest = writer.manifest();
    let (k, nodes) = (manifest.head.k, manifest.columns().nodes);
    progress.phase("import", manifest.samples, manifest.committed_rows());
    let mut rows = (0u64..).zip(source.rows()).peekable();
    loop {
        let before = writer.manifest().committed_rows();
        if writer.missing()?.is_empty() {
            break;
        }
        let first = writer.manifest().committed_rows();
        progress.advance(first - before);
        while !stop.load(Ordering::Relaxed) && rows.next_if(|(at, _)| *at < first).is_some() {}
        let mut shard = Shard::new(k, nodes, first);
        for (at, row) in rows.by_ref().take(usize::try_from(settings.shard_samples).unwrap_or(usize::MAX)) {
            if stop.load(Ordering::Relaxed) {
                progress.finish();
                let report = report(writer.manifest());
                writer.abandon()?;
                return Ok(Some(report));
            }
            let row = row?;
            if usize::try_from(at).ok().and_then(|at| survey.get(at)) != Some(&row.tokens) {
                return Err(row
                    .place
                    .wrong_at(0, "expected the tokens of the first reading; leave the files as they are until they are imported")
                    .into());
            }
            shard.add(&row, classes)?;
            progress.advance(1);
        }
        // Files that got shorter meanwhile are no cache; finishing says that shards are missing.
        if shard.rows.sample_ids.is_empty() {
            break;
        }
        writer.commit_shard(&shard.rows)?;
    }
    progress.finish();
    Ok(Some(report(&writer.finish()?)))
}

/// How many classes there are.
fn classes(settings: &ImportSettings, tokenizer: Option<&Tokenizer>) -> Result<usize, ImportError> {
    let tokens = tokenizer.map(|tokenizer| tokenizer.identity().size as usize);
    match (settings.classes, tokens) {
        (Some(found), Some(tokens)) if found < tokens => Err(ImportError::Classes { tokens, found }),
        (given, tokens) => given.or(tokens).ok_or(ImportError::NoClasses),
    }
}

/// What the first reading finds.
struct Survey {
    /// Tokens of all rows.
    tokens: Vec<u32>,
    /// Where rows end in them.
    ends: Vec<usize>,
    /// The fewest classes at any position, and where that is.
    fewest: (usize, String),
    near: NearTail,
    /// Of all positions' entries together.
    mass: f64,
    /// Of all entries: nothing else is known of the teacher.
    digest: Digest,
}

impl Survey {
    /// Reads all rows; `None` when `stop` was set.
    fn of(
        source: &ForeignSource,
        classes: usize,
        tokenizer: Option<&Tokenizer>,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<Option<Self>, ImportError> {
        let mut survey = Self {
            tokens: Vec::new(),
            ends: Vec::new(),
            fewest: (usize::MAX, String::new()),
            near: NearTail::new(classes),
            mass: 0.0,
            digest: Digest::of_bytes(&[]),
        };
        let mut entries = Hasher::new();
        let mut head = Head::default();
        progress.phase("read", 0, 0);
        for row in source.rows() {
            if stop.load(Ordering::Relaxed) {
                progress.finish();
                return Ok(None);
            }
            let row = row?;
            check_tokens(&row, classes, tokenizer)?;
            for position in 0..row.tokens.len() {
                take(&mut head, &row, position, classes)?;
                let (ids, logprobs) = row.entry(position);
                entries.update(&(ids.len() as u64).to_le_bytes());
                for (id, logprob) in ids.iter().zip(logprobs) {
                    entries.update(&id.to_le_bytes());
                    entries.update(&logprob.to_le_bytes());
                }
                survey.near.add(head.near_tail());
                survey.mass += head.mass();
                if head.len() < survey.fewest.0 {
                    let place = &row.place;
                    let place = format!("{}, {}, position {position}", place.path.display(), place.row);
                    survey.fewest = (head.len(), place);
                }
            }
            survey.tokens.extend(&row.tokens);
            survey.ends.push(survey.tokens.len());
            progress.advance(1);
        }
        progress.finish();
        survey.digest = entries.finish();
        if survey.ends.is_empty() {
            return Err(ImportError::Empty { files: source.files().len() });
        }
        Ok(Some(survey))
    }

    /// The tokens of a row, if there is one.
    fn get(&self, index: usize) -> Option<&[u32]> {
        (index < self.ends.len()).then(|| self.row(index))
    }

    fn row(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.tokens[start..self.ends[index]]
    }
}

fn take(head: &mut Head, row: &ForeignRow, position: usize, classes: usize) -> Result<(), ForeignError> {
    let (ids, logprobs) = row.entry(position);
    head.take(classes, ids, logprobs).map_err(|problem| row.place.wrong_at(position, &problem))
}

/// Tokens are classes, and those of the row's own text.
fn check_tokens(row: &ForeignRow, classes: usize, tokenizer: Option<&Tokenizer>) -> Result<(), ForeignError> {
    let tokens: Vec<u32> = row.tokens.iter().copied().chain(row.last).collect();
    if let Some(at) = tokens.iter().position(|token| *token as usize >= classes) {
        let problem = format!("expected a token below {classes}, found {}; is --classes right?", tokens[at]);
        return Err(row.place.wrong_at(at, &problem));
    }
    let (Some(text), Some(tokenizer)) = (&row.text, tokenizer) else { return Ok(()) };
    let expected = tokenizer.encode(text).map_err(|problem| row.place.wrong_at(0, &problem))?;
    let around = tokens.len().saturating_sub(expected.len());
    if around <= AROUND_TEXT && (0..=around).any(|from| tokens[from..].starts_with(&expected)) {
        return Ok(());
    }
    // Told without what a tokenizer puts before a text.
    let from = tokens.iter().take(AROUND_TEXT).position(|token| expected.first() == Some(token)).unwrap_or(0);
    let same = tokens[from..].iter().zip(&expected).take_while(|(a, b)| a == b).count();
    let word = |token: Option<&u32>| token.map_or("none".to_owned(), u32::to_string);
    let problem = format!(
        "expected token {} of the row's text, found {}; the tokens do not match the text, or --tokenizer is another",
        word(expected.get(same)),
        word(tokens.get(from + same))
    );
    Err(row.place.wrong_at(from + same, &problem))
}

/// The manifest before anything is in the cache.
fn plan(
    settings: &ImportSettings,
    survey: &Survey,
    classes: usize,
    tokenizer: Option<&Tokenizer>,
) -> Result<Manifest, ImportError> {
    let (most, place) = &survey.fewest;
    let k = settings.k.unwrap_or(*most);
    if k > *most || k == 0 {
        return Err(ImportError::K { most: *most, place: place.clone(), found: k });
    }
    let rows = (0..survey.ends.len()).map(|index| survey.row(index));
    let longest = rows.clone().map(<[u32]>::len).max().unwrap_or(0);
    let identity = tokenizer.map(Tokenizer::identity);
    let mut manifest = Manifest {
        format: format::FORMAT.into(),
        format_version: format::FORMAT_VERSION,
        created_by: concat!("kd-cache ", env!("CARGO_PKG_VERSION")).into(),
        complete: false,
        samples: survey.ends.len() as u64,
        views: 1,
        positions: survey.tokens.len() as u64,
        classes,
        head: HeadLayout { k, mass: None, draws: None, temperature: None },
        tail: TailLayout {
            nodes: TailNodes::try_from(vec![1.0])?,
            rank: 0,
            fit_samples: survey.tokens.len() as u64,
            from: None,
            model: None,
            encoder: None,
        },
        features: Vec::new(),
        storage: StorageLayout {
            form: settings.form,
            ids: format::IdType::for_classes(classes),
            values: settings.values,
            step: None,
            step_growth: None,
            curve_step: None,
            codebook: None,
            shard_samples: settings.shard_samples,
        },
        seed: 0,
        teacher: TeacherIdentity {
            kind: TeacherRun::Import,
            file: settings.teacher.clone(),
            digest: Digest::of_bytes(format!("{}\0{}", settings.teacher, survey.digest).as_bytes()),
            input: None,
            output: None,
            head: None,
            chunk: None,
            channels_last: false,
            execution_provider: None,
            graph_optimization: None,
            output_kind: "log_probabilities".into(),
            dtype: "f32".into(),
            runtime: settings.from.to_string(),
            device: "unknown".into(),
            batch: 1,
            threads: None,
        },
        dataset: DatasetIdentity {
            kind: settings.from.to_string(),
            fingerprint: dataset::fingerprint(rows),
            labels: None,
            sample_shape: vec![longest],
            tokens: Some(TokensIdentity {
                vocabulary: identity.map_or(classes, |identity| identity.size as usize),
                tokenizer: identity.map(|identity| identity.digest.clone()),
                tokenizer_file: identity.map(|identity| identity.file.clone()),
            }),
        },
        preprocess: None,
        augment: None,
        shards: Vec::new(),
    };
    manifest.format_version = manifest.version();
    Ok(manifest)
}

/// The rows of the next shard.
struct Shard {
    rows: ShardRows,
    k: usize,
    nodes: usize,
    first: u64,
    head: Head,
}

impl Shard {
    /// An empty one, which begins with sample `first`.
    fn new(k: usize, nodes: usize, first: u64) -> Self {
        let rows = ShardRows { targets: TargetBatch::zeroed(0, k, nodes), ..ShardRows::default() };
        Self { rows, k, nodes, first, head: Head::default() }
    }

    fn add(&mut self, row: &ForeignRow, classes: usize) -> Result<(), ForeignError> {
        self.rows.sample_ids.push(SampleId(self.first + self.rows.sample_ids.len() as u64));
        self.rows.tokens.push(TokenRow { tokens: row.tokens.clone(), documents: vec![0] });
        let first = self.rows.targets.rows;
        let targets = &mut self.rows.targets;
        targets.resize(first + row.tokens.len(), self.k, self.nodes, 0);
        for position in 0..row.tokens.len() {
            take(&mut self.head, row, position, classes)?;
            if self.head.len() < self.k {
                let problem = format!(
                    "expected {} classes or more, as before, found {}; leave the files as they are until they are imported",
                    self.k,
                    self.head.len()
                );
                return Err(row.place.wrong_at(position, &problem));
            }
            let at = (first + position) * self.k;
            let (ids, values) = (&mut targets.ids[at..at + self.k], &mut targets.values[at..at + self.k]);
            let curve = self.head.put(ids, values);
            let at = (first + position) * self.nodes;
            targets.curve[at..at + self.nodes].fill(curve);
        }
        Ok(())
    }
}
