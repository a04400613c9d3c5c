//! Turns a sample into a model's input, the same way at every epoch.

mod augment;
mod colour;
mod geometry;

use rayon::prelude::*;

use self::geometry::Pixels;
use crate::config::{AugmentConfig, Layout, PreprocessConfig};
use crate::dataset::{Dataset, DatasetError, Sample};
use crate::ids::{SampleId, SampleView};

/// Why a sample cannot become a model's input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreprocessError {
    /// The sample itself.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Images of many sizes stay so.
    #[error(
        "preprocess: expected all samples to come out in one size, but the dataset's images have sizes of their \
         own; give preprocess.crop (with preprocess.resize before it), or preprocess.size"
    )]
    Sizes,
    /// What is no image is to be resized or cut.
    #[error(
        "preprocess.channels, .resize, .size, .crop and augment expect images of shape [height, width] or [height, width, \
         channels], found samples of shape {shape:?}; remove the keys"
    )]
    NoImage {
        /// The samples' shape.
        shape: Vec<usize>,
    },
    /// Channels that cannot become others.
    #[error(
        "preprocess.channels = {to}: expected grey images or ones of three channels, found {from} channels; remove the key"
    )]
    Colours {
        /// Channels of the samples.
        from: usize,
        /// `preprocess.channels`.
        to: u8,
    },
    /// An image that cannot be resized.
    #[error("preprocess: an image of {from:?} (height, width) cannot become one of {to:?}: {problem}")]
    Resize {
        /// Height and width.
        from: [usize; 2],
        /// Height and width wanted.
        to: [usize; 2],
        /// The resizer's words.
        problem: String,
    },
    /// A sample that is not of the dataset's shape.
    #[error("sample {sample}: expected {expected} values after preprocessing, found {found}")]
    Values {
        /// The sample.
        sample: SampleId,
        /// Values that the shape of the others promises.
        expected: usize,
        /// Values of this one.
        found: usize,
    },
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

/// A declared preprocessing, ready for the samples of a dataset.
///
/// Bytes have 256 values: each channel is a table, computed in `f64` and rounded once to `f32`,
/// so that every machine gives the same input.
#[derive(Clone, Debug)]
pub struct Preprocess {
    config: PreprocessConfig,
    augment: Option<AugmentConfig>,
    /// Height and width that come out, where samples are images.
    size: Option<(usize, usize)>,
    tables: Vec<[f32; 256]>,
    pixels: usize,
    planar: bool,
    output_shape: Vec<usize>,
}

impl Preprocess {
    /// Prepares `config` for samples of `sample_shape` (raw bytes, row-major, channels last; 0 where they
    /// differ).
    ///
    /// # Errors
    /// [`PreprocessError`] when shape, layout and channels do not fit.
    pub fn new(config: &PreprocessConfig, sample_shape: &[usize]) -> Result<Self, PreprocessError> {
        Self::with_views(config, None, sample_shape)
    }

    /// The same, with views of each sample.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_views(
        config: &PreprocessConfig,
        augment: Option<&AugmentConfig>,
        sample_shape: &[usize],
    ) -> Result<Self, PreprocessError> {
        let images = config.changes_images() || augment.is_some() || sample_shape.contains(&0);
        let (prepared, size) = if images {
            let (height, width, channels) = image_shape(config, sample_shape)?;
            ([&[height, width], channels.as_slice()].concat(), Some((height, width)))
        } else {
            (sample_shape.to_vec(), None)
        };
        let shape = || prepared.clone();
        let (pixels, channels, output_shape) = match (config.layout, prepared.as_slice()) {
            (Layout::Flat, _) => {
                let values = prepared.iter().product();
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
            augment: augment.cloned(),
            size,
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

    /// What was declared.
    pub fn config(&self) -> &PreprocessConfig {
        &self.config
    }

    /// Views of each sample.
    pub fn views(&self) -> u16 {
        self.augment.as_ref().map_or(1, |augment| augment.views)
    }

    /// What views of a sample are, where there are any.
    pub fn augment(&self) -> Option<&AugmentConfig> {
        self.augment.as_ref()
    }

    /// Prepares views of samples of `dataset`, side by side: `[rows, …output shape]`, row-major.
    ///
    /// # Errors
    /// [`PreprocessError`] for the first that cannot be.
    pub fn batch(&self, dataset: &dyn Dataset, rows: &[SampleView]) -> Result<Vec<f32>, PreprocessError> {
        let values = self.values();
        let mut inputs = vec![0.0; rows.len() * values];
        let failed = rows
            .par_iter()
            .zip(inputs.par_chunks_mut(values))
            .enumerate()
            .filter_map(|(at, (row, out))| self.sample(dataset, *row, out).err().map(|error| (at, error)))
            .min_by_key(|(at, _)| *at);
        match failed {
            Some((_, error)) => Err(error),
            None => Ok(inputs),
        }
    }

    /// Prepares one view of a sample of `dataset` into `out`, which has [`Self::values`] elements.
    fn sample(&self, dataset: &dyn Dataset, row: SampleView, out: &mut [f32]) -> Result<(), PreprocessError> {
        let sample = dataset.sample(row.sample)?;
        let raw = match (self.size, &self.augment) {
            (None, _) => sample.bytes,
            (Some(_), None) => geometry::apply(self.image(sample)?, &self.config)?.bytes,
            (Some(size), Some(augment)) => {
                let image = self.image(sample)?;
                let draw = augment::draw(augment, row, image.height, image.width);
                geometry::view(image, &self.config, draw, size)?.bytes
            }
        };
        if raw.len() != out.len() {
            let (expected, found) = (out.len(), raw.len());
            return Err(PreprocessError::Values { sample: row.sample, expected, found });
        }
        self.look_up(&raw, out);
        Ok(())
    }

    /// A sample as an image of the channels that are wanted.
    fn image<'a>(&self, sample: Sample<'a>) -> Result<Pixels<'a>, PreprocessError> {
        let image = Pixels::of(sample)?;
        match self.config.channels {
            Some(channels) => image.of_channels(channels),
            None => Ok(image),
        }
    }

    /// Bytes as floats, each of as many as the other.
    fn look_up(&self, raw: &[u8], out: &mut [f32]) {
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

/// Height and width of samples of `shape` after resizing and cutting, and their channels if they have a dimension of them.
fn image_shape(
    config: &PreprocessConfig,
    shape: &[usize],
) -> Result<(usize, usize, Vec<usize>), PreprocessError> {
    let (height, width, channels) = match *shape {
        [height, width] => (height, width, None),
        [height, width, channels] => (height, width, Some(channels)),
        _ => return Err(PreprocessError::NoImage { shape: shape.to_vec() }),
    };
    let channels = match config.channels {
        Some(wanted) => Some(colour::become_of(channels.unwrap_or(1), wanted)?),
        None => channels,
    };
    let (height, width) = geometry::output_size(config, height, width).ok_or(PreprocessError::Sizes)?;
    Ok((height, width, channels.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(layout: Layout, mean: &[f64], std: &[f64]) -> PreprocessConfig {
        PreprocessConfig { scale: 0.5, mean: mean.to_vec(), std: std.to_vec(), layout, ..Default::default() }
    }

    fn run(config: &PreprocessConfig, shape: &[usize], raw: &[u8]) -> Vec<f32> {
        let preprocess = Preprocess::new(config, shape).unwrap();
        let mut out = vec![0.0; preprocess.values()];
        preprocess.look_up(raw, &mut out);
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
    fn geometry_decides_the_shape() {
        let with = |change: fn(&mut PreprocessConfig), shape: &[usize]| {
            let mut config = PreprocessConfig::default();
            change(&mut config);
            Preprocess::new(&config, shape)
        };
        let of_any_size = [0, 0, 3];
        let crop = with(|c| (c.resize, c.crop) = (Some(256), Some(224)), &of_any_size).unwrap();
        assert_eq!(crop.output_shape(), [3, 224, 224]);
        let size = with(|c| c.size = Some([32, 48]), &of_any_size).unwrap();
        assert_eq!(size.output_shape(), [3, 32, 48]);
        let grey = with(|c| (c.resize, c.layout) = (Some(14), Layout::Flat), &[28, 30]).unwrap();
        assert_eq!(grey.output_shape(), [14 * 15]);
        assert!(matches!(with(|c| c.resize = Some(256), &of_any_size), Err(PreprocessError::Sizes)));
        assert!(matches!(with(|_| {}, &of_any_size), Err(PreprocessError::Sizes)));
        assert!(matches!(with(|c| c.crop = Some(3), &[7]), Err(PreprocessError::NoImage { .. })));
    }
}
