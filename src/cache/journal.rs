//! The journal of an unfinished build: a line for each committed shard.

use std::fs;
use std::path::Path;

use super::{CacheError, ShardEntry, durable};

/// The journal's whole lines; a torn last line is a shard that was never committed.
pub(super) fn read(path: &Path) -> Result<Vec<ShardEntry>, CacheError> {
    let text = durable::if_there(path, fs::read(path))?.unwrap_or_default();
    let lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    Ok(lines.map_while(|line| serde_json::from_slice(line).ok()).collect())
}

/// Adds a line, and with it commits the shard.
pub(super) fn append(path: &Path, entry: &ShardEntry) -> Result<(), CacheError> {
    durable::append(path, &lines(path, std::slice::from_ref(entry))?)
}

/// Replaces the journal, where it was torn or says more than is there.
pub(super) fn rewrite(path: &Path, entries: &[ShardEntry]) -> Result<(), CacheError> {
    durable::write_file(path, &lines(path, entries)?)
}

fn lines(path: &Path, entries: &[ShardEntry]) -> Result<Vec<u8>, CacheError> {
    let mut text = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut text, entry)
            .map_err(|error| CacheError::Json { path: path.to_owned(), problem: error.to_string() })?;
        text.push(b'\n');
    }
    Ok(text)
}
