//! What configs say of image files: where they lie and how images of any size become one size.

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

impl PreprocessConfig {
    /// Whether images change in size.
    pub fn has_geometry(&self) -> bool {
        self.resize.is_some() || self.size.is_some() || self.crop.is_some()
    }

    /// What is wrong with the keys of geometry.
    pub(super) fn validate_geometry(&self, prefix: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
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
