//! The columns of a shard.
//!
//! Every shard has one row per sample and view, in rising order of `(sample_id, view)`, and begins with
//!
//! | column | type | |
//! |---|---|---|
//! | `sample_id` | uint64 | the sample in its dataset |
//! | `view` | uint16 | augmentation view; 0 when there is one |
//! | `label` | uint32 | hard label; absent when the dataset has none |
//! | `tokens` | `list<uint8, uint16 or uint32>` | what was predicted on, a position each; token datasets only |
//! | `documents` | `list<uint32>` | where documents begin among the tokens; token datasets only |
//!
//! The targets follow in one of three layouts ([`ShardLayout`]). In `Fixed`, a row has one position:
//!
//! | column | type | |
//! |---|---|---|
//! | `head_ids` | `fixed_size_list<uint8, uint16 or uint32>[k]` | classes by falling logit |
//! | `head_values` | `fixed_size_list<float16 or float32>[k]` | logit − largest logit |
//! | `tail_curve` | `fixed_size_list<float16 or float32>[nodes]` | g(β) in nats; absent when k = classes |
//! | `tail_code` | `fixed_size_list<int8>[rank]` | the tail's code; absent when rank = 0 |
//!
//! `Lists` has the same columns as lists of what all positions of the row have, one after another, and
//! first `head_counts`, `list<uint16>`, where heads differ in size; quantized logits are uint16 (steps
//! below the largest), quantized curves int16 (steps). `Packed` has one column `targets`, `binary`, as
//! [`crate::encoding::Codebook::pack`] writes it. Sampled targets (version 4) have `head_draws`, uint16, how often
//! each class was drawn, where others have `head_values`, and no curves.
//!
//! Features of the teacher (version 5) stand after all these, in columns that do not depend on the layout:
//! [`FeatureLayout`] has them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::features::{FEATURE_OVERHEAD_BYTES, FeatureLayout};
use super::format::{
    DOCUMENTS, FILE_OVERHEAD_BYTES, HEAD_COUNTS, HEAD_DRAWS, HEAD_IDS, HEAD_VALUES, IdType, LABEL, SAMPLE_ID,
    TAIL_CODE, TAIL_CURVE, TARGETS, TOKENS, VIEW, item_field, list_of, row_bytes,
};
use crate::config::{StorageForm, ValueEncoding};

/// How a shard's targets lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardLayout {
    /// Columns of fixed width, a position a row (versions 1 and 2).
    Fixed,
    /// Columns of lists (version 3).
    Lists,
    /// One column of bits (version 3).
    Packed,
}

/// What decides a shard's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardColumns {
    /// The form of its file.
    pub form: StorageForm,
    /// Head size, the largest where they differ.
    pub k: usize,
    /// Whether heads differ in size.
    pub variable: bool,
    /// Nodes per curve, 0 without a tail.
    pub nodes: usize,
    /// Numbers per tail code, 0 without codes.
    pub rank: usize,
    /// Integer of the class ids.
    pub ids: IdType,
    /// What logits and curves are.
    pub values: ValueEncoding,
    /// Whether there are labels.
    pub labelled: bool,
    /// Integer of the tokens, where rows are made of them; a row then has a position for each.
    pub tokens: Option<IdType>,
    /// What else is kept of the teacher.
    pub features: Vec<FeatureLayout>,
}

impl ShardColumns {
    /// How the targets lie.
    pub fn layout(&self) -> ShardLayout {
        match (self.form, self.values) {
            (StorageForm::Parquet, _) => ShardLayout::Lists,
            (StorageForm::Arrow, ValueEncoding::Quantized | ValueEncoding::Counts) => ShardLayout::Packed,
            _ if self.variable || self.tokens.is_some() => ShardLayout::Lists,
            _ => ShardLayout::Fixed,
        }
    }

    /// Numbers that are kept of a position, codes and features among them.
    pub fn numbers(&self) -> u64 {
        let of_features: usize = self.features.iter().map(|feature| feature.width).sum();
        let of_draws = if self.values == ValueEncoding::Counts { 0 } else { self.nodes };
        (2 * self.k + of_draws + self.rank + of_features) as u64
    }

    /// Positions for which a shard is certain to have room: where its columns are lists, 32 bits say where one begins.
    pub fn most_positions(&self) -> u64 {
        let of_targets = match self.layout() {
            ShardLayout::Fixed | ShardLayout::Packed => 0,
            ShardLayout::Lists => self.k.max(self.nodes).max(self.rank),
        };
        let of_features = self.features.iter().map(|feature| feature.width).filter(|_| self.tokens.is_some());
        let widest = of_features.fold(of_targets, usize::max);
        if widest == 0 && self.tokens.is_none() { u64::MAX } else { i32::MAX as u64 / widest.max(1) as u64 }
    }

    /// The Arrow schema of a shard.
    pub fn schema(&self) -> SchemaRef {
        let field = |name: &str, data_type: DataType| Field::new(name, data_type, false);
        let list = |name: &str, item: DataType| field(name, DataType::List(item_field(item)));
        let mut fields = vec![field(SAMPLE_ID, DataType::UInt64), field(VIEW, DataType::UInt16)];
        if self.labelled {
            fields.push(field(LABEL, DataType::UInt32));
        }
        if let Some(tokens) = self.tokens {
            fields.push(list(TOKENS, tokens.data_type()));
            fields.push(list(DOCUMENTS, DataType::UInt32));
        }
        let layout = self.layout();
        let features = self.features.iter().flat_map(|feature| feature.fields(self.tokens.is_some()));
        if layout == ShardLayout::Packed {
            fields.push(field(TARGETS, DataType::Binary));
            fields.extend(features);
            return Arc::new(Schema::new(fields));
        }
        if self.variable {
            fields.push(list(HEAD_COUNTS, DataType::UInt16));
        }
        let mut part = |name: &str, item: DataType, per_position: usize| match layout {
            _ if per_position == 0 => {}
            ShardLayout::Fixed => fields.push(field(name, list_of(item, per_position))),
            _ => fields.push(list(name, item)),
        };
        part(HEAD_IDS, self.ids.data_type(), self.k);
        part(head_name(self.values), head_type(self.values), self.k);
        part(TAIL_CURVE, curve_type(self.values), self.nodes);
        part(TAIL_CODE, DataType::Int8, self.rank);
        fields.extend(features);
        Arc::new(Schema::new(fields))
    }

    /// What one row takes in each column, by the column's name, in the order of the schema; `None` where
    /// that differs from row to row.
    ///
    /// # Units
    /// Bytes. Buffers are of fixed width, and columns without nulls have no validity: a column of
    /// `n` rows takes `n` times as much, whatever is in it.
    pub fn column_bytes(&self) -> Option<Vec<(String, u64)>> {
        if self.layout() != ShardLayout::Fixed {
            return None;
        }
        let schema = self.schema();
        let bytes = schema.fields().iter().map(|field| (field.name().clone(), row_bytes(field.data_type())));
        Some(bytes.collect())
    }

    /// What one row takes in all columns together; `None` where that differs from row to row.
    ///
    /// # Units
    /// Bytes. A shard of `n` rows is larger than `n` times as much by at most [`Self::overhead_bytes`], as a test holds
    /// it to.
    pub fn bytes_per_row(&self) -> Option<u64> {
        let columns = self.column_bytes()?;
        Some(columns.iter().map(|(_, bytes)| bytes).fold(0, |sum, bytes| sum.saturating_add(*bytes)))
    }
}

impl ShardColumns {
    /// What a file takes beside its rows, at most.
    ///
    /// # Units
    /// Bytes.
    pub fn overhead_bytes(&self) -> u64 {
        let features = FEATURE_OVERHEAD_BYTES.saturating_mul(self.features.len() as u64);
        FILE_OVERHEAD_BYTES.saturating_add(features)
    }
}

/// The column of head logits, or of what stands for them.
pub fn head_name(values: ValueEncoding) -> &'static str {
    match values {
        ValueEncoding::F16 | ValueEncoding::F32 | ValueEncoding::Quantized => HEAD_VALUES,
        ValueEncoding::Counts => HEAD_DRAWS,
    }
}

/// The Arrow type of head logits.
pub fn head_type(values: ValueEncoding) -> DataType {
    match values {
        ValueEncoding::F16 => DataType::Float16,
        ValueEncoding::F32 => DataType::Float32,
        ValueEncoding::Quantized | ValueEncoding::Counts => DataType::UInt16,
    }
}

/// The Arrow type of tail curves.
pub fn curve_type(values: ValueEncoding) -> DataType {
    match values {
        ValueEncoding::Quantized => DataType::Int16,
        floats => head_type(floats),
    }
}
