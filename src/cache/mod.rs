//! The cache on disk: the only place that knows file names, columns and bytes.
//!
//! ```text
//! my-cache/
//! ├── manifest.json          the commit point: written last, atomically
//! ├── tail_model.arrow       per node, a log-weight for every class (absent when k = classes)
//! ├── shards/00000.arrow …   Arrow IPC files, one record batch each
//! └── build/                 while a build is unfinished: plan.json, encoder.arrow, shards.jsonl, lock
//! ```
//!
//! Writer and reader never see each other: they agree through [`mod@format`], [`Manifest`] and the
//! journal. The written specification is `schemas/format-v1.md` with `format-v2.md`, and
//! `tests/golden.rs` holds both to it.

pub mod format;

mod durable;
mod error;
mod ipc;
mod journal;
mod lock;
mod manifest;
mod reader;
mod tail_file;
mod writer;

pub use error::CacheError;
pub use lock::WriterLock;
pub use manifest::{
    DatasetIdentity, FileEntry, HeadLayout, Manifest, PreprocessIdentity, ShardEntry, StorageLayout,
    TailLayout, TeacherIdentity,
};
pub use reader::{CacheReader, ShardReader, read_manifest, read_tail_model};
pub use tail_file::EncoderTable;
pub use writer::{CacheWriter, Found, ShardRows};
