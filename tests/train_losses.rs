//! Losses that look at order and relations, losses and rates that change over a run, and weights that have rates of
//! their own. The built programs.

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::path::Path;

use crate::common::{Case, fixture};
use serde_json::json;

#[test]
fn each_of_the_terms_teaches() {
    let case = Case::new();
    for name in ["dist", "nkd", "ranking"] {
        let weights = format!("loss.weights={{ {name} = 1.0 }}");
        let report = case.train(name, &[&weights, "train.epochs=10"]).code(0).json();
        let epochs = case.epochs(name);
        let term = |at: usize| epochs[at][name].as_f64().unwrap();
        assert!(term(9) < 0.9 * term(0), "{name}: {} → {}", term(0), term(9));
        assert_eq!(epochs[9][name], epochs[9]["train_loss"]);
        let accuracy = report["validation"]["test"]["accuracy"].as_f64().unwrap();
        // The order of a head of 3 says nothing of the other 7 classes, which then may come first.
        assert!(name == "ranking" || accuracy > 0.4, "{name}: {accuracy}");
    }
}

#[test]
fn what_terms_cannot_do_is_refused() {
    let case = Case::new();
    case.refused(&["loss.weights.nkd=1", "loss.tail=bucket"], &["loss.weights", "bucket"]);
    case.refused(
        &["loss.weights.dist=1", "train.accumulate=2"],
        &["loss.dist.gamma", "accumulate = 2", "loss.dist.gamma = 0"],
    );
    case.refused(
        &["loss.temperature={ from = 4.0, to = 0.5 }"],
        &["loss.temperature", "temperature 0.5 is below 1", "tail.nodes"],
    );
    let drawn = Case::with_cache(&["head={ draws = 20, temperature = 2.0 }"]);
    let set = ["loss.weights={ kl = 1.0 }", "loss.temperature={ from = 2.0, to = 1.0 }"];
    drawn.refused(&set, &["loss.temperature", "drawn at temperature 2"]);
    drawn.refused(&["loss.weights={ nkd = 1.0 }"], &["loss.weights.nkd", "T = 1", "drawn at temperature 2"]);
}

/// Temperature and weights of a step depend on its number alone, so that an interrupted run goes on to the same bits.
#[test]
fn losses_change_over_a_run_and_go_on_where_they_were() {
    let case = Case::with_cache(&["tail.rank=2"]);
    let set = [
        "loss.temperature={ from = 8.0, to = 2.0, over_epochs = 2, shape = \"cosine\" }",
        "loss.weights={ kl = { from = 0.0, to = 1.0 }, cross_entropy = { from = 1.0, to = 0.0, over_steps = 12 }, dist = 0.1 }",
        "train.epochs=3",
        "optimizer.layer_decay=0.5",
        "schedule={ kind = \"cosine\", per = \"epoch\" }",
    ];
    let whole = case.train("whole", &set).code(0).json();
    for (steps, resume) in
        [("train.max_steps=3", false), ("train.max_steps=13", true), ("train.max_steps=900", true)]
    {
        let set = [&set[..], &[steps]].concat();
        case.run("parts", resume, &set).code(0);
    }
    let [(expected, weights), (found, other)] = ["whole", "parts"].map(|name| case.results(name));
    assert_eq!(expected, found);
    assert!(weights == other, "other weights");
    // 8 steps an epoch: what the last step of each had.
    let of = |key: &str| expected.iter().map(|epoch| epoch.pointer(key).unwrap().clone()).collect::<Vec<_>>();
    let temperature = |step: f64| 5.0 + 3.0 * (std::f64::consts::PI * step / 16.0).cos();
    for (found, expected) in of("/temperature").iter().zip([temperature(7.0), temperature(15.0), 2.0]) {
        assert!((found.as_f64().unwrap() - expected).abs() < 1e-12, "{found} is not {expected}");
    }
    for (found, step) in of("/weights/kl").iter().zip([7.0, 15.0, 23.0]) {
        assert!((found.as_f64().unwrap() - step / 24.0).abs() < 1e-12, "{found} at {step}");
    }
    assert_eq!(of("/weights/cross_entropy")[1..], [json!(0.0), json!(0.0)]);
    assert!(expected[0]["weights"].get("dist").is_none());
    assert_eq!(whole["temperature"], json!(2.0));
    // Terms that have no weight at a step are measured all the same.
    assert!(of("/cross_entropy").iter().chain(&of("/kl")).all(|term| term.as_f64().unwrap() > 0.01));
    // Cosine, epoch by epoch: the peak, and then what a run of 3 steps would have.
    let rates = of("/learning_rate");
    for (found, expected) in rates.iter().zip([0.01, 0.0075, 0.0025]) {
        assert!((found.as_f64().unwrap() - expected).abs() < 1e-12, "{rates:?}");
    }
    // Another change is another run.
    let set = [&set[1..], &["loss.temperature={ from = 8.0, to = 2.0 }"]].concat();
    case.run("parts", true, &set).refused(&["--resume", "loss.temperature"]);
}

#[test]
fn groups_and_layers_have_rates_of_their_own() {
    let case = Case::new();
    let set = |more: &'static str| ["student.hidden=[16, 16]", "train.max_steps=5", "train.epochs=1", more];
    let run = |name: &str, more: &'static str| {
        case.train(name, &set(more)).code(0);
        case.weights(name)
    };
    let plain = run("plain", "seed=3");
    // A rate of 0 is that of a weight that is frozen.
    let still = run("still", "optimizer.groups=[{ match = \"hidden0.\", rate = 0.0 }]");
    assert_eq!(still, run("frozen", "train.freeze=[\"hidden0.\"]"));
    assert_ne!(still["hidden0.weight"], plain["hidden0.weight"]);
    // Layers under the head: each group by hand has the same factor.
    let groups =
        "optimizer.groups=[{ match = \"hidden1\", rate = 0.5 }, { match = \"hidden0\", rate = 0.25 }]";
    let by_layer = run("layers", "optimizer.layer_decay=0.5");
    assert_eq!(by_layer, run("groups", groups));
    assert_ne!(by_layer, plain);
    // A decay of its own, and the first group that fits.
    let decayed =
        run("decayed", "optimizer.groups=[{ match = \"head\", weight_decay = 0.5 }, { match = \"\" }]");
    assert_ne!(decayed["head.weight"], plain["head.weight"]);
    // Refused with the nearest weight.
    case.refused(
        &["optimizer.groups=[{ match = \"hiden0\", rate = 2.0 }]"],
        &["optimizer.groups[0].match", "\"hiden0\"", "hidden0."],
    );
    case.refused(
        &["student.hidden=[]", "optimizer.layer_decay=0.5"],
        &["optimizer.layer_decay", "head.weight"],
    );
}

#[test]
fn presets_train_a_step() {
    let case = Case::new();
    let data = |key: &str, file: &str| format!("{key}={:?}", fixture(&format!("fashion-mnist/{file}.gz")));
    for name in ["adam_wav2vec2.0", "adam_distilBert", "adamW_distilBert"] {
        let preset = format!("configs/train/presets/{name}.toml");
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(preset);
        let set = [
            data("dataset.images", "train-images-idx3-ubyte"),
            data("dataset.labels", "train-labels-idx1-ubyte"),
            data("validation.test.dataset.images", "t10k-images-idx3-ubyte"),
            data("validation.test.dataset.labels", "t10k-labels-idx1-ubyte"),
            "train.max_steps=1".to_owned(),
        ];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let report = case.run_of(&config, name, false, &set).code(0).json();
        assert_eq!((&report["steps"], &report["seed"]), (&json!(1), &json!(32)), "{name}");
    }
}
