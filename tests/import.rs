//! `kd-cache import`, run as a user runs it: what other tools kept becomes a cache with the same numbers, and what
//! is no top-k of a softmax, or does not belong together, is refused where it stands.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::common::{Said, fixture, kd_cache, targets};
use kd_cache::cache::CacheReader;
use kd_cache::config::{DEFAULT_LEVEL, StorageForm, ValueEncoding};
use kd_cache::foreign::ForeignFormat;
use kd_cache::ops::{self, ImportSettings};
use kd_cache::target::{PositionTarget, TargetBatch, Temperature};
use serde_json::{Map, Value, json};

const CLASSES: usize = 40;
const K: usize = 4;

/// Log-probabilities of every class after token `position` of row `row`, from a formula.
fn logprobs(row: usize, position: usize) -> Vec<f64> {
    let z: Vec<f64> = (0..CLASSES)
        .map(|j| f64::from(((j * 7919 + position * 104_729 + row * 31) % 1009) as u32) / 150.0)
        .collect();
    let log_z = z.iter().map(|z| z.exp()).sum::<f64>().ln();
    z.iter().map(|z| z - log_z).collect()
}

/// The `k` most probable classes, falling.
fn top(logprobs: &[f64], k: usize) -> Vec<(usize, f64)> {
    let mut all: Vec<(usize, f64)> = logprobs.iter().copied().enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(k);
    all
}

fn tokens(row: usize) -> Vec<usize> {
    (0..6 + row).map(|at| (at * 13 + row * 5) % CLASSES).collect()
}

/// A line of vLLM's: the first entry null, and the token that follows where it is none of the k.
fn vllm(row: usize) -> Value {
    let tokens = tokens(row);
    let mut entries = vec![Value::Null];
    for (position, next) in tokens.iter().skip(1).enumerate() {
        let all = logprobs(row, position);
        let mut entry = Map::new();
        let mut add = |class: usize, rank: usize| {
            entry.insert(
                class.to_string(),
                json!({"logprob": all[class], "rank": rank, "decoded_token": "x"}),
            );
        };
        let rank = 1 + all.iter().filter(|other| **other > all[*next]).count();
        add(*next, rank);
        top(&all, K).iter().enumerate().for_each(|(at, (class, _))| add(*class, at + 1));
        entries.push(entry.into());
    }
    json!({"prompt_token_ids": tokens, "prompt_logprobs": entries, "finished": true})
}

fn write_lines(path: &Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(path, text).unwrap();
}

fn import(format: &str, path: &Path, out: &Path, more: &[&str]) -> Said {
    let (path, out) = (path.to_str().unwrap(), out.to_str().unwrap());
    let mut args =
        vec!["import", "--from", format, path, "--out", out, "--teacher", "made-up", "--format", "json"];
    args.extend(["--values", "f32", "-q"]);
    args.extend(more);
    kd_cache(&args)
}

/// Asserts that `cache` holds what [`logprobs`] and [`tokens`] say of `rows` rows.
#[track_caller]
fn assert_is_the_softmax(cache: &Path, rows: usize) {
    let reader = CacheReader::open(cache).unwrap();
    let batch = targets(cache);
    let mut at = 0;
    for row in 0..rows {
        let expected = tokens(row);
        let kept = &reader.tokens(row as u64).unwrap().unwrap().tokens;
        assert!(kept.iter().map(|t| *t as usize).eq(expected[..expected.len() - 1].iter().copied()));
        for position in 0..kept.len() {
            assert_is_entry(&reader, &batch, at, &logprobs(row, position), 1e-5);
            at += 1;
        }
    }
    assert_eq!(batch.rows, at);
}

#[track_caller]
fn assert_is_entry(reader: &CacheReader, batch: &TargetBatch, row: usize, logprobs: &[f64], off: f64) {
    let (ids, values, curve) = batch.row(row);
    let nodes = &reader.manifest().tail.nodes;
    let target = PositionTarget { classes: reader.manifest().classes, ids, values, nodes, curve };
    let decoded = target.decode(Temperature::ONE);
    for ((id, found), (class, expected)) in
        ids.iter().zip(&decoded.probabilities).zip(top(logprobs, ids.len()))
    {
        assert_eq!(*id as usize, class);
        assert!((found - expected.exp()).abs() < off, "{found} is not {}", expected.exp());
    }
    let tail = 1.0 - top(logprobs, ids.len()).iter().map(|(_, logprob)| logprob.exp()).sum::<f64>();
    assert!((decoded.tail_mass - tail).abs() < off, "{} is not {tail}", decoded.tail_mass);
}

#[test]
fn prompt_logprobs_of_vllm_become_targets() {
    let dir = tempfile::tempdir().unwrap();
    let (file, cache) = (dir.path().join("a.jsonl"), dir.path().join("cache"));
    // The third as the server answers.
    let server = json!({"id": "cmpl-1", "choices": [vllm(2)]});
    write_lines(&file, &[vllm(0), vllm(1), server]);
    let said =
        import("vllm-jsonl", &file, &cache, &["--classes", "40", "--shard-samples", "2"]).code(0).json();
    assert_eq!(
        (&said["complete"], &said["cache"]["k"], &said["cache"]["samples"]),
        (&json!(true), &json!(K), &json!(3))
    );
    assert_eq!(said["cache"]["positions"], json!(5 + 6 + 7));
    assert_is_the_softmax(&cache, 3);
    kd_cache(&["verify", cache.to_str().unwrap()]).code(0);
    let manifest = CacheReader::open(&cache).unwrap().manifest().clone();
    let manifest = serde_json::to_value(manifest).unwrap();
    assert_eq!(
        (&manifest["teacher"]["kind"], &manifest["teacher"]["file"]),
        (&json!("import"), &json!("made-up"))
    );
    assert_eq!(manifest["tail"]["nodes"], json!([1.0]));
    // The same again changes nothing, and makes again what is lost; other settings are refused.
    for lost in [None, Some("shards/00000.arrow"), Some("shards/00001.arrow")] {
        let shard = lost.map(|lost| (cache.join(lost), fs::read(cache.join(lost)).unwrap()));
        shard.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
        import("vllm-jsonl", &file, &cache, &["--classes", "40", "--shard-samples", "2"]).code(0);
        shard.iter().for_each(|(path, bytes)| assert!(&fs::read(path).unwrap() == bytes, "{path:?}"));
        kd_cache(&["verify", cache.to_str().unwrap()]).code(0);
    }
    import("vllm-jsonl", &file, &cache, &["--classes", "41", "--shard-samples", "2"])
        .refused(&["classes", "40", "41"]);
    // So is another that said otherwise of the same tokens.
    let other = dir.path().join("b.jsonl");
    let mut said: Vec<Value> = [0, 1, 2].map(vllm).into();
    for entry in said[2]["prompt_logprobs"].as_array_mut().unwrap() {
        for (_, said) in entry.as_object_mut().into_iter().flatten() {
            said["logprob"] = json!(said["logprob"].as_f64().unwrap() - 0.01);
        }
    }
    write_lines(&other, &said);
    import("vllm-jsonl", &other, &cache, &["--classes", "40", "--shard-samples", "2"])
        .refused(&["teacher.digest"]);
    // Fewer classes than there are, and quantized afterwards.
    let small = dir.path().join("small");
    import("vllm-jsonl", &file, &small, &["--classes", "40", "--k", "3"]).code(0);
    assert_is_the_softmax(&small, 3);
    let packed = dir.path().join("packed");
    let (small, packed) = (small.to_str().unwrap(), packed.to_str().unwrap());
    kd_cache(&["convert", small, packed, "--form", "arrow", "--values", "quantized", "-q"]).code(0);
    kd_cache(&["verify", packed]).code(0);
}

#[test]
fn what_does_not_belong_together_is_refused_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let (file, cache) = (dir.path().join("a.jsonl"), dir.path().join("cache"));
    let refused = |change: &dyn Fn(&mut Value), more: &[&str], words: &[&str]| {
        let mut line = vllm(1);
        change(&mut line);
        write_lines(&file, &[vllm(0), line]);
        let mut args = vec!["--classes", "40"];
        args.extend(more);
        import("vllm-jsonl", &file, &cache, &args).refused(words);
        assert!(!cache.exists());
    };
    let here = "a.jsonl, line 2";
    refused(
        &|line| line["prompt_token_ids"][3] = json!(2),
        &[],
        &[here, "position 2", "the token that follows, 2"],
    );
    refused(&|line| line["prompt_logprobs"][3] = Value::Null, &[], &[here, "position 2", "null"]);
    refused(
        &|line| drop(line["prompt_token_ids"].as_array_mut().unwrap().pop()),
        &[],
        &[here, "found 6 and 7"],
    );
    refused(
        &|line| drop(line.as_object_mut().unwrap().remove("prompt_token_ids")),
        &[],
        &[here, "return_token_ids"],
    );
    refused(
        &|line| drop(line.as_object_mut().unwrap().remove("prompt_logprobs")),
        &[],
        &[here, "prompt_logprobs=k"],
    );
    let certain = |line: &mut Value| {
        for entry in line["prompt_logprobs"][4].as_object_mut().unwrap().values_mut() {
            entry["logprob"] = json!(-0.1);
        }
    };
    refused(&certain, &[], &[here, "position 3", "sum to"]);
    let raw = |line: &mut Value| {
        for entry in line["prompt_logprobs"][4].as_object_mut().unwrap().values_mut() {
            entry["logprob"] = json!(7.5);
        }
    };
    refused(&raw, &[], &[here, "position 3", "raw logits cannot be imported"]);
    refused(&|_| {}, &["--k", "9"], &["--k", "at most 4", "line 1, position", "found 9"]);
    refused(
        &|line| line["prompt_token_ids"][0] = json!(40),
        &[],
        &[here, "position 0", "below 40, found 40"],
    );
    fs::write(&file, "{\"prompt_token_ids\": [1,\n").unwrap();
    import("vllm-jsonl", &file, &cache, &["--classes", "40"]).refused(&["a.jsonl, line 1", "EOF"]);
    fs::write(&file, "\n").unwrap();
    import("vllm-jsonl", &file, &cache, &["--classes", "40"]).refused(&["no rows in 1 files"]);
    write_lines(&file, &[vllm(0)]);
    import("vllm-jsonl", &file, &cache, &[]).refused(&["--classes", "--tokenizer"]);
    import("vllm-jsonl", &dir.path().join("gone"), &cache, &["--classes", "40"]).refused(&["gone"]);
}

#[test]
fn texts_beside_the_tokens_must_be_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let (file, cache) = (dir.path().join("a.jsonl"), dir.path().join("cache"));
    let tokenizer = fixture("tokenizers/bpe.json");
    let text = "to be or not to be";
    let own = kd_cache::dataset::Tokenizer::open(&tokenizer).unwrap();
    let ids: Vec<usize> = own.encode(text).unwrap().into_iter().map(|id| id as usize).collect();
    let classes = own.identity().size as usize;
    let line = |text: &str| {
        let uniform = -(classes as f64).ln();
        let entry = |next: usize| {
            let others =
                (0..3).filter(|class| *class != next).map(|class| (class.to_string(), json!(uniform)));
            Value::Object(others.chain([(next.to_string(), json!(uniform))]).collect())
        };
        let entries: Vec<Value> =
            ids.iter().enumerate().map(|(at, id)| if at == 0 { Value::Null } else { entry(*id) }).collect();
        json!({"prompt": text, "prompt_token_ids": ids, "prompt_logprobs": entries})
    };
    let args = ["--tokenizer", tokenizer.to_str().unwrap()];
    write_lines(&file, &[line("to be or not to go")]);
    import("vllm-jsonl", &file, &cache, &args)
        .refused(&["a.jsonl, line 1: position", "do not match the text"]);
    write_lines(&file, &[line(text)]);
    let said = import("vllm-jsonl", &file, &cache, &args).code(0).json();
    assert_eq!(said["cache"]["classes"], json!(classes));
    import("vllm-jsonl", &file, &cache, &[&args[..], &["--classes", "3"]].concat())
        .refused(&["--classes", "found 3"]);
}

#[test]
fn captures_of_distillkit_are_what_its_own_code_reads() {
    // Its decoder rounds a curve to the type of the exact values, ours does not.
    for (name, off) in [("distillkit", 0.02), ("distillkit-bins", 1e-4)] {
        let dir = tempfile::tempdir().unwrap();
        let (from, cache) = (fixture("import").join(name), dir.path().join("cache"));
        import("distillkit", &from, &cache, &["--classes", "1000"]).code(0);
        let expected: Value = serde_json::from_slice(&fs::read(from.join("expected.json")).unwrap()).unwrap();
        let reader = CacheReader::open(&cache).unwrap();
        let batch = targets(&cache);
        let mut at = 0;
        for (row, expected) in expected.as_array().unwrap().iter().enumerate() {
            let kept = reader.tokens(row as u64).unwrap().unwrap().tokens;
            let given: Vec<u32> = serde_json::from_value(expected["tokens"].clone()).unwrap();
            assert_eq!(kept, given[..given.len() - 1]);
            let ids: Vec<Vec<usize>> = serde_json::from_value(expected["ids"].clone()).unwrap();
            let logprobs: Vec<Vec<f64>> = serde_json::from_value(expected["logprobs"].clone()).unwrap();
            for (ids, logprobs) in ids.iter().zip(&logprobs) {
                let (found, values, _) = batch.row(at);
                let largest = logprobs.iter().copied().fold(f64::MIN, f64::max);
                for (class, value) in found.iter().zip(values) {
                    let place = ids.iter().position(|id| *id == *class as usize).unwrap();
                    let apart = (f64::from(*value) - (logprobs[place] - largest)).abs();
                    assert!(apart < off, "{name}: {value} is not {}", logprobs[place] - largest);
                }
                at += 1;
            }
        }
        assert_eq!(batch.rows, at);
    }
}

#[test]
fn a_capture_without_its_config_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (file, cache) = (dir.path().join("data_0.parquet"), dir.path().join("cache"));
    fs::copy(fixture("import/distillkit/data_0.parquet"), &file).unwrap();
    import("distillkit", &file, &cache, &["--classes", "1000"])
        .refused(&["--compression-config", "data_0.parquet"]);
    let other = fixture("import/distillkit-bins/compression_config.yaml");
    let args = ["--classes", "1000", "--compression-config", other.to_str().unwrap()];
    import("distillkit", &file, &cache, &args).refused(&[
        "row 0",
        "position 0",
        "is it the config of these files?",
    ]);
    import("axolotl", &file, &cache, &["--classes", "1000"]).refused(&["data_0.parquet", "target_logprobs"]);
}

#[test]
fn rows_for_axolotl_become_targets_in_each_of_their_forms() {
    let dir = tempfile::tempdir().unwrap();
    let entries = |row: usize| (0..tokens(row).len() - 1).map(move |at| top(&logprobs(row, at), K));
    let named = |row: usize| {
        let entry = |(class, logprob): (usize, f64)| json!({"logprob": logprob, "token": format!("token_id:{class}")});
        let all: Vec<Vec<Value>> = entries(row).map(|top| top.into_iter().map(entry).collect()).collect();
        json!({"input_ids": tokens(row), "logprobs": all})
    };
    let split = |row: usize, key: &str, first: bool| {
        let mut ids: Vec<Vec<usize>> =
            entries(row).map(|top| top.iter().map(|(class, _)| *class).collect()).collect();
        let mut values: Vec<Vec<Option<f64>>> =
            entries(row).map(|top| top.iter().map(|(_, logprob)| Some(*logprob)).collect()).collect();
        if first {
            // What is written for the first token, which nothing was said of.
            ids.insert(0, (0..K).collect());
            values.insert(0, vec![None; K]);
        }
        json!({"input_ids": tokens(row), key: values, "target_token_ids": ids})
    };
    let forms: [(&str, Vec<Value>); 3] = [
        ("named", (0..3).map(named).collect()),
        ("split", (0..3).map(|row| split(row, "logprobs", false)).collect()),
        ("prepared", (0..3).map(|row| split(row, "target_logprobs", true)).collect()),
    ];
    for (name, rows) in forms {
        let (file, cache) = (dir.path().join(format!("{name}.jsonl")), dir.path().join(name));
        write_lines(&file, &rows);
        import("axolotl", &file, &cache, &["--classes", "40"]).code(0);
        assert_is_the_softmax(&cache, 3);
    }
    // Of the prompt nothing was said.
    let mut row = named(1);
    drop(row["logprobs"].as_array_mut().unwrap().drain(..2));
    let (file, cache) = (dir.path().join("prompt.jsonl"), dir.path().join("prompt"));
    write_lines(&file, &[row]);
    let words = ["prompt.jsonl, line 1", "7 tokens and 4 entries", "a target for each position"];
    import("axolotl", &file, &cache, &["--classes", "40"]).refused(&words);
}

/// An `.npz` of rows 0 to 2: padded to the longest, or all cut to the shortest.
fn npz(path: &Path, padded: bool) {
    let rows = 3;
    let length = if padded { tokens(rows - 1).len() } else { tokens(0).len() };
    let (mut ids, mut classes, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..rows {
        let own = tokens(row);
        ids.extend((0..length).map(|at| own.get(at).copied().unwrap_or(0) as i64));
        for position in 0..length - 1 {
            let entry = top(&logprobs(row, position), K);
            classes.extend(entry.iter().map(|(class, _)| *class as u16));
            values.extend(entry.iter().map(|(_, logprob)| *logprob as f32));
        }
    }
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let mut member = |name: &str, shape: &str, kind: &str, bytes: Vec<u8>| {
        // As numpy.savez_compressed does.
        let deflated =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        archive.start_file(format!("{name}.npy"), deflated).unwrap();
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
        let total = (10 + header.len() + 1).next_multiple_of(64);
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend(((total - 10) as u16).to_le_bytes());
        file.extend(format!("{header:<width$}\n", width = total - 11).into_bytes());
        file.extend(bytes);
        std::io::Write::write_all(&mut archive, &file).unwrap();
    };
    member(
        "input_ids",
        &format!("{rows}, {length}"),
        "<i8",
        ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
    );
    let shape = format!("{rows}, {}, {K}", length - 1);
    member("token_ids", &shape, "<u2", classes.iter().flat_map(|class| class.to_le_bytes()).collect());
    member("logprobs", &shape, "<f4", values.iter().flat_map(|value| value.to_le_bytes()).collect());
    if padded {
        let lengths = (0..rows).flat_map(|row| (tokens(row).len() as u32).to_le_bytes());
        member("lengths", &format!("{rows},"), "<u4", lengths.collect());
    }
    archive.finish().unwrap();
}

#[test]
fn arrays_of_numpy_become_targets() {
    let dir = tempfile::tempdir().unwrap();
    let (file, cache) = (dir.path().join("a.npz"), dir.path().join("cache"));
    npz(&file, true);
    import("npz", &file, &cache, &["--classes", "40", "--form", "parquet"]).code(0);
    assert_is_the_softmax(&cache, 3);
    let other = dir.path().join("b.npz");
    fs::write(&other, "no archive").unwrap();
    let out: PathBuf = dir.path().join("other");
    import("npz", &other, &out, &["--classes", "40"]).refused(&["b.npz", "a NumPy archive"]);
}

/// At another temperature than 1 a student's targets are guesses, and the trainer says how far they may be off.
#[cfg(feature = "torch")]
#[test]
fn a_trainer_says_what_imported_tails_are_at_another_temperature() {
    let dir = tempfile::tempdir().unwrap();
    let (file, cache) = (dir.path().join("a.jsonl"), dir.path().join("cache"));
    write_lines(&file, &[vllm(0), vllm(1), vllm(2)]);
    import("vllm-jsonl", &file, &cache, &["--classes", "40"]).code(0);
    let config = "student = { kind = \"llama\", hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2 }\n\
                  loss = { weights = { kl = 1.0 } }\noptimizer = { kind = \"adamw\", learning_rate = 0.01 }\n\
                  train = { epochs = 1, batch = 2 }\n";
    let config = crate::common::write(dir.path(), "train.toml", config);
    let run = |temperature: &str, tail: &str| {
        let out = dir.path().join(format!("run-{temperature}-{tail}"));
        let (temperature, tail) = (format!("loss.temperature={temperature}"), format!("loss.tail={tail}"));
        let set = ["--set", &temperature, "--set", &tail];
        let args = args!["--cache", cache, "--config", config, "--out", out, "--format", "json"];
        crate::common::kd_train(&[&args[..], &set.map(std::ffi::OsString::from)].concat()).code(0)
    };
    for (temperature, tail) in [("1", "prior"), ("2", "bucket"), ("2", "renormalize")] {
        let said = run(temperature, tail);
        assert_eq!(said.json().get("warning"), None, "{temperature} {tail}");
        assert!(!said.err.contains("warning"), "{}", said.err);
    }
    // Of temperatures that change, both ends that are not 1.
    let set = ["--set", "loss.temperature={ from = 2.0, to = 1.0 }", "--set", "loss.tail=prior"];
    let out = dir.path().join("changing");
    let args = args!["--cache", cache, "--config", config, "--out", out, "--format", "json"];
    let args =
        [&args[..], &set.map(std::ffi::OsString::from), &args!["--set", "train.select_by=last"]].concat();
    let changing = crate::common::kd_train(&args).code(0).json()["warning"].as_str().unwrap().to_owned();
    let said = run("2", "prior");
    let of_one = said.json()["warning"].as_str().unwrap().to_owned();
    assert_eq!(changing, of_one.replace("temperature = 2,", "temperature goes from 2 to 1,"));
    let warning = said.json()["warning"].as_str().unwrap().to_owned();
    assert!(said.err.contains(&warning), "{}", said.err);
    // The bounds by their definition: both from whole softmaxes, of which the truth is one.
    let percent = |words: &str| -> f64 {
        let (_, rest) = warning.split_once(words).unwrap();
        rest.trim_start().split(' ').next().unwrap().parse().unwrap()
    };
    let (least, most, taken) = (percent("between"), percent("% and"), percent("of the mass, and"));
    let mut truth = Vec::new();
    for row in 0..3 {
        for position in 0..tokens(row).len() - 1 {
            let softer: Vec<f64> =
                logprobs(row, position).iter().map(|logprob| (logprob / 2.0).exp()).collect();
            let head: f64 = top(&logprobs(row, position), K).iter().map(|(class, _)| softer[*class]).sum();
            truth.push(100.0 * (1.0 - head / softer.iter().sum::<f64>()));
        }
    }
    let truth = truth.iter().sum::<f64>() / truth.len() as f64;
    assert!(least < truth && truth < most && most < 100.0, "{least} {truth} {most}");
    assert!((taken - most).abs() < 0.11, "a curve through two points is the upper bound: {taken} and {most}");
}

/// Without ranks the token that followed is known as one more than the k that were asked for, and the least of them.
#[test]
fn entries_of_plain_numbers_are_the_same_as_those_with_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let (ranked, plain) = (dir.path().join("ranked.jsonl"), dir.path().join("plain.jsonl"));
    let rows: Vec<Value> = (0..3).map(vllm).collect();
    write_lines(&ranked, &rows);
    let mut without = rows.clone();
    for entry in without.iter_mut().flat_map(|row| row["prompt_logprobs"].as_array_mut().unwrap()) {
        for value in entry.as_object_mut().into_iter().flatten().map(|(_, value)| value) {
            *value = value["logprob"].clone();
        }
    }
    write_lines(&plain, &without);
    let cache = |file: &Path, name: &str| {
        let out = dir.path().join(name);
        import("vllm-jsonl", file, &out, &["--classes", "40"]).code(0);
        targets(&out)
    };
    assert_eq!(cache(&ranked, "ranked"), cache(&plain, "plain"));
}

/// Who stops it in the first reading does not wait for its end, and nothing is there.
#[test]
fn a_reading_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (file, cache) = (dir.path().join("rows.jsonl"), dir.path().join("cache"));
    write_lines(&file, &[vllm(0), vllm(1)]);
    let settings = ImportSettings {
        from: ForeignFormat::VllmJsonl,
        paths: vec![file],
        codec: None,
        tokenizer: None,
        classes: Some(CLASSES),
        teacher: "made-up".into(),
        k: None,
        form: StorageForm::Arrow,
        values: ValueEncoding::F32,
        level: DEFAULT_LEVEL,
        shard_samples: 2,
    };
    let stopped = ops::import(&settings, &cache, &AtomicBool::new(true), &ops::Silent).unwrap();
    assert!(stopped.is_none() && !cache.exists());
    assert!(ops::import(&settings, &cache, &AtomicBool::new(false), &ops::Silent).unwrap().is_some());
}
