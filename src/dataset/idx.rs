//! IDX, the format of the MNIST family.
//!
//! ```text
//! 0  0x00 0x00
//! 2  type code: 0x08 = unsigned byte
//! 3  number of dimensions, n
//! 4  n × u32 big-endian: dimensions, samples first
//!    payload, row-major
//! ```
//!
//! Source: the description on the MNIST database's page by LeCun, Cortes and Burges.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;

use super::{Dataset, DatasetError, Sample, packed};
use crate::digest::{Digest, Hasher};
use crate::ids::SampleId;
use crate::mapped::map_file;

const UNSIGNED_BYTE: u8 = 0x08;
/// Samples are images with channels at most: `[samples, height, width, channels]`.
const MAX_DIMENSIONS: usize = 4;

/// An IDX file's dimensions and payload.
struct Idx {
    shape: Vec<usize>,
    payload: Bytes,
}

/// Samples and labels in IDX files; sample ids are indices into the file.
pub(super) struct IdxDataset {
    samples: u64,
    sample_shape: Vec<usize>,
    sample_bytes: usize,
    payload: Bytes,
    labels: Option<Bytes>,
    fingerprint: Digest,
    labels_digest: Option<Digest>,
}

impl IdxDataset {
    pub(super) fn open(
        images: &Path,
        labels: Option<&Path>,
        limit: Option<u64>,
    ) -> Result<Self, DatasetError> {
        let mut idx = read_idx(images, 2..=MAX_DIMENSIONS)?;
        let in_file = idx.shape[0] as u64;
        if in_file == 0 || idx.shape.contains(&0) {
            return Err(DatasetError::Format {
                path: images.to_owned(),
                expected: "at least one sample of at least one value".into(),
                found: format!("dimensions {:?}", idx.shape),
            });
        }
        let samples = match limit {
            Some(limit) if limit > in_file => {
                return Err(DatasetError::Limit { path: images.to_owned(), samples: in_file, limit });
            }
            Some(limit) => limit,
            None => in_file,
        };
        let sample_shape = idx.shape.split_off(1);
        let sample_bytes = sample_shape.iter().product::<usize>();
        let payload = idx.payload.slice(..sample_bytes * samples as usize);
        let labels = labels
            .map(|path| {
                let labels = read_idx(path, 1..=1)?;
                if labels.shape[0] as u64 != in_file {
                    return Err(DatasetError::Format {
                        path: path.to_owned(),
                        expected: format!("{in_file} labels, one for each sample of {}", images.display()),
                        found: format!("{}", labels.shape[0]),
                    });
                }
                Ok(labels.payload.slice(..samples as usize))
            })
            .transpose()?;
        let mut hasher = Hasher::new();
        hasher.update(b"idx-u8");
        for dimension in std::iter::once(samples).chain(sample_shape.iter().map(|d| *d as u64)) {
            hasher.update(&dimension.to_le_bytes());
        }
        hasher.update(&payload);
        Ok(Self {
            samples,
            sample_shape,
            sample_bytes,
            payload,
            labels_digest: labels.as_ref().map(|labels| Digest::of_bytes(labels)),
            labels,
            fingerprint: hasher.finish(),
        })
    }

    fn index(&self, id: SampleId) -> Result<usize, DatasetError> {
        match usize::try_from(id.0) {
            Ok(index) if id.0 < self.samples => Ok(index),
            _ => Err(DatasetError::NoSuchSample { sample: id, samples: self.samples }),
        }
    }
}

impl Dataset for IdxDataset {
    fn len(&self) -> u64 {
        self.samples
    }

    fn sample_shape(&self) -> &[usize] {
        &self.sample_shape
    }

    fn id_at(&self, index: u64) -> SampleId {
        SampleId(index)
    }

    fn sample(&self, id: SampleId) -> Result<Sample<'_>, DatasetError> {
        let start = self.index(id)? * self.sample_bytes;
        let bytes = Cow::Borrowed(&self.payload[start..start + self.sample_bytes]);
        Ok(Sample { bytes, shape: Cow::Borrowed(&self.sample_shape) })
    }

    fn label(&self, id: SampleId) -> Result<Option<u32>, DatasetError> {
        let index = self.index(id)?;
        Ok(self.labels.as_ref().map(|labels| u32::from(labels[index])))
    }

    fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    fn labels_digest(&self) -> Option<&Digest> {
        self.labels_digest.as_ref()
    }
}

/// Reads a file, plain or packed, with a number of dimensions in `dimensions`.
fn read_idx(path: &Path, dimensions: std::ops::RangeInclusive<usize>) -> Result<Idx, DatasetError> {
    let read_error = |source| DatasetError::Read { path: path.to_owned(), source };
    if let Some(mut stream) = packed::unpacked(path).map_err(read_error)? {
        let (shape, expected) = read_header(&mut stream, path, &dimensions)?;
        let mut payload = Vec::new();
        let read = stream.take(expected.saturating_add(1)).read_to_end(&mut payload);
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(read_error(error)),
        }
        check_length(path, expected, payload.len() as u64)?;
        return Ok(Idx { shape, payload: payload.into() });
    }
    let bytes = map_file(path).map_err(read_error)?;
    let mut rest: &[u8] = &bytes;
    let (shape, expected) = read_header(&mut rest, path, &dimensions)?;
    check_length(path, expected, rest.len() as u64)?;
    let payload = bytes.slice(bytes.len() - rest.len()..);
    Ok(Idx { shape, payload })
}

/// Shape and payload bytes, as the header promises them.
fn read_header(
    stream: &mut impl Read,
    path: &Path,
    dimensions: &std::ops::RangeInclusive<usize>,
) -> Result<(Vec<usize>, u64), DatasetError> {
    let format = |expected: &str, found: String| DatasetError::Format {
        path: path.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let read = |stream: &mut dyn Read, bytes: &mut [u8]| match stream.read_exact(bytes) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(format("an IDX header", "the end of the file".into()))
        }
        Err(source) => Err(DatasetError::Read { path: path.to_owned(), source }),
    };
    let mut magic = [0u8; 4];
    read(stream, &mut magic)?;
    if magic[..2] != [0, 0] {
        return Err(format("an IDX file (its first two bytes are 0)", format!("{magic:02x?}")));
    }
    if magic[2] != UNSIGNED_BYTE {
        return Err(format("IDX of unsigned bytes (type 0x08)", format!("type {:#04x}", magic[2])));
    }
    let count = usize::from(magic[3]);
    if !dimensions.contains(&count) {
        let expected = format!("IDX with {} to {} dimensions", dimensions.start(), dimensions.end());
        return Err(format(&expected, format!("{count} dimensions")));
    }
    let mut shape = Vec::with_capacity(count);
    let mut bytes = 1u64;
    for _ in 0..count {
        let mut dimension = [0u8; 4];
        read(stream, &mut dimension)?;
        let dimension = u32::from_be_bytes(dimension);
        bytes =
            bytes.checked_mul(u64::from(dimension)).filter(|bytes| *bytes < 1 << 48).ok_or_else(|| {
                format("dimensions of less than 2^48 bytes", format!("{shape:?} × {dimension}"))
            })?;
        shape.push(dimension as usize);
    }
    Ok((shape, bytes))
}

fn check_length(path: &Path, expected: u64, found: u64) -> Result<(), DatasetError> {
    if found == expected {
        return Ok(());
    }
    let found = if found > expected { "more".into() } else { found.to_string() };
    Err(DatasetError::Length { path: path.to_owned(), expected, found })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    fn idx(shape: &[u32], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, UNSIGNED_BYTE, shape.len() as u8];
        bytes.extend(shape.iter().flat_map(|d| d.to_be_bytes()));
        bytes.extend_from_slice(payload);
        bytes
    }

    fn zip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn error(path: &Path) -> String {
        IdxDataset::open(path, None, None).err().unwrap().to_string()
    }

    #[test]
    fn plain_and_gzip_are_the_same_dataset() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = idx(&[3, 2, 2], &(0..12).collect::<Vec<u8>>());
        let labels = write(dir.path(), "l", &idx(&[3], &[7, 8, 9]));
        let plain = IdxDataset::open(&write(dir.path(), "a", &bytes), Some(&labels), None).unwrap();
        let zipped = IdxDataset::open(&write(dir.path(), "a.gz", &zip(&bytes)), None, None).unwrap();
        assert_eq!(plain.fingerprint(), zipped.fingerprint());
        for dataset in [&plain, &zipped] {
            assert_eq!((dataset.len(), dataset.sample_shape()), (3, &[2usize, 2][..]));
            let sample = dataset.sample(SampleId(1)).unwrap();
            assert_eq!((&*sample.bytes, &*sample.shape), (&[4u8, 5, 6, 7][..], &[2usize, 2][..]));
            // Mapped or unzipped, it is lent and not copied.
            assert!(matches!(sample.bytes, Cow::Borrowed(_)));
        }
        assert_eq!(plain.label(SampleId(2)).unwrap(), Some(9));
        assert_eq!(zipped.label(SampleId(2)).unwrap(), None);
        assert!(plain.sample(SampleId(3)).is_err());
    }

    #[test]
    fn a_limit_is_another_dataset() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "a", &idx(&[3, 4], &[1; 12]));
        let whole = IdxDataset::open(&path, None, None).unwrap();
        let part = IdxDataset::open(&path, None, Some(2)).unwrap();
        assert_eq!(part.len(), 2);
        assert_ne!(whole.fingerprint(), part.fingerprint());
        let same = IdxDataset::open(&write(dir.path(), "b", &idx(&[2, 4], &[1; 8])), None, None).unwrap();
        assert_eq!(same.fingerprint(), part.fingerprint());
        let error = IdxDataset::open(&path, None, Some(4)).err().unwrap().to_string();
        assert!(error.contains("at most the 3 samples") && error.contains("found 4"), "{error}");
    }

    #[test]
    fn bad_files_are_named_with_expected_and_found() {
        let dir = tempfile::tempdir().unwrap();
        let good = idx(&[3, 4], &[1; 12]);
        let dir = dir.path();
        assert!(error(&dir.join("none")).contains("cannot read"));
        assert!(error(&write(dir, "short", &good[..20])).contains("promises 12 bytes after it, found 8"));
        assert!(error(&write(dir, "long", &[&good[..], &[0]].concat())).contains("found more"));
        assert!(
            error(&write(dir, "short.gz", &zip(&good[..20]))).contains("promises 12 bytes after it, found 8")
        );
        let torn = zip(&good);
        assert!(error(&write(dir, "torn.gz", &torn[..torn.len() - 12])).contains("truncated"));
        assert!(error(&write(dir, "empty", &[])).contains("the end of the file"));
        assert!(error(&write(dir, "png", b"\x89PNG....")).contains("expected an IDX file"));
        assert!(error(&write(dir, "float", &[0, 0, 0x0d, 2])).contains("type 0x0d"));
        assert!(error(&write(dir, "flat", &idx(&[3], &[1; 3]))).contains("1 dimensions"));
        assert!(error(&write(dir, "huge", &idx(&[u32::MAX, u32::MAX, u32::MAX], &[]))).contains("2^48"));
        assert!(error(&write(dir, "zero", &idx(&[0, 4], &[]))).contains("at least one sample"));
        let labels = write(dir, "labels", &idx(&[2], &[0, 1]));
        let images = write(dir, "images", &good);
        let error = IdxDataset::open(&images, Some(&labels), None).err().unwrap().to_string();
        assert!(error.contains("expected 3 labels") && error.contains("found 2"), "{error}");
    }
}
