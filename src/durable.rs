//! Files that after a crash are there whole or not at all, and how what may not be there is read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Suffix of files that are being written.
pub const TEMPORARY: &str = ".tmp";

/// Writes `bytes` to `path`: beside it, flushed to the disk, renamed, and the folder flushed.
///
/// # Errors
/// Whatever creating, writing, flushing or renaming returns; nothing half-written is left.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_file(path, |temporary| File::create(temporary)?.write_all(bytes))
}

/// Has `write` make the file beside `path`, then puts it in `path`'s place as [`write_file`] does.
///
/// # Errors
/// What `write` returns, and whatever flushing or renaming does; nothing half-written is left.
pub fn replace_file<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(TEMPORARY);
    let temporary = path.with_file_name(name);
    let flush = || {
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path)
    };
    let written = write(&temporary).and_then(|()| flush().map_err(E::from));
    if written.is_err() {
        // A half-written file is of no use, and on a full disk its space is.
        drop(fs::remove_file(&temporary));
    }
    written
}

/// Copies the file at `from` to `path`, which is replaced as [`write_file`] does.
///
/// # Errors
/// Whatever copying, flushing or renaming returns; nothing half-written is left.
pub fn copy_file(from: &Path, path: &Path) -> io::Result<()> {
    replace_file(path, |temporary| fs::copy(from, temporary).map(|_| ()))
}

/// Appends `bytes` to `path` and flushes them to the disk.
///
/// # Errors
/// Whatever opening, writing or flushing returns.
pub fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What was opened or read; `None` where nothing is there.
///
/// # Errors
/// Whatever else opening or reading returned.
pub fn if_there<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Gives the file at `from` the name `to`, on the same file system, and flushes both folders.
///
/// # Errors
/// Whatever renaming or flushing returns.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(to)?;
    sync_folder(from)
}

/// Makes a folder and its parents.
///
/// # Errors
/// Whatever making or flushing returns.
pub fn create_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    sync_folder(path)
}

/// Flushes the entries of the folder that `path` lies in.
fn sync_folder(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // Folders can be opened and flushed on Unix only, and not on every file system there; elsewhere the rename has to do.
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(parent)?.sync_all() {
        Err(error) if is_not_offered(&error) => Ok(()),
        flushed => flushed,
    }
}

/// Whether a file system said that it does not do what it was asked for, rather than that it failed.
pub fn is_not_offered(error: &io::Error) -> bool {
    /// `ENOLCK`, on Linux: NFS without a lock daemon.
    const NO_LOCKS: i32 = 37;
    let kind = matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput);
    kind || cfg!(target_os = "linux") && error.raw_os_error() == Some(NO_LOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_no_error_and_what_cannot_be_read_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(if_there(fs::read(dir.path().join("a"))).unwrap(), None);
        assert!(if_there(fs::read(dir.path())).is_err());
        fs::write(dir.path().join("a"), "b").unwrap();
        assert_eq!(if_there(fs::read(dir.path().join("a"))).unwrap().unwrap(), b"b");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_file(&path, b"old").unwrap();
        let failed = replace_file(&path, |temporary| {
            fs::write(temporary, b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "disk full");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
