//! ONNX Runtime itself: its library, its version, and models loaded by it, with what executes them.

use std::borrow::Cow;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use ort::ep::{self, ExecutionProviderDispatch};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{PrimitiveTensorElementType, Tensor, TensorRef};

use super::answer::Answer;
use crate::config::{DeviceName, ExecutionProvider, GraphOptimization, TeacherConfig, TeacherKind};
use crate::teacher::TeacherError;
use crate::teacher::error::hint;

/// Where `tools/setup.sh` put the library when this was built; empty otherwise.
const BUILT_IN_LIBRARY: &str = env!("KD_CACHE_ONNXRUNTIME_DEFAULT");

/// A model that has been loaded, and the file it is from.
pub(super) struct Model {
    pub(super) session: Session,
    pub(super) path: PathBuf,
    /// The GPU on which logits are left, where something of ours can read them there.
    gpu: Option<i32>,
    of_one_size: bool,
}

impl Model {
    /// Loads `path` to be run as `config` says.
    pub(super) fn load(config: &TeacherConfig, path: &Path) -> Result<Self, TeacherError> {
        // First: what libtorch loads of CUDA it finds beside itself, and the runtime, which looks nowhere, has use for the same.
        let gpu = readable_gpu(&config.device);
        let environment = environment()?;
        let session = session(&environment, config, path)?;
        let of_one_size = config.execution_provider == Some(ExecutionProvider::Tensorrt);
        Ok(Self { session, path: path.to_owned(), gpu, of_one_size })
    }

    /// Whether what executes it is made for one size of batches, which smaller ones are padded to.
    pub(super) fn of_one_size(&self) -> bool {
        self.of_one_size
    }

    /// Whether logits stay on the device that it runs on.
    pub(super) fn leaves_logits(&self) -> bool {
        self.gpu.is_some()
    }

    /// `numbers` of that shape as an input: where they are, unless inputs are bound, which have to own theirs.
    pub(super) fn input<'v, T: PrimitiveTensorElementType + Clone + Debug + 'static>(
        &self,
        shape: &[usize],
        numbers: impl Into<Cow<'v, [T]>>,
    ) -> Result<SessionInputValue<'v>, TeacherError> {
        let failed = |error: ort::Error| failed(&self.path, "preparing an input", &error);
        let shape = shape.to_vec();
        match (self.gpu, numbers.into()) {
            (None, Cow::Borrowed(numbers)) => {
                Ok(TensorRef::from_array_view((shape, numbers)).map_err(failed)?.into())
            }
            // A binding copies what is borrowed where the runtime wants it here, and ort locks itself out over that.
            (_, numbers) => Ok(Tensor::from_array((shape, numbers.into_owned())).map_err(failed)?.into()),
        }
    }

    /// One pass. Of what it gives, `logits` stay on the GPU where they can be read there; `others` come here.
    pub(super) fn run<'i>(
        &mut self,
        inputs: Vec<(&'i str, SessionInputValue<'i>)>,
        logits: Option<&str>,
        others: impl IntoIterator<Item = &'i str>,
    ) -> Result<Answer, TeacherError> {
        let answer = match self.gpu {
            None => self.session.run(inputs).map(Answer::of),
            Some(gpu) => {
                let there = (AllocationDevice::CUDA, gpu);
                run_bound(&mut self.session, &inputs, logits.map(|name| (name, there)), others)
            }
        };
        answer.map_err(|error| failed(&self.path, "the forward pass", &error))
    }
}

/// A pass whose inputs and outputs are bound to memory beforehand: each output is copied nowhere but to where it is wanted, and those
/// that nobody wants are not copied at all. `inputs` own their numbers. `logits`: a name, and the device that it is wanted on; `others` are wanted here.
fn run_bound<'i>(
    session: &mut Session,
    inputs: &[(&str, SessionInputValue<'_>)],
    logits: Option<(&str, (AllocationDevice<'static>, i32))>,
    others: impl IntoIterator<Item = &'i str>,
) -> ort::Result<Answer> {
    // A binding gives the same memory at every pass, and what the last one gave may not have been read yet.
    let mut binding = session.create_binding()?;
    for (name, value) in inputs {
        binding.bind_input(*name, value)?;
    }
    let others = others.into_iter().map(|name| (name, (AllocationDevice::CPU, 0)));
    // What is wanted twice, as logits that are a feature too, is wanted here.
    for (name, (device, index)) in logits.into_iter().chain(others) {
        let place = MemoryInfo::new(device, index, AllocatorType::Device, MemoryType::Default)?;
        binding.bind_output_to_device(name, &place)?;
    }
    let outputs = session.run_binding(&binding)?;
    binding.synchronize_outputs()?;
    Ok(Answer::of(outputs))
}

/// The index of a GPU whose memory libtorch reads too.
#[cfg(feature = "torch")]
fn readable_gpu(device: &str) -> Option<i32> {
    crate::libtorch::gpu(device).and_then(|index| i32::try_from(index).ok())
}

#[cfg(not(feature = "torch"))]
fn readable_gpu(_: &str) -> Option<i32> {
    None
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
    if let Some(level) = config.graph_optimization {
        let level = match level {
            GraphOptimization::Disable => GraphOptimizationLevel::Disable,
            GraphOptimization::Basic => GraphOptimizationLevel::Level1,
            GraphOptimization::Extended => GraphOptimizationLevel::Level2,
            GraphOptimization::All => GraphOptimizationLevel::All,
        };
        builder = builder.with_optimization_level(level).map_err(|e| failed(e.into()))?;
    }
    if let DeviceName::Cuda(index) = config.device.parse().map_err(device)? {
        let providers = providers(config, i32::try_from(index).unwrap_or(i32::MAX));
        builder = builder.with_execution_providers(providers).map_err(|error| {
            let library = library();
            let another = "tools/setup.sh --cuda gets one for GPUs, and ORT_DYLIB_PATH names another";
            // Nobody but the user knows where it is.
            let needs = match config.execution_provider.unwrap_or_default() {
                ExecutionProvider::Cuda => "libraries of CUDA that it cannot open are looked for",
                ExecutionProvider::Tensorrt => "it needs TensorRT 10 (libnvinfer.so.10), which is looked for",
            };
            device(format!("{error} That is {}; {another}; {needs} in LD_LIBRARY_PATH", library.display()))
        })?;
    }
    builder.commit_from_file(path).map_err(|error| TeacherError::Runtime {
        path: path.to_owned(),
        doing: "loading the model",
        problem: error.to_string() + hint(path, TeacherKind::Onnx),
    })
}

/// What executes a model on the GPU of that index, what comes first as far as it can.
fn providers(config: &TeacherConfig, index: i32) -> Vec<ExecutionProviderDispatch> {
    // The quickest of all algorithms, the default, is another at every start.
    let cuda = ep::CUDA::default()
        .with_device_id(index)
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        // Memory is shared with libtorch. (With TensorRT its allocator comes first, which has no such choice.)
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        .build()
        .error_on_failure();
    match config.execution_provider.unwrap_or_default() {
        ExecutionProvider::Cuda => vec![cuda],
        ExecutionProvider::Tensorrt => {
            vec![ep::TensorRT::default().with_device_id(index).build().error_on_failure(), cuda]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floats::Holder;

    fn model(file: &str) -> Model {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/teachers").join(file);
        let config: TeacherConfig =
            toml::from_str(&format!("kind = \"onnx\"\npath = {:?}", path.display().to_string())).unwrap();
        Model::load(&config, &path).unwrap()
    }

    /// On the CPU, which is what there is everywhere; where an output goes is the runtime's part.
    #[test]
    fn a_pass_whose_outputs_are_bound_gives_what_others_give_and_no_more() {
        let mut model = model("features.onnx");
        let names: Vec<String> = model.session.outputs().iter().map(|one| one.name().to_owned()).collect();
        let input = model.session.inputs()[0].name().to_owned();
        let numbers: Vec<f32> = (0..2 * 28 * 28).map(|at| (at % 11) as f32 / 11.0).collect();
        let given = || {
            let tensor = Tensor::from_array(([2usize, 1, 28, 28], numbers.clone())).unwrap();
            vec![(input.as_str(), tensor.into())]
        };
        let free = model.run(given(), None, []).unwrap();
        let floats = |answer: &Answer, name: &str| {
            let (shape, tensor) = answer.floats(Path::new("model"), name, "floats").ok()?;
            let mut values = Vec::new();
            tensor.floats().append_to(&mut values);
            Some((shape, values))
        };
        let [logits, others @ ..] = names.as_slice() else { panic!("no outputs") };
        for wanted in [others, &[], &names] {
            let there = (logits.as_str(), (AllocationDevice::CPU, 0));
            let wanted = wanted.iter().map(String::as_str);
            let bound = run_bound(&mut model.session, &given(), Some(there), wanted.clone()).unwrap();
            assert_eq!(floats(&bound, logits), floats(&free, logits));
            for name in others {
                let expected = wanted.clone().any(|one| one == name).then(|| floats(&free, name).unwrap());
                assert_eq!(floats(&bound, name), expected, "{name}");
            }
        }
    }
}
