//! Sets that a student is measured on and asked about: what does not fit is told before anything is learned, what a config
//! leaves out is as the run had it, and what is there already is replaced by whole answers alone.

#![cfg(all(unix, feature = "onnx", feature = "torch"))]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{Case, Said, fixture, kd_train, lines, write};

/// A set of 12 images of `side` pixels each way, `test` in a config.
fn small_images(dir: &Path, side: u8) -> [String; 2] {
    let (images, labels) = (dir.join("images"), dir.join("labels"));
    let mut bytes = vec![0, 0, 8, 3, 0, 0, 0, 12, 0, 0, 0, side, 0, 0, 0, side];
    bytes.extend((0..12 * usize::from(side).pow(2)).map(|at| (at * 37 % 251) as u8));
    std::fs::write(&images, bytes).unwrap();
    let mut bytes = vec![0, 0, 8, 1, 0, 0, 0, 12];
    bytes.extend((0..12).map(|at| at % 10));
    std::fs::write(&labels, bytes).unwrap();
    [("images", images), ("labels", labels)]
        .map(|(key, path)| format!("validation.test.dataset.{key}={}", path.display()))
}

#[test]
fn images_that_a_student_cannot_take_are_refused_before_it_learns() {
    let case = Case::new();
    let [images, labels] = small_images(case.dir.path(), 10);
    let layout = "preprocess.layout=nchw";
    let module = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/pair.pt"));
    let conv = |channels: &str| format!("student={{ kind = \"conv\", channels = {channels} }}");
    let train = "train.epochs=1";
    case.refused(&[&images, &labels, train], &["validation.test", "784 numbers", "[1, 10, 10]"]);
    case.refused(
        &[&images, &labels, train, layout, &conv("[4, 4, 4, 4, 4]")],
        &["validation.test", "[1, height, width]", "at least 16 pixels", "[1, 10, 10]"],
    );
    case.refused(&[&images, &labels, train, layout, &module], &["validation.test", "[1, 10, 10]"]);
    // What takes images of any size may be measured on such.
    let report = case.train("run", &[&images, &labels, train, layout, &conv("[4, 4]")]).code(0).json();
    assert_eq!(report["validation"]["test"]["samples"], json!(12));
    // And a finished run says the same of sets that it has not seen.
    case.train("flat", &[train]).code(0);
    let mut args = args!["eval", case.out("flat")].to_vec();
    for set in [&images, &labels] {
        args.extend(args!["--set", set]);
    }
    kd_train(&args).refused(&["validation.test", "[1, 10, 10]", "784"]);
    // Weights of other shapes are not spread over larger ones.
    let mut args = args!["eval", case.out("flat"), "--checkpoint", "last"].to_vec();
    for set in [&images, &labels] {
        args.extend(args!["--set", set]);
    }
    kd_train(&args).refused(&["last.safetensors", "[16, 100]", "[16, 784]"]);
}

/// A config of sets alone, for a run that took the rest from its cache.
fn only_sets(case: &Case) -> PathBuf {
    let text = std::fs::read_to_string(&case.config).unwrap();
    write(case.dir.path(), "sets.toml", &text.replace("classes = 10\n", ""))
}

#[test]
fn another_config_has_what_it_leaves_out_from_the_run() {
    let case = Case::with_cache(&["preprocess={ mean = [0.3], std = [0.2] }"]);
    let report = case.train("run", &[]).code(0).json();
    let config = only_sets(&case);
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(!text.contains("classes") && !text.contains("preprocess"), "{text}");
    let eval = |more: &[&str]| {
        let mut args = args!["eval", case.out("run"), "--config", config, "--format", "json"].to_vec();
        args.extend(more.iter().map(Into::into));
        kd_train(&args).code(0).json()["validation"]["test"].clone()
    };
    let of = |set: &Value| set["cross_entropy"].as_f64().unwrap();
    let as_measured = eval(&[]);
    assert!((of(&as_measured) - of(&report["validation"]["test"])).abs() < 1e-6, "{as_measured}");
    // What it gives holds.
    assert!((of(&eval(&["--set", "preprocess.scale=255.0"])) - of(&as_measured)).abs() > 1e-3);
    kd_train(&args!["eval", case.out("none"), "--config", config]).refused(&["cannot read", "config.toml"]);
}

#[test]
fn answers_replace_a_file_whole_or_not_at_all() {
    let case = Case::new();
    case.train("run", &["train.epochs=1"]).code(0);
    let predict = |set: &str, out: &Path| -> Said {
        kd_train(&args!["predict", case.out("run"), "--dataset", set, "--out", out])
    };
    let file = write(case.dir.path(), "p.jsonl", "kept\n");
    predict("none", &file).refused(&["\"none\""]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept\n");
    predict("test", &file).code(0);
    assert_eq!(lines(&file).len(), 256);
    assert!(!case.out("p.jsonl.tmp").exists());
    predict("test", &case.out("nowhere/p.jsonl")).refused(&["cannot write", "nowhere/p.jsonl"]);
    let said = predict("test", Path::new("-")).code(0);
    assert_eq!(said.out, std::fs::read_to_string(&file).unwrap());
    // What a link leads to is written, and the link stays.
    std::os::unix::fs::symlink(case.out("linked"), case.out("link.jsonl")).unwrap();
    predict("test", &case.out("link.jsonl")).code(0);
    assert_eq!(std::fs::read_to_string(case.out("linked")).unwrap(), said.out);
    assert!(case.out("link.jsonl").is_symlink());
    // What is no file is written to as it is.
    let pipe = case.out("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).unwrap()
    });
    predict("test", &pipe).code(0);
    assert_eq!(reader.join().unwrap(), said.out);
    assert!(!pipe.is_file());
}
