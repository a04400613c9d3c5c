//! What each column of a cache costs.

use schemars::JsonSchema;
use serde::Serialize;

use crate::cache::Manifest;

/// The tail model's part in a [`SizeReport`].
const TAIL_MODEL: &str = "tail_model";
/// The part of everything that is no row.
const FRAMING: &str = "framing";

/// One part of a cache's size.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ColumnSize {
    /// The column; `tail_model` for its file, `framing` for the shards' schemas, footers and
    /// padding.
    pub column: String,
    /// Bytes in all shards.
    pub bytes: u64,
    /// The same per position.
    pub bytes_per_position: f64,
    /// The same as a share of the whole, from 0 to 1.
    pub share: f64,
}

/// Where a cache's bytes are.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SizeReport {
    /// The parts, in the order of the schema.
    pub columns: Vec<ColumnSize>,
    /// Bytes of shards and tail model.
    pub bytes: u64,
}

impl SizeReport {
    /// Rows from the manifest, widths from the columns' types, the rest from the files' sizes.
    pub(super) fn of_manifest(manifest: &Manifest) -> Self {
        let positions = manifest.shards.iter().map(|shard| shard.rows).fold(0, u64::saturating_add);
        let bytes = manifest.bytes();
        let part = |column: String, part: u64| ColumnSize {
            column,
            bytes: part,
            bytes_per_position: part as f64 / positions.max(1) as f64,
            share: part as f64 / bytes.max(1) as f64,
        };
        let widths = manifest.columns().column_bytes();
        let mut columns: Vec<ColumnSize> =
            widths.into_iter().map(|(name, width)| part(name, width.saturating_mul(positions))).collect();
        let rows = columns.iter().map(|column| column.bytes).fold(0, u64::saturating_add);
        let model = manifest.tail.model.as_ref().map_or(0, |file| file.bytes);
        if model > 0 {
            columns.push(part(TAIL_MODEL.into(), model));
        }
        // A stranger's manifest may say anything: no part is below nothing.
        columns.push(part(FRAMING.into(), bytes.saturating_sub(rows).saturating_sub(model)));
        Self { columns, bytes }
    }
}
