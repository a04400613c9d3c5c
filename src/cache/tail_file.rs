//! The files of the tail model: what every reader needs, and what only builds do.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float16Array, Float32Array, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, Float16Type, Float32Type, SchemaRef};
use half::f16;

use super::CacheError;
use super::format::{BASIS, MEAN, PRIOR, SHAPE, WEIGHT, encoder_schema, item_field, tail_schema};
use super::ipc::{encode_batch, read_batch};
use crate::target::{TailModel, TailNodes, TailPrior, TailShape};

/// What gives positions their tail codes, beside the tail shape's basis.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderTable {
    /// `μ`: `[classes]`.
    pub mean: Vec<f32>,
    /// `w`: `[classes]`.
    pub weights: Vec<f32>,
}

/// The tail model's bytes.
pub(super) fn encode(model: &TailModel, path: &Path) -> Result<Vec<u8>, CacheError> {
    let nodes = model.nodes().len();
    let at_nodes = |prior: &TailPrior| -> ArrayRef {
        let classes = 0..model.classes();
        let values = classes.flat_map(|class| (0..nodes).map(move |node| prior.at_node(node)[class]));
        Arc::new(Float32Array::from_iter_values(values))
    };
    let mut columns = vec![(at_nodes(model.prior()), nodes)];
    if let Some(shape) = model.shape() {
        columns.push((at_nodes(shape.base()), nodes));
        let basis = shape.basis().iter().map(|d| f16::from_f32(*d));
        columns.push((Arc::new(Float16Array::from_iter_values(basis)), shape.rank()));
    }
    encode_lists(tail_schema(nodes, model.rank()), columns, path)
}

/// Reads the tail model.
pub(super) fn read(
    path: &Path,
    nodes: &TailNodes,
    classes: usize,
    rank: usize,
) -> Result<TailModel, CacheError> {
    let table = Table::open(path, &tail_schema(nodes.len(), rank), classes)?;
    let prior = |name: &'static str| {
        let values = table.list::<Float32Type>(name, nodes.len())?;
        let by_node = (0..nodes.len())
            .flat_map(|node| (0..classes).map(move |class| (class, node)))
            .map(|(class, node)| values[class * nodes.len() + node])
            .collect();
        TailPrior::new(nodes.clone(), classes, by_node).ok_or_else(|| table.not_finite(name))
    };
    let shape = || {
        let basis = table.list::<Float16Type>(BASIS, rank)?.iter().map(|d| d.to_f32()).collect();
        TailShape::new(prior(SHAPE)?, rank, basis).ok_or_else(|| table.not_finite(BASIS))
    };
    let shape = (rank > 0).then(shape).transpose()?;
    TailModel::new(prior(PRIOR)?, shape).ok_or_else(|| table.not_finite(PRIOR))
}

/// The encoder's bytes.
pub(super) fn encode_encoder(table: &EncoderTable, path: &Path) -> Result<Vec<u8>, CacheError> {
    let floats =
        |values: &[f32]| -> ArrayRef { Arc::new(Float32Array::from_iter_values(values.iter().copied())) };
    encode_lists(encoder_schema(), vec![(floats(&table.mean), 1), (floats(&table.weights), 1)], path)
}

/// Reads the encoder.
pub(super) fn read_encoder(path: &Path, classes: usize) -> Result<EncoderTable, CacheError> {
    let table = Table::open(path, &encoder_schema(), classes)?;
    let floats = |name: &'static str| {
        let values = table.column(name)?.as_primitive_opt::<Float32Type>();
        Ok(values.ok_or_else(|| table.not_finite(name))?.values().to_vec())
    };
    Ok(EncoderTable { mean: floats(MEAN)?, weights: floats(WEIGHT)? })
}

/// A file of the columns of `schema`, each given by its values; lists with how many belong to a row.
pub(super) fn encode_lists(
    schema: SchemaRef,
    columns: Vec<(ArrayRef, usize)>,
    path: &Path,
) -> Result<Vec<u8>, CacheError> {
    let arrow = |source| CacheError::Arrow { path: path.to_owned(), source };
    let array = |((values, per_row), field): ((ArrayRef, usize), &Arc<arrow::datatypes::Field>)| {
        if !field.data_type().is_nested() {
            return Ok(values);
        }
        let len = i32::try_from(per_row).unwrap_or(i32::MAX);
        let item = item_field(values.data_type().clone());
        Ok::<ArrayRef, _>(Arc::new(FixedSizeListArray::try_new(item, len, values, None)?))
    };
    let arrays =
        columns.into_iter().zip(schema.fields()).map(array).collect::<Result<_, _>>().map_err(arrow)?;
    encode_batch(&RecordBatch::try_new(schema, arrays).map_err(arrow)?).map_err(arrow)
}

/// A file of lists of fixed lengths.
pub(super) struct Table<'a> {
    path: &'a Path,
    batch: RecordBatch,
}

impl<'a> Table<'a> {
    /// `rows`: as many as there are classes, or one.
    pub(super) fn open(path: &'a Path, schema: &SchemaRef, rows: usize) -> Result<Self, CacheError> {
        let table = Self { path, batch: read_batch(path, schema)? };
        let found = table.batch.num_rows();
        if found != rows {
            return Err(table.damaged("rows", rows.to_string(), found.to_string()));
        }
        Ok(table)
    }

    fn column(&self, name: &str) -> Result<&ArrayRef, CacheError> {
        let missing = || self.damaged("column", name.to_owned(), "another".into());
        self.batch.column_by_name(name).ok_or_else(missing)
    }

    /// The values of a column of lists of `len`.
    pub(super) fn list<T: ArrowPrimitiveType>(
        &self,
        name: &str,
        len: usize,
    ) -> Result<&[T::Native], CacheError> {
        let values = self.column(name)?.as_fixed_size_list_opt();
        let values =
            values.and_then(|list| list.values().as_primitive_opt::<T>()).map(|values| &values.values()[..]);
        let fits = |values: &&[T::Native]| values.len() == self.batch.num_rows() * len;
        values.filter(fits).ok_or_else(|| self.damaged("column", name.to_owned(), "another".into()))
    }

    fn not_finite(&self, name: &str) -> CacheError {
        self.damaged(name, "finite numbers".into(), "NaN or infinite ones".into())
    }

    fn damaged(&self, what: &str, expected: String, found: String) -> CacheError {
        CacheError::Damaged { path: self.path.to_owned(), what: what.to_owned(), expected, found }
    }
}
