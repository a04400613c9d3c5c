//! Files that were packed as a whole, by gzip or zstd: known by how they begin, whatever they are called.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

/// Magic and the one method that there is (RFC 1952).
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// RFC 8878.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How a file was packed.
enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    /// Of a file that begins with `start`; `None` where it was not.
    fn of(start: &[u8]) -> Option<Self> {
        match start {
            _ if start.starts_with(&GZIP_MAGIC) => Some(Self::Gzip),
            _ if start.starts_with(&ZSTD_MAGIC) => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Bytes of a file that are asked for at once.
const READ_BYTES: usize = 1 << 18;

/// The bytes of the file at `path`, of a packed one what is in it. It is opened once: what comes through a pipe comes once.
///
/// # Errors
/// The system's; what is damaged is told when it is read.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    file.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut start)?;
    let packing = Packing::of(&start);
    let whole = BufReader::with_capacity(READ_BYTES, Cursor::new(start).chain(file));
    Ok(match packing {
        Some(Packing::Gzip) => Box::new(BufReader::new(MultiGzDecoder::new(whole))),
        Some(Packing::Zstd) => Box::new(BufReader::new(zstd::Decoder::with_buffer(whole)?)),
        None => Box::new(whole),
    })
}

/// What the file at `path` unpacks to; `None` where it is not packed.
///
/// # Errors
/// As [`open`].
pub(super) fn unpacked(path: &Path) -> io::Result<Option<Box<dyn BufRead>>> {
    let mut start = Vec::new();
    File::open(path)?.take(ZSTD_MAGIC.len() as u64).read_to_end(&mut start)?;
    Packing::of(&start).map(|_| open(path)).transpose()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn files_are_known_by_how_they_begin() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"first ").unwrap();
        let mut twice = gzip.finish().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"second").unwrap();
        twice.extend(gzip.finish().unwrap());
        let mut frames = zstd::encode_all(&b"first "[..], 1).unwrap();
        frames.extend(zstd::encode_all(&b"second"[..], 1).unwrap());
        for (name, bytes) in [("a.txt", &twice), ("b", &frames)] {
            std::fs::write(at(name), bytes).unwrap();
            let mut text = String::new();
            unpacked(&at(name)).unwrap().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "first second", "{name}");
            std::fs::write(at(name), &bytes[..bytes.len() - 9]).unwrap();
            assert!(unpacked(&at(name)).unwrap().unwrap().read_to_string(&mut text).is_err(), "{name}");
        }
        for plain in [&b""[..], b"{}", b"plain text"] {
            std::fs::write(at("c.gz"), plain).unwrap();
            assert!(unpacked(&at("c.gz")).unwrap().is_none());
            let mut same = Vec::new();
            open(&at("c.gz")).unwrap().read_to_end(&mut same).unwrap();
            assert_eq!(same, plain);
        }
    }
}
