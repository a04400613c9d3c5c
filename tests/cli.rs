//! What a person and a script see of both programs: help, versions, reports, exit codes.

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::path::Path;

use crate::common::{
    Said, build, cache_config, files, kd_cache, kd_cache_command, kd_train, kd_train_command, train_config,
};
use crate::synthetic::Synthetic;
use arrow::array::{Array, AsArray, RecordBatch, UInt8Array};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use kd_cache::cache::Manifest;
use kd_cache::digest::Digest;
use serde_json::{Value, json};

#[test]
fn help_names_commands_examples_and_exit_codes() {
    for help in [kd_cache(&["--help"]), kd_cache(&["help"])] {
        let help = help.code(0);
        assert_eq!(help.err, "");
        for word in [
            "plan",
            "build",
            "inspect",
            "verify",
            "show",
            "fidelity",
            "export",
            "report",
            "Examples:",
            "kd-cache plan --config",
            "kd-cache report my-cache",
            "Exit codes: 0 done; 1 verify",
        ] {
            assert!(help.out.contains(word), "{word:?} is not in:\n{}", help.out);
        }
    }
    let help = kd_train(&["--help"]).code(0);
    for word in ["eval", "predict", "--cache", "--config", "--out", "--set", "--overwrite", "Exit codes:"] {
        assert!(help.out.contains(word), "{word:?} is not in:\n{}", help.out);
    }
    for (command, words) in [
        ("build", ["--config", "--out", "--set", "--quiet", "--format"].as_slice()),
        ("fidelity", &["--samples", "[default: 4096]", "--temperatures", "[default: 1,2,4,8;"]),
        ("show", &["--sample", "--temperature", "--position"]),
        (
            "export",
            &["--to <FORM>", "jsonl", "npz", "--out <FILE>", "--temperature", "--samples <A..B>", "--quiet"],
        ),
        (
            "plan",
            &["--config", "--set", "--out", "--batches", "[default: 8]", "--price-per-hour", "--format"],
        ),
        ("report", &["--out", "-report.html", "--fidelity", "--samples", "[default: 4096]", "--format"]),
    ] {
        let help = kd_cache(&[command, "--help"]).code(0);
        for word in words {
            assert!(help.out.contains(word), "{command}: {word:?} is not in:\n{}", help.out);
        }
    }
    let version = concat!(env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(kd_cache(&["--version"]).code(0).out, format!("kd-cache {version}"));
    assert_eq!(kd_train(&["--version"]).code(0).out, format!("kd-train {version}"));
}

#[test]
fn wrong_usage_ends_with_2() {
    let missing: [&str; 0] = [];
    kd_cache(&missing).code(2);
    kd_cache(&["biuld"]).refused(&["build"]);
    kd_cache(&["build"]).refused(&["--config", "--out"]);
    kd_cache(&["show", "x", "--sample", "one"]).refused(&["--sample"]);
    kd_cache(&["inspect", "x", "--format", "yaml"]).refused(&["text", "json"]);
    kd_train(&missing).refused(&["--config <FILE>", "--out <RUN>"]);
    kd_train(&["--config", "x"]).refused(&["--out"]);
    kd_train(&["predict", "x"]).refused(&["--dataset"]);
}

#[test]
fn reports_go_to_standard_output_and_everything_else_to_standard_error() {
    let dir = tempfile::tempdir().unwrap();
    let (config, out) = (cache_config(dir.path(), "linear.onnx"), dir.path().join("cache"));
    let built = kd_cache(&args!["build", "--config", config, "--out", out, "--format", "json"]).code(0);
    let report = built.json();
    assert_eq!((&report["outcome"], &report["samples_done"]), (&json!("built"), &json!(512)));
    assert!(
        report["seconds"].as_f64().unwrap() > 0.0 && report["samples_per_second"].as_f64().unwrap() > 0.0
    );
    assert_eq!((&report["cache"]["k"], &report["cache"]["complete"]), (&json!(3), &json!(true)));
    assert!(built.err.contains("teacher: 512 of 512 samples"), "{}", built.err);
    // Not a terminal: plain lines.
    assert!(!built.err.contains(['\r', '\u{1b}']), "{:?}", built.err);
    let again = dir.path().join("again");
    assert_eq!(build(&config, &again, &[]).code(0).err, "", "--quiet is silence");
    let text = kd_cache(&args!["build", "--config", config, "--out", again]).code(0);
    assert!(text.out.contains("is complete already: 512 samples"), "{}", text.out);

    let json = |words: &[&str]| {
        let said =
            kd_cache_command(&args![words[0], out, "--format", "json"]).args(&words[1..]).output().unwrap();
        let said = crate::common::Said::from(said).code(0);
        said.json()
    };
    let inspected = json(&["inspect"]);
    for (key, value) in [
        ("samples", json!(512)),
        ("positions", json!(512)),
        ("classes", json!(10)),
        ("k", json!(3)),
        ("complete", json!(true)),
        ("format_version", json!(1)),
        ("nodes", json!([0.125, 0.25, 0.5, 0.75, 1.0])),
        ("shards", json!(6)),
    ] {
        assert_eq!(inspected[key], value, "{key}");
    }
    let on_disk: u64 = files(&out)
        .iter()
        .filter(|(name, _)| name.ends_with(".arrow"))
        .map(|(_, bytes)| bytes.len() as u64)
        .sum();
    assert_eq!(inspected["bytes"], on_disk);
    assert_eq!(inspected["bytes_per_position"], on_disk as f64 / 512.0);
    // What tools/make_test_models.py printed when it made the teacher.
    assert!((inspected["teacher_accuracy"].as_f64().unwrap() - 0.826).abs() < 0.01);

    let shown = json(&["show", "--sample", "9", "--temperature", "2"]);
    let probabilities: Vec<f64> =
        shown["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
    assert_eq!(shown["ids"].as_array().unwrap().len(), 3);
    assert!(probabilities.is_sorted_by(|a, b| a >= b));
    let whole = probabilities.iter().sum::<f64>() + shown["tail_mass"].as_f64().unwrap();
    assert!((whole - 1.0).abs() < 1e-9, "{whole}");
    assert_eq!(
        (&shown["sample"], &shown["position"], &shown["temperature"]),
        (&json!(9), &json!(0), &json!(2.0))
    );

    let verified = json(&["verify"]);
    assert_eq!(
        (&verified["sound"], &verified["rows"], &verified["files"]),
        (&json!(true), &json!(512), &json!(8))
    );

    let config = config.to_str().unwrap();
    let measured =
        json(&["fidelity", "--config", config, "--samples", "100", "--temperatures", "1,3", "--quiet"]);
    assert_eq!(measured["positions"], 100);
    let rows: Vec<(String, f64)> = measured["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["tail"].as_str().unwrap().to_owned(), row["temperature"].as_f64().unwrap()))
        .collect();
    let tails = ["prior", "uniform", "bucket", "renormalize"];
    let expected = [1.0, 3.0].into_iter().flat_map(|t| tails.map(|tail| (tail.to_owned(), t)));
    assert_eq!(rows, expected.collect::<Vec<_>>());
    // For people.
    for (command, words) in [
        (args!["inspect", out].to_vec(), ["samples", "512", "per position", "onnx linear.onnx"]),
        (args!["verify", out, "--quiet"].to_vec(), ["sound: ", "8 files", "512 rows", "checked"]),
        (
            args!["show", out, "--sample", "0", "--temperature", "4"].to_vec(),
            ["sample 0", "T = 4", "label 9", "over 7 classes"],
        ),
        (
            args!["fidelity", out, "--config", config, "--quiet"].to_vec(),
            ["rms", "kept mass", "renormalize", "inf"],
        ),
    ] {
        let said = kd_cache(&command).code(0);
        for word in words {
            assert!(said.out.contains(word), "{word:?} is not in:\n{}", said.out);
        }
    }
}

/// Whatever has become of standard error (a full disk, a closed terminal, `2>&1 | head`), the work goes on.
#[test]
fn work_does_not_depend_on_what_is_told_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (config, cache) = (cache_config(dir.path(), "linear.onnx"), dir.path().join("cache"));
    let build = args!["build", "--config", config, "--out", cache, "--format", "json"];
    let built = kd_cache_command(&build).stderr(nowhere()).output().unwrap();
    assert_eq!(Said::from(built).code(0).json()["outcome"], json!("built"));
    let (config, run) = (train_config(dir.path()), dir.path().join("run"));
    let train = args!["--config", config, "--cache", cache, "--out", run, "--format", "json"];
    let trained = kd_train_command(&train).stderr(nowhere()).output().unwrap();
    assert_eq!(Said::from(trained).code(0).json()["epochs"], json!(2));
    // What is asked of them is an error, but none that can be told.
    let wrong = kd_cache_command(&["inspect", "nowhere"]).stderr(nowhere()).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn questions_a_cache_cannot_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (config, out) = (cache_config(dir.path(), "linear.onnx"), dir.path().join("cache"));
    build(&config, &out, &[]).code(0);
    let show = |words: &[&str]| {
        let done = kd_cache_command(&args!["show", out]).args(words).output().unwrap();
        crate::common::Said::from(done)
    };
    show(&["--sample", "512"]).refused(&["--sample 512", "it has 512, from 0 to 511"]);
    show(&["--sample", "0", "--position", "1"]).refused(&["--position 1"]);
    show(&["--sample", "0", "--temperature", "0.5"])
        .refused(&["temperature 0.5 is below 1", "tail.nodes up to 2"]);
    for wrong in ["0", "-1", "nan", "inf"] {
        let given = format!("--temperature={wrong}");
        show(&["--sample", "0", &given]).refused(&["--temperature", "is not a positive, finite number"]);
    }
    for command in ["inspect", "verify"] {
        kd_cache(&args![command, dir.path().join("nothing")])
            .refused(&["nothing holds no cache: there is no such folder"]);
    }
    let fidelity = |set: &str| kd_cache(&args!["fidelity", out, "--config", config, "--set", set, "--quiet"]);
    let other = crate::common::fixture("teachers/softmax.onnx");
    fidelity(&format!("teacher.path={}", other.display()))
        .refused(&["teacher.path", "the cache was made from sha256:"]);
    fidelity("dataset.limit=100").refused(&["dataset", "the cache was made from"]);
    fidelity("preprocess.scale=1.0").refused(&["preprocess", "the cache was made from"]);
    fidelity("augment.horizontal_flip=0.5").refused(&[
        "augment",
        "the cache was made from none",
        "gives sha256:",
    ]);
    kd_cache(&args!["fidelity", out, "--config", config, "--temperatures", "0.5"])
        .refused(&["--temperatures", "0.5"]);
    kd_cache(&args!["fidelity", out, "--config", config, "--samples", "0"]).refused(&["--samples"]);
}

#[test]
fn damage_ends_with_1_naming_shard_and_row() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let manifest = Synthetic::fixture().write(&cache);
    kd_cache(&args!["verify", cache]).code(0);
    // A class that does not exist, in a shard whose digest says that this is how it should be.
    let row = forge(&cache, manifest, 1, 2, 200);
    let said = kd_cache(&args!["verify", cache, "--quiet"]).code(1);
    let expected =
        format!("shards/00001.arrow, row 2 (sample {row}): head: expected class ids below 20, found 200");
    assert!(said.out.contains("damaged:") && said.out.contains(&expected), "{}", said.out);
    let report = kd_cache(&args!["verify", cache, "--quiet", "--format", "json"]).code(1).json();
    assert_eq!(report["sound"], false);
    let damage = &report["damages"][0];
    assert_eq!(
        (&damage["file"], &damage["row"], &damage["sample"]),
        (&json!("shards/00001.arrow"), &json!(2), &json!(row))
    );
    // Readers refuse the row, whatever they wanted of it.
    let sample = row.to_string();
    kd_cache(&args!["show", cache, "--sample", sample])
        .refused(&["00001.arrow: row 2: expected class ids below 20"]);
    kd_cache(&args!["show", cache, "--sample", "0"]).code(0);
    // Changed bytes are found by the digest.
    let shard = cache.join("shards/00000.arrow");
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&shard, bytes).unwrap();
    let said = kd_cache(&args!["verify", cache, "--quiet"]).code(1);
    assert!(said.out.contains("shards/00000.arrow: expected content sha256:"), "{}", said.out);
    // A version from the future cannot be checked.
    let path = cache.join("manifest.json");
    let text =
        std::fs::read_to_string(&path).unwrap().replace("\"format_version\": 1", "\"format_version\": 99");
    std::fs::write(&path, text).unwrap();
    kd_cache(&args!["verify", cache]).refused(&["version 1", "found kd-cache, version 99"]);
}

/// Writes `class` into the head of a row, and the manifest so that every digest fits. Gives the
/// row's sample.
fn forge(cache: &Path, mut manifest: Manifest, shard: usize, row: usize, class: u8) -> u64 {
    let entry = &mut manifest.shards[shard];
    let path = cache.join(&entry.file);
    let mut reader = FileReader::try_new(std::fs::File::open(&path).unwrap(), None).unwrap();
    let schema = reader.schema();
    let batch = reader.next().unwrap().unwrap();
    let at = schema.index_of("head_ids").unwrap();
    let list = batch.column(at).as_fixed_size_list();
    let k = list.value_length() as usize;
    let ids = list.values().as_primitive::<arrow::datatypes::UInt8Type>().values();
    let ids: UInt8Array = ids
        .iter()
        .enumerate()
        .map(|(i, id)| if i == row * k { class } else { *id })
        .collect::<Vec<u8>>()
        .into();
    let arrow::datatypes::DataType::FixedSizeList(item, size) = list.data_type() else { panic!() };
    let forged =
        arrow::array::FixedSizeListArray::try_new(item.clone(), *size, std::sync::Arc::new(ids), None)
            .unwrap();
    let mut columns = batch.columns().to_vec();
    columns[at] = std::sync::Arc::new(forged);
    let mut writer = FileWriter::try_new(std::fs::File::create(&path).unwrap(), &schema).unwrap();
    writer.write(&RecordBatch::try_new(schema.clone(), columns).unwrap()).unwrap();
    writer.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    (entry.bytes, entry.digest) = (bytes.len() as u64, Digest::of_bytes(&bytes));
    let first = entry.first_sample;
    let text = serde_json::to_string_pretty::<Manifest>(&manifest).unwrap();
    std::fs::write(cache.join("manifest.json"), text).unwrap();
    first + row as u64
}

#[test]
fn train_reports() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, run) = (dir.path().join("cache"), dir.path().join("run"));
    build(&cache_config(dir.path(), "linear.onnx"), &cache, &[]).code(0);
    let config = train_config(dir.path());
    let said =
        kd_train(&args!["--cache", cache, "--config", config, "--out", run, "--format", "json"]).code(0);
    let report: Value = said.json();
    let saved: Value = serde_json::from_slice(&std::fs::read(run.join("summary.json")).unwrap()).unwrap();
    assert_eq!(report, saved);
    assert_eq!(
        (&report["outcome"], &report["epochs"], &report["steps"]),
        (&json!("trained"), &json!(2), &json!(16))
    );
    assert!(said.err.contains("epoch 2/2: loss"), "{}", said.err);
    let quiet = kd_train(&args![
        "--cache",
        cache,
        "--config",
        config,
        "--out",
        run,
        "--overwrite",
        "--quiet",
        "--format",
        "json"
    ])
    .code(0);
    assert_eq!(quiet.err, "");
    let text = kd_train(&args!["--cache", cache, "--config", config, "--out", run, "--overwrite", "--quiet"])
        .code(0);
    assert!(text.out.starts_with("2 epochs, 16 steps over 512 samples"), "{}", text.out);
    let eval = kd_train(&args!["eval", run]).code(0);
    assert!(eval.out.starts_with("test: 256 samples, accuracy 0."), "{}", eval.out);
}

#[test]
fn a_config_is_printed_as_it_is_understood_or_with_every_default() {
    let dir = tempfile::tempdir().unwrap();
    let config = train_config(dir.path());
    let printed = kd_train(&args!["config", "--config", config, "--set", "train.epochs=7"]).code(0);
    let table: toml::Table = printed.out.parse().unwrap();
    assert_eq!(table["train"]["epochs"].as_integer(), Some(7));
    assert_eq!(table["train"]["prefetch"].as_integer(), Some(4));
    // What is printed is a config, and the same one.
    let again = crate::common::write(dir.path(), "again.toml", &printed.out);
    assert_eq!(kd_train(&args!["config", "--config", again]).code(0).out, printed.out);
    kd_train(&args!["config", "--config", config, "--set", "train.epoch=7"])
        .refused(&["train.epoch", "epochs"]);
    assert_eq!(kd_train(&["config"]).code, Some(2));
    for (said, words) in [
        (kd_train(&["config", "--defaults"]), ["accumulate = 1", "# Peak learning rate."]),
        (kd_cache(&["config", "--defaults"]), ["curve_step = 0.0625", "[storage]"]),
    ] {
        let said = said.code(0);
        said.out.parse::<toml::Table>().unwrap();
        for word in words {
            assert!(said.out.contains(word), "{word:?} is not in:\n{}", said.out);
        }
    }
}
