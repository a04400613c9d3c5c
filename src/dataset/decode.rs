//! Image files as RGB bytes, as PIL's `Image.open(path).convert("RGB")` gives them.
//!
//! What a file is, is told by its content. Grey becomes three equal channels, alpha is dropped and not
//! blended, 16 bits keep their upper 8 (of grey, where PIL makes all above 255 white), CMYK is
//! `(255 − C)(255 − K) / 255`, and EXIF's orientation is not applied: torchvision's loader does none of it
//! either, and a teacher is to see what it was trained on.

use std::io::Cursor;

use image::{DynamicImage, ImageReader, Limits};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Every JPEG begins so.
const JPEG: [u8; 3] = [0xff, 0xd8, 0xff];
/// And every PNG so.
const PNG: [u8; 4] = *b"\x89PNG";
/// The marker of Adobe's segment.
const ADOBE: [u8; 2] = [0xff, 0xee];
/// Pixels of the largest image that is decoded: PIL refuses more than twice 89,478,485 as a "decompression
/// bomb", a small file that is made to fill memory.
const MOST_PIXELS: u64 = 2 * 89_478_485;
/// Bytes of the largest image with what decoding takes beside it.
const MOST_BYTES: u64 = 8 * MOST_PIXELS;

/// A JPEG that is being decoded.
type Jpeg<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

/// An image in RGB.
pub(super) struct Rgb {
    pub(super) width: usize,
    pub(super) height: usize,
    /// `[height, width, 3]`.
    pub(super) bytes: Vec<u8>,
}

/// Decodes a file; the error says what is wrong with it.
pub(super) fn rgb(file: &[u8]) -> Result<Rgb, String> {
    if file.starts_with(&JPEG) {
        return jpeg(file);
    }
    let mut reader = reader(file)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let decoded = reader.decode().map_err(|error| error.to_string())?;
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    Ok(Rgb { width, height, bytes: to_rgb(decoded)? })
}

/// Width and height by a file's header, without decoding it; the error says what is wrong with it.
pub(super) fn dimensions(file: &[u8]) -> Result<(u64, u64), String> {
    if file.starts_with(&JPEG) {
        return jpeg_headers(file).map(|(_, dimensions)| dimensions);
    }
    let (width, height) = reader(file)?.into_dimensions().map_err(|error| error.to_string())?;
    sound(u64::from(width), u64::from(height))
}

/// Finds a file that is no image, or is cut off, mostly without decoding it: what is cut off lacks the mark that stands at the end of a
/// JPEG or PNG, or the length that a WebP begins with, and only what does, or has neither, is decoded. The error says what is wrong with it.
pub(super) fn check(file: &[u8]) -> Result<(), String> {
    /// Behind the mark some programs leave something of their own.
    const BEHIND: usize = 1024;
    let end = &file[file.len().saturating_sub(BEHIND)..];
    let ends_with = |mark: &[u8]| end.windows(mark.len()).any(|bytes| bytes == mark);
    let whole = match file {
        // Within what is compressed these bytes do not stand side by side.
        _ if file.starts_with(&JPEG) => ends_with(&[0xff, 0xd9]),
        _ if file.starts_with(&PNG) => ends_with(b"IEND"),
        // WebP says how long it is.
        [b'R', b'I', b'F', b'F', a, b, c, d, rest @ ..] => {
            u32::from_le_bytes([*a, *b, *c, *d]) as usize <= rest.len()
        }
        _ => false,
    };
    dimensions(file)?;
    if whole { Ok(()) } else { rgb(file).map(|_| ()) }
}

/// Width and height of an image that there can be, and that is not too large.
fn sound(width: u64, height: u64) -> Result<(u64, u64), String> {
    if width == 0 || height == 0 {
        return Err(format!("an image of {width} × {height} pixels"));
    }
    if width.saturating_mul(height) > MOST_PIXELS {
        return Err(format!("an image of {width} × {height} pixels, more than {MOST_PIXELS} of them"));
    }
    Ok((width, height))
}

fn reader(file: &[u8]) -> Result<ImageReader<Cursor<&[u8]>>, String> {
    let reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(|e| e.to_string())?;
    match reader.format() {
        Some(_) => Ok(reader),
        None if file.is_empty() => Err("an empty file".into()),
        None => Err(format!("a file that begins {:02x?}", &file[..file.len().min(8)])),
    }
}

/// A decoder that refuses files that are cut off, where browsers show grey; and [`dimensions`].
fn jpeg_headers(file: &[u8]) -> Result<(Jpeg<'_>, (u64, u64)), String> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions().ok_or("a header without dimensions")?;
    Ok((decoder, sound(width as u64, height as u64)?))
}

fn jpeg(file: &[u8]) -> Result<Rgb, String> {
    let (mut decoder, (width, height)) = jpeg_headers(file)?;
    let inks = decoder.input_colorspace() == Some(ColorSpace::CMYK);
    let out = if inks { ColorSpace::CMYK } else { ColorSpace::RGB };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(out));
    let mut bytes = decoder.decode().map_err(|error| error.to_string())?;
    if inks {
        // Adobe's programs, which make most such files, write 255 less the ink, and say so.
        let adobe = file.windows(9).any(|at| at[..2] == ADOBE && &at[4..] == b"Adobe");
        let stored = |ink: u8| if adobe { ink } else { 255 - ink };
        let rgb =
            |pixel: &[u8]| [pixel[0], pixel[1], pixel[2]].map(|ink| times(stored(ink), stored(pixel[3])));
        bytes = bytes.chunks_exact(4).flat_map(rgb).collect();
    }
    Ok(Rgb { width: width as usize, height: height as usize, bytes })
}

/// `a · b / 255`, rounded.
fn times(a: u8, b: u8) -> u8 {
    ((u32::from(a) * u32::from(b) + 127) / 255) as u8
}

/// Three channels of eight bits.
fn to_rgb(image: DynamicImage) -> Result<Vec<u8>, String> {
    let upper = |values: &[u16], channels: usize| -> Vec<u8> {
        let pixel = |pixel: &[u16]| match channels {
            1 | 2 => [pixel[0]; 3],
            _ => [pixel[0], pixel[1], pixel[2]],
        };
        values.chunks_exact(channels).flat_map(|p| pixel(p).map(|value| (value >> 8) as u8)).collect()
    };
    Ok(match image {
        DynamicImage::ImageLuma16(image) => upper(&image, 1),
        DynamicImage::ImageLumaA16(image) => upper(&image, 2),
        DynamicImage::ImageRgb16(image) => upper(&image, 3),
        DynamicImage::ImageRgba16(image) => upper(&image, 4),
        DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) => {
            return Err("an image of floating-point numbers; expected 8 or 16 bits a channel".into());
        }
        image => image.into_rgb8().into_raw(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixtures() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
    }

    /// Every kind of file against PIL's `convert("RGB")`, as `tools/make_test_images.py` wrote it.
    #[test]
    fn files_are_decoded_as_by_pil() {
        let text = std::fs::read_to_string(fixtures().join("decoded.json")).unwrap();
        let sizes = serde_json::from_str::<serde_json::Value>(&text).unwrap()["sizes"].clone();
        let sizes = sizes.as_object().unwrap();
        assert_eq!(sizes.len(), 19);
        for (name, size) in sizes {
            let folder = fixtures().join("decoded");
            let file = std::fs::read(folder.join(name)).unwrap();
            let expected = std::fs::read(folder.join(format!("{name}.rgb"))).unwrap();
            let found = rgb(&file).unwrap_or_else(|problem| panic!("{name}: {problem}"));
            assert_eq!(serde_json::json!([found.height, found.width]), *size, "{name}");
            assert_eq!(dimensions(&file).unwrap(), (found.width as u64, found.height as u64), "{name}");
            assert_eq!(found.bytes.len(), expected.len(), "{name}");
            let errors: Vec<u8> = found.bytes.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).collect();
            let largest = errors.iter().copied().max().unwrap();
            let mean = errors.iter().map(|e| f64::from(*e)).sum::<f64>() / errors.len() as f64;
            // Lossless files have one right value. Decoders of JPEG round in different places, and where chroma
            // has half the size they differ more.
            let (most, most_mean) = match name.as_str() {
                "422.jpg" | "420.jpg" | "progressive.jpg" | "turned.jpg" => (4, 0.4),
                "444.jpg" | "grey.jpg" | "cmyk.jpg" => (2, 0.02),
                _ => (0, 0.0),
            };
            assert!(largest <= most && mean <= most_mean, "{name}: off by {largest}, {mean} in the mean");
        }
    }

    #[test]
    fn sixteen_bits_keep_the_upper_eight() {
        let mut file = Vec::new();
        let grey =
            image::ImageBuffer::<image::Luma<u16>, _>::from_raw(2, 1, vec![0x12ff_u16, 0xfe00]).unwrap();
        grey.write_to(&mut Cursor::new(&mut file), image::ImageFormat::Png).unwrap();
        assert_eq!(rgb(&file).unwrap().bytes, [0x12, 0x12, 0x12, 0xfe, 0xfe, 0xfe]);
    }
}
