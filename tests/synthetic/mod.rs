//! Caches made from logits that a formula gives: no teacher, no data, no random numbers.

#![allow(clippy::unwrap_used, dead_code, reason = "test code, of which each test takes a part")]

use std::path::{Path, PathBuf};

use kd_cache::cache::format::{FORMAT, IdType};
use kd_cache::cache::{
    Beginnings, CacheWriter, DatasetIdentity, EncoderTable, FeatureLayout, Found, HeadLayout, Manifest,
    PreprocessIdentity, ShardRows, StorageLayout, TailLayout, TeacherIdentity, TeacherRun, TokenRow,
    TokensIdentity, read_encoder, read_manifest, read_tail_model,
};
use kd_cache::config::{FeaturePool, FeatureValues, PreprocessConfig, StorageForm, ValueEncoding};
use kd_cache::digest::Digest;
use kd_cache::encoding::{Codebook, FeatureNumbers};
use kd_cache::ids::{Position, SampleId, SampleView};
use kd_cache::select::{Sampler, Selector, reference::select_row};
use kd_cache::tail_model::{Fitted, TailEncoder, TailFit};
use kd_cache::target::{Draws, TailModel, TailNodes, TailPrior, TargetBatch};

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
    pub form: StorageForm,
    /// Positions of each sample, whose tokens they are; 0: a sample is a position, and no token.
    pub sequence: usize,
    /// Whether heads differ in size.
    pub variable: bool,
    /// By how much of the first each further step of quantized logits is larger.
    pub growth: f64,
    /// Sampled targets: so many draws, at that temperature.
    pub draws: Option<(u16, f64)>,
    /// Features: how their numbers are kept, and how many.
    pub features: Vec<(FeatureValues, usize)>,
    /// The cache whose tail model is taken; without one it is fitted.
    pub fitted_in: Option<PathBuf>,
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
            form: StorageForm::Arrow,
            sequence: 0,
            variable: false,
            growth: 0.0,
            draws: None,
            features: Vec::new(),
            fitted_in: None,
        }
    }

    /// The cache of `tests/fixtures/v2`: the same logits, with a tail shape.
    pub fn with_shape() -> Self {
        Self { rank: 2, ..Self::fixture() }
    }

    /// The cache of `tests/fixtures/v3/packed`: rows of tokens, heads that differ, a tail shape, in bits.
    pub fn packed() -> Self {
        Self { values: ValueEncoding::Quantized, sequence: 7, variable: true, ..Self::with_shape() }
    }

    /// The cache of `tests/fixtures/v3/lists`: the same targets in Parquet.
    pub fn lists() -> Self {
        Self { form: StorageForm::Parquet, ..Self::packed() }
    }

    /// The cache of `tests/fixtures/v3/anchors`: rows so long that places in them are kept, and heads so
    /// long that their ranks share codes.
    pub fn anchors() -> Self {
        Self {
            samples: 1,
            classes: 40,
            k: 18,
            nodes: vec![0.5, 1.0],
            labelled: false,
            rank: 0,
            sequence: 130,
            ..Self::packed()
        }
    }

    /// The cache of `tests/fixtures/v4/steps`: version 3's in bits, with steps that grow.
    pub fn grown() -> Self {
        Self { growth: 0.25, ..Self::packed() }
    }

    /// The cache of `tests/fixtures/v4/packed`: rows of tokens, sampled targets in bits.
    pub fn sampled() -> Self {
        let draws = Some((10, 2.0));
        Self { values: ValueEncoding::Counts, k: 10, rank: 0, variable: false, draws, ..Self::packed() }
    }

    /// The cache of `tests/fixtures/v4/lists`: the same in Parquet.
    pub fn sampled_lists() -> Self {
        Self { form: StorageForm::Parquet, ..Self::sampled() }
    }

    /// The cache of `tests/fixtures/v5/fixed`: version 1's with features.
    pub fn featured() -> Self {
        Self { features: vec![(FeatureValues::F16, 3), (FeatureValues::I8, 5)], ..Self::fixture() }
    }

    /// The cache of `tests/fixtures/v5/packed`: rows of tokens in bits, with features of every token.
    pub fn featured_packed() -> Self {
        Self { features: Self::featured().features, ..Self::packed() }
    }

    /// The cache of `tests/fixtures/v5/lists`: the same in Parquet.
    pub fn featured_lists() -> Self {
        Self { form: StorageForm::Parquet, ..Self::featured_packed() }
    }

    /// With the tail model of the cache in `dir`, if there is one.
    pub fn fitted_in(self, dir: &Path) -> Self {
        Self { fitted_in: dir.exists().then(|| dir.to_owned()), ..self }
    }

    /// The name of a feature.
    pub fn feature_name(feature: usize) -> String {
        ["pooled", "last_hidden", "third"][feature].to_owned()
    }

    /// A feature's vectors of all positions, before they are rounded; those of position 2 are zeros.
    pub fn vectors(&self, feature: usize) -> Vec<Vec<f32>> {
        let (_, width) = self.features[feature];
        let number = |n: u64, j: u64| match n {
            2 => 0.0,
            _ => ((n * n * 17 + j * 57 + n * j * 29 + feature as u64 * 101) % 211) as f32 / 16.0 - 6.0,
        };
        let positions = 0..self.samples * self.per_sample();
        positions.map(|n| (0..width as u64).map(|j| number(n, j)).collect()).collect()
    }

    /// The vectors of the positions in `range`, as they are kept.
    fn features_of(&self, range: std::ops::Range<usize>) -> Vec<FeatureNumbers> {
        let kept = |(feature, (values, _)): (usize, &(FeatureValues, usize))| {
            let mut numbers = FeatureNumbers::new(*values);
            self.vectors(feature)[range.clone()].iter().for_each(|vector| numbers.push(vector).unwrap());
            numbers
        };
        self.features.iter().enumerate().map(kept).collect()
    }

    /// `tools/fixture_v1.py` has the same formula: the operations are exact or rounded once, so
    /// both get the same bits.
    pub fn logits(&self) -> Vec<f32> {
        let row = |n: u64| {
            (0..self.classes as u64)
                .map(move |j| ((n * n * 131 + j * j * 57 + n * j * 29 + 7) % 997) as f32 / 83.0 - 6.0)
        };
        (0..self.samples * self.per_sample()).flat_map(row).collect()
    }

    /// Positions of a sample.
    pub fn per_sample(&self) -> u64 {
        self.sequence.max(1) as u64
    }

    /// The tokens of a sample; a document ends in the middle of each.
    pub fn tokens(&self, sample: u64) -> TokenRow {
        let length = self.sequence as u32;
        let tokens = (0..length).map(|at| (sample as u32 * 31 + at * 7) % self.classes as u32).collect();
        TokenRow { tokens, documents: if length > 1 { vec![0, length / 2] } else { vec![0] } }
    }

    /// Cuts every other head to its first class, where heads differ, and puts what is cut into the tail;
    /// `first` is the number of the first position.
    fn vary(&self, first: usize, logits: &[f32], targets: &mut TargetBatch) {
        if !self.variable {
            return;
        }
        let one = self.by_definition(1, logits);
        targets.vary();
        for row in (0..targets.rows).filter(|row| (first + row).is_multiple_of(2)) {
            targets.set_count(row, 1);
            let nodes = targets.nodes;
            targets.curve[row * nodes..][..nodes].copy_from_slice(one.row(row).2);
        }
        targets.pad();
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
        self.select(0, &self.logits())
    }

    /// Heads and curves from the definition, in double precision: bytes of the format do not change with the last bits of
    /// a faster selection.
    fn by_definition(&self, k: usize, logits: &[f32]) -> TargetBatch {
        let nodes = self.tail_nodes();
        let of_curve = if k < self.classes { nodes.len() } else { 0 };
        let mut targets = TargetBatch::zeroed(logits.len() / self.classes, k, of_curve);
        for (row, logits) in logits.chunks(self.classes).enumerate() {
            let exact = select_row(logits, k, &nodes);
            targets.ids[row * k..][..k].copy_from_slice(&exact.ids);
            for (value, exact) in targets.values[row * k..].iter_mut().zip(&exact.values) {
                *value = *exact as f32;
            }
            for (g, exact) in targets.curve[row * of_curve..].iter_mut().zip(&exact.curve) {
                *g = *exact as f32;
            }
        }
        targets
    }

    /// The targets of some rows of logits, `first` being the number of the first position.
    fn select(&self, first: usize, logits: &[f32]) -> TargetBatch {
        if let Some((number, temperature)) = self.draws {
            let position = |at: usize| {
                let at = (first + at) as u64;
                let row = SampleView { sample: SampleId(at / self.per_sample()), view: 0 };
                Position { row, position: (at % self.per_sample()) as u32 }
            };
            let positions: Vec<Position> = (0..logits.len() / self.classes).map(position).collect();
            let draws = Draws::new(number, temperature).unwrap();
            return Sampler::new(self.classes, draws, 0).draw(logits, &positions).unwrap();
        }
        let mut targets = self.by_definition(self.k, logits);
        self.vary(first, logits, &mut targets);
        targets
    }

    /// Every row's target.
    pub fn targets(&self) -> TargetBatch {
        let mut targets = self.selected();
        if let Some(encoder) = self.fitted().and_then(|fitted| fitted.encoder) {
            encoder.encode(&self.logits(), &mut targets);
        }
        targets
    }

    /// The tail model of all rows, or `None` where there is no tail.
    pub fn fitted(&self) -> Option<Fitted> {
        if let Some(dir) = &self.fitted_in {
            let manifest = read_manifest(dir).unwrap();
            let model = read_tail_model(dir, &manifest).unwrap()?;
            let encoder = read_encoder(dir, &manifest).unwrap().map(|EncoderTable { mean, weights }| {
                TailEncoder::new(self.rank, mean, weights, model.shape().unwrap().basis()).unwrap()
            });
            return Some(Fitted { model, encoder, codes: Vec::new() });
        }
        self.plan().has_tail().then(|| {
            let dir = tempfile::tempdir().unwrap();
            let scratch = dir.path().join("sample");
            let mut fit =
                TailFit::new(self.classes, self.k, &self.tail_nodes(), self.rank, &scratch).unwrap();
            fit.add(&self.logits(), &self.selected()).unwrap();
            fit.finish(&mut || true).unwrap()
        })
    }

    /// The manifest before anything is in the cache. `created_by` is fixed, so that the bytes of
    /// a finished cache do not change with this crate's version.
    pub fn plan(&self) -> Manifest {
        let quantised = self.values == ValueEncoding::Quantized;
        let mut manifest = Manifest {
            format: FORMAT.into(),
            format_version: 0,
            created_by: "kd-cache 0.1.0".into(),
            complete: false,
            samples: self.samples,
            views: 1,
            positions: self.samples * self.per_sample(),
            classes: self.classes,
            head: HeadLayout {
                k: self.k,
                mass: self.variable.then_some(0.5),
                draws: self.draws.map(|(number, _)| number),
                temperature: self.draws.map(|(_, temperature)| temperature),
            },
            tail: TailLayout {
                nodes: self.tail_nodes(),
                rank: self.rank,
                fit_samples: self.samples,
                from: None,
                model: None,
                encoder: None,
            },
            features: self
                .features
                .iter()
                .enumerate()
                .map(|(at, (values, width))| FeatureLayout {
                    name: Self::feature_name(at),
                    output: at.to_string(),
                    values: *values,
                    pool: (at > 0).then_some(FeaturePool::Mean),
                    width: *width,
                })
                .collect(),
            storage: StorageLayout {
                form: self.form,
                ids: IdType::for_classes(self.classes),
                values: self.values,
                step: quantised.then_some(0.125),
                step_growth: (self.growth > 0.0).then_some(self.growth),
                curve_step: quantised.then_some(0.0625),
                codebook: None,
                shard_samples: self.shard_samples,
            },
            seed: 0,
            teacher: TeacherIdentity {
                kind: TeacherRun::Onnx,
                file: "synthetic.onnx".into(),
                digest: Digest::of_bytes(b"no model: a formula"),
                input: None,
                output: None,
                head: None,
                chunk: None,
                channels_last: false,
                execution_provider: None,
                graph_optimization: None,
                output_kind: "logits".into(),
                dtype: "f32".into(),
                runtime: "none".into(),
                device: "cpu".into(),
                batch: 4,
                threads: None,
            },
            dataset: DatasetIdentity {
                kind: "idx".into(),
                fingerprint: Digest::of_bytes(b"no samples: their numbers"),
                labels: self.labelled.then(|| Digest::of_bytes(b"labels: sample times 7")),
                sample_shape: vec![28, 28],
                tokens: (self.sequence > 0).then_some(TokensIdentity {
                    vocabulary: self.classes,
                    tokenizer: None,
                    tokenizer_file: None,
                }),
            },
            augment: None,
            preprocess: Some(PreprocessIdentity::of(&PreprocessConfig::default()).unwrap()),
            shards: Vec::new(),
        };
        manifest.format_version = manifest.version();
        manifest
    }

    /// The rows of each shard.
    pub fn shards(&self) -> Vec<ShardRows> {
        let logits = self.logits();
        let per_shard = self.shard_samples as usize;
        let encoder = self.fitted().and_then(|fitted| fitted.encoder);
        let shard = |(at, logits): (usize, &[f32])| {
            let mut targets = self.select(at * per_shard * self.per_sample() as usize, logits);
            if let Some(encoder) = &encoder {
                encoder.encode(logits, &mut targets);
            }
            let first = (at * per_shard) as u64;
            let positions = first as usize * self.per_sample() as usize;
            let features = self.features_of(positions..positions + targets.rows);
            let samples = first..first + targets.rows as u64 / self.per_sample();
            ShardRows {
                sample_ids: samples.clone().map(SampleId).collect(),
                labels: if self.labelled { samples.clone().map(|n| self.label(n)).collect() } else { vec![] },
                tokens: if self.sequence > 0 { samples.map(|n| self.tokens(n)).collect() } else { vec![] },
                targets,
                features,
                ..ShardRows::default()
            }
        };
        logits.chunks(per_shard * self.per_sample() as usize * self.classes).enumerate().map(shard).collect()
    }

    /// A writer in `dir`.
    pub fn open(&self, dir: &Path) -> CacheWriter {
        match CacheWriter::open(dir, self.plan(), 3).unwrap() {
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
            let model = fitted.as_ref().map(|fitted| &fitted.model);
            let scale = self.plan().scale().unwrap();
            let codebook = scale.map(|scale| {
                let sample = scale.quantise(&self.targets());
                Codebook::fit(self.plan().code_layout(), scale.curve_step(), &sample, None)
            });
            let encoder = table.as_ref();
            writer.begin(Beginnings { model, encoder, codebook: codebook.as_ref() }).unwrap();
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

    /// Writes a cache of these sizes, of rank 0 and without features, whose targets mean nothing, however many rows it
    /// has: for benches, which ask what reading costs.
    pub fn write_meaningless(&self, dir: &Path) {
        let mut writer = self.open(dir);
        let nodes = self.tail_nodes();
        let prior =
            TailPrior::new(nodes.clone(), self.classes, vec![0.0; self.classes * nodes.len()]).unwrap();
        let model = TailModel::new(prior, None).unwrap();
        writer.begin(Beginnings { model: Some(&model), ..Beginnings::default() }).unwrap();
        for first in (0..self.samples).step_by(self.shard_samples as usize) {
            let rows = first..(first + self.shard_samples).min(self.samples);
            let count = (rows.end - rows.start) as usize;
            let mut targets = TargetBatch::zeroed(count * self.per_sample() as usize, self.k, nodes.len());
            for (at, (id, value)) in targets.ids.iter_mut().zip(&mut targets.values).enumerate() {
                let (position, rank) = (at / self.k, at % self.k);
                (*id, *value) = (((position * 7 + rank * 613) % self.classes) as u32, -0.5 * rank as f32);
            }
            let of_tokens = self.sequence > 0;
            writer
                .commit_shard(&ShardRows {
                    sample_ids: rows.clone().map(SampleId).collect(),
                    labels: if self.labelled { vec![0; count] } else { Vec::new() },
                    tokens: rows.filter(|_| of_tokens).map(|row| self.tokens(row)).collect(),
                    targets,
                    ..ShardRows::default()
                })
                .unwrap();
        }
        writer.finish().unwrap();
    }
}
