//! Grey images of three channels, and three channels of grey ones, as PIL has them.

use super::PreprocessError;
use super::geometry::Pixels;

/// What red, green and blue weigh in grey, of 65,536: ITU-R 601-2's luma, in the whole numbers of PIL's `convert("L")`.
const LUMA: [u32; 3] = [19_595, 38_470, 7_471];

/// The channels of an image of `from` that `preprocess.channels = to` gives.
///
/// # Errors
/// [`PreprocessError::Colours`]: the image is neither grey nor of three channels.
pub(super) fn become_of(from: usize, to: u8) -> Result<usize, PreprocessError> {
    match from {
        1 | 3 => Ok(usize::from(to)),
        _ => Err(PreprocessError::Colours { from, to }),
    }
}

impl Pixels<'_> {
    /// The image in grey, or in three channels.
    ///
    /// # Errors
    /// As [`become_of`].
    pub(super) fn of_channels(self, to: u8) -> Result<Self, PreprocessError> {
        let channels = become_of(self.channels, to)?;
        let bytes = match (self.channels, channels) {
            (from, to) if from == to => self.bytes,
            (3, _) => self.bytes.chunks_exact(3).map(luma).collect(),
            _ => self.bytes.iter().flat_map(|grey| [*grey; 3]).collect(),
        };
        Ok(Self { channels, bytes, ..self })
    }
}

/// A pixel's brightness, rounded.
fn luma(pixel: &[u8]) -> u8 {
    let sum: u32 = pixel.iter().zip(LUMA).map(|(byte, weight)| u32::from(*byte) * weight).sum();
    ((sum + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(channels: usize, bytes: &[u8]) -> Pixels<'_> {
        Pixels { height: 1, width: bytes.len() / channels, channels, bytes: bytes.into() }
    }

    /// Numbers of `PIL.Image.convert("L")` (Pillow 13).
    #[test]
    fn grey_is_as_pil_has_it() {
        let pixels = [255, 0, 0, 0, 255, 0, 0, 0, 255, 1, 2, 3, 200, 100, 50, 255, 255, 255, 17, 17, 17];
        let grey = image(3, &pixels).of_channels(1).unwrap();
        assert_eq!((grey.channels, &*grey.bytes), (1, &[76, 150, 29, 2, 124, 255, 17][..]));
    }

    #[test]
    fn grey_becomes_three_channels_and_comes_back_whole() {
        let every: Vec<u8> = (0..=255).collect();
        let colours = image(1, &every).of_channels(3).unwrap();
        assert_eq!((colours.channels, &colours.bytes[6..9]), (3, &[2, 2, 2][..]));
        assert_eq!(*colours.of_channels(1).unwrap().bytes, every);
    }

    #[test]
    fn other_channels_are_refused() {
        let refused = image(4, &[1, 2, 3, 4]).of_channels(1);
        assert!(matches!(refused, Err(PreprocessError::Colours { from: 4, to: 1 })));
    }
}
