//! Kernels of our own on the GPU that libtorch computes on, for what its operators read and write several times over.
//!
//! They are compiled when they are first wanted, for the types and sizes at hand, by NVRTC: the system's where it has one, or else
//! the one that comes with libtorch's CUDA half and is found through it. Where a kernel is not to be had, callers have libtorch's operators: slower, and as right.

use std::collections::HashMap;
use std::ffi::c_void;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Device, Kind, Tensor};

use super::device::{CUDA_LIBRARY, folder_of};

#[cfg(test)]
mod emulated;

/// What all kernels begin with.
const NUMBERS: &str = include_str!("numbers.cuh");
/// libtorch's own way to NVRTC and the driver, beside its CUDA half: knows where they lie.
const NVRTC_OF_LIBTORCH: &str = "libcaffe2_nvrtc.so";
/// Memory that a block has without asking for more, in bytes.
pub(crate) const SHARED: usize = 48 << 10;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No compiler or no driver.
    #[error(
        "no {0} to be found, which kernels of our own are made with; libtorch's operators are used in their place"
    )]
    Library(&'static str),
    /// NVRTC refused it.
    #[error("NVRTC does not compile {name}: {problem}; libtorch's operators are used in its place")]
    Compile {
        /// The kernel.
        name: &'static str,
        /// What the compiler says.
        problem: String,
    },
    /// The driver refused it.
    #[error("cannot load {name}: {problem}; libtorch's operators are used in its place")]
    Load {
        /// The kernel.
        name: &'static str,
        /// What the driver says.
        problem: String,
    },
}

/// How rows of numbers are read: their type, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reads {
    /// As `numbers.cuh` numbers the types.
    kind: u8,
    per: usize,
}

impl Reads {
    /// Of `rows`, `[rows, columns]`, each row in one piece, no more than `most` at once; `None` where no kernel reads them where they are.
    pub(crate) fn of(rows: &Tensor, most: usize) -> Option<Self> {
        let (kind, bytes) = match rows.kind() {
            Kind::Float => (0, 4),
            Kind::Half => (1, 2),
            Kind::BFloat16 => (2, 2),
            _ => return None,
        };
        let [stride, 1] = rows.stride()[..] else { return None };
        let aligned = |per: &usize| {
            (rows.size()[1] as usize).is_multiple_of(*per)
                && (stride as usize).is_multiple_of(*per)
                && (rows.data_ptr() as usize).is_multiple_of(per * bytes)
        };
        let per = [8, 4, 2].into_iter().filter(|per| *per <= most && per * bytes <= 16).find(aligned);
        Some(Self { kind, per: per.unwrap_or(1) })
    }

    /// Numbers that a thread reads at once.
    pub(crate) fn per(self) -> usize {
        self.per
    }
}

/// A kernel's source and what it is made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    name: &'static str,
    text: &'static str,
    /// Of a block: a power of two.
    threads: usize,
    definitions: Vec<String>,
}

impl Source {
    /// The kernel `name` in `text`, for rows that are read like `reads`, in blocks of `threads`.
    pub(crate) fn new(name: &'static str, text: &'static str, reads: Reads, threads: usize) -> Self {
        let source = Self { name, text, threads, definitions: Vec::new() };
        source.with("THREADS", threads).with("TYPE", reads.kind).with("PER", reads.per)
    }

    /// With `name` defined as `value`.
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.definitions.push(format!("--define-macro={name}={}", value.to_string()));
        self
    }

    /// All of it, as the compiler sees it.
    fn text(&self) -> String {
        [NUMBERS, self.text].concat()
    }

    /// The kernel on `device`, compiled where this is the first time.
    ///
    /// # Errors
    /// [`KernelError`], the same at every time.
    pub(crate) fn on(&self, device: Device) -> Result<Arc<Kernel>, Arc<KernelError>> {
        static KNOWN: Mutex<Option<HashMap<(usize, Source), Compiled>>> = Mutex::new(None);
        let index = match device {
            Device::Cuda(index) => index,
            #[cfg(test)]
            Device::Cpu => return Ok(Arc::new(Kernel::Emulated(emulated::Emulated::new(self)))),
            _ => return Err(Arc::new(KernelError::Library("GPU"))),
        };
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(HashMap::new);
        if let Some(there) = known.get(&(index, self.clone())) {
            return there.clone();
        }
        let made = Kernel::new(self, index).map(Arc::new).map_err(Arc::new);
        known.insert((index, self.clone()), made.clone());
        made
    }
}

type Compiled = Result<Arc<Kernel>, Arc<KernelError>>;

/// A kernel, ready to be launched.
#[derive(Debug)]
pub(crate) enum Kernel {
    /// On a GPU.
    Compiled { function: CudaFunction, stream: Arc<CudaStream>, threads: usize },
    /// On the CPU.
    #[cfg(test)]
    Emulated(emulated::Emulated),
}

/// What a kernel is given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument<'a> {
    /// Where a tensor's numbers begin.
    Tensor(&'a Tensor),
    /// No tensor.
    Absent,
    /// An `int`.
    Count(usize),
    /// A `float`.
    Number(f64),
}

impl<'a> From<&'a Tensor> for Argument<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

impl From<usize> for Argument<'_> {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Argument<'_> {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl<'a> From<Option<&'a Tensor>> for Argument<'a> {
    fn from(tensor: Option<&'a Tensor>) -> Self {
        tensor.map_or(Self::Absent, Self::Tensor)
    }
}

impl Kernel {
    fn new(source: &Source, index: usize) -> Result<Self, KernelError> {
        find_libraries()?;
        let name = source.name;
        let load = |error: DriverError| KernelError::Load { name, problem: error.to_string() };
        let context = context(index).map_err(load)?;
        let (major, minor) = context.compute_capability().map_err(load)?;
        let mut options = source.definitions.clone();
        options.push(format!("--gpu-architecture=compute_{major}{minor}"));
        options.push("--disable-warnings".into());
        let options = CompileOptions { options, name: Some(format!("{name}.cu")), ..Default::default() };
        let compiled = compile_ptx_with_opts(source.text(), options).map_err(|error| {
            let problem = match error {
                CompileError::CompileError { log, .. } => log.to_string_lossy().trim().to_owned(),
                other => other.to_string(),
            };
            KernelError::Compile { name, problem }
        })?;
        let function = context.load_module(compiled).map_err(load)?.load_function(name).map_err(load)?;
        // libtorch's as well, wherever nobody asked for another.
        let stream = context.default_stream();
        Ok(Self::Compiled { function, stream, threads: source.threads })
    }

    /// Has so many blocks run behind all that was asked of the device before. Does not wait for them.
    ///
    /// # Safety
    /// `arguments` are those of the kernel, in type, number and order, and it neither reads nor writes beyond the tensors'
    /// numbers.
    ///
    /// # Panics
    /// Where the driver refuses, as libtorch's operators do.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn launch(&self, blocks: usize, arguments: &[Argument<'_>]) {
        if blocks == 0 {
            return;
        }
        let words: Vec<u64> = arguments
            .iter()
            .map(|argument| match *argument {
                Argument::Tensor(tensor) => tensor.data_ptr() as u64,
                Argument::Absent => std::ptr::null::<c_void>() as u64,
                Argument::Count(count) => count as u64,
                Argument::Number(number) => u64::from((number as f32).to_bits()),
            })
            .collect();
        match self {
            #[cfg(test)]
            Self::Emulated(kernel) => kernel.launch(blocks, &words),
            Self::Compiled { function, stream, threads } => {
                let mut launch = stream.launch_builder(function);
                for word in &words {
                    // The driver copies as many of its bytes, the lower ones first, as the kernel's parameter has.
                    launch.arg(word);
                }
                let (grid_dim, block_dim) = ((blocks as u32, 1, 1), (*threads as u32, 1, 1));
                let config = LaunchConfig { grid_dim, block_dim, shared_mem_bytes: 0 };
                // SAFETY: the caller's.
                let launched = unsafe { launch.launch(config) };
                launched.unwrap_or_else(|error| panic!("a kernel of our own: {error}"));
            }
        }
    }
}

/// Whether kernels of our own can be made for `device`, where libtorch's operators would otherwise be used. The CPU needs none.
///
/// # Errors
/// [`KernelError`].
pub fn kernels_on(device: Device) -> Result<(), Arc<KernelError>> {
    if !device.is_cuda() {
        return Ok(());
    }
    let nothing = "extern \"C\" __global__ void probe() {}";
    Source::new("probe", nothing, Reads { kind: 0, per: 1 }, 32).on(device).map(drop)
}

/// The context that libtorch computes in, by CUDA's runtime: the primary one of each device.
fn context(index: usize) -> Result<Arc<CudaContext>, DriverError> {
    static KNOWN: Mutex<Vec<Option<Arc<CudaContext>>>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() <= index {
        known.resize(index + 1, None);
    }
    if let Some(context) = &known[index] {
        return Ok(context.clone());
    }
    let context = CudaContext::new(index)?;
    known[index] = Some(context.clone());
    Ok(context)
}

/// Comes when all is done that has been asked of `device` so far; `None` where nothing can tell.
pub(super) fn event(device: Device) -> Option<CudaEvent> {
    let Device::Cuda(index) = device else { return None };
    find_libraries().ok()?;
    context(index).ok()?.default_stream().record_event(None).ok()
}

/// Loads NVRTC and the driver, once, for as long as the program runs: what is looked for under a dozen names is not to be
/// looked for at every launch.
fn find_libraries() -> Result<(), KernelError> {
    static MISSING: OnceLock<Option<&'static str>> = OnceLock::new();
    MISSING.get_or_init(missing_library).map_or(Ok(()), |library| Err(KernelError::Library(library)))
}

/// What there is no library of.
fn missing_library() -> Option<&'static str> {
    // The one that libtorch's own is linked to is found by its name once this is open.
    static NVRTC: OnceLock<Option<Library>> = OnceLock::new();
    NVRTC.get_or_init(|| open(&folder_of(CUDA_LIBRARY)?.join(NVRTC_OF_LIBTORCH)));
    // SAFETY: both look whether a library of CUDA's can be opened; its initialisers are made to run under dlopen.
    #[allow(unsafe_code)]
    let (compiler, driver) =
        unsafe { (cudarc::nvrtc::sys::is_culib_present(), cudarc::driver::sys::is_culib_present()) };
    match (compiler, driver) {
        (false, _) => Some("NVRTC"),
        (_, false) => Some("CUDA driver"),
        (true, true) => None,
    }
}

fn open(path: &Path) -> Option<Library> {
    // SAFETY: the library is libtorch's own and made to be opened like that; it is never closed.
    #[allow(unsafe_code)]
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.ok()
}
