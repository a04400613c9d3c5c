//! The cache on disk: the only place that knows file names, columns and bytes.
//!
//! ```text
//! my-cache/
//! ├── manifest.json          the commit point: written last, atomically
//! ├── tail_model.arrow       per node, a log-weight for every class (absent when k = classes)
//! ├── encoder.arrow          what gave positions their tail codes (absent for rank 0)
//! ├── codebook.arrow         codes of quantized positions
//! ├── shards/00000.arrow …   Arrow IPC files, one record batch each, or .parquet
//! └── build/                 while a build is unfinished: plan.json, shards.jsonl, lock
//! ```
//!
//! Writer and reader never see each other: they agree through [`mod@format`], [`Manifest`] and the
//! journal. The written specification is `schemas/format-v1.md` with `format-v2.md`,
//! `format-v3.md`, `format-v4.md` and `format-v5.md`, and `tests/golden.rs` holds both to it.

pub mod format;

mod codebook_file;
mod columns;
mod contents;
mod durable;
mod error;
mod feature_read;
mod features;
mod halves;
mod identity;
mod ipc;
mod journal;
mod lock;
mod manifest;
mod parquet_file;
mod parts;
mod read_ahead;
mod reader;
mod shard_encode;
mod shard_read;
mod tail_file;
mod target_columns;
mod writer;

pub use codebook_file::{Coding, measure_shard};
pub use columns::{ShardColumns, ShardLayout, curve_type, head_name, head_type};
pub use error::CacheError;
pub use features::{FEATURE_OVERHEAD_BYTES, FeatureLayout};
pub use identity::{
    AugmentIdentity, DatasetIdentity, PreprocessIdentity, TeacherIdentity, TeacherRun, TokensIdentity,
};
pub use lock::WriterLock;
pub use manifest::{FileEntry, HeadLayout, Manifest, ShardEntry, StorageLayout, TailLayout};
pub use read_ahead::Wanted;
pub use reader::{CacheReader, read_encoder, read_manifest, read_tail_model};
pub use shard_encode::{ShardRows, TokenRow};
pub use shard_read::ShardReader;
pub use tail_file::EncoderTable;
pub use writer::{Beginnings, CacheWriter, Found};
