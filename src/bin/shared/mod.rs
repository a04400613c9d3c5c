//! What both programs share: progress, interruption, output and errors at the terminal; markup and words of pages.

mod config;
mod markup;
mod output;
mod progress;
mod run;
mod stop;
mod words;

pub use config::{PrintConfigArgs, print_config};
pub use markup::Markup;
pub use output::{Format, print, print_json, tell, write};
pub use progress::Terminal;
pub use run::run;
pub use stop::{INTERRUPTED, on_interrupt};
pub use words::trimmed;
