//! Tells the linker and the program where the native libraries are.
//!
//! `tools/setup.sh` writes the paths into `.cargo/config.toml`; a variable of the environment wins:
//! `LIBTORCH` (what torch-sys links against), `KD_CACHE_TORCH_LIB` (the folder that programs load
//! libtorch from) and `KD_CACHE_ONNXRUNTIME` (the library that ONNX teachers are loaded through).

use std::env;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["LIBTORCH", "KD_CACHE_TORCH_LIB", "KD_CACHE_ONNXRUNTIME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    bake_in("KD_CACHE_ONNXRUNTIME", "KD_CACHE_ONNXRUNTIME_DEFAULT");
    bake_in("KD_CACHE_TORCH_LIB", "KD_CACHE_TORCH_LIB_DEFAULT");
    if env::var_os("CARGO_FEATURE_TORCH").is_some() {
        return link_torch();
    }
    ExitCode::SUCCESS
}

/// Makes `env!(constant)` the build's value of `variable`, or empty.
fn bake_in(variable: &str, constant: &str) {
    let value = env::var(variable).unwrap_or_default();
    println!("cargo::rustc-env={constant}={value}");
}

/// Programs, tests and benches look for libtorch where the build found it, then beside themselves,
/// so that a binary can be shipped with its libraries in its own folder or in `../lib`.
fn link_torch() -> ExitCode {
    let Ok(link_folder) = env::var("LIBTORCH") else {
        println!(
            "cargo::error=the feature `torch` needs libtorch, and LIBTORCH is not set: run `make setup`, \
             which fetches it, or build with --no-default-features"
        );
        return ExitCode::FAILURE;
    };
    let lib = env::var("KD_CACHE_TORCH_LIB").unwrap_or_else(|_| format!("{link_folder}/lib"));
    if !Path::new(&lib).is_dir() {
        println!(
            "cargo::error=no folder {lib} to load libtorch from: run `make setup`, or correct KD_CACHE_TORCH_LIB"
        );
        return ExitCode::FAILURE;
    }
    for path in [lib.as_str(), "$ORIGIN", "$ORIGIN/../lib"] {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{path}");
    }
    ExitCode::SUCCESS
}
