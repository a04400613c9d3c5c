//! Reads a file of lines while it grows.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use crate::durable;
use crate::tracking::{Line, LineKind};

/// Bytes that are read at once: some thousand lines.
const AT_ONCE: u64 = 1 << 20;
/// Lines that are taken at once.
const LINES: usize = 100;

/// A file of lines, read up to some place.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    kind: LineKind,
    offset: u64,
}

/// The next lines, and the place after them.
pub(super) struct Next {
    pub(super) lines: Vec<Line>,
    offset: u64,
}

impl Tail {
    pub(super) fn new(path: PathBuf, kind: LineKind) -> Self {
        Self { path, kind, offset: 0 }
    }

    /// The next lines that are whole; `None` where there are none yet. They come again until [`Self::done`].
    pub(super) fn next(&self) -> io::Result<Option<Next>> {
        let Some(mut file) = durable::if_there(File::open(&self.path))? else { return Ok(None) };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(AT_ONCE).read_to_end(&mut bytes)?;
        let mut next = Next { lines: Vec::new(), offset: self.offset };
        for line in bytes.split_inclusive(|byte| *byte == b'\n').take(LINES) {
            let Some(whole) = line.strip_suffix(b"\n") else { break };
            next.offset += line.len() as u64;
            next.lines.extend(str::from_utf8(whole).ok().and_then(|text| Line::parse(text, self.kind)));
        }
        Ok((next.offset > self.offset).then_some(next))
    }

    /// Goes on after `next`.
    pub(super) fn done(&mut self, next: &Next) {
        self.offset = next.offset;
    }
}
