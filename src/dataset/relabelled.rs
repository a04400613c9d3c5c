//! A dataset whose labels are counted as another's, or left out.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Dataset, DatasetError, Sample};
use crate::digest::Digest;
use crate::ids::SampleId;

/// A dataset with other numbers for its classes.
struct Relabelled {
    dataset: Box<dyn Dataset>,
    names: Vec<String>,
    /// The label of each of the dataset's own classes; `None` where they are none of the other's.
    labels: Option<Vec<u32>>,
}

/// `dataset` with its classes numbered as in `names`, where its classes have names: a folder of images counts those that it has, so that one
/// without some of them counts the others otherwise. One with a class that is none of `names` is refused, where errors have a `key` for it,
/// or else is without labels.
///
/// # Errors
/// [`DatasetError::ClassName`].
pub fn with_classes_of(
    dataset: Box<dyn Dataset>,
    names: &[String],
    key: Option<&String>,
) -> Result<Box<dyn Dataset>, DatasetError> {
    let Some(own) = dataset.class_names().filter(|own| *own != names) else { return Ok(dataset) };
    let numbers: BTreeMap<&String, u32> = names.iter().zip(0..).collect();
    let label = |name: &String| numbers.get(name).copied();
    let labels = match (own.iter().find(|name| label(name).is_none()), key) {
        (None, _) => Some(own.iter().filter_map(label).collect()),
        (Some(_), None) => None,
        (Some(name), Some(key)) => {
            let (key, name, known) = (key.clone(), name.clone(), names.to_vec());
            return Err(DatasetError::ClassName { key, name, known });
        }
    };
    Ok(Box::new(Relabelled { dataset, names: names.to_vec(), labels }))
}

impl Dataset for Relabelled {
    fn len(&self) -> u64 {
        self.dataset.len()
    }

    fn sample_shape(&self) -> &[usize] {
        self.dataset.sample_shape()
    }

    fn id_at(&self, index: u64) -> SampleId {
        self.dataset.id_at(index)
    }

    fn sample(&self, id: SampleId) -> Result<Sample<'_>, DatasetError> {
        self.dataset.sample(id)
    }

    fn label(&self, id: SampleId) -> Result<Option<u32>, DatasetError> {
        let own = self.dataset.label(id)?;
        Ok(own.zip(self.labels.as_ref()).map(|(own, labels)| labels[own as usize]))
    }

    fn fingerprint(&self) -> &Digest {
        self.dataset.fingerprint()
    }

    /// Those of the dataset itself: a cache over it was made with these.
    fn labels_digest(&self) -> Option<&Digest> {
        self.dataset.labels_digest().filter(|_| self.labels.is_some())
    }

    fn class_names(&self) -> Option<&[String]> {
        self.labels.as_ref().map(|_| self.names.as_slice())
    }

    fn file(&self, id: SampleId) -> Result<Option<&Path>, DatasetError> {
        self.dataset.file(id)
    }

    fn notes(&self) -> &[String] {
        self.dataset.notes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DatasetConfig, FolderConfig};
    use crate::dataset::open_images;

    fn folder(classes: &[&str]) -> (tempfile::TempDir, Box<dyn Dataset>) {
        let dir = tempfile::tempdir().unwrap();
        for class in classes {
            std::fs::create_dir(dir.path().join(class)).unwrap();
            image::GrayImage::new(2, 2).save(dir.path().join(class).join("a.png")).unwrap();
        }
        let config = FolderConfig { path: dir.path().to_owned(), split: None, limit: None };
        let dataset = open_images(&DatasetConfig::Folder(config), "dataset").unwrap();
        (dir, dataset)
    }

    #[test]
    fn classes_are_known_by_their_names() {
        let (names, key) = (["a", "b", "c", "d"].map(str::to_owned), "validation.x.dataset".to_owned());
        let labels = |dataset: &dyn Dataset| {
            let label = |index| dataset.label(dataset.id_at(index)).unwrap().unwrap();
            (0..dataset.len()).map(label).collect::<Vec<u32>>()
        };
        let (_dir, some) = folder(&["d", "b"]);
        assert_eq!(labels(some.as_ref()), [0, 1]);
        let digests = (some.fingerprint().clone(), some.labels_digest().cloned());
        let some = with_classes_of(some, &names, Some(&key)).unwrap();
        assert_eq!(labels(some.as_ref()), [1, 3]);
        assert_eq!(digests, (some.fingerprint().clone(), some.labels_digest().cloned()));
        let (_dir, others) = folder(&["a", "e"]);
        let Err(error) = with_classes_of(others, &names, Some(&key)) else { panic!("taken") };
        let error = error.to_string();
        assert!(error.contains("validation.x.dataset") && error.contains("\"e\""), "{error}");
        let (_dir, others) = folder(&["a", "e"]);
        let others = with_classes_of(others, &names, None).unwrap();
        assert_eq!(
            (others.label(SampleId(0)).unwrap(), others.labels_digest(), others.len()),
            (None, None, 2)
        );
        // What has no names counts as it does.
        let (dir, _) = folder(&["a"]);
        let config = FolderConfig { path: dir.path().join("a"), split: None, limit: None };
        let unlabelled = open_images(&DatasetConfig::Folder(config), "dataset").unwrap();
        let unlabelled = with_classes_of(unlabelled, &names, Some(&key)).unwrap();
        assert_eq!(unlabelled.label(SampleId(0)).unwrap(), None);
    }
}
