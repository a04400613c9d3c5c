//! A language model's cache, and a student that learns from it alone: the built programs.

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::path::{Path, PathBuf};

use crate::common::{Case, build, fixture, kd_train, lines, write};
use kd_cache::cache::CacheReader;
use kd_cache::loader::Samples;
use serde_json::{Value, json};

/// A cache over `dataset` in the folder `dir`, some of its keys changed, and a student that learns from it: `first` and `train` are its
/// config's keys at the top and of `[train]`.
pub fn language_case(dir: tempfile::TempDir, dataset: &str, set: &[&str], first: &str, train: &str) -> Case {
    let teacher = fixture("teachers/causal.onnx");
    let cache = format!(
        r#"{dataset}
[teacher]
kind = "onnx"
path = {teacher:?}
batch = 2
threads = 1
[head]
k = 6
[tail]
rank = 2
fit_samples = 60
"#
    );
    let cache = write(dir.path(), "cache.toml", &cache);
    build(&cache, &dir.path().join("cache"), set).code(0);
    let train = format!(
        r#"{first}
[student]
kind = "llama"
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 4
num_key_value_heads = 2
[loss]
weights = {{ kl = 1.0 }}
[optimizer]
kind = "adamw"
learning_rate = 0.01
[train]
batch = 4
threads = 1
{train}
[validation.seen]
cache = {cache:?}
"#,
        cache = dir.path().join("cache"),
    );
    let config = write(dir.path(), "train.toml", &train);
    Case { dir, config, caches: vec!["cache"] }
}

/// A student of the tokens of six documents, and a cache over them with changed keys.
fn case(set: &[&str]) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let mut stream = Vec::new();
    for document in 0..6u16 {
        stream.extend((0..20 + document).flat_map(|at| (1 + (document * 5 + at * 3) % 7).to_le_bytes()));
        stream.extend(0u16.to_le_bytes());
    }
    let tokens = dir.path().join("tokens.bin");
    std::fs::write(&tokens, stream).unwrap();
    let dataset = format!(
        r#"seed = 5
[dataset]
kind = "tokens"
paths = [{tokens:?}]
dtype = "u16"
separator = 0
rows = {{ length = 12 }}"#
    );
    language_case(dir, &dataset, set, "seed = 3", "epochs = 60\nselect_by = \"seen.kl\"")
}

#[test]
fn a_student_learns_what_the_teacher_says_of_every_token() {
    let case = case(&[]);
    let report = case.train("run", &[]).code(0).json();
    let measured = &report["validation"]["seen"];
    let of = |name: &str| measured[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
    let first = &lines(&case.out("run").join("metrics.jsonl"))[0];
    let kl_first = first["validation"]["seen"]["kl"].as_f64().unwrap();
    assert!(of("kl") < kl_first / 5.0 && of("kl") > 0.0, "{kl_first} became {report}");
    assert!(of("agreement") > 0.7, "{report}");
    assert!((of("perplexity").ln() - of("cross_entropy")).abs() < 1e-9);
    assert!(of("acceptance") > 0.8 && of("acceptance") <= 1.0 + 1e-6, "{report}");
    assert!((0.0..=1.0).contains(&of("calibration_error")));
    // Each of 6 documents, and the token after each.
    assert_eq!(measured["samples"], json!((20..26).sum::<u32>() + 5));
    assert_eq!(report["selected_by"], "seen.kl");
    assert!(first["positions_per_second"].as_f64().unwrap() > 0.0);

    let eval = kd_train(&args!["eval", case.out("run"), "--format", "json"]).code(0).json();
    for (name, value) in measured.as_object().unwrap() {
        let again = eval["validation"]["seen"][name].as_f64().unwrap();
        assert!((again - value.as_f64().unwrap()).abs() < 1e-6, "{name}: {again}, {value}");
    }
    // The same with products in bfloat16.
    let half = case.train("half", &["train.precision=bf16"]).code(0).json();
    let kl = half["validation"]["seen"]["kl"].as_f64().unwrap();
    assert!(kl < kl_first / 5.0 && (kl - of("kl")).abs() > 0.0, "{kl_first} became {half}");
    let eval = kd_train(&args!["eval", case.out("half"), "--format", "json"]).code(0).json();
    assert!((eval["validation"]["seen"]["kl"].as_f64().unwrap() - kl).abs() < 1e-6, "{kl}: {eval}");
    // The same seed, the same run.
    let again = case.train("again", &["train.epochs=2"]).code(0).json();
    let twice = case.train("twice", &["train.epochs=2"]).code(0).json();
    assert_eq!((&again["train_loss"], &again["validation"]), (&twice["train_loss"], &twice["validation"]));

    // A bucket is of no class, so that nothing can be said of draws.
    case.refused(
        &["loss.tail=bucket", "train.select_by=seen.acceptance"],
        &["train.select_by", "has no measure \"acceptance\""],
    );

    let folder = case.out("run").join("transformers");
    let card: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    for (key, value) in [
        ("model_type", json!("llama")),
        ("vocab_size", json!(50)),
        ("hidden_size", json!(32)),
        ("intermediate_size", json!(96)),
        ("num_hidden_layers", json!(1)),
        ("num_attention_heads", json!(4)),
        ("num_key_value_heads", json!(2)),
        ("max_position_embeddings", json!(12)),
        ("tie_word_embeddings", json!(true)),
    ] {
        assert_eq!(card[key], value, "{key}");
    }
    let kept = std::fs::read(case.out("run").join("student.safetensors")).unwrap();
    assert!(kept == std::fs::read(folder.join("model.safetensors")).unwrap());
}

/// What other ranks' batches hold is counted as if they had been made.
#[test]
fn rows_of_tokens_are_counted_as_batches_count_them() {
    let case = case(&[]);
    let samples = Samples::tokens(CacheReader::open(&case.out("cache")).unwrap(), true);
    for indices in [vec![0], vec![3, 1, 2], (0..samples.len()).collect()] {
        let counts = samples.counts(&indices).unwrap();
        assert_eq!(counts, samples.batch(&indices, 0).unwrap().counts());
        // The last token of a document has no next one.
        assert!(counts.samples == indices.len() && 0 < counts.labels && counts.labels < counts.positions);
    }
}

/// A run goes on from another's weights, and every student can begin so.
#[test]
fn a_run_begins_with_the_weights_of_another() {
    let case = case(&[]);
    let first = case.train("first", &["train.epochs=20"]).code(0).json();
    let init = format!("init.weights={}", case.out("first/transformers").display());
    let second =
        case.train("second", &[&init, "train.epochs=1", "optimizer.learning_rate=1e-4"]).code(0).json();
    let loss = |report: &Value| report["train_loss"].as_f64().unwrap();
    assert!(loss(&second) < 1.5 * loss(&first), "{first} {second}");
    case.train("refused", &["init.weights=/no/such"]).refused(&["init.weights", "/no/such"]);
}

/// The terms that a language model can have, and rates that fall from the head down.
#[test]
fn further_terms_teach_language_models() {
    let case = case(&[]);
    let set = [
        "loss.weights={ dist = 1.0, nkd = 0.5, ranking = 0.5 }",
        "loss.dist.gamma=0",
        "loss.temperature={ from = 4.0, to = 1.0 }",
        "optimizer.layer_decay=0.8",
        "optimizer.groups=[{ match = \"model.embed_tokens\", rate = 2.0 }]",
        "train.epochs=5",
        "train.select_by=last",
    ];
    case.train("run", &set).code(0);
    let epochs = lines(&case.out("run").join("metrics.jsonl"));
    for name in ["nkd", "ranking"] {
        let term = |at: usize| epochs[at][name].as_f64().unwrap();
        assert!(term(4) < term(0), "{name}: {} → {}", term(0), term(4));
    }
    assert!(epochs.iter().all(|epoch| epoch["dist"].as_f64().unwrap() > 0.0));
}

#[test]
fn labels_are_the_tokens_that_follow() {
    let case = case(&[]);
    let set = ["loss.weights={ cross_entropy = 1.0 }", "train.epochs=40", "train.select_by=last"];
    let report = case.train("run", &set).code(0).json();
    // Each token is followed by the one three further, but for the ends of documents.
    let measured = &report["validation"]["seen"];
    assert!(measured["accuracy"].as_f64().unwrap() > 0.9, "{report}");
    assert!(measured["perplexity"].as_f64().unwrap() < 2.0, "{report}");
    assert!(report.get("temperature").is_none());
}

#[test]
fn what_does_not_belong_to_language_models_is_refused() {
    let case = case(&[]);
    let refused = |set: &[&str], words: &[&str]| {
        case.train("refused", set).refused(words);
    };
    let images = format!(
        "dataset={{ kind = \"idx\", images = {:?} }}",
        fixture("fashion-mnist/train-images-idx3-ubyte.gz")
    );
    refused(&[&images], &["dataset", "keeps the tokens", "leave the key out"]);
    refused(&["student={ kind = \"mlp\", hidden = [8] }"], &["\"mlp\"", "images", "llama"]);
    refused(&["student.num_attention_heads=5"], &["student.hidden_size", "10", "32"]);
    refused(&["student.num_key_value_heads=3"], &["student.num_key_value_heads", "4", "3"]);
    refused(&["student.classes=49"], &["student.classes", "50 classes", "49"]);
    refused(&["loss.weights.dist=1"], &["loss.dist.gamma = 1", "taken in parts", "loss.dist.gamma = 0"]);
    refused(&["train.select_by=seen.f1"], &["train.select_by", "perplexity", "loss"]);
    let tokenizer = format!("tokenizer={}", fixture("tokenizers/none.json").display());
    refused(&[&tokenizer], &["none.json"]);
    assert!(!case.out("refused").exists());
    // Without its cache there is nothing to learn from.
    kd_train(&args!["--config", case.config, "--out", case.out("refused")]).refused(&["--cache DIR"]);
}

/// A tokenizer of so many words, `w0`, `w1` and so on, and `<eos>`.
pub fn tokenizer(dir: &Path, name: &str, words: u32) -> PathBuf {
    let mut vocabulary: serde_json::Map<String, Value> =
        (0..words).map(|word| (format!("w{word}"), json!(word))).collect();
    vocabulary.insert("<eos>".into(), json!(words));
    let added = json!([{
        "id": words, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    }]);
    let text = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w0" },
    });
    write(dir, name, &text.to_string())
}

#[test]
fn a_student_goes_on_with_a_prompt_in_the_caches_own_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (tokenizer(dir.path(), "own.json", 40), tokenizer(dir.path(), "other.json", 41));
    let large = tokenizer(dir.path(), "large.json", 60);
    let words: Vec<String> = (0..200).map(|at| format!("w{}", at % 8)).collect();
    let text = write(dir.path(), "text.txt", &words.join(" "));
    let teacher = fixture("teachers/causal.onnx");
    let cache = format!(
        r#"[dataset]
kind = "text"
paths = [{text:?}]
tokenizer = {own:?}
rows = {{ length = 16 }}
[teacher]
kind = "onnx"
path = {teacher:?}
[head]
k = 6
[tail]
fit_samples = 60
"#
    );
    let cache = write(dir.path(), "cache.toml", &cache);
    let out = |name: &str| dir.path().join(name);
    build(&cache, &out("cache"), &[]).code(0);
    let train = format!(
        r#"tokenizer = {own:?}
[student]
kind = "llama"
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 4
[loss]
weights = {{ cross_entropy = 1.0 }}
[optimizer]
kind = "adamw"
learning_rate = 0.01
[train]
epochs = 30
batch = 4
threads = 1
"#
    );
    let config = write(dir.path(), "train.toml", &train);
    let train = |name: &str, set: &[&str]| {
        let mut args =
            args!["--config", config, "--cache", out("cache"), "--out", out(name), "--quiet"].to_vec();
        for set in set {
            args.extend(args!["--set", set]);
        }
        kd_train(&args)
    };
    let set = format!("tokenizer={}", other.display());
    train("other", &[&set]).refused(&["tokenizer", "other.json", "teacher's own"]);
    train("run", &[]).code(0);

    let generate = |more: &[&str]| {
        let mut args = args!["generate", out("run"), "--prompt", "w5 w6", "--max-new-tokens", "5"].to_vec();
        for word in more {
            args.extend(args![word]);
        }
        kd_train(&args)
    };
    // It learned to count in eights.
    let said = generate(&["--format", "json"]).code(0).json();
    assert_eq!((&said["tokens"], &said["ended"]), (&json!([7, 0, 1, 2, 3]), &json!(false)));
    assert_eq!(said["text"], "w7 w0 w1 w2 w3");
    assert!(generate(&[]).code(0).out.starts_with("w5 w6"));
    let drawn = |seed| generate(&["--temperature", "5", "--seed", seed, "--format", "json"]).code(0).json();
    assert_eq!(drawn("1")["tokens"], drawn("1")["tokens"]);
    assert_ne!(drawn("1")["tokens"], drawn("2")["tokens"]);
    // So does a module, whose run keeps the tokenizer too.
    let module = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/tokens.pt"));
    train("module", &[&module, "train.epochs=60"]).code(0);
    std::fs::rename(&own, dir.path().join("elsewhere.json")).unwrap();
    let mut args = args!["generate", out("module"), "--prompt", "w6", "--max-new-tokens", "3"].to_vec();
    args.extend(args!["--format", "json"]);
    assert_eq!(kd_train(&args).code(0).json()["text"], "w7 w0 w1");
    generate(&["--temperature=-1"]).refused(&["--temperature", "-1"]);
    generate(&["--tokenizer", large.to_str().unwrap()]).refused(&["--tokenizer", "61", "50"]);
    kd_train(&args!["generate", out("run"), "--prompt", ""]).refused(&["--prompt"]);
    kd_train(&args!["predict", out("run"), "--dataset", "seen"]).refused(&["kd-train generate"]);
    kd_train(&args!["generate", out("none"), "--prompt", "w1"]).refused(&["none"]);
}
