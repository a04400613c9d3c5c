//! Wrong input to `kd-cache build`: exit code 2, an error that names file or key, what was expected
//! and what was found, and nothing written.

#![cfg(all(unix, feature = "onnx", feature = "torch"))]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Said, build, cache_config, files, fixture, kd_cache, write};

/// A folder with a sound config for `teacher`.
struct Case {
    dir: tempfile::TempDir,
    config: PathBuf,
}

impl Case {
    fn new(teacher: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = cache_config(dir.path(), teacher);
        Self { dir, config }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    /// Builds with `set`, which must be refused with all of `words` and leave nothing.
    #[track_caller]
    fn refused(&self, set: &[&str], words: &[&str]) -> Said {
        let out = self.dir.path().join("cache");
        let said = build(&self.config, &out, set).refused(words);
        assert!(!out.exists(), "left behind: {:?}", files(&out).keys());
        said
    }
}

/// An IDX file.
fn idx(dimensions: &[u32], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    bytes.extend(dimensions.iter().flat_map(|d| d.to_be_bytes()));
    bytes.extend(payload);
    bytes
}

#[test]
fn files_that_are_missing_or_broken() {
    let case = Case::new("linear.onnx");
    let image = [7u8; 28 * 28];
    case.refused(&["dataset.images=/no/such/file"], &["cannot read /no/such/file", "No such file"]);
    case.refused(&["teacher.path=/no/such.onnx"], &["teacher.path: cannot read /no/such.onnx"]);
    let text = case.file("text.gz", b"not an image");
    case.refused(&[&format!("dataset.images={text}")], &["text.gz", "expected", "found"]);
    let cut = case.file("cut", &idx(&[2, 28, 28], &image));
    case.refused(
        &[&format!("dataset.images={cut}")],
        &["cut is truncated", "promises 1568 bytes", "found 784"],
    );
    let long = case.file("long", &idx(&[1, 28, 28], &[7u8; 800]));
    case.refused(&[&format!("dataset.images={long}")], &["long is truncated or overlong", "784"]);
    let packed = std::fs::read(fixture("fashion-mnist/train-images-idx3-ubyte.gz")).unwrap();
    let cut = case.file("cut.gz", &packed[..packed.len() / 2]);
    case.refused(&[&format!("dataset.images={cut}")], &["cut.gz"]);
    let empty = case.file("empty", b"");
    case.refused(&[&format!("dataset.images={empty}")], &["empty"]);
    let none = case.file("none", &idx(&[0, 28, 28], &[]));
    case.refused(&[&format!("dataset.images={none}")], &["expected at least one sample"]);
    let floats = case.file("floats", &[0, 0, 0x0d, 1, 0, 0, 0, 1, 0, 0, 0, 0]);
    case.refused(&[&format!("dataset.images={floats}")], &["floats", "expected", "found"]);
    let labels = fixture("fashion-mnist/t10k-labels-idx1-ubyte.gz");
    case.refused(
        &[&format!("dataset.labels={}", labels.display())],
        &["expected 512 labels, one for each sample", "found 256"],
    );
    case.refused(&["dataset.limit=513"], &["dataset.limit: expected at most the 512 samples", "found 513"]);
    // A header that promises more than any memory has.
    let huge = case.file("huge", &idx(&[u32::MAX, u32::MAX, u32::MAX], &image));
    case.refused(&[&format!("dataset.images={huge}")], &["huge"]);
    let model = case.file("model.onnx", b"not a model");
    case.refused(&[&format!("teacher.path={model}")], &["model.onnx", "loading the model failed"]);
    let module = case.file("module.pt", b"not a module");
    case.refused(
        &[&format!("teacher.path={module}"), "teacher.kind=torchscript"],
        &["module.pt", "loading the model failed"],
    );
}

#[test]
fn teachers_that_do_not_fit() {
    let refused = |teacher: &str, set: &[&str], words: &[&str]| drop(Case::new(teacher).refused(set, words));
    refused("seven.onnx", &[], &["dataset.labels: expected labels from 0 to 6 (7 classes), found"]);
    refused("classes.onnx", &[], &["classes.onnx: expected an output of float [batch = 32, classes]"]);
    refused("map.onnx", &[], &["map.onnx: expected an output of float [batch = 32, classes]", "[32, 10, 1]"]);
    refused("colour.onnx", &[], &["[?, 3, 28, 28]", "float [batch, 1, 28, 28]", "preprocess.layout"]);
    refused("bytes.onnx", &[], &["bytes.onnx: input \"input\" is u8", "float [batch, 1, 28, 28]"]);
    refused("linear.onnx", &["preprocess.layout=flat"], &["float [batch, 784]", "[?, 1, 28, 28]"]);
    refused("linear.onnx", &["preprocess.layout=nhwc"], &["float [batch, 28, 28, 1]"]);
    refused(
        "batch_of_4.onnx",
        &[],
        &["is fixed to batches of 4, found teacher.batch = 32; set teacher.batch = 4"],
    );
    refused("two_outputs.onnx", &[], &["teacher.output", "logits, cells", "name one of them"]);
    refused("linear.onnx", &["teacher.output=scores"], &["teacher.output", "logits", "\"scores\""]);
    refused("linear.onnx", &["teacher.input=image"], &["teacher.input", "\"image\""]);
    refused("linear.onnx", &["teacher.classes=100"], &["teacher.classes: expected 100", "gives 10"]);
    refused("linear.onnx", &["head.k=11"], &["head.k: expected at most the teacher's 10 classes, found 11"]);
    refused("pair.pt", &[], &["pair.pt: expected an output of float [batch = 32, classes]"]);
    refused("linear.pt", &["preprocess.layout=flat"], &["linear.pt: the forward pass failed"]);
    refused(
        "linear.onnx",
        &["preprocess.mean=[0.1,0.2,0.3]", "preprocess.std=[1,1,1]"],
        &["1 value", "found 3"],
    );
    refused("linear.onnx", &["teacher.output_kind=probabilities"], &["sample 0", "teacher.output_kind"]);
    let onnx = fixture("teachers/linear.onnx");
    let path = format!("teacher.path={}", onnx.display());
    refused("linear.pt", &[&path], &["linear.onnx", "loading the model failed"]);
    // There is no GPU where these tests run, or it is hidden.
    let case = Case::new("linear.pt");
    let said: Said =
        crate::common::build_command(&case.config, &case.dir.path().join("cache"), &["teacher.device=cuda"])
            .env("CUDA_VISIBLE_DEVICES", "")
            .output()
            .unwrap()
            .into();
    said.refused(&["teacher.device", "cuda"]);
}

/// Bright images, for which the teachers `nan` and `infinite` have no finite answer.
fn bright(case: &Case, at: &[usize]) -> [String; 2] {
    let mut payload = vec![10u8; 200 * 28 * 28];
    for sample in at {
        payload[sample * 784..(sample + 1) * 784].fill(250);
    }
    [
        format!("dataset.images={}", case.file("images", &idx(&[200, 28, 28], &payload))),
        format!("dataset.labels={}", case.file("labels", &idx(&[200], &[1u8; 200]))),
    ]
}

#[test]
fn predictions_that_are_no_numbers_are_named_by_sample() {
    for (teacher, value) in [("nan.onnx", "NaN"), ("infinite.onnx", "inf")] {
        let case = Case::new(teacher);
        // In the first batch, and among the samples of the tail model: before anything is written.
        for at in [[3usize].as_slice(), &[150]] {
            let [images, labels] = bright(&case, at);
            let words =
                [&format!("sample {}: the teacher's output is not usable", at[0]), value, "not finite"];
            case.refused(&[&images, &labels], &words);
        }
        // Later: the shards before it are kept, and the sample is named all the same.
        let [images, labels] = bright(&case, &[150]);
        let out = case.dir.path().join("late");
        let set = [images.as_str(), &labels, "tail.fit_samples=1", "storage.shard_samples=50"];
        build(&case.config, &out, &set).refused(&["sample 150: the teacher's output is not usable"]);
        let inspected = kd_cache(&args!["inspect", out, "--format", "json"]).code(0).json();
        assert_eq!((&inspected["complete"], &inspected["positions"]), (&false.into(), &150.into()));
    }
}

#[test]
fn configs_are_refused_with_all_their_faults() {
    let case = Case::new("linear.onnx");
    case.refused(
        &["head.kk=3", "teacher.kind=onyx", "dataset.imags=x", "seed=-1", "storage.shard_samples=0"],
        &[
            "cache.toml: 5 faults",
            "head.kk: unknown key; did you mean k?",
            "teacher.kind: expected one of onnx, torchscript, command, found \"onyx\"; did you mean onnx?",
            "dataset.imags: unknown key; did you mean images?",
            "seed: expected at least 0, found -1",
            "storage.shard_samples: expected at least 1, found 0",
        ],
    );
    case.refused(
        &["preprocess.std=[0.0]", "preprocess.mean=[0.1,0.2]", "teacher.device=gpu"],
        &[
            "3 faults",
            "preprocess.std: expected positive values, found 0",
            "preprocess.mean",
            "teacher.device",
            "gpu",
        ],
    );
    case.refused(
        &["tail.nodes=[0.5,2.0]"],
        &["tail.nodes: the nodes must contain 1 (T = 1), found [0.5, 2.0]"],
    );
    case.refused(&["tail.nodes=[]"], &["tail.nodes: "]);
    case.refused(&["head.k"], &["--set \"head.k\": expected key=value"]);
    case.refused(&["head.k=three"], &["head.k: expected an integer, found \"three\""]);
    case.refused(&["head=3"], &["head: expected a table, found 3"]);
    let out = case.dir.path().join("cache");
    build(Path::new("/no/such.toml"), &out, &[])
        .refused(&["cannot read config /no/such.toml", "No such file"]);
    let broken = write(case.dir.path(), "broken.toml", "seed = = 3\n");
    build(&broken, &out, &[]).refused(&["broken.toml is not valid TOML", "line 1"]);
    let empty = write(case.dir.path(), "empty.toml", "");
    build(&empty, &out, &[]).refused(&["dataset: missing", "teacher: missing", "head: missing"]);
    let train = crate::common::train_config(case.dir.path());
    build(&train, &out, &[]).refused(&["train.toml", "student: unknown key", "teacher: missing"]);
    assert!(!out.exists());
}

#[test]
fn a_full_disk_loses_nothing() {
    let case = Case::new("linear.onnx");
    let out = case.dir.path().join("cache");
    // No file may grow beyond 8 blocks of 512 bytes: the plan fits, a shard does not.
    let command = crate::common::build_command(&case.config, &out, &[]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"]);
    limited.arg(command.get_program()).args(command.get_args());
    let said: Said = limited.output().unwrap().into();
    said.refused(&["cannot write", "shards/00000.arrow", "File too large", "run the same command again"]);
    let left = files(&out);
    assert!(left.keys().all(|name| !name.ends_with(".tmp")), "{:?}", left.keys());
    // With room again, the same command ends with the bytes of a build that had it.
    build(&case.config, &out, &[]).code(0);
    let whole = case.dir.path().join("whole");
    build(&case.config, &whole, &[]).code(0);
    assert_eq!(files(&out), files(&whole));
}
