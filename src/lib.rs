//! Runs a teacher once and keeps its predictions, so that students train without it.
//!
//! Two corridors meet only at the cache on disk; data goes one way:
//!
//! ```text
//! dataset → preprocess → teacher → select → cache::writer ── bytes on disk ── cache::reader → loader → loss → train
//! ```
//!
//! * [`ops::build`] walks the first corridor; `train` (feature `torch`) walks the second.
//! * [`target`] says what a cached prediction means at any temperature; start reading there.
//! * [`cache`] is the format on disk; `schemas/format-v1.md` to `format-v5.md` are its written
//!   specification.
//!
//! A room imports only rooms above it in the list below; `tools/check_layers.py` reads the order
//! from here. (rustfmt sorts what no blank line parts.)

// ── level 0: words ──
pub mod answers;
pub mod causes;
pub mod digest;
pub mod durable;
pub mod ids;
pub mod mapped;
pub mod permutation;
pub mod program;
pub mod vectors;

pub mod floats;
pub mod target;

pub mod config;

// ── level 1: making targets ──
pub mod dataset;
pub mod encoding;
pub mod foreign;
#[cfg(feature = "torch")]
pub mod libtorch;
pub mod preprocess;
pub mod select;
pub mod tail_model;
pub mod teacher;

// ── level 2: the cache on disk ──
pub mod cache;
pub mod ops;

// ── level 3: learning from targets ──
pub mod loader;

#[cfg(feature = "torch")]
pub mod loss;
#[cfg(feature = "torch")]
pub mod student;

#[cfg(feature = "torch")]
pub mod optim;

#[cfg(feature = "torch")]
pub mod metrics;

#[cfg(feature = "torch")]
pub mod checkpoint;

pub mod tracking;

#[cfg(feature = "torch")]
pub mod train;

#[cfg(feature = "torch")]
pub mod sweep;
