//! Caches made from logits that a formula gives: no teacher, no data, no random numbers.

#![allow(clippy::unwrap_used, dead_code, reason = "test code, of which each test takes a part")]

use std::path::Path;

use kd_cache::cache::format::{FORMAT, IdType, version_for};
use kd_cache::cache::{
    CacheWriter, DatasetIdentity, EncoderTable, Found, HeadLayout, Manifest, PreprocessIdentity, ShardRows,
    StorageLayout, TailLayout, TeacherIdentity,
};
use kd_cache::config::{PreprocessConfig, StorageForm, TeacherKind, ValueEncoding};
use kd_cache::digest::Digest;
use kd_cache::ids::SampleId;
use kd_cache::select::Selector;
use kd_cache::tail_model::{Fitted, TailFit};
use kd_cache::target::{TailNodes, TargetBatch};

/// What a synthetic cache is like.
#[derive(Clone, Debug)]
pub struct Synthetic {
    pub samples: u64,
    pub classes: usize,
    pub k: usize,
    pub nodes: Vec<f64>,
    pub values: ValueEncoding,
    pub shard_samples: u64,
    pub labelled: bool,
    pub rank: usize,
}

impl Synthetic {
    /// The cache of `tests/fixtures/v1`.
    pub fn fixture() -> Self {
        Self {
            samples: 12,
            classes: 20,
            k: 4,
            nodes: vec![0.125, 0.25, 0.5, 0.75, 1.0],
            values: ValueEncoding::F16,
            shard_samples: 5,
            labelled: true,
            rank: 0,
        }
    }

    /// The cache of `tests/fixtures/v2`: the same logits, with a tail shape.
    pub fn with_shape() -> Self {
        Self { rank: 2, ..Self::fixture() }
    }

    /// `tools/fixture_v1.py` has the same formula: the operations are exact or rounded once, so
    /// both get the same bits.
    pub fn logits(&self) -> Vec<f32> {
        let row = |n: u64| {
            (0..self.classes as u64)
                .map(move |j| ((n * n * 131 + j * j * 57 + n * j * 29 + 7) % 997) as f32 / 83.0 - 6.0)
        };
        (0..self.samples).flat_map(row).collect()
    }

    pub fn label(&self, sample: u64) -> u32 {
        (sample * 7 % self.classes as u64) as u32
    }

    pub fn selector(&self) -> Selector {
        Selector::new(self.classes, self.k, &self.tail_nodes()).unwrap()
    }

    pub fn tail_nodes(&self) -> TailNodes {
        TailNodes::try_from(self.nodes.clone()).unwrap()
    }

    /// Every row's target, as selected, without codes.
    fn selected(&self) -> TargetBatch {
        self.selector().select(&self.logits()).unwrap()
    }

    /// Every row's target.
    pub fn targets(&self) -> TargetBatch {
        let mut targets = self.selected();
        if let Some(encoder) = self.fitted().and_then(|fitted| fitted.encoder) {
            encoder.encode(&self.logits(), &mut targets);
        }
        targets
    }

    /// The tail model of all rows, or `None` when the head holds every class.
    pub fn fitted(&self) -> Option<Fitted> {
        (self.k < self.classes).then(|| {
            let dir = tempfile::tempdir().unwrap();
            let scratch = dir.path().join("sample");
            let mut fit =
                TailFit::new(self.classes, self.k, &self.tail_nodes(), self.rank, &scratch).unwrap();
            fit.add(&self.logits(), &self.selected()).unwrap();
            fit.finish().unwrap()
        })
    }

    /// The manifest before anything is in the cache. `created_by` is fixed, so that the bytes of
    /// a finished cache do not change with this crate's version.
    pub fn plan(&self) -> Manifest {
        let preprocess = PreprocessConfig::default();
        Manifest {
            format: FORMAT.into(),
            format_version: version_for(self.rank),
            created_by: "kd-cache 0.1.0".into(),
            complete: false,
            samples: self.samples,
            views: 1,
            positions: self.samples,
            classes: self.classes,
            head: HeadLayout { k: self.k },
            tail: TailLayout {
                nodes: self.tail_nodes(),
                rank: self.rank,
                fit_samples: self.samples,
                model: None,
                encoder: None,
            },
            storage: StorageLayout {
                form: StorageForm::Arrow,
                ids: IdType::for_classes(self.classes),
                values: self.values,
                shard_samples: self.shard_samples,
            },
            seed: 0,
            teacher: TeacherIdentity {
                kind: TeacherKind::Onnx,
                file: "synthetic.onnx".into(),
                digest: Digest::of_bytes(b"no model: a formula"),
                input: None,
                output: None,
                output_kind: "logits".into(),
                dtype: "f32".into(),
                runtime: "none".into(),
                device: "cpu".into(),
                batch: 4,
            },
            dataset: DatasetIdentity {
                kind: "idx".into(),
                fingerprint: Digest::of_bytes(b"no samples: their numbers"),
                labels: self.labelled.then(|| Digest::of_bytes(b"labels: sample times 7")),
                sample_shape: vec![28, 28],
            },
            preprocess: PreprocessIdentity {
                digest: Digest::of_json(&preprocess).unwrap(),
                config: preprocess,
            },
            shards: Vec::new(),
        }
    }

    /// The rows of each shard.
    pub fn shards(&self) -> Vec<ShardRows> {
        let logits = self.logits();
        let per_shard = self.shard_samples as usize;
        let encoder = self.fitted().and_then(|fitted| fitted.encoder);
        let shard = |(at, logits): (usize, &[f32])| {
            let mut targets = self.selector().select(logits).unwrap();
            if let Some(encoder) = &encoder {
                encoder.encode(logits, &mut targets);
            }
            let first = (at * per_shard) as u64;
            let samples = first..first + targets.rows as u64;
            ShardRows {
                sample_ids: samples.clone().map(SampleId).collect(),
                labels: if self.labelled { samples.map(|n| self.label(n)).collect() } else { vec![] },
                targets,
            }
        };
        logits.chunks(per_shard * self.classes).enumerate().map(shard).collect()
    }

    /// A writer in `dir`.
    pub fn open(&self, dir: &Path) -> CacheWriter {
        match CacheWriter::open(dir, self.plan()).unwrap() {
            Found::Writer(writer) => *writer,
            Found::Complete(_) => panic!("{} holds a finished cache", dir.display()),
        }
    }

    /// A writer in `dir`, with tail model and plan written.
    pub fn begin(&self, dir: &Path) -> CacheWriter {
        let mut writer = self.open(dir);
        if !writer.is_planned() {
            let fitted = self.fitted();
            let encoder = fitted.as_ref().and_then(|fitted| fitted.encoder.as_ref());
            let table = encoder.map(|encoder| EncoderTable {
                mean: encoder.mean().to_vec(),
                weights: encoder.weights().to_vec(),
            });
            writer.begin(fitted.as_ref().map(|fitted| &fitted.model), table.as_ref()).unwrap();
        }
        writer
    }

    /// The whole cache, written to `dir`.
    pub fn write(&self, dir: &Path) -> Manifest {
        let mut writer = self.begin(dir);
        for shard in self.shards() {
            writer.commit_shard(&shard).unwrap();
        }
        writer.finish().unwrap()
    }
}
