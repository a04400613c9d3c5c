//! What both programs share at the terminal: progress, interruption, output, errors.

mod config;
mod output;
mod progress;
mod stop;

pub use config::{PrintConfigArgs, print_config};
pub use output::{Format, fail, print, print_json};
pub use progress::Terminal;
pub use stop::{INTERRUPTED, on_interrupt};
