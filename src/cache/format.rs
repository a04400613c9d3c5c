//! Names and columns: everything that writer and reader must agree on, and that may never change
//! within a format version.
//!
//! What columns a shard has is said by [`ShardColumns`](super::ShardColumns).
//!
//! `tail_model.arrow` is an Arrow IPC *file* with one record batch and no compression, one row per class:
//!
//! | column | type | |
//! |---|---|---|
//! | `prior` | `fixed_size_list<float32>[nodes]` | log-weight b_β of the class at each node |
//! | `shape` | `fixed_size_list<float32>[nodes]` | the same for code 0 of the shape; absent when rank = 0 |
//! | `basis` | `fixed_size_list<float16>[rank]` | logits per unit of code; absent when rank = 0 |

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::StorageForm;
use crate::ids::ShardIndex;

/// What `format` says in every manifest.
pub const FORMAT: &str = "kd-cache";
/// The oldest version that this build reads.
pub const OLDEST_FORMAT_VERSION: u32 = 1;
/// The newest version that this build reads.
pub const FORMAT_VERSION: u32 = 5;
/// The commit point.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The tail prior.
pub const TAIL_MODEL_FILE: &str = "tail_model.arrow";
/// The codes of quantized positions.
pub const CODEBOOK_FILE: &str = "codebook.arrow";
/// The shards' folder.
pub const SHARDS_FOLDER: &str = "shards";
/// There while a build is unfinished.
pub const BUILD_FOLDER: &str = "build";
/// In the build folder: the manifest as it will be, without shards.
pub const PLAN_FILE: &str = "plan.json";
/// In the build folder: one line per committed shard.
pub const JOURNAL_FILE: &str = "shards.jsonl";
/// In the build folder: the manifest of a whole cache of which shards were lost, until they are made again.
pub const FORMER_FILE: &str = "former.json";
/// What gave positions their tail codes.
pub const ENCODER_FILE: &str = "encoder.arrow";
/// In the build folder: the sample's logits while the tail model is fitted.
pub const SAMPLE_FILE: &str = "sample.f16";
/// In the build folder: locked by the writer.
pub const LOCK_FILE: &str = "lock";

/// Column of sample ids.
pub const SAMPLE_ID: &str = "sample_id";
/// Column of views.
pub const VIEW: &str = "view";
/// Column of labels.
pub const LABEL: &str = "label";
/// Column of head ids.
pub const HEAD_IDS: &str = "head_ids";
/// Column of head values.
pub const HEAD_VALUES: &str = "head_values";
/// Column of numbers of draws (version 4).
pub const HEAD_DRAWS: &str = "head_draws";
/// Column of tail curves.
pub const TAIL_CURVE: &str = "tail_curve";
/// Column of tail codes.
pub const TAIL_CODE: &str = "tail_code";
/// Column of packed positions (version 3).
pub const TARGETS: &str = "targets";
/// Column of head sizes (version 3).
pub const HEAD_COUNTS: &str = "head_counts";
/// Column of tokens (version 3).
pub const TOKENS: &str = "tokens";
/// Column of the places at which documents begin (version 3).
pub const DOCUMENTS: &str = "documents";
/// Column of the tail model's log-weights.
pub const PRIOR: &str = "prior";
/// Column of the tail shape's log-weights for code 0.
pub const SHAPE: &str = "shape";
/// Column of the tail shape's directions.
pub const BASIS: &str = "basis";
/// Column of the encoder's means.
pub const MEAN: &str = "mean";
/// Column of the encoder's weights.
pub const WEIGHT: &str = "weight";
/// Column of the codebook's order of classes.
pub const ORDER: &str = "order";
/// Columns of the codebook's code lengths.
pub const CODE_TABLES: [&str; 5] = ["ids", "falls", "curve", "tail_codes", "counts"];
/// The inner field of every list.
pub const ITEM: &str = "item";

/// What a file of one record batch takes beside its rows: schema, footer and metadata, and what
/// pads each buffer to 64 bytes. An upper bound that holds for every column a cache can have but those of features
/// ([`ShardColumns::overhead_bytes`](super::ShardColumns::overhead_bytes)).
pub const FILE_OVERHEAD_BYTES: u64 = 2560;

/// The path of a shard inside a cache.
pub fn shard_file(shard: ShardIndex, form: StorageForm) -> String {
    let extension = match form {
        StorageForm::Arrow => "arrow",
        StorageForm::Parquet => "parquet",
    };
    format!("{SHARDS_FOLDER}/{:05}.{extension}", shard.0)
}

/// The integer that holds class ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdType {
    /// Up to 256 classes.
    U8,
    /// Up to 65,536 classes.
    U16,
    /// More.
    U32,
}

impl IdType {
    /// The smallest that holds ids below `classes`.
    pub fn for_classes(classes: usize) -> Self {
        match classes {
            0..=0x100 => Self::U8,
            0x101..=0x1_0000 => Self::U16,
            _ => Self::U32,
        }
    }

    /// The Arrow type.
    pub fn data_type(self) -> DataType {
        match self {
            Self::U8 => DataType::UInt8,
            Self::U16 => DataType::UInt16,
            Self::U32 => DataType::UInt32,
        }
    }
}

/// Bytes of tail model and encoder: one row per class, and what the files take beside them.
pub fn tail_model_bytes(classes: usize, nodes: usize, rank: usize) -> u64 {
    let file = |schema: SchemaRef| {
        let row: u64 = schema.fields().iter().map(|field| row_bytes(field.data_type())).sum();
        row.saturating_mul(classes as u64).saturating_add(FILE_OVERHEAD_BYTES)
    };
    let encoder = if rank > 0 { file(encoder_schema()) } else { 0 };
    file(tail_schema(nodes, rank)).saturating_add(encoder)
}

/// Bytes of one value of a column.
pub(super) fn row_bytes(column: &DataType) -> u64 {
    match column {
        DataType::FixedSizeList(item, len) => {
            u64::try_from(*len).unwrap_or(0).saturating_mul(row_bytes(item.data_type()))
        }
        // Every other column is of a type with a width.
        other => other.primitive_width().unwrap_or(0) as u64,
    }
}

/// The Arrow schema of the tail model.
pub fn tail_schema(nodes: usize, rank: usize) -> SchemaRef {
    let at_nodes = |name: &str| Field::new(name, list_of(DataType::Float32, nodes), false);
    let mut fields = vec![at_nodes(PRIOR)];
    if rank > 0 {
        fields.push(at_nodes(SHAPE));
        fields.push(Field::new(BASIS, list_of(DataType::Float16, rank), false));
    }
    Arc::new(Schema::new(fields))
}

/// The Arrow schema of the encoder.
pub fn encoder_schema() -> SchemaRef {
    let float = |name: &str| Field::new(name, DataType::Float32, false);
    Arc::new(Schema::new(vec![float(MEAN), float(WEIGHT)]))
}

/// The Arrow schema of the codebook, which has one row: each table is one list.
pub fn codebook_schema(classes: usize, sizes: [usize; 5]) -> SchemaRef {
    let lengths = CODE_TABLES.iter().zip(sizes).filter(|(_, size)| *size > 0);
    let lengths = lengths.map(|(name, size)| Field::new(*name, list_of(DataType::UInt8, size), false));
    let order = Field::new(ORDER, list_of(DataType::UInt32, classes), false);
    Arc::new(Schema::new(std::iter::once(order).chain(lengths).collect::<Vec<_>>()))
}

/// The inner field of a list.
pub fn item_field(item: DataType) -> Arc<Field> {
    Arc::new(Field::new(ITEM, item, false))
}

/// Lists of `len` items each.
pub(super) fn list_of(item: DataType, len: usize) -> DataType {
    // k is at most the number of classes and nodes at most 16; Arrow counts lists in i32.
    DataType::FixedSizeList(item_field(item), i32::try_from(len).unwrap_or(i32::MAX))
}
