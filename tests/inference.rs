//! What a run measures with programs, which students it keeps, and its use afterwards. The built programs.

#![cfg(all(unix, feature = "onnx", feature = "torch"))]

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{
    Case, Said, build, cache_config, files, fixture, kd_train, kd_train_command, lines, python_has,
    repository, train_config, write,
};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, UInt32Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

/// Labels alone, with more text at the end of the config.
fn case(more: &str) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(train_config(dir.path())).unwrap();
    let text = text.replace("{ kl = 0.7, cross_entropy = 0.3 }", "{ cross_entropy = 1.0 }");
    let config = write(dir.path(), "train.toml", &format!("{text}{more}"));
    Case { dir, config, caches: Vec::new() }
}

/// What the student of a run predicts of the test slice, in `file`.
fn predict(case: &Case, run: &str, file: &str, more: &[&str]) -> Said {
    let mut args = args!["predict", case.out(run), "--dataset", "test", "--out", case.out(file)].to_vec();
    args.extend(more.iter().map(OsString::from));
    kd_train(&args)
}

/// A file of predictions, as one batch.
pub fn read(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(|batch| batch.unwrap()).collect();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

pub fn numbers(batch: &RecordBatch, name: &str) -> Vec<u32> {
    batch.column_by_name(name).unwrap().as_primitive::<UInt32Type>().values().to_vec()
}

fn floats(batch: &RecordBatch, name: &str) -> Vec<f32> {
    batch.column_by_name(name).unwrap().as_primitive::<Float32Type>().values().to_vec()
}

/// The lists of a column.
pub fn lists(batch: &RecordBatch, name: &str) -> Vec<arrow::array::ArrayRef> {
    batch.column_by_name(name).unwrap().as_list::<i32>().iter().map(|list| list.unwrap()).collect()
}

fn names(batch: &RecordBatch) -> Vec<String> {
    batch.schema().fields().iter().map(|field| field.name().clone()).collect()
}

fn evaluated(run: &Path, more: &[&str]) -> Value {
    let mut args = args!["eval", run, "--format", "json"].to_vec();
    args.extend(more.iter().map(Into::into));
    kd_train(&args).code(0).json()["validation"].clone()
}

#[test]
fn predictions_are_parquet() {
    let case = case("");
    let report = case.train("run", &[]).code(0).json();
    let measured = &report["validation"]["test"];
    predict(&case, "run", "p.parquet", &["--top", "3", "--logits"]).code(0);
    let table = read(&case.out("p.parquet"));
    let expected = ["sample", "label", "class", "probability", "top_classes", "top_probabilities", "logits"];
    assert_eq!(names(&table), expected);
    let ids = table.column(0).as_primitive::<UInt64Type>();
    assert_eq!(ids.values().to_vec(), (0..256).collect::<Vec<u64>>());
    let (classes, labels) = (numbers(&table, "class"), numbers(&table, "label"));
    let right = classes.iter().zip(&labels).filter(|(class, label)| class == label).count();
    assert_eq!(right as f64 / 256.0, measured["accuracy"].as_f64().unwrap());
    // The same as JSON Lines have.
    predict(&case, "run", "p.jsonl", &[]).code(0);
    let rows = lines(&case.out("p.jsonl"));
    for (at, probability) in floats(&table, "probability").iter().enumerate() {
        let row = &rows[at];
        assert_eq!((&row["class"], &row["label"]), (&json!(classes[at]), &json!(labels[at])));
        assert_eq!(row["probability"].as_f64().unwrap() as f32, *probability);
        let logits = lists(&table, "logits")[at].as_primitive::<Float32Type>().values().to_vec();
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let softmax = |class: u32| f64::from(logits[class as usize]).exp() / sum;
        let top = lists(&table, "top_classes")[at].as_primitive::<UInt32Type>().values().to_vec();
        let values = lists(&table, "top_probabilities")[at].as_primitive::<Float32Type>().values().to_vec();
        assert_eq!((top.len(), values.len(), logits.len()), (3, 3, 10));
        assert_eq!((top[0], values[0]), (classes[at], *probability));
        for (class, value) in top.iter().zip(&values) {
            assert!((softmax(*class) - f64::from(*value)).abs() < 1e-5);
        }
        assert!(values.is_sorted_by(|a, b| a >= b));
    }
    // Without them there are four columns; a file that is there is replaced whole, and nothing lies beside it.
    predict(&case, "run", "p.parquet", &[]).code(0);
    assert_eq!(names(&read(&case.out("p.parquet"))), expected[..4]);
    assert!(!case.out("p.parquet.tmp").exists());
    // - is standard output, whatever lies there.
    let here = case.out("here");
    std::fs::create_dir(&here).unwrap();
    std::fs::write(here.join("-"), "mine").unwrap();
    let said = kd_train_command(&args!["predict", case.out("run"), "--dataset", "test", "--out", "-"])
        .current_dir(&here)
        .output()
        .unwrap();
    assert!(said.stdout == std::fs::read(case.out("p.jsonl")).unwrap());
    assert_eq!(std::fs::read(here.join("-")).unwrap(), b"mine");
    predict(&case, "run", "p.jsonl", &["--top", "3"]).refused(&["--top", "FILE.parquet"]);
    predict(&case, "run", "nowhere/p.parquet", &[]).refused(&["cannot write", "nowhere/p.parquet"]);
    // More than there are is all of them.
    predict(&case, "run", "p.parquet", &["--top", "99"]).code(0);
    assert!(lists(&read(&case.out("p.parquet")), "top_classes").iter().all(|top| top.len() == 10));
}

#[test]
fn pyarrow_reads_predictions_and_measures_what_eval_does() {
    if !python_has(&["pyarrow", "numpy"]) {
        return;
    }
    let program = repository("tests/programs/metric.py");
    let case = case(&format!(
        "[validation.test.metrics.share]\ncommand = [\"python3\", {program:?}, \"top\", \"logits\"]\nbetter = \"higher\"\n\
         top = 2\nlogits = true\n[validation.test.metrics.plain]\ncommand = [\"python3\", {program:?}]\nbetter = \"higher\"\n"
    ));
    let report = case.train("run", &["train.select_by=test.share"]).code(0).json();
    assert_eq!(report["selected_by"], "test.share");
    for epoch in lines(&case.out("run").join("metrics.jsonl")) {
        let test = &epoch["validation"]["test"];
        let near =
            |name: &str| (test[name].as_f64().unwrap() - test["accuracy"].as_f64().unwrap()).abs() < 1e-12;
        assert!(near("share") && near("plain"), "{test}");
    }
    let again = evaluated(&case.out("run"), &[]);
    assert_eq!(again["test"]["share"], report["validation"]["test"]["share"]);
    predict(&case, "run", "p.parquet", &["--top", "2", "--logits"]).code(0);
    let read = Command::new("python3")
        .args([program.as_os_str(), "top".as_ref(), "logits".as_ref(), case.out("p.parquet").as_os_str()])
        .output()
        .unwrap();
    let said = Said::from(read).code(0);
    let share: f64 = said.out.lines().last().unwrap().parse().unwrap();
    assert!((share - again["test"]["accuracy"].as_f64().unwrap()).abs() < 1e-12);
    assert!(said.out.contains("256 predictions, of 256"), "{}", said.out);
}

/// A shell's command that says the next of `values` each time, from a file of its own.
fn series(case: &Case, name: &str, values: &[&str]) -> String {
    let file = write(case.dir.path(), name, &(values.join("\n") + "\n"));
    let script = format!("head -n 1 {0} && sed -i 1d {0}", file.display());
    format!("validation.test.metrics.mine={{ command = [\"sh\", \"-c\", {script:?}], better = \"lower\" }}")
}

#[test]
fn a_command_chooses_the_best_epoch_and_ends_the_run() {
    let case = case("");
    let mine = series(&case, "series", &["5", "3", "2", "2.5", "4", "1"]);
    let set = [&mine, "train.epochs=6", "train.select_by=test.mine", "train.patience=2"];
    let report = case.train("run", &set).code(0).json();
    assert_eq!((&report["epochs"], &report["best_epoch"]), (&json!(5), &json!(3)));
    assert_eq!(report["validation"]["test"]["mine"], json!(2.0));
    let values: Vec<f64> = lines(&case.out("run").join("metrics.jsonl"))
        .iter()
        .map(|epoch| epoch["validation"]["test"]["mine"].as_f64().unwrap())
        .collect();
    assert_eq!(values, [5.0, 3.0, 2.0, 2.5, 4.0]);
}

#[test]
fn built_in_measures_choose_too() {
    let case = case("");
    for (measure, higher) in [("accuracy_top5", true), ("f1", true), ("f1_weighted", true), ("loss", false)] {
        let select = format!("train.select_by=test.{measure}");
        let set = [select.as_str(), "train.epochs=5", "optimizer.learning_rate=0.2"];
        let report = case.train(measure, &set).code(0).json();
        let epochs = lines(&case.out(measure).join("metrics.jsonl"));
        let score = |epoch: &Value| {
            let value = epoch["validation"]["test"][measure].as_f64().unwrap();
            if higher { value } else { -value }
        };
        let best = epochs.iter().map(score).fold(f64::MIN, f64::max);
        let first = epochs.iter().find(|epoch| score(epoch) == best).unwrap();
        assert_eq!(report["best_epoch"], first["epoch"], "{measure}");
        let test = &first["validation"]["test"];
        // What is minimised is the cross-entropy alone, and nothing is smoothed.
        let of = |name: &str| test[name].as_f64().unwrap();
        assert!((of("loss") - of("cross_entropy")).abs() < 1e-6, "{test}");
        assert!(of("accuracy_top5") >= of("accuracy") && of("f1") <= 1.0);
    }
}

#[test]
fn a_command_that_fails_loses_nothing() {
    let case = case("[validation.test.metrics.mine]\ncommand = [\"cat\"]\nbetter = \"higher\"\n");
    // The measure of an epoch is a number that depends on the predictions alone.
    let program = case.out("metric.sh");
    let works = "cksum < \"$1\" | cut -d ' ' -f 1";
    let command = format!("validation.test.metrics.mine.command=[\"sh\", {program:?}]");
    let run = |name: &str, resume: bool, script: &str| {
        std::fs::write(&program, script).unwrap();
        case.run(name, resume, &[&command, "train.epochs=3", "train.ema=0.9"])
    };
    run("whole", false, works).code(0);
    // It fails after the second epoch.
    let log = case.out("log");
    let once = format!(
        "echo x >> {0}; test $(wc -l < {0}) = 1 || {{ echo no ruler >&2; exit 7; }}; {works}",
        log.display()
    );
    run("parts", false, &once).refused(&[
        "epoch 2 could not be measured",
        "--resume",
        "validation.test.metrics.mine.command: sh",
        "exit status: 7",
        "no ruler",
    ]);
    assert_eq!(lines(&case.out("parts/metrics.jsonl")).len(), 1);
    run("parts", true, "echo nothing").refused(&["epoch 2 could not be measured", "\"nothing\""]);
    run("parts", true, "echo nan").refused(&["\"nan\""]);
    run("parts", true, works).code(0);
    let (whole, parts) = (case.results("whole"), case.results("parts"));
    assert_eq!(whole.0, parts.0);
    assert!(whole.1 == parts.1, "other weights");
    // A command may be mended, and what it says may not mean the opposite.
    let other =
        [command.as_str(), "train.epochs=3", "train.ema=0.9", "validation.test.metrics.mine.better=lower"];
    case.resume("whole", &other).refused(&["--resume", "validation.test.metrics.mine.better"]);
    // eval names it as well.
    std::fs::write(&program, "exit 9").unwrap();
    kd_train(&args!["eval", case.out("whole")]).refused(&["metrics.mine.command", "exit status: 9"]);
    let slow = [
        "eval",
        "--set",
        "validation.test.metrics.mine={ command = [\"sh\", \"-c\", \"sleep 100\"], \
                better = \"lower\", timeout = 0.2 }",
    ];
    let mut args = args![slow[0], case.out("whole")].to_vec();
    args.extend(slow[1..].iter().map(Into::into));
    kd_train(&args).refused(&["longer than 0.2 s", "validation.test.metrics.mine.timeout"]);
    // And every other set can still be measured, or this one without it.
    let without = evaluated(&case.out("whole"), &["--set", "validation.test.metrics={}"]);
    assert!(without["test"].get("mine").is_none());
}

#[test]
fn ctrl_c_ends_a_command_and_the_run_goes_on() {
    let case = case("[validation.test.metrics.mine]\ncommand = [\"cat\"]\nbetter = \"higher\"\n");
    let mark = case.out("mark");
    let script = format!("echo $$ > {}; sleep 300; echo 1", mark.display());
    let command = |script: &str| format!("validation.test.metrics.mine.command=[\"sh\", \"-c\", {script:?}]");
    let set = command(&script);
    let child = case.command("run", false, &[&set]).spawn().unwrap();
    let begun = Instant::now();
    while std::fs::read_to_string(&mark).map_or(0, |text| text.len()) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no command within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let said = Said::from(child.wait_with_output().unwrap()).code(130);
    assert!(begun.elapsed() < Duration::from_secs(120));
    assert_eq!((&said.json()["outcome"], &said.json()["epochs"]), (&json!("interrupted"), &json!(0)));
    let id = std::fs::read_to_string(&mark).unwrap();
    let alive = Command::new("kill").args(["-0", id.trim()]).output().unwrap();
    assert!(!alive.status.success(), "the command lives");
    let report = case.resume("run", &[&command("echo 1")]).code(0).json();
    assert_eq!((&report["epochs"], &report["steps"]), (&json!(2), &json!(16)));
}

#[test]
fn commands_that_cannot_be_are_refused() {
    let case = case("");
    let refused = |metrics: &str, words: &[&str]| {
        case.train("refused", &[&format!("validation.test.metrics={metrics}")]).refused(words);
        assert!(!case.out("refused").exists());
    };
    refused(
        "{ f1 = { command = [\"true\"], better = \"higher\" } }",
        &["validation.test.metrics.f1", "another name"],
    );
    refused("{ mine = { command = [\"true\"] } }", &["validation.test.metrics.mine.better: missing"]);
    refused("{ mine = { command = [], better = \"lower\" } }", &["metrics.mine.command", "at least 1"]);
    refused(
        "{ mine = { command = [\"true\"], better = \"best\" } }",
        &["metrics.mine.better: expected one of higher, lower"],
    );
    refused(
        "{ \"a.b\" = { command = [\"true\"], better = \"lower\" } }",
        &["validation.test.metrics", "without dots", "a.b"],
    );
    refused(
        "{ mine = { command = [\"true\"], better = \"lower\", timeout = 0 } }",
        &["timeout", "more than 0"],
    );
    case.train("refused", &["train.select_by=test.mine"])
        .refused(&["no measure \"mine\"", "f1_weighted, loss"]);
}

/// The names of the checkpoints that lie beside the best and the last.
fn steps(run: &Path) -> Vec<String> {
    let names = files(run).into_keys().filter_map(|name| {
        name.strip_prefix("checkpoints/")?.strip_suffix(".safetensors").map(str::to_owned)
    });
    let mut names: Vec<String> = names.filter(|name| name.starts_with("step-")).collect();
    names.sort_unstable();
    names
}

#[test]
fn the_best_and_the_last_checkpoints_stay() {
    let case = case("");
    let mine =
        |name: &str| series(&case, name, &["5", "3", "2", "2.5", "4", "6", "1.5", "9", "9", "9", "9", "9"]);
    let set = ["train.epochs=8", "train.select_by=test.mine", "checkpoint.best=3", "checkpoint.last=2"];
    let whole = mine("whole.txt");
    let report = case.train("whole", &[&set[..], &[&whole]].concat()).code(0).json();
    // After epochs 7, 3 and 4, and the last two; 8 steps an epoch.
    let expected = ["step-000024", "step-000032", "step-000056", "step-000064"];
    assert_eq!(steps(&case.out("whole")), expected);
    let named: Vec<&str> =
        report["checkpoints"].as_array().unwrap().iter().map(|kept| kept["name"].as_str().unwrap()).collect();
    assert_eq!(named, expected);
    assert_eq!(
        (&report["checkpoints"][0]["epoch"], &report["checkpoints"][0]["score"]),
        (&json!(3), &json!(-2.0))
    );
    // Each is the student that its epoch measured; best and last are two of them.
    let without = ["--set", "validation.test.metrics={}"];
    let epochs = lines(&case.out("whole").join("metrics.jsonl"));
    let measured = |name: &str| {
        evaluated(&case.out("whole"), &[&["--checkpoint", name], &without[..]].concat())["test"].clone()
    };
    for (name, epoch) in [("step-000024", 3), ("step-000056", 7), ("best", 7), ("last", 8)] {
        let (found, expected) = (measured(name), &epochs[epoch - 1]["validation"]["test"]);
        for key in ["accuracy", "f1", "cross_entropy"] {
            let of = |set: &Value| set[key].as_f64().unwrap();
            assert!((of(&found) - of(expected)).abs() < 1e-6, "{name}, {key}: {found} and {expected}");
        }
    }
    predict(&case, "whole", "p.parquet", &["--checkpoint", "step-000024"]).code(0);
    kd_train(&args!["eval", case.out("whole"), "--checkpoint", "step-000001"])
        .refused(&["--checkpoint step-000001", "best, last, step-000024"]);
    // An interrupted run agrees on which they are, whatever its epoch that was cut short measured.
    let values = ["5", "3", "2", "0.1", "2.5", "4", "6", "1.5", "9"];
    let parts = series(&case, "parts.txt", &values);
    for (most, resume) in [("train.max_steps=28", false), ("train.max_steps=900", true)] {
        case.run("parts", resume, &[&set[..], &[&parts, most]].concat()).code(0);
    }
    let (whole, parts) = (files(&case.out("whole")), files(&case.out("parts")));
    let kept = |all: &std::collections::BTreeMap<String, Vec<u8>>| {
        let own =
            all.iter().filter(|(name, _)| name.starts_with("checkpoints/step-") || name.contains("best"));
        own.map(|(name, bytes)| (name.clone(), bytes.clone())).collect::<Vec<_>>()
    };
    assert_eq!(steps(&case.out("parts")), expected);
    assert!(kept(&whole) == kept(&parts), "other students");
    // No more than today where nothing is asked for, and fewer when fewer are.
    case.train("plain", &["train.epochs=2"]).code(0);
    assert_eq!(steps(&case.out("plain")), Vec::<String>::new());
    case.train("refused", &["checkpoint.best=0"]).refused(&["checkpoint.best", "at least 1"]);
}

/// Every kind of student comes back from a checkpoint as it was measured.
#[test]
fn checkpoints_of_every_student() {
    let case = case("");
    let small = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/small.pt"));
    for (name, student, layout) in [
        ("conv", "student={ kind = \"conv\", channels = [4, 8], classes = 10 }", "preprocess.scale=255.0"),
        ("torchscript", small.as_str(), "preprocess.layout=nchw"),
    ] {
        let classes = "student.classes=10";
        let set = [student, classes, layout, "train.epochs=3", "checkpoint.last=3"];
        case.train(name, &set).code(0);
        for epoch in lines(&case.out(name).join("metrics.jsonl")) {
            let step = format!("step-{:06}", epoch["step"].as_u64().unwrap());
            let found = evaluated(&case.out(name), &["--checkpoint", &step]);
            let of = |set: &Value| set["cross_entropy"].as_f64().unwrap();
            assert!((of(&found["test"]) - of(&epoch["validation"]["test"])).abs() < 1e-4, "{name} {step}");
            // Lines and columns say the same.
            let [rows, table] = ["p.jsonl", "p.parquet"].map(|file| {
                predict(&case, name, file, &["--checkpoint", &step]).code(0);
                case.out(file)
            });
            let (rows, table) = (lines(&rows), read(&table));
            let classes: Vec<u64> = rows.iter().map(|row| row["class"].as_u64().unwrap()).collect();
            let expected = numbers(&table, "class").into_iter().map(u64::from);
            assert_eq!(classes, expected.collect::<Vec<_>>(), "{name} {step}");
            for (row, probability) in rows.iter().zip(floats(&table, "probability")) {
                assert!((row["probability"].as_f64().unwrap() - f64::from(probability)).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn a_finished_run_is_measured_on_another_set() {
    let case = case("");
    case.train("run", &[]).code(0);
    let images = format!(
        "validation.seen.dataset.images={}",
        fixture("fashion-mnist/train-images-idx3-ubyte.gz").display()
    );
    let labels = format!(
        "validation.seen.dataset.labels={}",
        fixture("fashion-mnist/train-labels-idx1-ubyte.gz").display()
    );
    let set = ["--set", "validation.seen.dataset.kind=idx", "--set", &images, "--set", &labels];
    let both = evaluated(&case.out("run"), &set);
    assert_eq!((&both["seen"]["samples"], &both["test"]["samples"]), (&json!(512), &json!(256)));
    let one = evaluated(&case.out("run"), &[&set[..], &["--dataset", "seen"]].concat());
    assert_eq!(one.as_object().unwrap().keys().collect::<Vec<_>>(), ["seen"]);
    assert_eq!(one["seen"], both["seen"]);
    kd_train(&args!["eval", case.out("run"), "--dataset", "valid"]).refused(&["\"valid\"", "test"]);
    // With the targets of a cache over it, which the run has never seen.
    let cache = case.out("cache");
    build(&cache_config(case.dir.path(), "linear.onnx"), &cache, &[]).code(0);
    let cache = format!("validation.seen.cache={}", cache.display());
    let taught = evaluated(&case.out("run"), &[&set[..], &["--dataset", "seen", "--set", &cache]].concat());
    assert!(
        taught["seen"]["kl"].as_f64().unwrap() > 0.0 && taught["seen"]["accuracy"] == one["seen"]["accuracy"]
    );
}

/// A language model's run: its predictions are of positions.
#[test]
fn tokens_are_predicted_each() {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<Vec<u16>> =
        (0..6u16).map(|own| (0..20 + own).map(|at| 1 + (own * 5 + at * 3) % 7).collect()).collect();
    let stream: Vec<u8> =
        documents.iter().flat_map(|own| own.iter().chain(&[0]).flat_map(|t| t.to_le_bytes())).collect();
    let tokens = dir.path().join("tokens.bin");
    std::fs::write(&tokens, stream).unwrap();
    let cache = format!(
        "seed = 5\n[dataset]\nkind = \"tokens\"\npaths = [{tokens:?}]\ndtype = \"u16\"\nseparator = 0\n\
         rows = {{ length = 12 }}\n[teacher]\nkind = \"onnx\"\npath = {:?}\nbatch = 2\nthreads = 1\n[head]\nk = 6\n\
         [tail]\nrank = 2\nfit_samples = 60\n",
        fixture("teachers/causal.onnx")
    );
    let cache = write(dir.path(), "cache.toml", &cache);
    build(&cache, &dir.path().join("cache"), &[]).code(0);
    let config = format!(
        "[student]\nkind = \"llama\"\nhidden_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\n\
         [loss]\nweights = {{ kl = 0.5, cross_entropy = 0.5 }}\n[optimizer]\nkind = \"adamw\"\nlearning_rate = 0.01\n\
         [train]\nepochs = 3\nbatch = 4\nthreads = 1\n[checkpoint]\nlast = 2\n[validation.seen]\ncache = {:?}\n\
         [validation.seen.metrics.rows]\ncommand = [\"sh\", \"-c\", \"test -s \\\"$0\\\" && echo 3\"]\nbetter = \"lower\"\n",
        dir.path().join("cache")
    );
    let config = write(dir.path(), "train.toml", &config);
    let run = dir.path().join("run");
    let args = args![
        "--config",
        config,
        "--cache",
        dir.path().join("cache"),
        "--out",
        run,
        "--quiet",
        "--format",
        "json"
    ];
    let report = kd_train(&args).code(0).json();
    let measured = &report["validation"]["seen"];
    assert_eq!(measured["rows"], json!(3.0));
    assert!(
        measured.get("f1").is_none() && measured["accuracy_top5"].as_f64() >= measured["accuracy"].as_f64()
    );
    let of = |name: &str| measured[name].as_f64().unwrap();
    assert!((of("loss") - (of("kl") + of("cross_entropy")) / 2.0).abs() < 1e-6, "{measured}");

    let file = dir.path().join("p.parquet");
    let predict = |more: &[&str]| {
        let mut args = args!["predict", run, "--dataset", "seen", "--out", file].to_vec();
        args.extend(more.iter().map(Into::into));
        kd_train(&args)
    };
    predict(&["--top", "2"]).code(0);
    let table = read(&file);
    let expected =
        ["sample", "position", "token", "label", "class", "probability", "top_classes", "top_probabilities"];
    assert_eq!(names(&table), expected);
    assert_eq!(json!(table.num_rows()), measured["samples"]);
    let samples = table.column(0).as_primitive::<UInt64Type>().values().to_vec();
    let (places, read_tokens, classes) =
        (numbers(&table, "position"), numbers(&table, "token"), numbers(&table, "class"));
    let labels = table.column_by_name("label").unwrap().as_primitive::<UInt32Type>();
    let (mut right, mut labelled) = (0.0, 0.0);
    for at in 0..table.num_rows() {
        let goes_on = at + 1 < table.num_rows() && samples[at + 1] == samples[at];
        assert_eq!(places[at], if at > 0 && samples[at - 1] == samples[at] { places[at - 1] + 1 } else { 0 });
        if labels.is_null(at) {
            continue;
        }
        // Within a row the label is the token that is read next.
        assert!(!goes_on || labels.value(at) == read_tokens[at + 1], "position {at}");
        labelled += 1.0;
        right += f64::from(u8::from(labels.value(at) == classes[at]));
    }
    assert!((right / labelled - of("accuracy")).abs() < 1e-12, "{right} of {labelled}: {measured}");
    // On another cache, by a name of its own.
    let other = format!("validation.other.cache={}", dir.path().join("cache").display());
    let other = evaluated(&run, &["--dataset", "other", "--set", &other]);
    assert_eq!(other["other"]["kl"], evaluated(&run, &[])["seen"]["kl"]);
    // Of an earlier epoch, too.
    let name = report["checkpoints"][0]["name"].as_str().unwrap();
    predict(&["--checkpoint", name]).code(0);
    let earlier = evaluated(&run, &["--checkpoint", name]);
    let kl = |set: &Value| set["seen"]["kl"].as_f64().unwrap();
    let then = &lines(&run.join("metrics.jsonl"))[1]["validation"];
    assert!((kl(&earlier) - kl(then)).abs() < 1e-6 && (kl(&earlier) - of("kl")).abs() > 1e-6);
    kd_train(&args!["predict", run, "--dataset", "seen"]).refused(&["FILE.parquet", "kd-train generate"]);
}
