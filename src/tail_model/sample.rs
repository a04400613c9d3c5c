//! The sample's logits on disk, read again for every pass of the fit: memory stays that of one block,
//! whatever the sample and the vocabulary.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use half::f16;
use rayon::prelude::*;

use super::encoder::LOWEST;
use crate::vectors::widen;

/// Values of a block in memory, about; at least one row. Tests, whose samples are small, have many blocks of them.
const BLOCK_VALUES: usize = if cfg!(test) { 1 << 14 } else { 1 << 22 };
/// Values that are widened at once.
const PIECE: usize = 1 << 14;

/// Logits relative to each position's largest, in half precision (off by 2⁻¹¹ of their value, which
/// a fit of averages does not see). The file goes when this does.
pub(super) struct Sample {
    path: PathBuf,
    writer: BufWriter<File>,
    classes: usize,
    rows: usize,
}

impl Sample {
    pub(super) fn create(path: &Path, classes: usize) -> io::Result<Self> {
        let writer = BufWriter::with_capacity(1 << 20, File::create(path)?);
        Ok(Self { path: path.to_owned(), writer, classes, rows: 0 })
    }

    /// Bytes of a position.
    pub(super) fn bytes(classes: usize) -> u64 {
        (classes * size_of::<f16>()) as u64
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// Adds a position's logits, `[classes]`, the largest of which is `z_max`; relative to it none is below [`LOWEST`].
    pub(super) fn add(&mut self, logits: &[f32], z_max: f32) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(2 * logits.len());
        bytes.extend(logits.iter().flat_map(|z| f16::from_f32((z - z_max).max(LOWEST)).to_le_bytes()));
        self.writer.write_all(&bytes)?;
        self.rows += 1;
        Ok(())
    }

    /// Calls `each` with blocks of rows, `[rows, classes]`, and the number of the first. It may change
    /// the block, which is its own copy.
    pub(super) fn for_each_block(&mut self, mut each: impl FnMut(usize, &mut [f32])) -> io::Result<()> {
        self.writer.flush()?;
        let mut file = BufReader::new(File::open(&self.path)?);
        let block = (BLOCK_VALUES / self.classes.max(1)).max(1);
        let (mut bytes, mut floats) = (Vec::new(), Vec::new());
        for first in (0..self.rows).step_by(block) {
            let values = block.min(self.rows - first) * self.classes;
            bytes.resize(2 * values, 0u8);
            file.read_exact(&mut bytes)?;
            floats.resize(values, 0.0f32);
            let pieces = floats.par_chunks_mut(PIECE).zip(bytes.par_chunks(2 * PIECE));
            pieces.for_each_init(Vec::new, |halves, (floats, bytes)| {
                halves.clear();
                halves.extend(bytes.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]])));
                widen(halves, &[], floats);
            });
            each(first, &mut floats);
        }
        Ok(())
    }
}

/// A sample whose passes somebody watches, who may want no more of them.
pub(super) struct Watched<'a> {
    sample: &'a mut Sample,
    go_on: &'a mut dyn FnMut() -> bool,
}

impl<'a> Watched<'a> {
    pub(super) fn new(sample: &'a mut Sample, go_on: &'a mut dyn FnMut() -> bool) -> Self {
        Self { sample, go_on }
    }

    pub(super) fn classes(&self) -> usize {
        self.sample.classes
    }

    pub(super) fn rows(&self) -> usize {
        self.sample.rows
    }

    /// As [`Sample::for_each_block`], then tells of the pass; fails as interrupted where it was the last.
    pub(super) fn for_each_block(&mut self, each: impl FnMut(usize, &mut [f32])) -> io::Result<()> {
        self.sample.for_each_block(each)?;
        self.told()
    }

    /// Tells of a pass over what is kept of the sample elsewhere.
    pub(super) fn told(&mut self) -> io::Result<()> {
        if (self.go_on)() { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        // Scratch: whoever made the folder takes it away with what is left in it.
        drop(fs::remove_file(&self.path));
    }
}
