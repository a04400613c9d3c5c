//! Every version of the format stays what it is: today's writer gives the bytes of the fixtures, and
//! today's reader their targets.
//!
//! What lies in `tests/fixtures/v1` to `v5` was written once and is kept for ever: targets are taken from the definition and
//! tail models from the fixtures themselves, so that neither a faster selection nor a better fit changes a bit. `expected.json` of
//! version 1 was computed from the raw logits by `tools/fixture_v1.py`, which knows nothing of caches; those
//! of version 3 are what the `f64` reference makes of the logits, rounded to steps, without a shard between;
//! those of version 4 what was drawn, before it was written; those of version 5 have the features, rounded by the
//! formula in `the_features_are_what_their_formula_says`.
//! The fixtures' `created_by` is fixed by the test, so all files compare byte by byte whatever the crate's
//! version. For a new format version: a new folder, written with `KD_CACHE_WRITE_FIXTURE=1`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::synthetic::Synthetic;
use kd_cache::cache::{CacheReader, CacheWriter, Found, TokenRow};
use kd_cache::config::{FeatureValues, StorageForm};
use kd_cache::encoding::Scale;
use kd_cache::ops::{ConvertSettings, Silent, convert, verify};
use kd_cache::target::{FeatureBatch, PositionTarget, TailHandling, TailModel, TargetBatch, Temperature};
use serde_json::{Value, json};

/// Half precision keeps 11 bits of logits and curves, and between the nodes (T = 3.5) the
/// interpolation adds its own: the largest difference measured is 2.3e-4.
const TOLERANCE: f64 = 5e-4;
/// What the prior promises is an average, in which rounding cancels: measured, 3.4e-6.
const MEAN_TOLERANCE: f64 = 1e-5;

fn fixture() -> PathBuf {
    folder("v1")
}

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(version)
}

/// A cache of every version and layout, with the tail model that it was written with, and where it is kept.
fn versions() -> [(Synthetic, PathBuf); 11] {
    let kept = |(cache, name): (Synthetic, &str)| {
        let dir = folder(name);
        (cache.fitted_in(&dir), dir)
    };
    [
        (Synthetic::fixture(), "v1/cache"),
        (Synthetic::with_shape(), "v2/cache"),
        (Synthetic::packed(), "v3/packed/cache"),
        (Synthetic::lists(), "v3/lists/cache"),
        (Synthetic::anchors(), "v3/anchors/cache"),
        (Synthetic::grown(), "v4/steps/cache"),
        (Synthetic::sampled(), "v4/packed/cache"),
        (Synthetic::sampled_lists(), "v4/lists/cache"),
        (Synthetic::featured(), "v5/fixed/cache"),
        (Synthetic::featured_packed(), "v5/packed/cache"),
        (Synthetic::featured_lists(), "v5/lists/cache"),
    ]
    .map(kept)
}

/// Every file below `dir`, by its path in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn assert_is_the_fixture(dir: &Path, golden: &Path) {
    let (found, golden) = (files(dir), files(golden));
    assert_eq!(found.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    for (name, bytes) in &golden {
        assert!(found[name] == *bytes, "{name} is not the fixture's, byte by byte");
    }
}

#[test]
fn the_writer_gives_the_same_bytes() {
    for (cache, golden) in versions() {
        if std::env::var_os("KD_CACHE_WRITE_FIXTURE").is_some() && !golden.exists() {
            cache.write(&golden);
        }
        let dir = tempfile::tempdir().unwrap();
        cache.write(dir.path());
        assert_is_the_fixture(dir.path(), &golden);
    }
}

#[test]
fn an_interrupted_build_ends_in_the_same_bytes() {
    let cases = versions().into_iter().flat_map(|(cache, golden)| {
        let shards = cache.plan().expected_shards() as usize;
        (0..=shards).map(move |done| (done, shards, cache.clone(), golden.clone()))
    });
    for (done, shards, cache, golden) in cases {
        let extension = if cache.form == StorageForm::Parquet { "parquet" } else { "arrow" };
        let shard = |index: usize| format!("shards/{index:05}.{extension}");
        let dir = tempfile::tempdir().unwrap();
        let mut writer = cache.begin(dir.path());
        for shard in &cache.shards()[..done] {
            writer.commit_shard(shard).unwrap();
        }
        drop(writer);
        // What a crash leaves: a line cut short, a shard without a line, half a file.
        let journal = dir.path().join("build/shards.jsonl");
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        std::fs::write(&journal, text + "{\"file\":\"shards/0").unwrap();
        std::fs::write(dir.path().join(shard(done)), b"torn").unwrap();
        let half = dir.path().join(shard(shards - 1) + ".tmp");
        std::fs::write(&half, b"half").unwrap();
        let mut writer = cache.begin(dir.path());
        assert_eq!(writer.manifest().shards.len(), done, "committed shards are kept");
        for shard in &cache.shards()[done..] {
            writer.commit_shard(shard).unwrap();
        }
        writer.finish().unwrap();
        if done == shards {
            // Nothing wrote over what this test planted beside the last shard.
            std::fs::remove_file(dir.path().join(shard(done))).unwrap();
        }
        drop(std::fs::remove_file(&half));
        // A crash between the manifest and what is tidied up after it.
        std::fs::create_dir(dir.path().join("build")).unwrap();
        assert!(matches!(CacheWriter::open(dir.path(), cache.plan(), 3), Ok(Found::Complete(_))));
        assert_is_the_fixture(dir.path(), &golden);
    }
}

#[test]
fn the_fixtures_are_sound() {
    for (cache, golden) in versions() {
        let report = verify(&golden, &Silent).unwrap();
        assert!(report.sound && report.complete, "{:?}", report.damages);
        assert_eq!(report.rows, cache.samples);
    }
}

#[test]
fn packed_targets_become_the_lists_of_the_fixture() {
    for version in ["v3", "v4", "v5"] {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("lists");
        let from = folder(version).join("packed/cache");
        let settings = ConvertSettings {
            form: StorageForm::Parquet,
            values: None,
            step: None,
            step_growth: None,
            curve_step: None,
            level: 3,
        };
        convert(&from, &to, &settings, &AtomicBool::new(false), &Silent).unwrap();
        assert_is_the_fixture(&to, &folder(version).join("lists/cache"));
    }
}

/// Rows, and positions in them, whose targets stand in `expected.json`.
const PACKED: [(u64, usize); 7] = [(0, 0), (0, 3), (4, 6), (5, 0), (5, 1), (11, 3), (11, 6)];
const ANCHORS: [(u64, usize); 6] = [(0, 0), (0, 63), (0, 64), (0, 127), (0, 128), (0, 129)];

/// A cache's targets as they must come out of it: rounded to steps, and no shard between.
fn rounded(cache: &Synthetic) -> TargetBatch {
    let mut targets = cache.targets();
    // Draws are whole numbers as they are.
    let Some(Scale::Steps(steps)) = cache.plan().scale().unwrap() else { return targets };
    let quantised = steps.quantise(&targets);
    targets.values = quantised.values.iter().map(|s| steps.value_of(*s)).collect();
    targets.curve = quantised.curve.iter().map(|t| steps.curve_of(*t)).collect();
    targets.pad();
    targets
}

/// What `targets` are at several temperatures, by the reference; sampled ones at theirs.
fn expected(
    cache: &Synthetic,
    targets: &TargetBatch,
    model: Option<&TailModel>,
    places: &[(u64, usize)],
) -> Value {
    let nodes = cache.tail_nodes();
    let temperatures = cache.draws.map_or(vec![1.0, 3.5, 8.0], |(_, temperature)| vec![temperature]);
    let target_of = |(row, position): &(u64, usize)| {
        let index = *row as usize * cache.per_sample() as usize + position;
        let (ids, values, curve) = targets.row(index);
        let target = PositionTarget { classes: cache.classes, ids, values, nodes: &nodes, curve };
        let at = temperatures.iter().map(|temperature| {
            let t = Temperature::new(*temperature).unwrap();
            let decoded = target.decode(t);
            let at = model.map(|model| model.at(t));
            let log_weights =
                at.as_ref().and_then(|at| at.log_weights(TailHandling::Shape, targets.code(index)));
            let dense = target.dense(t, TailHandling::Shape, log_weights.as_deref());
            json!({
                "temperature": temperature,
                "probabilities": decoded.probabilities,
                "tail_mass": decoded.tail_mass,
                "dense": dense,
            })
        });
        json!({
            "row": row,
            "position": position,
            "head_ids": ids,
            "head_values": values.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>(),
            "tail_curve": curve.iter().map(|g| f64::from(*g)).collect::<Vec<f64>>(),
            "tail_code": targets.code(index),
            "at": at.collect::<Vec<Value>>(),
        })
    };
    let tokens: Vec<TokenRow> = (0..cache.samples).map(|sample| cache.tokens(sample)).collect();
    let mut document = json!({
        "samples": (0..cache.samples).collect::<Vec<u64>>(),
        "labels": cache.labelled.then(|| (0..cache.samples).map(|n| cache.label(n)).collect::<Vec<u32>>()),
        "tokens": tokens.iter().map(|row| &row.tokens).collect::<Vec<_>>(),
        "documents": tokens.iter().map(|row| &row.documents).collect::<Vec<_>>(),
        "targets": places.iter().map(target_of).collect::<Vec<Value>>(),
    });
    if !cache.features.is_empty() {
        let features = 0..cache.features.len();
        let features = features.map(|at| (Synthetic::feature_name(at), json!(rounded_vectors(cache, at))));
        document["features"] = features.collect::<serde_json::Map<String, Value>>().into();
    }
    document
}

/// A feature's vectors as they must come out of the cache, by the specification.
fn rounded_vectors(cache: &Synthetic, feature: usize) -> Vec<Vec<f64>> {
    let rounded = |vector: Vec<f32>| -> Vec<f64> {
        let (values, _) = cache.features[feature];
        if values == FeatureValues::F16 {
            return vector.into_iter().map(|x| f64::from(half::f16::from_f32(x).to_f32())).collect();
        }
        let largest = vector.iter().fold(0.0, |largest: f64, x| largest.max(f64::from(x.abs())));
        let scale = f64::from((largest / 127.0) as f32);
        let whole =
            |x: f32| if scale > 0.0 { (f64::from(x) / scale).round().clamp(-127.0, 127.0) } else { 0.0 };
        vector.into_iter().map(|x| f64::from((whole(x) * scale) as f32)).collect()
    };
    cache.vectors(feature).into_iter().map(rounded).collect()
}

#[test]
fn the_features_are_what_their_formula_says() {
    for (cache, golden) in versions().into_iter().filter(|(cache, _)| !cache.features.is_empty()) {
        let reader = CacheReader::open(&golden).unwrap();
        assert_eq!(reader.manifest().format_version, 5);
        let rows: Vec<u64> = (0..reader.rows()).rev().collect();
        for at in 0..cache.features.len() {
            let mut wanted = Vec::new();
            for row in &rows {
                let first = *row as usize * cache.per_sample() as usize;
                wanted
                    .extend(rounded_vectors(&cache, at)[first..first + cache.per_sample() as usize].concat());
            }
            let mut found = FeatureBatch::default();
            reader.gather_feature(at, &rows, &mut found).unwrap();
            assert_eq!(found.width, cache.features[at].1);
            assert_eq!(found.values.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>(), wanted, "{at}");
        }
    }
}

/// Two documents that are the same but for the last bits of numbers.
fn assert_near(found: &Value, wanted: &Value) {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
            wanted.iter().for_each(|(key, wanted)| assert_near(&found[key], wanted));
        }
        (Value::Array(found), Value::Array(wanted)) => {
            assert_eq!(found.len(), wanted.len());
            found.iter().zip(wanted).for_each(|(found, wanted)| assert_near(found, wanted));
        }
        (Value::Number(found), Value::Number(wanted)) => {
            let (found, wanted) = (found.as_f64().unwrap(), wanted.as_f64().unwrap());
            assert!((found - wanted).abs() <= 1e-12 * wanted.abs().max(1.0), "{found} is not {wanted}");
        }
        (found, wanted) => assert_eq!(found, wanted),
    }
}

#[test]
fn later_versions_decode_to_the_targets_rounded_to_whole_numbers() {
    for (cache, name, json, places) in [
        (Synthetic::packed(), "v3/packed/cache", "v3/packed/expected.json", PACKED.as_slice()),
        (Synthetic::lists(), "v3/lists/cache", "v3/packed/expected.json", &PACKED),
        (Synthetic::anchors(), "v3/anchors/cache", "v3/anchors/expected.json", &ANCHORS),
        (Synthetic::grown(), "v4/steps/cache", "v4/steps/expected.json", &PACKED),
        (Synthetic::sampled(), "v4/packed/cache", "v4/packed/expected.json", &PACKED),
        (Synthetic::sampled_lists(), "v4/lists/cache", "v4/packed/expected.json", &PACKED),
        (Synthetic::featured_packed(), "v5/packed/cache", "v5/packed/expected.json", &PACKED),
        (Synthetic::featured_lists(), "v5/lists/cache", "v5/packed/expected.json", &PACKED),
    ] {
        let cache = cache.fitted_in(&folder(name));
        let wanted = rounded(&cache);
        let json = folder(json);
        if std::env::var_os("KD_CACHE_WRITE_FIXTURE").is_some() && !json.exists() {
            let fitted = cache.fitted();
            let model = fitted.as_ref().map(|fitted| &fitted.model);
            let mut text = expected(&cache, &wanted, model, places).to_string();
            text = text.replace("},{\"row\"", "},\n{\"row\"") + "\n";
            std::fs::write(&json, text).unwrap();
        }
        let reader = CacheReader::open(&folder(name)).unwrap();
        assert_eq!(
            reader.manifest().format_version,
            match (cache.features.is_empty(), cache.draws.is_some() || cache.growth > 0.0) {
                (false, _) => 5,
                (true, true) => 4,
                (true, false) => 3,
            }
        );
        let mut targets = TargetBatch::default();
        reader.gather(&(0..cache.samples).collect::<Vec<u64>>(), &mut targets).unwrap();
        assert_eq!(targets, wanted, "{name}");
        let model = reader.tail_model();
        let document: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_near(&expected(&cache, &targets, model, places), &document);
        for sample in 0..cache.samples {
            assert_eq!(reader.tokens(sample).unwrap(), Some(cache.tokens(sample)));
        }
    }
}

/// The shape's promise is the prior's, with each position's own tail: every class's mean tail mass is
/// right; and it is nearer to the teacher than the prior is.
#[test]
fn the_shape_is_calibrated_and_nearer_than_the_prior() {
    let (cache, dir) = (Synthetic::with_shape(), tempfile::tempdir().unwrap());
    cache.write(dir.path());
    let reader = CacheReader::open(dir.path()).unwrap();
    let (manifest, logits) = (reader.manifest(), cache.logits());
    let mut targets = TargetBatch::default();
    reader.gather(&(0..12).collect::<Vec<u64>>(), &mut targets).unwrap();
    assert_eq!((targets.rank, targets.codes.len(), manifest.format_version), (2, 24, 2));
    assert_eq!(targets.codes, cache.targets().codes);
    for beta in manifest.tail.nodes.as_slice() {
        let t = Temperature::new(beta.recip()).unwrap();
        let model = reader.tail_model().unwrap().at(t);
        let mut square = [0.0; 2];
        let mut drift = vec![0.0; manifest.classes];
        for (row, z) in logits.chunks(manifest.classes).enumerate() {
            let (ids, values, curve) = targets.row(row);
            let nodes = &manifest.tail.nodes;
            let target = PositionTarget { classes: manifest.classes, ids, values, nodes, curve };
            let largest = z.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f64> = z.iter().map(|z| (beta * f64::from(z - largest)).exp()).collect();
            let sum: f64 = e.iter().sum();
            for (tail, square) in [TailHandling::Shape, TailHandling::Prior].into_iter().zip(&mut square) {
                let log_weights = model.log_weights(tail, targets.code(row));
                let p = target.dense(t, tail, log_weights.as_deref());
                for (class, (p, e)) in p.iter().zip(&e).enumerate() {
                    *square += (p - e / sum).powi(2);
                    if tail == TailHandling::Shape && !ids.contains(&(class as u32)) {
                        drift[class] += (p - e / sum) / 12.0;
                    }
                }
            }
        }
        assert!(square[0] < square[1], "β = {beta}: {square:?}");
        let drift: f64 = drift.iter().map(|d| d.abs()).sum();
        assert!(drift < 2e-3, "β = {beta}: {drift}");
    }
}

#[test]
fn the_reader_decodes_what_the_logits_give() {
    let reader = CacheReader::open(&fixture().join("cache")).unwrap();
    let expected = std::fs::read(fixture().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let numbers = |value: &Value| list(value).iter().map(|v| v.as_f64().unwrap()).collect::<Vec<f64>>();
    let manifest = reader.manifest();
    let rows: Vec<u64> = (0..reader.rows()).collect();
    let mut targets = TargetBatch::default();
    reader.gather(&rows, &mut targets).unwrap();
    let near = |what: String, found: f64, wanted: f64, tolerance: f64| {
        assert!((found - wanted).abs() <= tolerance, "{what}: expected {wanted}, found {found}");
    };

    for row in rows.iter().map(|row| *row as usize) {
        assert_eq!(reader.sample_id(row as u64).unwrap().0, expected["samples"][row].as_u64().unwrap());
        let label = reader.label(row as u64).unwrap().map(u64::from);
        assert_eq!(label, expected["labels"][row].as_u64());
        let (ids, values, _) = targets.row(row);
        let ids: Vec<u64> = ids.iter().map(|id| u64::from(*id)).collect();
        assert_eq!(
            ids,
            list(&expected["head_ids"][row]).iter().map(|v| v.as_u64().unwrap()).collect::<Vec<_>>()
        );
        for (found, wanted) in values.iter().zip(numbers(&expected["head_values"][row])) {
            near(format!("logit of row {row}"), f64::from(*found), wanted, 2f64.powi(-11) * wanted.abs());
        }
    }

    for at in list(&expected["at"]) {
        let t = Temperature::new(at["temperature"].as_f64().unwrap()).unwrap();
        let at_node = manifest.tail.nodes.as_slice().contains(&t.beta());
        let prior = reader.tail_model().unwrap().prior().at(t);
        let mut mean_tail = vec![0.0; manifest.classes];
        for row in 0..targets.rows {
            let (ids, values, curve) = targets.row(row);
            let nodes = &manifest.tail.nodes;
            let target = PositionTarget { classes: manifest.classes, ids, values, nodes, curve };
            let decoded = target.decode(t);
            let name = |what: &str| format!("{what} of row {row} at T = {}", t.get());
            for (found, wanted) in decoded.probabilities.iter().zip(numbers(&at["probabilities"][row])) {
                near(name("head"), *found, wanted, TOLERANCE);
            }
            near(name("tail mass"), decoded.tail_mass, at["tail_mass"][row].as_f64().unwrap(), TOLERANCE);
            let dense = target.dense(t, TailHandling::Prior, Some(&prior));
            near(name("sum"), dense.iter().sum(), 1.0, 1e-12);
            for (class, p) in dense.iter().enumerate().filter(|(class, _)| !ids.contains(&(*class as u32))) {
                mean_tail[class] += p / targets.rows as f64;
            }
        }
        if at_node {
            // The prior's promise: every class's tail mass is right on average.
            for (class, wanted) in numbers(&at["mean_tail_mass_by_class"]).into_iter().enumerate() {
                near(
                    format!("mean tail of class {class} at T = {}", t.get()),
                    mean_tail[class],
                    wanted,
                    MEAN_TOLERANCE,
                );
            }
        }
    }
}

#[test]
fn keys_of_tomorrow_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    Synthetic::fixture().write(dir.path());
    let path = dir.path().join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for pointer in ["", "/head", "/tail", "/storage", "/teacher", "/dataset", "/preprocess", "/shards/0"] {
        let object = manifest.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        object.insert("of_tomorrow".into(), 1.into());
    }
    std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    assert_eq!(CacheReader::open(dir.path()).unwrap().rows(), 12);
}
