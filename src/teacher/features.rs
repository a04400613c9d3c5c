//! Further outputs of a teacher as vectors: one for each sample, or for each token.

use std::path::Path;

use super::TeacherError;
use crate::config::{FeatureConfig, FeaturePool};

/// How the numbers of one sample or token become its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reduction {
    /// Numbers that the output has of it.
    pub(super) numbers: usize,
    /// Numbers of the vector.
    pub(super) width: usize,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// They are the vector, or begin with it.
    First,
    /// The mean over the last dimensions, so many places: `[channels, places]`.
    Inner(usize),
    /// The mean over the first dimension: `[places, width]`.
    Outer(usize),
}

impl Reduction {
    /// That of an output of `shape`, which begins with `leading` (samples; of tokens also the row's length).
    ///
    /// Dimensions of 1 are left out: `[batch, 512, 1, 1]` is a vector of 512.
    pub(super) fn of(
        path: &Path,
        feature: &FeatureConfig,
        leading: &[usize],
        shape: &[usize],
        kind: &str,
    ) -> Result<Self, TeacherError> {
        let refuse = |expected: String| TeacherError::Feature {
            name: feature.name.clone(),
            path: path.to_owned(),
            expected,
            found: format!("{kind} {shape:?}"),
        };
        let first = leading.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        if shape.len() <= leading.len() || shape[..leading.len()] != *leading {
            return Err(refuse(format!("an output of float [{first}, width]")));
        }
        let own = &shape[leading.len()..];
        let numbers: usize = own.iter().product();
        if numbers == 0 || i32::try_from(numbers).is_err() {
            return Err(refuse(format!("an output of float [{first}, width], with numbers in it")));
        }
        let vector = own.iter().filter(|size| **size > 1).count() <= 1;
        let (width, how) = match (feature.pool, own) {
            (Some(FeaturePool::Flatten), _) => (numbers, How::First),
            _ if vector => (numbers, How::First),
            (Some(FeaturePool::Mean), [places, width]) => (*width, How::Outer(*places)),
            (Some(FeaturePool::Mean), _) => (own[0], How::Inner(numbers / own[0])),
            (Some(FeaturePool::First), [_, width]) => (*width, How::First),
            (Some(FeaturePool::First), _) => {
                return Err(refuse(format!(
                    "an output of float [{first}, tokens, width] with pool = \"first\""
                )));
            }
            (None, _) => {
                return Err(refuse(format!(
                    "a vector for each, float [{first}, width]; say how to make one with pool = \"mean\", \"first\" or \
                     \"flatten\", or name an output behind the model's own pooling"
                )));
            }
        };
        Ok(Self { numbers, width, how })
    }

    /// The vectors of `values`.
    ///
    /// # Shapes
    /// `[n, numbers]` to `[n, width]`. Means are summed in double precision, in order.
    pub(super) fn apply(self, values: Vec<f32>) -> Vec<f32> {
        let Self { numbers, width, how } = self;
        let rows = values.chunks_exact(numbers);
        match how {
            How::First if numbers == width => values,
            How::First => rows.flat_map(|row| row[..width].to_vec()).collect(),
            How::Inner(places) => {
                let mean = |of: &[f32]| of.iter().map(|v| f64::from(*v)).sum::<f64>() / places as f64;
                rows.flat_map(|row| row.chunks_exact(places)).map(|of| mean(of) as f32).collect()
            }
            How::Outer(places) => {
                let mut out = Vec::with_capacity(values.len() / places);
                for row in rows {
                    let mut sums = vec![0f64; width];
                    for place in row.chunks_exact(width) {
                        sums.iter_mut().zip(place).for_each(|(sum, value)| *sum += f64::from(*value));
                    }
                    out.extend(sums.into_iter().map(|sum| (sum / places as f64) as f32));
                }
                out
            }
        }
    }
}

/// The only one of `outputs` that is no feature's, where there is one: what the logits are unless it is said.
pub(super) fn other_than<'a>(features: &[FeatureConfig], outputs: &'a [String]) -> Option<&'a str> {
    let mut left = outputs.iter().filter(|output| features.iter().all(|feature| feature.output != **output));
    let only = left.next()?;
    left.next().is_none().then_some(only.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduction(shape: &[usize], pool: Option<FeaturePool>) -> Result<Reduction, String> {
        let feature =
            FeatureConfig { name: "f".into(), output: "o".into(), values: Default::default(), pool };
        Reduction::of(Path::new("m.onnx"), &feature, &[2], shape, "f32").map_err(|error| error.to_string())
    }

    #[test]
    fn vectors_are_taken_as_they_are() {
        for shape in [&[2usize, 6][..], &[2, 6, 1, 1], &[2, 1, 6]] {
            for pool in [None, Some(FeaturePool::Mean), Some(FeaturePool::First), Some(FeaturePool::Flatten)]
            {
                let found = reduction(shape, pool).unwrap();
                assert_eq!((found.numbers, found.width), (6, 6), "{shape:?} {pool:?}");
                assert_eq!(found.apply((0..12).map(|v| v as f32).collect()).len(), 12);
            }
        }
    }

    #[test]
    fn maps_and_tokens_are_pooled_as_asked() {
        let values: Vec<f32> = (0..12).map(|v| v as f32).collect();
        // [2 samples, 3 channels, 1, 2]: neighbours are of one channel.
        let map = reduction(&[2, 3, 1, 2], Some(FeaturePool::Mean)).unwrap();
        assert_eq!(map.apply(values.clone()), [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]);
        // [2 samples, 3 tokens, 2 numbers].
        let tokens = reduction(&[2, 3, 2], Some(FeaturePool::Mean)).unwrap();
        assert_eq!(tokens.apply(values.clone()), [2.0, 3.0, 8.0, 9.0]);
        let first = reduction(&[2, 3, 2], Some(FeaturePool::First)).unwrap();
        assert_eq!(first.apply(values.clone()), [0.0, 1.0, 6.0, 7.0]);
        let all = reduction(&[2, 3, 2], Some(FeaturePool::Flatten)).unwrap();
        assert_eq!((all.width, all.apply(values.clone())), (6, values));
    }

    #[test]
    fn what_is_no_vector_says_how_to_make_one() {
        let error = reduction(&[2, 3, 7, 7], None).unwrap_err();
        assert!(
            error.contains("features.f: m.onnx: expected a vector for each, float [2, width]"),
            "{error}"
        );
        assert!(error.contains("pool = \"mean\"") && error.contains("found f32 [2, 3, 7, 7]"), "{error}");
        for shape in [&[3usize, 6][..], &[2], &[2, 0], &[]] {
            assert!(reduction(shape, None).is_err(), "{shape:?}");
        }
        assert!(reduction(&[2, 3, 7, 7], Some(FeaturePool::First)).unwrap_err().contains("tokens, width"));
    }

    #[test]
    fn logits_are_what_is_left() {
        let features = |outputs: &[&str]| -> Vec<FeatureConfig> {
            let one = |output: &&str| FeatureConfig {
                name: "f".into(),
                output: (*output).into(),
                values: Default::default(),
                pool: None,
            };
            outputs.iter().map(one).collect()
        };
        let outputs = ["a", "b", "c"].map(String::from);
        assert_eq!(other_than(&features(&["a", "c"]), &outputs), Some("b"));
        assert_eq!(other_than(&features(&["a"]), &outputs), None);
        assert_eq!(other_than(&features(&["a", "b", "c"]), &outputs), None);
    }
}
