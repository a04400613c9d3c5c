//! Kernels compiled for the CPU, so that what they compute is tested where there is no GPU.

use std::collections::HashMap;
use std::ffi::c_void;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use libloading::os::unix::Library;

use super::Source;

const EMULATED: &str = include_str!("emulated.hpp");

type Run = unsafe extern "C" fn(i32, *mut *mut c_void);

/// A kernel of which one block runs at a time.
#[derive(Clone, Debug)]
pub(crate) struct Emulated(Arc<Mutex<Library>>);

impl Emulated {
    /// Compiles `source` with the C++ compiler that libtorch's bindings need too.
    ///
    /// # Panics
    /// Where that refuses it.
    pub(super) fn new(source: &Source) -> Self {
        static KNOWN: Mutex<Option<HashMap<Source, Emulated>>> = Mutex::new(None);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(HashMap::new);
        known.entry(source.clone()).or_insert_with(|| Self::compile(source)).clone()
    }

    fn compile(source: &Source) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (text, library) = (folder.path().join("kernel.cpp"), folder.path().join("kernel.so"));
        let name = source.name;
        let run = format!(
            "extern \"C\" void run(int blocks, void **arguments) {{ blocks_of({name}, blocks, arguments); }}\n"
        );
        std::fs::write(&text, [EMULATED, &source.text(), &run].concat()).unwrap();
        let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
        let mut command = Command::new(compiler);
        command.args(["-std=c++17", "-O1", "-w", "-shared", "-fPIC"]);
        command.args(source.definitions.iter().map(|one| one.replace("--define-macro=", "-D")));
        let done = command.arg(text).arg("-o").arg(&library).output().unwrap();
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        // SAFETY: a library of our own that has just been written; nothing runs when it is opened.
        #[allow(unsafe_code)]
        let library = unsafe { Library::new(library) }.unwrap();
        Self(Arc::new(Mutex::new(library)))
    }

    /// Has so many blocks run, given the arguments as the driver is.
    pub(super) fn launch(&self, blocks: usize, words: &[u64]) {
        let mut words = words.to_vec();
        let mut arguments: Vec<*mut c_void> =
            words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        // What threads of a block share is of the library: one launch at a time.
        let library = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the function is of the type that `compile` wrote; its arguments are the launch's caller's.
        #[allow(unsafe_code)]
        unsafe {
            let run: libloading::os::unix::Symbol<Run> = library.get(b"run").unwrap();
            run(blocks as i32, arguments.as_mut_ptr());
        }
    }
}
