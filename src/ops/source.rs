//! Dataset, preprocessing and teacher together: raw logits for any list of samples.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::inherit::{InheritError, Inherited};
use super::reading::Reading;
use super::samples::{Model, Prepared, Samples, Wanted};
use super::{batch_size, keep};
use crate::cache::{
    AugmentIdentity, DatasetIdentity, Manifest, PreprocessIdentity, StorageLayout, TailLayout,
    TeacherIdentity, TokensIdentity, format,
};
use crate::config::{
    CacheConfig, DEFAULT_SHARD_SAMPLES, ExecutionProvider, GraphOptimization, NumberOrAuto, TeacherConfig,
    ValueEncoding,
};
use crate::dataset::DatasetError;
use crate::ids::{Position, SampleId};
use crate::preprocess::PreprocessError;
use crate::select::NonFinite;
use crate::target::TargetBatch;
use crate::teacher::{self, OutputType, TeacherError};

/// Why samples could not be turned into logits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The preprocessing.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// The teacher.
    #[error(transparent)]
    Teacher(#[from] TeacherError),
    /// The cache of `tail.from`.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// The teacher has another number of classes than the config says.
    #[error("teacher.classes: expected {expected}, but {path} gives {found}")]
    Classes {
        /// The model file.
        path: String,
        /// In the config.
        expected: usize,
        /// In the model.
        found: usize,
    },
    /// Tokens that the teacher has no logit for.
    #[error(
        "{path}: expected a logit for each of the dataset's {vocabulary} tokens, found {classes}; use the teacher's own tokenizer, or name the head of a model that ends in hidden states (teacher.head)"
    )]
    Vocabulary {
        /// The model file.
        path: String,
        /// Logits of the teacher.
        classes: usize,
        /// Ids of the tokenizer, or one more than the largest there is.
        vocabulary: u32,
    },
    /// More is to be kept than there is.
    #[error("head.k: expected at most the teacher's {classes} classes, found {k}")]
    Head {
        /// Asked for.
        k: usize,
        /// Classes of the teacher.
        classes: usize,
    },
    /// A shard would have columns that cannot be written.
    #[error(
        "storage.shard_samples: expected at most {most} samples of up to {longest} positions, as a shard's column has less than 2^31 \
         values, found {found}"
    )]
    Shard {
        /// Samples that are certain to have room.
        most: u64,
        /// Positions of the longest.
        longest: u64,
        /// Asked for.
        found: u64,
    },
    /// A prediction that is no number.
    #[error("sample {sample}: the teacher's output is not usable: {source}")]
    NonFinite {
        /// The sample.
        sample: SampleId,
        /// Class and value.
        #[source]
        source: NonFinite,
    },
    /// A feature that cannot be kept.
    #[error("features.{name}: sample {sample}: expected {expected}, found {value} at {at}")]
    Feature {
        /// The feature.
        name: String,
        /// The sample.
        sample: SampleId,
        /// What can be kept, and the way out.
        expected: &'static str,
        /// What was found.
        value: f32,
        /// Where in the vector, from 0.
        at: usize,
    },
    /// A prediction that is not what `teacher.output_kind` says.
    #[error("sample {sample}: the teacher's output is not what its kind says")]
    Value {
        /// The sample.
        sample: SampleId,
        /// Class and value.
        #[source]
        source: TeacherError,
    },
}

/// The first corridor up to the logits.
pub(super) struct Source {
    pub(super) samples: Samples,
    pub(super) model: Model,
    pub(super) reading: Reading,
    /// Samples in a forward pass.
    pub(super) batch: usize,
    pub(super) dtype: OutputType,
    /// Whether the teacher's outputs stay on a device until something is selected from them.
    pub(super) on_device: bool,
    /// Why what is selected there is selected more slowly than it could be, where it is.
    pub(super) slower: Option<String>,
    /// What is taken from the cache of `tail.from`.
    pub(super) inherited: Option<Inherited>,
}

impl Source {
    /// Opens everything and asks the teacher about the first batch, of as many samples as the config says; where it says
    /// "auto", of as many as `kept_batch`, or as measured.
    pub(super) fn open(config: &CacheConfig, kept_batch: Option<usize>) -> Result<Self, SourceError> {
        let inherit = |path: &PathBuf| Inherited::open(path, config);
        let inherited = config.tail.from.as_ref().map(inherit).transpose()?;
        let nodes = inherited.as_ref().map_or(&config.tail.nodes, Inherited::nodes);
        let samples = Samples::open(config)?;
        let mut model = Model::open(config, &samples)?;
        let most = samples.rows().min(config.storage.shard_samples.unwrap_or(DEFAULT_SHARD_SAMPLES));
        let batch = match (config.teacher.batch, kept_batch) {
            (Some(NumberOrAuto::Auto), None) => {
                batch_size::measured(&samples, &mut model, most, || Model::open(config, &samples))
            }
            (Some(NumberOrAuto::Auto), Some(kept)) => Ok(kept),
            _ => Ok(config.batch()),
        }?;
        let first = (batch as u64).min(samples.rows());
        let prepared = samples.prepare((0..first).map(|index| samples.row_at(index)).collect())?;
        let positions = prepared.positions();
        let mut at = 0;
        let mut probed: Option<Result<(Reading, OutputType), SourceError>> = None;
        let (mut on_device, mut slower) = (false, None);
        model.forward(&prepared, &mut |mut output| {
            on_device = output.values.on_device();
            slower = output.values.slower();
            let (dtype, rows) = (output.dtype, output.rows);
            let reading = match probed.take() {
                None => Reading::decide(config, nodes, &samples, &output).map(|reading| (reading, dtype)),
                Some(reading) => reading,
            };
            // A teacher that answers nonsense is found out before anything is written.
            let read = reading.and_then(|(reading, dtype)| {
                reading.features(&mut output, &positions[at..at + rows])?;
                reading.targets(output, &positions[at..at + rows])?;
                Ok((reading, dtype))
            });
            at += rows;
            let broken = read.is_err();
            probed = Some(read);
            if broken { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let silent = || TeacherError::Output {
            path: config.teacher.path.clone(),
            expected: "an output for each position".into(),
            found: "none".into(),
        };
        let (reading, dtype) = probed.ok_or_else(silent)??;
        Ok(Self { samples, model, reading, batch, dtype, on_device, slower, inherited })
    }

    /// Asks about some positions of some samples. `each` is given them in order and in pieces: raw logits
    /// `[positions, classes]` and what is selected from them.
    pub(super) fn ask<E: From<SourceError>>(
        &mut self,
        wanted: &[Wanted],
        each: impl FnMut(&[f32], &TargetBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let prepared = self.samples.prepare(wanted.iter().map(|wanted| wanted.row).collect())?;
        let mut asked = Vec::new();
        for wanted in wanted {
            let start = asked.len();
            asked.resize(start + self.samples.positions_of(wanted.row.sample)?, false);
            wanted.positions.iter().for_each(|at| asked[start + at] = true);
        }
        self.answer(&prepared, &asked, each)
    }

    /// As [`Self::ask`], of a batch that is ready for the teacher: `asked` says of each of its positions whether it is
    /// wanted.
    pub(super) fn answer<E: From<SourceError>>(
        &mut self,
        prepared: &Prepared,
        asked: &[bool],
        mut each: impl FnMut(&[f32], &TargetBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let positions = prepared.positions();
        let (reading, mut at, mut failed) = (&self.reading, 0, None);
        let answered = self.model.forward(prepared, &mut |mut output| {
            let here = at..at + output.rows;
            at = here.end;
            let kept: Vec<usize> = (0..output.rows).filter(|row| asked[here.start + row]).collect();
            let wanted: Vec<Position> = kept.iter().map(|row| positions[here.start + row]).collect();
            if kept.is_empty() {
                return ControlFlow::Continue(());
            }
            output.values.keep(&kept, output.classes);
            output.rows = kept.len();
            output.features.clear();
            let read = reading.read(output, &wanted).map_err(E::from);
            match read.and_then(|(logits, targets)| each(&logits.into_vec(), &targets)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        answered.map_err(SourceError::from)?;
        failed.map_or(Ok(()), Err)
    }

    /// The raw logits alone, `[positions asked for, classes]`.
    pub(super) fn logits(&mut self, prepared: &Prepared, asked: &[bool]) -> Result<Vec<f32>, SourceError> {
        let mut found = Vec::new();
        self.answer(prepared, asked, |logits, _| {
            found.extend_from_slice(logits);
            Ok::<(), SourceError>(())
        })?;
        Ok(found)
    }

    /// The manifest of a cache made from this source, before anything is in it.
    pub(super) fn plan(&self, config: &CacheConfig) -> Result<Manifest, SourceError> {
        // Where the head holds every class there is no tail to give a shape.
        let head = keep::layout(&config.head, self.reading.classes);
        let positions = self.samples.positions();
        let fit_samples = |rank| config.tail.fit_samples(rank).min(positions);
        let rank = match config.tail.rank {
            _ if head.k == self.reading.classes || head.draws.is_some() => 0,
            Some(rank) => rank,
            // What nobody asked for is no fault of a dataset that is too small for it.
            None => {
                let rank = config.default_rank();
                rank.min(usize::try_from(fit_samples(rank) - 1).unwrap_or(usize::MAX))
            }
        };
        let fit_samples = fit_samples(rank);
        let values = config.values();
        let quantised = values == ValueEncoding::Quantized;
        let mut manifest = Manifest {
            format: format::FORMAT.into(),
            format_version: format::FORMAT_VERSION,
            created_by: concat!("kd-cache ", env!("CARGO_PKG_VERSION")).into(),
            complete: false,
            samples: self.samples.len(),
            views: u32::from(self.samples.views()),
            positions,
            classes: self.reading.classes,
            head,
            tail: TailLayout {
                nodes: self.reading.nodes.clone(),
                rank,
                fit_samples,
                from: None,
                model: None,
                encoder: None,
            },
            features: self.reading.features.clone(),
            storage: StorageLayout {
                form: config.storage.form,
                ids: format::IdType::for_classes(self.reading.classes),
                values,
                step: quantised.then_some(config.storage.step),
                step_growth: quantised.then_some(config.storage.step_growth).filter(|growth| *growth > 0.0),
                curve_step: quantised.then_some(config.storage.curve_step),
                codebook: None,
                shard_samples: 0,
            },
            seed: config.seed,
            teacher: self.teacher_identity(&config.teacher)?,
            dataset: self.dataset_identity(config),
            preprocess: match &self.samples {
                Samples::Images { preprocess, .. } => {
                    Some(PreprocessIdentity::of(preprocess.config()).map_err(PreprocessError::from)?)
                }
                Samples::Tokens(_) => None,
            },
            augment: match &self.samples {
                Samples::Images { preprocess, .. } => preprocess
                    .augment()
                    .map(AugmentIdentity::of)
                    .transpose()
                    .map_err(PreprocessError::from)?,
                Samples::Tokens(_) => None,
            },
            shards: Vec::new(),
        };
        if let Some(inherited) = &self.inherited {
            inherited.join(&mut manifest)?;
        }
        let of_a_sample = self.samples.longest().saturating_mul(u64::from(self.samples.views()));
        let numbers = manifest.columns().numbers();
        manifest.storage.shard_samples = config.storage.shard_samples(of_a_sample, numbers);
        let most = manifest.columns().most_positions() / of_a_sample.max(1);
        if manifest.samples.min(manifest.storage.shard_samples) > most {
            let (found, longest) = (manifest.storage.shard_samples, of_a_sample);
            return Err(SourceError::Shard { most, longest, found });
        }
        manifest.format_version = manifest.version();
        Ok(manifest)
    }

    fn teacher_identity(&self, teacher: &TeacherConfig) -> Result<TeacherIdentity, SourceError> {
        let digest = |path: &Path| teacher::digest(teacher.kind, path);
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(TeacherIdentity {
            kind: teacher.kind.into(),
            file: name(&teacher.path).unwrap_or_default(),
            digest: self.model.digest().cloned().map_or_else(|| digest(&teacher.path), Ok)?,
            input: teacher.input.clone(),
            output: teacher.output.clone(),
            head: teacher.head.as_deref().map(digest).transpose()?,
            // A head of its own may give other last bits in chunks of another size.
            chunk: teacher.head.as_ref().map(|_| teacher.chunk),
            channels_last: teacher.channels_last,
            execution_provider: teacher.execution_provider.filter(|one| *one != ExecutionProvider::default()),
            graph_optimization: teacher.graph_optimization.filter(|level| *level != GraphOptimization::All),
            output_kind: self.reading.output.as_str().into(),
            dtype: self.dtype.as_str().into(),
            runtime: self.model.runtime().into(),
            device: teacher.device.clone(),
            batch: self.batch,
            threads: teacher.threads,
        })
    }

    fn dataset_identity(&self, config: &CacheConfig) -> DatasetIdentity {
        let kind = config.dataset.kind().into();
        match &self.samples {
            Samples::Images { dataset, .. } => DatasetIdentity {
                kind,
                fingerprint: dataset.fingerprint().clone(),
                labels: dataset.labels_digest().cloned(),
                sample_shape: dataset.sample_shape().to_vec(),
                tokens: None,
            },
            Samples::Tokens(dataset) => DatasetIdentity {
                kind,
                fingerprint: dataset.fingerprint().clone(),
                labels: None,
                sample_shape: vec![dataset.length()],
                tokens: Some(TokensIdentity {
                    vocabulary: dataset.vocabulary().map_or(self.reading.classes, |size| size as usize),
                    tokenizer: dataset.tokenizer().map(|tokenizer| tokenizer.digest.clone()),
                    tokenizer_file: dataset.tokenizer().map(|tokenizer| tokenizer.file.clone()),
                }),
            },
        }
    }
}
