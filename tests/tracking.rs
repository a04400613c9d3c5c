//! What is told of a run while it goes on: lines of steps, and a server that is not there. The built programs.
//! (Event files, and servers that are there, are read back by what others use: tests/python/test_tracking.py.)

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Case, Said, kd_train, kd_train_command, lines, told};
use serde_json::{Value, json};

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("no {key} in {line}"))
}

fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("student.safetensors")).unwrap()
}

#[test]
fn lines_of_steps_are_means_since_the_line_before() {
    let case = Case::new();
    let schedule = "schedule={ kind = \"cosine\", warmup_epochs = 0.5 }";
    let run = |name: &str, every: &str| {
        case.train(name, &[schedule, every, "tracking.gradient_norm=true", "tracking.tensorboard=true"])
            .code(0);
        (lines(&case.out(name).join("steps.jsonl")), told(&case.out(name).join("metrics.jsonl")))
    };
    let (each, epochs) = run("each", "tracking.every=1");
    assert_eq!((each.len(), epochs.len()), (16, 2));
    let (by_epoch, _) = run("by-epoch", "tracking.every=8");
    let (thirds, _) = run("thirds", "tracking.every=3");
    let places = |lines: &[Value]| -> Vec<(u64, u64)> {
        lines.iter().map(|line| (line["step"].as_u64().unwrap(), line["epoch"].as_u64().unwrap())).collect()
    };
    // The last line reaches across the epochs' border; step 16 is told by its epoch alone.
    assert_eq!(places(&thirds), [(3, 1), (6, 1), (9, 2), (12, 2), (15, 2)]);
    let mean = |lines: &[Value], key: &str| {
        lines.iter().map(|line| number(line, key)).sum::<f64>() / lines.len() as f64
    };
    // All batches have 64 samples, so that means of means are means.
    for key in ["train_loss", "kl", "cross_entropy", "gradient_norm"] {
        for (at, epoch) in epochs.iter().enumerate() {
            let expected = number(epoch, key);
            for found in [mean(&each[8 * at..8 * (at + 1)], key), number(&by_epoch[at], key)] {
                assert!((found - expected).abs() < 1e-9, "{key} of epoch {at}: {found} is not {expected}");
            }
        }
        for (at, line) in thirds.iter().enumerate() {
            let (found, expected) = (number(line, key), mean(&each[3 * at..3 * (at + 1)], key));
            assert!((found - expected).abs() < 1e-9, "{key} of line {at}: {found} is not {expected}");
        }
    }
    for line in thirds.iter().chain(&by_epoch) {
        let step = line["step"].as_u64().unwrap() as usize;
        assert_eq!(line["learning_rate"], each[step - 1]["learning_rate"]);
        assert!(number(line, "samples_per_second") > 0.0);
    }
    assert_ne!(each[0]["learning_rate"], each[2]["learning_rate"]);

    // And nothing of it changes the run.
    case.train("untold", &[schedule]).code(0);
    let mut untold = told(&case.out("untold").join("metrics.jsonl"));
    for (epoch, told) in untold.iter_mut().zip(&epochs) {
        assert!(epoch.get("gradient_norm").is_none());
        epoch["gradient_norm"] = told["gradient_norm"].clone();
    }
    assert_eq!(json!(untold), json!(epochs));
    assert!(weights(&case.out("untold")) == weights(&case.out("each")));
    assert!(!case.out("untold").join("steps.jsonl").exists());
    assert!(!case.out("untold").join("tensorboard").exists());
}

#[test]
fn a_run_that_goes_on_repeats_no_line_and_misses_none() {
    let case = Case::new();
    let set = ["train.epochs=3", "tracking.every=3", "train.clip_norm=1.0", "tracking.tensorboard=true"];
    case.train("whole", &set).code(0);
    for (steps, resume) in [(2, false), (7, true), (8, true), (10, true), (900, true)] {
        let steps = format!("train.max_steps={steps}");
        let set: Vec<&str> = set.iter().copied().chain([steps.as_str()]).collect();
        if resume { case.resume("parts", &set) } else { case.train("parts", &set) }.code(0);
    }
    for name in ["steps.jsonl", "metrics.jsonl"] {
        let [whole, parts] = ["whole", "parts"].map(|run| told(&case.out(run).join(name)));
        assert_eq!(whole, parts, "{name}");
    }
    assert_eq!(lines(&case.out("whole/steps.jsonl")).len(), 8);

    // Killed at any moment, with the state kept between two lines.
    let set = ["train.epochs=40", "train.keep_every=4", "tracking.every=3", "tracking.tensorboard=true"];
    case.train("long", &set).code(0);
    let state = case.out("killed/checkpoints/state.safetensors");
    let mut kills = 0;
    for attempt in 0..100u64 {
        let more: &[&str] = if state.exists() { &["--quiet", "--resume"] } else { &["--quiet"] };
        let mut child = kd_train_command(&case.args("killed", &set, more)).spawn().unwrap();
        let begun = Instant::now();
        let patience = Duration::from_millis(attempt * 150);
        while child.try_wait().unwrap().is_none() && (begun.elapsed() < patience || !state.exists()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(code) = child.try_wait().unwrap() {
            assert!(code.success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills > 0, "the run was too quick to be killed");
    for name in ["steps.jsonl", "metrics.jsonl"] {
        let [whole, killed] = ["long", "killed"].map(|run| told(&case.out(run).join(name)));
        assert_eq!(whole, killed, "{name}");
    }
}

#[test]
fn what_is_told_may_change_when_a_run_goes_on() {
    let case = Case::new();
    case.train("run", &["train.max_steps=4"]).code(0);
    case.resume("run", &["tracking.gradient_norm=true"]).refused(&["--resume", "tracking.gradient_norm"]);
    case.resume("run", &["train.max_steps=12", "tracking.every=2", "tracking.tensorboard=true"]).code(0);
    let found = lines(&case.out("run/steps.jsonl"));
    let steps: Vec<u64> = found.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [6, 8, 10, 12]);
    assert_eq!(std::fs::read_dir(case.out("run/tensorboard")).unwrap().count(), 1);
    // The first line's means are of its own two steps, though nothing was kept of the others.
    case.train("whole", &["tracking.every=2"]).code(0);
    let whole = &told(&case.out("whole/steps.jsonl"))[2];
    let close = |key: &str| (number(&found[0], key) - number(whole, key)).abs() < 1e-9;
    assert!(close("train_loss") && close("kl"), "{} is not {whole}", found[0]);
    // No more lines; those that are there stay.
    case.resume("run", &[]).code(0);
    assert_eq!(lines(&case.out("run/steps.jsonl")), found);
    // A run that is begun anew has none of it.
    kd_train(&case.args("run", &[], &["--quiet", "--overwrite"])).code(0);
    assert!(!case.out("run/steps.jsonl").exists() && !case.out("run/tensorboard").exists());
}

/// A folder where a file should be and a file where a folder should: what nobody can write, whoever they are.
#[test]
fn what_cannot_be_written_is_said_once_and_disturbs_nothing() {
    let case = Case::new();
    let told = ["tracking.every=2", "tracking.tensorboard=true", "train.keep_every=3"];
    let begin = |name: &str| {
        case.train(name, &[&told[1..], &["train.max_steps=3"]].concat()).code(0);
        case.out(name)
    };
    let go_on = |name: &str, set: &[&str]| kd_train(&case.args(name, set, &["--resume"])).code(0);
    let whole = begin("whole");
    let plain = go_on("whole", &told).json();
    assert!(plain.get("tracking_warning").is_none());

    let run = begin("run");
    std::fs::create_dir(run.join("steps.jsonl")).unwrap();
    std::fs::remove_dir_all(run.join("tensorboard")).unwrap();
    std::fs::write(run.join("tensorboard"), "in the way").unwrap();
    let said = go_on("run", &told);
    let report = said.json();
    let warnings: Vec<&str> = report["tracking_warning"].as_str().unwrap().lines().collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, (place, lost)) in
        warnings.iter().zip([("run/steps.jsonl", "lines of steps"), ("run/tensorboard", "TensorBoard")])
    {
        assert!(warning.contains(place) && warning.contains(lost), "{warning}");
        assert_eq!(said.err.matches(warning).count(), 1, "{}", said.err);
    }
    let summary: Value = serde_json::from_slice(&std::fs::read(run.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["tracking_warning"], report["tracking_warning"]);
    assert_eq!(plain["validation"], report["validation"]);
    assert!(weights(&whole) == weights(&run));
    assert_eq!(std::fs::read(run.join("tensorboard")).unwrap(), b"in the way");

    // The lines that a run goes on from are needed: nothing goes on without.
    let run = begin("needed");
    std::fs::create_dir(run.join("metrics.jsonl.tmp")).unwrap();
    let said = kd_train(&case.args("needed", &told, &["--resume", "--quiet"]));
    said.refused(&["cannot write", "metrics.jsonl"]);
}

#[test]
fn a_server_that_is_not_there_disturbs_nothing() {
    let case = Case::new();
    let none = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let uri = format!("tracking.mlflow.uri=http://{none}");
    let begun = Instant::now();
    let said = kd_train(&case.args("run", &[&uri, "tracking.every=1"], &[])).code(0);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let report = said.json();
    let warning = report["tracking_warning"].as_str().unwrap();
    assert!(warning.contains(&none.to_string()) && warning.contains("--resume"), "{warning}");
    assert_eq!(said.err.matches("warning: MLflow").count(), 1, "{}", said.err);
    let summary: Value =
        serde_json::from_slice(&std::fs::read(case.out("run/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["tracking_warning"], report["tracking_warning"]);
    let plain = case.train("plain", &[]).code(0).json();
    assert!(plain.get("tracking_warning").is_none());
    assert_eq!(plain["validation"], report["validation"]);
    assert!(weights(&case.out("plain")) == weights(&case.out("run")));

    // Who it is, is known before anything is written.
    let command = |name: &str, environment: &BTreeMap<&str, &str>| -> Said {
        let mut command = kd_train_command(&case.args(name, &["tracking.mlflow={}"], &["--quiet"]));
        for name in ["URI", "TOKEN", "USERNAME", "PASSWORD", "SERVER_CERT_PATH"] {
            command.env_remove(format!("MLFLOW_TRACKING_{name}"));
        }
        command.envs(environment).output().unwrap().into()
    };
    let nowhere = BTreeMap::new();
    command("refused", &nowhere).refused(&["tracking.mlflow.uri", "MLFLOW_TRACKING_URI"]);
    command("refused", &[("MLFLOW_TRACKING_URI", "databricks")].into())
        .refused(&["MLFLOW_TRACKING_URI", "http"]);
    assert!(!case.out("refused").exists());
    let uri = format!("http://{none}");
    let said = command("by-variable", &[("MLFLOW_TRACKING_URI", uri.as_str())].into()).code(0).json();
    assert!(said["tracking_warning"].as_str().unwrap().contains(&uri));
}
