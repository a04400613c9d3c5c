//! Whatever is written is read again, whatever the classes, heads, nodes, encodings and labels.

use crate::synthetic::Synthetic;
use half::f16;
use kd_cache::cache::{Beginnings, CacheReader, ShardRows};
use kd_cache::config::ValueEncoding;
use kd_cache::ids::SampleId;
use kd_cache::ops::{Silent, verify};
use kd_cache::target::{TailModel, TailPrior, TailShape, TargetBatch};
use proptest::prelude::*;

/// Settings on both sides of every bound: widths of ids, no tail, one node, short last shards.
fn settings() -> impl Strategy<Value = Synthetic> {
    let classes = prop_oneof![2usize..40, 250usize..260, 65_530usize..65_540];
    let nodes =
        prop_oneof![Just(vec![1.0]), Just(vec![0.125, 0.25, 0.5, 0.75, 1.0]), Just(vec![0.3, 1.0, 2.0]),];
    let values = prop_oneof![Just(ValueEncoding::F16), Just(ValueEncoding::F32)];
    let sizes = (1u64..30, 1u64..12, any::<bool>(), 0usize..4);
    (classes, 1usize..9, any::<bool>(), nodes, values, sizes).prop_map(
        |(classes, k, whole, nodes, values, (samples, shard_samples, labelled, rank))| Synthetic {
            samples,
            classes,
            k: if whole && classes < 40 { classes } else { k.min(classes) },
            nodes,
            values,
            shard_samples,
            labelled,
            // A shape needs a tail, and more positions than directions.
            rank: if k < classes && !(whole && classes < 40) { rank.min(samples as usize - 1) } else { 0 },
            ..Synthetic::fixture()
        },
    )
}

/// What a value becomes on disk.
fn stored(value: f32, encoding: ValueEncoding) -> f32 {
    match encoding {
        ValueEncoding::F32 => value,
        ValueEncoding::F16 => f16::from_f32(value.clamp(-65504.0, 65504.0)).to_f32(),
        // Not among the settings: tests/forms.rs has it.
        ValueEncoding::Quantized | ValueEncoding::Counts => f32::NAN,
    }
}

/// Any targets of these settings: finite, and otherwise as they come.
fn arbitrary_targets(settings: &Synthetic, seed: u64) -> TargetBatch {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let curve = if settings.k < settings.classes { settings.nodes.len() } else { 0 };
    let mut targets = TargetBatch::default();
    targets.resize(settings.samples as usize, settings.k, curve, settings.rank);
    targets.ids.iter_mut().for_each(|id| *id = (next() % settings.classes as u64) as u32);
    targets.codes.iter_mut().for_each(|code| *code = next() as i8);
    // Beyond half precision's range on either side, too.
    let mut value = || (next() as f32 / (1u64 << 31) as f32 - 0.5) * 2f32.powi((next() % 40) as i32 - 20);
    targets.values.iter_mut().for_each(|v| *v = value());
    targets.curve.iter_mut().for_each(|g| *g = value());
    targets
}

fn rows_of(targets: &TargetBatch, rows: std::ops::Range<usize>) -> TargetBatch {
    let cut = |values: &[f32], width: usize| values[rows.start * width..rows.end * width].to_vec();
    TargetBatch {
        counts: Vec::new(),
        rows: rows.len(),
        k: targets.k,
        nodes: targets.nodes,
        ids: targets.ids[rows.start * targets.k..rows.end * targets.k].to_vec(),
        values: cut(&targets.values, targets.k),
        curve: cut(&targets.curve, targets.nodes),
        rank: targets.rank,
        codes: targets.codes[rows.start * targets.rank..rows.end * targets.rank].to_vec(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Ids rise with gaps, as those of a filtered dataset do.
    #[test]
    fn what_is_written_is_read(settings in settings(), seed: u64, gap in 1u64..1000) {
        let dir = tempfile::tempdir().unwrap();
        let targets = arbitrary_targets(&settings, seed);
        let samples = settings.samples as usize;
        let id = |row: usize| SampleId(row as u64 * gap + seed % gap);
        let label = |row: usize| (row * 5 % settings.classes) as u32;
        let model = (settings.k < settings.classes).then(|| {
            let prior = |step: usize| {
                let weights = 0..settings.classes * settings.nodes.len();
                let weights = weights.map(|i| (i * step % 17) as f32 - 8.5).collect();
                TailPrior::new(settings.tail_nodes(), settings.classes, weights).unwrap()
            };
            // Eighths: half precision keeps them.
            let basis = (0..settings.classes * settings.rank).map(|i| (i % 13) as f32 / 8.0 - 0.75).collect();
            let shape = (settings.rank > 0).then(|| TailShape::new(prior(2), settings.rank, basis).unwrap());
            TailModel::new(prior(1), shape).unwrap()
        });
        let mut writer = settings.open(dir.path());
        writer.begin(Beginnings { model: model.as_ref(), ..Beginnings::default() }).unwrap();
        for start in (0..samples).step_by(settings.shard_samples as usize) {
            let rows = start..(start + settings.shard_samples as usize).min(samples);
            let labels = if settings.labelled { rows.clone().map(label).collect() } else { vec![] };
            let sample_ids = rows.clone().map(id).collect();
            let targets = rows_of(&targets, rows);
            writer.commit_shard(&ShardRows { sample_ids, labels, targets, ..ShardRows::default() }).unwrap();
        }
        let manifest = writer.finish().unwrap();

        let reader = CacheReader::open(dir.path()).unwrap();
        prop_assert_eq!(reader.manifest(), &manifest);
        prop_assert_eq!(reader.rows(), settings.samples);
        prop_assert_eq!(reader.tail_model(), model.as_ref());
        // Backwards, so that order is not what makes it right.
        let backwards: Vec<u64> = (0..settings.samples).rev().collect();
        let mut found = TargetBatch::default();
        reader.gather(&backwards, &mut found).unwrap();
        for (at, row) in backwards.iter().map(|row| *row as usize).enumerate() {
            let (ids, values, curve) = found.row(at);
            let (wanted_ids, wanted_values, wanted_curve) = targets.row(row);
            prop_assert_eq!(ids, wanted_ids);
            for (found, wanted) in values.iter().zip(wanted_values).chain(curve.iter().zip(wanted_curve)) {
                prop_assert_eq!(*found, stored(*wanted, settings.values));
            }
            prop_assert_eq!(found.code(at), targets.code(row));
            prop_assert_eq!(reader.sample_id(row as u64).unwrap(), id(row));
            prop_assert_eq!(reader.label(row as u64).unwrap(), settings.labelled.then(|| label(row)));
            prop_assert_eq!(reader.row_of(id(row), 0).unwrap(), Some(row as u64));
            if gap > 1 {
                prop_assert_eq!(reader.row_of(SampleId(id(row).0 + 1), 0).unwrap(), None);
            }
        }
    }

    /// Targets that come from logits pass every rule that `verify` has.
    #[test]
    fn what_is_selected_verifies(settings in settings().prop_filter("small", |s| s.classes < 300)) {
        let dir = tempfile::tempdir().unwrap();
        settings.write(dir.path());
        let report = verify(dir.path(), &Silent).unwrap();
        prop_assert!(report.sound, "{settings:?}: {:?}", report.damages);
    }
}
