//! One cache in every form: what is written comes back, and forms turn into each other without loss.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::common::kd_cache;
use crate::synthetic::Synthetic;
use kd_cache::cache::{CacheReader, TokenRow};
use kd_cache::config::{StorageForm, ValueEncoding};
use kd_cache::ops::{ConvertSettings, Silent, convert, verify};
use kd_cache::target::{FeatureBatch, TargetBatch};

const VALUES: [ValueEncoding; 3] = [ValueEncoding::F16, ValueEncoding::F32, ValueEncoding::Quantized];
const FORMS: [StorageForm; 2] = [StorageForm::Arrow, StorageForm::Parquet];

/// Every kind of row there is, in every form.
fn all() -> Vec<Synthetic> {
    let mut all = Vec::new();
    for form in FORMS {
        for values in VALUES {
            for (sequence, variable, rank) in [(0, false, 0), (0, true, 2), (7, false, 2), (130, true, 0)] {
                let cache = if rank > 0 { Synthetic::featured() } else { Synthetic::fixture() };
                all.push(Synthetic { form, values, sequence, variable, rank, ..cache });
            }
            all.push(Synthetic { form, values, k: 20, ..Synthetic::featured() });
        }
    }
    all
}

/// All rows of a cache: targets, labels, tokens, features.
type Contents = (TargetBatch, Vec<Option<u32>>, Vec<Option<TokenRow>>, Vec<FeatureBatch>);

fn contents(dir: &Path) -> Contents {
    let reader = CacheReader::open(dir).unwrap();
    let rows: Vec<u64> = (0..reader.rows()).collect();
    let mut targets = TargetBatch::default();
    reader.gather(&rows, &mut targets).unwrap();
    let labels = rows.iter().map(|row| reader.label(*row).unwrap()).collect();
    let tokens = rows.iter().map(|row| reader.tokens(*row).unwrap()).collect();
    let vectors = |feature| {
        let mut vectors = FeatureBatch::default();
        reader.gather_feature(feature, &rows, &mut vectors).unwrap();
        vectors
    };
    let features = (0..reader.manifest().features.len()).map(vectors).collect();
    (targets, labels, tokens, features)
}

#[test]
fn what_is_written_is_read_and_verified() {
    for case in all() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let manifest = case.write(&cache);
        let (targets, labels, tokens, _) = contents(&cache);
        let expected = case.targets();
        assert_eq!(targets.rows as u64, manifest.positions, "{case:?}");
        assert_eq!((&targets.ids, &targets.counts), (&expected.ids, &expected.counts), "{case:?}");
        assert_eq!(targets.codes, expected.codes, "{case:?}");
        // Half a step of 1/8 and 1/16, or half precision's 11 bits.
        let off = |found: &[f32], expected: &[f32], step: f32| {
            found
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() <= (step / 2.0).max(b.abs() / 2048.0) + 1e-5)
        };
        assert!(
            off(&targets.values, &expected.values, 0.125) && off(&targets.curve, &expected.curve, 0.0625)
        );
        assert_eq!(labels, (0..12).map(|n| Some(case.label(n))).collect::<Vec<_>>());
        let made_of = |n| (case.sequence > 0).then(|| case.tokens(n));
        assert_eq!(tokens, (0..12).map(made_of).collect::<Vec<_>>(), "{case:?}");
        let report = verify(&cache, &Silent).unwrap();
        assert!(report.sound, "{case:?}: {:?}", report.damages);
    }
}

#[test]
fn rows_are_gathered_in_any_order() {
    for case in all() {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let reader = CacheReader::open(dir.path()).unwrap();
        let (whole, ..) = contents(dir.path());
        let mut some = TargetBatch::default();
        reader.gather(&[11, 0, 5, 5], &mut some).unwrap();
        let per_sample = case.per_sample() as usize;
        for (at, row) in [11, 0, 5, 5].into_iter().enumerate() {
            for position in 0..per_sample {
                let (found, expected) = (at * per_sample + position, row * per_sample + position);
                assert_eq!(some.row(found), whole.row(expected), "{case:?}");
                assert_eq!(some.code(found), whole.code(expected), "{case:?}");
            }
        }
    }
}

#[test]
fn forms_turn_into_each_other_without_loss() {
    for case in all() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["there", "again", "back"].map(|name| dir.path().join(name));
        case.write(&paths[0]);
        let expected = contents(&paths[0]);
        let other = FORMS[usize::from(case.form == FORMS[0])];
        for (from, to, form) in [(0, 1, other), (1, 2, case.form)] {
            let settings = ConvertSettings {
                form,
                values: None,
                step: None,
                step_growth: None,
                curve_step: None,
                level: 3,
            };
            let done =
                convert(&paths[from], &paths[to], &settings, &AtomicBool::new(false), &Silent).unwrap();
            assert!(done.lossless && done.complete);
            assert_eq!(contents(&paths[to]), expected, "{case:?}");
            assert!(verify(&paths[to], &Silent).unwrap().sound, "{case:?}");
        }
        // There and back is where it began, byte for byte.
        for file in walk(&paths[0]) {
            assert_eq!(
                std::fs::read(paths[2].join(&file)).unwrap(),
                std::fs::read(paths[0].join(&file)).unwrap()
            );
        }
        assert_eq!(walk(&paths[0]), walk(&paths[2]));
    }
}

/// The files of a cache.
fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for folder in [dir.to_owned(), dir.join("shards")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.push(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

/// A tail all of whose logits are the head's lowest is as heavy as one may be: rounded, its curve is above what it may be by
/// no more than rounding explains, whatever it is kept as afterwards.
#[test]
fn what_was_half_precision_once_is_sound_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let cache = Synthetic::fixture();
    let mut writer = cache.begin(&from);
    let (mut place, tail) = (0, (cache.classes - cache.k) as f32);
    for mut shard in cache.shards() {
        let targets = &mut shard.targets;
        let heads = targets.values.chunks_exact_mut(targets.k);
        for (head, curve) in heads.zip(targets.curve.chunks_exact_mut(targets.nodes)) {
            let lowest = -9.0 - 0.37 * place as f32;
            head[1..].fill(lowest);
            for (g, beta) in curve.iter_mut().zip(&cache.nodes) {
                *g = tail.ln() + *beta as f32 * lowest;
            }
            place += 1;
        }
        writer.commit_shard(&shard).unwrap();
    }
    writer.finish().unwrap();
    assert!(verify(&from, &Silent).unwrap().sound);
    for (values, lossless) in [(ValueEncoding::F32, true), (ValueEncoding::Quantized, false)] {
        let to = dir.path().join(values.as_str());
        let settings = ConvertSettings {
            form: StorageForm::Arrow,
            values: Some(values),
            step: (!lossless).then_some(0.002),
            step_growth: (!lossless).then_some(0.0),
            curve_step: (!lossless).then_some(0.002),
            level: 3,
        };
        let done = convert(&from, &to, &settings, &AtomicBool::new(false), &Silent).unwrap();
        assert_eq!(done.lossless, lossless);
        let report = verify(&to, &Silent).unwrap();
        assert!(report.sound, "{values:?}: {:?}", report.damages);
        assert!(!lossless || contents(&to) == contents(&from));
    }
}

#[test]
fn floats_become_steps_on_request_and_floats_again() {
    let dir = tempfile::tempdir().unwrap();
    let [floats, steps, back] = ["floats", "steps", "back"].map(|name| dir.path().join(name));
    Synthetic::with_shape().write(&floats);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let args = |from: &Path, to: &Path, more: &[&str]| {
        let mut args = vec!["convert".to_owned(), text(from), text(to), "--form".into(), "arrow".into()];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args
    };
    let done = kd_cache(&args(
        &floats,
        &steps,
        &["--values", "quantized", "--step", "0.25", "--step-growth", "0", "--format", "json"],
    ));
    let json = done.code(0).json();
    assert_eq!(json["lossless"], false);
    let (before, after) = (contents(&floats).0, contents(&steps).0);
    let worst = before.values.iter().zip(&after.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst > 0.01 && worst < 0.13, "{worst}");
    // Back again, to what the steps are read as: to the bit, or to half precision.
    for (values, lossless) in [("f32", true), ("f16", false)] {
        let to = dir.path().join(values);
        let json = kd_cache(&args(&steps, &to, &["--values", values, "--format", "json"])).code(0).json();
        assert_eq!(json["lossless"], lossless);
        assert!(verify(&to, &Silent).unwrap().sound);
        let again = contents(&to).0;
        let worst = after.values.iter().zip(&again.values).map(|(a, b)| (a - b).abs() / a.abs().max(1e-6));
        let worst = worst.fold(0.0, f32::max);
        assert!(worst <= if lossless { 0.0 } else { 5e-4 }, "{values}: {worst}");
        assert!(!lossless || again == after);
    }
    kd_cache(&args(&steps, &steps.join("shards/again"), &[])).refused(&["outside of the cache", "steps"]);
    kd_cache(&args(&floats, &back, &["--values", "quantized", "--step", "9"]))
        .refused(&["--step", "found 9"]);
    kd_cache(&args(&floats, &back, &["--values", "quantized", "--step-growth", "2"]))
        .refused(&["--step-growth", "found 2"]);
    // Steps of what is not to become any, or has some, would be left aside.
    for (from, more) in
        [(&steps, &["--values", "quantized", "--step", "0.1"][..]), (&floats, &["--curve-step", "0.1"])]
    {
        kd_cache(&args(from, &back, more)).refused(&[
            more[more.len() - 2],
            "--values quantized",
            "leave it out",
        ]);
    }
    assert!(!back.exists());
}

/// What is damaged would have a digest of its own from then on.
#[test]
fn damage_is_not_converted() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let manifest = Synthetic { values: ValueEncoding::F32, ..Synthetic::with_shape() }.write(&from);
    for file in [manifest.shards[1].file.as_str(), "tail_model.arrow"] {
        let whole = std::fs::read(from.join(file)).unwrap();
        // The lowest bit of a number somewhere in the midst: nothing else than the digest tells.
        let mut bytes = whole.clone();
        let at = whole.len() / 2 / 64 * 64;
        bytes[at] ^= 1;
        std::fs::write(from.join(file), bytes).unwrap();
        let to = dir.path().join(file.replace('/', "-"));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        kd_cache(&["convert".to_owned(), text(&from), text(&to), "--form".into(), "parquet".into()])
            .refused(&[file, "content: expected sha256:"]);
        std::fs::write(from.join(file), whole).unwrap();
    }
}

#[test]
fn an_interrupted_conversion_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, whole] = ["from", "to", "whole"].map(|name| dir.path().join(name));
    Synthetic { values: ValueEncoding::Quantized, ..Synthetic::with_shape() }.write(&from);
    let settings = ConvertSettings {
        form: StorageForm::Parquet,
        values: None,
        step: None,
        step_growth: None,
        curve_step: None,
        level: 3,
    };
    let stopped = convert(&from, &to, &settings, &AtomicBool::new(true), &Silent).unwrap();
    assert!(!stopped.complete);
    assert!(CacheReader::open(&to).is_err());
    assert!(convert(&from, &to, &settings, &AtomicBool::new(false), &Silent).unwrap().complete);
    convert(&from, &whole, &settings, &AtomicBool::new(false), &Silent).unwrap();
    for file in walk(&whole) {
        assert_eq!(std::fs::read(whole.join(&file)).unwrap(), std::fs::read(to.join(&file)).unwrap());
    }
}
