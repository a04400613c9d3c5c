//! Images of any size as images of one: resized and cut as torchvision does with PIL's images.

use std::borrow::Cow;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use super::PreprocessError;
use super::augment::{Draw, Part};
use crate::config::{Interpolation, PreprocessConfig};
use crate::dataset::Sample;

/// Bytes of an image, `[height, width, channels]`.
#[derive(Clone, Debug)]
pub(super) struct Pixels<'a> {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) bytes: Cow<'a, [u8]>,
}

impl<'a> Pixels<'a> {
    /// A sample as an image, if it is one.
    pub(super) fn of(sample: Sample<'a>) -> Result<Self, PreprocessError> {
        let (height, width, channels) = match *sample.shape {
            [height, width] => (height, width, 1),
            [height, width, channels] => (height, width, channels),
            _ => return Err(PreprocessError::NoImage { shape: sample.shape.into_owned() }),
        };
        Ok(Self { height, width, channels, bytes: sample.bytes })
    }

    /// Of `height` × `width`, the filter widened by the reduction.
    pub(super) fn resized(
        self,
        height: usize,
        width: usize,
        interpolation: Interpolation,
    ) -> Result<Self, PreprocessError> {
        if (height, width) == (self.height, self.width) {
            return Ok(self);
        }
        // By type: an image that names its type at run time compiles the code of all the others along, more than half a
        // megabyte for each kind of pixel. What is rare has its channels resized one by one.
        match self.channels {
            1 => self.through::<U8>(height, width, interpolation),
            3 => self.through::<U8x3>(height, width, interpolation),
            channels => {
                let mut bytes = vec![0; height * width * channels];
                for channel in 0..channels {
                    let own = self.bytes.iter().copied().skip(channel).step_by(channels).collect::<Vec<_>>();
                    let own = Self { channels: 1, bytes: own.into(), ..self };
                    let resized = own.through::<U8>(height, width, interpolation)?;
                    let places = bytes.iter_mut().skip(channel).step_by(channels);
                    places.zip(resized.bytes.iter()).for_each(|(place, byte)| *place = *byte);
                }
                Ok(Self { height, width, channels, bytes: bytes.into() })
            }
        }
    }

    /// Resized, its pixels being of the type `P`.
    fn through<P: PixelTrait>(
        self,
        height: usize,
        width: usize,
        interpolation: Interpolation,
    ) -> Result<Self, PreprocessError> {
        let filter = match interpolation {
            Interpolation::Bilinear => FilterType::Bilinear,
            Interpolation::Bicubic => FilterType::CatmullRom,
        };
        // PIL resizes each channel by itself; alpha does not weigh the others. And it rounds between its two
        // passes: in another order a fifth of all values are off by one. Rows first is the order of Pillow as
        // teachers were trained with it; Pillow 13 begins with the columns where that suits the shape.
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
        let from = [self.height, self.width];
        let failed = |problem: String| PreprocessError::Resize { from, to: [height, width], problem };
        let mut resizer = Resizer::new();
        let mut image = self;
        for (height, width) in [(image.height, width), (height, width)] {
            if (height, width) == (image.height, image.width) {
                continue;
            }
            image = pass::<P>(&mut resizer, &options, &image, height, width).map_err(failed)?;
        }
        Ok(image)
    }

    /// `height` × `width` of it from `top` and `left` on, which may lie outside: what is not there is 0.
    pub(super) fn cut(self, top: i64, left: i64, height: usize, width: usize) -> Self {
        if (top, left, height, width) == (0, 0, self.height, self.width) {
            return self;
        }
        let mut bytes = vec![0; height * width * self.channels];
        let overlap = |start: i64, wanted: usize, there: usize| {
            let from = start.max(0);
            let to = (start + wanted as i64).min(there as i64).max(from);
            (from as usize, (from - start) as usize, (to - from) as usize)
        };
        let (from_row, to_row, rows) = overlap(top, height, self.height);
        let (from_column, to_column, columns) = overlap(left, width, self.width);
        let run = columns * self.channels;
        for row in 0..rows {
            let from = ((from_row + row) * self.width + from_column) * self.channels;
            let to = ((to_row + row) * width + to_column) * self.channels;
            bytes[to..to + run].copy_from_slice(&self.bytes[from..from + run]);
        }
        Self { height, width, channels: self.channels, bytes: bytes.into() }
    }
}

/// An image, its pixels being of the type `P`, as one of `height` × `width`; or what the library says is wrong.
fn pass<P: PixelTrait>(
    resizer: &mut Resizer,
    options: &ResizeOptions,
    image: &Pixels<'_>,
    height: usize,
    width: usize,
) -> Result<Pixels<'static>, String> {
    let source = TypedImageRef::<P>::from_buffer(image.width as u32, image.height as u32, &image.bytes)
        .map_err(|error| error.to_string())?;
    let mut bytes = vec![0; height * width * image.channels];
    let mut target = TypedImage::<P>::from_buffer(width as u32, height as u32, &mut bytes)
        .map_err(|error| error.to_string())?;
    resizer.resize_typed(&source, &mut target, options).map_err(|error| error.to_string())?;
    Ok(Pixels { height, width, channels: image.channels, bytes: bytes.into() })
}

/// What is done to an image of `height` × `width`: its size after resizing.
fn resized_size(config: &PreprocessConfig, height: usize, width: usize) -> (usize, usize) {
    match (config.size, config.resize) {
        (Some([height, width]), _) => (height as usize, width as usize),
        (None, Some(shorter)) => {
            // torchvision's `Resize`: the longer side is cut down to a whole number, not rounded.
            let longer = |long: usize, short: usize| {
                (u128::from(shorter) * long as u128 / (short as u128).max(1)) as usize
            };
            if width <= height {
                (longer(height, width), shorter as usize)
            } else {
                (shorter as usize, longer(width, height))
            }
        }
        (None, None) => (height, width),
    }
}

/// Where torchvision's `CenterCrop` begins: half of what is left over, halves to the even number; outside the
/// image where it is smaller, which is padded by the smaller half before it.
fn crop_start(side: usize, crop: usize) -> i64 {
    if crop > side {
        return -(((crop - side) / 2) as i64);
    }
    ((side - crop) as f64 / 2.0).round_ties_even() as i64
}

/// The size of what [`apply`] makes of samples of `height` × `width`, of which 0 is not known; `None` where it
/// differs from sample to sample.
pub(super) fn output_size(config: &PreprocessConfig, height: usize, width: usize) -> Option<(usize, usize)> {
    let known = height > 0 && width > 0;
    match config.crop {
        Some(crop) => Some((crop as usize, crop as usize)),
        None if known || config.size.is_some() => Some(resized_size(config, height, width)),
        None => None,
    }
}

/// A view of an image that comes out as `size`, height and width: either a random part of it, resized, or
/// what [`apply`] makes of it; and then maybe mirrored.
pub(super) fn view<'a>(
    image: Pixels<'a>,
    config: &PreprocessConfig,
    draw: Draw,
    size: (usize, usize),
) -> Result<Pixels<'a>, PreprocessError> {
    let image = match draw.part {
        Some(Part { top, left, height, width }) => {
            image.cut(top as i64, left as i64, height, width).resized(size.0, size.1, config.interpolation)?
        }
        None => apply(image, config)?,
    };
    Ok(if draw.flip { image.mirrored() } else { image })
}

/// Resizes and cuts out of the middle, as `config` says.
pub(super) fn apply<'a>(image: Pixels<'a>, config: &PreprocessConfig) -> Result<Pixels<'a>, PreprocessError> {
    let (height, width) = resized_size(config, image.height, image.width);
    let image = image.resized(height, width, config.interpolation)?;
    let Some(crop) = config.crop else { return Ok(image) };
    let crop = crop as usize;
    Ok(image.cut(crop_start(height, crop), crop_start(width, crop), crop, crop))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{DatasetConfig, FolderConfig};
    use crate::dataset::{self, Dataset};

    fn fixtures() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
    }

    fn source() -> Box<dyn Dataset> {
        let folder = FolderConfig { path: fixtures().join("geometry"), split: None, limit: None };
        dataset::open_images(&DatasetConfig::Folder(folder), "dataset").unwrap()
    }

    /// Against torchvision on PIL's images, as `tools/make_test_images.py` wrote it: equal but for values that
    /// lie between two bytes, which may be rounded to the other.
    #[test]
    fn sizes_and_pixels_are_torchvisions() {
        let dataset = source();
        let text = std::fs::read_to_string(fixtures().join("geometry.json")).unwrap();
        let cases = serde_json::from_str::<serde_json::Value>(&text).unwrap()["cases"].clone();
        let cases = cases.as_array().unwrap();
        assert_eq!(cases.len(), 12);
        for case in cases {
            let config: PreprocessConfig = serde_json::from_value(case["preprocess"].clone()).unwrap();
            let image = Pixels::of(dataset.sample(dataset.id_at(0)).unwrap()).unwrap();
            assert_eq!((image.height, image.width), (43, 61));
            let output = apply(image, &config).unwrap();
            assert_eq!(serde_json::json!([output.height, output.width]), case["output"], "{case}");
            assert_eq!(output_size(&config, 43, 61), Some((output.height, output.width)), "{case}");
            let file = case["file"].as_str().unwrap();
            let expected = std::fs::read(fixtures().join("geometry").join(file)).unwrap();
            assert_eq!(output.bytes.len(), expected.len(), "{case}");
            let off = output.bytes.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
            let largest = off.clone().max().unwrap();
            let share = off.filter(|off| *off > 0).count() as f64 / expected.len() as f64;
            assert!(largest <= 1 && share < 0.01, "{file}: off by {largest}, {share} of the values");
        }
    }

    #[test]
    fn the_longer_side_is_cut_down_and_the_crop_begins_at_the_even_half() {
        let resize = |resize, height, width| {
            let config = PreprocessConfig { resize: Some(resize), ..Default::default() };
            resized_size(&config, height, width)
        };
        // int(256 · 500 / 375) = 341, not 341.33 rounded; int(7 · 61 / 43) = 9 of 9.93.
        assert_eq!(resize(256, 375, 500), (256, 341));
        assert_eq!(resize(256, 500, 375), (341, 256));
        assert_eq!(resize(7, 43, 61), (7, 9));
        assert_eq!(resize(224, 10, 10), (224, 224));
        // Python's round of 0.5, 1.5 and 2.5; and half of what is lacking, the smaller first.
        assert_eq!([3, 5, 7].map(|side| crop_start(side, 2)), [0, 2, 2]);
        assert_eq!([2, 1].map(|side| crop_start(side, 4)), [-1, -1]);
    }

    /// However many channels there are, each is resized as if it were alone.
    #[test]
    fn channels_do_not_mix() {
        let (height, width) = (9, 7);
        for channels in [2, 3, 4, 6] {
            let byte = |at: usize| (at * 7919 % 251) as u8;
            let bytes: Vec<u8> = (0..height * width * channels).map(byte).collect();
            let image = |channels, bytes: Vec<u8>| Pixels { height, width, channels, bytes: bytes.into() };
            let resized = image(channels, bytes.clone()).resized(5, 11, Interpolation::Bilinear).unwrap();
            assert_eq!((resized.height, resized.width, resized.channels), (5, 11, channels));
            for channel in 0..channels {
                let of = |bytes: &[u8]| bytes.iter().copied().skip(channel).step_by(channels).collect();
                let alone = image(1, of(&bytes)).resized(5, 11, Interpolation::Bilinear).unwrap();
                let found: Vec<u8> = of(&resized.bytes);
                assert_eq!(*alone.bytes, found, "channel {channel} of {channels}");
            }
        }
    }

    #[test]
    fn what_lies_outside_is_black() {
        let image = Pixels { height: 1, width: 2, channels: 1, bytes: vec![7, 9].into() };
        let cut = image.clone().cut(-1, -1, 3, 3);
        assert_eq!(*cut.bytes, [0, 0, 0, 0, 7, 9, 0, 0, 0]);
        assert_eq!(*image.clone().cut(0, 1, 1, 1).bytes, [9]);
        assert_eq!(*image.cut(5, 5, 1, 2).bytes, [0, 0]);
    }
}
