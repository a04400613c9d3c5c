//! Whether a file is the one that the manifest has.

use std::path::Path;

use super::CacheError;
use crate::digest::Digest;

/// Reads all of the file `file` of the cache in `dir`, which should have so many `bytes` of this `digest`.
///
/// # Errors
/// [`CacheError::Read`], and [`CacheError::Damaged`] naming what was expected and found.
pub(super) fn check_file(dir: &Path, file: &str, bytes: u64, digest: &Digest) -> Result<(), CacheError> {
    let path = dir.join(file);
    let found = Digest::of_file(&path).map_err(|source| CacheError::Read { path: path.clone(), source })?;
    if found == *digest {
        return Ok(());
    }
    let expected = format!("{digest} ({bytes} bytes)");
    Err(CacheError::Damaged { path, what: "content".into(), expected, found: found.to_string() })
}
