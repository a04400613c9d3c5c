//! One writer per cache.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::format::{BUILD_FOLDER, LOCK_FILE};
use super::{CacheError, durable};

/// Held while a process writes into a cache; the system releases it however the process ends.
#[derive(Debug)]
pub struct WriterLock {
    file: File,
    path: PathBuf,
}

impl WriterLock {
    /// Takes the lock of the cache in `dir`, making the folder where needed.
    ///
    /// # Errors
    /// [`CacheError::Locked`] when another process has it, [`CacheError::Write`] when the
    /// folder or the lock file cannot be made.
    pub fn acquire(dir: &Path) -> Result<Self, CacheError> {
        let folder = dir.join(BUILD_FOLDER);
        let path = folder.join(LOCK_FILE);
        loop {
            durable::create_folder(&folder)?;
            let write_error = |source| CacheError::Write { path: path.clone(), source };
            let opened = File::options().create(true).truncate(false).write(true).open(&path);
            let file = match opened {
                Ok(file) => file,
                // A builder that has just finished took the folder away in between.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(write_error(error)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(CacheError::Locked { path: dir.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(write_error(source)),
            }
            // The lock counts only if it is on the file that others will find.
            if same_file(&file, &path) {
                return Ok(Self { file, path });
            }
        }
    }

    /// Removes the build folder, lock included, once nothing in it is needed any more.
    ///
    /// # Errors
    /// [`CacheError::Write`].
    pub fn finish(self) -> Result<(), CacheError> {
        let folder = self.path.parent().unwrap_or(&self.path);
        fs::remove_dir_all(folder).map_err(|source| CacheError::Write { path: folder.to_owned(), source })
    }
}

impl Drop for WriterLock {
    /// Closing would do, but for a program that is just being started: until it runs, it has a copy of the file and
    /// with it the lock.
    fn drop(&mut self) {
        drop(self.file.unlock());
    }
}

#[cfg(unix)]
fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => a.ino() == b.ino() && a.dev() == b.dev(),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same_file(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_writer_is_refused_until_the_first_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let first = WriterLock::acquire(dir.path()).unwrap();
        assert!(matches!(WriterLock::acquire(dir.path()), Err(CacheError::Locked { .. })));
        drop(first);
        WriterLock::acquire(dir.path()).unwrap().finish().unwrap();
        assert!(!dir.path().join(BUILD_FOLDER).exists());
        WriterLock::acquire(dir.path()).unwrap();
    }
}
