//! `tail.from`: several caches, one tail model. The built program.

#![cfg(feature = "onnx")]

use std::path::{Path, PathBuf};

use crate::common::{build, cache_config, files, fixture, kd_cache};
use serde_json::Value;

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

    fn built(&self, name: &str, set: &[&str]) -> PathBuf {
        let out = self.out(name);
        build(&self.config, &out, set).code(0);
        kd_cache(&args!["verify", out, "--quiet"]).code(0);
        out
    }
}

fn from(cache: &Path) -> String {
    format!("tail.from={}", cache.display())
}

/// The keys that turn the training slice into the test slice.
fn test_slice() -> [String; 2] {
    ["images", "labels"].map(|what| {
        let kind = if what == "images" { "images-idx3" } else { "labels-idx1" };
        let file = fixture(&format!("fashion-mnist/t10k-{kind}-ubyte.gz"));
        format!("dataset.{what}={}", file.display())
    })
}

fn manifest(cache: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(cache.join("manifest.json")).unwrap()).unwrap()
}

const KEPT_ONCE: [&str; 3] = ["tail_model.arrow", "encoder.arrow", "codebook.arrow"];

#[test]
fn the_same_samples_give_the_same_shards() {
    let case = Case::new();
    let shape = ["tail.rank=2", "storage.values=quantized"];
    let own = case.built("own", &shape);
    let taken = case.built("taken", &[&from(&own), "storage.values=quantized"]);
    let (own_files, taken_files) = (files(&own), files(&taken));
    assert_eq!(own_files.keys().collect::<Vec<_>>(), taken_files.keys().collect::<Vec<_>>());
    for (name, bytes) in own_files.iter().filter(|(name, _)| *name != "manifest.json") {
        assert!(bytes == &taken_files[name], "{name} differs");
    }
    let (own, taken) = (manifest(&own), manifest(&taken));
    assert_eq!(taken["tail"]["from"], own["tail"]["model"]["digest"]);
    assert!(own["tail"].get("from").is_none());
    // Nor does a plan count a sample that nobody asks about.
    let from = from(&case.out("own"));
    for (set, positions) in [(vec![from.as_str()], 0), (vec![&from, "storage.step=0.05"], 200), (vec![], 200)]
    {
        let mut args: Vec<std::ffi::OsString> =
            args!["plan", "--config", case.config, "--format", "json", "--quiet"].into();
        let set = set.into_iter().chain(["storage.values=quantized"]);
        args.extend(set.flat_map(|set| ["--set", set]).map(Into::into));
        let plan = kd_cache(&args).code(0).json();
        assert_eq!(plan["fit_samples"], positions, "{plan}");
        assert_eq!(plan["time"]["tail_model_hours"].as_f64().unwrap() > 0.0, positions > 0);
    }
}

#[test]
fn a_validation_set_takes_the_training_sets_tail_model() {
    let case = Case::new();
    let train = case.built("train", &["tail.rank=2", "storage.values=quantized"]);
    let [images, labels] = test_slice();
    let from = from(&train);
    let set = [from.as_str(), &images, &labels, "storage.values=quantized"];
    let validation = case.built("validation", &set);
    for name in KEPT_ONCE {
        let read = |cache: &Path| std::fs::read(cache.join(name)).unwrap();
        assert!(read(&train) == read(&validation), "{name} differs");
    }
    // What serves other samples is still better than the prior alone, and than nothing.
    let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    let mut fidelity: Vec<std::ffi::OsString> =
        args!["fidelity", validation, "--config", case.config, "--format", "json", "--quiet"].into();
    fidelity.extend(set.iter().map(Into::into));
    let measured = kd_cache(&fidelity).code(0).json();
    let kl = |tail: &str, temperature: f64| {
        let mut rows = measured["rows"].as_array().unwrap().iter();
        rows.find(|row| row["tail"] == tail && row["temperature"] == temperature).unwrap()["kl"]
            .as_f64()
            .unwrap()
    };
    for temperature in [1.0, 2.0, 4.0] {
        assert!(kl("shape", temperature) < kl("prior", temperature));
        assert!(kl("prior", temperature) < kl("uniform", temperature));
    }
    // It can be taken on: the tail model of a cache that has not fitted its own, in another form too.
    let parquet = case.out("parquet");
    kd_cache(&args!["convert", validation, parquet, "--form", "parquet", "--quiet"]).code(0);
    let third =
        case.built("third", &[&format!("tail.from={}", parquet.display()), "storage.values=quantized"]);
    assert!(files(&third)["encoder.arrow"] == files(&train)["encoder.arrow"]);
}

#[test]
fn codes_are_fitted_where_the_other_cache_has_none_that_serve() {
    let case = Case::new();
    let floats = case.built("floats", &["tail.rank=2"]);
    let quantized = case.built("quantized", &[&from(&floats), "storage.values=quantized"]);
    assert!(!floats.join("codebook.arrow").exists() && quantized.join("codebook.arrow").exists());
    let finer = case.built("finer", &[&from(&quantized), "storage.values=quantized", "storage.step=0.05"]);
    assert!(files(&finer)["codebook.arrow"] != files(&quantized)["codebook.arrow"]);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let case = Case::new();
    let other = case.built("other", &["tail.rank=2"]);
    let refused = |set: &[&str], words: &[&str]| {
        let out = case.out("refused");
        build(&case.config, &out, set).refused(words);
        assert!(!out.exists(), "{set:?} left something behind");
    };
    let from = from(&other);
    refused(&[&from, "tail.rank=3"], &["tail.rank: expected 2, as in", "(tail.from), found 3"]);
    refused(&[&from, "tail.nodes=[0.5,1.0]"], &["tail.nodes: expected [0.125,0.25,0.5,0.75,1.0], as in"]);
    refused(&[&from, "head.k=4"], &["head.k: expected 3, as in", "found 4"]);
    let seven = format!("teacher.path={}", fixture("teachers/seven.onnx").display());
    let images = fixture("fashion-mnist/train-images-idx3-ubyte.gz");
    let unlabelled = format!("dataset={{ kind = \"idx\", images = {images:?} }}");
    refused(&[&from, &seven, &unlabelled], &["teacher.classes: expected 10, as in", "found 7"]);
    let whole = case.built("whole", &["head.k=10"]);
    refused(&[&format!("tail.from={}", whole.display())], &["has no tail model", "hold every class"]);
    let nowhere = format!("tail.from={}", case.out("nowhere").display());
    refused(&[&nowhere], &["tail.from", "nowhere"]);
    // A finished cache is not mistaken for one with another tail model.
    let [images, labels] = test_slice();
    let third = case.built("third", &["tail.rank=2", &images, &labels]);
    let taken = case.built("taken", &[&from]);
    build(&case.config, &taken, &[&format!("tail.from={}", third.display())])
        .refused(&["tail.from: the cache has \"sha256:", "choose another folder"]);
}

/// A cache whose manifest names no encoder, as older versions wrote it.
#[test]
fn a_cache_without_its_encoder_is_told_apart() {
    let case = Case::new();
    let other = case.built("other", &["tail.rank=2"]);
    let mut older = manifest(&other);
    older["tail"].as_object_mut().unwrap().remove("encoder");
    std::fs::write(other.join("manifest.json"), older.to_string()).unwrap();
    build(&case.config, &case.out("refused"), &[&from(&other)])
        .refused(&["tail model of rank 2", "build it again"]);
}

/// Parts of a dataset can be built side by side once the tail model is there.
#[test]
fn a_tail_model_can_be_fitted_alone() {
    let case = Case::new();
    let whole = case.built("whole", &["tail.rank=2", "storage.values=quantized"]);
    let fitted = case.out("fitted");
    let set = ["--set", "tail.rank=2", "--set", "storage.values=quantized"];
    let mut fit: Vec<std::ffi::OsString> =
        args!["build", "--config", case.config, "--out", fitted, "--fit-only", "--quiet"].into();
    fit.extend(set.iter().map(Into::into));
    for _ in 0..2 {
        let said = kd_cache(&fit).code(0);
        assert!(said.out.contains("tail model and codes are fitted"), "{}", said.out);
        assert!(!fitted.join("manifest.json").exists());
    }
    let part = case.built("part", &[&from(&fitted), "storage.values=quantized", "dataset.limit=300"]);
    for name in KEPT_ONCE {
        assert!(files(&part)[name] == files(&whole)[name], "{name} differs");
    }
    // The other part, here all of them: the same command without the flag.
    case.built("fitted", &["tail.rank=2", "storage.values=quantized"]);
    assert!(files(&fitted) == files(&whole));
    assert!(kd_cache(&fit).code(0).out.contains("complete already"));
}
