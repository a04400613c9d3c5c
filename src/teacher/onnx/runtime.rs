//! ONNX Runtime itself: its library, its version, and models loaded by it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use ort::ep;
use ort::session::{Session, SessionInputs};

use super::answer::Answer;
use crate::config::{DeviceName, TeacherConfig, TeacherKind};
use crate::teacher::TeacherError;
use crate::teacher::error::hint;

/// Where `tools/setup.sh` put the library when this was built; empty otherwise.
const BUILT_IN_LIBRARY: &str = env!("KD_CACHE_ONNXRUNTIME_DEFAULT");

/// A model that has been loaded, and the file it is from.
pub(super) struct Model {
    pub(super) session: Session,
    pub(super) path: PathBuf,
}

impl Model {
    /// Loads `path` to be run as `config` says.
    pub(super) fn load(config: &TeacherConfig, path: &Path) -> Result<Self, TeacherError> {
        let environment = environment()?;
        Ok(Self { session: session(&environment, config, path)?, path: path.to_owned() })
    }

    /// One pass.
    pub(super) fn run<'i, 'v: 'i>(
        &mut self,
        inputs: impl Into<SessionInputs<'i, 'v>>,
    ) -> Result<Answer, TeacherError> {
        let path = &self.path;
        let outputs = self.session.run(inputs).map_err(|error| failed(path, "the forward pass", &error))?;
        Ok(Answer::of(outputs))
    }
}

/// What ONNX Runtime said, and while doing what.
pub(super) fn failed(path: &Path, doing: &'static str, error: &ort::Error) -> TeacherError {
    TeacherError::Runtime { path: path.to_owned(), doing, problem: error.to_string() }
}

/// The one environment of the process.
///
/// ONNX Runtime can be loaded once only: whichever library comes first stays.
fn environment() -> Result<Environment, TeacherError> {
    static FIRST: Mutex<Option<Environment>> = Mutex::new(None);
    let mut first = FIRST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(environment) = first.as_ref() {
        return Ok(environment.clone());
    }
    let path = library();
    let error = |problem: String| TeacherError::Library { path: path.clone(), problem };
    let environment = ort::init_from(&path)
        .map_err(|e| error(e.to_string()))?
        .with_name("kd-cache")
        .with_telemetry(false)
        .build()
        .map_err(|e| error(e.to_string()))?;
    *first = Some(environment.clone());
    Ok(environment)
}

/// The library: the user's choice, the one found at set-up, or whatever the system has.
#[allow(clippy::disallowed_methods, reason = "the runtime's own variable for the place of its library")]
fn library() -> PathBuf {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return path.into();
    }
    if !BUILT_IN_LIBRARY.is_empty() && Path::new(BUILT_IN_LIBRARY).exists() {
        return BUILT_IN_LIBRARY.into();
    }
    "libonnxruntime.so".into()
}

/// `onnxruntime 1.30.0 (f2c39fe)`: the version from the library's file name or, where that has
/// none, from the branch it was built of; the commit from its build information.
pub(super) fn version() -> String {
    // "ORT Build Info: git-branch=rel-1.24.1, git-commit-id=…, build type=…"
    let info = ort::info();
    let field = |name: &str| {
        let start = info.find(name)? + name.len();
        info[start..].split([',', ' ']).next()
    };
    let file = std::fs::canonicalize(library()).unwrap_or_default();
    let file = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let of_file = file.split_once(".so.").map(|(_, version)| version);
    let of_branch = || field("git-branch=")?.strip_prefix("rel-");
    let mut words = vec!["onnxruntime".to_owned()];
    words.extend(of_file.or_else(of_branch).map(str::to_owned));
    words.extend(field("git-commit-id=").map(|commit| format!("({commit})")));
    words.join(" ")
}

fn session(environment: &Environment, config: &TeacherConfig, path: &Path) -> Result<Session, TeacherError> {
    let failed = |error: ort::Error| failed(path, "loading the model", &error);
    let device = |problem: String| TeacherError::Device { device: config.device.clone(), problem };
    let mut builder = Session::builder(environment).map_err(failed)?;
    if let Some(threads) = config.threads {
        builder = builder.with_intra_threads(threads).map_err(|e| failed(e.into()))?;
    }
    builder = builder.with_deterministic_compute(true).map_err(|e| failed(e.into()))?;
    if let DeviceName::Cuda(index) = config.device.parse().map_err(device)? {
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        let cuda = ep::CUDA::default().with_device_id(index).build().error_on_failure();
        builder = builder.with_execution_providers([cuda]).map_err(|e| device(e.to_string()))?;
    }
    builder.commit_from_file(path).map_err(|error| TeacherError::Runtime {
        path: path.to_owned(),
        doing: "loading the model",
        problem: error.to_string() + hint(path, TeacherKind::Onnx),
    })
}
