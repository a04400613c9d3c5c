//! All documents of a dataset: where each one's tokens lie.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::TokensError;
use super::pack::Wanted;

/// Numbers of a mapped file that are looked at in one go. Tests, whose files are small, have many goes.
const PIECE: usize = if cfg!(test) { 1 << 7 } else { 1 << 24 };
/// How many ids fit in two bytes.
const TWO_BYTES: u64 = 1 << 16;

/// Tokens one after another, in memory or in a mapped file.
pub(super) enum Tokens {
    /// Two bytes each.
    Narrow(Vec<u16>),
    /// Four bytes each.
    Wide(Vec<u32>),
    /// Little-endian numbers of a file, read where they lie: nothing is copied, and nothing is aligned.
    Mapped(Bytes, Number),
}

/// A type of little-endian whole numbers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    U8,
    U16,
    I32,
    U32,
    I64,
    U64,
}

impl Number {
    /// Bytes of one number.
    pub(super) fn width(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::I32 | Self::U32 => 4,
            Self::I64 | Self::U64 => 8,
        }
    }

    /// The numbers in `bytes`, none of which is lost: what exceeds an `i64` is its largest.
    fn each(self, bytes: &[u8], mut see: impl FnMut(i64)) {
        macro_rules! read {
            ($type:ty) => {
                bytes.as_chunks().0.iter().for_each(|chunk| {
                    see(i64::try_from(<$type>::from_le_bytes(*chunk)).unwrap_or(i64::MAX));
                })
            };
        }
        match self {
            Self::U8 => read!(u8),
            Self::U16 => read!(u16),
            Self::I32 => read!(i32),
            Self::U32 => read!(u32),
            Self::I64 => read!(i64),
            Self::U64 => read!(u64),
        }
    }
}

impl Tokens {
    /// An empty buffer for ids below `vocabulary`.
    fn for_vocabulary(vocabulary: Option<u32>) -> Self {
        match vocabulary {
            Some(size) if u64::from(size) <= TWO_BYTES => Self::Narrow(Vec::new()),
            _ => Self::Wide(Vec::new()),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Narrow(tokens) => tokens.len() as u64,
            Self::Wide(tokens) => tokens.len() as u64,
            Self::Mapped(bytes, number) => (bytes.len() / number.width()) as u64,
        }
    }

    /// Appends the `len` tokens from `start` on to `out`.
    fn read(&self, start: usize, len: usize, out: &mut Vec<u32>) {
        match self {
            Self::Narrow(tokens) => out.extend(tokens[start..start + len].iter().map(|t| u32::from(*t))),
            Self::Wide(tokens) => out.extend_from_slice(&tokens[start..start + len]),
            Self::Mapped(bytes, number) => {
                let width = number.width();
                // Every number was seen when the file was opened, and is an id.
                number.each(&bytes[start * width..(start + len) * width], |token| out.push(token as u32));
            }
        }
    }
}

/// A document's place.
#[derive(Clone, Copy)]
struct Span {
    file: u32,
    start: u64,
    len: u64,
}

/// Documents in order, none of them empty.
pub(super) struct Corpus {
    /// What was tokenised or decoded, and behind it the mapped files.
    tokens: Vec<Tokens>,
    spans: Vec<Span>,
}

impl Corpus {
    /// Number of documents.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Tokens of a document.
    pub(super) fn document_len(&self, document: usize) -> u64 {
        self.spans[document].len
    }

    /// Appends `len` tokens of a document, from its token `start` on.
    pub(super) fn read(&self, document: usize, start: u64, len: usize, out: &mut Vec<u32>) {
        let span = self.spans[document];
        self.tokens[span.file as usize].read((span.start + start) as usize, len, out);
    }

    /// Leaves only the documents for which `keep` holds.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut document = 0;
        self.spans.retain(|_| {
            document += 1;
            keep(document - 1)
        });
    }
}

/// Takes documents in order and makes a [`Corpus`] of them.
pub(super) struct CorpusBuilder {
    corpus: Corpus,
    /// Ids are below it.
    size: i64,
    separator: Option<i64>,
    wanted: Option<Wanted>,
}

impl CorpusBuilder {
    /// For ids below `vocabulary`, where it is known; documents are cut at `separator`, where there
    /// is one. Of documents no more need be read than are `wanted`.
    pub(super) fn new(vocabulary: Option<u32>, separator: Option<u32>, wanted: Option<Wanted>) -> Self {
        let corpus = Corpus { tokens: vec![Tokens::for_vocabulary(vocabulary)], spans: Vec::new() };
        let size = vocabulary.map_or(1 << 32, i64::from);
        Self { corpus, size, separator: separator.map(i64::from), wanted }
    }

    /// Whether no more documents are wanted.
    pub(super) fn is_full(&self) -> bool {
        self.is_enough(0)
    }

    /// Whether documents, and `begun` tokens of one that goes on, are all that is wanted.
    fn is_enough(&self, begun: u64) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.is_met(begun))
    }

    /// Adds what `read` finds in each of `files`, as long as more is wanted.
    pub(super) fn add_files(
        &mut self,
        files: &[PathBuf],
        read: impl Fn(&Path, &mut Self) -> Result<(), TokensError>,
    ) -> Result<(), TokensError> {
        for file in files {
            if self.is_full() {
                break;
            }
            read(file, self)?;
        }
        Ok(())
    }

    /// How much to read before looking at [`Self::is_full`], `most` where everything is wanted.
    pub(super) fn at_once(&self, most: usize) -> usize {
        if self.wanted.is_some() { most / 16 } else { most }
    }

    /// Adds what row `row` of `path` holds.
    pub(super) fn push(
        &mut self,
        path: &Path,
        row: u64,
        tokens: impl Iterator<Item = i64>,
    ) -> Result<(), TokensError> {
        let (size, separator) = (self.size, self.separator);
        let mut start = self.corpus.tokens[0].len();
        let mut cuts = Vec::new();
        for token in tokens {
            if token < 0 || token >= size {
                return Err(outside(path, row, token, size));
            }
            if Some(token) == separator {
                let end = self.corpus.tokens[0].len();
                cuts.push((start, end));
                start = end;
                continue;
            }
            match &mut self.corpus.tokens[0] {
                // Below the vocabulary, for which the buffer was chosen.
                Tokens::Narrow(buffer) => buffer.push(token as u16),
                Tokens::Wide(buffer) => buffer.push(token as u32),
                Tokens::Mapped(..) => {}
            }
        }
        cuts.push((start, self.corpus.tokens[0].len()));
        self.cut(0, &cuts);
        Ok(())
    }

    /// Adds a mapped file: parts of `per_document` numbers (or all of it), each cut at the
    /// separator.
    pub(super) fn map(
        &mut self,
        path: &Path,
        bytes: Bytes,
        number: Number,
        per_document: Option<u64>,
    ) -> Result<(), TokensError> {
        let (size, separator) = (self.size, self.separator);
        let total = (bytes.len() / number.width()) as u64;
        let per_document = per_document.unwrap_or(total).max(1);
        let file = self.corpus.tokens.len();
        let mut cuts = Vec::new();
        let (mut at, mut start) = (0u64, 0u64);
        let mut wrong = None;
        for piece in bytes.chunks(self.at_once(PIECE) * number.width()) {
            number.each(piece, |token| {
                if at % per_document == 0 && at > start {
                    cuts.push((start, at));
                    start = at;
                }
                if token < 0 || token >= size {
                    wrong = wrong.or(Some((at, token)));
                } else if Some(token) == separator {
                    cuts.push((start, at));
                    start = at + 1;
                }
                at += 1;
            });
            if let Some((at, token)) = wrong {
                return Err(outside(path, at, token, size));
            }
            self.cut(file, &cuts);
            cuts.clear();
            // The document that is being read goes on behind what is wanted of it.
            if self.is_enough(at - start) {
                break;
            }
        }
        self.cut(file, &[(start, at)]);
        // What nobody has looked at is not there.
        let seen = bytes.slice(..at as usize * number.width());
        self.corpus.tokens.push(Tokens::Mapped(seen, number));
        Ok(())
    }

    /// Adds the documents between `cuts`; one without tokens is none.
    fn cut(&mut self, file: usize, cuts: &[(u64, u64)]) {
        for (start, end) in cuts.iter().filter(|(start, end)| end > start) {
            let len = end - start;
            self.corpus.spans.push(Span { file: file as u32, start: *start, len });
            if let Some(wanted) = &mut self.wanted {
                wanted.add(len);
            }
        }
    }

    pub(super) fn finish(self) -> Corpus {
        self.corpus
    }
}

fn outside(path: &Path, row: u64, token: i64, size: i64) -> TokensError {
    TokensError::Token { path: path.to_owned(), row, token, vocabulary: size as u64 }
}
