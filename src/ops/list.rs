//! `kd-cache samples`: which sample is which, before there is a cache or a teacher.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::DatasetConfig;
use crate::dataset::{self, DatasetError};

/// Why samples could not be listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The list could not be written.
    #[error("cannot write the list of samples")]
    Write(#[from] std::io::Error),
}

/// A sample, by the id that a cache has it under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SampleLine {
    /// Its id.
    pub sample: u64,
    /// Its file below the dataset's folder; none of a dataset that has many samples in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Its label; none in an unlabelled dataset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    /// What the label's class is called, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// Writes a line of JSON for each sample of the images that `config` describes, in the order of ids: a [`SampleLine`].
///
/// # Errors
/// [`ListError`]; a dataset of tokens is none of samples that anybody else has by a name.
pub fn list_samples(config: &DatasetConfig, out: &mut dyn Write) -> Result<(), ListError> {
    let dataset = dataset::open_images(config, "dataset")?;
    for index in 0..dataset.len() {
        let id = dataset.id_at(index);
        let label = dataset.label(id)?;
        let class = dataset.class_names().zip(label).and_then(|(names, label)| names.get(label as usize));
        let file = dataset.file(id)?.map(PathBuf::from);
        let line = SampleLine { sample: id.0, file, label, class: class.cloned() };
        serde_json::to_writer(&mut *out, &line).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
