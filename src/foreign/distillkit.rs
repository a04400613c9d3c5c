//! DistillKit's captures: Parquet rows of `input_ids` and, for each token but the first, what was said before it.

use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, UInt8Type, UInt32Type};

use super::codec::Codec;
use super::parquet::{format_error, list_of, lists, open};
use super::{ForeignError, ForeignRow, ForeignRows, Place};

const TOKENS: &str = "input_ids";
const PACKED: [&str; 3] = [TOKENS, "bytepacked_indices", "compressed_logprobs"];
const RAW: [&str; 3] = [TOKENS, "token_ids", "top_values"];

pub(super) fn rows<'a>(path: &'a Path, codec: Option<&'a Codec>) -> Result<ForeignRows<'a>, ForeignError> {
    let (set, batches) = open(path, &[&PACKED, &RAW])?;
    let codec = match (set, codec) {
        (0, None) => {
            let found = "none beside it; give one with --compression-config".into();
            return Err(format_error(path, "a compression_config.yaml", found));
        }
        (0, codec) => codec,
        _ => None,
    };
    let mut first = 0;
    Ok(Box::new(batches.flat_map(move |batch| {
        let read = batch
            .map_err(|error| format_error(path, "rows of Parquet", error.to_string()))
            .and_then(|batch| rows_of(path, &batch, first, codec).map(|rows| (batch.num_rows(), rows)));
        match read {
            Ok((count, rows)) => {
                first += count;
                rows
            }
            Err(error) => vec![Err(error)],
        }
    })))
}

fn rows_of(
    path: &Path,
    batch: &RecordBatch,
    first: usize,
    codec: Option<&Codec>,
) -> Result<Vec<Result<ForeignRow, ForeignError>>, ForeignError> {
    let tokens = lists(path, batch, TOKENS, DataType::UInt32)?;
    let (names, item, value) = match codec {
        Some(_) => (PACKED, DataType::UInt8, DataType::UInt8),
        None => (RAW, DataType::UInt32, DataType::Float32),
    };
    let ids = lists(path, batch, names[1], list_of(item))?;
    let values = lists(path, batch, names[2], list_of(value))?;
    let row = |at: usize| {
        let tokens = tokens.value(at).as_primitive::<UInt32Type>().values().to_vec();
        let (ids, values) = (ids.value(at), values.value(at));
        let (ids, values) = (ids.as_list::<i64>(), values.as_list::<i64>());
        let mut row = ForeignRow::new(Place::new(path, format!("row {}", first + at)));
        if ids.len() != values.len() {
            return Err(row.place.wrong(format!(
                "{} lists of ids and {} of values",
                ids.len(),
                values.len()
            )));
        }
        for position in 0..ids.len() {
            let (ids, values) = (ids.value(position), values.value(position));
            if codec.is_none() && ids.len() != values.len() {
                let problem = format!("{} ids and {} values", ids.len(), values.len());
                return Err(row.place.wrong_at(position, &problem));
            }
            let entry = match codec {
                Some(codec) => {
                    let (ids, values) = (ids.as_primitive::<UInt8Type>(), values.as_primitive::<UInt8Type>());
                    codec.decode(ids.values(), values.values())
                }
                None => {
                    let ids = ids.as_primitive::<UInt32Type>().values().iter().copied();
                    Ok(ids.zip(values.as_primitive::<Float32Type>().values().iter().copied()).collect())
                }
            };
            row.push(entry.map_err(|problem| row.place.wrong_at(position, &problem))?);
        }
        row.close(tokens)
    };
    Ok((0..batch.num_rows()).map(row).collect())
}
