//! What configs say of image files: where they lie and how images of any size become one size.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tokens::SplitConfig;
use super::{Fault, PreprocessConfig};

/// A folder of image files: each of its folders is a class, named by it.
///
/// Classes are numbered from 0 in the order of their names, and images in the order of their paths, as
/// torchvision's `ImageFolder` numbers both. A folder with images and no folders is unlabelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder. JPEG, PNG, WebP, GIF (the first frame), BMP, TIFF and PNM, told by their extensions;
    /// other files and what is hidden are left aside.
    pub path: PathBuf,
    /// Which images; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitConfig>,
    /// Only the first so many images, in the order of their paths; for some of every class use `split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
}

/// Default of [`AugmentConfig::views`].
pub const DEFAULT_VIEWS: u16 = 1;
/// Default of [`RandomResizedCrop::scale`], torchvision's and that of most recipes for ImageNet.
pub const DEFAULT_CROP_SCALE: [f64; 2] = [0.08, 1.0];
/// Default of [`RandomResizedCrop::ratio`], likewise.
pub const DEFAULT_CROP_RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];

/// Views of each image that are kept, each with a target of its own.
///
/// What a view looks like depends on `seed`, the sample and the view's number alone, so that a student sees
/// what the teacher saw. Epoch `e` of training, from 0, uses view `e` mod `views`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Views of each image.
    #[schemars(range(min = 1, max = 65535))]
    pub views: u16,
    /// Seeds the views.
    pub seed: u64,
    /// A part of random place, size and shape, brought to the size that `preprocess.crop` or
    /// `preprocess.size` gives (or else to that of the sample); takes the place of resizing and cutting out
    /// of the middle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_resized_crop: Option<RandomResizedCrop>,
    /// The probability that a view is mirrored, left for right.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub horizontal_flip: f64,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self { views: DEFAULT_VIEWS, seed: 0, random_resized_crop: None, horizontal_flip: 0.0 }
    }
}

/// What parts of an image may be cut, as torchvision's `RandomResizedCrop`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// The least and the most of the image's area.
    pub scale: [f64; 2],
    /// The least and the most of width by height.
    pub ratio: [f64; 2],
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        Self { scale: DEFAULT_CROP_SCALE, ratio: DEFAULT_CROP_RATIO }
    }
}

/// The settings in a line, for people.
impl fmt::Display for AugmentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} views of seed {}", self.views, self.seed)?;
        if let Some(RandomResizedCrop { scale, ratio }) = &self.random_resized_crop {
            write!(f, ", random resized crops of area {scale:.3?} and ratio {ratio:.3?}")?;
        }
        if self.horizontal_flip > 0.0 {
            write!(f, ", mirrored with probability {}", self.horizontal_flip)?;
        }
        Ok(())
    }
}

impl AugmentConfig {
    /// Everything that is wrong with the values; keys are given below `prefix`.
    pub(super) fn validate(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.random_resized_crop.is_none() && self.horizontal_flip == 0.0 {
            let problem = "expected random_resized_crop or a positive horizontal_flip, found neither: views would \
                           all be alike; give one, or remove the table";
            faults.push(Fault::new(prefix, problem));
        }
        if let Some(RandomResizedCrop { scale, ratio }) = &self.random_resized_crop {
            let key = |key: &str| format!("{prefix}.random_resized_crop.{key}");
            if !(scale[0] > 0.0 && scale[0] <= scale[1] && scale[1] <= 1.0) {
                let problem = format!("expected two rising shares of the area, at most 1, found {scale:?}");
                faults.push(Fault::new(key("scale"), problem));
            }
            if !(ratio[0] > 0.0 && ratio[0] <= ratio[1] && ratio[1].is_finite()) {
                let problem = format!("expected two rising, positive ratios, found {ratio:?}");
                faults.push(Fault::new(key("ratio"), problem));
            }
        }
        faults
    }
}

/// How pixels between pixels are found; both widen with the reduction, so that nothing is skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// A triangle, as PIL's `BILINEAR`.
    #[default]
    Bilinear,
    /// Cubic convolution with a = −0.5, as PIL's `BICUBIC`.
    Bicubic,
}

impl Interpolation {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The settings in a line, for people.
impl fmt::Display for PreprocessConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interpolation = match self.interpolation {
            Interpolation::Bilinear => "",
            Interpolation::Bicubic => " bicubic",
        };
        match self.channels {
            Some(1) => write!(f, "grey, ")?,
            Some(channels) => write!(f, "{channels} channels, ")?,
            None => {}
        }
        if let Some(shorter) = self.resize {
            write!(f, "resize {shorter}{interpolation}, ")?;
        }
        if let Some([height, width]) = self.size {
            write!(f, "size {height} × {width}{interpolation}, ")?;
        }
        if let Some(crop) = self.crop {
            write!(f, "crop {crop}, ")?;
        }
        let layout = format!("{:?}", self.layout).to_lowercase();
        write!(f, "scale {:.6}, mean {:?}, std {:?}, {layout}", self.scale, self.mean, self.std)
    }
}

impl PreprocessConfig {
    /// Whether images change in size or channels.
    pub fn changes_images(&self) -> bool {
        self.channels.is_some() || self.resize.is_some() || self.size.is_some() || self.crop.is_some()
    }

    /// What is wrong with the keys that images alone have.
    pub(super) fn validate_images(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(found) = self.channels.filter(|channels| ![1, 3].contains(channels)) {
            let problem = format!("expected 1 (grey) or 3 (red, green and blue), found {found}");
            faults.push(Fault::new(format!("{prefix}.channels"), problem));
        }
        if self.resize.is_some() && self.size.is_some() {
            let problem = format!(
                "expected either {prefix}.resize (the shorter side) or {prefix}.size (both), found both"
            );
            faults.push(Fault::new(format!("{prefix}.size"), problem));
        }
        if let (Some(crop), Some(least)) =
            (self.crop, self.resize.or_else(|| self.size.map(|[height, width]| height.min(width))))
            && crop > least
        {
            let problem = format!("expected at most the resized image's shorter side, {least}, found {crop}");
            faults.push(Fault::new(format!("{prefix}.crop"), problem));
        }
        if !self.interpolation.is_default() && self.resize.is_none() && self.size.is_none() {
            let problem = format!("belongs to {prefix}.resize or {prefix}.size; remove the key, or give one");
            faults.push(Fault::new(format!("{prefix}.interpolation"), problem));
        }
        faults
    }
}
