//! `kd-cache export`, run as a user runs it: every number of the cache is in the file, and what
//! reads neither Arrow nor Parquet reads it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use crate::common::{files, kd_cache, kd_cache_command, python_has};
use crate::synthetic::Synthetic;
use half::f16;
use kd_cache::cache::CacheReader;
use kd_cache::config::ValueEncoding;
use kd_cache::ops::{self, ExportError, ExportForm, ExportSettings, ExportTo};
use kd_cache::target::{PositionTarget, TargetBatch, Temperature};
use serde::Serialize;
use serde_json::{Value, json};

/// A cache in `dir/cache`, and all its targets.
fn cache(dir: &Path, like: &Synthetic) -> (CacheReader, TargetBatch) {
    let path = dir.join("cache");
    like.write(&path);
    let reader = CacheReader::open(&path).unwrap();
    let mut targets = TargetBatch::default();
    reader.gather(&(0..reader.rows()).collect::<Vec<u64>>(), &mut targets).unwrap();
    (reader, targets)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `value` as it comes back from text, where single precision is written with fewer digits.
fn written(value: &impl Serialize) -> Value {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

fn members(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    (0..archive.len())
        .map(|index| {
            let mut member = archive.by_index(index).unwrap();
            assert_eq!(member.compression(), zip::CompressionMethod::Stored);
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes).unwrap();
            (member.name().unwrap().into_owned(), bytes)
        })
        .collect()
}

/// An `.npy` file: its header's text, then the numbers, of which the first lies on a multiple of 64.
fn npy(header: &str, numbers: Vec<u8>) -> Vec<u8> {
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((length as u16).to_le_bytes());
    file.extend(format!("{header:<width$}\n", width = length - 1).bytes());
    file.extend(numbers);
    file
}

fn bytes<T: Copy, const N: usize>(numbers: &[T], to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|number| to(*number)).collect()
}

#[test]
fn an_archive_holds_every_column_in_its_type() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, targets) = cache(dir.path(), &Synthetic::fixture());
    let out = dir.path().join("cache.npz");
    let said = kd_cache(&args!["export", reader.dir(), "--to", "npz", "--out", out, "--format", "json"]);
    let columns =
        ["sample_ids", "views", "labels", "head_ids", "head_values", "tail_curve", "nodes", "tail_prior"];
    let size = out.metadata().unwrap().len();
    let report = json!({ "form": "npz", "rows": 12, "bytes": size, "columns": columns });
    assert_eq!(said.code(0).json(), report);

    let found = members(&out);
    assert_eq!(found.len(), columns.len());
    let shape = |descr: &str, shape: &str| {
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")
    };
    let half = |value: f32| f16::from_f32(value).to_le_bytes();
    let ids: Vec<u64> = (0..12).collect();
    let labels: Vec<u32> = (0..12).map(|row| reader.label(row).unwrap().unwrap()).collect();
    let nodes = [0.125, 0.25, 0.5, 0.75, 1.0];
    let prior = reader.tail_model().unwrap().prior();
    let prior: Vec<f32> =
        (0..20).flat_map(|class| (0..5).map(move |node| prior.at_node(node)[class])).collect();
    for (name, header, numbers) in [
        ("sample_ids", shape("<u8", "(12,)"), bytes(&ids, u64::to_le_bytes)),
        ("views", shape("<u2", "(12,)"), vec![0; 24]),
        ("labels", shape("<u4", "(12,)"), bytes(&labels, u32::to_le_bytes)),
        ("head_ids", shape("|u1", "(12, 4)"), bytes(&targets.ids, |id| [id as u8])),
        ("head_values", shape("<f2", "(12, 4)"), bytes(&targets.values, half)),
        ("tail_curve", shape("<f2", "(12, 5)"), bytes(&targets.curve, half)),
        ("nodes", shape("<f8", "(5,)"), bytes(&nodes, f64::to_le_bytes)),
        ("tail_prior", shape("<f4", "(20, 5)"), bytes(&prior, f32::to_le_bytes)),
    ] {
        assert!(found[&format!("{name}.npy")] == npy(&header, numbers), "{name}");
    }

    // A shape adds its codes and its part of the tail model.
    let elsewhere = tempfile::tempdir().unwrap();
    let shaped = elsewhere.path().join("shaped");
    Synthetic::with_shape().write(&shaped);
    let of_shape = elsewhere.path().join("shaped.npz");
    kd_cache(&args!["export", shaped, "--to", "npz", "--out", of_shape, "--quiet"]).code(0);
    let (found, with_shape) = (members(&of_shape), CacheReader::open(&shaped).unwrap());
    let mut targets = TargetBatch::default();
    with_shape.gather(&(0..12).collect::<Vec<u64>>(), &mut targets).unwrap();
    let model = with_shape.tail_model().unwrap().shape().unwrap();
    let base: Vec<f32> =
        (0..20).flat_map(|class| (0..5).map(move |node| model.base().at_node(node)[class])).collect();
    for (name, header, numbers) in [
        ("tail_code", shape("|i1", "(12, 2)"), bytes(&targets.codes, i8::to_le_bytes)),
        ("tail_shape", shape("<f4", "(20, 5)"), bytes(&base, f32::to_le_bytes)),
        ("tail_basis", shape("<f2", "(20, 2)"), bytes(model.basis(), half)),
    ] {
        assert!(found[&format!("{name}.npy")] == npy(&header, numbers), "{name}");
    }

    // The same bytes every time, and a file that is there is replaced whole.
    let first = std::fs::read(&out).unwrap();
    std::fs::write(&out, "old").unwrap();
    kd_cache(&args!["export", reader.dir(), "--to", "npz", "--out", out, "--quiet"]).code(0);
    assert!(std::fs::read(&out).unwrap() == first);
    let left: Vec<String> =
        files(dir.path()).into_keys().filter(|name| !name.starts_with("cache/")).collect();
    assert_eq!(left, ["cache.npz"]);
}

#[test]
fn numpy_reads_an_archive() {
    if !python_has(&["numpy"]) {
        return;
    }
    let script = "import json, sys, numpy\n\
        with numpy.load(sys.argv[1], allow_pickle=False) as archive:\n    \
            print(json.dumps({name: [array.dtype.str, array.astype(float).tolist()] for name, array in archive.items()}))";
    // Wide ids and single precision; no labels; the head holds every class.
    let wide = Synthetic { classes: 300, values: ValueEncoding::F32, ..Synthetic::fixture() };
    let bare = Synthetic { labelled: false, k: 20, ..Synthetic::fixture() };
    for (like, ids, values) in
        [(Synthetic::fixture(), "|u1", "<f2"), (wide, "<u2", "<f4"), (bare, "|u1", "<f2")]
    {
        let dir = tempfile::tempdir().unwrap();
        let (reader, targets) = cache(dir.path(), &like);
        let out = dir.path().join("cache.npz");
        kd_cache(&args!["export", reader.dir(), "--to", "npz", "--out", out]).code(0);
        let read = Command::new("python3").arg("-c").arg(script).arg(&out).output().unwrap();
        let read = crate::common::Said::from(read).code(0).json();
        let rows =
            |numbers: &[f32], width: usize| numbers.chunks(width).map(<[f32]>::to_vec).collect::<Vec<_>>();
        assert_eq!(read["head_values"], json!([values, rows(&targets.values, like.k)]));
        let found: Vec<f32> = targets.ids.iter().map(|id| *id as f32).collect();
        assert_eq!(read["head_ids"], json!([ids, rows(&found, like.k)]));
        assert_eq!(read["sample_ids"][1].as_array().unwrap().len(), 12);
        assert_eq!(read.get("labels").is_some(), like.labelled);
        if like.k == like.classes {
            assert!(["tail_curve", "nodes", "tail_prior"].iter().all(|name| read.get(name).is_none()));
        } else {
            assert_eq!(read["tail_curve"], json!([values, rows(&targets.curve, 5)]));
            assert_eq!(read["nodes"], json!(["<f8", like.nodes]));
        }
    }
}

#[test]
fn lines_hold_what_is_stored() {
    for labelled in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (reader, targets) = cache(dir.path(), &Synthetic { labelled, ..Synthetic::fixture() });
        let out = dir.path().join("rows.jsonl");
        let said = kd_cache(&args!["export", reader.dir(), "--to", "jsonl", "--out", out]).code(0);
        assert!(
            said.out.contains("rows.jsonl: 12 rows, ") && said.out.contains("tail_curve"),
            "{}",
            said.out
        );
        assert!(said.err.contains("export: 12 of 12 samples"), "{}", said.err);
        let found = lines(&std::fs::read_to_string(&out).unwrap());
        assert_eq!(found.len(), 12);
        for (row, found) in found.iter().enumerate() {
            let (ids, values, curve) = targets.row(row);
            let mut expected = json!({
                "sample": row, "view": 0, "ids": ids, "logits": written(&values), "tail_curve": written(&curve)
            });
            if let Some(label) = reader.label(row as u64).unwrap() {
                expected["label"] = label.into();
            }
            assert_eq!(*found, expected);
        }
    }
}

#[test]
fn lines_at_a_temperature_hold_what_show_shows() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, targets) = cache(dir.path(), &Synthetic::fixture());
    let piped = kd_cache(&args![
        "export",
        reader.dir(),
        "--to",
        "jsonl",
        "--out",
        "-",
        "--temperature",
        "3.5",
        "--samples",
        "4..7",
        "--quiet"
    ]);
    let piped = piped.code(0);
    assert_eq!(piped.err, "", "--quiet is silence");
    let found = lines(&piped.out);
    assert_eq!(found.len(), 3);
    let manifest = reader.manifest();
    for (found, row) in found.iter().zip(4usize..) {
        let (ids, values, curve) = targets.row(row);
        let target =
            PositionTarget { classes: manifest.classes, ids, values, nodes: &manifest.tail.nodes, curve };
        let decoded = target.decode(Temperature::new(3.5).unwrap());
        let keys: Vec<&str> = found.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["sample", "view", "label", "ids", "probabilities", "tail_mass"]);
        assert_eq!(found["sample"], json!(row));
        assert_eq!(found["probabilities"], written(&decoded.probabilities));
        assert_eq!(found["tail_mass"], written(&decoded.tail_mass));
    }
}

#[test]
fn a_part_of_the_samples_goes_across_shards() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, targets) = cache(dir.path(), &Synthetic::fixture());
    let out = dir.path().join("part.npz");
    for (asked, from, to) in [("4..11", 4, 11), ("..3", 0, 3), ("9..", 9, 12), ("0..100", 0, 12)] {
        let said = kd_cache(&args![
            "export",
            reader.dir(),
            "--to",
            "npz",
            "--out",
            out,
            "--samples",
            asked,
            "--format",
            "json"
        ]);
        assert_eq!(said.code(0).json()["rows"], to - from);
        let values = bytes(&targets.values[4 * from..4 * to], |value| f16::from_f32(value).to_le_bytes());
        assert!(members(&out)["head_values.npy"].ends_with(&values), "{asked}");
    }
}

#[test]
fn standard_output_carries_nothing_but_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, _) = cache(dir.path(), &Synthetic::fixture());
    let said = kd_cache(&args!["export", reader.dir(), "--to", "jsonl", "--out", "-"]).code(0);
    assert_eq!(lines(&said.out).len(), 12);
    assert!(said.err.contains("standard output: 12 rows"), "{}", said.err);
    // Whoever reads may go away: here at once.
    let mut command = kd_cache_command(&args!["export", reader.dir(), "--to", "jsonl", "--out", "-"]);
    let (reading, writing) = std::io::pipe().unwrap();
    drop(reading);
    let gone = command.stdout(writing).output().unwrap();
    assert_eq!((gone.status.code(), gone.stderr.is_empty()), (Some(0), true));
}

#[test]
fn what_cannot_be_exported_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, _) = cache(dir.path(), &Synthetic::fixture());
    // Through a link, so that it is the link that goes if this fails.
    let device = dir.path().join("device");
    std::os::unix::fs::symlink("/dev/null", &device).unwrap();
    let before = files(dir.path());
    let out = dir.path().join("out");
    let export = |words: &[&str]| {
        let done = kd_cache_command(&args!["export", reader.dir()]).args(words).output().unwrap();
        crate::common::Said::from(done)
    };
    let path = out.to_str().unwrap();
    let folder = dir.path().to_str().unwrap();
    let manifest = dir.path().join("cache/manifest.json");
    export(&["--to", "csv", "--out", path]).refused(&["jsonl", "npz"]);
    export(&["--to", "npz"]).refused(&["--out"]);
    export(&["--to", "npz", "--out", "-"]).refused(&["--to npz needs a file", "--out FILE"]);
    export(&["--to", "npz", "--out", path, "--temperature", "2"]).refused(&["raw logits", "--to jsonl"]);
    export(&["--to", "jsonl", "--out", path, "--temperature", "0.5"])
        .refused(&["temperature 0.5 is below 1", "tail.nodes up to 2"]);
    export(&["--to", "jsonl", "--out", path, "--temperature", "nan"]).refused(&["--temperature", "NaN"]);
    export(&["--to", "jsonl", "--out", path, "--samples", "12..20"])
        .refused(&["--samples 12..20", "its samples are 0 to 11"]);
    for wrong in ["a..b", "3..3"] {
        export(&["--to", "jsonl", "--out", path, &format!("--samples={wrong}")])
            .refused(&["expected A..B", wrong]);
    }
    export(&["--to", "jsonl", "--out", folder])
        .refused(&["is there and is no plain file", "- for standard output"]);
    export(&["--to", "jsonl", "--out", device.to_str().unwrap()]).refused(&["device", "is no plain file"]);
    export(&["--to", "npz", "--out", manifest.to_str().unwrap()]).refused(&["lies inside the cache"]);
    let missing = dir.path().join("no/folder/x.npz");
    export(&["--to", "npz", "--out", missing.to_str().unwrap()])
        .refused(&["cannot write", "no/folder/x.npz"]);
    assert!(files(dir.path()) == before, "something was written");
    kd_cache(&args!["export", dir.path().join("nothing"), "--to", "npz", "--out", out])
        .refused(&["holds no cache"]);
    // An unfinished cache is not exported as if it were whole.
    let unfinished = dir.path().join("unfinished");
    let like = Synthetic::fixture();
    let mut writer = like.begin(&unfinished);
    writer.commit_shard(&like.shards()[0]).unwrap();
    drop(writer);
    kd_cache(&args!["export", unfinished, "--to", "npz", "--out", out])
        .refused(&["is incomplete: 1 of 3 shards"]);
}

#[test]
fn a_row_that_no_reader_can_use_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, targets) = cache(dir.path(), &Synthetic::fixture());
    // The last shard's first head value, 0, becomes an infinity: 12 rows, five a shard.
    let shard = reader.dir().join("shards/00002.arrow");
    let mut content = std::fs::read(&shard).unwrap();
    let head = bytes(targets.row(10).1, |value| f16::from_f32(value).to_le_bytes());
    let at = content.windows(head.len()).position(|window| window == head).unwrap();
    content[at..at + 2].copy_from_slice(&f16::INFINITY.to_le_bytes());
    std::fs::write(&shard, content).unwrap();
    drop(reader);
    let before = files(dir.path());
    for to in ["npz", "jsonl"] {
        let out = dir.path().join("out");
        let said = kd_cache(&args!["export", dir.path().join("cache"), "--to", to, "--out", out, "--quiet"]);
        said.refused(&["00002.arrow: row 0: expected class ids below 20 and finite values"]);
    }
    assert!(files(dir.path()) == before, "something was left");
}

/// Who stops it finds what was there before, and nothing beside it.
#[test]
fn an_export_that_is_stopped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    cache(dir.path(), &Synthetic::fixture());
    let out = dir.path().join("out.npz");
    std::fs::write(&out, "before").unwrap();
    for form in [ExportForm::Npz, ExportForm::Jsonl] {
        let settings = ExportSettings { form, temperature: None, samples: None };
        let to = ExportTo::File(&out);
        let stopped =
            ops::export(&dir.path().join("cache"), &settings, to, &AtomicBool::new(true), &ops::Silent);
        assert!(matches!(stopped, Err(ExportError::Interrupted)), "{stopped:?}");
        assert_eq!(std::fs::read(&out).unwrap(), b"before");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
