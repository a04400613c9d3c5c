//! Event files, as TensorBoard reads them.
//!
//! A file is a row of records (`record`), each an `Event` in protocol buffers (`event`): the version first, then
//! one for each line of the run. Of the messages of TensorFlow's `event.proto` and `summary.proto` only the few fields
//! that are needed are written, by hand.

mod event;
mod file;
mod record;

pub use file::EventFile;
