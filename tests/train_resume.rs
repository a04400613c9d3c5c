//! Runs that are interrupted, in whatever way, go on to the same bits; and runs that must not go on. The built programs.

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Case, Said, build, cache_config, files, fixture, kd_train, told};
use serde_json::{Value, json};

/// Students of every kind of state: variables, buffers of batch norm, a module with dropout of its own, gradients of
/// several batches, losses that are scaled.
fn students() -> [Vec<String>; 5] {
    let small = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/small.pt"));
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    [
        set(&[
            "optimizer={ kind = \"adam\", learning_rate = 0.01, weight_decay = 0.1 }",
            "train.shuffle={ block = 5, buffer = 20 }",
        ]),
        set(&[
            "student={ kind = \"conv\", channels = [4, 8] }",
            "optimizer={ kind = \"lion\", learning_rate = 0.001 }",
        ]),
        vec![
            small,
            "preprocess.layout=nchw".into(),
            "optimizer={ kind = \"sgd\", learning_rate = 0.1 }".into(),
        ],
        set(&[
            "optimizer={ kind = \"rmsprop\", learning_rate = 0.001, momentum = 0.5 }",
            "train.accumulate=3",
            "train.ema=0.9",
        ]),
        set(&[
            "student={ kind = \"conv\", channels = [4, 8] }",
            "optimizer={ kind = \"sgd\", learning_rate = 0.1 }",
            "train.precision=f16",
            "train.accumulate=2",
        ]),
    ]
}

#[test]
fn a_run_goes_on_within_an_epoch_to_the_same_bits() {
    let case = Case::new();
    for (at, student) in students().iter().enumerate() {
        let mut set: Vec<&str> = student.iter().map(String::as_str).collect();
        set.extend([
            "train.epochs=3",
            "train.clip_norm=1.0",
            "schedule={ kind = \"linear\", warmup_epochs = 0.5 }",
        ]);
        let name = |what: &str| format!("{what}{at}");
        let whole = case.train(&name("whole"), &set).code(0).json();
        for (steps, resume) in
            [("train.max_steps=2", false), ("train.max_steps=5", true), ("train.max_steps=900", true)]
        {
            let mut set = set.clone();
            set.push(steps);
            case.run(&name("parts"), resume, &set).code(0);
        }
        let [expected, found] = ["whole", "parts"].map(|what| case.results(&name(what)));
        assert_eq!(expected.0, found.0, "{student:?}");
        assert!(expected.1 == found.1, "{student:?}: other weights");
        let summary: Value =
            serde_json::from_slice(&std::fs::read(case.out(&name("parts")).join("summary.json")).unwrap())
                .unwrap();
        for key in ["epochs", "steps", "train_loss", "best_epoch", "validation"] {
            assert_eq!(summary[key], whole[key], "{key}");
        }
    }
}

/// The step of the state that a run in `out` has kept; 0 where there is none.
fn kept_step(out: &Path) -> i64 {
    // What is there is whole, because it gets its name when it is.
    let Ok(named) = tch::Tensor::read_safetensors(out.join("checkpoints/state.safetensors")) else {
        return 0;
    };
    named.iter().find(|(name, _)| name == "numbers").unwrap().1.int64_value(&[2])
}

/// Runs `name`, begun or gone on with, and kills it as soon as it has kept a state of its own after `step`; `false` where
/// it came to its end before.
fn killed(case: &Case, name: &str, resume: bool, set: &[&str], step: i64) -> bool {
    let out = case.out(name);
    let step = step.max(kept_step(&out) + 1);
    let mut child = case.command(name, resume, set).spawn().unwrap();
    let begun = Instant::now();
    while kept_step(&out) < step {
        if child.try_wait().unwrap().is_some() {
            Said::from(child.wait_with_output().unwrap()).code(0);
            return false;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "no state of step {step} within two minutes");
        std::thread::sleep(Duration::from_micros(500));
    }
    // SIGKILL, of which the run hears nothing.
    child.kill().unwrap();
    child.wait().unwrap();
    !out.join("summary.json").exists()
}

/// Of every kind of student: weights, averages, optimizers, scales of losses and places in schedules are what they were.
#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    let case = Case::new();
    for (at, student) in students().iter().enumerate() {
        let mut set: Vec<&str> = student.iter().map(String::as_str).collect();
        // 40 steps, of 8 an epoch or fewer.
        set.extend([
            "train.epochs=14",
            "train.max_steps=40",
            "train.clip_norm=1.0",
            "schedule={ kind = \"cosine\", warmup_epochs = 0.5 }",
            "tracking.every=1",
        ]);
        if !student.iter().any(|set| set.starts_with("train.ema")) {
            set.push("train.ema=0.9");
        }
        let [whole, parts] = ["whole", "parts"].map(|what| format!("{what}{at}"));
        case.train(&whole, &set).code(0);
        // Once with a state after each step, and once with one that the run has left behind.
        let kills = [(17, "train.keep_every=1"), (23, "train.keep_every=3")];
        let all_killed = (0..20).any(|_| {
            drop(std::fs::remove_dir_all(case.out(&parts)));
            kills.iter().enumerate().all(|(kill, (step, keep))| {
                let set = [&set[..], &[keep]].concat();
                killed(&case, &parts, kill > 0, &set, *step)
            })
        });
        assert!(all_killed, "20 runs were all over before they were killed: {student:?}");
        case.resume(&parts, &set).code(0);
        let [expected, found] = [&whole, &parts].map(|name| case.results(name));
        assert_eq!(expected.0, found.0, "{student:?}");
        assert!(expected.1 == found.1, "{student:?}: other weights");
        let [expected, found] = [&whole, &parts].map(|name| told(&case.out(name).join("steps.jsonl")));
        assert_eq!(expected.len(), 40);
        assert_eq!(expected, found, "{student:?}");
    }
}

/// Killed while the best student was changing: what the state says is what there is.
#[test]
fn the_best_student_is_that_of_the_state() {
    let case = Case::new();
    let set = ["train.epochs=3"];
    let report = case.train("run", &set).code(0).json();
    let (expected, best) = (case.results("run"), &report["best_epoch"]);
    let checkpoint = |name: &str| case.out("run/checkpoints").join(format!("{name}.safetensors"));
    let others = [format!("better-{best}"), "better-77".into()];
    let kept = std::fs::read(checkpoint("best")).unwrap();
    for (of_the_state, stale) in [(true, true), (true, false), (false, true)] {
        if of_the_state {
            std::fs::copy(checkpoint("last"), checkpoint("best")).unwrap();
            std::fs::write(checkpoint(&others[0]), &kept).unwrap();
        }
        if stale {
            std::fs::write(checkpoint(&others[1]), "half a student").unwrap();
        }
        std::fs::remove_file(case.out("run/student.safetensors")).unwrap();
        let again = case.resume("run", &set).code(0).json();
        assert_eq!(&again["best_epoch"], best);
        assert!(std::fs::read(checkpoint("best")).unwrap() == kept);
        assert!(case.results("run") == expected);
        assert!(others.iter().all(|name| !checkpoint(name).exists()));
    }
}

#[cfg(unix)]
#[test]
fn two_processes_do_not_write_one_run() {
    let case = Case::new();
    case.train("run", &["train.max_steps=3"]).code(0);
    let before = files(&case.out("run"));
    let other = std::fs::File::open(case.out("run")).unwrap();
    other.lock().unwrap();
    let words = ["another kd-train is at work", "/run"];
    case.resume("run", &[]).refused(&words);
    let over =
        args!["--config", case.config, "--cache", case.out("cache"), "--out", case.out("run"), "--overwrite"];
    kd_train(&over).refused(&words);
    assert!(files(&case.out("run")) == before);
    drop(other);
    case.resume("run", &[]).code(0);
}

/// Killed between the state of its last step and the line of the epoch that this step cut short.
#[test]
fn a_run_that_has_made_its_steps_still_tells_them() {
    let case = Case::new();
    let set = ["train.max_steps=11"];
    let report = case.train("run", &set).code(0).json();
    let expected = case.results("run");
    assert_eq!(expected.0.len(), 2);
    let metrics = case.out("run/metrics.jsonl");
    let text = std::fs::read_to_string(&metrics).unwrap();
    std::fs::write(&metrics, text.lines().next().unwrap().to_owned() + "\n").unwrap();
    for name in ["student.safetensors", "student.pt", "summary.json"] {
        std::fs::remove_file(case.out("run").join(name)).unwrap();
    }
    let again = case.resume("run", &set).code(0).json();
    assert_eq!(case.results("run"), expected);
    for key in ["epochs", "steps", "train_loss", "best_epoch", "validation"] {
        assert_eq!(again[key], report[key], "{key}");
    }
}

/// One command for the first time and for every other, as queues start it.
#[test]
fn a_run_that_kept_nothing_begins() {
    let case = Case::new();
    let set = ["train.epochs=2"];
    let whole = case.train("run", &set).code(0).json();
    let said = kd_train(&case.args("new", &set, &["--resume"])).code(0);
    assert!(said.err.contains("nothing was kept of this run to go on from: it begins"), "{}", said.err);
    assert!(case.results("new") == case.results("run"));
    // Ended before its first state.
    for name in ["config.toml", "caches.json"] {
        std::fs::create_dir_all(case.out("cut/checkpoints")).unwrap();
        std::fs::copy(case.out("run").join(name), case.out("cut").join(name)).unwrap();
    }
    case.train("cut", &set).refused(&["not empty"]);
    case.resume("cut", &set).code(0);
    assert!(case.results("cut") == case.results("run"));
    // Gone on with once it has ended, it stays as it was, its time among it.
    let again = case.resume("run", &set).code(0).json();
    assert_eq!(again["seconds"], whole["seconds"]);
    case.train("parts", &["train.epochs=2", "train.max_steps=3"]).code(0);
    let first = case.summary("parts")["seconds"].as_f64().unwrap();
    let both = case.resume("parts", &set).code(0).json();
    assert!(both["seconds"].as_f64().unwrap() > first, "{first}: {both}");
    // What has a student is not made anew without being asked to.
    std::fs::remove_file(case.out("new/checkpoints/state.safetensors")).unwrap();
    case.resume("new", &set).refused(&["state.safetensors", "--overwrite"]);
    // Nor are checkpoints lost, if they are all that there is.
    for name in ["student.safetensors", "student.pt", "summary.json", "metrics.jsonl"] {
        std::fs::remove_file(case.out("new").join(name)).unwrap();
    }
    case.resume("new", &set).refused(&["state.safetensors", "--overwrite"]);
    assert!(case.out("new/checkpoints/last.safetensors").exists());
    // Nor files of the user's own that are called as those of a run.
    std::fs::create_dir(case.out("own")).unwrap();
    for name in ["config.toml", "tokenizer.json"] {
        std::fs::write(case.out("own").join(name), "mine").unwrap();
    }
    case.resume("own", &set).refused(&["state.safetensors", "--overwrite"]);
    assert_eq!(std::fs::read_to_string(case.out("own/config.toml")).unwrap(), "mine");
    // Nor is what is no run.
    std::fs::create_dir(case.out("other")).unwrap();
    std::fs::write(case.out("other/thesis.tex"), "words").unwrap();
    case.resume("other", &set).refused(&["state.safetensors", "--overwrite"]);
    assert!(case.out("other/thesis.tex").exists());
}

#[test]
fn what_cannot_go_on_says_why() {
    let case = Case::new();
    case.train("run", &["train.max_steps=3"]).code(0);
    case.resume("run", &["optimizer.learning_rate=0.5"]).refused(&[
        "--resume",
        "optimizer.learning_rate",
        "0.01",
        "0.5",
    ]);
    case.resume("run", &["loss.temperature=3"]).refused(&["--resume", "loss.temperature", "2.0", "3.0"]);
    // What changes no step that was made may change.
    case.resume("run", &["train.prefetch=2", "train.max_steps=4"]).code(0);
    // A state that is none.
    let state = case.out("run/checkpoints/state.safetensors");
    std::fs::copy(case.out("run/student.safetensors"), &state).unwrap();
    case.resume("run", &[]).refused(&["--resume", "state.safetensors"]);
    std::fs::write(&state, b"torn").unwrap();
    case.resume("run", &[]).refused(&["state.safetensors"]);
    let both = args!["--config", case.config, "--out", case.out("run"), "--resume", "--overwrite"];
    kd_train(&both).refused(&["--overwrite"]);
}

/// The same cache is one of the same targets, wherever it lies and whatever it is called.
#[test]
fn a_run_goes_on_from_the_cache_that_it_was_begun_with() {
    let mut case = Case::new();
    build(&case.out("cache.toml"), &case.out("larger"), &["head.k=10"]).code(0);
    build(&cache_config(case.dir.path(), "softmax.onnx"), &case.out("teacher"), &[]).code(0);
    let labels = ["train.epochs=3", "loss.weights={ cross_entropy = 1.0 }"];
    let cut = |set: [&'static str; 2]| [&set[..], &["train.max_steps=5"]].concat();
    let targets = ["train.epochs=3", "loss.temperature=2"];
    case.train("whole", &targets).code(0);
    case.train("run", &cut(targets)).code(0);
    let before = files(&case.out("run"));
    for other in ["larger", "teacher"] {
        case.caches = vec![other];
        let [cache, found] = ["cache", other].map(|name| format!("the cache {}", case.out(name).display()));
        let words = ["--resume", "the run in", "/run was begun with", &cache, &found, "--overwrite"];
        case.resume("run", &targets).refused(&words);
    }
    // Nor without one, or with one where there was none.
    case.caches = Vec::new();
    case.resume("run", &labels).refused(&["--resume", "begun with the cache", "found no cache"]);
    case.train("labels", &cut(labels)).code(0);
    case.resume("labels", &labels).code(0);
    case.caches = vec!["cache"];
    case.resume("labels", &labels).refused(&["--resume", "begun with no cache", "found the cache"]);
    assert!(files(&case.out("run")) == before);

    // A copy elsewhere, which another version of the program might have written.
    for (name, bytes) in files(&case.out("cache")) {
        let path = case.out("copy").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let manifest = case.out("copy/manifest.json");
    let mut copied: Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    copied["created_by"] = json!("kd-cache 0.0.0");
    std::fs::write(&manifest, serde_json::to_vec(&copied).unwrap()).unwrap();
    std::fs::remove_dir_all(case.out("cache")).unwrap();
    case.caches = vec!["copy"];
    case.resume("run", &targets).code(0);
    let [run, whole] = ["run", "whole"].map(|name| case.out(name));
    assert_eq!(told(&run.join("metrics.jsonl")), told(&whole.join("metrics.jsonl")));
    let weights = |run: &Path| std::fs::read(run.join("student.safetensors")).unwrap();
    assert!(weights(&run) == weights(&whole), "other weights");

    // Of a run that did not keep what its cache was, nothing is known.
    case.train("old", &cut(targets)).code(0);
    std::fs::remove_file(case.out("old/caches.json")).unwrap();
    case.caches = vec!["larger"];
    case.resume("old", &targets).code(0);
}

/// Samples may lie elsewhere when a run goes on; others are refused, also where they are called the same.
#[test]
fn a_run_goes_on_with_the_samples_that_it_was_begun_with() {
    let case = Case::new();
    let part = |set: &str, part: &str| match (set, part) {
        ("train", "images") => fixture("fashion-mnist/train-images-idx3-ubyte.gz"),
        ("train", _) => fixture("fashion-mnist/train-labels-idx1-ubyte.gz"),
        (_, "images") => fixture("fashion-mnist/t10k-images-idx3-ubyte.gz"),
        _ => fixture("fashion-mnist/t10k-labels-idx1-ubyte.gz"),
    };
    // Copies both sets to a folder, and gives the keys that name them there.
    let staged = |folder: &str, of_test: &str| {
        let folder = case.out(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let mut keys = Vec::new();
        for (key, name, set) in [("dataset", "train", "train"), ("validation.test.dataset", "test", of_test)]
        {
            for file in ["images", "labels"] {
                let path = folder.join(format!("{name}-{file}.gz"));
                std::fs::copy(part(set, file), &path).unwrap();
                keys.push(format!("{key}.{file}={path:?}"));
            }
        }
        keys
    };
    let with = |keys: &[String], more: &[&str]| -> Vec<String> {
        keys.iter().cloned().chain(more.iter().map(|key| (*key).to_owned())).collect()
    };
    let run = |name: &str, resume: bool, keys: &[String]| {
        case.run(name, resume, &keys.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let here = staged("here", "test");
    let (cut, rest) = (["train.epochs=3", "train.max_steps=5"], ["train.epochs=3"]);
    run("whole", false, &with(&here, &rest)).code(0);
    run("run", false, &with(&here, &cut)).code(0);
    // Others, there and in the old place.
    for place in ["there", "here"] {
        let other = staged(place, "train");
        let words = ["--resume: validation.test", "was begun with", "give what it was begun with"];
        run("run", true, &with(&other, &rest)).refused(&words);
    }
    run("run", true, &with(&here, &rest))
        .refused(&["--resume: validation.test:", "with fingerprint sha256:"]);
    // The same, elsewhere.
    let there = staged("there", "test");
    std::fs::remove_dir_all(case.out("here")).unwrap();
    run("run", true, &with(&there, &rest)).code(0);
    assert!(case.results("run") == case.results("whole"));
    // Who uses the run looks where they were last.
    kd_train(&args!["eval", case.out("run")]).code(0);
    // Of a run that did not keep what they were, the places must be the same.
    run("old", false, &with(&there, &cut)).code(0);
    std::fs::remove_file(case.out("old/data.json")).unwrap();
    run("old", true, &with(&staged("here", "test"), &rest)).refused(&["--resume: dataset.images"]);
    run("old", true, &with(&there, &rest)).code(0);
}

/// `train.max_steps` ends a run with an epoch whose turn it is not to be measured: it chose the student, and goes on doing so.
#[test]
fn a_run_that_ended_out_of_turn_and_has_nothing_to_add_stays_as_it_is() {
    let case = Case::new();
    // 8 steps an epoch; each measure is better than the one before.
    let log = case.out("log");
    let measure = format!(
        "validation.test.metrics.mine={{ command = [\"sh\", \"-c\", {:?}], better = \"higher\" }}",
        format!("echo x >> {0}; wc -l < {0}", log.display())
    );
    let set = [
        measure.as_str(),
        "train.epochs=9",
        "train.validate_every=2",
        "train.select_by=test.mine",
        "train.max_steps=24",
    ];
    let report = case.train("run", &set).code(0).json();
    assert_eq!((&report["best_epoch"], &report["validation"]["test"]["mine"]), (&json!(3), &json!(2.0)));
    let begun = case.results("run");
    let again = case.resume("run", &set).code(0).json();
    for key in ["best_epoch", "validation", "epochs", "steps", "train_loss"] {
        assert_eq!(again[key], report[key], "{key}");
    }
    assert!(case.results("run") == begun, "another student");
    // Half of the next epoch, measured worse, twice: 3 has not been looked at by who goes on.
    std::fs::copy(&log, case.out("before")).unwrap();
    std::fs::write(&log, "").unwrap();
    for _ in 0..2 {
        let half = case.resume("run", &[&set[..4], &["train.max_steps=28"]].concat()).code(0).json();
        assert_eq!((&half["best_epoch"], &half["validation"]["test"]["mine"]), (&json!(2), &json!(1.0)));
        std::fs::write(&log, "").unwrap();
    }
    std::fs::copy(case.out("before"), &log).unwrap();
    // With more to add, the epoch has not been looked at: 4 is the next to be measured.
    let more = case.resume("run", &[&set[..4], &["train.max_steps=40"]].concat()).code(0).json();
    let measured: Vec<bool> = case
        .epochs("run")
        .iter()
        .map(|epoch| epoch["validation"].as_object().is_some_and(|sets| !sets.is_empty()))
        .collect();
    assert_eq!(measured, [false, true, true, true, true]);
    assert_eq!(more["best_epoch"], json!(5));
}

/// A config may ask for more students to be kept than before: of the epochs before it nobody has any.
#[test]
fn students_that_nobody_kept_are_not_said_to_be_kept() {
    let case = Case::new();
    case.train("run", &["train.epochs=5", "train.max_steps=24"]).code(0);
    let more = ["train.epochs=5", "checkpoint.best=9", "checkpoint.last=4"];
    let report = case.resume("run", &more).code(0).json();
    let kept = report["checkpoints"].as_array().unwrap();
    let names: Vec<&str> = kept.iter().map(|kept| kept["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["step-000032", "step-000040"]);
    for name in names {
        assert!(case.out("run").join(format!("checkpoints/{name}.safetensors")).is_file(), "{name}");
    }
}
