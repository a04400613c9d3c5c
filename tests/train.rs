//! `kd-train` from a cache to a student that others can load.

#![cfg(all(unix, feature = "onnx", feature = "torch"))]

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{Case, Said, build, files, fixture, kd_train, lines, python_with, write};
use serde_json::{Value, json};

/// Students of one cache are alike to the last bit, whatever form it has.
#[test]
fn either_form_of_a_cache_teaches_the_same() {
    let arrow = Case::with_cache(&["storage.values=quantized", "storage.step=0.05", "tail.rank=2"]);
    let parquet = Case::with_cache(&[
        "storage.values=quantized",
        "storage.step=0.05",
        "tail.rank=2",
        "storage.form=parquet",
        "storage.level=3",
    ]);
    let losses = |case: &Case| {
        case.train("run", &["train.epochs=1"]).code(0);
        let epoch = &lines(&case.out("run").join("metrics.jsonl"))[0];
        (epoch["train_loss"].clone(), epoch["validation"].clone())
    };
    assert_eq!(losses(&arrow), losses(&parquet));
}

#[test]
fn a_student_learns_from_the_cache_alone() {
    let case = Case::new();
    // No teacher to be found, no runtime to run it with, no labels to learn from.
    std::fs::remove_file(case.dir.path().join("cache.toml")).unwrap();
    let out = case.out("run");
    let set = [
        "loss.weights={ kl = 1.0 }",
        "train.epochs=30",
        "loss.temperature=4",
        "optimizer.learning_rate=0.02",
    ];
    let done =
        case.command("run", false, &set).env("ORT_DYLIB_PATH", "/no/such/library.so").output().unwrap();
    let report = Said::from(done).code(0).json();
    assert_eq!(
        (&report["outcome"], &report["samples"], &report["steps"]),
        (&json!("trained"), &json!(512), &json!(240))
    );
    assert_eq!(
        (&report["temperature"], &report["parameters"]),
        (&json!(4.0), &json!(784 * 16 + 16 + 160 + 10))
    );
    assert!(report["teacher_digest"].as_str().unwrap().starts_with("sha256:"));
    let accuracy = report["validation"]["test"]["accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.6, "512 samples teach a tenth, {accuracy} was learnt");
    let epochs = lines(&out.join("metrics.jsonl"));
    assert_eq!(epochs.len(), 30);
    let kl = |epoch: &Value| epoch["kl"].as_f64().unwrap();
    assert!(kl(&epochs[29]) < kl(&epochs[0]) / 4.0, "{} → {}", kl(&epochs[0]), kl(&epochs[29]));
    assert!(epochs.iter().all(|epoch| kl(epoch) >= 0.0 && epoch.get("cross_entropy").is_none()));
    assert_eq!((&epochs[29]["epoch"], &epochs[29]["step"]), (&json!(30), &json!(240)));
    for name in ["config.toml", "summary.json", "student.safetensors", "student.pt"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    for name in ["best.safetensors", "last.safetensors"] {
        assert!(out.join("checkpoints").join(name).is_file(), "{name}");
    }
}

#[test]
fn runs_repeat_by_their_seed() {
    let case = Case::new();
    let run = |name: &str, set: &[&str]| {
        let report = case.train(name, set).code(0).json();
        let weights = std::fs::read(case.out(name).join("student.safetensors")).unwrap();
        (report["train_loss"].as_f64().unwrap(), weights)
    };
    let first = run("first", &[]);
    assert_eq!(run("again", &[]), first);
    // How far ahead batches are prepared changes nothing.
    assert_eq!(run("ahead", &["train.prefetch=1"]), first);
    // The CPU gives the same bits without being told.
    assert_eq!(run("told", &["train.deterministic=true"]), first);
    assert_ne!(run("other", &["seed=4"]).1, first.1);
}

#[test]
fn every_tail_temperature_and_optimizer_trains() {
    let case = Case::new();
    let mut losses = Vec::new();
    for (at, set) in [
        ["loss.tail=prior", "loss.temperature=1", "seed=0"],
        ["loss.tail=uniform", "loss.temperature=2", "seed=0"],
        ["loss.tail=bucket", "loss.temperature=2", "seed=0"],
        ["loss.tail=renormalize", "loss.temperature=2", "seed=0"],
        ["loss.tail=prior", "loss.temperature=8", "seed=0"],
        ["loss.tail=prior", "optimizer={ kind = \"sgd\", learning_rate = 0.05, nesterov = true }", "seed=0"],
        ["loss.weights={ kl = 1.0 }", "schedule={ kind = \"cosine\", warmup_epochs = 0.5 }", "seed=0"],
        [
            "loss.weights={ cross_entropy = 1.0 }",
            "schedule={ kind = \"constant\", warmup_epochs = 1 }",
            "seed=0",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let report = case.train(&format!("run-{at}"), &set).code(0).json();
        let epochs = lines(&case.out(&format!("run-{at}")).join("metrics.jsonl"));
        let loss = |at: usize| epochs[at]["train_loss"].as_f64().unwrap();
        assert!(loss(1) < loss(0), "{set:?}: {} → {}", loss(0), loss(1));
        losses.push(report["train_loss"].as_f64().unwrap());
    }
    // What is asked for is what is minimised: no two of them are the same.
    losses.sort_by(f64::total_cmp);
    assert!(losses.windows(2).all(|pair| pair[0] < pair[1]), "{losses:?}");
}

#[test]
fn a_shape_is_used_where_the_cache_has_one() {
    let case = Case::with_cache(&["tail.rank=2"]);
    let loss = |name: &str, set: &[&str]| {
        let report = case.train(name, set).code(0).json();
        report["train_loss"].as_f64().unwrap()
    };
    let (default, shape) = (loss("default", &[]), loss("shape", &["loss.tail=shape"]));
    assert_eq!(default, shape);
    assert_ne!(shape, loss("prior", &["loss.tail=prior"]));
    // And where it has none, the prior is.
    let flat = Case::new();
    let loss = |name: &str, set: &[&str]| flat.train(name, set).code(0).json()["train_loss"].clone();
    assert_eq!(loss("default", &[]), loss("prior", &["loss.tail=prior"]));
}

#[test]
fn every_student_trains_and_is_exported() {
    let case = Case::new();
    let small = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/small.pt"));
    for (name, student) in [
        ("mlp", "student={ kind = \"mlp\", hidden = [] }"),
        ("conv", "student={ kind = \"conv\", channels = [4, 8] }"),
        ("resnet18", "student={ kind = \"resnet18\", width = 4 }"),
        ("torchscript", small.as_str()),
    ] {
        let set = [student, "train.epochs=1", "dataset.limit=512"];
        let said = case.train(name, &set).code(0);
        assert!(!said.err.contains("warning"), "{}", said.err);
        let report = said.json();
        let run = case.out(name);
        // The exported module is the student that was measured.
        let eval = kd_train(&args!["eval", run, "--format", "json"]).code(0).json();
        let (expected, found) = (&report["validation"]["test"], &eval["validation"]["test"]);
        assert_eq!(expected["accuracy"], found["accuracy"], "{name}");
        let entropy = |set: &Value| set["cross_entropy"].as_f64().unwrap();
        assert!((entropy(expected) - entropy(found)).abs() < 1e-4, "{name}: {expected} and {found}");
    }
}

/// However quiet it is to be, a module that does what a student must not is told of; what is no student's module is refused.
#[test]
fn modules_that_are_no_students_are_told_of() {
    let case = Case::new();
    let module = |name: &str| format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture(name));
    for (name, words) in [
        ("softmax", "the student returns probabilities"),
        ("traced", "differ from one time to the next, as with dropout that is on"),
    ] {
        let set = [&module(&format!("students/{name}.pt")), "train.epochs=1", "preprocess.layout=nchw"];
        let said = case.train(name, &set).code(0);
        assert!(said.err.starts_with("warning: the student") && said.err.contains(words), "{}", said.err);
    }
    case.refused(
        &[&module("students/half.pt")],
        &["half.pt", "expected weights in single precision, found Half", "model.float()"],
    );
    case.refused(&[&module("teachers/softmax.onnx")], &["cannot be trained", "torch.jit.script"]);
    case.refused(&[&module("teachers")], &["a folder"]);
}

#[test]
fn measures_and_the_best_epoch() {
    let case = Case::new();
    let test = case.out("test-cache");
    let images = format!("dataset.images={}", fixture("fashion-mnist/t10k-images-idx3-ubyte.gz").display());
    let labels = format!("dataset.labels={}", fixture("fashion-mnist/t10k-labels-idx1-ubyte.gz").display());
    build(&case.dir.path().join("cache.toml"), &test, &[&images, &labels, "head.k=10"]).code(0);
    let cache = format!("validation.test.cache={}", test.display());
    let report = case
        .train("run", &[&cache, "train.epochs=6", "train.select_by=test.kl", "optimizer.learning_rate=0.05"])
        .code(0)
        .json();
    let epochs = lines(&case.out("run").join("metrics.jsonl"));
    let kl = |epoch: &Value| epoch["validation"]["test"]["kl"].as_f64().unwrap();
    let best = epochs.iter().min_by(|a, b| kl(a).total_cmp(&kl(b))).unwrap();
    assert_eq!((&report["selected_by"], &report["best_epoch"]), (&json!("test.kl"), &best["epoch"]));
    assert_eq!(report["validation"], best["validation"]);
    let measured = &best["validation"]["test"];
    assert_eq!(measured["samples"], 256);
    for key in ["accuracy", "agreement"] {
        assert!((0.3..=1.0).contains(&measured[key].as_f64().unwrap()), "{key}: {measured}");
    }
    // Predictions are those that were measured, in the order of the dataset.
    let file = case.out("predictions.jsonl");
    kd_train(&args!["predict", case.out("run"), "--dataset", "test", "--out", file]).code(0);
    let predictions = lines(&file);
    let ids: Vec<u64> = predictions.iter().map(|p| p["sample"].as_u64().unwrap()).collect();
    assert_eq!(ids, (0..256).collect::<Vec<_>>());
    let right = predictions.iter().filter(|p| p["class"] == p["label"]).count();
    assert_eq!(right as f64 / 256.0, measured["accuracy"].as_f64().unwrap());
    let piped = kd_train(&args!["predict", case.out("run"), "--dataset", "test"]).code(0);
    assert_eq!(piped.out, std::fs::read_to_string(&file).unwrap());
    // On another set, by the name it has in another config.
    let text =
        std::fs::read_to_string(&case.config).unwrap().replace("[validation.test.", "[validation.held_out.");
    let other = write(case.dir.path(), "other.toml", &text);
    let eval =
        kd_train(&args!["eval", case.out("run"), "--config", other, "--format", "json"]).code(0).json();
    assert_eq!(eval["validation"]["held_out"]["accuracy"], measured["accuracy"]);
}

/// Two sets of the same images, the second with labels that are all wrong: the surer a student gets, the worse it is there.
#[test]
fn of_two_sets_the_one_that_is_named_chooses() {
    let case = Case::new();
    let packed = std::fs::File::open(fixture("fashion-mnist/t10k-labels-idx1-ubyte.gz")).unwrap();
    let mut labels = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut labels).unwrap();
    // Behind the magic number and a length.
    labels[8..].iter_mut().for_each(|label| *label = (*label + 1) % 10);
    let wrong = case.out("wrong-idx1-ubyte");
    std::fs::write(&wrong, labels).unwrap();
    let wrong = format!(
        "validation.wrong.dataset={{ kind = \"idx\", images = {:?}, labels = {wrong:?} }}",
        fixture("fashion-mnist/t10k-images-idx3-ubyte.gz")
    );
    let best_by = |set: &str| {
        let select_by = format!("train.select_by={set}.cross_entropy");
        let set = [wrong.as_str(), &select_by, "train.epochs=5", "optimizer.learning_rate=0.003"];
        let report = case.train("run", &set).code(0).json();
        let epochs = case.epochs("run");
        let eval = kd_train(&args!["eval", case.out("run"), "--format", "json"]).code(0).json();
        std::fs::remove_dir_all(case.out("run")).unwrap();
        (report, epochs, eval)
    };
    let of = |line: &Value, set: &str, measure: &str| {
        line["validation"][set][measure].as_f64().unwrap_or_else(|| panic!("{set}.{measure}: {line}"))
    };
    let mut chosen = Vec::new();
    for set in ["test", "wrong"] {
        let (report, epochs, eval) = best_by(set);
        let entropy = |line: &&Value| of(line, set, "cross_entropy");
        let best = epochs.iter().min_by(|a, b| entropy(a).total_cmp(&entropy(b))).unwrap();
        assert_eq!(report["selected_by"], json!(format!("{set}.cross_entropy")));
        assert_eq!(report["best_epoch"], best["epoch"]);
        // Both sets are told, of each epoch and of the best.
        assert_eq!(report["validation"], best["validation"]);
        assert!(epochs.iter().all(|line| of(line, "test", "accuracy") > of(line, "wrong", "accuracy")));
        // And the student that is left is that epoch's.
        for told in ["test", "wrong"] {
            for measure in ["accuracy", "cross_entropy"] {
                let (found, expected) = (of(&eval, told, measure), of(best, told, measure));
                assert!(
                    (found - expected).abs() < 1e-5 * (1.0 + expected),
                    "{told}.{measure}: {found} is not {expected}"
                );
            }
        }
        chosen.push(best["epoch"].as_u64().unwrap());
    }
    assert!(chosen[1] == 1 && chosen[0] > 1, "{chosen:?}");
}

#[test]
fn what_does_not_belong_together_is_refused_naming_both() {
    let case = Case::new();
    let refused = |set: &[&str], words: &[&str]| case.refused(set, words);
    let images = format!("dataset.images={}", fixture("fashion-mnist/t10k-images-idx3-ubyte.gz").display());
    let labels = format!("dataset.labels={}", fixture("fashion-mnist/t10k-labels-idx1-ubyte.gz").display());
    refused(
        &[&images, &labels],
        &["dataset: the config gives 256 samples", "was built with 512 samples", "fingerprint"],
    );
    refused(&["dataset.limit=100"], &["dataset: the config gives 100 samples", "512 samples"]);
    let mut wrong = vec![0, 0, 8, 1, 0, 0, 2, 0];
    wrong.extend([3u8; 512]);
    let path = case.out("labels");
    std::fs::write(&path, &wrong).unwrap();
    let changed = format!("dataset.labels={}", path.display());
    refused(&[&changed], &["dataset.labels: the config gives sha256:", "was built with sha256:"]);
    *wrong.last_mut().unwrap() = 10;
    std::fs::write(&path, &wrong).unwrap();
    refused(&[&changed], &["dataset.labels", "labels"]);
    refused(
        &["student.classes=12"],
        &["student.classes: the config gives 12", "10 classes", "leave the key out"],
    );
    refused(
        &["loss.temperature=0.5"],
        &["loss.temperature: temperature 0.5 is below 1", "tail.nodes up to 2"],
    );
    refused(
        &["train.select_by=test.kl"],
        &["train.select_by", "no measure \"kl\"", "accuracy, cross_entropy"],
    );
    refused(&["train.select_by=valid.kl"], &["no validation set named \"valid\" (there are: test)"]);
    refused(
        &["student={ kind = \"conv\", channels = [4] }", "preprocess.layout=flat"],
        &["student.kind = \"conv\""],
    );
    refused(&["student={ kind = \"conv\", channels = [1,1,1,1,1,1,1] }"], &["student.channels: 7 blocks"]);
    refused(&["student={ kind = \"torchscript\", path = \"/no/such.pt\" }"], &["/no/such.pt"]);
    let seven = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("teachers/linear.pt"));
    refused(&[&seven], &["linear.pt", "no trainable parameters", "torch.jit.script"]);
    refused(
        &["loss.temprature=2", "student.kind=mpl", "train.epochs=0"],
        &[
            "3 faults",
            "did you mean temperature?",
            "did you mean mlp?",
            "train.epochs: expected at least 1, found 0",
        ],
    );
    refused(&["loss.weights={ kl = 0.0 }"], &["loss.weights: expected a positive weight"]);
    let without = Case { caches: Vec::new(), ..Case::new() };
    without.refused(&[], &["loss.weights.kl is 0.7, but there is no cache", "--cache DIR"]);
    let alone = ["loss.weights={ cross_entropy = 1.0 }", "student={ kind = \"mlp\", hidden = [4] }"];
    without.refused(&alone, &["student.classes: missing"]);
    let command = |cache: &Path| {
        kd_train(&args!["--cache", cache, "--config", case.config, "--out", case.out("refused")])
    };
    command(&case.out("nothing")).refused(&["holds no cache"]);
    std::fs::remove_file(case.out("cache/shards/00003.arrow")).unwrap();
    // Shards are mapped when they are first touched: the missing one is named.
    let said = command(&case.out("cache")).code(2);
    assert!(said.err.contains("00003.arrow"), "{}", said.err);
}

#[test]
fn labels_alone_need_no_cache() {
    let case = Case { caches: Vec::new(), ..Case::new() };
    let report = case.train("run", &["loss.weights={ cross_entropy = 1.0 }"]).code(0).json();
    assert!(report.get("cache").is_none() && report.get("temperature").is_none());
    assert!(case.epochs("run")[0].get("kl").is_none());
}

#[test]
fn a_run_is_overwritten_only_when_asked_and_nothing_else_ever() {
    let case = Case::new();
    let run = case.out("run");
    case.train("run", &[]).code(0);
    let before = files(&run);
    case.train("run", &["seed=9"]).refused(&["run exists and is not empty", "--overwrite"]);
    assert_eq!(files(&run), before);
    let again =
        |set: &[&str]| Said::from(case.command("run", false, set).arg("--overwrite").output().unwrap());
    again(&["seed=9"]).code(0);
    assert_ne!(files(&run)["student.safetensors"], before["student.safetensors"]);
    std::fs::write(run.join("notes.md"), "mine").unwrap();
    let before = files(&run);
    again(&[]).refused(&["notes.md is not one of its files", "not overwritten"]);
    assert_eq!(files(&run), before);
    kd_train(&args!["eval", case.out("nothing")]).refused(&["cannot read config", "nothing/config.toml"]);
    kd_train(&args!["predict", run, "--dataset", "valid"])
        .refused(&["no validation set named \"valid\"", "test"]);
}

#[test]
fn ctrl_c_keeps_the_finished_epochs() {
    let case = Case::new();
    let out = case.out("run");
    let child = case.command("run", false, &["train.epochs=100000"]).spawn().unwrap();
    let (metrics, begun) = (out.join("metrics.jsonl"), Instant::now());
    while std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no two epochs within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let said = Said::from(child.wait_with_output().unwrap()).code(130);
    let report = said.json();
    assert_eq!(report["outcome"], "interrupted");
    assert_eq!(report["epochs"], lines(&metrics).len());
    assert!(said.err.contains("interrupted after"), "{}", said.err);
    kd_train(&args!["eval", out]).code(0);
}

const LOAD: &str = "
import gzip, json, struct, sys
import torch
module = torch.jit.load(sys.argv[1])
data = gzip.open(sys.argv[2]).read()
count, height, width = struct.unpack('>3I', data[4:16])
pixels = torch.frombuffer(bytearray(data[16:]), dtype=torch.uint8).view(count, 1, height, width)
with torch.no_grad():
    top = module(pixels.float() / 255).softmax(-1).max(-1)
print(json.dumps({'class': top.indices.tolist(), 'probability': top.values.tolist()}))
";

/// Students open in PyTorch and say there what they say here. Skipped, aloud, without PyTorch.
#[test]
fn students_load_in_pytorch() {
    let Some(python) = python_with(&["torch"]) else { return };
    let case = Case::new();
    let small = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/small.pt"));
    for (name, student) in
        [("conv", "student={ kind = \"conv\", channels = [4, 8] }"), ("torchscript", small.as_str())]
    {
        case.train(name, &[student]).code(0);
        let run = case.out(name);
        let images = fixture("fashion-mnist/t10k-images-idx3-ubyte.gz");
        let done = Command::new(&python)
            .arg("-c")
            .arg(LOAD)
            .arg(run.join("student.pt"))
            .arg(images)
            .output()
            .unwrap();
        let theirs = Said::from(done).code(0).json();
        let ours = kd_train(&args!["predict", run, "--dataset", "test"]).code(0);
        let ours: Vec<Value> = ours.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(ours.len(), 256);
        for (at, ours) in ours.iter().enumerate() {
            assert_eq!(ours["class"], theirs["class"][at], "{name}, sample {at}");
            let difference =
                ours["probability"].as_f64().unwrap() - theirs["probability"][at].as_f64().unwrap();
            assert!(difference.abs() < 1e-4, "{name}, sample {at}");
        }
    }
}
