//! A language model as teacher, from tokens to a cache of every position: the built program.

#![cfg(feature = "onnx")]

use std::path::{Path, PathBuf};

use crate::common::{build, build_command, files, fixture, kd_cache, talking_build, targets, write};
use kd_cache::cache::CacheReader;
use kd_cache::config::ValueEncoding;

/// Rows of up to 12 of 50 tokens; document 3 begins within the second row.
const DOCUMENTS: [usize; 5] = [12, 5, 20, 3, 16];

/// Tokens of all documents, 0 between them, as a stream of 16-bit numbers.
fn tokens(dir: &Path) -> PathBuf {
    let mut stream: Vec<u16> = Vec::new();
    for (document, length) in DOCUMENTS.into_iter().enumerate() {
        if document > 0 {
            stream.push(0);
        }
        stream.extend((0..length).map(|at| (1 + (document * 17 + at * at * 7) % 49) as u16));
    }
    let path = dir.join("tokens.bin");
    std::fs::write(&path, stream.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    path
}

fn config(dir: &Path, teacher: &str) -> PathBuf {
    let text = format!(
        r#"seed = 5
[dataset]
kind = "tokens"
paths = [{tokens:?}]
dtype = "u16"
separator = 0
rows = {{ length = 12 }}
[teacher]
kind = "onnx"
path = {teacher:?}
batch = 2
threads = 1
[head]
k = 6
[tail]
rank = 2
fit_samples = 40
[storage]
values = "quantized"
shard_samples = 2
"#,
        tokens = tokens(dir),
        teacher = fixture("teachers").join(teacher),
    );
    write(dir, "cache.toml", &text)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_token_gets_a_target_and_is_kept_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "causal.onnx");
    let cache = dir.path().join("cache");
    let built = build(&config, &cache, &[]).code(0).json();
    let positions = DOCUMENTS.iter().sum::<usize>() + DOCUMENTS.len() - 1;
    assert_eq!(built["cache"]["positions"], positions);
    assert_eq!(built["cache"]["samples"], positions.div_ceil(12));
    assert_eq!(built["cache"]["format_version"], 4);
    assert_eq!(built["cache"]["values"], "quantized, steps of 0.025 growing by 0.0625 and 0.0625");
    kd_cache(&["verify", "--quiet", path(&cache)]).code(0);
    let reader = CacheReader::open(&cache).unwrap();
    let mut read = Vec::new();
    for row in 0..reader.rows() {
        read.extend(reader.tokens(row).unwrap().unwrap().tokens);
    }
    let stream = std::fs::read(dir.path().join("tokens.bin")).unwrap();
    let stream: Vec<u32> = stream.chunks(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).collect();
    assert_eq!(read, stream);
    // The first document fills the first row; the separator after it begins the second and ends it.
    assert_eq!(reader.tokens(1).unwrap().unwrap().documents, [0, 1, 7]);
    let shown = ["show", path(&cache), "--sample", "1", "--position", "8", "--format", "json"];
    let shown = kd_cache(&shown).code(0).json();
    assert_eq!(shown["ids"].as_array().unwrap().len(), 6);
    let exported = ["export", path(&cache), "--to", "jsonl", "--out", "-", "--quiet"];
    let exported = kd_cache(&exported).code(0).out;
    let lines: Vec<serde_json::Value> = exported.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let token = |line: &serde_json::Value| line["token"].as_u64().unwrap() as u32;
    assert_eq!(lines.iter().map(token).collect::<Vec<_>>(), stream);
    assert_eq!((&lines[20]["sample"], &lines[20]["position"]), (&1.into(), &8.into()));
    assert_eq!(lines[20]["ids"], shown["ids"]);
    let reported = ["report", path(&cache), "--format", "json", "--quiet"];
    let reported = kd_cache(&reported).code(0).json();
    // All of them: no row has more than the sixteen that are looked at.
    assert_eq!(reported["positions"], positions);
    let beyond = ["show", path(&cache), "--sample", "1", "--position", "12"];
    kd_cache(&beyond).refused(&["position", "12"]);
}

/// Whether tokens of a row see another document is the model's to say, and is asked.
#[test]
fn a_teacher_that_does_not_take_documents_apart_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "causal_int32.onnx");
    let warned = |name: &str, set: &[&str]| {
        let set = [&["teacher.output=logits"], set].concat();
        let said = talking_build(&config, &dir.path().join(name), &set);
        said.code(0).err.contains("depend on other documents of a row")
    };
    assert!(warned("tokens", &[]));
    assert!(!warned("apart", &["dataset.rows.packing=document"]));
    let masks = format!("teacher.path={}", fixture("teachers/causal.onnx").display());
    assert!(!warned("masks", &[&masks]));
    let half = format!("teacher.path={}", fixture("teachers/causal_bf16.onnx").display());
    assert!(!warned("half", &[&half]));
}

#[test]
fn targets_are_the_teachers_own_and_do_not_depend_on_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "causal.onnx");
    let [whole, pieces, all] = ["whole", "pieces", "all"].map(|name| dir.path().join(name));
    build(&config, &whole, &[]).code(0);
    build(&config, &pieces, &["teacher.chunk=5"]).code(0);
    assert_eq!(files(&whole), files(&pieces));
    // With every class in the head there is no tail, and what is left is half a step.
    build(&config, &all, &["head.k=50", "storage.step=0.01"]).code(0);
    let said = ["fidelity", path(&all), "--config", path(&config), "--quiet", "--format", "json"];
    let measured = kd_cache(&said).code(0).json();
    assert_eq!(measured["positions"], 60);
    for row in measured["rows"].as_array().unwrap() {
        assert!(row["kl"].as_f64().unwrap() < 1e-4, "{row}");
    }
    let (shape, prior) = {
        let said = ["fidelity", path(&whole), "--config", path(&config), "--quiet", "--format", "json"];
        let rows = kd_cache(&said).code(0).json()["rows"].clone();
        let kl = |tail: &str| {
            let of = |row: &&serde_json::Value| row["tail"] == tail && row["temperature"] == 1.0;
            rows.as_array().unwrap().iter().find(of).unwrap()["kl"].as_f64().unwrap()
        };
        (kl("shape"), kl("prior"))
    };
    assert!(shape < prior, "{shape} and {prior}");
}

/// Long rows are asked about first, and what is said of each is kept in its own place.
#[test]
fn rows_that_differ_in_length_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "causal.onnx");
    let plain =
        ["dataset.rows.packing=document", "tail.rank=0", "storage.values=f32", "storage.shard_samples=5"];
    let [together, alone] =
        [("together", "teacher.batch=3"), ("alone", "teacher.batch=1")].map(|(name, batch)| {
            let out = dir.path().join(name);
            build(&config, &out, &[&plain[..], &[batch]].concat()).code(0);
            kd_cache(&["verify", "--quiet", path(&out)]).code(0);
            out
        });
    let [a, b] = [&together, &alone].map(|out| CacheReader::open(out).unwrap());
    let (x, y) = (targets(&together), targets(&alone));
    let lengths: Vec<usize> = (0..a.rows()).map(|row| a.tokens(row).unwrap().unwrap().tokens.len()).collect();
    assert!(!lengths.is_sorted() && !lengths.is_sorted_by(|one, next| one >= next), "{lengths:?}");
    for row in 0..a.rows() {
        assert_eq!(a.tokens(row).unwrap(), b.tokens(row).unwrap());
    }
    assert_eq!(x.ids, y.ids);
    assert!(x.values.iter().zip(&y.values).all(|(x, y)| (x - y).abs() < 1e-4));
    assert!(x.curve.iter().zip(&y.curve).all(|(x, y)| (x - y).abs() < 1e-4));
}

#[test]
fn an_interrupted_build_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "causal.onnx");
    // Shards of a batch, and such as are asked about by length.
    let by_length = ["dataset.rows.packing=document", "storage.shard_samples=3"];
    for (case, set) in [&[][..], &by_length].into_iter().enumerate() {
        let [whole, killed] = ["whole", "killed"].map(|name| dir.path().join(format!("{name}-{case}")));
        build(&config, &whole, set).code(0);
        // Killed at some moments, none of them chosen.
        for milliseconds in [30, 60, 90, 120, 150] {
            let mut child = build_command(&config, &killed, set).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(milliseconds));
            drop(child.kill());
            child.wait().unwrap();
        }
        build(&config, &killed, set).code(0);
        assert_eq!(files(&whole), files(&killed));
    }
}

#[test]
fn a_head_in_a_file_of_its_own_gives_the_same_targets() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    build(&config(dir.path(), "causal.onnx"), &whole, &["head.k=50"]).code(0);
    let split = dir.path().join("split");
    let head = format!("teacher.head={}", path(&fixture("teachers/causal_head.onnx")));
    build(&config(dir.path(), "causal_body.onnx"), &split, &["head.k=50", &head]).code(0);
    let (whole, split) = (targets(&whole), targets(&split));
    // Two ways to the same sums: a logit may fall on the next step.
    let off = whole.values.iter().zip(&split.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 0.11, "{off}");
}

#[test]
fn heads_of_a_mass_are_shorter_where_the_teacher_is_sure() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "causal.onnx");
    let cache = dir.path().join("cache");
    let text = std::fs::read_to_string(&config).unwrap().replace("k = 6", "mass = 0.5\nmax_k = 30");
    std::fs::write(&config, text).unwrap();
    build(&config, &cache, &[]).code(0);
    kd_cache(&["verify", "--quiet", path(&cache)]).code(0);
    let targets = targets(&cache);
    let sizes: std::collections::BTreeSet<usize> = (0..targets.rows).map(|row| targets.count(row)).collect();
    assert!(sizes.len() > 2 && sizes.last() < Some(&30), "{sizes:?}");
    for row in 0..targets.rows {
        let (_, values, curve) = targets.row(row);
        let head: f64 = values.iter().map(|v| f64::from(*v).exp()).sum();
        let tail = f64::from(curve[4]).exp();
        // What steps of logits and curves may take from it.
        assert!(head / (head + tail) > 0.45, "row {row}: {}", head / (head + tail));
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "causal.onnx");
    let out = dir.path().join("cache");
    let refused = |set: &[&str], words: &[&str]| build(&config, &out, set).refused(words);
    refused(&["dataset.vocabulary=51"], &["51 tokens", "found 50", "tokenizer"]);
    refused(&["dataset.vocabulary=20"], &["tokens.bin", "from 0 to 19", "dataset.vocabulary"]);
    refused(&["head.mass=0.5"], &["either k, mass or draws"]);
    refused(&["storage.step=0.0001"], &["storage.step", "0.002"]);
    refused(&["preprocess.std=[0.5]"], &["preprocess", "tokens"]);
    assert!(!out.exists());
}

/// What a language model's cache is unless said otherwise: eight directions, in as few bits as they need.
#[test]
fn defaults_are_those_of_language_models() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(config(dir.path(), "causal.onnx")).unwrap();
    let plain = text.replace("rank = 2\n", "").replace("values = \"quantized\"\n", "");
    let plain = write(dir.path(), "plain.toml", &plain);
    let built = |name: &str, set: &[&str]| {
        let out = dir.path().join(name);
        build(&plain, &out, set).code(0);
        CacheReader::open(&out).unwrap().manifest().clone()
    };
    let manifest = built("cache", &[]);
    assert_eq!((manifest.tail.rank, manifest.storage.values), (8, ValueEncoding::Quantized));
    // Fewer positions than that have as many directions as they can.
    assert_eq!(built("few", &["tail.fit_samples=6"]).tail.rank, 5);
    assert_eq!(built("none", &["tail.rank=0", "storage.values=f16"]).tail.rank, 0);
    build(&plain, &dir.path().join("refused"), &["tail.fit_samples=6", "tail.rank=8"])
        .refused(&["tail.fit_samples: expected more than tail.rank = 8, found 6"]);
}
