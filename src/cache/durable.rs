//! Writes files so that after a crash they are there whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::CacheError;

/// Suffix of files that are being written; never part of a cache.
pub(super) const TEMPORARY: &str = ".tmp";

/// Writes `bytes` to `path`: beside it, flushed to the disk, renamed, and the folder flushed.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(TEMPORARY);
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder(path));
    written.map_err(|source| {
        // A half-written file is of no use, and on a full disk its space is.
        drop(fs::remove_file(&temporary));
        CacheError::Write { path: path.to_owned(), source }
    })
}

/// Appends `bytes` to `path` and flushes them to the disk.
pub(super) fn append(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let open = || fs::OpenOptions::new().create(true).append(true).open(path);
    let appended = open().and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    appended.map_err(|source| CacheError::Write { path: path.to_owned(), source })
}

/// Makes a folder and its parents.
pub(super) fn create_folder(path: &Path) -> Result<(), CacheError> {
    fs::create_dir_all(path)
        .and_then(|()| sync_folder(path))
        .map_err(|source| CacheError::Write { path: path.to_owned(), source })
}

/// Flushes the entries of the folder that `path` lies in.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // Folders can be opened and flushed on Unix only; elsewhere the rename has to do.
    if cfg!(unix) { File::open(parent)?.sync_all() } else { Ok(()) }
}
