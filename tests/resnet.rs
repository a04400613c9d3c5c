//! The path of MIGRATING.md, small: a ResNet-50 that was trained here teaches a ResNet-18, by the configs that are
//! there for it; and ResNets that PyTorch wrote.

#![cfg(all(unix, feature = "torch"))]

use std::path::{Path, PathBuf};

use crate::common::{Said, build, fixture, kd_cache, kd_train, lines, repository, train_config};
use serde_json::Value;

/// `--set` of the slices of Fashion-MNIST, under `key`: `dataset`, say.
fn data(key: &str, part: &str) -> [String; 2] {
    let file = |what: &str| fixture(&format!("fashion-mnist/{part}-{what}.gz")).display().to_string();
    [
        format!("{key}.images={}", file("images-idx3-ubyte")),
        format!("{key}.labels={}", file("labels-idx1-ubyte")),
    ]
}

fn train(config: &Path, out: &Path, cache: Option<&Path>, set: &[String]) -> Said {
    let mut words = args!["--config", config, "--out", out, "--format", "json"].to_vec();
    if let Some(cache) = cache {
        words.extend(args!["--cache", cache]);
    }
    for set in set {
        words.extend(args!["--set", set]);
    }
    kd_train(&words)
}

/// A few seconds' worth of a config for hours.
fn small(set: &[&str]) -> Vec<String> {
    let size = [
        "student.width=4",
        "train.epochs=2",
        "schedule.warmup_epochs=1",
        "train.batch=64",
        "train.threads=1",
    ];
    let mut all: Vec<String> = size.iter().chain(set).map(|word| (*word).to_owned()).collect();
    all.extend(data("dataset", "train"));
    all.extend(data("validation.test.dataset", "t10k"));
    all
}

#[test]
fn a_resnet_50_teaches_a_resnet_18() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    let config = |name: &str| repository("configs").join(name);
    let teacher =
        train(&config("train/resnet50-teacher.toml"), &out("teacher"), None, &small(&[])).code(0).json();

    let caches = ["train", "t10k"].map(|part| {
        let path = format!("teacher.path={}", out("teacher/student.pt").display());
        let [images, labels] = data("dataset", part);
        let cache = out(part);
        let set = [&path, &images, &labels, "teacher.threads=1"];
        build(&config("cache/resnet50-fashion-mnist.toml"), &cache, &set).code(0);
        cache
    });
    // The teacher of the cache is the student that was measured.
    let inspected = kd_cache(&args!["inspect", caches[1], "--format", "json"]).code(0).json();
    assert_eq!(inspected["teacher_accuracy"], teacher["validation"]["test"]["accuracy"]);

    let test_cache = format!("validation.test.cache={}", caches[1].display());
    let set = small(&[&test_cache]);
    let report =
        train(&config("train/resnet50-to-resnet18.toml"), &out("run"), Some(&caches[0]), &set).code(0).json();
    assert_eq!(report["temperature"], 4.0);
    let epochs = lines(&out("run").join("metrics.jsonl"));
    let number = |epoch: &Value, key: &str| epoch[key].as_f64().unwrap();
    for epoch in &epochs {
        let sum = 0.7 * number(epoch, "kl") + 0.3 * number(epoch, "cross_entropy");
        assert!((number(epoch, "train_loss") - sum).abs() < 1e-5, "{epoch}");
    }
    assert!(number(&epochs[1], "kl") < number(&epochs[0], "kl"), "{epochs:?}");
    // The warm-up ends at Adam's learning rate, the cosine below it.
    assert_eq!(number(&epochs[0], "learning_rate"), 1e-3);
    assert!(number(&epochs[1], "learning_rate") < 1e-4);
    let eval = kd_train(&args!["eval", out("run"), "--format", "json"]).code(0).json();
    let measured = |report: &Value| number(&report["validation"]["test"], "kl");
    assert!((measured(&report) - measured(&eval)).abs() < 1e-4, "{report} and {eval}");
}

/// A module that torchvision and `torch.jit.script` made learns as the built-in network does that begins with the same
/// weights, and what either run leaves can be trained further.
#[test]
fn a_resnet_18_of_pytorchs_learns_as_the_built_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = train_config(dir.path());
    let labels = "loss.weights={ cross_entropy = 1.0 }".to_owned();
    let run = |name: &str, set: &[String]| {
        let mut all = vec![labels.clone(), "train.epochs=1".into()];
        all.extend_from_slice(set);
        let said = train(&config, &dir.path().join(name), None, &all);
        (said, dir.path().join(name))
    };
    let loss = |said: Said| said.code(0).json()["train_loss"].as_f64().unwrap();
    let module =
        |path: PathBuf| format!("student={{ kind = \"torchscript\", path = {path:?}, classes = 10 }}");
    let built_in = "student={ kind = \"resnet18\", width = 2, classes = 10 }".to_owned();
    let weights = |path: PathBuf| format!("init.weights={}", path.display());

    let (said, scripted) = run("scripted", &[module(fixture("students/resnet/resnet18.pt"))]);
    let theirs = loss(said);
    let begun = weights(fixture("students/resnet/resnet18.safetensors"));
    let (said, built) = run("built-in", &[built_in.clone(), begun]);
    assert!(said.err.contains("weights from") && !said.err.contains("drawn"), "{}", said.err);
    let ours = loss(said);
    assert!((theirs - ours).abs() < 1e-3, "{theirs} and {ours}");

    let further = loss(run("scripted-further", &[module(scripted.join("student.pt"))]).0);
    assert!(further < theirs, "{further} is not below {theirs}");
    // What is exported of a built-in network is for inference: its weights are beside it.
    let (refused, left) = run("refused", &[module(built.join("student.pt"))]);
    refused.refused(&["no trainable parameters", "student.safetensors"]);
    assert!(!left.exists());
    let further = loss(run("built-in-further", &[built_in, weights(built.join("student.safetensors"))]).0);
    assert!(further < ours, "{further} is not below {ours}");
}
