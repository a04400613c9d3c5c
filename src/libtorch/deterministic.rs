//! The same bits from the same numbers, on a GPU too, where libtorch's quickest algorithms add in whatever order threads
//! come to it.
//!
//! The switches are those of `torch.use_deterministic_algorithms` and `torch.backends.cudnn.deterministic`, which the
//! bindings do not reach: members of `at::Context` (`ATen/Context.h`), looked up by their C++ names in the library that is
//! loaded.

use std::ffi::c_void;

use libloading::os::unix::Library;
use tch::Device;

use super::VERSION;

/// What cuBLAS needs to add in one order, as CUDA's documentation of its reproducibility says.
const WORKSPACE: &str = "CUBLAS_WORKSPACE_CONFIG";

/// Why a device cannot be made to give the same bits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeterministicError {
    /// This libtorch cannot do it.
    #[error(
        "train.deterministic needs libtorch {VERSION}, and the one that is loaded has no {missing}; run \
         tools/setup.sh, or leave the key out"
    )]
    Missing {
        /// The function.
        missing: &'static str,
    },
    /// cuBLAS was not told.
    #[error(
        "train.deterministic on a GPU needs {WORKSPACE}=:4096:8 (or :16:8) in the environment, found {found}"
    )]
    Workspace {
        /// What is in it.
        found: String,
    },
}

type Global = extern "C-unwind" fn() -> *mut c_void;
type Set = extern "C-unwind" fn(*mut c_void, bool);
type SetBoth = extern "C-unwind" fn(*mut c_void, bool, bool);

/// Their C++ names, as the Itanium ABI writes them.
const GLOBAL: &str = "_ZN2at13globalContextEv";
const SET_CUDNN: &str = "_ZN2at7Context21setDeterministicCuDNNEb";
const SET_ALGORITHMS: &str = "_ZN2at7Context26setDeterministicAlgorithmsEbb";
const SET_FILL: &str = "_ZN2at7Context39setDeterministicFillUninitializedMemoryEb";

/// Has all of this program's work on `device` give the same bits from the same numbers from here on. The CPU does anyway.
///
/// Operators of a student of one's own that have no such algorithm are computed all the same, and told on standard error.
///
/// # Errors
/// [`DeterministicError`].
pub fn make_deterministic(device: Device) -> Result<(), DeterministicError> {
    if device == Device::Cpu {
        return Ok(());
    }
    let given = std::env::var(WORKSPACE).unwrap_or_default();
    if ![":4096:8", ":16:8"].contains(&given.as_str()) {
        let found = if given.is_empty() { "none".into() } else { given };
        return Err(DeterministicError::Workspace { found });
    }
    let switches = Switches::look_up().map_err(|missing| DeterministicError::Missing { missing })?;
    let context = (switches.global)();
    (switches.set_cudnn)(context, true);
    (switches.set_algorithms)(context, true, true);
    // Memory that is written before it is read need not be filled.
    (switches.set_fill)(context, false);
    Ok(())
}

struct Switches {
    global: Global,
    set_cudnn: Set,
    set_algorithms: SetBoth,
    set_fill: Set,
}

impl Switches {
    /// The functions, or the name of one that is missing.
    fn look_up() -> Result<Self, &'static str> {
        // Libraries that this program is linked to, libtorch among them: it is loaded before main and never unloaded.
        let program = Library::this();
        macro_rules! function {
            ($name:ident) => {{
                // SAFETY: the name holds the types of the parameters, which are `bool`, after the object that a member is
                // called on; results are `at::Context&` of the first and `void` of the others (PyTorch 2.11's
                // `ATen/Context.h`). An exception that leaves one would unwind.
                #[allow(unsafe_code)]
                let found = unsafe { program.get($name.as_bytes()) };
                *found.map_err(|_| $name)?
            }};
        }
        Ok(Self {
            global: function!(GLOBAL),
            set_cudnn: function!(SET_CUDNN),
            set_algorithms: function!(SET_ALGORITHMS),
            set_fill: function!(SET_FILL),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_has_the_switches_and_the_processor_needs_none() {
        assert!(tch::get_num_threads() > 0);
        let switches = Switches::look_up().map_err(|missing| panic!("{missing}"));
        assert!(switches.is_ok_and(|switches| !(switches.global)().is_null()));
        make_deterministic(Device::Cpu).unwrap();
        if std::env::var_os(WORKSPACE).is_none() {
            let error = make_deterministic(Device::Cuda(0)).unwrap_err().to_string();
            assert!(
                error.contains("CUBLAS_WORKSPACE_CONFIG=:4096:8") && error.contains("found none"),
                "{error}"
            );
        }
    }
}
