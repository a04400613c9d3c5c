//! NumPy's archive: a ZIP file with one array a column, none of them compressed.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::npy::{Number, header};
use super::selection::{Block, Selection};
use super::{CELLS, Failure, Progress};
use crate::cache::format::{HEAD_COUNTS, HEAD_IDS, HEAD_VALUES, TAIL_CODE, TAIL_CURVE, TOKENS};
use crate::cache::{FeatureLayout, Manifest};
use crate::config::FeatureValues;
use crate::encoding::FeatureNumbers;
use crate::target::{TailModel, TailPrior, TailShape, TargetBatch};

const SAMPLE_IDS: &str = "sample_ids";
const VIEWS: &str = "views";
/// Where the positions of each row begin, and at last where they end: `[rows + 1]`.
const OFFSETS: &str = "offsets";
const LABELS: &str = "labels";
const NODES: &str = "nodes";
const TAIL_PRIOR: &str = "tail_prior";
const TAIL_SHAPE: &str = "tail_shape";
const TAIL_BASIS: &str = "tail_basis";

/// The arrays' names.
pub(super) fn columns(manifest: &Manifest) -> Vec<&'static str> {
    let columns = manifest.columns();
    let mut names = vec![SAMPLE_IDS, VIEWS];
    names.extend(columns.labelled.then_some(LABELS));
    if columns.tokens.is_some() {
        names.extend([OFFSETS, TOKENS]);
    }
    names.extend(columns.variable.then_some(HEAD_COUNTS));
    names.extend([HEAD_IDS, HEAD_VALUES]);
    if columns.nodes > 0 {
        names.extend([TAIL_CURVE, NODES, TAIL_PRIOR]);
    }
    if columns.rank > 0 {
        names.extend([TAIL_CODE, TAIL_SHAPE, TAIL_BASIS]);
    }
    names
}

/// The arrays' names, those of features too.
pub(super) fn all_columns(manifest: &Manifest) -> Vec<String> {
    let mut names: Vec<String> = columns(manifest).into_iter().map(str::to_owned).collect();
    for feature in &manifest.features {
        names.push(feature.column());
        names.extend((feature.values == FeatureValues::I8).then(|| feature.scale_column()));
    }
    names
}

/// Writes the archive to `file`, and gives the number of bytes.
///
/// Each array is written from the first shard to the last before the next one begins, so that
/// memory holds a few rows of one column.
pub(super) fn write(selection: &Selection<'_>, file: File, progress: &dyn Progress) -> Result<u64, Failure> {
    let columns = selection.manifest().columns();
    let (ids, values) = (Number::of_ids(columns.ids), Number::of_values(columns.values));
    let (rows, k, nodes) = (selection.rows(), columns.k as u64, columns.nodes as u64);
    let positions = selection.positions()?;
    let rank = columns.rank as u64;
    let shape = selection.tail_model().and_then(TailModel::shape);
    let names = self::columns(selection.manifest());
    progress.phase("export", rows, 0);
    let mut archive = Archive { zip: ZipWriter::new(BufWriter::new(file)), bytes: Vec::new() };
    let mut targets = TargetBatch::default();
    for name in &names {
        // The head's values are the last but for the tail: their rows are told as done.
        let done = |block: &Block<'_>| {
            if *name == HEAD_VALUES {
                progress.advance(block.rows.len() as u64);
            }
        };
        match *name {
            SAMPLE_IDS => archive.column(selection, name, Number::U64, &[rows], |block, out| {
                let ids = block.shard.sample_ids();
                out.extend(block.at.iter().flat_map(|at| ids[*at].to_le_bytes()));
                Ok(())
            })?,
            VIEWS => archive.column(selection, name, Number::U16, &[rows], |block, out| {
                let views = block.shard.views();
                out.extend(block.at.iter().flat_map(|at| views[*at].to_le_bytes()));
                Ok(())
            })?,
            LABELS => archive.column(selection, name, Number::U32, &[rows], |block, out| {
                let labels = block.shard.labels().unwrap_or_default();
                out.extend(block.at.iter().flat_map(|at| labels[*at].to_le_bytes()));
                Ok(())
            })?,
            HEAD_IDS => archive.column(selection, name, ids, &[positions, k], |block, out| {
                block.reader.gather(block.rows, &mut targets)?;
                ids.push_ids(&targets.ids, out);
                Ok(())
            })?,
            HEAD_VALUES => archive.column(selection, name, values, &[positions, k], |block, out| {
                block.reader.gather(block.rows, &mut targets)?;
                values.push_values(&targets.values, out);
                done(&block);
                Ok(())
            })?,
            TAIL_CURVE => archive.column(selection, name, values, &[positions, nodes], |block, out| {
                block.reader.gather(block.rows, &mut targets)?;
                values.push_values(&targets.curve, out);
                Ok(())
            })?,
            TAIL_CODE => archive.column(selection, name, Number::I8, &[positions, rank], |block, out| {
                block.reader.gather(block.rows, &mut targets)?;
                out.extend(targets.codes.iter().flat_map(|code| code.to_le_bytes()));
                Ok(())
            })?,
            OFFSETS => {
                let mut end = 0u64;
                let mut first = true;
                archive.column(selection, name, Number::U64, &[rows + 1], |block, out| {
                    if std::mem::take(&mut first) {
                        out.extend(end.to_le_bytes());
                    }
                    for row in block.rows {
                        end += block.reader.positions_of(*row)? as u64;
                        out.extend(end.to_le_bytes());
                    }
                    Ok(())
                })?;
            }
            TOKENS => archive.column(selection, name, Number::U32, &[positions], |block, out| {
                for row in block.rows {
                    let tokens = block.reader.tokens(*row)?.unwrap_or_default().tokens;
                    out.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
                }
                Ok(())
            })?,
            HEAD_COUNTS => archive.column(selection, name, Number::U16, &[positions], |block, out| {
                block.reader.gather(block.rows, &mut targets)?;
                out.extend(targets.counts.iter().flat_map(|count| count.to_le_bytes()));
                Ok(())
            })?,
            NODES => archive.nodes(selection.manifest())?,
            TAIL_SHAPE => archive.log_weights(name, shape.map(TailShape::base))?,
            TAIL_BASIS => archive.basis(name, shape)?,
            _ => archive.log_weights(name, selection.tail_model().map(TailModel::prior))?,
        }
    }
    for (at, feature) in selection.manifest().features.iter().enumerate() {
        archive.feature(selection, at, feature, positions)?;
    }
    let bytes = archive.finish()?;
    progress.finish();
    Ok(bytes)
}

/// The archive so far.
struct Archive {
    zip: ZipWriter<BufWriter<File>>,
    /// Numbers on their way.
    bytes: Vec<u8>,
}

impl Archive {
    /// Writes one array, block by block.
    fn column(
        &mut self,
        selection: &Selection<'_>,
        name: &str,
        number: Number,
        shape: &[u64],
        mut push: impl FnMut(Block<'_>, &mut Vec<u8>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.begin(name, number, shape)?;
        selection.for_each(|block| {
            self.bytes.clear();
            push(block, &mut self.bytes)?;
            Ok(self.zip.write_all(&self.bytes)?)
        })
    }

    /// Vectors as they are kept, and their scales.
    fn feature(
        &mut self,
        selection: &Selection<'_>,
        at: usize,
        feature: &FeatureLayout,
        positions: u64,
    ) -> Result<(), Failure> {
        let kept = |block: &Block<'_>| {
            let rows = block.at.iter().filter_map(|row| block.shard.feature(at, *row..row + 1));
            rows.collect::<Vec<FeatureNumbers>>()
        };
        let number = if feature.values == FeatureValues::F16 { Number::F16 } else { Number::I8 };
        let shape = [positions, feature.width as u64];
        self.column(selection, &feature.column(), number, &shape, |block, out| {
            for row in kept(&block) {
                match row {
                    FeatureNumbers::F16(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
                    FeatureNumbers::I8 { whole, .. } => {
                        out.extend(whole.iter().flat_map(|q| q.to_le_bytes()))
                    }
                }
            }
            Ok(())
        })?;
        if feature.values == FeatureValues::F16 {
            return Ok(());
        }
        self.column(selection, &feature.scale_column(), Number::F32, &[positions], |block, out| {
            for row in kept(&block) {
                if let FeatureNumbers::I8 { scales, .. } = row {
                    out.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
                }
            }
            Ok(())
        })
    }

    fn nodes(&mut self, manifest: &Manifest) -> Result<(), Failure> {
        let nodes = manifest.tail.nodes.as_slice();
        self.begin(NODES, Number::F64, &[nodes.len() as u64])?;
        let bytes: Vec<u8> = nodes.iter().flat_map(|node| node.to_le_bytes()).collect();
        Ok(self.zip.write_all(&bytes)?)
    }

    /// As in `tail_model.arrow`: `[classes, nodes]`.
    fn log_weights(&mut self, name: &str, prior: Option<&TailPrior>) -> Result<(), Failure> {
        // A cache with a tail does not open without its tail model.
        let Some(prior) = prior else { return Ok(()) };
        let nodes = prior.nodes().len();
        self.begin(name, Number::F32, &[prior.classes() as u64, nodes as u64])?;
        let classes: Vec<usize> = (0..prior.classes()).collect();
        for classes in classes.chunks(CELLS / nodes) {
            self.bytes.clear();
            for class in classes {
                self.bytes.extend((0..nodes).flat_map(|node| prior.at_node(node)[*class].to_le_bytes()));
            }
            self.zip.write_all(&self.bytes)?;
        }
        Ok(())
    }

    /// As in `tail_model.arrow`: `[classes, rank]`.
    fn basis(&mut self, name: &str, shape: Option<&TailShape>) -> Result<(), Failure> {
        let Some(shape) = shape else { return Ok(()) };
        self.begin(name, Number::F16, &[shape.base().classes() as u64, shape.rank() as u64])?;
        for values in shape.basis().chunks(CELLS) {
            self.bytes.clear();
            Number::F16.push_values(values, &mut self.bytes);
            self.zip.write_all(&self.bytes)?;
        }
        Ok(())
    }

    fn begin(&mut self, name: &str, number: Number, shape: &[u64]) -> io::Result<()> {
        let header = header(number, shape);
        let numbers = shape.iter().fold(number.bytes(), |bytes, size| bytes.saturating_mul(*size));
        // Sizes beyond 4 GiB take another form of entry, and have to be announced.
        let large = numbers.saturating_add(header.len() as u64) >= u64::from(u32::MAX);
        // No time of writing: the same cache gives the same bytes.
        let options =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored).large_file(large);
        self.zip.start_file(format!("{name}.npy"), options)?;
        self.zip.write_all(&header)
    }

    fn finish(self) -> Result<u64, Failure> {
        let file = self
            .zip
            .finish()
            .map_err(io::Error::from)?
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(file.metadata()?.len())
    }
}
