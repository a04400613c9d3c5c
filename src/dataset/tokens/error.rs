//! Why a token dataset could not be opened.

use std::path::PathBuf;

use serde_json::Value;

/// Why a token dataset could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// A file or folder could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An entry of `paths` is neither there nor a pattern.
    #[error("dataset.paths: expected a file, a folder or a pattern, but there is no {path}")]
    Missing {
        /// The entry.
        path: PathBuf,
    },
    /// A pattern is malformed.
    #[error("dataset.paths: {pattern:?} is no pattern: {problem}")]
    Pattern {
        /// The entry.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A pattern or folder stands for no file.
    #[error("dataset.paths: expected {expected} for {path}, found none")]
    NoMatch {
        /// The entry.
        path: PathBuf,
        /// What was looked for.
        expected: String,
    },
    /// A file is not what its name or the config says.
    #[error("{path}: expected {expected}, found {found}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected, and the way out.
        expected: String,
        /// What was found.
        found: String,
    },
    /// Text that is not UTF-8.
    #[error("{path}: expected UTF-8, found other bytes at byte {offset}; convert the file")]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Bytes before the first that is wrong.
        offset: u64,
    },
    /// A line of a `.jsonl` that is no JSON object with the text.
    #[error("{path}, line {line}: expected {expected}, found {found}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A table has no such column, or one of another type.
    #[error("{path}: dataset.{key}: expected column {column:?} of {expected}, found {found}")]
    Column {
        /// The file.
        path: PathBuf,
        /// The key that names it.
        key: &'static str,
        /// The column.
        column: String,
        /// The types that would do.
        expected: &'static str,
        /// Its type, or the columns there are.
        found: String,
    },
    /// A null where a document or a token is expected.
    #[error("{path}, row {row}: expected a document, found a null in {column:?}; leave such rows out")]
    Null {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: u64,
        /// The column.
        column: String,
    },
    /// A table that its library cannot read.
    #[error("cannot read {path} as {form}: {problem}")]
    Table {
        /// The file.
        path: PathBuf,
        /// Arrow or Parquet.
        form: &'static str,
        /// What the library says.
        problem: String,
    },
    /// The type of the ids in a `.bin` is not given.
    #[error("dataset.dtype: missing; {path} does not say whether its ids are u16 or u32")]
    NoDtype {
        /// The file.
        path: PathBuf,
    },
    /// A `.bin` that does not hold a whole number of ids.
    #[error("{path}: expected a multiple of {width} bytes (dataset.dtype = {dtype:?}), found {bytes}")]
    OddSize {
        /// The file.
        path: PathBuf,
        /// The config's word for the type.
        dtype: &'static str,
        /// Bytes of one id.
        width: usize,
        /// Bytes of the file.
        bytes: u64,
    },
    /// An id that the vocabulary does not have.
    #[error(
        "{path}, row {row}: expected token ids from 0 to {}, found {token}; check dataset.tokenizer, \
         dataset.vocabulary and, of a .bin, dataset.dtype",
        vocabulary - 1
    )]
    Token {
        /// The file.
        path: PathBuf,
        /// The row of the table, or the position in a stream, from 0.
        row: u64,
        /// The id.
        token: i64,
        /// Number of ids.
        vocabulary: u64,
    },
    /// `tokenizer.json` is none.
    #[error("dataset.tokenizer: cannot read {path} as a tokenizer.json: {problem}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Text without a tokenizer.
    #[error("dataset.tokenizer: missing; column {column:?} of {path} holds text (or name a column of ids)")]
    NoTokenizer {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// Messages without a chat template.
    #[error(
        "dataset.chat.template: missing; beside {tokenizer} lies neither a chat_template.jinja nor a \
         tokenizer_config.json with one"
    )]
    NoChatTemplate {
        /// The tokenizer.
        tokenizer: PathBuf,
    },
    /// A chat template that is none.
    #[error("dataset.chat.template: cannot use {path} as a chat template: {problem}")]
    ChatTemplate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Messages that the chat template does not lay out.
    #[error("{place}: cannot lay out the messages (dataset.chat): {problem}")]
    Chat {
        /// File and line or row.
        place: String,
        /// What is wrong with them, or what the template says.
        problem: String,
    },
    /// The tokenizer refuses a document.
    #[error("{place}: the tokenizer fails: {problem}")]
    Tokenize {
        /// File and line or row.
        place: String,
        /// What it says.
        problem: String,
    },
    /// Something is to be put before documents that are tokens already.
    #[error(
        "dataset.rows.begin_of_document: is of text, and {column} of {path} holds tokens, taken as they are; remove the key"
    )]
    BeginOfIds {
        /// The file.
        path: PathBuf,
        /// Its column.
        column: String,
    },
    /// `end_of_document` or `begin_of_document` is no token.
    #[error("dataset.rows.{key}: expected a token of {vocabulary}, found {found}")]
    NamedToken {
        /// The key.
        key: &'static str,
        /// What knows the tokens.
        vocabulary: String,
        /// What the config says.
        found: String,
    },
    /// There is nothing in the files.
    #[error("dataset.paths: expected at least one document that is not empty, found none in {files} files")]
    Empty {
        /// Files read.
        files: usize,
    },
    /// A part of the split has no document.
    #[error(
        "dataset.split.validation: {share} of {documents} documents leaves none for part = {part:?}; change \
         the share, or cut the files into documents (dataset.separator)"
    )]
    Split {
        /// The config's share.
        share: f64,
        /// Documents in all.
        documents: u64,
        /// The part that would be empty.
        part: &'static str,
    },
    /// Everything is the rest that is dropped.
    #[error(
        "dataset.rows.length: expected at most the {tokens} tokens there are, found {length} (or set \
         keep_rest = true)"
    )]
    NoRows {
        /// Tokens in all.
        tokens: u64,
        /// The row length.
        length: usize,
    },
    /// The limit exceeds the dataset.
    #[error("dataset.limit: expected at most the {rows} rows there are, found {limit}")]
    Limit {
        /// Rows in all.
        rows: u64,
        /// The limit asked for.
        limit: u64,
    },
}

/// What a JSON value is called.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
