//! Sampled targets (`head.draws`), from the config to the student. The built programs.

#![cfg(feature = "onnx")]

use std::path::PathBuf;

use crate::common::{build, cache_config, files, kd_cache, write};
use serde_json::{Value, json};

/// 50 draws at T = 2, in place of the config's head.
const DRAWS: &str = "head={ draws = 50, temperature = 2.0 }";

/// A folder with a config of the training slice.
struct Case {
    dir: tempfile::TempDir,
    config: PathBuf,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = cache_config(dir.path(), "linear.onnx");
        Self { dir, config }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A cache that has been verified.
    fn built(&self, name: &str, set: &[&str]) -> PathBuf {
        let out = self.out(name);
        build(&self.config, &out, set).code(0);
        kd_cache(&args!["verify", out, "--quiet"]).code(0);
        out
    }

    fn fidelity(&self, cache: &PathBuf) -> Value {
        let report = kd_cache(&args![
            "fidelity",
            cache,
            "--config",
            self.config,
            "--samples",
            "512",
            "--format",
            "json",
            "--quiet"
        ]);
        report.code(0).json()
    }
}

#[test]
fn draws_are_right_on_average_at_their_temperature() {
    let case = Case::new();
    let sampled = case.built("sampled", &[DRAWS]);
    let inspected = kd_cache(&args!["inspect", sampled, "--format", "json"]).code(0).json();
    assert_eq!((&inspected["draws"], &inspected["temperature"]), (&json!(50), &json!(2.0)));
    assert_eq!((&inspected["k"], &inspected["format_version"]), (&json!(10), &json!(4)));
    assert!(inspected["nodes"].as_array().unwrap().is_empty());
    let text = kd_cache(&args!["inspect", sampled]).code(0).out;
    assert!(text.contains("50 draws at T = 2"), "{text}");

    let report = case.fidelity(&sampled);
    let [row] = report["rows"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!((&row["temperature"], &row["tail"]), (&json!(2.0), &json!("renormalize")));
    // 512 positions of 50 draws: about √(p(1 − p) / 25,600) for each of ten classes, 0.02 in all.
    assert!(row["drift"].as_f64().unwrap() < 0.06, "{row}");
    // Each alone is off by about √(Σ p(1 − p) / 50).
    assert!(row["rms"].as_f64().unwrap() < 0.14, "{row}");

    // The same seed gives the same draws, another seed others.
    let [again, other] = [case.built("again", &[DRAWS]), case.built("other", &[DRAWS, "seed=8"])];
    let shard = |cache: &PathBuf| files(cache)["shards/00000.arrow"].clone();
    assert_eq!(files(&sampled), files(&again));
    assert_ne!(shard(&sampled), shard(&other));
}

#[test]
fn another_temperature_is_refused_by_name() {
    let case = Case::new();
    let cache = case.built("sampled", &[DRAWS]);
    let words = ["temperature 4", "drawn at temperature 2", "head.temperature = 4", "head.k"];
    kd_cache(&args!["show", cache, "--sample", "3", "--temperature", "4"]).refused(&words);
    kd_cache(&args!["fidelity", cache, "--config", case.config, "--temperatures", "2,4"]).refused(&words);
    let out = case.out("rows.jsonl");
    kd_cache(&args!["export", cache, "--to", "jsonl", "--out", out, "--temperature", "4"]).refused(&words);

    // Without one it is that of the draws.
    let shown = kd_cache(&args!["show", cache, "--sample", "3", "--format", "json"]).code(0).json();
    let probabilities: Vec<f64> =
        shown["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
    assert_eq!((&shown["temperature"], &shown["tail_mass"]), (&json!(2.0), &json!(0.0)));
    for p in probabilities {
        assert!((p * 50.0 - (p * 50.0).round()).abs() < 1e-5, "{p} is no multiple of 1/50");
    }
    kd_cache(&args!["report", cache, "--out", case.out("page.html"), "--quiet"]).code(0);
}

/// What is converted, and exported, is what was drawn.
#[test]
fn draws_survive_conversion_and_export() {
    let case = Case::new();
    let arrow = case.built("arrow", &[DRAWS]);
    let [parquet, back] = ["parquet", "back"].map(|name| case.out(name));
    for (from, to, form) in [(&arrow, &parquet, "parquet"), (&parquet, &back, "arrow")] {
        let done = kd_cache(&args!["convert", from, to, "--form", form, "--quiet", "--format", "json"]);
        assert_eq!(done.code(0).json()["lossless"], json!(true));
        kd_cache(&args!["verify", to, "--quiet"]).code(0);
    }
    assert_eq!(files(&arrow), files(&back));
    let built = case.built("built", &[DRAWS, "storage.form=parquet"]);
    assert_eq!(files(&built), files(&parquet));
    let rows = [&arrow, &parquet]
        .map(|cache| kd_cache(&args!["export", cache, "--to", "jsonl", "--out", "-", "--quiet"]).code(0).out);
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0].lines().count(), 512);
    kd_cache(&args!["export", arrow, "--to", "npz", "--out", case.out("a.npz"), "--quiet"]).code(0);
    kd_cache(&args!["convert", arrow, case.out("floats"), "--form", "arrow", "--values", "f32"])
        .refused(&["--values f32", "counts"]);
}

#[test]
fn settings_that_do_not_go_with_draws_are_refused_together() {
    let case = Case::new();
    let refused = |set: &[&str], words: &[&str]| {
        build(&case.config, &case.out("none"), set).refused(words);
    };
    refused(&["head.draws=50"], &["head", "either k, mass or draws", "k and draws"]);
    refused(&["head.temperature=2"], &["head.temperature", "draws"]);
    refused(&[DRAWS, "tail.rank=2", "storage.values=f16"], &["tail.rank", "storage.values", "draws"]);
    refused(&["storage.values=counts"], &["storage.values", "head.draws"]);
    refused(&["head={ draws = 0 }"], &["head.draws", "1"]);
    refused(&["head={ draws = 5, temperature = 0.0 }"], &["head.temperature"]);
}

/// Numbers that cannot be draws are damage, whichever form they are in.
#[test]
fn a_shard_with_other_sums_is_damaged() {
    let case = Case::new();
    let cache = case.built("sampled", &[DRAWS]);
    let path = cache.join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    write(&cache, "manifest.json", &text.replacen("\"draws\": 50", "\"draws\": 51", 1));
    let said = kd_cache(&args!["verify", cache, "--quiet", "--format", "json"]).code(1);
    assert!(said.out.contains("sum to 51"), "{}", said.out);
}

#[test]
fn a_plan_has_the_one_size_there_is() {
    let case = Case::new();
    let plan = kd_cache(&args![
        "plan",
        "--config",
        case.config,
        "--set",
        DRAWS,
        "--batches",
        "1",
        "--quiet",
        "--format",
        "json"
    ]);
    let plan = plan.code(0).json();
    let [size] = plan["sizes"].as_array().unwrap().as_slice() else { panic!("{plan}") };
    assert_eq!((&size["k"], &size["configured"]), (&json!(10), &json!(true)));
    let cache = case.built("sampled", &[DRAWS, "storage.shard_samples=512"]);
    let found = files(&cache)["shards/00000.arrow"].len() as f64 / 512.0;
    let planned = size["bytes_per_position"].as_f64().unwrap();
    // 32 samples say how the 512 are; what a file has beside its rows is the rest.
    assert!((planned - found).abs() < 0.3 * found, "{planned} planned, {found} found");
}

#[cfg(feature = "torch")]
mod training {
    use super::*;
    use crate::common::{kd_train, train_config};

    #[test]
    fn students_learn_at_the_draws_temperature_and_no_other() {
        let case = Case::new();
        let cache = case.built("sampled", &[DRAWS]);
        let config = train_config(case.dir.path());
        let run = |name: &str, set: &[&str]| {
            let mut args =
                args!["--config", config, "--cache", cache, "--out", case.out(name), "--quiet"].to_vec();
            args.extend(args!["--format", "json"]);
            for set in set {
                args.extend(args!["--set", set]);
            }
            kd_train(&args)
        };
        run("other", &["loss.temperature=4"]).refused(&["loss.temperature", "drawn at temperature 2"]);
        for term in ["logit_mse", "logit_cosine"] {
            run("logits", &[&format!("loss.weights={{ {term} = 1.0 }}")])
                .refused(&[&format!("loss.weights.{term} compares logits"), "draws"]);
        }
        run("reverse", &["loss.weights={ reverse_kl = 1.0 }"]).refused(&["reverse_kl", "mass"]);
        let report = run("run", &["loss.weights={ kl = 1.0 }", "train.epochs=20"]).code(0).json();
        let accuracy = report["validation"]["test"]["accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.6, "{report}");
        let validation = format!("validation.test.cache={}", cache.display());
        let images = "validation.test.dataset={ kind = \"idx\", images = \"IMAGES\", labels = \"LABELS\" }"
            .replace(
                "IMAGES",
                crate::common::fixture("fashion-mnist/train-images-idx3-ubyte.gz").to_str().unwrap(),
            )
            .replace(
                "LABELS",
                crate::common::fixture("fashion-mnist/train-labels-idx1-ubyte.gz").to_str().unwrap(),
            );
        run("measured", &[&validation, &images]).refused(&["validation.test.cache", "50 draws", "head.k"]);
    }
}
