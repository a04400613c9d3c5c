//! How far a pass tears samples apart that lie together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;

/// Samples are visited in blocks of neighbours, the blocks in random order, and the samples of so many blocks as the
/// buffer takes in random order: for caches and datasets that do not fit into memory, whose reads would otherwise be
/// one from here and one from there. The next buffer is read while the samples of one are in use: twice what it takes
/// in the cache should fit into a quarter of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShuffleConfig {
    /// Samples that are read one after another.
    #[serde(default = "default_block")]
    #[schemars(range(min = 1))]
    pub block: u64,
    /// Samples that are mixed at a time, a multiple of the block.
    #[serde(default = "default_buffer")]
    #[schemars(range(min = 1))]
    pub buffer: u64,
}

fn default_block() -> u64 {
    4096
}

fn default_buffer() -> u64 {
    64 * default_block()
}

impl ShuffleConfig {
    pub(super) fn validate(self) -> Option<Fault> {
        let Self { block, buffer } = self;
        let fits = block > 0 && buffer > 0 && buffer.is_multiple_of(block);
        (!fits).then(|| {
            let problem = format!("expected a multiple of train.shuffle.block, {block}; found {buffer}");
            Fault::new("train.shuffle.buffer", problem)
        })
    }
}
