//! libtorch's autocast: matrices are multiplied in a half type, what needs the range of single precision is not.
//!
//! The bindings can switch it on for a GPU and for one type only. What they do not reach are functions that libtorch
//! exports (`ATen/autocast_mode.h`); they are looked up by their C++ names, once, in the library that is loaded.

use std::sync::OnceLock;

use libloading::os::unix::Library;
use tch::Device;

use super::VERSION;
use crate::config::Precision;

/// `c10::DeviceType` and `c10::ScalarType` (`c10/core/DeviceType.h`, `c10/core/ScalarType.h`): one byte each.
type Byte = i8;
const CPU: Byte = 0;
const CUDA: Byte = 1;
const HALF: Byte = 5;
const BFLOAT16: Byte = 15;

/// This libtorch cannot do it.
#[derive(Debug, thiserror::Error)]
#[error(
    "train.precision = \"{precision}\" needs libtorch {VERSION}, and the one that is loaded has no {missing}; run \
     tools/setup.sh, or leave the key out"
)]
pub struct AutocastError {
    precision: &'static str,
    missing: &'static str,
}

/// The precision that matrices are multiplied in, on a device.
#[derive(Clone, Copy, Debug)]
pub struct Autocast {
    device: Byte,
    /// `None`: single precision, as always.
    with: Option<(Byte, &'static Functions)>,
}

impl Autocast {
    /// Products in `precision` on `device`.
    ///
    /// # Errors
    /// [`AutocastError`]: the libtorch that is loaded is another one.
    pub fn new(device: Device, precision: Precision) -> Result<Self, AutocastError> {
        let kind = match precision {
            Precision::F32 => None,
            Precision::Bf16 => Some(BFLOAT16),
            Precision::F16 => Some(HALF),
        };
        let functions = |missing: &'static str| AutocastError { precision: precision.as_str(), missing };
        let with = kind.map(|kind| Ok((kind, functions_of_libtorch().map_err(functions)?))).transpose()?;
        let device = if device.is_cuda() { CUDA } else { CPU };
        Ok(Self { device, with })
    }

    /// What `compute` makes of single precision tensors. Its result may be of the half type.
    pub fn run<T>(&self, compute: impl FnOnce() -> T) -> T {
        let Some((kind, functions)) = self.with else { return compute() };
        // Undone also where `compute` panics.
        let _on = On::begin(functions, self.device, kind);
        compute()
    }
}

/// The functions of `at::autocast`, of the thread that calls them.
#[derive(Debug)]
struct Functions {
    set_type: extern "C-unwind" fn(Byte, Byte),
    set_enabled: extern "C-unwind" fn(Byte, bool),
    increment_nesting: extern "C-unwind" fn() -> i32,
    decrement_nesting: extern "C-unwind" fn() -> i32,
    clear_cache: extern "C-unwind" fn(),
}

/// Their C++ names, as the Itanium ABI writes them, which is that of every platform libtorch is linked on here.
const SET_TYPE: &str = "_ZN2at8autocast18set_autocast_dtypeEN3c1010DeviceTypeENS1_10ScalarTypeE";
const SET_ENABLED: &str = "_ZN2at8autocast20set_autocast_enabledEN3c1010DeviceTypeEb";
const INCREMENT_NESTING: &str = "_ZN2at8autocast17increment_nestingEv";
const DECREMENT_NESTING: &str = "_ZN2at8autocast17decrement_nestingEv";
const CLEAR_CACHE: &str = "_ZN2at8autocast11clear_cacheEv";

/// The functions, or the name of one that is missing.
fn functions_of_libtorch() -> Result<&'static Functions, &'static str> {
    static FUNCTIONS: OnceLock<Result<Functions, &'static str>> = OnceLock::new();
    FUNCTIONS.get_or_init(look_up).as_ref().map_err(|missing| *missing)
}

fn look_up() -> Result<Functions, &'static str> {
    // Libraries that this program is linked to, libtorch among them: it is loaded before main and never unloaded.
    let program = Library::this();
    macro_rules! function {
        ($name:ident) => {{
            // SAFETY: the name holds the types of the parameters, and each is an enumeration of one byte, a bool or
            // nothing (PyTorch 2.11's `ATen/autocast_mode.h`), passed as Rust's `i8` and `bool` are; results, which a
            // mangled name does not hold, are `int` or `void` there. An exception that leaves one would unwind.
            #[allow(unsafe_code)]
            let found = unsafe { program.get($name.as_bytes()) };
            *found.map_err(|_| $name)?
        }};
    }
    Ok(Functions {
        set_type: function!(SET_TYPE),
        set_enabled: function!(SET_ENABLED),
        increment_nesting: function!(INCREMENT_NESTING),
        decrement_nesting: function!(DECREMENT_NESTING),
        clear_cache: function!(CLEAR_CACHE),
    })
}

/// Autocast, as long as this lives.
struct On {
    functions: &'static Functions,
    device: Byte,
}

impl On {
    fn begin(functions: &'static Functions, device: Byte, kind: Byte) -> Self {
        (functions.set_type)(device, kind);
        (functions.set_enabled)(device, true);
        (functions.increment_nesting)();
        Self { functions, device }
    }
}

impl Drop for On {
    fn drop(&mut self) {
        // Weights are kept in the half type until the outermost is done, so that each is converted once.
        if (self.functions.decrement_nesting)() == 0 {
            (self.functions.clear_cache)();
            (self.functions.set_enabled)(self.device, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    #[test]
    fn products_are_of_the_type_asked_for_while_it_lasts() {
        let a = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        let product = || a.matmul(&a).kind();
        for (precision, kind) in
            [(Precision::F32, Kind::Float), (Precision::Bf16, Kind::BFloat16), (Precision::F16, Kind::Half)]
        {
            let autocast = Autocast::new(Device::Cpu, precision).unwrap();
            assert_eq!(autocast.run(product), kind);
            // One within the other.
            assert_eq!(autocast.run(|| (autocast.run(product), product())), (kind, kind));
            assert_eq!(product(), Kind::Float);
        }
        let autocast = Autocast::new(Device::Cpu, Precision::Bf16).unwrap();
        let panics = || autocast.run(|| panic!("on purpose"));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(product(), Kind::Float);
    }
}
