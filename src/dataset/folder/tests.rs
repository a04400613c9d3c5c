use super::*;
use crate::config::{Part, SplitConfig};

fn config(path: &Path) -> FolderConfig {
    FolderConfig { path: path.to_owned(), split: None, limit: None }
}

fn open(path: &Path) -> Result<FolderDataset, FolderError> {
    FolderDataset::open(&config(path))
}

fn error(path: &Path) -> String {
    open(path).err().unwrap().to_string()
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/decoded");
    std::fs::read(folder.join(name)).unwrap()
}

/// Writes a PNG of one grey pixel, or another file.
fn put(root: &Path, name: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes = if name.ends_with(".txt") { b"words".to_vec() } else { fixture("grey.png") };
    std::fs::write(path, bytes).unwrap();
}

fn names(dataset: &FolderDataset) -> Vec<(String, Option<u32>)> {
    let name = |index| dataset.images[index as usize].0.to_string_lossy().into_owned();
    (0..dataset.len()).map(|at| (name(at), dataset.label(dataset.id_at(at)).unwrap())).collect()
}

#[test]
fn images_have_the_order_and_classes_of_image_folder() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        "b/2.JPG",
        "b/10.png",
        "b/a/c/x.png",
        "b/a-b/x.png",
        "b/notes.txt",
        "b/.hidden.png",
        "a/1.jpeg",
        "B/1.gif",
        ".git/1.png",
        "readme.txt",
    ];
    files.iter().for_each(|name| put(dir.path(), name));
    let dataset = open(dir.path()).unwrap();
    let expected = [
        ("B/1.gif", 0),
        ("a/1.jpeg", 1),
        ("b/10.png", 2),
        ("b/2.JPG", 2),
        // torchvision sorts the texts of folders, where "-" comes before "/".
        ("b/a-b/x.png", 2),
        ("b/a/c/x.png", 2),
    ];
    assert_eq!(names(&dataset), expected.map(|(name, class)| (name.to_owned(), Some(class))));
    assert_eq!(dataset.file(SampleId(4)).unwrap(), Some(Path::new("b/a-b/x.png")));
    assert!(dataset.notes()[0].contains("1 of 6 images") && dataset.notes()[0].contains("B/1.gif"));
    assert_eq!(dataset.sample_shape(), [0, 0, 3]);
    let sample = dataset.sample(SampleId(3)).unwrap();
    assert_eq!((&*sample.shape, sample.bytes.len()), (&[26usize, 37, 3][..], 26 * 37 * 3));
    assert!(matches!(dataset.sample(SampleId(6)), Err(DatasetError::NoSuchSample { samples: 6, .. })));
}

#[test]
fn a_folder_without_folders_is_unlabelled() {
    let dir = tempfile::tempdir().unwrap();
    ["2.png", "1.png"].iter().for_each(|name| put(dir.path(), name));
    let dataset = open(dir.path()).unwrap();
    assert_eq!(names(&dataset), [("1.png".to_owned(), None), ("2.png".to_owned(), None)]);
    assert_eq!(dataset.labels_digest(), None);
    assert!(dataset.notes().is_empty());
}

#[test]
fn splits_part_the_images_and_a_limit_takes_the_first() {
    let dir = tempfile::tempdir().unwrap();
    for at in 0..40 {
        put(dir.path(), &format!("{}/{at:02}.png", at % 4));
    }
    let part = |part| FolderConfig {
        split: Some(SplitConfig { part, validation: 0.25, seed: 3 }),
        ..config(dir.path())
    };
    let (train, validation) = (part(Part::Train), part(Part::Validation));
    let opened = [&train, &validation].map(|config| names(&FolderDataset::open(config).unwrap()));
    assert_eq!(opened.each_ref().map(Vec::len), [30, 10]);
    let mut both = opened.concat();
    both.sort();
    assert_eq!(both, names(&open(dir.path()).unwrap()));
    let limited = FolderDataset::open(&FolderConfig { limit: Some(7), ..train }).unwrap();
    assert_eq!(names(&limited), opened[0][..7]);
    let refused = |config: FolderConfig| FolderDataset::open(&config).err().unwrap().to_string();
    assert!(refused(FolderConfig { limit: Some(11), ..validation }).contains("at most the 10 images"));
    let nothing = SplitConfig { part: Part::Validation, validation: 0.01, seed: 0 };
    let nothing = FolderConfig { split: Some(nothing), ..config(dir.path()) };
    assert!(refused(nothing).contains("0.01 of 40 images leaves the part \"validation\" with none"));
}

#[test]
fn the_fingerprint_is_of_names_and_bytes_wherever_the_folder_lies() {
    let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for dir in [&one, &other] {
        ["a/1.png", "a/2.png", "b/3.png"].iter().for_each(|name| put(dir.path(), name));
    }
    let of = |dir: &tempfile::TempDir| {
        let dataset = open(dir.path()).unwrap();
        (dataset.fingerprint().clone(), dataset.labels_digest().cloned())
    };
    let same = of(&one);
    assert_eq!(of(&other), same);
    put(other.path(), "b/notes.txt");
    assert_eq!(of(&other), same);
    std::fs::write(other.path().join("a/2.png"), fixture("rgb.png")).unwrap();
    let bytes = of(&other);
    assert_ne!(bytes.0, same.0);
    assert_eq!(bytes.1, same.1);
    std::fs::rename(other.path().join("a/2.png"), other.path().join("b/2.png")).unwrap();
    assert_ne!(of(&other).0, bytes.0);
    assert_ne!(of(&other).1, bytes.1);
}

#[test]
fn what_is_no_dataset_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert!(error(&root.join("gone")).contains("cannot read"));
    assert!(error(root).contains("expected images (jpg, jpeg"));
    put(root, "a/1.png");
    std::fs::create_dir(root.join("b")).unwrap();
    let empty = error(root);
    assert!(empty.contains("found none") && empty.contains("/b"), "{empty}");
    std::fs::remove_dir(root.join("b")).unwrap();
    put(root, "stray.png");
    let both = error(root);
    assert!(both.contains("found both (stray.png and a)"), "{both}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_refused() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("set");
    put(dir.path(), "elsewhere/1.png");
    put(&root, "a/1.png");
    symlink(dir.path().join("elsewhere"), root.join("b")).unwrap();
    symlink(dir.path().join("elsewhere/1.png"), root.join("a/2.png")).unwrap();
    let found = names(&open(&root).unwrap());
    assert_eq!(
        found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["a/1.png", "a/2.png", "b/1.png"]
    );
    symlink(&root, root.join("a/up")).unwrap();
    assert!(error(&root).contains("is a link back to"), "{}", error(&root));
}

#[test]
fn broken_images_are_named_when_opened_or_when_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::remove_dir_all(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path()).unwrap();
        std::fs::write(dir.path().join("0.png"), fixture("rgb.png")).unwrap();
        std::fs::write(dir.path().join(name), bytes).unwrap();
    };
    let opened = |name: &str, bytes: &[u8]| {
        write(name, bytes);
        error(dir.path())
    };
    let page = opened("page.jpg", b"<!DOCTYPE html><html>");
    assert!(
        page.contains("page.jpg: expected an image that can be decoded, found a file that begins"),
        "{page}"
    );
    assert!(opened("empty.jpg", b"").contains("found an empty file"));
    assert!(opened("short.jpg", &fixture("420.jpg")[..100]).contains("short.jpg: expected an image"));
    // A bomb: 60,000 × 60,000 pixels in a header.
    let mut bomb = fixture("rgb.bmp");
    bomb[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    bomb[22..26].copy_from_slice(&60_000u32.to_le_bytes());
    let bomb = opened("bomb.bmp", &bomb);
    assert!(bomb.contains("60000 × 60000 pixels, more than"), "{bomb}");
    // What is cut off is found before anything is predicted.
    let names =
        ["420.jpg", "progressive.jpg", "grey.jpg", "rgb.png", "lossy.webp", "rgb.bmp", "rgb.tiff", "rgb.ppm"];
    for name in names {
        let whole = fixture(name);
        let file = format!("cut-{name}");
        let refused = opened(&file, &whole[..whole.len() * 3 / 4]);
        assert!(refused.contains(&file) && refused.contains("write it anew or remove it"), "{refused}");
        // What a program leaves behind the end is no fault.
        if !name.ends_with("webp") {
            write(name, &[&whole[..], &[0; 99]].concat());
            assert!(open(dir.path()).is_ok(), "{name}");
        }
    }
    // All at once.
    write("1.png", b"");
    for name in names {
        std::fs::write(dir.path().join(format!("cut-{name}")), &fixture(name)[..90]).unwrap();
    }
    let refused = error(dir.path());
    assert!(refused.contains("1.png: expected an image"), "{refused}");
    assert!(names.iter().all(|name| refused.contains(&format!("\n  {}/cut-{name}", dir.path().display()))));
    // Damage in the midst shows when it is decoded.
    let mut damaged = fixture("rgb.png");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    write("damaged.png", &damaged);
    let refused = open(dir.path()).unwrap().sample(SampleId(1)).unwrap_err().to_string();
    assert!(refused.contains("damaged.png") && refused.contains("write it anew"), "{refused}");
}
