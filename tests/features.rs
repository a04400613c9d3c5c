//! Features of a teacher: from its further outputs to a cache, and into every form of it.

#![cfg(all(unix, feature = "onnx", feature = "torch"))]

use std::path::{Path, PathBuf};

use crate::common::{build, cache_config, files, kd_cache, lines, targets, write};
use kd_cache::cache::CacheReader;
use kd_cache::config::CacheConfig;
use kd_cache::dataset::open_images;
use kd_cache::ids::SampleId;
use kd_cache::target::FeatureBatch;
use serde_json::{Value, json};

/// Writes the config of a cache with `features` after it.
pub(crate) fn config(dir: &Path, teacher: &str, features: &str) -> PathBuf {
    let path = cache_config(dir, teacher);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n{features}")).unwrap();
    path
}

/// All that `features.onnx` gives, in every way it is kept.
pub(crate) const CELLS: &str = r#"
[[features]]
name = "cells"
output = "cells"
[[features]]
name = "small"
output = "cells"
values = "i8"
[[features]]
name = "rows"
output = "rows"
pool = "mean"
"#;

/// All vectors of a feature.
pub(crate) fn vectors(cache: &Path, name: &str) -> FeatureBatch {
    let reader = CacheReader::open(cache).unwrap();
    let at = reader.manifest().features.iter().position(|feature| feature.name == name).unwrap();
    let mut out = FeatureBatch::default();
    reader.gather_feature(at, &(0..reader.rows()).collect::<Vec<u64>>(), &mut out).unwrap();
    out
}

/// What the teacher's `cells` are of a sample: means of 4×4 pixels, from 0 to 1.
fn cells(bytes: &[u8]) -> Vec<f64> {
    let cell = |at: usize| {
        let (y, x) = (at / 7 * 4, at % 7 * 4);
        let pixels = (0..16).map(|p| f64::from(bytes[(y + p / 4) * 28 + x + p % 4]));
        pixels.sum::<f64>() / 16.0 / 255.0
    };
    (0..49).map(cell).collect()
}

#[test]
fn features_are_the_teachers_and_the_logits_stay_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "features.onnx", CELLS);
    let cache = dir.path().join("cache");
    let report = build(&path, &cache, &[]).code(0).json();
    assert_eq!(report["cache"]["format_version"], 5);
    assert_eq!(
        report["cache"]["features"],
        json!([
            { "name": "cells", "output": "cells", "values": "f16", "width": 49 },
            { "name": "small", "output": "cells", "values": "i8", "width": 49 },
            { "name": "rows", "output": "rows", "values": "f16", "pool": "mean", "width": 7 },
        ])
    );
    kd_cache(&args!["verify", cache]).code(0);
    let said = kd_cache(&args!["inspect", cache]).code(0).out;
    assert!(said.contains("feature      small: 49 numbers, i8, of output cells"), "{said}");

    let loaded: CacheConfig = kd_cache::config::load(&path, &[]).unwrap();
    let dataset = open_images(&loaded.dataset, "dataset").unwrap();
    let (whole, small, rows) = (vectors(&cache, "cells"), vectors(&cache, "small"), vectors(&cache, "rows"));
    assert_eq!((whole.rows(), whole.width, rows.width), (512, 49, 7));
    for sample in 0..512 {
        let wanted = cells(&dataset.sample(SampleId(sample as u64)).unwrap().bytes);
        let largest = wanted.iter().fold(0f64, |a, b| a.max(*b));
        for (at, wanted) in wanted.iter().enumerate() {
            let off = |found: f32| (f64::from(found) - wanted).abs();
            assert!(off(whole.row(sample)[at]) <= wanted / 2048.0 + 1e-6, "sample {sample}, cell {at}");
            assert!(off(small.row(sample)[at]) <= largest / 254.0 + 1e-6, "sample {sample}, cell {at}");
        }
        for (row, found) in rows.row(sample).iter().enumerate() {
            let wanted = wanted[row * 7..(row + 1) * 7].iter().sum::<f64>() / 7.0;
            assert!(
                (f64::from(*found) - wanted).abs() <= wanted / 2048.0 + 1e-6,
                "sample {sample}, row {row}"
            );
        }
    }

    // The same targets as without, and a cache without is of the version it was before.
    let bare = dir.path().join("bare");
    let report = build(&cache_config(dir.path(), "linear.onnx"), &bare, &[]).code(0).json();
    assert_eq!((&report["cache"]["format_version"], report["cache"].get("features")), (&json!(1), None));
    assert_eq!(targets(&cache).ids, targets(&bare).ids);
}

#[test]
fn torchscript_gives_features_by_place_and_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let built = |name: &str, teacher: &str, features: &str, set: &[&str]| {
        let out = dir.path().join(name);
        build(&config(dir.path(), teacher, features), &out, set).code(0);
        out
    };
    let onnx = built("onnx", "features.onnx", CELLS, &[]);
    let keys = built("keys", "parts.pt", CELLS, &["teacher.output=logits"]);
    let of_place = "[[features]]\nname = \"cells\"\noutput = \"0\"\n";
    // Of two results the logits are the one that is no feature.
    let places = built("places", "pair.pt", of_place, &[]);
    let near = |a: &FeatureBatch, b: &FeatureBatch| {
        assert_eq!((a.width, a.values.len()), (b.width, b.values.len()));
        let off = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(off < 1e-3, "{off}");
    };
    for name in ["cells", "rows"] {
        near(&vectors(&keys, name), &vectors(&onnx, name));
    }
    near(&vectors(&places, "cells"), &vectors(&onnx, "cells"));
    assert_eq!(targets(&places).ids, targets(&onnx).ids);
    assert_eq!(targets(&keys).ids, targets(&onnx).ids);
    let refused = |teacher: &str, features: &str, words: &[&str]| {
        build(&config(dir.path(), teacher, features), &dir.path().join("no"), &[]).refused(words);
    };
    refused("pair.pt", "[[features]]\nname = \"f\"\noutput = \"2\"", &["features.f.output", "\"2\"", "0, 1"]);
    refused("parts.pt", of_place, &["features", "cells, rows, logits"]);
}

#[test]
fn every_form_keeps_features_and_turns_into_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "features.onnx", CELLS);
    let (arrow, parquet, back) =
        (dir.path().join("arrow"), dir.path().join("parquet"), dir.path().join("back"));
    build(&path, &arrow, &["tail.rank=2"]).code(0);
    for (from, to, form) in [(&arrow, &parquet, "parquet"), (&parquet, &back, "arrow")] {
        kd_cache(&args!["convert", from, to, "--form", form, "--quiet"]).code(0);
        kd_cache(&args!["verify", to]).code(0);
    }
    assert_eq!(files(&arrow), files(&back));
    for name in ["cells", "small", "rows"] {
        assert_eq!(vectors(&arrow, name), vectors(&parquet, name));
    }

    // Exports: scales are applied in JSON, and stand beside whole numbers in the archive.
    let out = dir.path().join("rows.jsonl");
    let export = |form: &str, out: &Path| {
        kd_cache(&args!["export", parquet, "--to", form, "--out", out, "--format", "json"]).code(0).json()
    };
    let report = export("jsonl", &out);
    assert!(report["columns"].as_array().unwrap().contains(&json!("features")), "{report}");
    let small = vectors(&arrow, "small");
    for (row, line) in lines(&out).iter().enumerate().step_by(97) {
        let found: Vec<f32> = serde_json::from_value(line["features"]["small"].clone()).unwrap();
        assert_eq!(found, small.row(row));
    }
    let archive = dir.path().join("rows.npz");
    let report = export("npz", &archive);
    let columns = report["columns"].as_array().unwrap();
    for column in ["feature_cells", "feature_small", "scale_small", "feature_rows"] {
        assert!(columns.contains(&json!(column)), "{column}: {report}");
    }
    assert!(report["bytes"].as_u64().unwrap() > 512 * (49 * 2 + 49 + 4 + 7 * 2));

    // A plan knows what they cost.
    let plan = kd_cache(&args!["plan", "--config", path, "--batches", "1", "--format", "json", "--quiet"]);
    let plan = plan.code(0).json();
    let size =
        plan["sizes"].as_array().unwrap().iter().find(|size| size["configured"] == true).unwrap().clone();
    let bare = cache_config(dir.path(), "linear.onnx");
    let bare = kd_cache(&args!["plan", "--config", bare, "--batches", "1", "--format", "json", "--quiet"]);
    let bare = bare.code(0).json();
    let bare =
        bare["sizes"].as_array().unwrap().iter().find(|size| size["configured"] == true).unwrap().clone();
    let per_position = |size: &Value| size["bytes_per_position"].as_f64().unwrap();
    assert_eq!(per_position(&size) - per_position(&bare), (49 * 2 + 49 + 4 + 7 * 2) as f64);
}

#[test]
fn what_is_no_feature_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |features: &str, words: &[&str]| {
        let out = dir.path().join("refused");
        build(&config(dir.path(), "features.onnx", features), &out, &["teacher.output=logits"])
            .refused(words);
        assert!(!out.exists());
    };
    let one = |name: &str, output: &str, more: &str| {
        format!("[[features]]\nname = \"{name}\"\noutput = \"{output}\"\n{more}\n")
    };
    refused(
        &one("pooled", "pooled", ""),
        &["features.pooled.output", "no \"pooled\"", "logits, cells, rows", "among its outputs"],
    );
    refused(
        &one("rows", "rows", ""),
        &["features.rows", "[32, 7, 1, 7]", "pool = \"mean\"", "\"flatten\"", "expected a vector"],
    );
    refused(&one("rows", "rows", "pool = \"first\""), &["features.rows", "tokens, width"]);
    refused(&one("Pooled", "cells", ""), &["features[0].name", "\"Pooled\"", "letters a to z"]);
    refused(&(one("a", "cells", "") + &one("a", "rows", "")), &["features[1].name", "twice"]);
    refused(&one("a", "cells", "values = \"f8\""), &["features[0].values", "f16, i8"]);
    // Two outputs are left that could be the logits.
    let ambiguous = config(dir.path(), "features.onnx", &one("a", "cells", ""));
    build(&ambiguous, &dir.path().join("refused"), &[]).refused(&["teacher.output", "name one of them"]);
}

#[test]
fn a_build_goes_on_with_its_features() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), "features.onnx", CELLS);
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    build(&path, &whole, &[]).code(0);
    let fit = args!["build", "--config", path, "--out", parts, "--fit-only", "--quiet"];
    kd_cache(&fit).code(0);
    let changed = std::fs::read_to_string(&path).unwrap().replace("values = \"i8\"", "values = \"f16\"");
    let other = write(dir.path(), "other.toml", &changed);
    build(&other, &parts, &[]).refused(&["made with other settings", "features"]);
    build(&path, &parts, &[]).code(0);
    assert_eq!(files(&parts), files(&whole));
}
