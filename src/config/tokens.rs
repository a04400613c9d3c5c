//! What configs say of token datasets: where documents lie and how they become rows.

use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fault, Name};

/// Default of [`RowsConfig::length`].
pub const DEFAULT_ROW_LENGTH: usize = 512;
/// Default of `dataset.field` and `dataset.column`, and the name that text goes by in most corpora.
pub const DEFAULT_TEXT_FIELD: &str = "text";
/// Default of [`ChatConfig::messages`], and the key of most data sets of chats.
pub const DEFAULT_MESSAGES: &str = "messages";
/// The largest id that a token may have.
const LARGEST_TOKEN: u64 = u32::MAX as u64;

/// Text files; each is a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Files, folders (with all below them) or glob patterns, in this order; what a folder or a
    /// pattern stands for is sorted by path. Files may be packed by gzip or zstd.
    #[schemars(length(min = 1))]
    pub paths: Vec<PathBuf>,
    /// The `tokenizer.json` that makes tokens of the text.
    pub tokenizer: PathBuf,
    /// How documents become rows.
    #[serde(default)]
    pub rows: RowsConfig,
    /// Which documents; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitConfig>,
    /// Only the first so many rows; without `split`, documents far behind them are not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
}

/// JSON Lines; each line is a document, text or a chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonlConfig {
    /// Files, folders (with all `.jsonl`, `.jsonl.gz` and `.jsonl.zst` below them) or glob patterns, in this order; what a folder
    /// or a pattern stands for is sorted by path. Files may be packed by gzip or zstd, whatever they are called.
    #[schemars(length(min = 1))]
    pub paths: Vec<PathBuf>,
    /// The key that holds a document's text.
    #[serde(default = "default_text_field")]
    pub field: String,
    /// In place of `field`: documents are chats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatConfig>,
    /// The `tokenizer.json` that makes tokens of the text.
    pub tokenizer: PathBuf,
    /// How documents become rows.
    #[serde(default)]
    pub rows: RowsConfig,
    /// Which documents; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitConfig>,
    /// Only the first so many rows; without `split`, documents far behind them are not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
}

/// Parquet files; each row of the table is a document, text, a chat or tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetConfig {
    /// Files, folders (with all `.parquet` below them) or glob patterns, in this order; what a
    /// folder or a pattern stands for is sorted by path.
    #[schemars(length(min = 1))]
    pub paths: Vec<PathBuf>,
    /// The column of documents: strings, or lists of token ids.
    #[serde(default = "default_text_field")]
    pub column: String,
    /// In place of `column`: documents are chats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatConfig>,
    /// The `tokenizer.json` that makes tokens of strings; of lists of ids, what the ids mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// How documents become rows.
    #[serde(default)]
    pub rows: RowsConfig,
    /// Which documents; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitConfig>,
    /// Only the first so many rows; without `split`, documents far behind them are not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
}

/// Documents that are chats, which a chat template makes text of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChatConfig {
    /// The key or column of a chat's messages: a list of objects with `role` and `content`, or ShareGPT's `from` and `value`, and whatever
    /// else the template looks at; or the same as JSON in a text. Keys that are null count as absent, but for `content`. Beside it, what
    /// stands under `tools` is given to the template.
    pub messages: String,
    /// The chat template, a file of Jinja's language as `transformers` has it, or a `.json` that has it under `chat_template`. Default:
    /// the one beside the tokenizer, in `chat_template.jinja`, `tokenizer_config.json` or `chat_template.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<PathBuf>,
    /// What templates are told that ask for today's date, a day such as `2026-03-31`. Default: that they cannot ask, as caches would
    /// differ from day to day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

impl Default for ChatConfig {
    fn default() -> Self {
        Self { messages: DEFAULT_MESSAGES.into(), template: None, date: None }
    }
}

impl ChatConfig {
    /// What is called today, where something is.
    pub fn day(&self) -> Option<NaiveDate> {
        self.date.as_ref()?.parse().ok()
    }
}

/// Tokens made by another program: `.bin`, `.npy`, `.arrow` or `.parquet`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Files, folders (with all files of these four kinds below them) or glob patterns, in this
    /// order; what a folder or a pattern stands for is sorted by path. `.bin` is raw little-endian
    /// ids, `.npy` one dimension (a stream) or two (a row is a document), `.arrow` and `.parquet` a
    /// column of lists.
    #[schemars(length(min = 1))]
    pub paths: Vec<PathBuf>,
    /// The type of the ids in `.bin` files, which do not say it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<TokenType>,
    /// The column of `.arrow` and `.parquet` files.
    #[serde(default = "default_ids_column")]
    pub column: String,
    /// The id that ends a document: it cuts what is read into documents and belongs to none; between
    /// the documents of a row stands `rows.end_of_document`, by default the same. Default: a
    /// `.bin`, a one-dimensional `.npy`, each row of anything else is a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = LARGEST_TOKEN))]
    pub separator: Option<u32>,
    /// The `tokenizer.json` that made the ids: says what they mean, and how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Number of ids: each must be below it. Default: the tokenizer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = LARGEST_TOKEN))]
    pub vocabulary: Option<u32>,
    /// How documents become rows.
    #[serde(default)]
    pub rows: RowsConfig,
    /// Which documents; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitConfig>,
    /// Only the first so many rows; without `split`, documents far behind them are not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
}

fn default_text_field() -> String {
    DEFAULT_TEXT_FIELD.into()
}

fn default_ids_column() -> String {
    "input_ids".into()
}

/// The type of ids in a file that does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenType {
    /// Two bytes, little-endian.
    U16,
    /// Four bytes, little-endian.
    U32,
}

/// How documents are laid into rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// One after another, `end_of_document` between them, cut into rows of exactly `length`. For teachers that let no token
    /// see another document, as those of `tools/export_lm.py`; a build warns of others.
    #[default]
    Concatenate,
    /// A document begins a row; a longer one goes on in the next rows, with no overlap.
    Document,
}

/// How documents become rows of tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RowsConfig {
    /// Tokens in a row at most.
    #[schemars(range(min = 1, max = LARGEST_TOKEN))]
    pub length: usize,
    /// How documents are laid into rows.
    pub packing: Packing,
    /// With `concatenate`: what is left at the end is a shorter row, or else it is dropped.
    pub keep_rest: bool,
    /// With `concatenate`: what stands between documents. Default: `dataset.separator`, or else the
    /// tokenizer's end-of-sequence token where it can be found, or else nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_document: Option<Name>,
    /// Of text: what each document begins with, as teachers expect that were trained with one (Gemma, Llama 3). Default: nothing,
    /// whatever the tokenizer would put there by itself; a build says so. A prompt for such a student has to begin with it, written out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin_of_document: Option<Name>,
}

impl Default for RowsConfig {
    fn default() -> Self {
        Self {
            length: DEFAULT_ROW_LENGTH,
            packing: Packing::default(),
            keep_rest: true,
            end_of_document: None,
            begin_of_document: None,
        }
    }
}

impl RowsConfig {
    /// Everything that is wrong with the values; keys are given below `prefix`.
    fn validate(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.packing == Packing::Document {
            let problem = "belongs to packing = \"concatenate\"; remove the key, or change packing";
            if !self.keep_rest {
                faults.push(Fault::new(format!("{prefix}.keep_rest"), problem));
            }
            if self.end_of_document.is_some() {
                faults.push(Fault::new(format!("{prefix}.end_of_document"), problem));
            }
        }
        faults
    }
}

/// A part of the documents, or of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// All but the validation part.
    Train,
    /// What is kept for validation.
    Validation,
}

impl Part {
    /// The word used in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// Parts the documents (of images: the samples) in two, at random: a document is in one part with all its
/// tokens.
///
/// Which are picked depends on the seed and the number of them alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// The part that is wanted.
    pub part: Part,
    /// The share that is kept for validation.
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    pub validation: f64,
    /// Seeds the choice; the same in the configs of both parts.
    #[serde(default)]
    pub seed: u64,
}

impl TokensConfig {
    /// Everything that is wrong with the values; keys are given below `prefix`.
    fn validate(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let (Some(separator), Some(vocabulary)) = (self.separator, self.vocabulary)
            && separator >= vocabulary
        {
            let problem =
                format!("expected an id below {prefix}.vocabulary = {vocabulary}, found {separator}");
            faults.push(Fault::new(format!("{prefix}.separator"), problem));
        }
        if self.rows.begin_of_document.is_some() {
            let problem = "is of text, and these are tokens, taken as they are; remove the key";
            faults.push(Fault::new(format!("{prefix}.rows.begin_of_document"), problem));
        }
        if self.tokenizer.is_none()
            && let Some(text @ Name::Text(_)) = &self.rows.end_of_document
        {
            let problem = format!("expected an id, or {prefix}.tokenizer beside it, found {text}");
            faults.push(Fault::new(format!("{prefix}.rows.end_of_document"), problem));
        }
        faults
    }
}

/// What is wrong with `chat` beside `text`, the value of `key`.
fn chat_beside(key: &str, text: &str, chat: Option<&ChatConfig>, prefix: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let Some(chat) = chat else { return faults };
    if text != DEFAULT_TEXT_FIELD {
        let problem = format!("documents are text ({key}) or chats (chat); remove one of the keys");
        faults.push(Fault::new(format!("{prefix}.{key}"), problem));
    }
    if let Some(found) = chat.date.as_ref().filter(|_| chat.day().is_none()) {
        let problem = format!("expected a day such as \"2026-03-31\", found {found:?}");
        faults.push(Fault::new(format!("{prefix}.chat.date"), problem));
    }
    faults
}

impl super::DatasetConfig {
    /// The word that the config has for the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Idx { .. } => "idx",
            Self::Folder(_) => "folder",
            Self::Text(_) => "text",
            Self::Jsonl(_) => "jsonl",
            Self::Parquet(_) => "parquet",
            Self::Tokens(_) => "tokens",
        }
    }

    /// The tokenizer that is named, where one is.
    pub fn tokenizer(&self) -> Option<&Path> {
        match self {
            Self::Idx { .. } | Self::Folder(_) => None,
            Self::Text(config) => Some(&config.tokenizer),
            Self::Jsonl(config) => Some(&config.tokenizer),
            Self::Parquet(config) => config.tokenizer.as_deref(),
            Self::Tokens(config) => config.tokenizer.as_deref(),
        }
    }

    /// How documents become rows; `None` for images.
    pub fn rows(&self) -> Option<&RowsConfig> {
        match self {
            Self::Idx { .. } | Self::Folder(_) => None,
            Self::Text(config) => Some(&config.rows),
            Self::Jsonl(config) => Some(&config.rows),
            Self::Parquet(config) => Some(&config.rows),
            Self::Tokens(config) => Some(&config.rows),
        }
    }

    /// Everything that is wrong with the values; keys are given below `prefix`.
    pub fn validate(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(rows) = self.rows() {
            faults.extend(rows.validate(&format!("{prefix}.rows")));
        }
        match self {
            Self::Jsonl(JsonlConfig { field, chat, .. }) => {
                faults.extend(chat_beside("field", field, chat.as_ref(), prefix));
            }
            Self::Parquet(ParquetConfig { column, chat, tokenizer, .. }) => {
                faults.extend(chat_beside("column", column, chat.as_ref(), prefix));
                if chat.is_some() && tokenizer.is_none() {
                    let problem = "missing; the text of chats becomes tokens by it";
                    faults.push(Fault::new(format!("{prefix}.tokenizer"), problem));
                }
            }
            Self::Tokens(config) => faults.extend(config.validate(prefix)),
            Self::Idx { .. } | Self::Folder(_) | Self::Text(_) => {}
        }
        faults
    }
}
