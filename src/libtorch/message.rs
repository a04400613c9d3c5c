//! libtorch's errors for people.

use tch::TchError;

/// The line of an error that says what is wrong.
///
/// libtorch's messages end in a C++ stack trace, and TorchScript's begin with the Python source:
/// the telling line is the last one with `Error: ` before the trace.
pub fn plain_message(error: &TchError) -> String {
    let text = error.to_string();
    let plain = text.split("Exception raised from").next().unwrap_or(&text);
    let lines = || plain.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = lines().rfind(|line| line.contains("Error: "));
    telling.or_else(|| lines().next()).unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
