//! Ctrl-C: the first asks the work to stop where it can be resumed, the second ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use super::tell;

/// Exit code of interrupted work, as shells give it for Ctrl-C.
pub const INTERRUPTED: u8 = 130;

static STOP: AtomicBool = AtomicBool::new(false);

/// Catches Ctrl-C, SIGTERM and SIGHUP, and gives the flag that the first one sets.
pub fn on_interrupt() -> anyhow::Result<&'static AtomicBool> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            // Nothing is tidied up: libraries would be taken from under threads that still run in them.
            signal_hook::low_level::exit(i32::from(INTERRUPTED));
        }
        // Whoever reads it may have been stopped with us; a second signal still has to be caught.
        tell("stopping; once more to stop at once");
    })
    .context("cannot catch Ctrl-C")?;
    Ok(&STOP)
}
