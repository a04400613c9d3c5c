//! Files that were packed as a whole, by gzip or zstd: known by how they begin, whatever they are called.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

/// Magic and the one method that there is (RFC 1952).
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// RFC 8878.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What the file at `path` unpacks to; `None` where it is not packed.
///
/// # Errors
/// The system's; what is damaged is told when it is read.
pub(super) fn unpacked(path: &Path) -> io::Result<Option<Box<dyn BufRead>>> {
    let mut start = [0u8; 4];
    match File::open(path)?.read_exact(&mut start) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    if start.starts_with(&GZIP_MAGIC) {
        let stream = MultiGzDecoder::new(BufReader::new(File::open(path)?));
        return Ok(Some(Box::new(BufReader::new(stream))));
    }
    if start == ZSTD_MAGIC {
        let stream = zstd::Decoder::new(File::open(path)?)?;
        return Ok(Some(Box::new(BufReader::new(stream))));
    }
    Ok(None)
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
        }
    }
}
