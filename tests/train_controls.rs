//! What a run is steered with. The built programs.

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::sync::atomic::AtomicBool;

use crate::common::{Case, fixture, kd_train};
use kd_cache::config;
use kd_cache::loader::Ranks;
use kd_cache::ops::Silent;
use kd_cache::tracking::mlflow;
use kd_cache::train::{self, RunOptions};
use serde_json::{Value, json};

/// Sets are measured in their turn and in the end, and a measure chooses among those epochs alone.
#[test]
fn validation_comes_every_so_many_epochs() {
    let case = Case::new();
    let measured = |name: &str| {
        let epochs = case.epochs(name);
        let of = |epoch: &&Value| epoch["validation"].get("test").is_some();
        epochs.iter().filter(of).map(|epoch| epoch["epoch"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let set = ["train.epochs=7", "train.validate_every=3", "checkpoint={ best = 2, last = 2 }"];
    let report = case.train("run", &set).code(0).json();
    assert_eq!(measured("run"), [3, 6, 7]);
    assert!(measured("run").contains(&report["best_epoch"].as_u64().unwrap()));
    let kept: Vec<(u64, bool)> = report["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kept| (kept["epoch"].as_u64().unwrap(), kept.get("score").is_some()))
        .collect();
    assert!(kept.iter().all(|(epoch, scored)| *scored == [3, 6, 7].contains(epoch)), "{report}");
    // The same where it is interrupted, also at the end of an epoch that is not measured otherwise.
    for (steps, resume) in
        [("train.max_steps=12", false), ("train.max_steps=32", true), ("train.max_steps=900", true)]
    {
        case.run("parts", resume, &[&set[..], &[steps]].concat()).code(0);
    }
    let parts: Value =
        serde_json::from_slice(&std::fs::read(case.out("parts/summary.json")).unwrap()).unwrap();
    for key in ["best_epoch", "validation", "train_loss", "checkpoints"] {
        assert_eq!(parts[key], report[key], "{key}");
    }
    // Patience counts what is measured: nothing is better than the first, and there are two looks before the end.
    let still = ["optimizer={ kind = \"sgd\", learning_rate = 1e-30 }", "train.epochs=40"];
    let patient = ["train.validate_every=3", "train.patience=2"];
    let report = case.train("still", &[still, patient].concat()).code(0).json();
    assert_eq!((&report["epochs"], &report["best_epoch"]), (&json!(9), &json!(3)));
    assert_eq!(measured("still"), [3, 6, 9]);
    // Where the training loss chooses an epoch that was not measured, the student that is kept is.
    let by_loss = ["train.select_by=train_loss", "train.validate_every=40", "train.patience=1"];
    let report = case.train("by-loss", &[&still[..], &by_loss].concat()).code(0).json();
    assert_eq!(measured("by-loss"), [0; 0], "{report}");
    let eval = kd_train(&args!["eval", case.out("by-loss"), "--format", "json"]).code(0).json();
    assert_eq!(report["validation"], eval["validation"]);
    assert!(report["validation"]["test"]["accuracy"].as_f64().is_some(), "{report}");
    case.refused(&["train.validate_every=0"], &["train.validate_every", "at least 1"]);
}

/// Which samples stand together in a batch follows from the buffer; a rest of samples is no trouble.
#[test]
fn samples_are_mixed_in_a_buffer_where_that_is_asked_for() {
    let case = Case::new();
    let losses = |name: &str, set: &[&str]| {
        case.train(name, &[&["train.epochs=2"], set].concat()).code(0);
        let epochs = case.epochs(name);
        epochs.iter().map(|epoch| epoch["train_loss"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let all = losses("all", &[]);
    let buffered = losses("buffered", &["train.shuffle={ block = 7, buffer = 21 }"]);
    assert_ne!(all, buffered);
    assert_eq!(buffered, losses("again", &["train.shuffle={ block = 7, buffer = 21 }"]));
    // A buffer of the default size takes in all there are here.
    assert!(losses("default", &["train.shuffle={}"]).iter().all(|loss| loss.is_finite()));
    assert!(losses("block", &["train.shuffle={ block = 1000 }"]).iter().all(|loss| loss.is_finite()));
    case.refused(
        &["train.shuffle={ block = 6, buffer = 10 }"],
        &["train.shuffle.buffer", "multiple", "6", "10"],
    );
    case.refused(&["train.shuffle={ block = 0 }"], &["train.shuffle.block", "at least 1"]);
    let other = ["train.epochs=2", "train.shuffle={ block = 7, buffer = 7 }"];
    case.resume("buffered", &other).refused(&["train.shuffle.buffer", "21", "7"]);
}

/// Gradients of several batches are those of one: the same loss after the same steps, but for the order of sums.
#[test]
fn accumulated_batches_are_one_large_batch() {
    let case = Case::new();
    let set = |batch: &str, accumulate: &str| {
        [
            format!("train.batch={batch}"),
            format!("train.accumulate={accumulate}"),
            "train.epochs=3".into(),
            "optimizer={ kind = \"sgd\", learning_rate = 0.2 }".into(),
        ]
    };
    let run = |name: &str, set: &[String]| {
        case.train(name, &set.iter().map(String::as_str).collect::<Vec<_>>()).code(0).json()
    };
    let large = run("large", &set("96", "1"));
    let small = run("small", &set("32", "3"));
    // 512 = 5 · 96 + 32: the last group is smaller, and weighs as much for each of its samples.
    assert_eq!((&large["steps"], &small["steps"]), (&json!(18), &json!(18)));
    let loss = |report: &Value| report["train_loss"].as_f64().unwrap();
    assert!((loss(&large) - loss(&small)).abs() < 1e-5, "{large} {small}");
    let accuracy = |report: &Value| report["validation"]["test"]["cross_entropy"].as_f64().unwrap();
    assert!((accuracy(&large) - accuracy(&small)).abs() < 1e-5);
}

#[test]
fn a_last_batch_that_is_smaller_is_left_out_where_that_is_asked_for() {
    let case = Case::new();
    let run = |name: &str, set: &[&str]| {
        case.train(name, &[&["train.epochs=2", "train.drop_last=true"], set].concat()).code(0).json()
    };
    // 512 = 5 · 100 + 12, and of five batches the last makes a step alone.
    assert_eq!(run("hundred", &["train.batch=100"])["steps"], json!(10));
    let two = ["train.batch=100", "train.accumulate=2"];
    assert_eq!(run("two", &two)["steps"], json!(6));
    for steps in ["train.max_steps=1", "train.max_steps=4", "train.max_steps=900"] {
        let resume = steps != "train.max_steps=1";
        case.run("parts", resume, &[&["train.epochs=2", "train.drop_last=true", steps], &two[..]].concat())
            .code(0);
    }
    assert!(case.results("parts") == case.results("two"));
    // Where every batch is whole, nothing is left out.
    run("all", &["train.batch=128"]);
    case.train("without", &["train.epochs=2", "train.batch=128"]).code(0);
    assert!(case.results("all") == case.results("without"));
    case.refused(
        &["train.drop_last=true", "train.batch=513"],
        &["train.drop_last: expected at least train.batch = 513 samples, found 512", "smaller train.batch"],
    );
}

#[test]
fn a_run_may_learn_from_a_part_of_the_samples() {
    let case = Case::new();
    let run =
        |name: &str, set: &[&str]| case.train(name, &[&["train.epochs=2"], set].concat()).code(0).json();
    let part = run("part", &["train.max_samples=200", "train.batch=64"]);
    // 200 = 3 · 64 + 8, twice.
    assert_eq!((&part["samples"], &part["steps"]), (&json!(200), &json!(8)));
    // What it is measured on is whole.
    let whole = run("whole", &["train.batch=64"]);
    assert_eq!(part["validation"]["test"]["samples"], whole["validation"]["test"]["samples"]);
    // All of them are no part, and another seed draws another.
    run("all", &["train.max_samples=512", "train.batch=64"]);
    assert!(case.results("all") == case.results("whole"));
    let most = ["train.max_samples=200", "train.batch=64"];
    for steps in ["train.max_steps=3", "train.max_steps=900"] {
        case.run("parts", steps.ends_with("900"), &[&["train.epochs=2", steps], &most[..]].concat()).code(0);
    }
    assert!(case.results("parts") == case.results("part"));
    case.resume("part", &["train.epochs=2", "train.max_samples=201", "train.batch=64"]).refused(&[
        "train.max_samples",
        "200",
        "201",
    ]);
    case.refused(&["train.max_samples=513"], &["train.max_samples", "at most the 512 samples", "found 513"]);
}

/// Which samples a part has: rising, drawn from all over, the smaller among the larger.
#[test]
fn parts_are_drawn_from_everywhere_and_lie_in_larger_ones() {
    let case = Case::new();
    let config: kd_cache::config::TrainConfig = kd_cache::config::load(&case.config, &[]).unwrap();
    let ids = |count: u64, seed: u64| {
        let dataset = kd_cache::dataset::open_images(config.dataset.as_ref().unwrap(), "dataset").unwrap();
        let shape = dataset.sample_shape().to_vec();
        let preprocess = kd_cache::preprocess::Preprocess::new(&Default::default(), &shape).unwrap();
        let samples = kd_cache::loader::Samples::images(dataset, preprocess, None).with_part(count, seed);
        let indices: Vec<u64> = (0..samples.len()).collect();
        let ids = samples.batch(&indices, 0).unwrap().ids;
        ids.into_iter().map(|id| id.0).collect::<Vec<u64>>()
    };
    let (few, many) = (ids(40, 7), ids(200, 7));
    assert_eq!((few.len(), many.len(), ids(600, 7)), (40, 200, (0..512).collect()));
    assert!(few.is_sorted() && many.is_sorted());
    assert!(few.iter().all(|id| many.contains(id)));
    assert_ne!(ids(40, 8), few);
    // A quarter of 40 lies in each quarter, about.
    assert!(
        few.chunk_by(|a, b| a / 128 == b / 128).all(|quarter| (3..=18).contains(&quarter.len())),
        "{few:?}"
    );
}

#[test]
fn gradients_are_clipped_and_their_norm_is_told() {
    let case = Case::new();
    let sgd = "optimizer={ kind = \"sgd\", learning_rate = 0.1, momentum = 0.0 }";
    let epoch = |name: &str, set: &[&str]| {
        case.train(name, &[&[sgd, "train.epochs=1"], set].concat()).code(0);
        case.epochs(name).remove(0)
    };
    let free = epoch("free", &[]);
    assert!(free.get("gradient_norm").is_none());
    let loose = epoch("loose", &["train.clip_norm=1e6"]);
    assert_eq!(loose["train_loss"], free["train_loss"]);
    let norm = loose["gradient_norm"].as_f64().unwrap();
    assert!(norm > 0.0, "{loose}");
    // So tight that nothing moves.
    let tight = epoch("tight", &["train.clip_norm=1e-9"]);
    let still = epoch("still", &["train.clip_value=1e-12", "tracking.gradient_norm=true"]);
    assert!(tight["train_loss"].as_f64() > free["train_loss"].as_f64());
    assert!((tight["train_loss"].as_f64().unwrap() - still["train_loss"].as_f64().unwrap()).abs() < 1e-6);
    // Whatever clips, what is told is the norm before.
    let both = epoch("both", &["train.clip_norm=1e6", "train.clip_value=1e-12"]);
    let told = |epoch: &Value| epoch["gradient_norm"].as_f64().unwrap();
    for (name, clipped) in [("still", &still), ("both", &both)] {
        assert!((told(clipped) / told(&tight) - 1.0).abs() < 1e-4, "{name}: {clipped} {tight}");
    }
    // Where both are asked for, the norm that clips is that of what has been brought between its limits.
    let weights = |name: &str, set: &[&str]| {
        case.train(name, &[&[sgd, "train.epochs=1", "train.max_steps=1"], set].concat()).code(0);
        case.weights(name)
    };
    let by_value = weights("by-value", &["train.clip_value=1e-3"]);
    let numbers: usize = by_value.values().map(Vec::len).sum();
    let (most, raw) = (1e-3 * (numbers as f64).sqrt(), told(&tight));
    assert!(1.1 * most < raw, "{most} {raw}");
    let between = format!("train.clip_norm={}", 1.05 * most);
    assert!(by_value == weights("by-both", &["train.clip_value=1e-3", &between]));
    assert!(by_value != weights("smaller", &["train.clip_value=1e-3", "train.clip_norm=1e-3"]));
}

/// Products in half types: other roundings, and the same learning, measured again to the same numbers.
#[test]
fn every_kind_of_student_trains_in_half_types() {
    let case = Case::new();
    let small = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/small.pt"));
    let kinds = [
        ("mlp", "student={ kind = \"mlp\", hidden = [32] }"),
        ("conv", "student={ kind = \"conv\", channels = [8, 16] }"),
        ("resnet", "student={ kind = \"resnet18\", width = 4 }"),
        ("module", &small),
    ];
    for (name, student) in kinds {
        let train = |precision: &str| {
            let (name, set) = (format!("{name}-{precision}"), format!("train.precision={precision}"));
            let set = [student, &set, "preprocess.layout=nchw", "train.epochs=3"];
            let report = case.train(&name, &set).code(0).json();
            let line = case.epochs(&name).pop().unwrap();
            assert_eq!(line.get("loss_scale").is_some(), precision == "f16", "{line}");
            (report["train_loss"].as_f64().unwrap(), report, case.epochs(&name))
        };
        let whole = train("f32").0;
        for precision in ["bf16", "f16"] {
            let (half, report, epochs) = train(precision);
            let run = case.out(&format!("{name}-{precision}"));
            let eval = kd_train(&args!["eval", run, "--format", "json"]).code(0).json();
            let measured = |value: &Value| value["validation"]["test"]["cross_entropy"].as_f64().unwrap();
            assert!((measured(&report) - measured(&eval)).abs() < 5e-3, "{name}: {report} {eval}");
            let skipped = epochs[2]["skipped_steps"].as_u64().unwrap_or(0);
            // Of 24 steps, the first of which teach the most.
            let near = (0.05 + 0.1 * skipped as f64) * whole;
            assert!((half - whole).abs() < near && half != whole, "{name}, {precision}: {half} for {whole}");
            if precision == "f16" {
                let scale = epochs[2]["loss_scale"].as_f64().unwrap();
                assert_eq!(scale, 65_536.0 / 2f64.powi(skipped as i32), "{name}");
                assert!(skipped < 8, "{name}: {skipped} of 24 steps were left out");
            }
        }
    }
}

/// What it does there is tested in `student::computed`, also where the GPU is; the CPU's gradients would be wrong.
#[test]
fn channels_last_is_for_images_on_a_gpu() {
    let case = Case::new();
    let conv = "student={ kind = \"conv\", channels = [8, 16] }";
    let cpu = [conv, "train.channels_last=true", "preprocess.layout=nchw"];
    case.train("cpu", &cpu).refused(&["train.channels_last", "is for a GPU"]);
    let llama = "student={ kind = \"llama\", hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, \
                 num_attention_heads = 2 }";
    case.train("llama", &[llama, "train.channels_last=true"])
        .refused(&["train.channels_last", "takes tokens"]);
}

/// What a module returns beside its logits is a term like others, and a mean over samples.
#[test]
fn a_student_may_return_a_loss_of_its_own() {
    let case = Case::new();
    let student =
        format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/returning.pt"));
    let run = |name: &str, returned: &str, set: &[&str]| {
        let returned = format!("loss.returned=[{{ name = \"squares\", {returned} }}]");
        let sgd = "optimizer={ kind = \"sgd\", learning_rate = 0.05 }";
        case.train(name, &[&[&student, &returned, sgd, "preprocess.layout=nchw"], set].concat())
    };
    let last = |name: &str| case.epochs(name).pop().unwrap();
    let of = |line: &Value, name: &str| line[name].as_f64().unwrap_or_else(|| panic!("{name}: {line}"));
    run("run", "output = 1, weight = 0.5", &["train.epochs=3"]).code(0);
    let line = last("run");
    let sum = 0.7 * of(&line, "kl") + 0.3 * of(&line, "cross_entropy") + 0.5 * of(&line, "returned_squares");
    assert!((of(&line, "train_loss") - sum).abs() < 1e-4, "{line}");
    // A weight that outweighs all else.
    run("heavy", "output = 1, weight = 100.0", &["train.epochs=3"]).code(0);
    assert!(of(&last("heavy"), "returned_squares") < of(&line, "returned_squares") / 2.0);
    // Frozen normalisation and no dropout: batches of one step are one batch, but for the order of sums. Their own
    // statistics would differ, so that only the first step, of batches of one size, is the same.
    let first = ["train.max_steps=1", "train.freeze=[\"conv\"]"];
    run("large", "output = 1", &[&first[..], &["train.batch=64"]].concat()).code(0);
    run("small", "output = 1", &[&first[..], &["train.batch=32", "train.accumulate=2"]].concat()).code(0);
    let off = of(&last("large"), "returned_squares") - of(&last("small"), "returned_squares");
    assert!(off.abs() < 0.02 * of(&last("large"), "returned_squares"), "{off}");
    for (returned, words) in [
        ("output = 0", ["loss.returned[0].output", "at least 1"]),
        ("output = 2", ["loss.returned", "it returns 2 tensors"]),
    ] {
        run("refused", returned, &[]).refused(&words);
    }
    let pair = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/pair.pt"));
    for (student, found) in
        [(pair.as_str(), "found a tensor of shape [2, 392]"), ("train.epochs=1", "logits alone")]
    {
        let set = ["loss.returned=[{ name = \"squares\", output = 1 }]", "preprocess.layout=nchw", student];
        case.train("refused", &set).refused(&["loss.returned", found]);
    }
}

#[test]
fn averaged_weights_are_measured_and_kept_and_learning_is_the_same() {
    let case = Case::new();
    let plain = case.train("plain", &["train.epochs=3"]).code(0).json();
    let slow = case.train("slow", &["train.epochs=3", "train.ema=0.999"]).code(0).json();
    assert_eq!(plain["train_loss"], slow["train_loss"]);
    let last = |name: &str| case.epochs(name).pop().unwrap();
    assert_ne!(last("plain")["validation"], last("slow")["validation"]);
    assert_ne!(case.weights("plain"), case.weights("slow"));
    // An average that forgets at once is the weights themselves.
    case.train("quick", &["train.epochs=3", "train.ema=1e-12"]).code(0);
    for (name, expected) in case.weights("plain") {
        for (a, b) in expected.iter().zip(&case.weights("quick")[&name]) {
            assert!((a - b).abs() < 1e-6, "{name}: {a} is not {b}");
        }
    }
    case.train("refused", &["train.ema=1.0"]).refused(&["train.ema", "less than 1"]);
}

#[test]
fn frozen_weights_stay_as_they_begin() {
    let case = Case::new();
    case.train("free", &["train.epochs=1"]).code(0);
    let names: Vec<String> = case.weights("free").into_keys().collect();
    let frozen = &names[0];
    let set = format!("train.freeze=[{frozen:?}]");
    let short = case.train("short", &["train.epochs=1", &set]).code(0).json();
    case.train("long", &["train.epochs=3", &set]).code(0);
    let (short_weights, long_weights) = (case.weights("short"), case.weights("long"));
    for name in &names {
        let same = short_weights[name] == long_weights[name];
        assert_eq!(same, name == frozen, "{name}, frozen {frozen}");
    }
    let all: usize = short_weights.values().map(Vec::len).sum();
    assert_eq!(short["parameters"], json!(all - short_weights[frozen].len()));
    case.train("refused", &["train.freeze=[\"nobody\"]"]).refused(&["train.freeze", "\"nobody\"", frozen]);
    case.train("refused", &["train.freeze=[\"\"]"]).refused(&["train.freeze", "every weight is frozen"]);
}

/// One image whose pixels half precision does not hold: the steps that it is in are left out, and the run goes on.
#[test]
fn steps_whose_loss_half_precision_does_not_hold_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    // A bright pixel each, 200 · 300 at most, and in the last image 255 · 300.
    let pixel = |at: usize| if at == 63 { 255 } else { 100 + at as u8 };
    let images = |count: usize| {
        let of = |at: usize| (0..784).map(move |place| if place == at * 11 { pixel(at) } else { 0 });
        let header = [0, 0, 8, 3, 0, 0, 0, count as u8, 0, 0, 0, 28, 0, 0, 0, 28];
        header.into_iter().chain((0..count).flat_map(of)).collect::<Vec<u8>>()
    };
    let labels = |count: usize| {
        let header = [0, 0, 8, 1, 0, 0, 0, count as u8];
        header.into_iter().chain((0..count).map(|at| (at % 10) as u8)).collect::<Vec<u8>>()
    };
    let mut set = Vec::new();
    for (key, count) in [("dataset", 64), ("validation.test.dataset", 63)] {
        for (part, bytes) in [("images", images(count)), ("labels", labels(count))] {
            let path = dir.path().join(format!("{key}.{part}"));
            std::fs::write(&path, bytes).unwrap();
            set.push(format!("{key}.{part}={}", path.display()));
        }
    }
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let case = Case::with_cache(&[&set[..2], &["preprocess.scale=300", "tail.fit_samples=64"]].concat());
    let more = ["train.precision=f16", "train.batch=16", "train.epochs=3"];
    let report = case.train("run", &[&set[..], &more].concat()).code(0).json();
    assert!(report["train_loss"].is_number(), "{report}");
    for line in case.epochs("run") {
        assert!(line["skipped_steps"].as_u64() >= line["epoch"].as_u64(), "{line}");
    }
}

#[cfg(unix)]
#[test]
fn what_there_is_no_memory_for_is_told_with_the_way_out() {
    let case = Case::new();
    let command = case.command("run", false, &["student.hidden=[16777216]"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -v 20000000; exec \"$@\"", "sh"]);
    limited.arg(command.get_program()).args(command.get_args());
    let said: crate::common::Said = limited.output().unwrap().into();
    let said = said.refused(&["libtorch", "allocate memory", "lower train.batch"]);
    assert!(!said.err.contains("frame #"), "{}", said.err);
}

#[test]
fn a_run_ends_early_where_it_is_asked_to() {
    let case = Case::new();
    let report = case.train("steps", &["train.epochs=9", "train.max_steps=11"]).code(0).json();
    assert_eq!((&report["steps"], &report["epochs"]), (&json!(11), &json!(2)));
    // Nothing is learned, and so nothing gets better.
    let set = ["train.epochs=30", "train.patience=3", "optimizer={ kind = \"sgd\", learning_rate = 1e-12 }"];
    let report = case.train("patience", &set).code(0).json();
    assert_eq!((&report["epochs"], &report["best_epoch"]), (&json!(4), &json!(1)));
}

#[test]
fn schedules_are_read_and_checked() {
    let case = Case::new();
    let last = |name: &str, schedule: &str| {
        case.train(name, &["train.epochs=2", &format!("schedule={schedule}")]).code(0);
        case.epochs(name).pop().unwrap()["learning_rate"].as_f64().unwrap()
    };
    // Of 16 steps the last is told.
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found}, {expected}");
    near(last("linear", "{ kind = \"linear\" }"), 0.01 / 16.0);
    near(last("step", "{ kind = \"step\", every_epochs = 1.0 }"), 0.001);
    near(last("wsd", "{ kind = \"warmup_stable_decay\", decay_epochs = 0.5 }"), 0.01 / 4.0);
    near(last("cycle", "{ kind = \"one_cycle\" }"), 0.01 * 4e-6);
    near(
        last("restarts", "{ kind = \"cosine_restarts\", period_epochs = 2.0 }"),
        0.01 * 0.5 * (1.0 + (std::f64::consts::PI * 15.0 / 16.0).cos()),
    );
    let refused = |schedule: &str, words: &[&str]| {
        case.train("refused", &["train.epochs=2", &format!("schedule={schedule}")]).refused(words);
    };
    refused("{ kind = \"warmup_stable_decay\", decay_epochs = 3.0 }", &["schedule.decay_epochs", "2", "3"]);
    refused("{ kind = \"polynomial\" }", &["schedule.kind", "cosine_restarts"]);
}

#[test]
fn every_term_trains_from_a_cache_with_a_tail_and_is_told() {
    let case = Case::new();
    for term in ["reverse_kl", "jsd", "total_variation", "mse", "logit_mse", "logit_cosine", "cosine", "dkd"]
    {
        let weights = format!("loss.weights={{ {term} = 1.0, cross_entropy = 0.1 }}");
        case.train(term, &[&weights, "train.epochs=6", "loss.label_smoothing=0.1"]).code(0);
        let epochs = case.epochs(term);
        let of =
            |epoch: &Value, name: &str| epoch[name].as_f64().unwrap_or_else(|| panic!("{name}: {epoch}"));
        assert!(of(&epochs[5], term) < 0.8 * of(&epochs[0], term), "{term}: {epochs:?}");
        assert!(of(&epochs[5], "cross_entropy") > 0.0 && epochs[5].get("kl").is_none());
    }
    let refused = |set: &[&str], words: &[&str]| {
        case.train("refused", set).refused(words);
    };
    refused(
        &["loss.weights={ reverse_kl = 1.0 }", "loss.tail=renormalize"],
        &["reverse_kl", "renormalize", "mass"],
    );
    refused(&["loss.weights={ jsd = 1.0 }", "loss.tail=bucket"], &["bucket", "mass"]);
    refused(&["loss.weights={ jds = 1.0 }"], &["loss.weights.jds", "did you mean jsd"]);
    refused(&["loss.weights={ jsd = 1.0 }", "loss.jsd_beta=1.0"], &["loss.jsd_beta"]);
    let unlabelled = format!(
        "dataset={{ kind = \"idx\", images = {:?} }}",
        fixture("fashion-mnist/train-images-idx3-ubyte.gz")
    );
    refused(&[&unlabelled, "loss.weights={ dkd = 1.0 }"], &["loss.weights.dkd", "labels"]);
    let set = "loss.weights={ jsd = 1.0 }";
    kd_train(&args!["--config", case.config, "--out", case.out("refused"), "--set", set])
        .refused(&["loss.weights.jsd", "--cache DIR"]);
}

/// Nothing brings together what several processes learn: each would train a student of its own.
#[test]
fn several_processes_are_refused_until_they_can_talk() {
    let case = Case::new();
    let config = config::load(&case.config, &[]).unwrap();
    for rank in [0, 1] {
        let options = RunOptions {
            caches: vec![case.out("cache")],
            out: case.out("run"),
            overwrite: false,
            resume: false,
            mlflow: mlflow::Access::default(),
            ranks: Ranks::new(rank, 2).unwrap(),
        };
        let refused =
            train::run(&config, &options, &AtomicBool::new(false), &Silent).unwrap_err().to_string();
        assert!(refused.contains(&format!("found rank {rank} of 2")), "{refused}");
        assert!(refused.contains("rank 0 of 1") && refused.contains("not built yet"), "{refused}");
        assert!(!case.out("run").exists());
    }
}

/// Of one value batch norm has no variance; what it keeps of it would spoil every measure without a word.
#[test]
fn running_statistics_of_a_single_value_are_refused() {
    let case = Case::new();
    // Images of 28 × 28 are one pixel in the fifth block, and 512 samples leave a batch of one.
    let student = "student={ kind = \"conv\", channels = [2, 2, 2, 2, 2] }";
    let set = [student, "preprocess.layout=nchw", "train.epochs=1"];
    let said = case.train("run", &[&set[..], &["train.batch=73"]].concat());
    said.refused(&["epoch 1", "running_var", "1 of train.batch = 73", "choose another train.batch"]);
    case.train("other", &[&set[..], &["train.batch=74"]].concat()).code(0);
}
