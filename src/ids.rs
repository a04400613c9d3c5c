//! Names the numbers that are easily confused: which sample, which view of it, which shard.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The stable identity of a sample in its dataset, whatever the order of iteration.
///
/// For IDX files it is the sample's index in the file, from 0; in a folder its place in the order of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SampleId(pub u64);

impl fmt::Display for SampleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One view of a sample: what a row of a cache is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleView {
    /// The sample.
    pub sample: SampleId,
    /// Which of its augmentation views, from 0; 0 where there is one.
    pub view: u16,
}

/// One prediction of a teacher: a position of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The row.
    pub row: SampleView,
    /// Which of its positions, from 0; 0 where samples have one.
    pub position: u32,
}

/// The position of a shard in the manifest, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardIndex(pub u32);

impl ShardIndex {
    /// The shard's index as a position in a slice.
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
