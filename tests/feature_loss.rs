//! Losses on a teacher's features: from a cache that keeps them to a student that has learnt them.

#![cfg(all(unix, feature = "onnx", feature = "torch"))]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::{
    Case, Said, build, cache_config, fixture, kd_cache, kd_train, lines, train_config, write,
};
use crate::features::{CELLS, config, vectors};
use serde_json::Value;

/// A cache with features, and a config for students of it.
fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    build(&config(dir.path(), "features.onnx", CELLS), &dir.path().join("cache"), &[]).code(0);
    let config = train_config(dir.path());
    Case { dir, config, caches: vec!["cache"] }
}

/// Trains with `features` after the config.
fn run(case: &Case, name: &str, features: &str, resume: bool, set: &[&str]) -> Said {
    let text = std::fs::read_to_string(&case.config).unwrap();
    let config = write(case.dir.path(), "with.toml", &format!("{text}\n{features}"));
    case.run_of(&config, name, resume, set)
}

const TERMS: &str = r#"
[[loss.features]]
name = "cells"
weight = 2.0
[[loss.features]]
name = "small"
kind = "cosine"
"#;

#[test]
fn a_student_learns_the_features_and_is_exported_without_what_projects_it() {
    let case = case();
    let report = run(&case, "run", TERMS, false, &["train.epochs=12"]).code(0).json();
    let epochs = case.epochs("run");
    let of = |epoch: &Value, name: &str| epoch[name].as_f64().unwrap_or_else(|| panic!("{name}: {epoch}"));
    for name in ["feature_cells", "feature_small"] {
        let (first, last) = (of(&epochs[0], name), of(&epochs[11], name));
        assert!(last < first / 2.0 && last > 0.0, "{name}: {first} became {last}");
    }
    // What is minimised is the weighted sum.
    let sum = |epoch: &Value| {
        0.7 * of(epoch, "kl")
            + 0.3 * of(epoch, "cross_entropy")
            + 2.0 * of(epoch, "feature_cells")
            + of(epoch, "feature_small")
    };
    for epoch in &epochs {
        assert!((of(epoch, "train_loss") - sum(epoch)).abs() < 1e-4, "{epoch}");
    }
    assert_eq!(report["parameters"], 784 * 16 + 16 + 160 + 10);
    let weights = std::fs::read(case.out("run/student.safetensors")).unwrap();
    let text = String::from_utf8_lossy(&weights).into_owned();
    assert!(text.contains("hidden0.weight") && !text.contains("cells"), "{}", &text[..200]);
    // With nothing else to learn from, features teach alone.
    let set = ["loss.weights={}", "train.epochs=3"];
    let report = run(&case, "alone", TERMS, false, &set).code(0).json();
    assert!(report.get("temperature").is_none(), "{report}");
    let epochs = case.epochs("alone");
    assert!(
        epochs[0].get("kl").is_none() && of(&epochs[2], "feature_cells") < of(&epochs[0], "feature_cells")
    );
}

/// A step so small that weights move by nothing that could be seen: what is kept is what a student began with.
#[test]
fn first_weights_are_those_without_features() {
    let case = case();
    let still = "optimizer={ kind = \"sgd\", learning_rate = 1e-30 }";
    for (at, student) in ["mlp\", hidden = [16]", "conv\", channels = [4, 8]"].into_iter().enumerate() {
        let student = format!("student={{ kind = \"{student} }}");
        let [with, without] = ["with", "without"].map(|name| format!("{name}{at}"));
        let set = [student.as_str(), still, "train.max_steps=1"];
        run(&case, &with, TERMS, false, &set).code(0);
        run(&case, &without, "", false, &set).code(0);
        let weights = |name: &str| {
            let path = case.out(name).join("student.safetensors");
            tch::Tensor::read_safetensors(path).unwrap().into_iter().collect::<BTreeMap<_, _>>()
        };
        let (with, without) = (weights(&with), weights(&without));
        assert_eq!(with.keys().collect::<Vec<_>>(), without.keys().collect::<Vec<_>>());
        for (name, value) in &with {
            // A bias that begins at 0 has moved, by nearly nothing.
            let off = f64::try_from((value - &without[name]).abs().max()).unwrap();
            assert!(off < 1e-20, "{name}: {off}");
        }
    }
}

#[test]
fn a_run_with_features_goes_on_to_the_same_bits() {
    let case = case();
    let pair = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/pair.pt"));
    let layer = TERMS.replace("kind = \"cosine\"", "kind = \"cosine\"\nlayer = \"1\"");
    let layer = layer.replace("weight = 2.0", "layer = \"1\"");
    let clipped = ["train.clip_norm=0.5", "train.accumulate=3", "train.ema=0.9"];
    for (at, (terms, set)) in
        [(TERMS, clipped.to_vec()), (&layer, vec![&pair, "preprocess.layout=nchw"])].into_iter().enumerate()
    {
        let [whole, parts] = ["whole", "parts"].map(|name| format!("{name}{at}"));
        run(&case, &whole, terms, false, &set).code(0);
        for (steps, resume) in
            [("train.max_steps=2", false), ("train.max_steps=5", true), ("train.max_steps=900", true)]
        {
            run(&case, &parts, terms, resume, &[&set[..], &[steps]].concat()).code(0);
        }
        let results = |name: &str| {
            let (epochs, student) = case.results(name);
            let state = std::fs::read(case.out(name).join("checkpoints/state.safetensors")).unwrap();
            (epochs, student, state)
        };
        let [whole, parts] = [results(&whole), results(&parts)];
        assert_eq!(whole.0, parts.0, "{set:?}");
        assert!(whole.1 == parts.1 && whole.2 == parts.2, "{set:?}: other weights or projections");
        assert!(String::from_utf8_lossy(&whole.2).contains("projection.cells.weight"));
    }
    // Other terms are another run.
    let other = TERMS.replace("cosine", "mse");
    run(&case, "parts0", &other, true, &clipped).refused(&["--resume", "loss.features"]);
}

#[test]
fn what_cannot_be_learnt_says_why() {
    let case = case();
    let refused = |features: &str, set: &[&str], words: &[&str]| {
        run(&case, "refused", features, false, set).refused(words);
        assert!(!case.out("refused").exists());
    };
    let term = |name: &str, more: &str| format!("[[loss.features]]\nname = \"{name}\"\n{more}\n");
    refused(
        &term("pooled", ""),
        &[],
        &["loss.features", "no feature \"pooled\"", "it keeps cells, small, rows"],
    );
    refused(&term("cells", "layer = \"conv1\""), &[], &["no layer \"conv1\"", "it has features"]);
    refused(&(term("cells", "") + &term("cells", "")), &[], &["loss.features[1].name", "twice"]);
    refused(&term("cells", "weight = 0.0"), &[], &["loss.features[0].weight", "more than 0"]);
    refused(&term("cells", "kind = \"kl\""), &[], &["loss.features[0].kind", "mse, cosine"]);
    let torchscript =
        |file: &str| format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture(file));
    refused(
        &term("cells", ""),
        &[&torchscript("students/small.pt"), "preprocess.layout=nchw"],
        &["no layer \"features\"", "returning a tuple", "layer = \"1\""],
    );
    refused(
        &term("cells", ""),
        &[&torchscript("students/pair.pt"), "preprocess.layout=nchw"],
        &["no layer \"features\"", "it has 1"],
    );
    // A cache that keeps none, and no cache.
    let bare = case.out("bare");
    build(&cache_config(case.dir.path(), "linear.onnx"), &bare, &[]).code(0);
    let text = std::fs::read_to_string(&case.config).unwrap() + &term("cells", "");
    let config = write(case.dir.path(), "bare.toml", &text);
    let out = case.out("refused");
    kd_train(&args!["--config", config, "--cache", bare, "--out", out])
        .refused(&["keeps no feature \"cells\"", "build it with a table [[features]]"]);
    let set = "loss.weights={ cross_entropy = 1.0 }";
    kd_train(&args!["--config", config, "--out", out, "--set", set]).refused(&["\"cells\"", "--cache DIR"]);
    assert!(!out.exists());
}

/// A student that returns a tuple is a student like others: measured, exported, asked for predictions.
#[test]
fn a_torchscript_student_may_return_its_features() {
    let case = case();
    let pair = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/pair.pt"));
    let terms = TERMS.replace("[[loss.features]]", "[[loss.features]]\nlayer = \"1\"");
    let set = [&pair, "preprocess.layout=nchw", "train.epochs=4"];
    let report = run(&case, "run", &terms, false, &set).code(0).json();
    let epochs = case.epochs("run");
    let of = |epoch: &Value| epoch["feature_cells"].as_f64().unwrap();
    assert!(of(&epochs[3]) < of(&epochs[0]) * 0.8, "{} became {}", of(&epochs[0]), of(&epochs[3]));
    let eval = kd_train(&args!["eval", case.out("run"), "--format", "json"]).code(0).json();
    let accuracy = |report: &Value| report["validation"]["test"]["accuracy"].as_f64().unwrap();
    assert_eq!(accuracy(&eval), accuracy(&report));
}

/// The config of a language model over rows of tokens, its head in a file of its own.
fn language(dir: &Path, kind: &str, more: &str) -> PathBuf {
    let tokens = dir.join("tokens.bin");
    let stream = (0..90u16).map(|at| if at % 23 == 22 { 0 } else { 1 + (at * at * 7) % 9 });
    std::fs::write(&tokens, stream.flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let text = format!(
        r#"seed = 5
[dataset]
kind = "tokens"
paths = [{tokens:?}]
dtype = "u16"
separator = 0
rows = {{ length = 12 }}
[teacher]
kind = "{kind}"
batch = 2
threads = 1
chunk = 5
{more}
[head]
k = 6
[tail]
rank = 2
fit_samples = 60
[storage]
shard_samples = 3
"#
    );
    write(dir, "language.toml", &text)
}

#[test]
fn a_language_model_gives_a_vector_for_every_token_and_its_student_learns_them() {
    let dir = tempfile::tempdir().unwrap();
    let teacher = |name: &str| format!("{:?}", fixture("teachers").join(name));
    let with_head = |extension: &str| {
        let [body, head] = ["body", "head"].map(|part| teacher(&format!("causal_{part}.{extension}")));
        format!("path = {body}\nhead = {head}")
    };
    let built = |name: &str, kind: &str, more: &str, output: &str, set: &[&str]| {
        let path = language(dir.path(), kind, more);
        let text = std::fs::read_to_string(&path).unwrap();
        let one = |name: &str, values: &str| {
            format!("[[features]]\nname = \"{name}\"\noutput = \"{output}\"\nvalues = \"{values}\"\n")
        };
        std::fs::write(&path, text + &one("hidden", "f16") + &one("bytes", "i8")).unwrap();
        let out = dir.path().join(name);
        build(&path, &out, set).code(0);
        kd_cache(&args!["verify", out]).code(0);
        out
    };
    let packed = built("packed", "onnx", &with_head("onnx"), "hidden", &[]);
    let lists =
        built("lists", "onnx", &with_head("onnx"), "hidden", &["storage.form=parquet", "storage.level=3"]);
    // The module's one result is at place 0: hidden states, of which its head makes logits.
    let torchscript = built("torchscript", "torchscript", &with_head("pt"), "0", &[]);
    let (found, bytes) = (vectors(&packed, "hidden"), vectors(&packed, "bytes"));
    assert_eq!((found.rows(), found.width), (90, 8));
    assert_eq!(found, vectors(&lists, "hidden"));
    assert_eq!(bytes, vectors(&lists, "bytes"));
    let other = vectors(&torchscript, "hidden");
    for row in 0..90 {
        let (found, bytes, other) = (found.row(row), bytes.row(row), other.row(row));
        let largest = found.iter().fold(0f32, |a, b| a.max(b.abs()));
        assert!(largest > 0.0);
        for ((a, b), c) in found.iter().zip(bytes).zip(other) {
            assert!((a - b).abs() <= largest / 254.0 + largest / 1000.0, "{a} and {b} of {largest}");
            assert!((a - c).abs() <= largest / 500.0, "{a} and {c}: the runtimes differ");
        }
    }

    let train = r#"seed = 3
[student]
kind = "llama"
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
[loss]
weights = { kl = 1.0 }
[[loss.features]]
name = "hidden"
[optimizer]
kind = "adamw"
learning_rate = 0.01
[train]
epochs = 30
batch = 4
threads = 1
"#;
    let train = write(dir.path(), "train.toml", train);
    let run = |name: &str, cache: &Path| {
        let out = dir.path().join(name);
        kd_train(&args!["--config", train, "--cache", cache, "--out", out, "--quiet"]).code(0);
        lines(&out.join("metrics.jsonl"))
    };
    let epochs = run("run", &packed);
    let of = |epoch: &Value| epoch["feature_hidden"].as_f64().unwrap();
    assert!(of(&epochs[29]) < of(&epochs[0]) / 2.0, "{} became {}", of(&epochs[0]), of(&epochs[29]));
    let other = run("lists-run", &lists);
    assert_eq!(epochs[29]["train_loss"], other[29]["train_loss"], "either form teaches the same");
}
