//! libtorch's devices: one program serves machines with and without a GPU.
//!
//! Programs are linked to libtorch's CPU library only. When a GPU is wanted, `libtorch_cuda.so` is
//! loaded from the folder that the CPU library came from, and registers itself with it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device};

use crate::config::DeviceName;

pub(super) const CUDA_LIBRARY: &str = "libtorch_cuda.so";

/// Why a device is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No such word.
    #[error("{0}")]
    Name(String),
    /// libtorch's CUDA half is not installed.
    #[error(
        "cuda is wanted, but {CUDA_LIBRARY} is not in {folder}; run `tools/setup.sh --cuda`, or use the device cpu"
    )]
    NotInstalled {
        /// Where libtorch was loaded from.
        folder: PathBuf,
    },
    /// libtorch's CUDA half, or a library of CUDA, could not be loaded.
    #[error("cannot load {path}: {problem}; run `tools/setup.sh --cuda`, or use the device cpu")]
    Load {
        /// The library.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// No GPU or driver.
    #[error(
        "cuda is wanted, but no GPU is to be seen (is the NVIDIA driver installed? is CUDA_VISIBLE_DEVICES set?)"
    )]
    NoGpu,
    /// No GPU of that index.
    #[error("expected a GPU below cuda:{count}, found cuda:{index}")]
    Index {
        /// Asked for.
        index: usize,
        /// On this machine.
        count: usize,
    },
}

/// The index of the GPU called `name`, where libtorch has it.
#[cfg(feature = "onnx")]
pub(crate) fn gpu(name: &str) -> Option<usize> {
    match resolve(name) {
        Ok(Device::Cuda(index)) => Some(index),
        _ => None,
    }
}

/// The device called `name` (`cpu`, `cuda` or `cuda:N`), ready for use.
///
/// # Errors
/// [`DeviceError`].
pub fn resolve(name: &str) -> Result<Device, DeviceError> {
    let index = match name.parse::<DeviceName>().map_err(DeviceError::Name)? {
        DeviceName::Cpu => return Ok(Device::Cpu),
        DeviceName::Cuda(index) => index,
    };
    // Before libtorch is asked anything about GPUs: it looks for its CUDA half once, and what it finds then is what it
    // believes for as long as the program runs.
    load_cuda()?;
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    if count == 0 || !Cuda::is_available() {
        return Err(DeviceError::NoGpu);
    }
    if index >= count {
        return Err(DeviceError::Index { index, count });
    }
    Ok(Device::Cuda(index))
}

/// Loads libtorch's CUDA half, once, for as long as the program runs.
fn load_cuda() -> Result<(), DeviceError> {
    static LOADED: OnceLock<Library> = OnceLock::new();
    if LOADED.get().is_some() || folder_of(CUDA_LIBRARY).is_some() {
        return Ok(());
    }
    let folder = libtorch_folder();
    let path = folder.join(CUDA_LIBRARY);
    if !path.exists() {
        return Err(DeviceError::NotInstalled { folder });
    }
    // SAFETY: the library is libtorch's own, of the build that is loaded already (it lies beside
    // it); its initialisers register kernels and are made to run under dlopen, which is how
    // PyTorch itself loads it. It is never unloaded.
    #[allow(unsafe_code)]
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|error| DeviceError::Load { path, problem: error.to_string() })?;
    // Two threads may both have opened it: the system counts, and one handle is enough.
    LOADED.get_or_init(|| library);
    Ok(())
}

/// The folder that libtorch's CPU library was loaded from.
fn libtorch_folder() -> PathBuf {
    folder_of("libtorch_cpu.so").unwrap_or_else(|| PathBuf::from(env!("KD_CACHE_TORCH_LIB_DEFAULT")))
}

/// The folder that the library `name` was loaded from, as the kernel tells it; `None` where it was not.
pub(super) fn folder_of(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let loaded = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    loaded
        .filter(|path| path.file_name().is_some_and(|file| file == name))
        .find_map(Path::parent)
        .map(Path::to_owned)
}

/// Where tests of losses and students compute: what `KD_CACHE_TEST_DEVICE` names, the processor where it names nothing.
#[cfg(test)]
pub(crate) fn of_tests() -> Device {
    let name = std::env::var("KD_CACHE_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    resolve(&name).unwrap_or_else(|error| panic!("KD_CACHE_TEST_DEVICE: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_always_there_and_other_words_are_refused() {
        assert_eq!(resolve("cpu").unwrap(), Device::Cpu);
        for bad in ["gpu", "cuda:", "cuda:x", "CPU", ""] {
            let error = resolve(bad).unwrap_err().to_string();
            assert!(error.contains("expected cpu, cuda or cuda:N"), "{bad}: {error}");
        }
    }

    #[test]
    fn libtorch_is_found_where_it_was_loaded_from() {
        // A call makes sure that it is loaded.
        assert!(tch::get_num_threads() > 0);
        assert!(libtorch_folder().join("libtorch_cpu.so").exists());
    }
}
