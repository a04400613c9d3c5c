//! Turns a sample's raw bytes into a model's input, the same way at every epoch.

use crate::config::{Layout, PreprocessConfig};
use crate::dataset::{Dataset, DatasetError};
use crate::digest::Digest;
use crate::ids::SampleId;

/// Why a sample's shape and the declared preprocessing do not fit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreprocessError {
    /// The samples are no images, but an image layout is declared (or the reverse).
    #[error(
        "preprocess.layout = \"{layout}\" expects samples of shape [height, width] or [height, width, channels], found {shape:?}; use layout = \"flat\""
    )]
    Shape {
        /// The layout's word.
        layout: &'static str,
        /// The samples' shape.
        shape: Vec<usize>,
    },
    /// As many means as there are neither one nor channels.
    #[error("preprocess.mean and .std: expected 1 value or {channels} (one per channel), found {found}")]
    Channels {
        /// Channels of the samples.
        channels: usize,
        /// Values given.
        found: usize,
    },
    /// The configuration has no JSON form.
    #[error("the preprocessing cannot be identified")]
    Digest(#[from] serde_json::Error),
}

/// A declared preprocessing, ready for samples of one shape.
///
/// Bytes have 256 values: each channel is a table, computed in `f64` and rounded once to `f32`,
/// so that every machine gives the same input.
#[derive(Clone, Debug)]
pub struct Preprocess {
    config: PreprocessConfig,
    digest: Digest,
    tables: Vec<[f32; 256]>,
    pixels: usize,
    planar: bool,
    output_shape: Vec<usize>,
}

impl Preprocess {
    /// Prepares `config` for samples of `sample_shape` (raw bytes, row-major, channels last).
    ///
    /// # Errors
    /// [`PreprocessError`] when shape, layout and channels do not fit.
    pub fn new(config: &PreprocessConfig, sample_shape: &[usize]) -> Result<Self, PreprocessError> {
        let shape = || sample_shape.to_vec();
        let (pixels, channels, output_shape) = match (config.layout, sample_shape) {
            (Layout::Flat, _) => {
                let values = sample_shape.iter().product();
                (values, 1, vec![values])
            }
            (Layout::Nchw, [h, w]) => (h * w, 1, vec![1, *h, *w]),
            (Layout::Nchw, [h, w, c]) => (h * w, *c, vec![*c, *h, *w]),
            (Layout::Nhwc, [h, w]) => (h * w, 1, vec![*h, *w, 1]),
            (Layout::Nhwc, [h, w, c]) => (h * w, *c, vec![*h, *w, *c]),
            (Layout::Nchw, _) => return Err(PreprocessError::Shape { layout: "nchw", shape: shape() }),
            (Layout::Nhwc, _) => return Err(PreprocessError::Shape { layout: "nhwc", shape: shape() }),
        };
        let given = config.mean.len();
        if given != 1 && given != channels || config.std.len() != given {
            return Err(PreprocessError::Channels { channels, found: given });
        }
        let tables = (0..channels)
            .map(|channel| {
                let at = if given == 1 { 0 } else { channel };
                let (mean, std) = (config.mean[at], config.std[at]);
                std::array::from_fn(|byte| ((byte as f64 * config.scale - mean) / std) as f32)
            })
            .collect();
        Ok(Self {
            config: config.clone(),
            digest: Digest::of_json(config)?,
            tables,
            pixels,
            planar: config.layout == Layout::Nchw,
            output_shape,
        })
    }

    /// Dimensions of a prepared sample, without the batch.
    pub fn output_shape(&self) -> &[usize] {
        &self.output_shape
    }

    /// Values in a prepared sample.
    pub fn values(&self) -> usize {
        self.pixels * self.tables.len()
    }

    /// Identifies what is done to a sample.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What was declared.
    pub fn config(&self) -> &PreprocessConfig {
        &self.config
    }

    /// Prepares the samples `ids` of `dataset`: `[ids, …output shape]`, row-major.
    ///
    /// # Errors
    /// [`DatasetError::NoSuchSample`].
    ///
    /// # Panics
    /// When the dataset's samples are of another shape than this was made for.
    pub fn batch(&self, dataset: &dyn Dataset, ids: &[SampleId]) -> Result<Vec<f32>, DatasetError> {
        let values = self.values();
        let mut inputs = vec![0.0; ids.len() * values];
        for (id, out) in ids.iter().zip(inputs.chunks_mut(values)) {
            self.apply(dataset.sample(*id)?, out);
        }
        Ok(inputs)
    }

    /// Prepares one sample.
    ///
    /// # Panics
    /// When `raw` or `out` does not have [`Self::values`] elements.
    pub fn apply(&self, raw: &[u8], out: &mut [f32]) {
        assert!(raw.len() == self.values() && out.len() == self.values(), "a sample of another shape");
        let channels = self.tables.len();
        if self.planar && channels > 1 {
            for (channel, (plane, table)) in out.chunks_exact_mut(self.pixels).zip(&self.tables).enumerate() {
                for (value, pixel) in plane.iter_mut().zip(raw.chunks_exact(channels)) {
                    *value = table[usize::from(pixel[channel])];
                }
            }
            return;
        }
        for (values, pixel) in out.chunks_exact_mut(channels).zip(raw.chunks_exact(channels)) {
            for ((value, byte), table) in values.iter_mut().zip(pixel).zip(&self.tables) {
                *value = table[usize::from(*byte)];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(layout: Layout, mean: &[f64], std: &[f64]) -> PreprocessConfig {
        PreprocessConfig { scale: 0.5, mean: mean.to_vec(), std: std.to_vec(), layout }
    }

    fn run(config: &PreprocessConfig, shape: &[usize], raw: &[u8]) -> Vec<f32> {
        let preprocess = Preprocess::new(config, shape).unwrap();
        let mut out = vec![0.0; preprocess.values()];
        preprocess.apply(raw, &mut out);
        out
    }

    #[test]
    fn channels_go_first_or_stay_last() {
        let raw = [0, 10, 2, 20, 4, 30];
        let planar = config(Layout::Nchw, &[1.0, 5.0], &[1.0, 2.0]);
        assert_eq!(run(&planar, &[1, 3, 2], &raw), [-1.0, 0.0, 1.0, 0.0, 2.5, 5.0]);
        let packed = config(Layout::Nhwc, &[1.0, 5.0], &[1.0, 2.0]);
        assert_eq!(run(&packed, &[1, 3, 2], &raw), [-1.0, 0.0, 0.0, 2.5, 1.0, 5.0]);
        let flat = config(Layout::Flat, &[0.0], &[1.0]);
        assert_eq!(run(&flat, &[1, 3, 2], &raw), [0.0, 5.0, 1.0, 10.0, 2.0, 15.0]);
    }

    #[test]
    fn shapes_and_channels_that_do_not_fit_are_refused() {
        let one = config(Layout::Nchw, &[0.0], &[1.0]);
        assert!(matches!(Preprocess::new(&one, &[7]), Err(PreprocessError::Shape { .. })));
        let two = config(Layout::Nchw, &[0.0, 0.0], &[1.0, 1.0]);
        let refused = Preprocess::new(&two, &[4, 4, 3]);
        assert!(matches!(refused, Err(PreprocessError::Channels { channels: 3, found: 2 })));
    }

    #[test]
    fn another_scale_is_another_preprocessing() {
        let a = Preprocess::new(&config(Layout::Flat, &[0.0], &[1.0]), &[4]).unwrap();
        let b =
            Preprocess::new(&PreprocessConfig { layout: Layout::Flat, ..Default::default() }, &[4]).unwrap();
        assert_ne!(a.digest(), b.digest());
    }
}
