//! Batches out, logits and features in, as Arrow IPC streams.

use std::collections::HashMap;
use std::io::{BufReader, BufWriter, Chain, Cursor, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch};
use arrow::datatypes::{
    DataType, Field, FieldRef, Float16Type, Float32Type, Float64Type, Schema, SchemaRef, UInt16Type,
};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use half::slice::HalfBitsSliceExt;

use super::super::vocabulary::Vocabulary;
use super::super::{OutputType, RawOutput, TeacherError};
use super::process::Process;
use crate::config::{FeatureConfig, TeacherConfig};
use crate::digest::Digest;
use crate::floats::{FloatBuf, Floats, Holder};
use crate::target::FeatureBatch;

/// Of this protocol there is one version.
const PROTOCOL: &str = "1";

/// A list's item.
pub(super) fn item(of: DataType) -> FieldRef {
    Arc::new(Field::new("item", of, false))
}

/// A stream of Arrow's, its first bytes read already.
type Answers = StreamReader<Chain<Cursor<[u8; 4]>, BufReader<ChildStdout>>>;

/// What every message of a stream begins with.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Opens the stream of a program's answers, or says what was found instead.
fn answers(mut stdout: BufReader<ChildStdout>) -> Result<Answers, String> {
    let mut first = [0; 4];
    stdout.read_exact(&mut first).map_err(|error| error.to_string())?;
    if first != CONTINUATION {
        // Arrow's reader would take a line of text for a length, and wait for as many bytes.
        return Err(format!("{:?}…", String::from_utf8_lossy(&first)));
    }
    StreamReader::try_new(Cursor::new(first).chain(stdout), None).map_err(|error| error.to_string())
}

/// A program that has said what it is.
pub(super) struct Exchange {
    // In this order: the pipe to the program closes before it is waited for.
    to: StreamWriter<BufWriter<ChildStdin>>,
    from: Answers,
    process: Process,
    asked: SchemaRef,
    path: PathBuf,
    classes: usize,
    dtype: OutputType,
    further: Vec<Further>,
    digest: Digest,
    runtime: String,
}

/// A column of vectors behind the logits.
struct Further {
    width: usize,
    dtype: OutputType,
}

impl Exchange {
    /// Starts the program of `config`, tells it what will be asked in `columns` and for which `features`, and waits for what it says of itself.
    pub(super) fn open(
        config: &TeacherConfig,
        features: &[FeatureConfig],
        columns: Vec<Field>,
        about: &[(&str, String)],
    ) -> Result<Self, TeacherError> {
        let mut command = config.command.clone();
        command.push(config.path.display().to_string());
        let (process, stdin, stdout) = Process::start(&command)?;
        let mut metadata: HashMap<String, String> =
            about.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        metadata.insert("kd_cache.protocol".into(), PROTOCOL.into());
        metadata.insert("kd_cache.device".into(), config.device.clone());
        if let Some(threads) = config.threads {
            metadata.insert("kd_cache.threads".into(), threads.to_string());
        }
        let outputs: Vec<&str> = features.iter().map(|feature| feature.output.as_str()).collect();
        if !outputs.is_empty() {
            // Strings have a JSON form, all of them.
            let outputs = serde_json::to_string(&outputs).unwrap_or_default();
            metadata.insert("kd_cache.features".into(), outputs);
        }
        let asked = Arc::new(Schema::new_with_metadata(columns, metadata));
        let to = StreamWriter::try_new(stdin, &asked).and_then(|mut to| to.flush().map(|()| to));
        let to = to.map_err(|error| process.failed("greeting it", &error.to_string()))?;
        let from = answers(stdout).map_err(|found| {
            let expected =
                "expected an Arrow IPC stream on its standard output, and nothing else there; found";
            process.failed("its greeting", &format!("{expected}: {found}"))
        })?;
        let said = from.schema();
        let greeting =
            Greeting::read(&said, &outputs).map_err(|problem| process.failed("its greeting", &problem))?;
        let Greeting { classes, dtype, further, digest, runtime } = greeting;
        let path = config.path.clone();
        let mut exchange = Self { to, from, process, asked, path, classes, dtype, further, digest, runtime };
        if exchange.batch()?.num_rows() > 0 {
            let problem =
                "expected an empty record batch behind the schema, found logits nobody has asked for";
            return Err(exchange.failed("its greeting", problem));
        }
        Ok(exchange)
    }

    pub(super) fn runtime(&self) -> &str {
        &self.runtime
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Logits of a position, padding among them.
    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// What went wrong.
    pub(super) fn failed(&mut self, doing: &'static str, problem: &str) -> TeacherError {
        self.process.failed(doing, problem)
    }

    /// Asks about a batch.
    pub(super) fn send(&mut self, columns: Vec<ArrayRef>) -> Result<(), TeacherError> {
        let sent = RecordBatch::try_new(self.asked.clone(), columns)
            .and_then(|batch| self.to.write(&batch))
            .and_then(|()| self.to.flush());
        sent.map_err(|error| self.failed("sending it a batch", &error.to_string()))
    }

    /// The answer: logits of `positions` positions, at most `chunk` at a time.
    pub(super) fn receive(
        &mut self,
        positions: usize,
        chunk: usize,
        vocabulary: &Vocabulary,
        sink: &mut dyn FnMut(RawOutput) -> ControlFlow<()>,
    ) -> Result<(), TeacherError> {
        let classes = vocabulary.kept(&self.path, self.classes)?;
        let (mut left, mut wanted) = (positions, true);
        loop {
            let batch = self.batch()?;
            let rows = batch.num_rows();
            if rows > left || (rows == 0 && left > 0) {
                let found = positions - left + rows;
                let more = if rows > left { " or more" } else { "" };
                let problem = format!("expected {positions} rows of logits, found {found}{more}");
                return Err(self.failed("its answer", &problem));
            }
            if rows == 0 {
                return Ok(());
            }
            left -= rows;
            // All of an answer is taken, wanted or not: the next one begins after it.
            let logits = batch.column(0).as_fixed_size_list().clone();
            let vectors = |(at, further): (usize, &Further), start, len| {
                let part = batch.column(at + 1).as_fixed_size_list().slice(start, len);
                let values = values(&part, further.dtype, further.width, further.width);
                FeatureBatch { width: further.width, values: values.into_vec() }
            };
            for start in (0..rows).step_by(chunk.max(1)) {
                if !wanted {
                    break;
                }
                let len = chunk.max(1).min(rows - start);
                let part = logits.slice(start, len);
                let values = values(&part, self.dtype, self.classes, classes);
                let features = self.further.iter().enumerate().map(|one| vectors(one, start, len)).collect();
                let output =
                    RawOutput { rows: len, classes, values: values.into(), dtype: self.dtype, features };
                wanted = sink(output).is_continue();
            }
        }
    }

    /// The next record batch, which there must be.
    fn batch(&mut self) -> Result<RecordBatch, TeacherError> {
        match self.from.next() {
            Some(Ok(batch)) => Ok(batch),
            Some(Err(error)) => Err(self.failed("its answer", &error.to_string())),
            None => Err(self.failed("its answer", "its stream ended before the answer did")),
        }
    }
}

/// A column's numbers, where Arrow has read them.
#[derive(Debug)]
struct Column {
    values: ArrayRef,
    dtype: OutputType,
}

impl Holder for Column {
    fn floats(&self) -> Floats<'_> {
        match self.dtype {
            OutputType::F32 => Floats::F32(self.values.as_primitive::<Float32Type>().values()),
            OutputType::F64 => Floats::F64(self.values.as_primitive::<Float64Type>().values()),
            OutputType::F16 => Floats::F16(self.values.as_primitive::<Float16Type>().values()),
            OutputType::Bf16 => {
                Floats::Bf16(self.values.as_primitive::<UInt16Type>().values().reinterpret_cast())
            }
        }
    }
}

/// The first `kept` of each row's `classes` logits; where these are all, nothing is copied.
fn values(rows: &FixedSizeListArray, dtype: OutputType, classes: usize, kept: usize) -> FloatBuf {
    let column = Column { values: rows.values().clone(), dtype };
    if kept == classes {
        return FloatBuf::held(Arc::new(column), 0..rows.len() * classes);
    }
    let mut out = Vec::with_capacity(rows.len() * kept);
    for row in 0..rows.len() {
        column.floats().part(row * classes..row * classes + kept).append_to(&mut out);
    }
    out.into()
}

/// What a program says of itself in the schema of its answers.
struct Greeting {
    classes: usize,
    dtype: OutputType,
    further: Vec<Further>,
    digest: Digest,
    runtime: String,
}

impl Greeting {
    /// `outputs` were asked for beside the logits.
    fn read(schema: &Schema, outputs: &[&str]) -> Result<Self, String> {
        let said = |key: &str| schema.metadata().get(key).cloned();
        let protocol = said("kd_cache.protocol").unwrap_or_default();
        if protocol != PROTOCOL {
            return Err(format!("kd_cache.protocol: expected \"{PROTOCOL}\", found {protocol:?}"));
        }
        let dtype = said("kd_cache.dtype").unwrap_or_default();
        let dtype = [OutputType::F32, OutputType::F16, OutputType::Bf16, OutputType::F64]
            .into_iter()
            .find(|known| known.as_str() == dtype)
            .ok_or_else(|| format!("kd_cache.dtype: expected f32, f16, bf16 or f64, found {dtype:?}"))?;
        let stored = match dtype {
            OutputType::F32 => DataType::Float32,
            OutputType::F16 => DataType::Float16,
            OutputType::Bf16 => DataType::UInt16,
            OutputType::F64 => DataType::Float64,
        };
        let found = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
        let found = || found.clone().collect::<Vec<_>>().join(", ");
        let further = schema.fields().get(1..).unwrap_or_default();
        let classes = match schema.fields().first().map(|field| field.data_type()) {
            Some(DataType::FixedSizeList(item, classes))
                if *item.data_type() == stored && further.len() == outputs.len() =>
            {
                *classes
            }
            _ => {
                let columns = match outputs {
                    [] => "one column, ".to_owned(),
                    _ => format!("a column for each of {} behind the logits, ", outputs.join(", ")),
                };
                return Err(format!("expected {columns}a fixed-size list of {stored}, found {}", found()));
            }
        };
        let further = further.iter().zip(outputs).map(|(field, output)| Further::read(field, output));
        let further = further.collect::<Result<Vec<Further>, String>>()?;
        let classes = usize::try_from(classes).ok().filter(|classes| *classes >= 2);
        let classes = classes.ok_or_else(|| format!("expected two logits or more, found {}", found()))?;
        let digest = said("kd_cache.digest").unwrap_or_default();
        let digest = Digest::parse(&digest).ok_or_else(|| {
            format!("kd_cache.digest: expected sha256: and 64 hexadecimal digits, found {digest:?}")
        })?;
        let runtime = said("kd_cache.runtime").filter(|runtime| !runtime.is_empty());
        let runtime =
            runtime.ok_or("kd_cache.runtime: expected the program's name and version, found none")?;
        Ok(Self { classes, dtype, further, digest, runtime })
    }
}

impl Further {
    /// The column that answers for `output`.
    fn read(field: &Field, output: &str) -> Result<Self, String> {
        let found = || format!("{} {}", field.name(), field.data_type());
        let expected =
            format!("expected the column {output} as a fixed-size list of float32, float16 or float64");
        let DataType::FixedSizeList(item, width) = field.data_type() else {
            return Err(format!("{expected}, found {}", found()));
        };
        let dtype = match item.data_type() {
            DataType::Float32 => OutputType::F32,
            DataType::Float16 => OutputType::F16,
            DataType::Float64 => OutputType::F64,
            _ => return Err(format!("{expected}, found {}", found())),
        };
        match usize::try_from(*width) {
            Ok(width) if width > 0 && field.name() == output => Ok(Self { width, dtype }),
            _ => Err(format!("{expected}, found {}", found())),
        }
    }
}
