//! Damaged caches: found by `verify`, refused by the reader, and never a panic.

use std::path::Path;
use std::sync::Arc;

use crate::common::kd_cache;
use crate::synthetic::Synthetic;
use kd_cache::cache::{CacheReader, Coding, ShardColumns, ShardReader};
use kd_cache::config::{FeatureValues, StorageForm, ValueEncoding};
use kd_cache::ids::SampleId;
use kd_cache::ops::{Silent, VerifyReport, verify};
use kd_cache::target::{FeatureBatch, TargetBatch};

/// Opens the cache and reads every row. What it finds may be an error; it must not be a panic.
fn read_everything(dir: &Path) {
    let Ok(reader) = CacheReader::open(dir) else { return };
    let mut out = TargetBatch::default();
    let mut vectors = FeatureBatch::default();
    for row in 0..reader.rows() {
        drop(reader.gather(&[row], &mut out));
        drop(reader.sample_id(row));
        drop(reader.label(row));
        drop(reader.tokens(row));
        for feature in 0..reader.manifest().features.len() {
            drop(reader.gather_feature(feature, &[row], &mut vectors));
        }
        drop(reader.row_of(SampleId(row), 0));
    }
}

fn problems(report: &VerifyReport) -> String {
    report.damages.iter().map(|damage| format!("{}: {}\n", damage.file, damage.problem)).collect()
}

/// A small cache of each layout, and the files that make it up.
fn layouts() -> Vec<(Synthetic, Vec<String>)> {
    let small = |form, values, sequence, variable| Synthetic {
        samples: 3,
        shard_samples: 3,
        form,
        values,
        sequence,
        variable,
        ..Synthetic::fixture()
    };
    let features = vec![(FeatureValues::F16, 2), (FeatureValues::I8, 3)];
    let with_features = |case: Synthetic| Synthetic { features: features.clone(), ..case };
    [
        small(StorageForm::Arrow, ValueEncoding::F16, 0, false),
        small(StorageForm::Arrow, ValueEncoding::F16, 3, true),
        small(StorageForm::Arrow, ValueEncoding::Quantized, 3, true),
        small(StorageForm::Parquet, ValueEncoding::Quantized, 3, true),
        with_features(small(StorageForm::Arrow, ValueEncoding::F16, 0, false)),
        with_features(small(StorageForm::Arrow, ValueEncoding::Quantized, 3, true)),
        with_features(small(StorageForm::Parquet, ValueEncoding::F16, 0, false)),
    ]
    .into_iter()
    .map(|case| {
        let mut files = vec![format!("shards/00000.{}", case.form), "tail_model.arrow".to_owned()];
        files.extend((case.values == ValueEncoding::Quantized).then(|| "codebook.arrow".to_owned()));
        (case, files)
    })
    .collect()
}

/// Every byte of the oldest layout, and of the others every eleventh, from another one on in each file.
fn places(case: &Synthetic, bytes: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let all = case.values == ValueEncoding::F16 && case.sequence == 0 && case.features.is_empty();
    (bytes.len() % 11 * usize::from(!all)..bytes.len()).step_by(if all { 1 } else { 11 })
}

#[test]
fn a_changed_byte_is_found() {
    for (case, files) in layouts() {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        assert!(verify(dir.path(), &Silent).unwrap().sound);
        for file in files {
            let path = dir.path().join(&file);
            let sound = std::fs::read(&path).unwrap();
            for at in places(&case, &sound) {
                for flip in [0x01, 0xff] {
                    let mut bytes = sound.clone();
                    bytes[at] ^= flip;
                    std::fs::write(&path, &bytes).unwrap();
                    let report = verify(dir.path(), &Silent).unwrap();
                    assert!(problems(&report).contains(&file), "byte {at} of {file} ^ {flip:#x}: not found");
                    read_everything(dir.path());
                }
            }
            std::fs::write(&path, &sound).unwrap();
        }
    }
}

/// Whoever removed sound shards for a damaged file beside them would lose what the teacher said.
#[test]
fn shards_are_not_blamed_for_what_lies_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().to_str().unwrap();
    Synthetic { values: ValueEncoding::Quantized, ..Synthetic::with_shape() }.write(dir.path());
    for file in ["codebook.arrow", "tail_model.arrow"] {
        let path = dir.path().join(file);
        let sound = std::fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        bytes[sound.len() / 2] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let report = verify(dir.path(), &Silent).unwrap();
        assert!(report.damages.iter().all(|damage| damage.file == file), "{:?}", report.damages);
        let said = kd_cache(&["verify", text]).code(1).out;
        assert!(
            said.contains("Keep the shards that are sound")
                && said.contains(file)
                && !said.contains("Remove"),
            "{said}"
        );
        std::fs::remove_file(&path).unwrap();
        let said = kd_cache(&["verify", text]).code(1).out;
        assert!(
            said.contains("Keep the shards that are sound")
                && said.contains(&format!("{file}: cannot be read")),
            "{said}"
        );
        std::fs::write(&path, &sound).unwrap();
    }
    kd_cache(&["verify", text]).code(0);
}

/// Students see samples through it, and what was edited is no longer what the teacher saw through.
#[test]
fn a_preprocessing_that_was_edited_is_found() {
    let dir = tempfile::tempdir().unwrap();
    Synthetic::fixture().write(dir.path());
    let path = dir.path().join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["preprocess"]["scale"] = 0.5.into();
    std::fs::write(&path, manifest.to_string()).unwrap();
    let report = verify(dir.path(), &Silent).unwrap();
    assert!(problems(&report).contains("preprocess"), "{:?}", report.damages);
    let error = CacheReader::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("preprocess") && error.contains("the digest of its keys"), "{error}");
}

/// A stranger's manifest does not move the cursor.
#[test]
fn escapes_of_a_manifest_are_written_out() {
    let dir = tempfile::tempdir().unwrap();
    Synthetic::fixture().write(dir.path());
    let path = dir.path().join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["teacher"]["file"] = "\u{1b}[31mteacher\u{7}".into();
    std::fs::write(&path, manifest.to_string()).unwrap();
    let text = dir.path().to_str().unwrap();
    let said = kd_cache(&["inspect", text]).code(0).out;
    assert!(said.contains("\\u{1b}[31mteacher\\u{7}") && !said.contains('\u{1b}'), "{said:?}");
    let json = kd_cache(&["inspect", text, "--format", "json"]).code(0).json();
    assert!(json.to_string().contains("teacher"));
}

/// What may not be read is not damaged, and nobody is told to remove it.
#[cfg(unix)]
#[test]
fn what_cannot_be_read_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = Synthetic::fixture().write(dir.path());
    let shard = dir.path().join(&manifest.shards[0].file);
    // A folder in its place is there and cannot be read, whoever asks.
    std::fs::remove_file(&shard).unwrap();
    std::fs::create_dir(&shard).unwrap();
    let said = kd_cache(&["verify", dir.path().to_str().unwrap()]).code(2);
    assert!(said.err.contains("cannot read") && !said.err.contains("Remove"), "{}", said.err);
}

#[test]
fn a_truncation_is_found() {
    for (case, files) in layouts() {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        for file in files {
            let path = dir.path().join(&file);
            let sound = std::fs::read(&path).unwrap();
            for len in places(&case, &sound) {
                std::fs::write(&path, &sound[..len]).unwrap();
                let report = verify(dir.path(), &Silent).unwrap();
                assert!(problems(&report).contains(&file), "{file} cut to {len} bytes: not found");
                read_everything(dir.path());
            }
            std::fs::write(&path, &sound).unwrap();
        }
    }
}

#[test]
fn no_byte_of_a_manifest_makes_a_reader_panic() {
    let dir = tempfile::tempdir().unwrap();
    Synthetic { samples: 3, shard_samples: 3, ..Synthetic::featured() }.write(dir.path());
    let path = dir.path().join("manifest.json");
    let sound = std::fs::read(&path).unwrap();
    for at in 0..sound.len() {
        for byte in [b'9', b'-', b'"', b'/', 0xff] {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            std::fs::write(&path, &bytes).unwrap();
            read_everything(dir.path());
            drop(verify(dir.path(), &Silent));
        }
    }
}

#[test]
fn a_journal_is_believed_no_more_than_a_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Synthetic { samples: 12, shard_samples: 3, ..Synthetic::fixture() };
    let mut writer = cache.begin(dir.path());
    for shard in &cache.shards()[..2] {
        writer.commit_shard(shard).unwrap();
    }
    drop(writer);
    assert_eq!(CacheReader::open_partial(dir.path()).unwrap().rows(), 6);
    let path = dir.path().join("build/shards.jsonl");
    let sound = std::fs::read_to_string(&path).unwrap();
    for (from, to, named) in [
        ("shards/00001.arrow", "/dev/zero", "shards[1].file"),
        ("shards/00001.arrow", "../elsewhere", "shards[1].file"),
        ("\"first_sample\":3", "\"first_sample\":18446744073709551615", "shards[1]"),
    ] {
        let text = sound.replace(from, to);
        assert_ne!(text, sound);
        std::fs::write(&path, text).unwrap();
        let error = CacheReader::open_partial(dir.path()).unwrap_err().to_string();
        assert!(error.contains("shards.jsonl") && error.contains(named), "{error}");
        let report = verify(dir.path(), &Silent).unwrap();
        assert!(!report.sound);
        assert_eq!(report.damages[0].file, "build/shards.jsonl");
    }
}

/// Of packed shards no column is as long as k says, and what makes room for them does so before it reads any.
#[test]
fn no_manifest_makes_a_reader_ask_for_more_memory_than_its_bits_can_fill() {
    for cache in [Synthetic::packed(), Synthetic { variable: false, ..Synthetic::packed() }] {
        let dir = tempfile::tempdir().unwrap();
        let manifest = cache.write(dir.path());
        let coding = Arc::new(Coding::read(dir.path(), &manifest).unwrap());
        let open = |k: usize| {
            let columns = ShardColumns { k, ..manifest.columns() };
            ShardReader::open(dir.path(), &manifest.shards[0], &columns, &coding).map(drop)
        };
        open(cache.k).unwrap();
        if cache.variable {
            let path = dir.path().join("manifest.json");
            let text = std::fs::read_to_string(&path).unwrap();
            let mut lying: serde_json::Value = serde_json::from_str(&text).unwrap();
            lying["head"]["k"] = 70_000.into();
            lying["classes"] = 80_000.into();
            std::fs::write(&path, lying.to_string()).unwrap();
            let error = CacheReader::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("head.k") && error.contains("65535"), "{error}");
        } else {
            let error = open(1 << 31).unwrap_err().to_string();
            assert!(error.contains("00000.arrow") && error.contains("bits"), "{error}");
        }
    }
}

#[test]
fn a_missing_shard_is_named_when_shards_are_opened_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    Synthetic { samples: 12, shard_samples: 3, ..Synthetic::fixture() }.write(dir.path());
    std::fs::remove_file(dir.path().join("shards/00002.arrow")).unwrap();
    let reader = CacheReader::open(dir.path()).unwrap();
    reader.open_shards_of(&[11, 0, 5, 1]).unwrap();
    let error = reader.open_shards_of(&[0, 8, 10]).unwrap_err().to_string();
    assert!(error.contains("00002.arrow"), "{error}");
}
