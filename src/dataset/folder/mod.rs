//! A folder of image files, decoded when they are asked for.

mod files;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Dataset, DatasetError, Sample, decode, split};
use crate::config::FolderConfig;
use crate::digest::{Digest, Hasher};
use crate::ids::SampleId;

/// Images in RGB of any size; sample ids are places in the order of paths.
pub(super) struct FolderDataset {
    root: PathBuf,
    /// Paths below `root`, with the class.
    images: Vec<(PathBuf, u32)>,
    /// Names of the classes, where there are any.
    classes: Option<Vec<String>>,
    fingerprint: Digest,
    labels_digest: Option<Digest>,
    notes: Vec<String>,
}

impl FolderDataset {
    /// Lists the folder and reads every file once, for the fingerprint and for its header to be checked.
    pub(super) fn open(config: &FolderConfig) -> Result<Self, FolderError> {
        let root = config.path.clone();
        let files::Found { classes, mut images } = files::list(&root)?;
        if let Some(split) = &config.split {
            let count = images.len() as u64;
            let part = split::part(count, split).ok_or(FolderError::Split {
                share: split.validation,
                images: count,
                part: split.part.as_str(),
            })?;
            let mut part = part.into_iter();
            images.retain(|_| part.next() == Some(true));
        }
        if let Some(limit) = config.limit {
            let images_there = images.len() as u64;
            if limit > images_there {
                return Err(FolderError::Limit { path: root, images: images_there, limit });
            }
            images.truncate(limit as usize);
        }
        let labels_digest = classes.as_ref().map(|classes| {
            let mut hasher = Hasher::new();
            for class in classes {
                hasher.update(class.as_bytes());
                hasher.update(&[0]);
            }
            images.iter().for_each(|(_, class)| hasher.update(&class.to_le_bytes()));
            hasher.finish()
        });
        let fingerprint = fingerprint(&root, &images)?;
        let notes = note(&images).into_iter().collect();
        Ok(Self { root, images, classes, fingerprint, labels_digest, notes })
    }

    fn image(&self, id: SampleId) -> Result<&(PathBuf, u32), DatasetError> {
        let found = usize::try_from(id.0).ok().and_then(|index| self.images.get(index));
        found.ok_or(DatasetError::NoSuchSample { sample: id, samples: self.len() })
    }
}

impl Dataset for FolderDataset {
    fn len(&self) -> u64 {
        self.images.len() as u64
    }

    fn sample_shape(&self) -> &[usize] {
        &[0, 0, 3]
    }

    fn id_at(&self, index: u64) -> SampleId {
        SampleId(index)
    }

    fn sample(&self, id: SampleId) -> Result<Sample<'_>, DatasetError> {
        let path = self.root.join(&self.image(id)?.0);
        let file = read(&path)?;
        let broken = |problem| FolderError::Broken { path: path.clone(), problem, others: Vec::new() };
        let decode::Rgb { width, height, bytes } = decode::rgb(&file).map_err(broken)?;
        Ok(Sample { bytes: bytes.into(), shape: Cow::Owned(vec![height, width, 3]) })
    }

    fn label(&self, id: SampleId) -> Result<Option<u32>, DatasetError> {
        let (_, class) = self.image(id)?;
        Ok(self.classes.is_some().then_some(*class))
    }

    fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    fn labels_digest(&self) -> Option<&Digest> {
        self.labels_digest.as_ref()
    }

    fn class_names(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    fn file(&self, id: SampleId) -> Result<Option<&Path>, DatasetError> {
        Ok(Some(&self.image(id)?.0))
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Where torchvision would count otherwise, as who joins by places wants to know.
fn note(images: &[(PathBuf, u32)]) -> Option<String> {
    let mut further =
        images.iter().map(|(path, _)| path).filter(|path| !files::is_of_torchvision(path)).peekable();
    let first = further.peek()?.display().to_string();
    Some(format!(
        "dataset: {} of {} images are of kinds that torchvision's ImageFolder leaves out, the first {first}: sample ids are other \
         places than its from there on (kd-cache samples lists them)",
        further.count(),
        images.len()
    ))
}

/// Over paths and contents in order, files side by side.
///
/// # Errors
/// The first file in the order of paths that cannot be read, or else all that are broken: what is found now is found before the
/// teacher has worked for hours.
fn fingerprint(root: &Path, images: &[(PathBuf, u32)]) -> Result<Digest, FolderError> {
    let of_file = |(path, _): &(PathBuf, u32)| {
        let path = root.join(path);
        let file = read(&path)?;
        Ok(decode::check(&file).map(|()| Digest::of_bytes(&file)).map_err(|problem| (path, problem)))
    };
    let digests: Vec<Result<_, FolderError>> = images.par_iter().map(of_file).collect();
    let mut hasher = Hasher::new();
    hasher.update(b"image-folder");
    let mut broken = Vec::new();
    for ((path, _), digest) in images.iter().zip(digests) {
        match digest? {
            Ok(digest) => {
                let path = path.as_os_str().as_encoded_bytes();
                hasher.update(&(path.len() as u64).to_le_bytes());
                hasher.update(path);
                hasher.update(digest.as_str().as_bytes());
            }
            Err(one) => broken.push(one),
        }
    }
    let mut broken = broken.into_iter();
    match broken.next() {
        None => Ok(hasher.finish()),
        Some((path, problem)) => {
            Err(FolderError::Broken { path, problem, others: broken.map(|(path, _)| path).collect() })
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FolderError> {
    std::fs::read(path).map_err(|source| FolderError::Read { path: path.to_owned(), source })
}

/// Files that are named in one error.
const NAMED: usize = 20;

/// What is wrong with further files, a line each.
fn too(others: &[PathBuf]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let named: String = others.iter().take(NAMED).map(|path| format!("\n  {}", path.display())).collect();
    let more = others.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    format!("\nBroken as well:{named}{more}")
}

/// Why a folder of images could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// A file or folder could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No images, in the dataset or in a class of it.
    #[error(
        "dataset.path: expected images ({extensions}) in {path}, found none; add some, or remove the folder (classes are \
         numbered by the folders that are there)"
    )]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        extensions: String,
    },
    /// Some images have a class and some have none.
    #[error(
        "dataset.path: expected in {path} either images, or folders with the images of a class each, found \
         both ({image} and {folder}); move the images into a folder of their class, or the folders elsewhere"
    )]
    Both {
        /// The dataset's folder.
        path: PathBuf,
        /// An image in it.
        image: PathBuf,
        /// A folder in it.
        folder: PathBuf,
    },
    /// A link that leads into a folder that it is in.
    #[error("dataset.path: {path} is a link back to {back_to}, in which it is; remove it")]
    Loop {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        back_to: PathBuf,
    },
    /// A file that cannot be decoded. It is not skipped: ids of samples would then depend on the decoder.
    #[error(
        "{path}: expected an image that can be decoded, found {problem}; write it anew or remove it{}",
        too(others)
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// Others that are broken too.
        others: Vec<PathBuf>,
    },
    /// The limit exceeds the dataset.
    #[error("dataset.limit: expected at most the {images} images of {path}, found {limit}")]
    Limit {
        /// The folder.
        path: PathBuf,
        /// Images of the part that is wanted.
        images: u64,
        /// The limit asked for.
        limit: u64,
    },
    /// A part with nothing in it.
    #[error(
        "dataset.split.validation: {share} of {images} images leaves the part \"{part}\" with none; \
         choose another share"
    )]
    Split {
        /// The config's share.
        share: f64,
        /// Images in all.
        images: u64,
        /// The part that would be empty.
        part: &'static str,
    },
}

#[cfg(test)]
mod tests;
