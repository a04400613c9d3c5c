//! A student's predictions as Parquet, a row group at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, ListArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use tch::{Device, Kind, Tensor};

use super::TrainError;
use crate::loader::{Batch, Inputs};

/// Rows and bytes of a row group at most: what bounds memory.
const GROUP_ROWS: usize = 1 << 16;
const GROUP_BYTES: usize = 1 << 26;
/// Of zstd.
const LEVEL: i32 = 1;
/// The column of logits, and what its items are called.
const LOGITS: &str = "logits";
const ITEM: &str = "item";

/// What a file of predictions has beside the most probable class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PredictionColumns {
    /// So many of the most probable classes and their probabilities; none for 0.
    pub top: usize,
    /// All logits.
    pub logits: bool,
}

impl PredictionColumns {
    /// What `self` or `other` has.
    pub(super) fn and(self, other: Self) -> Self {
        Self { top: self.top.max(other.top), logits: self.logits || other.logits }
    }
}

/// Writes a file of predictions: a row for each sample, or for each position of a language model.
pub(super) struct PredictionWriter {
    writer: ArrowWriter<File>,
    schema: SchemaRef,
    columns: PredictionColumns,
    labelled: bool,
    path: PathBuf,
    rows: u64,
}

impl PredictionWriter {
    /// Begins the file `path` for predictions of samples that have a label or not, or are rows of tokens.
    pub(super) fn create(
        path: &Path,
        of_tokens: bool,
        labelled: bool,
        columns: PredictionColumns,
    ) -> Result<Self, TrainError> {
        let failed = |source| TrainError::Write { path: path.to_owned(), source };
        let schema = schema(of_tokens, labelled, columns);
        let file = File::create(path).map_err(failed)?;
        let level = ZstdLevel::try_new(LEVEL).map_err(|error| failed(std::io::Error::other(error)))?;
        let logits = ColumnPath::new(vec![LOGITS.into(), "list".into(), ITEM.into()]);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            // No two of them are alike.
            .set_column_dictionary_enabled(logits, false)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            .set_created_by("kd-train".into())
            .build();
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))
            .map_err(|error| failed(std::io::Error::other(error)))?;
        Ok(Self { writer, schema, columns, labelled, path: path.to_owned(), rows: 0 })
    }

    /// Adds the positions of `batch` from `start` on that `logits` are of.
    ///
    /// # Shapes
    /// `logits`: `[positions, classes]`, raw.
    pub(super) fn add(&mut self, batch: &Batch, start: usize, logits: &Tensor) -> Result<(), TrainError> {
        let [rows, classes] = [0, 1].map(|at| logits.size()[at].unsigned_abs() as usize);
        let range = start..start + rows;
        let mut arrays: Vec<ArrayRef> = Vec::new();
        match &batch.inputs {
            Inputs::Images(_) => {
                arrays.push(Arc::new(UInt64Array::from_iter_values(
                    batch.ids[range.clone()].iter().map(|id| id.0),
                )));
            }
            Inputs::Tokens(tokens) => {
                let flat: Vec<usize> =
                    tokens.positions[range.clone()].iter().map(|at| at.unsigned_abs() as usize).collect();
                let samples = flat.iter().map(|at| batch.ids[at / tokens.length.max(1)].0);
                arrays.push(Arc::new(UInt64Array::from_iter_values(samples)));
                let places = flat.iter().map(|at| (at % tokens.length.max(1)) as u32);
                arrays.push(Arc::new(UInt32Array::from_iter_values(places)));
                let read = flat.iter().map(|at| tokens.tokens[*at].unsigned_abs() as u32);
                arrays.push(Arc::new(UInt32Array::from_iter_values(read)));
            }
        }
        if let Some(labels) = batch.labels.as_ref().filter(|_| self.labelled) {
            let labels = labels[range].iter().map(|label| u32::try_from(*label).ok());
            arrays.push(Arc::new(UInt32Array::from_iter(labels)));
        }
        // As the measures have them, to the last bit.
        let probabilities = logits.softmax(-1, Kind::Float);
        let (probability, class) = probabilities.max_dim(-1, false);
        arrays.push(Arc::new(UInt32Array::from(self.classes(&class)?)));
        arrays.push(Arc::new(Float32Array::from(self.floats(&probability)?)));
        if self.columns.top > 0 {
            let top = self.columns.top.min(classes);
            let (values, ids) = probabilities.topk(top as i64, -1, true, true);
            arrays.push(self.list(rows, top, Arc::new(UInt32Array::from(self.classes(&ids)?)))?);
            arrays.push(self.list(rows, top, Arc::new(Float32Array::from(self.floats(&values)?)))?);
        }
        if self.columns.logits {
            arrays.push(self.list(rows, classes, Arc::new(Float32Array::from(self.floats(logits)?)))?);
        }
        let written = RecordBatch::try_new(self.schema.clone(), arrays).map_err(std::io::Error::other);
        let written = written.and_then(|batch| self.writer.write(&batch).map_err(std::io::Error::other));
        self.rows += rows as u64;
        written.map_err(|source| self.failed(source))
    }

    /// Ends the file. Returns the number of its rows.
    pub(super) fn finish(self) -> Result<u64, TrainError> {
        let closed = self.writer.close().map_err(std::io::Error::other);
        closed.map_err(|source| TrainError::Write { path: self.path, source })?;
        Ok(self.rows)
    }

    fn failed(&self, source: std::io::Error) -> TrainError {
        TrainError::Write { path: self.path.clone(), source }
    }

    fn floats(&self, tensor: &Tensor) -> Result<Vec<f32>, TrainError> {
        let flat = tensor.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view(-1);
        Vec::try_from(flat).map_err(|error| self.failed(std::io::Error::other(error)))
    }

    fn classes(&self, tensor: &Tensor) -> Result<Vec<u32>, TrainError> {
        let flat = tensor.to_device(Device::Cpu).contiguous().view(-1);
        let ids = Vec::<i64>::try_from(flat).map_err(|error| self.failed(std::io::Error::other(error)))?;
        Ok(ids.into_iter().map(|id| id.unsigned_abs() as u32).collect())
    }

    /// `rows` lists of `len` values each.
    fn list(&self, rows: usize, len: usize, values: ArrayRef) -> Result<ArrayRef, TrainError> {
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(len, rows));
        let list = ListArray::try_new(item(values.data_type().clone()), offsets, values, None);
        Ok(Arc::new(list.map_err(|error| self.failed(std::io::Error::other(error)))?))
    }
}

fn item(of: DataType) -> FieldRef {
    Arc::new(Field::new(ITEM, of, false))
}

fn schema(of_tokens: bool, labelled: bool, columns: PredictionColumns) -> SchemaRef {
    let field = |name: &str, of: DataType| Field::new(name, of, false);
    let mut fields = vec![field("sample", DataType::UInt64)];
    if of_tokens {
        fields.extend([field("position", DataType::UInt32), field("token", DataType::UInt32)]);
    }
    if labelled {
        fields.push(Field::new("label", DataType::UInt32, true));
    }
    fields.extend([field("class", DataType::UInt32), field("probability", DataType::Float32)]);
    if columns.top > 0 {
        fields.push(field("top_classes", DataType::List(item(DataType::UInt32))));
        fields.push(field("top_probabilities", DataType::List(item(DataType::Float32))));
    }
    if columns.logits {
        fields.push(field(LOGITS, DataType::List(item(DataType::Float32))));
    }
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;
    use crate::ids::SampleId;

    /// Rows of each group of a file of `batches` times `rows` predictions.
    fn groups(batches: usize, rows: usize, classes: usize, columns: PredictionColumns) -> Vec<i64> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.parquet");
        let mut writer = PredictionWriter::create(&path, false, true, columns).unwrap();
        let batch = Batch {
            ids: (0..rows as u64).map(SampleId).collect(),
            inputs: Inputs::Images(Vec::new()),
            labels: Some(vec![1; rows]),
            targets: Vec::new(),
            features: Vec::new(),
        };
        for _ in 0..batches {
            let logits = Tensor::randn([rows as i64, classes as i64], (Kind::Float, Device::Cpu));
            writer.add(&batch, 0, &logits).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), (batches * rows) as u64);
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect()
    }

    #[test]
    fn row_groups_are_bounded_by_rows_and_by_bytes() {
        let plain = groups(7, 10_000, 3, PredictionColumns::default());
        assert_eq!(plain, [GROUP_ROWS as i64, 70_000 - GROUP_ROWS as i64]);
        // 8 MB of logits a batch.
        let wide = groups(20, 40, 50_000, PredictionColumns { top: 0, logits: true });
        assert!(wide.len() >= 2 && wide.iter().all(|rows| *rows <= 400), "{wide:?}");
        assert_eq!(wide.iter().sum::<i64>(), 800);
    }
}
