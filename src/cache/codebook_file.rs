//! The file of the codebook, and all that is needed to make sense of quantized numbers.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt8Array, UInt32Array};
use arrow::datatypes::{UInt8Type, UInt32Type};

use super::format::{CODE_TABLES, ORDER, codebook_schema, shard_file};
use super::shard_encode::{ShardRows, encode_shard};
use super::tail_file::{Table, encode_lists};
use super::{CacheError, Manifest};
use crate::encoding::{Codebook, CodebookTables, Scale};
use crate::ids::ShardIndex;

/// What quantized and packed targets are read and written with.
#[derive(Clone, Debug, Default)]
pub struct Coding {
    /// `None` for floats.
    pub(super) scale: Option<Scale>,
    /// Absent for floats, and in a build that has not begun.
    pub(super) codebook: Option<Codebook>,
}

impl Coding {
    /// That of the cache in `dir`; empty where values are floats.
    ///
    /// # Errors
    /// [`CacheError`]: a codebook that is missing or unsound.
    pub fn read(dir: &Path, manifest: &Manifest) -> Result<Self, CacheError> {
        let scale = manifest.scale().ok().flatten();
        let codebook = manifest.storage.codebook.as_ref().zip(scale);
        let codebook =
            codebook.map(|(entry, scale)| read(&dir.join(&entry.file), manifest, &scale)).transpose()?;
        Ok(Self { scale, codebook })
    }

    /// The codes, if there are any.
    pub fn into_codebook(self) -> Option<Codebook> {
        self.codebook
    }
}

/// Bytes that a shard of `rows` takes in the cache of `manifest`, with codes that are fitted to it alone:
/// an estimate for others like it.
///
/// # Errors
/// [`CacheError::Arrow`]: rows that are not of this cache, or too many.
pub fn measure_shard(manifest: &Manifest, rows: &ShardRows, level: i32) -> Result<u64, CacheError> {
    let scale = manifest.scale().ok().flatten();
    let fit = |scale: &Scale| {
        Codebook::fit(manifest.code_layout(), scale.curve_step(), &scale.quantise(&rows.targets), None)
    };
    let coding = Coding { scale, codebook: scale.as_ref().map(fit) };
    let bytes = encode_shard(rows, &manifest.columns(), &coding, level);
    let path = || shard_file(ShardIndex(0), manifest.storage.form).into();
    Ok(bytes.map_err(|source| CacheError::Arrow { path: path(), source })?.len() as u64)
}

/// The codebook's bytes.
pub(super) fn encode(codebook: &Codebook, path: &Path) -> Result<Vec<u8>, CacheError> {
    let tables = codebook.tables();
    let layout = codebook.layout();
    let order: ArrayRef = Arc::new(UInt32Array::from(tables.order));
    let lengths = [tables.ids, tables.falls, tables.curve, tables.tail_codes, tables.counts];
    let lengths = lengths.into_iter().filter(|lengths| !lengths.is_empty()).map(|lengths| {
        let size = lengths.len();
        (Arc::new(UInt8Array::from(lengths)) as ArrayRef, size)
    });
    let columns = std::iter::once((order, layout.classes)).chain(lengths).collect();
    encode_lists(codebook_schema(layout.classes, layout.table_sizes()), columns, path)
}

fn read(path: &Path, manifest: &Manifest, scale: &Scale) -> Result<Codebook, CacheError> {
    let layout = manifest.code_layout();
    let sizes = layout.table_sizes();
    let table = Table::open(path, &codebook_schema(layout.classes, sizes), 1)?;
    let lengths = |at: usize| -> Result<Vec<u8>, CacheError> {
        if sizes[at] == 0 {
            return Ok(Vec::new());
        }
        Ok(table.list::<UInt8Type>(CODE_TABLES[at], sizes[at])?.to_vec())
    };
    let tables = CodebookTables {
        order: table.list::<UInt32Type>(ORDER, layout.classes)?.to_vec(),
        ids: lengths(0)?,
        falls: lengths(1)?,
        curve: lengths(2)?,
        tail_codes: lengths(3)?,
        counts: lengths(4)?,
    };
    Codebook::new(layout, scale.curve_step(), &tables)
        .map_err(|source| CacheError::Codebook { path: path.to_owned(), source })
}
