//! A program from its words to its exit code.

use std::process::ExitCode;

use super::output::fail;

/// Gives the exit code of `work`, whose error is told. So is a failure of libtorch's for which its bindings panic; `room` is how to get by
/// with less memory, where that is what it wants for.
#[cfg(feature = "torch")]
pub fn run(room: &str, work: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    use std::panic;

    use kd_cache::libtorch::panicked;

    outlive_limits();
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if panicked(panic.payload()).is_none() {
            usual(panic);
        }
    }));
    let done = panic::catch_unwind(panic::AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let Some(problem) = panicked(&*payload) else { panic::resume_unwind(payload) };
        let wants_memory = ["out of memory", "allocate memory"].iter().any(|words| problem.contains(words));
        let way_out = if wants_memory { format!("; {room}") } else { String::new() };
        Err(anyhow::anyhow!("libtorch: {problem}{way_out}"))
    });
    done.unwrap_or_else(|error| fail(&error))
}

/// Gives the exit code of `work`, whose error is told.
#[cfg(not(feature = "torch"))]
pub fn run(_: &str, work: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    outlive_limits();
    work().unwrap_or_else(|error| fail(&error))
}

/// A file that grows beyond the largest allowed (`ulimit -f`) is an error of the write like any other, and no end without a word.
fn outlive_limits() {
    #[cfg(unix)]
    {
        let caught = std::sync::Arc::default();
        // Where it cannot be caught, it is as it always was.
        _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, caught);
    }
}
