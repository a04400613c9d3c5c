//! How many of a model's logits are tokens.

use std::path::Path;

use super::TeacherError;
use crate::config::TeacherConfig;

/// The classes that are expected, and whether there may be more, which are padding.
pub(super) struct Vocabulary {
    classes: Option<usize>,
    padded: bool,
}

impl Vocabulary {
    pub(super) fn of(config: &TeacherConfig) -> Self {
        Self { classes: config.classes, padded: config.padded_vocabulary }
    }

    /// Of a model that is no language model's: everything it gives.
    pub(super) fn of_images() -> Self {
        Self { classes: None, padded: false }
    }

    /// The number of logits kept of the `found` that `path` gives for a position.
    pub(super) fn kept(&self, path: &Path, found: usize) -> Result<usize, TeacherError> {
        match self.classes {
            Some(expected) if expected == found || (self.padded && expected < found) => Ok(expected),
            Some(expected) => Err(TeacherError::Classes { path: path.to_owned(), expected, found }),
            None => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_is_cut_only_when_it_is_said_to_be_padded() {
        let kept = |classes, padded| Vocabulary { classes, padded }.kept(Path::new("m.onnx"), 50);
        assert_eq!(kept(None, false).unwrap(), 50);
        assert_eq!(kept(Some(50), true).unwrap(), 50);
        assert_eq!(kept(Some(40), true).unwrap(), 40);
        let error = kept(Some(40), false).unwrap_err().to_string();
        assert_eq!(
            error,
            "teacher.classes = 40, but m.onnx gives 50 logits for a position; if those beyond are padding, \
             set teacher.padded_vocabulary = true to cut them off"
        );
        let error = kept(Some(60), true).unwrap_err().to_string();
        assert!(
            error.contains("teacher.classes = 60") && error.contains("correct teacher.classes"),
            "{error}"
        );
    }
}
