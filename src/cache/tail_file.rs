//! The tail model's file.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Float32Type};

use super::CacheError;
use super::format::{PRIOR, item_field, tail_schema};
use super::ipc::{encode_batch, read_batch};
use crate::target::{TailNodes, TailPrior};

/// The file's bytes.
pub(super) fn encode(prior: &TailPrior, path: &Path) -> Result<Vec<u8>, CacheError> {
    let arrow = |source| CacheError::Arrow { path: path.to_owned(), source };
    let nodes = prior.nodes().len();
    let mut values = Vec::with_capacity(nodes * prior.classes());
    for class in 0..prior.classes() {
        values.extend((0..nodes).map(|node| prior.at_node(node)[class]));
    }
    let column = FixedSizeListArray::try_new(
        item_field(DataType::Float32),
        i32::try_from(nodes).unwrap_or(i32::MAX),
        Arc::new(Float32Array::from(values)),
        None,
    )
    .map_err(arrow)?;
    let batch = RecordBatch::try_new(tail_schema(nodes), vec![Arc::new(column)]).map_err(arrow)?;
    encode_batch(&batch).map_err(arrow)
}

/// Reads the file.
pub(super) fn read(path: &Path, nodes: &TailNodes, classes: usize) -> Result<TailPrior, CacheError> {
    let batch = read_batch(path, &tail_schema(nodes.len()))?;
    let damaged = |what: &str, expected: String, found: String| CacheError::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
        expected,
        found,
    };
    if batch.num_rows() != classes {
        return Err(damaged("rows", format!("{classes}, one per class"), batch.num_rows().to_string()));
    }
    let column = batch.column_by_name(PRIOR).and_then(|column| column.as_fixed_size_list_opt());
    let values = column.and_then(|column| column.values().as_primitive_opt::<Float32Type>().cloned());
    let Some(values) = values.filter(|values| values.len() == classes * nodes.len()) else {
        return Err(damaged("column", PRIOR.into(), "another".into()));
    };
    let by_node = (0..nodes.len())
        .flat_map(|node| (0..classes).map(move |class| (class, node)))
        .map(|(class, node)| values.value(class * nodes.len() + node))
        .collect();
    TailPrior::new(nodes.clone(), classes, by_node)
        .ok_or_else(|| damaged("prior", "finite log-weights".into(), "NaN or infinite ones".into()))
}
