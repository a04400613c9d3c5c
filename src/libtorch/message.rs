//! libtorch's errors for people.

use std::any::Any;
use std::fs::File;
use std::path::Path;

use tch::TchError;

/// The line of an error that says what is wrong.
///
/// libtorch's messages end in a C++ stack trace, and TorchScript's begin with the Python source:
/// the telling line is the last one with `Error: ` before the trace.
pub fn plain_message(error: &TchError) -> String {
    plain(&error.to_string())
}

/// What libtorch said, of a panic because one of its operators failed, for want of memory say; `None` of any other.
///
/// The bindings have operators that panic, which is how all of training is written.
pub fn panicked(payload: &(dyn Any + Send)) -> Option<String> {
    const BEGINS: &str = "called `Result::unwrap()` on an `Err` value: Torch(\"";
    let said = payload.downcast_ref::<String>()?.strip_prefix(BEGINS)?;
    Some(plain(&said.trim_end_matches("\")").replace("\\n", "\n").replace("\\\"", "\"")))
}

/// What to say of a file that is no TorchScript but something else that PyTorch writes under the same suffixes: weights, a pickled module or an
/// exported program, which libtorch takes for a TorchScript that was damaged.
pub(crate) fn other_than_torchscript(path: &Path) -> Option<&'static str> {
    if path.is_dir() {
        return Some("; it is a folder: give the file that torch.jit.save wrote");
    }
    if path.extension().is_some_and(|suffix| suffix == "onnx") {
        return Some(
            "; an ONNX model is a teacher (teacher.kind = \"onnx\") and cannot be trained: save torch.jit.script(model)",
        );
    }
    let archive = zip::ZipArchive::new(File::open(path).ok()?).ok()?;
    let has = |end: &str| archive.file_names().flatten().any(|name| name.ends_with(end));
    match () {
        () if has("constants.pkl") => None,
        () if has("/data.pkl") => Some(
            "; it is what torch.save writes of weights or a pickled module: save torch.jit.script(model) or a trace of it, or export it to ONNX",
        ),
        () if has("model.json") || has("serialized_exported_program.json") => Some(
            "; it is what torch.export.save writes: save torch.jit.script(model) or a trace of it, or export it to ONNX",
        ),
        () => None,
    }
}

fn plain(text: &str) -> String {
    let plain = text.split("Exception raised from").next().unwrap_or(text);
    let lines = || plain.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = lines().rfind(|line| line.contains("Error: "));
    telling.or_else(|| lines().next()).unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;
    use crate::libtorch::of_tests;

    #[test]
    fn panics_of_operators_say_what_libtorch_said() {
        let panic_of = |work: fn()| std::panic::catch_unwind(work).unwrap_err();
        let said = panicked(&*panic_of(|| {
            let of = |size: &[i64]| Tensor::zeros(size, (Kind::Float, of_tests()));
            drop(of(&[2, 3]).matmul(&of(&[4, 5])));
        }))
        .unwrap();
        assert!(said.contains("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), "{said}");
        assert!(!said.contains("frame #0") && !said.contains("Exception raised"), "{said}");
        assert_eq!(panicked(&*panic_of(|| panic!("index {} out of bounds", 3))), None);
        assert_eq!(panicked(&*panic_of(|| panic!("plain"))), None);
    }

    #[test]
    fn what_else_pytorch_writes_is_told_from_torchscript() {
        let dir = tempfile::tempdir().unwrap();
        let archive = |name: &str, entries: &[&str]| {
            let path = dir.path().join(name);
            let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
            for entry in entries {
                writer.start_file(*entry, zip::write::SimpleFileOptions::default()).unwrap();
            }
            writer.finish().unwrap();
            other_than_torchscript(&path)
        };
        assert!(archive("w.pt", &["w/data.pkl", "w/data/0"]).unwrap().contains("torch.save"));
        assert!(archive("e.pt2", &["e/models/model.json"]).unwrap().contains("torch.export"));
        assert_eq!(archive("s.pt", &["s/data.pkl", "s/constants.pkl", "s/code/__torch__.py"]), None);
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/teachers/linear.pt");
        assert_eq!(other_than_torchscript(&fixture), None);
        assert_eq!(other_than_torchscript(&dir.path().join("none")), None);
        assert!(other_than_torchscript(dir.path()).unwrap().contains("a folder"));
        assert!(other_than_torchscript(&dir.path().join("s.onnx")).unwrap().contains("ONNX"));
    }

    #[test]
    fn the_trace_and_the_source_are_left_out() {
        let script = "The following operation failed in the TorchScript interpreter.\n\
            Traceback of TorchScript (most recent call last):\n  File \"net.py\", line 3\n    return x @ w\n\
            RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)\n";
        assert_eq!(
            plain_message(&TchError::Torch(script.into())),
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"
        );
        let plain = "open file failed\nException raised from RAIIFile at file_adapter.cc:27\nframe #0: x\n";
        assert_eq!(plain_message(&TchError::Torch(plain.into())), "Internal torch error: open file failed");
    }
}
