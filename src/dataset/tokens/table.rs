//! A column of documents in Parquet and Arrow files: strings, or lists of token ids.

use std::borrow::Cow;
use std::cell::Cell;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::chat::ChatTemplate;
use super::corpus::CorpusBuilder;
use super::tokenizer::Tokenizer;
use super::{TokensError, ipc, text};

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 1024;

/// The column to read, and what may be in it.
pub(super) struct Column<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Whether strings will do, or else ids only.
    pub(super) text: bool,
    /// What lays out messages, where documents are chats.
    pub(super) chat: Option<&'a ChatTemplate>,
    /// Makes tokens of strings.
    pub(super) tokenizer: Option<&'a Tokenizer>,
    /// Whether there were ids in a file that was read.
    pub(super) ids: Cell<bool>,
}

/// Adds the rows of a Parquet file.
pub(super) fn read_parquet(
    path: &Path,
    column: &Column,
    corpus: &mut CorpusBuilder,
) -> Result<(), TokensError> {
    let file = File::open(path).map_err(|source| TokensError::Read { path: path.to_owned(), source })?;
    let table = |problem: String| TokensError::Table { path: path.to_owned(), form: "Parquet", problem };
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| table(error.to_string()))?;
    let index = column.find(path, builder.schema())?;
    let tools = column.chat.and_then(|_| builder.schema().index_of(text::TOOLS).ok());
    let mask = ProjectionMask::roots(builder.parquet_schema(), [index].into_iter().chain(tools));
    let reader = builder
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|error| table(error.to_string()))?;
    column.add_all(path, "Parquet", reader, corpus)
}

/// Adds the rows of an Arrow file, of either of its forms.
pub(super) fn read_arrow(
    path: &Path,
    column: &Column,
    corpus: &mut CorpusBuilder,
) -> Result<(), TokensError> {
    let reader = ipc::open(path, |schema| column.find(path, schema))?;
    column.add_all(path, "Arrow", reader, corpus)
}

impl Column<'_> {
    /// The place of the column among the others, when it is one of documents.
    fn find(&self, path: &Path, schema: &Schema) -> Result<usize, TokensError> {
        let (key, expected) = match self.chat {
            Some(_) => ("chat.messages", "messages (lists of structures, or JSON in a text)"),
            None if self.text => ("column", "text or lists of token ids"),
            None => ("column", "lists of token ids"),
        };
        let wrong = |found: String| TokensError::Column {
            path: path.to_owned(),
            key,
            column: self.name.to_owned(),
            expected,
            found,
        };
        let describe = |field: &Field| format!("{} ({})", field.name(), field.data_type());
        let Some((index, field)) = schema.column_with_name(self.name) else {
            let known: Vec<String> = schema.fields().iter().map(|field| describe(field)).collect();
            return Err(wrong(format!("only {}", known.join(", "))));
        };
        if self.chat.is_some() {
            let kind = field.data_type();
            let fits = holds_structures(kind) || holds_text(kind);
            return if fits { Ok(index) } else { Err(wrong(format!("type {kind}"))) };
        }
        if holds_ids(field.data_type()) {
            self.ids.set(true);
            if self.tokenizer.is_some_and(Tokenizer::begins_documents) {
                return Err(TokensError::BeginOfIds { path: path.to_owned(), column: self.name.to_owned() });
            }
            return Ok(index);
        }
        if !self.text || !holds_text(field.data_type()) {
            return Err(wrong(format!("type {}", field.data_type())));
        }
        self.tokenizer(path).map(|_| index)
    }

    /// What makes tokens of text.
    fn tokenizer(&self, path: &Path) -> Result<&Tokenizer, TokensError> {
        let missing = || TokensError::NoTokenizer { path: path.to_owned(), column: self.name.to_owned() };
        self.tokenizer.ok_or_else(missing)
    }

    /// Adds what batches of the column hold.
    fn add_all(
        &self,
        path: &Path,
        form: &'static str,
        batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
        corpus: &mut CorpusBuilder,
    ) -> Result<(), TokensError> {
        let table = |error: ArrowError| TokensError::Table {
            path: path.to_owned(),
            form,
            problem: error.to_string(),
        };
        let mut row = 0;
        for batch in batches {
            let batch = batch.map_err(table)?;
            let values = batch.column_by_name(self.name).unwrap_or_else(|| batch.column(0));
            if let Some(null) = (0..values.len()).find(|i| values.is_null(*i)) {
                return Err(self.null(path, row + null as u64));
            }
            if let Some(template) = self.chat {
                self.add_chats(path, row, &batch, template, corpus)?;
            } else if holds_text(values.data_type()) {
                self.add_text(path, row, &cast(values, &DataType::LargeUtf8).map_err(table)?, corpus)?;
            } else {
                let item = Field::new_list_field(DataType::Int64, true);
                let lists = cast(values, &DataType::LargeList(item.into())).map_err(table)?;
                self.add_ids(path, row, &lists, corpus)?;
            }
            row += values.len() as u64;
            if corpus.is_full() {
                break;
            }
        }
        Ok(())
    }

    fn add_text(
        &self,
        path: &Path,
        first: u64,
        strings: &ArrayRef,
        corpus: &mut CorpusBuilder,
    ) -> Result<(), TokensError> {
        let tokenizer = self.tokenizer(path)?;
        let strings = strings.as_string::<i64>();
        let rows: Vec<(u64, Cow<str>)> =
            (0..strings.len()).map(|i| (first + i as u64, strings.value(i).into())).collect();
        text::add_rows(path, &rows, tokenizer, corpus)
    }

    fn add_chats(
        &self,
        path: &Path,
        first: u64,
        batch: &RecordBatch,
        template: &ChatTemplate,
        corpus: &mut CorpusBuilder,
    ) -> Result<(), TokensError> {
        let table = |problem: String| TokensError::Table { path: path.to_owned(), form: "Parquet", problem };
        let tokenizer = self.tokenizer(path)?;
        // As JSON, in which chats have the same form wherever they lie, and what is null is left out.
        let mut writer = LineDelimitedWriter::new(Vec::new());
        writer.write(batch).and_then(|()| writer.finish()).map_err(|error| table(error.to_string()))?;
        let json = writer.into_inner();
        let rows = serde_json::Deserializer::from_slice(&json).into_iter();
        let rows = (first..).zip(rows).map(|(row, object)| Ok((row, object?)));
        let rows = rows.collect::<Result<Vec<_>, serde_json::Error>>();
        let rows = rows.map_err(|error| table(error.to_string()))?;
        text::add_chats(path, rows, (self.name, template), tokenizer, corpus)
    }

    fn add_ids(
        &self,
        path: &Path,
        first: u64,
        lists: &ArrayRef,
        corpus: &mut CorpusBuilder,
    ) -> Result<(), TokensError> {
        let lists = lists.as_list::<i64>();
        for (i, row) in (first..).take(lists.len()).enumerate() {
            let ids = lists.value(i);
            let ids = ids.as_primitive::<Int64Type>();
            if ids.null_count() > 0 {
                return Err(self.null(path, row));
            }
            corpus.push(path, row, ids.values().iter().copied())?;
        }
        Ok(())
    }

    fn null(&self, path: &Path, row: u64) -> TokensError {
        TokensError::Null { path: path.to_owned(), row, column: self.name.to_owned() }
    }
}

/// Number types are many; one is enough from here on. What does not fit is an error.
fn cast(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(values, to, &CastOptions { safe: false, ..CastOptions::default() })
}

fn holds_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => holds_text(value),
        _ => false,
    }
}

fn holds_structures(kind: &DataType) -> bool {
    match kind {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            matches!(item.data_type(), DataType::Struct(_))
        }
        _ => false,
    }
}

fn holds_ids(kind: &DataType) -> bool {
    match kind {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            item.data_type().is_integer()
        }
        _ => false,
    }
}
