//! The built programs, run as a user runs them, and configs over the fixtures.

#![allow(clippy::unwrap_used, dead_code, reason = "test code, of which each test takes a part")]

/// Arguments out of words and paths.
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        [$(std::ffi::OsString::from(AsRef::<std::ffi::OsStr>::as_ref(&$arg))),*]
    };
}

#[cfg(all(feature = "onnx", feature = "torch"))]
mod case;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kd_cache::cache::CacheReader;
use kd_cache::target::TargetBatch;
use serde_json::Value;

#[cfg(all(feature = "onnx", feature = "torch"))]
pub use case::Case;

/// A path in the repository, absolute.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A path in `tests/fixtures`, absolute.
pub fn fixture(path: &str) -> PathBuf {
    repository("tests/fixtures").join(path)
}

/// Every target of a cache.
pub fn targets(dir: &Path) -> TargetBatch {
    let reader = CacheReader::open(dir).unwrap();
    let mut out = TargetBatch::default();
    reader.gather(&(0..reader.rows()).collect::<Vec<_>>(), &mut out).unwrap();
    out
}

/// Whether python3 has all of `packages`; says so where it has not, because the test is then skipped.
pub fn python_has(packages: &[&str]) -> bool {
    let there = imports("python3", packages);
    if !there {
        skipped(&format!("python3 lacks one of {packages:?} (tools/check.sh gives it them)"));
    }
    there
}

/// The interpreter that has all of `packages`, if there is one: python3, or that of KD_CACHE_TEST_PYTHON. Where it is none, the
/// test is skipped, and this says so.
#[cfg(feature = "torch")]
pub fn python_with(packages: &[&str]) -> Option<String> {
    let python = std::env::var("KD_CACHE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let there = imports(&python, packages);
    if !there {
        let problem = format!("{python} lacks one of {packages:?}");
        skipped(&format!("{problem}; set KD_CACHE_TEST_PYTHON to one that has them"));
    }
    there.then_some(python)
}

fn imports(python: &str, packages: &[&str]) -> bool {
    let import = format!("import {}", packages.join(", "));
    Command::new(python).args(["-c", &import]).output().is_ok_and(|done| done.status.success())
}

/// Says that the test of this thread is skipped: also to the file of KD_CACHE_TESTS_SKIPPED, a line each, because of a test that
/// passes nobody sees what it said.
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
    if let Some(path) = std::env::var_os("KD_CACHE_TESTS_SKIPPED") {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{name}: {why}").unwrap();
    }
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Asserts the exit code.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, Some(expected), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Asserts that it could not run and says all of `words` on standard error, nothing on
    /// standard output.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Self {
        let said = self.code(2);
        assert_eq!(said.out, "", "nothing but reports goes to standard output");
        for word in words {
            assert!(said.err.contains(word), "{word:?} is not in:\n{}", said.err);
        }
        assert!(!said.err.contains("panicked"), "{}", said.err);
        said
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// `kd-cache` with `args`, not yet started.
pub fn kd_cache_command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    command(env!("CARGO_BIN_EXE_kd-cache"), args)
}

/// Runs `kd-cache` with `args`.
pub fn kd_cache<S: AsRef<OsStr>>(args: &[S]) -> Said {
    kd_cache_command(args).output().unwrap().into()
}

/// `kd-train` with `args`, not yet started.
#[cfg(feature = "torch")]
pub fn kd_train_command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    command(env!("CARGO_BIN_EXE_kd-train"), args)
}

/// Runs `kd-train` with `args`.
#[cfg(feature = "torch")]
pub fn kd_train<S: AsRef<OsStr>>(args: &[S]) -> Said {
    kd_train_command(args).output().unwrap().into()
}

fn command<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Writes `dir/cache.toml`: the teacher `teacher` of the fixtures over the training slice, k = 3.
pub fn cache_config(dir: &Path, teacher: &str) -> PathBuf {
    let kind = if teacher.ends_with(".onnx") { "onnx" } else { "torchscript" };
    let text = format!(
        r#"seed = 7
[dataset]
kind = "idx"
images = {images:?}
labels = {labels:?}
[teacher]
kind = "{kind}"
path = {teacher:?}
batch = 32
threads = 1
[head]
k = 3
[tail]
fit_samples = 200
[storage]
shard_samples = 100
"#,
        images = fixture("fashion-mnist/train-images-idx3-ubyte.gz"),
        labels = fixture("fashion-mnist/train-labels-idx1-ubyte.gz"),
        teacher = fixture("teachers").join(teacher),
    );
    write(dir, "cache.toml", &text)
}

/// Writes `dir/train.toml`: a small student of the training slice, validated on the test slice.
pub fn train_config(dir: &Path) -> PathBuf {
    let text = format!(
        r#"seed = 3
[dataset]
kind = "idx"
images = {images:?}
labels = {labels:?}
[student]
kind = "mlp"
hidden = [16]
classes = 10
[loss]
temperature = 2.0
weights = {{ kl = 0.7, cross_entropy = 0.3 }}
[optimizer]
kind = "adamw"
learning_rate = 0.01
[train]
epochs = 2
batch = 64
threads = 1
[validation.test.dataset]
kind = "idx"
images = {test_images:?}
labels = {test_labels:?}
"#,
        images = fixture("fashion-mnist/train-images-idx3-ubyte.gz"),
        labels = fixture("fashion-mnist/train-labels-idx1-ubyte.gz"),
        test_images = fixture("fashion-mnist/t10k-images-idx3-ubyte.gz"),
        test_labels = fixture("fashion-mnist/t10k-labels-idx1-ubyte.gz"),
    );
    write(dir, "train.toml", &text)
}

/// Writes `text` to `dir/name`.
pub fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// `kd-cache build` of `config` into `out` with changed keys, its report as JSON; not yet started.
pub fn build_command(config: &Path, out: &Path, set: &[&str]) -> Command {
    let mut command = kd_cache_command(&["build", "--format", "json", "--quiet"]);
    command.arg("--config").arg(config).arg("--out").arg(out);
    for set in set {
        command.args(["--set", set]);
    }
    command
}

/// Runs a build that says what it has to say, beside its report as JSON.
pub fn talking_build(config: &Path, out: &Path, set: &[&str]) -> Said {
    let mut command = kd_cache_command(&["build", "--format", "json"]);
    command.arg("--config").arg(config).arg("--out").arg(out);
    command.args(set.iter().flat_map(|set| ["--set", set])).output().unwrap().into()
}

/// Runs [`build_command`].
pub fn build(config: &Path, out: &Path, set: &[&str]) -> Said {
    build_command(config, out, set).output().unwrap().into()
}

/// The documents of a file of JSON lines.
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The same of a run's lines but for its clock: what does not depend on who runs it, nor on interruptions.
pub fn told(path: &Path) -> Vec<Value> {
    let mut all = lines(path);
    for line in &mut all {
        for key in ["seconds", "samples_per_second", "positions_per_second"] {
            line.as_object_mut().unwrap().remove(key);
        }
    }
    all
}

/// Every file below `dir` with its bytes, by its path in it.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}
