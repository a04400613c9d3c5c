//! One writer per cache.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::format::{BUILD_FOLDER, LOCK_FILE};
use super::{CacheError, durable};
use crate::durable::is_not_offered;

/// What a network file system calls a file that was removed while it was open begins so.
const REMOVED_OPEN: &str = ".nfs";

/// Held while a process writes into a cache; the system releases it however the process ends. Where a file system knows no locks
/// nobody is kept out.
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
                Err(TryLockError::Error(source)) if is_not_offered(&source) => {}
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
    /// [`CacheError::Write`]: of what else is in it something cannot be removed.
    pub fn finish(self) -> Result<(), CacheError> {
        let folder = self.path.parent().unwrap_or(&self.path).to_owned();
        let failed = |source| CacheError::Write { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name != LOCK_FILE && !name.to_string_lossy().starts_with(REMOVED_OPEN) {
                let is_folder = entry.file_type().map_err(failed)?.is_dir();
                let remove = if is_folder { fs::remove_dir_all } else { fs::remove_file };
                remove(entry.path()).map_err(failed)?;
            }
        }
        // Removed while it is held, or somebody else could take it in between. A network file system keeps it in the folder as long
        // as it is open, and the folder with it; one that stays is empty, and the next writer takes it away.
        drop(fs::remove_file(&self.path));
        if fs::remove_dir(&folder).is_err() {
            drop(self);
            drop(fs::remove_dir(&folder));
        }
        Ok(())
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

    #[test]
    fn a_folder_that_cannot_go_yet_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let build = dir.path().join(BUILD_FOLDER);
        let lock = WriterLock::acquire(dir.path()).unwrap();
        let kept = build.join(".nfs0000000000001");
        for path in [&kept, &build.join("plan.json")] {
            fs::write(path, "").unwrap();
        }
        lock.finish().unwrap();
        let left: Vec<_> = fs::read_dir(&build).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [kept]);
        // Nobody has it any more.
        WriterLock::acquire(dir.path()).unwrap();
    }
}
