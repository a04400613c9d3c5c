//! From a config to rows: files, documents, a part of them, rows.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::chat::ChatTemplate;
use super::corpus::{Corpus, CorpusBuilder, Number};
use super::pack::{Plan, Wanted};
use super::rows::{Meaning, Rows};
use super::table::Column;
use super::text::Content;
use super::tokenizer::Tokenizer;
use super::{TokensError, files, npy, split, table, text};
use crate::config::{
    ChatConfig, JsonlConfig, Name, Packing, ParquetConfig, RowsConfig, SplitConfig, TextConfig, TokenType,
    TokensConfig,
};
use crate::mapped::map_file;

/// What is done with documents, whatever they were read from.
struct Layout<'a> {
    rows: &'a RowsConfig,
    split: Option<&'a SplitConfig>,
    limit: Option<u64>,
    tokenizer: Option<&'a Tokenizer>,
    vocabulary: Option<u32>,
    separator: Option<u32>,
    /// Whether documents are text, which becomes tokens here.
    of_text: bool,
    /// What lays out chats, where they are such.
    chat: Option<&'a ChatTemplate>,
}

/// The tokenizer with what its documents begin with.
fn of_documents(tokenizer: Tokenizer, rows: &RowsConfig) -> Result<Tokenizer, TokensError> {
    let size = tokenizer.identity().size;
    let begin = rows.begin_of_document.as_ref();
    let begin =
        begin.map(|name| token("begin_of_document", name, Some(&tokenizer), Some(size))).transpose()?;
    Ok(tokenizer.beginning_with(begin))
}

/// The id of a token of the config, which calls it `key`.
fn token(
    key: &'static str,
    name: &Name,
    tokenizer: Option<&Tokenizer>,
    vocabulary: Option<u32>,
) -> Result<u32, TokensError> {
    let id = tokenizer.map_or_else(|| name.number(), |tokenizer| tokenizer.id(name));
    id.filter(|id| vocabulary.is_none_or(|size| *id < size)).ok_or_else(|| {
        let vocabulary = match (tokenizer, vocabulary) {
            (Some(tokenizer), _) => tokenizer.identity().file.clone(),
            (None, Some(size)) => format!("the {size} of dataset.vocabulary"),
            (None, None) => "a tokenizer (dataset.tokenizer), or an id".into(),
        };
        TokensError::NamedToken { key, vocabulary, found: name.to_string() }
    })
}

/// Where messages lie, and what lays them out.
fn chats<'a>(config: &'a ChatConfig, tokenizer: &Path) -> Result<(&'a str, ChatTemplate), TokensError> {
    Ok((&config.messages, ChatTemplate::open(config, tokenizer)?))
}

pub(super) fn text(config: &TextConfig) -> Result<Rows, TokensError> {
    let tokenizer = of_documents(Tokenizer::open(&config.tokenizer)?, &config.rows)?;
    let layout = Layout::of_text(&config.rows, config.split.as_ref(), config.limit, Some(&tokenizer));
    // Before hours of work.
    layout.end()?;
    let files = files::resolve(&config.paths, &[])?;
    let mut corpus = layout.corpus();
    text::read_files(&files, &tokenizer, &mut corpus)?;
    layout.lay(corpus.finish(), &files)
}

pub(super) fn jsonl(config: &JsonlConfig) -> Result<Rows, TokensError> {
    let tokenizer = of_documents(Tokenizer::open(&config.tokenizer)?, &config.rows)?;
    let chat = config.chat.as_ref().map(|chat| chats(chat, &config.tokenizer)).transpose()?;
    let mut layout = Layout::of_text(&config.rows, config.split.as_ref(), config.limit, Some(&tokenizer));
    layout.chat = chat.as_ref().map(|(_, template)| template);
    layout.end()?;
    let content = match &chat {
        Some((key, template)) => Content::Chat(key, template),
        None => Content::Text(&config.field),
    };
    let files = files::resolve(&config.paths, &["jsonl", "jsonl.gz", "jsonl.zst"])?;
    let mut corpus = layout.corpus();
    corpus.add_files(&files, |file, corpus| text::read_jsonl(file, &content, &tokenizer, corpus))?;
    layout.lay(corpus.finish(), &files)
}

pub(super) fn parquet(config: &ParquetConfig) -> Result<Rows, TokensError> {
    let tokenizer = config.tokenizer.as_deref().map(Tokenizer::open).transpose()?;
    let tokenizer = tokenizer.map(|tokenizer| of_documents(tokenizer, &config.rows)).transpose()?;
    let chat = match (&config.chat, &config.tokenizer) {
        (Some(chat), Some(tokenizer)) => Some(chats(chat, tokenizer)?),
        (Some(chat), None) => {
            let path = config.paths.first().cloned().unwrap_or_default();
            return Err(TokensError::NoTokenizer { path, column: chat.messages.clone() });
        }
        (None, _) => None,
    };
    let mut layout = Layout::of_text(&config.rows, config.split.as_ref(), config.limit, tokenizer.as_ref());
    layout.chat = chat.as_ref().map(|(_, template)| template);
    layout.end()?;
    let files = files::resolve(&config.paths, &["parquet"])?;
    let column = Column {
        name: chat.as_ref().map_or(&config.column, |(column, _)| column),
        text: true,
        chat: layout.chat,
        tokenizer: tokenizer.as_ref(),
        ids: Cell::new(false),
    };
    let mut corpus = layout.corpus();
    corpus.add_files(&files, |file, corpus| table::read_parquet(file, &column, corpus))?;
    layout.of_text = !column.ids.get();
    layout.lay(corpus.finish(), &files)
}

pub(super) fn tokens(config: &TokensConfig) -> Result<Rows, TokensError> {
    let tokenizer = config.tokenizer.as_deref().map(Tokenizer::open).transpose()?;
    let known = tokenizer.as_ref().map(|tokenizer| tokenizer.identity().size);
    let layout = Layout {
        rows: &config.rows,
        split: config.split.as_ref(),
        limit: config.limit,
        tokenizer: tokenizer.as_ref(),
        vocabulary: config.vocabulary.or(known),
        separator: config.separator,
        of_text: false,
        chat: None,
    };
    layout.end()?;
    let files = files::resolve(&config.paths, &["bin", "npy", "arrow", "parquet"])?;
    let column =
        Column { name: &config.column, text: false, chat: None, tokenizer: None, ids: Cell::new(false) };
    let mut corpus = layout.corpus();
    corpus.add_files(&files, |file, corpus| {
        let extension = file.extension().map(|extension| extension.to_string_lossy().into_owned());
        match extension.as_deref() {
            Some("bin") => read_bin(file, config.dtype, corpus),
            Some("npy") => read_npy(file, corpus),
            Some("arrow") => table::read_arrow(file, &column, corpus),
            Some("parquet") => table::read_parquet(file, &column, corpus),
            _ => {
                let expected = ".bin, .npy, .arrow or .parquet (dataset.kind = \"tokens\")".into();
                let found = extension.map_or_else(|| "no extension".into(), |e| format!(".{e}"));
                Err(TokensError::Format { path: file.to_owned(), expected, found })
            }
        }
    })?;
    layout.lay(corpus.finish(), &files)
}

/// Adds raw ids. What is read later, row by row, is the map.
fn read_bin(path: &Path, dtype: Option<TokenType>, corpus: &mut CorpusBuilder) -> Result<(), TokensError> {
    let dtype = dtype.ok_or_else(|| TokensError::NoDtype { path: path.to_owned() })?;
    let (number, word) = match dtype {
        TokenType::U16 => (Number::U16, "u16"),
        TokenType::U32 => (Number::U32, "u32"),
    };
    let bytes = map_file(path).map_err(|source| TokensError::Read { path: path.to_owned(), source })?;
    if bytes.len() % number.width() != 0 {
        let (width, bytes) = (number.width(), bytes.len() as u64);
        return Err(TokensError::OddSize { path: path.to_owned(), dtype: word, width, bytes });
    }
    corpus.map(path, bytes, number, None)
}

/// Adds an array: one dimension is a stream, of two each row is a document.
fn read_npy(path: &Path, corpus: &mut CorpusBuilder) -> Result<(), TokensError> {
    let bytes = map_file(path).map_err(|source| TokensError::Read { path: path.to_owned(), source })?;
    let array = npy::read(path, bytes)?;
    corpus.map(path, array.payload, array.number, array.shape.get(1).copied())
}

impl<'a> Layout<'a> {
    /// For documents whose ids are the tokenizer's.
    fn of_text(
        rows: &'a RowsConfig,
        split: Option<&'a SplitConfig>,
        limit: Option<u64>,
        tokenizer: Option<&'a Tokenizer>,
    ) -> Self {
        let vocabulary = tokenizer.map(|tokenizer| tokenizer.identity().size);
        Self { rows, split, limit, tokenizer, vocabulary, separator: None, of_text: true, chat: None }
    }

    fn corpus(&self) -> CorpusBuilder {
        // Which documents are of a part depends on how many there are.
        let limit = self.limit.filter(|_| self.split.is_none());
        let wanted = limit.map(|limit| Wanted::new(self.rows, limit));
        CorpusBuilder::new(self.vocabulary, self.separator, wanted)
    }

    /// What stands between documents.
    fn end(&self) -> Result<Option<u32>, TokensError> {
        if self.rows.packing == Packing::Document {
            return Ok(None);
        }
        let Some(name) = &self.rows.end_of_document else {
            return Ok(self.separator.or_else(|| self.tokenizer?.end()));
        };
        token("end_of_document", name, self.tokenizer, self.vocabulary).map(Some)
    }

    /// What a person should know of documents: what stands between them, and what does not before them.
    fn notes(&self, corpus: &Corpus, end: Option<u32>) -> Vec<String> {
        let word = |id: u32| match self.tokenizer {
            Some(tokenizer) => format!("{:?} (id {id})", tokenizer.text(id)),
            None => format!("id {id}"),
        };
        let between = match end {
            _ if self.rows.packing == Packing::Document => None,
            Some(end) => Some(format!("dataset: between documents stands {}", word(end))),
            None => Some("dataset: nothing stands between documents (rows.end_of_document)".to_owned()),
        };
        let begin = self.own_begin(corpus).map(|begin| {
            format!(
                "warning: the tokenizer puts {} before a text, and documents begin without: a teacher that was trained with it wants \
                 dataset.rows.begin_of_document = {:?}",
                word(begin),
                self.tokenizer.map(|tokenizer| tokenizer.text(begin)).unwrap_or_default()
            )
        });
        let chats = self.chat.map(ChatTemplate::note);
        between.into_iter().chain(begin).chain(chats).collect()
    }

    /// What a tokenizer of text would put before a document, where nothing is, and where the first does not have it written out.
    fn own_begin(&self, corpus: &Corpus) -> Option<u32> {
        // What a chat begins with is its template's.
        let own_words = self.of_text && self.chat.is_none() && self.rows.begin_of_document.is_none();
        let own = self.tokenizer.filter(|_| own_words)?.own_begin()?;
        let mut first = Vec::new();
        let document = (0..corpus.len()).find(|document| corpus.document_len(*document) > 0)?;
        corpus.read(document, 0, 1, &mut first);
        (first != [own]).then_some(own)
    }

    /// Documents as rows.
    fn lay(&self, mut corpus: Corpus, files: &[PathBuf]) -> Result<Rows, TokensError> {
        if corpus.len() == 0 {
            return Err(TokensError::Empty { files: files.len() });
        }
        if let Some(split) = self.split {
            split::apply(&mut corpus, split)?;
        }
        let end = self.end()?;
        let mut plan = Plan::new(&corpus, self.rows, end);
        if plan.len() == 0 {
            let (tokens, length) = (plan.tokens(&corpus), self.rows.length);
            return Err(TokensError::NoRows { tokens, length });
        }
        if let Some(limit) = self.limit {
            if limit > plan.len() {
                return Err(TokensError::Limit { rows: plan.len(), limit });
            }
            plan.truncate(limit);
        }
        let meaning = Meaning {
            vocabulary: self.vocabulary,
            tokenizer: self.tokenizer.map(|tokenizer| tokenizer.identity().clone()),
            end_of_document: end,
            notes: self.notes(&corpus, end),
        };
        Ok(Rows::new(corpus, plan, meaning))
    }
}
