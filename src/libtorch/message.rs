//! libtorch's errors for people.

use std::any::Any;

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
