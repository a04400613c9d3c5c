//! Dataset, preprocessing and teacher together: raw logits for any list of samples.

use crate::cache::{
    DatasetIdentity, HeadLayout, Manifest, PreprocessIdentity, StorageLayout, TailLayout, TeacherIdentity,
    format,
};
use crate::config::{CacheConfig, ValueEncoding};
use crate::dataset::{self, Dataset, DatasetError};
use crate::digest::Digest;
use crate::ids::SampleId;
use crate::preprocess::{Preprocess, PreprocessError};
use crate::select::{NonFinite, Selector};
use crate::tail_model::TailEncoder;
use crate::target::TargetBatch;
use crate::teacher::{self, OutputReading, OutputType, RawOutput, Teacher, TeacherError};

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
    /// More is to be kept than there is.
    #[error("head.k: expected at most the teacher's {classes} classes, found {k}")]
    Head {
        /// Asked for.
        k: usize,
        /// Classes of the teacher.
        classes: usize,
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
    pub(super) dataset: Box<dyn Dataset>,
    pub(super) preprocess: Preprocess,
    pub(super) teacher: Box<dyn Teacher>,
    pub(super) reading: Reading,
    pub(super) batch: usize,
    pub(super) dtype: OutputType,
}

/// What the teacher's numbers are, and what is kept of them.
pub(super) struct Reading {
    pub(super) classes: usize,
    pub(super) output: OutputReading,
    pub(super) selector: Selector,
    /// Gives positions their tail codes, once it is known.
    pub(super) encoder: Option<TailEncoder>,
}

impl Source {
    /// Opens everything and asks the teacher about the first batch.
    pub(super) fn open(config: &CacheConfig) -> Result<Self, SourceError> {
        let dataset = dataset::open_images(&config.dataset, "dataset")?;
        let preprocess = Preprocess::new(&config.preprocess, dataset.sample_shape())?;
        let mut teacher = teacher::open(&config.teacher, preprocess.output_shape())?;
        let first = (config.teacher.batch as u64).min(dataset.len());
        let ids: Vec<SampleId> = (0..first).map(|index| dataset.id_at(index)).collect();
        let inputs = preprocess.batch(dataset.as_ref(), &ids)?;
        let probe = teacher.forward(&inputs, ids.len())?;
        let classes = probe.classes;
        if let Some(expected) = config.teacher.classes.filter(|expected| *expected != classes) {
            let path = config.teacher.path.display().to_string();
            return Err(SourceError::Classes { path, expected, found: classes });
        }
        dataset::check_labels(dataset.as_ref(), classes)?;
        let k = config.head.largest(classes);
        let selector = Selector::new(classes, k, &config.tail.nodes)
            .and_then(|selector| selector.with_mass(config.head.mass))
            .ok_or(SourceError::Head { k, classes })?;
        let output = OutputReading::decide(config.teacher.output_kind, &probe);
        let reading = Reading { classes, output, selector, encoder: None };
        // A teacher that answers nonsense is found out before anything is written.
        reading.read(probe.clone(), &ids)?;
        Ok(Self { dataset, preprocess, teacher, reading, batch: config.teacher.batch, dtype: probe.dtype })
    }

    /// Raw logits `[ids, classes]` and what is selected from them.
    pub(super) fn ask(&mut self, ids: &[SampleId]) -> Result<(Vec<f32>, TargetBatch), SourceError> {
        let inputs = self.preprocess.batch(self.dataset.as_ref(), ids)?;
        let output = self.teacher.forward(&inputs, ids.len())?;
        self.reading.read(output, ids)
    }

    /// The manifest of a cache made from this source, before anything is in it.
    pub(super) fn plan(&self, config: &CacheConfig) -> Result<Manifest, SourceError> {
        let teacher = &config.teacher;
        let read = |source| TeacherError::Read { path: teacher.path.clone(), source };
        let samples = self.dataset.len();
        // Where the head holds every class there is no tail to give a shape.
        let k = config.head.largest(self.reading.classes);
        let rank = if k < self.reading.classes { config.tail.rank } else { 0 };
        let quantised = config.storage.values == ValueEncoding::Quantized;
        let mut manifest = Manifest {
            format: format::FORMAT.into(),
            format_version: format::FORMAT_VERSION,
            created_by: concat!("kd-cache ", env!("CARGO_PKG_VERSION")).into(),
            complete: false,
            samples,
            views: 1,
            positions: samples,
            classes: self.reading.classes,
            head: HeadLayout { k, mass: config.head.mass },
            tail: TailLayout {
                nodes: config.tail.nodes.clone(),
                rank,
                fit_samples: config.tail.fit_samples.min(samples),
                model: None,
                encoder: None,
            },
            storage: StorageLayout {
                form: config.storage.form,
                ids: format::IdType::for_classes(self.reading.classes),
                values: config.storage.values,
                step: quantised.then_some(config.storage.step),
                curve_step: quantised.then_some(config.storage.curve_step),
                codebook: None,
                shard_samples: config.storage.shard_samples,
            },
            seed: config.seed,
            teacher: TeacherIdentity {
                kind: teacher.kind,
                file: teacher
                    .path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                digest: Digest::of_file(&teacher.path).map_err(read)?,
                input: teacher.input.clone(),
                output: teacher.output.clone(),
                output_kind: self.reading.output.as_str().into(),
                dtype: self.dtype.as_str().into(),
                runtime: self.teacher.runtime().into(),
                device: teacher.device.clone(),
                batch: teacher.batch,
            },
            dataset: DatasetIdentity {
                kind: config.dataset.kind().into(),
                fingerprint: self.dataset.fingerprint().clone(),
                labels: self.dataset.labels_digest().cloned(),
                sample_shape: self.dataset.sample_shape().to_vec(),
                tokens: None,
            },
            preprocess: Some(PreprocessIdentity {
                config: self.preprocess.config().clone(),
                digest: self.preprocess.digest().clone(),
            }),
            shards: Vec::new(),
        };
        manifest.format_version = manifest.version();
        Ok(manifest)
    }
}

impl Reading {
    /// A forward pass's result as logits, and what is selected from them.
    pub(super) fn read(
        &self,
        output: RawOutput,
        ids: &[SampleId],
    ) -> Result<(Vec<f32>, TargetBatch), SourceError> {
        let classes = output.classes;
        if classes != self.classes {
            let found = format!("{classes} classes");
            let expected = format!("{} classes, as in the first batch", self.classes);
            return Err(TeacherError::Output { path: "teacher".into(), expected, found }.into());
        }
        let logits = self.output.into_logits(output).map_err(|source| match source {
            TeacherError::Value { row, .. } => SourceError::Value { sample: ids[row], source },
            other => other.into(),
        })?;
        let mut targets = self
            .selector
            .select(&logits)
            .map_err(|source| SourceError::NonFinite { sample: ids[source.row], source })?;
        if let Some(encoder) = &self.encoder {
            encoder.encode(&logits, &mut targets);
        }
        Ok((logits, targets))
    }
}
