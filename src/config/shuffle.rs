//! How far a pass tears samples apart that lie together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;

/// Samples are visited in blocks of neighbours, the blocks in random order, and the samples of so many blocks as the
/// buffer takes in random order: for caches and datasets that do not fit into memory, whose reads would otherwise be
/// one from here and one from there. What caches in Arrow hold of the next buffer is read while the samples of one are in
/// use; twice what a buffer takes should fit into a quarter of the memory. A dataset's files are read as they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShuffleConfig {
    /// Samples that are read one after another.
    #[serde(default = "default_block")]
    #[schemars(range(min = 1))]
    pub block: u64,
    /// Samples that are mixed at a time, a multiple of the block; default: 64 blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub buffer: Option<u64>,
}

fn default_block() -> u64 {
    4096
}

/// Blocks of a buffer unless it is given.
const BLOCKS: u64 = 64;

impl ShuffleConfig {
    /// Samples that are mixed at a time.
    pub fn buffer(self) -> u64 {
        self.buffer.unwrap_or(self.block.saturating_mul(BLOCKS))
    }

    pub(super) fn validate(self) -> Option<Fault> {
        let Self { block, buffer: Some(buffer) } = self else { return None };
        let fits = block > 0 && buffer > 0 && buffer.is_multiple_of(block);
        (!fits).then(|| {
            let problem = format!("expected a multiple of train.shuffle.block, {block}; found {buffer}");
            Fault::new("train.shuffle.buffer", problem)
        })
    }
}
