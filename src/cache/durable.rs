//! [`crate::durable`] with this room's errors.

use std::io;
use std::path::Path;

use super::CacheError;
use crate::durable;

/// Suffix of files that are being written; never part of a cache.
pub(super) const TEMPORARY: &str = durable::TEMPORARY;

/// See [`durable::write_file`].
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    named(path, durable::write_file(path, bytes))
}

/// See [`durable::append`].
pub(super) fn append(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    named(path, durable::append(path, bytes))
}

/// See [`durable::create_folder`].
pub(super) fn create_folder(path: &Path) -> Result<(), CacheError> {
    named(path, durable::create_folder(path))
}

/// See [`durable::rename`].
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), CacheError> {
    named(to, durable::rename(from, to))
}

/// See [`durable::if_there`]; `path` is what was opened.
pub(super) fn if_there<T>(path: &Path, opened: io::Result<T>) -> Result<Option<T>, CacheError> {
    durable::if_there(opened).map_err(|source| CacheError::Read { path: path.to_owned(), source })
}

fn named(path: &Path, written: io::Result<()>) -> Result<(), CacheError> {
    written.map_err(|source| CacheError::Write { path: path.to_owned(), source })
}
