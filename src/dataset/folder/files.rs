//! From a folder to its images, in the order in which torchvision's `ImageFolder` has them. It leaves some kinds out that are read here,
//! and has what is hidden.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::FolderError;

/// Extensions of what [`decode`](super::super::decode) reads, in lower case.
const EXTENSIONS: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "pnm", "ppm", "pgm", "pbm"];

/// Those that torchvision knows (`IMG_EXTENSIONS` of `torchvision/datasets/folder.py`).
const OF_TORCHVISION: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// What is in a folder.
pub(super) struct Found {
    /// Names of the classes, sorted; `None` where there are no folders.
    pub(super) classes: Option<Vec<String>>,
    /// Images with their class, 0 where there is none; by class, then by folder, then by name.
    pub(super) images: Vec<(PathBuf, u32)>,
}

/// What one folder lists, sorted by name.
#[derive(Default)]
struct Listing {
    folders: Vec<(OsString, PathBuf)>,
    images: Vec<(OsString, PathBuf)>,
}

/// Lists `root`; paths are relative to it.
pub(super) fn list(root: &Path) -> Result<Found, FolderError> {
    let top = read(root, Path::new(""))?;
    if top.folders.is_empty() {
        if top.images.is_empty() {
            return Err(FolderError::Empty { path: root.to_owned(), extensions: EXTENSIONS.join(", ") });
        }
        return Ok(Found {
            classes: None,
            images: top.images.into_iter().map(|(_, path)| (path, 0)).collect(),
        });
    }
    if let Some((_, image)) = top.images.first() {
        let (image, folder) = (image.clone(), top.folders[0].1.clone());
        return Err(FolderError::Both { path: root.to_owned(), image, folder });
    }
    let (mut classes, mut images) = (Vec::new(), Vec::new());
    for (class, (name, path)) in top.folders.into_iter().enumerate() {
        let mut below = Vec::new();
        walk(root, &path, &mut vec![real(root, Path::new(""))?], &mut below)?;
        if below.iter().all(|(_, images)| images.is_empty()) {
            let path = root.join(path);
            return Err(FolderError::Empty { path, extensions: EXTENSIONS.join(", ") });
        }
        // As text and not part by part: torchvision has a-b before a/b.
        below.sort_by(|(a, _), (b, _)| a.as_os_str().cmp(b.as_os_str()));
        images.extend(below.into_iter().flat_map(|(_, images)| images).map(|image| (image, class as u32)));
        classes.push(name.to_string_lossy().into_owned());
    }
    Ok(Found { classes: Some(classes), images })
}

/// Adds `folder` with its images, and the folders in it. `above` are the real paths of all folders that it
/// is in: a link back to one of them would have no end.
fn walk(
    root: &Path,
    folder: &Path,
    above: &mut Vec<PathBuf>,
    found: &mut Vec<(PathBuf, Vec<PathBuf>)>,
) -> Result<(), FolderError> {
    let here = real(root, folder)?;
    if above.contains(&here) {
        return Err(FolderError::Loop { path: root.join(folder), back_to: here });
    }
    above.push(here);
    let listing = read(root, folder)?;
    found.push((folder.to_owned(), listing.images.into_iter().map(|(_, path)| path).collect()));
    for (_, inner) in listing.folders {
        walk(root, &inner, above, found)?;
    }
    above.pop();
    Ok(())
}

/// Lists one folder, links followed, without what is hidden.
fn read(root: &Path, folder: &Path) -> Result<Listing, FolderError> {
    let error = |path: PathBuf| move |source| FolderError::Read { path, source };
    let absolute = root.join(folder);
    let mut listing = Listing::default();
    for entry in std::fs::read_dir(&absolute).map_err(error(absolute.clone()))? {
        let entry = entry.map_err(error(absolute.clone()))?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let mut kind = entry.file_type().map_err(error(entry.path()))?;
        if kind.is_symlink() {
            kind = std::fs::metadata(entry.path()).map_err(error(entry.path()))?.file_type();
        }
        let path = folder.join(&name);
        if kind.is_dir() {
            listing.folders.push((name, path));
        } else if kind.is_file() && is_image(&path) {
            listing.images.push((name, path));
        }
    }
    // By bytes, which is the order of code points, as Python sorts.
    listing.folders.sort();
    listing.images.sort();
    Ok(listing)
}

fn is_image(path: &Path) -> bool {
    has_one_of(path, &EXTENSIONS)
}

/// Whether torchvision's `ImageFolder` takes an image too.
pub(super) fn is_of_torchvision(path: &Path) -> bool {
    has_one_of(path, &OF_TORCHVISION)
}

fn has_one_of(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|e| extensions.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

fn real(root: &Path, folder: &Path) -> Result<PathBuf, FolderError> {
    let path = root.join(folder);
    path.canonicalize().map_err(|source| FolderError::Read { path, source })
}
