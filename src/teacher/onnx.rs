//! ONNX models through ONNX Runtime, loaded at run time.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use half::{bf16, f16};
use ort::environment::Environment;
use ort::ep;
use ort::session::Session;
use ort::value::{DynValue, TensorElementType, TensorRef, ValueType};

use super::{OutputType, RawOutput, Teacher, TeacherError};
use crate::config::{DeviceName, TeacherConfig};

/// Where `tools/setup.sh` put the library when this was built; empty otherwise.
const BUILT_IN_LIBRARY: &str = env!("KD_CACHE_ONNXRUNTIME_DEFAULT");

/// A session, its input and output.
pub(super) struct OnnxTeacher {
    session: Session,
    path: PathBuf,
    runtime: String,
    input: String,
    output: String,
    /// `[batch, …]`, the batch filled in at each pass.
    shape: Vec<usize>,
    /// The batch the model was exported with, when it is fixed.
    fixed_batch: Option<usize>,
}

impl OnnxTeacher {
    pub(super) fn open(config: &TeacherConfig, input_shape: &[usize]) -> Result<Self, TeacherError> {
        let environment = environment()?;
        let session = session(&environment, config)?;
        let path = config.path.clone();
        let input = pick(&path, "input", config.input.as_deref(), session.inputs().iter().map(|i| i.name()))?;
        let output =
            pick(&path, "output", config.output.as_deref(), session.outputs().iter().map(|o| o.name()))?;
        let mut shape = vec![0];
        shape.extend_from_slice(input_shape);
        let declared = session.inputs().iter().find(|i| i.name() == input).map(|i| i.dtype().clone());
        let fixed_batch = check_input(&path, &input, declared.as_ref(), &shape)?;
        if let Some(fixed) = fixed_batch.filter(|fixed| config.batch > *fixed) {
            return Err(TeacherError::Input {
                path,
                name: input,
                expected: format!("in batches of {} (teacher.batch)", config.batch),
                found: format!("fixed to batches of {fixed}; set teacher.batch = {fixed}"),
            });
        }
        Ok(Self { session, path, runtime: runtime_version(), input, output, shape, fixed_batch })
    }
}

impl Teacher for OnnxTeacher {
    fn runtime(&self) -> &str {
        &self.runtime
    }

    fn forward(&mut self, inputs: &[f32], rows: usize) -> Result<RawOutput, TeacherError> {
        let path = &self.path;
        let failed = |error: ort::Error| TeacherError::Runtime {
            path: path.clone(),
            doing: "the forward pass",
            problem: error.to_string(),
        };
        // A model exported for one batch size gets empty rows up to it; they are cut off again.
        let run_rows = self.fixed_batch.unwrap_or(rows).max(rows);
        let padded: Vec<f32>;
        let inputs = if run_rows == rows {
            inputs
        } else {
            let mut copy = inputs.to_vec();
            copy.resize(inputs.len() / rows.max(1) * run_rows, 0.0);
            padded = copy;
            &padded
        };
        self.shape[0] = run_rows;
        let tensor = TensorRef::from_array_view((self.shape.clone(), inputs)).map_err(failed)?;
        let outputs = self.session.run(ort::inputs![self.input.as_str() => tensor]).map_err(failed)?;
        let value = outputs.get(&self.output).ok_or_else(|| TeacherError::Output {
            path: path.clone(),
            expected: format!("the name {:?}", self.output),
            found: "none of that name".into(),
        })?;
        let mut output = extract(path, value, run_rows)?;
        output.rows = rows;
        output.values.truncate(rows * output.classes);
        Ok(output)
    }
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
fn runtime_version() -> String {
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

fn session(environment: &Environment, config: &TeacherConfig) -> Result<Session, TeacherError> {
    let failed = |error: ort::Error| TeacherError::Runtime {
        path: config.path.clone(),
        doing: "loading the model",
        problem: error.to_string(),
    };
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
    builder.commit_from_file(&config.path).map_err(failed)
}

/// The input or output that is named, or the only one.
fn pick<'a>(
    path: &Path,
    key: &'static str,
    wanted: Option<&str>,
    found: impl Iterator<Item = &'a str>,
) -> Result<String, TeacherError> {
    let found: Vec<String> = found.map(str::to_owned).collect();
    let problem = match wanted {
        Some(wanted) if found.iter().any(|name| name == wanted) => return Ok(wanted.to_owned()),
        Some(wanted) => format!("expected one named {wanted:?}"),
        None if found.len() == 1 => return Ok(found[0].clone()),
        None => "name one of them".into(),
    };
    Err(TeacherError::Name { path: path.to_owned(), key, problem, found })
}

/// Checks type and shape; gives the batch when the model fixes it.
fn check_input(
    path: &Path,
    name: &str,
    declared: Option<&ValueType>,
    shape: &[usize],
) -> Result<Option<usize>, TeacherError> {
    let sample = &shape[1..];
    let refuse = |found: String| TeacherError::Input {
        path: path.to_owned(),
        name: name.to_owned(),
        expected: format!(
            "float32 [batch, {}]",
            sample.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
        ),
        found,
    };
    let Some(ValueType::Tensor { ty, shape: dims, .. }) = declared else {
        return Err(refuse("no tensor".into()));
    };
    let dims: Vec<i64> = dims.iter().copied().collect();
    let words: Vec<String> =
        dims.iter().map(|d| if *d < 0 { "?".to_owned() } else { d.to_string() }).collect();
    let found = format!("{ty} [{}]", words.join(", "));
    let fits = dims.len() == shape.len()
        && dims[1..].iter().zip(sample).all(|(dim, size)| *dim < 0 || *dim == *size as i64);
    if *ty != TensorElementType::Float32 || !fits {
        return Err(refuse(found));
    }
    Ok(usize::try_from(dims[0]).ok())
}

fn extract(path: &Path, value: &DynValue, rows: usize) -> Result<RawOutput, TeacherError> {
    let (shape, dtype) = match value.dtype() {
        ValueType::Tensor { ty, shape, .. } => (shape.iter().copied().collect::<Vec<i64>>(), *ty),
        other => {
            return Err(TeacherError::Output {
                path: path.to_owned(),
                expected: "a tensor [batch, classes]".into(),
                found: other.to_string(),
            });
        }
    };
    let refuse = || TeacherError::Output {
        path: path.to_owned(),
        expected: format!("float [batch = {rows}, classes]"),
        found: format!("{dtype} {shape:?}"),
    };
    let [batch, classes] = shape[..] else { return Err(refuse()) };
    if batch != rows as i64 || classes < 2 {
        return Err(refuse());
    }
    let failed = |error: ort::Error| TeacherError::Runtime {
        path: path.to_owned(),
        doing: "reading the output",
        problem: error.to_string(),
    };
    let (values, dtype) = match dtype {
        TensorElementType::Float32 => {
            (value.try_extract_tensor::<f32>().map_err(failed)?.1.to_vec(), OutputType::F32)
        }
        TensorElementType::Float16 => {
            let (_, values) = value.try_extract_tensor::<f16>().map_err(failed)?;
            (values.iter().map(|v| v.to_f32()).collect(), OutputType::F16)
        }
        TensorElementType::Bfloat16 => {
            let (_, values) = value.try_extract_tensor::<bf16>().map_err(failed)?;
            (values.iter().map(|v| v.to_f32()).collect(), OutputType::Bf16)
        }
        TensorElementType::Float64 => {
            let (_, values) = value.try_extract_tensor::<f64>().map_err(failed)?;
            (values.iter().map(|v| *v as f32).collect(), OutputType::F64)
        }
        _ => return Err(refuse()),
    };
    Ok(RawOutput { rows, classes: classes as usize, values, dtype })
}
