//! A dataset whose labels are counted as another's.

use super::{Dataset, DatasetError, Sample};
use crate::digest::Digest;
use crate::ids::SampleId;

/// A dataset with other numbers for its classes.
struct Relabelled {
    dataset: Box<dyn Dataset>,
    names: Vec<String>,
    /// The label of each of the dataset's own classes.
    labels: Vec<u32>,
}

/// `dataset`, which errors call `key`, with its classes numbered as in `names`, where its classes have names: a folder of images counts
/// those that it has, so that one without some of them counts the others otherwise.
///
/// # Errors
/// [`DatasetError::ClassName`]: it has a class that is none of `names`.
pub fn with_classes_of(
    dataset: Box<dyn Dataset>,
    names: &[String],
    key: &str,
) -> Result<Box<dyn Dataset>, DatasetError> {
    let Some(own) = dataset.class_names().filter(|own| *own != names) else { return Ok(dataset) };
    let label = |name: &String| {
        let found = names.iter().position(|known| known == name).and_then(|at| u32::try_from(at).ok());
        found.ok_or_else(|| DatasetError::ClassName {
            key: key.to_owned(),
            name: name.clone(),
            known: names.to_vec(),
        })
    };
    let labels = own.iter().map(label).collect::<Result<_, _>>()?;
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
        Ok(self.dataset.label(id)?.map(|own| self.labels[own as usize]))
    }

    fn fingerprint(&self) -> &Digest {
        self.dataset.fingerprint()
    }

    /// Those of the dataset itself: a cache over it was made with these.
    fn labels_digest(&self) -> Option<&Digest> {
        self.dataset.labels_digest()
    }

    fn class_names(&self) -> Option<&[String]> {
        Some(&self.names)
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
        let names = ["a", "b", "c", "d"].map(str::to_owned);
        let labels = |dataset: &dyn Dataset| {
            let label = |index| dataset.label(dataset.id_at(index)).unwrap().unwrap();
            (0..dataset.len()).map(label).collect::<Vec<u32>>()
        };
        let (_dir, some) = folder(&["d", "b"]);
        assert_eq!(labels(some.as_ref()), [0, 1]);
        let digests = (some.fingerprint().clone(), some.labels_digest().cloned());
        let some = with_classes_of(some, &names, "dataset").unwrap();
        assert_eq!(labels(some.as_ref()), [1, 3]);
        assert_eq!(digests, (some.fingerprint().clone(), some.labels_digest().cloned()));
        let (_dir, others) = folder(&["a", "e"]);
        let Err(error) = with_classes_of(others, &names, "validation.x.dataset") else { panic!("taken") };
        let error = error.to_string();
        assert!(error.contains("validation.x.dataset") && error.contains("\"e\""), "{error}");
        // What has no names counts as it does.
        let (dir, _) = folder(&["a"]);
        let config = FolderConfig { path: dir.path().join("a"), split: None, limit: None };
        let unlabelled = open_images(&DatasetConfig::Folder(config), "dataset").unwrap();
        let unlabelled = with_classes_of(unlabelled, &names, "dataset").unwrap();
        assert_eq!(unlabelled.label(SampleId(0)).unwrap(), None);
    }
}
