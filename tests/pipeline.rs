//! Teachers of every kind through the whole of `kd-cache build`: the same targets, whoever runs the
//! model and whatever form its output has.

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::io::Read;
use std::path::Path;

use crate::common::{build, build_command, cache_config, files, fixture, kd_cache, write};
use kd_cache::cache::CacheReader;
use kd_cache::config::GraphOptimization;
use kd_cache::target::{PositionTarget, TailHandling, TargetBatch, Temperature};
use serde_json::Value;

/// Every target of the cache in `dir`.
fn targets(dir: &Path) -> (CacheReader, TargetBatch) {
    let reader = CacheReader::open(dir).unwrap();
    let rows: Vec<u64> = (0..reader.rows()).collect();
    let mut targets = TargetBatch::default();
    reader.gather(&rows, &mut targets).unwrap();
    (reader, targets)
}

/// The dense targets of the cache in `dir` at `temperature`, row by row.
fn dense(dir: &Path, temperature: f64) -> Vec<Vec<f64>> {
    let (reader, targets) = targets(dir);
    let manifest = reader.manifest();
    let temperature = Temperature::new(temperature).unwrap();
    let model = reader.tail_model().map(|model| model.at(temperature));
    (0..targets.rows)
        .map(|row| {
            let (ids, values, curve) = targets.row(row);
            let nodes = &manifest.tail.nodes;
            let target = PositionTarget { classes: manifest.classes, ids, values, nodes, curve };
            let tail = TailHandling::default();
            let log_weights = model.as_ref().and_then(|model| model.log_weights(tail, targets.code(row)));
            target.dense(temperature, tail, log_weights.as_deref())
        })
        .collect()
}

/// The largest difference between two caches' targets at T = 1 and T = 4.
fn distance(a: &Path, b: &Path) -> f64 {
    let mut largest = 0.0f64;
    for temperature in [1.0, 4.0] {
        let (a, b) = (dense(a, temperature), dense(b, temperature));
        assert_eq!(a.len(), b.len());
        for (p, q) in a.iter().flatten().zip(b.iter().flatten()) {
            largest = largest.max((p - q).abs());
        }
    }
    largest
}

/// Builds the teacher `name` of the fixtures, in single precision so that nothing else differs.
fn built(dir: &Path, name: &str, set: &[&str]) -> std::path::PathBuf {
    let home = dir.join(format!("{name}-{}", set.join("-").replace(['/', '[', ']', '"', ' '], "_")));
    std::fs::create_dir(&home).unwrap();
    let config = cache_config(&home, name);
    let out = home.join("cache");
    let set: Vec<&str> = set.iter().copied().chain(["storage.values=f32"]).collect();
    build(&config, &out, &set).code(0);
    out
}

#[test]
fn onnx_and_torchscript_say_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (onnx, torch) = (built(dir.path(), "linear.onnx", &[]), built(dir.path(), "linear.pt", &[]));
    let ((a, x), (b, y)) = (targets(&onnx), targets(&torch));
    assert!(a.manifest().teacher.runtime.starts_with("onnxruntime 1."), "{}", a.manifest().teacher.runtime);
    assert!(b.manifest().teacher.runtime.starts_with("libtorch 2."), "{}", b.manifest().teacher.runtime);
    assert_eq!(a.manifest().dataset, b.manifest().dataset);
    assert_eq!(a.manifest().preprocess, b.manifest().preprocess);
    assert_eq!((x.rows, x.k, x.nodes), (512, 3, 5));
    assert_eq!(x.ids, y.ids);
    let close = |x: &[f32], y: &[f32]| x.iter().zip(y).all(|(x, y)| (x - y).abs() <= 1e-4);
    assert!(close(&x.values, &y.values) && close(&x.curve, &y.curve));
    assert!(distance(&onnx, &torch) < 1e-5);
}

#[test]
fn the_memory_format_of_images_changes_last_bits_alone() {
    let dir = tempfile::tempdir().unwrap();
    let teacher = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/teachers/fashion-mnist.pt");
    let teacher = format!("teacher.path={}", teacher.display());
    let config = cache_config(dir.path(), "linear.pt");
    let [there, last] = ["there", "last"].map(|name| dir.path().join(name));
    let with = |out: &Path, more: &[&str]| {
        build(&config, out, &[&[teacher.as_str(), "storage.values=f32"], more].concat())
    };
    with(&there, &[]).code(0);
    with(&last, &["teacher.channels_last=true"]).code(0);
    let [a, b] = [&there, &last].map(|out| CacheReader::open(out).unwrap().manifest().teacher.channels_last);
    assert_eq!((a, b), (false, true));
    let distance = distance(&there, &last);
    assert!(distance < 1e-5, "{distance}");
    // It is part of what a cache was made of, and of no other kind of teacher or sample.
    with(&last, &[]).refused(&["channels_last"]);
    let flat = ["teacher.channels_last=true", "preprocess.layout=flat"];
    build(&config, &dir.path().join("flat"), &flat).refused(&["teacher.channels_last", "[784]"]);
    let onnx = ["teacher.channels_last=true", "teacher.kind=onnx"];
    build(&config, &dir.path().join("onnx"), &onnx).refused(&["teacher.channels_last", "torchscript"]);
}

/// How far a graph is rewritten is part of what a cache was made of.
#[test]
fn graphs_are_rewritten_as_far_as_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let [unsaid, disabled] = ["unsaid", "disabled"].map(|name| dir.path().join(name));
    let config = cache_config(dir.path(), "linear.onnx");
    let plain = ["teacher.graph_optimization=disable", "storage.values=f32"];
    build(&config, &unsaid, &plain[1..]).code(0);
    build(&config, &disabled, &plain).code(0);
    let said =
        [&unsaid, &disabled].map(|out| CacheReader::open(out).unwrap().manifest().teacher.graph_optimization);
    assert_eq!(said, [None, Some(GraphOptimization::Disable)]);
    assert!(distance(&unsaid, &disabled) < 1e-5);
    build(&config, &disabled, &plain[1..]).refused(&["graph_optimization"]);
    let torch = [&plain[..], &["teacher.kind=torchscript"]].concat();
    build(&config, &dir.path().join("torch"), &torch).refused(&["teacher.graph_optimization", "onnx"]);
    let here = ["teacher.execution_provider=tensorrt"];
    build(&config, &dir.path().join("here"), &here).refused(&["teacher.execution_provider", "is of a GPU"]);
    let engines = ["teacher.execution_provider=tensorrt", "teacher.batch=auto", "teacher.device=cuda"];
    build(&config, &dir.path().join("engines"), &engines).refused(&["teacher.batch", "one size"]);
    let engines = ["teacher.execution_provider=tensorrt", "teacher.head=head.onnx", "teacher.device=cuda"];
    build(&config, &dir.path().join("engines"), &engines).refused(&["teacher.head", "one size"]);
    // What is so anyway may be said.
    let unsaid_too = ["teacher.graph_optimization=all", "storage.values=f32", "teacher.threads=2"];
    let said = dir.path().join("said");
    build(&config, &said, &unsaid_too).code(0);
    let said = CacheReader::open(&said).unwrap().manifest().teacher.clone();
    assert_eq!((said.graph_optimization, said.threads), (None, Some(2)));
}

#[test]
fn probabilities_and_their_logarithms_are_logits_up_to_a_constant() {
    let dir = tempfile::tempdir().unwrap();
    let logits = built(dir.path(), "linear.onnx", &[]);
    for (name, kind) in [
        ("softmax.onnx", "probabilities"),
        ("softmax.pt", "probabilities"),
        ("log_softmax.onnx", "log_probabilities"),
    ] {
        let cache = built(dir.path(), name, &[]);
        assert_eq!(CacheReader::open(&cache).unwrap().manifest().teacher.output_kind, kind, "{name}");
        let distance = distance(&logits, &cache);
        assert!(distance < 1e-5, "{name}: {distance}");
    }
    // What the user declares is believed: probabilities are logits of another teacher, then.
    let declared = built(dir.path(), "softmax.onnx", &["teacher.output_kind=logits"]);
    assert!(distance(&logits, &declared) > 0.1);
}

#[test]
fn a_probability_of_zero_is_a_very_small_one() {
    let dir = tempfile::tempdir().unwrap();
    let cache = built(dir.path(), "zero_probability.onnx", &["head.k=10"]);
    for row in dense(&cache, 1.0) {
        assert!(row[3] < 1e-30, "{}", row[3]);
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
    let (_, targets) = targets(&cache);
    assert!(targets.values.iter().all(|value| value.is_finite()));
    // In the tail, and in half precision, it must not poison the curve either.
    let home = dir.path().join("half");
    std::fs::create_dir(&home).unwrap();
    let out = home.join("cache");
    build(&cache_config(&home, "zero_probability.onnx"), &out, &[]).code(0);
    kd_cache(&args!["verify", out]).code(0);
}

#[test]
fn half_precision_teachers_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let half = built(dir.path(), "half.onnx", &[]);
    assert_eq!(CacheReader::open(&half).unwrap().manifest().teacher.dtype, "f16");
    let distance = distance(&built(dir.path(), "linear.onnx", &[]), &half);
    assert!(distance > 0.0 && distance < 5e-3, "{distance}");
}

/// Exports in half precision take images in it, too.
#[test]
fn teachers_are_given_the_floats_that_they_take() {
    let dir = tempfile::tempdir().unwrap();
    let plain = built(dir.path(), "linear.onnx", &[]);
    for (kind, most) in [("f16", 1e-2), ("bf16", 1e-1), ("f64", 1e-5)] {
        for form in ["onnx", "pt"] {
            if form == "onnx" || cfg!(feature = "torch") {
                let distance = distance(&plain, &built(dir.path(), &format!("takes_{kind}.{form}"), &[]));
                assert!(distance < most, "{kind}, {form}: {distance}");
            }
        }
    }
}

#[test]
fn an_output_is_picked_by_name_and_a_fixed_batch_is_filled_up() {
    let dir = tempfile::tempdir().unwrap();
    let plain = built(dir.path(), "linear.onnx", &[]);
    let picked = built(dir.path(), "two_outputs.onnx", &["teacher.output=logits"]);
    let shards = |cache: &Path| files(&cache.join("shards"));
    assert_eq!(shards(&plain), shards(&picked));
    // 512 samples in shards of 102 leave batches of 2.
    let fixed = built(dir.path(), "batch_of_4.onnx", &["teacher.batch=4", "storage.shard_samples=102"]);
    assert!(distance(&plain, &fixed) < 1e-5);
}

#[test]
fn the_bytes_do_not_depend_on_threads_or_on_how_the_data_are_packed() {
    let dir = tempfile::tempdir().unwrap();
    let config = cache_config(dir.path(), "linear.onnx");
    let built = |name: &str, threads: &str, set: &[&str]| {
        let out = dir.path().join(name);
        let done = build_command(&config, &out, set).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        files(&out)
    };
    let one = built("one", "1", &[]);
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        [
            "manifest.json",
            "shards/00000.arrow",
            "shards/00001.arrow",
            "shards/00002.arrow",
            "shards/00003.arrow",
            "shards/00004.arrow",
            "shards/00005.arrow",
            "tail_model.arrow"
        ]
    );
    assert_eq!(one, built("five", "5", &[]));
    let shape = ["tail.rank=2"];
    assert_eq!(built("shape-one", "1", &shape), built("shape-five", "5", &shape));
    let plain = dir.path().join("images");
    let mut bytes = Vec::new();
    let packed = std::fs::File::open(fixture("fashion-mnist/train-images-idx3-ubyte.gz")).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    std::fs::write(&plain, bytes).unwrap();
    assert_eq!(one, built("plain", "2", &[&format!("dataset.images={}", plain.display())]));
}

#[test]
fn no_labels_are_needed_and_every_class_may_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[dataset]\nkind = \"idx\"\nimages = {:?}\nlimit = 100\n[teacher]\nkind = \"onnx\"\npath = {:?}\n[head]\nk = 10\n",
        fixture("fashion-mnist/train-images-idx3-ubyte.gz"),
        fixture("teachers/linear.onnx"),
    );
    let config = write(dir.path(), "unlabelled.toml", &text);
    let out = dir.path().join("cache");
    let built = build(&config, &out, &[]).code(0).json();
    assert_eq!((&built["outcome"], &built["samples_done"]), (&"built".into(), &100.into()));
    let inspected = kd_cache(&args!["inspect", out, "--format", "json"]).code(0).json();
    assert_eq!((&inspected["samples"], &inspected["k"]), (&100.into(), &10.into()));
    assert!(inspected.get("teacher_accuracy").is_none() && inspected["nodes"] == Value::Array(vec![]));
    assert!(!out.join("tail_model.arrow").exists());
    let shown = kd_cache(&args!["show", out, "--sample", "5", "--format", "json"]).code(0).json();
    assert!(shown.get("label").is_none());
    assert_eq!((&shown["tail_mass"], &shown["tail_classes"]), (&0.0.into(), &0.into()));
    kd_cache(&args!["verify", out]).code(0);
}

/// `tests/fixtures/reference/teacher.json`: the linear teacher's softmax as PyTorch has it.
#[test]
fn targets_are_what_pytorch_says() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("reference/teacher.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let set = ["preprocess.mean=[0.286]", "preprocess.std=[0.353]", "head.k=10"];
    let cache = built(dir.path(), "linear.onnx", &set);
    let mut compared = 0;
    for (temperature, rows) in reference["softmax"].as_object().unwrap() {
        let found = dense(&cache, temperature.parse().unwrap());
        for (expected, found) in rows.as_array().unwrap().iter().zip(&found) {
            for (p, q) in expected.as_array().unwrap().iter().zip(found) {
                assert!((p.as_f64().unwrap() - q).abs() < 2e-6, "T = {temperature}: {p} and {q}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 3 * 8 * 10);
}

#[test]
fn the_prior_is_nearer_to_the_teacher_than_leaving_the_tail_out() {
    let dir = tempfile::tempdir().unwrap();
    let config = cache_config(dir.path(), "linear.onnx");
    let out = dir.path().join("cache");
    build(&config, &out, &["head.k=3"]).code(0);
    let measured = kd_cache(&args![
        "fidelity",
        out,
        "--config",
        config,
        "--format",
        "json",
        "--quiet",
        "--temperatures",
        "1,2,4"
    ])
    .code(0)
    .json();
    assert_eq!(measured["positions"], 512);
    let of = |tail: &str, temperature: f64, key: &str| {
        let mut rows = measured["rows"].as_array().unwrap().iter();
        let row = rows.find(|row| row["tail"] == tail && row["temperature"] == temperature).unwrap();
        // Renormalised targets leave classes without mass: their divergence is infinite, null.
        row[key].as_f64().unwrap_or(f64::INFINITY)
    };
    for temperature in [2.0, 4.0] {
        for key in ["rms", "kl", "drift"] {
            for other in ["renormalize", "bucket"] {
                let (ours, theirs) = (of("prior", temperature, key), of(other, temperature, key));
                assert!(ours < theirs, "{key} at T = {temperature}: prior {ours}, {other} {theirs}");
            }
        }
    }
    // The head is exact, and with it the teacher's first class.
    assert_eq!(of("prior", 1.0, "top1_agreement"), 1.0);
    assert!(of("prior", 4.0, "kept_mass") < of("prior", 1.0, "kept_mass"));

    // A shape is nearer still, at every temperature; the prior stays what it was.
    let out = dir.path().join("shape");
    build(&config, &out, &["head.k=3", "tail.rank=3"]).code(0);
    let with_shape =
        kd_cache(&args!["fidelity", out, "--config", config, "--format", "json", "--quiet"]).code(0).json();
    let kl = |tail: &str, temperature: f64| {
        let mut rows = with_shape["rows"].as_array().unwrap().iter();
        let row = rows.find(|row| row["tail"] == tail && row["temperature"] == temperature).unwrap();
        row["kl"].as_f64().unwrap()
    };
    for temperature in [1.0, 2.0, 4.0] {
        assert!((kl("prior", temperature) - of("prior", temperature, "kl")).abs() < 1e-9);
        assert!(kl("shape", temperature) < 0.5 * kl("prior", temperature), "{with_shape}");
    }

    // With every class kept, nothing is lost but the rounding of half precision.
    let out = dir.path().join("all");
    build(&config, &out, &["head.k=10"]).code(0);
    let all =
        kd_cache(&args!["fidelity", out, "--config", config, "--format", "json", "--quiet"]).code(0).json();
    for row in all["rows"].as_array().unwrap() {
        assert!(row["rms"].as_f64().unwrap() < 1e-3 && row["kl"].as_f64().unwrap() < 1e-5, "{row}");
    }
}
