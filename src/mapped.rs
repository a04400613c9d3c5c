//! Maps files read-only: the only `unsafe` of the crate where no GPU and no libtorch is spoken to (see SAFETY.md).

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
#[cfg(unix)]
use memmap2::Advice;
use memmap2::Mmap;

/// Bytes that are asked for at a time: of more, kernels may read the beginning only (Linux as much as the disk reads
/// ahead, 128 KiB unless it says otherwise).
#[cfg(unix)]
const PIECE: usize = 128 << 10;

/// A file's bytes, read by the kernel page by page when they are touched.
///
/// The bytes are shared, not copied, when the value is cloned. A file that another process
/// truncates while it is mapped ends this process with SIGBUS; files of a cache are never
/// changed in place by this crate (they are written beside and renamed).
#[derive(Clone, Debug)]
pub struct Mapped(Option<Arc<Mmap>>);

impl Mapped {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// Whatever opening or mapping the file returns.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the map is read-only and its bytes are only ever parsed with checks; no reference
        // outlives the `Arc` that owns the map. What remains, a truncation by somebody else, is
        // stated above.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(Some(Arc::new(map))))
    }

    /// All of it.
    pub fn bytes(&self) -> Bytes {
        self.0.as_ref().map_or_else(Bytes::new, |map| Bytes::from_owner(Shared(Arc::clone(map))))
    }

    /// Says that touching one page is no sign that its neighbours are wanted: the kernel reads no more than is touched,
    /// or asked for by [`Self::will_need`]. A hint: where it is not taken, reading is slower.
    pub fn no_neighbours(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            _ = map.advise(Advice::Random);
        }
    }

    /// Asks the kernel to read `part`, which lies in the map, without waiting for it. A hint, as above.
    #[cfg_attr(not(unix), expect(unused_variables, reason = "there is nobody to ask"))]
    pub fn will_need(&self, part: &[u8]) {
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            let offset = (part.as_ptr() as usize).wrapping_sub(map.as_ptr() as usize);
            if offset < map.len() && part.len() <= map.len() - offset {
                for at in (0..part.len()).step_by(PIECE) {
                    _ = map.advise_range(Advice::WillNeed, offset + at, PIECE.min(part.len() - at));
                }
            }
        }
    }
}

/// So many bytes ahead of where it reads, a loop asks for memory: the processor's own fetching ahead ends with a page, and so
/// little is kept until it is read by a cache of the second level.
pub const AHEAD: usize = 32 << 10;

/// Asks the processor for the lines that hold `values`, without waiting for them: who then reads values from many places finds
/// them on their way. A hint: nothing happens where the processor or its compiler has none, or where no page is there yet.
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "there is nobody to ask"))]
pub fn fetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        /// Bytes.
        const LINE: usize = 64;
        let place = values.as_ptr().cast::<i8>();
        let ask = |at: usize| {
            // SAFETY: a prefetch reads nothing that a program could see and faults nowhere.
            #[allow(unsafe_code)]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(place.wrapping_add(at));
            }
        };
        let Some(last) = size_of_val(values).checked_sub(1) else { return };
        // Nearly always all lines that there are; of others every 64th byte lies in one each.
        ask(0);
        ask(last);
        (LINE..last).step_by(LINE).for_each(ask);
    }
}

/// A map as the owner of bytes.
struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The bytes of the file at `path`, [`Mapped`].
///
/// # Errors
/// Whatever opening or mapping the file returns.
pub fn map_file(path: &Path) -> io::Result<Bytes> {
    Mapped::open(path).map(|map| map.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_changes_no_byte_and_takes_any_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let written: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &written).unwrap();
        let map = Mapped::open(&path).unwrap();
        let bytes = map.bytes();
        map.no_neighbours();
        for part in [&bytes[..], &bytes[5000..5001], &bytes[19_999..], &bytes[..0], &written[..100]] {
            map.will_need(part);
        }
        drop(map);
        fetch(&bytes[..0]);
        fetch(&bytes);
        assert_eq!(bytes, written);
        std::fs::write(&path, []).unwrap();
        let map = Mapped::open(&path).unwrap();
        map.no_neighbours();
        map.will_need(&written);
        assert!(map.bytes().is_empty());
    }
}
