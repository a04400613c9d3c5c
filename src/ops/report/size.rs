//! What each column of a cache costs.

use schemars::JsonSchema;
use serde::Serialize;

use crate::cache::{CacheError, CacheReader};

/// The tail model's part in a [`SizeReport`].
const TAIL_MODEL: &str = "tail_model";
/// The encoder's part.
const ENCODER: &str = "encoder";
/// The codebook's part.
const CODEBOOK: &str = "codebook";
/// The part of everything that is no row.
const FRAMING: &str = "framing";

/// One part of a cache's size.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ColumnSize {
    /// The column; `tail_model`, `encoder` and `codebook` for their files, `framing` for the shards'
    /// schemas, footers and padding.
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
    /// Bytes of shards and of the files beside them.
    pub bytes: u64,
}

impl SizeReport {
    /// Columns from what is in the shards, the rest from the files' sizes.
    pub(super) fn of_reader(reader: &CacheReader) -> Result<Self, CacheError> {
        let manifest = reader.manifest();
        let positions = manifest.committed_positions();
        let bytes = manifest.bytes();
        let part = |column: String, part: u64| ColumnSize {
            column,
            bytes: part,
            bytes_per_position: part as f64 / positions.max(1) as f64,
            share: part as f64 / bytes.max(1) as f64,
        };
        let widths = reader.column_bytes()?;
        let mut columns: Vec<ColumnSize> =
            widths.into_iter().map(|(name, bytes)| part(name, bytes)).collect();
        let rows = columns.iter().map(|column| column.bytes).fold(0, u64::saturating_add);
        let mut framing = bytes.saturating_sub(rows);
        for (name, file) in [
            (TAIL_MODEL, &manifest.tail.model),
            (ENCODER, &manifest.tail.encoder),
            (CODEBOOK, &manifest.storage.codebook),
        ] {
            if let Some(file) = file {
                columns.push(part(name.into(), file.bytes));
                // A stranger's manifest may say anything: no part is below nothing.
                framing = framing.saturating_sub(file.bytes);
            }
        }
        columns.push(part(FRAMING.into(), framing));
        Ok(Self { columns, bytes })
    }
}
