//! Damaged caches: found by `verify`, refused by the reader, and never a panic.

#![allow(clippy::unwrap_used, reason = "test code")]

mod synthetic;

use std::path::Path;

use kd_cache::cache::CacheReader;
use kd_cache::ids::SampleId;
use kd_cache::ops::{Silent, VerifyReport, verify};
use kd_cache::target::TargetBatch;
use synthetic::Synthetic;

/// Opens the cache and reads every row. What it finds may be an error; it must not be a panic.
fn read_everything(dir: &Path) {
    let Ok(reader) = CacheReader::open(dir) else { return };
    let mut out = TargetBatch::default();
    for row in 0..reader.rows() {
        drop(reader.gather(&[row], &mut out));
        drop(reader.sample_id(row));
        drop(reader.label(row));
        drop(reader.row_of(SampleId(row)));
    }
}

fn problems(report: &VerifyReport) -> String {
    report.damages.iter().map(|damage| format!("{}: {}\n", damage.file, damage.problem)).collect()
}

#[test]
fn every_changed_byte_of_a_shard_and_of_the_tail_model_is_found() {
    let dir = tempfile::tempdir().unwrap();
    Synthetic { samples: 3, shard_samples: 3, ..Synthetic::fixture() }.write(dir.path());
    assert!(verify(dir.path(), &Silent).unwrap().sound);
    for file in ["shards/00000.arrow", "tail_model.arrow"] {
        let path = dir.path().join(file);
        let sound = std::fs::read(&path).unwrap();
        for at in 0..sound.len() {
            for flip in [0x01, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] ^= flip;
                std::fs::write(&path, &bytes).unwrap();
                let report = verify(dir.path(), &Silent).unwrap();
                assert!(problems(&report).contains(file), "byte {at} of {file} ^ {flip:#x}: not found");
                read_everything(dir.path());
            }
        }
        std::fs::write(&path, &sound).unwrap();
    }
}

#[test]
fn every_truncation_is_found() {
    let dir = tempfile::tempdir().unwrap();
    Synthetic { samples: 3, shard_samples: 3, ..Synthetic::fixture() }.write(dir.path());
    for file in ["shards/00000.arrow", "tail_model.arrow"] {
        let path = dir.path().join(file);
        let sound = std::fs::read(&path).unwrap();
        for len in 0..sound.len() {
            std::fs::write(&path, &sound[..len]).unwrap();
            let report = verify(dir.path(), &Silent).unwrap();
            assert!(problems(&report).contains(file), "{file} cut to {len} bytes: not found");
            read_everything(dir.path());
        }
        std::fs::write(&path, &sound).unwrap();
    }
}

#[test]
fn no_byte_of_a_manifest_makes_a_reader_panic() {
    let dir = tempfile::tempdir().unwrap();
    Synthetic { samples: 3, shard_samples: 3, ..Synthetic::fixture() }.write(dir.path());
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
