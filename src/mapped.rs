//! Maps files read-only: the only `unsafe` of the crate outside the GPU loader in `libtorch` (see SAFETY.md).

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

/// A file's bytes, read by the kernel page by page when they are touched.
///
/// The bytes are shared, not copied, when the value is cloned. A file that another process
/// truncates while it is mapped ends this process with SIGBUS; files of a cache are never
/// changed in place by this crate (they are written beside and renamed).
///
/// # Errors
/// Whatever opening or mapping the file returns.
pub fn map_file(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read-only and its bytes are only ever parsed with checks; no reference
    // outlives the `Bytes` that owns the map. What remains, a truncation by somebody else, is
    // stated above.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}
