//! What a module returned, and the tensors in it by place or key.

use std::path::Path;

use tch::{IValue, Tensor};

use super::module::output_type;
use crate::config::FeatureConfig;
use crate::libtorch::to_host;
use crate::target::FeatureBatch;
use crate::teacher::TeacherError;
use crate::teacher::features::Reduction;

/// The tensors of a result: those of a tuple or list by their places, those of a dictionary by their keys.
pub(super) struct Answer(Vec<(String, Tensor)>);

impl Answer {
    pub(super) fn of(result: IValue) -> Self {
        let by_place = |all: Vec<IValue>| all.into_iter().enumerate().map(|(at, one)| (at.to_string(), one));
        let named: Vec<(String, IValue)> = match result {
            IValue::Tuple(all) | IValue::GenericList(all) => by_place(all).collect(),
            IValue::TensorList(all) => by_place(all.into_iter().map(IValue::Tensor).collect()).collect(),
            IValue::GenericDict(all) => {
                let key = |(key, one): (IValue, IValue)| match key {
                    IValue::String(key) => Some((key, one)),
                    _ => None,
                };
                all.into_iter().filter_map(key).collect()
            }
            one => vec![("0".into(), one)],
        };
        let tensor = |(name, one): (String, IValue)| match one {
            IValue::Tensor(tensor) => Some((name, tensor)),
            _ => None,
        };
        Self(named.into_iter().filter_map(tensor).collect())
    }

    /// Places or keys.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, tensor)| tensor)
    }

    /// Refuses a feature that is not among the results.
    pub(super) fn check(&self, path: &Path, features: &[FeatureConfig]) -> Result<(), TeacherError> {
        features.iter().try_for_each(|feature| self.named(path, feature).map(drop))
    }

    fn named(&self, path: &Path, feature: &FeatureConfig) -> Result<&Tensor, TeacherError> {
        self.get(&feature.output).ok_or_else(|| TeacherError::FeatureOutput {
            name: feature.name.clone(),
            path: path.to_owned(),
            output: feature.output.clone(),
            found: self.names(),
        })
    }

    /// The tensor of `feature`, whose dimensions begin with `leading`, and how it becomes vectors.
    pub(super) fn feature(
        &self,
        path: &Path,
        feature: &FeatureConfig,
        leading: &[usize],
    ) -> Result<Feature<'_>, TeacherError> {
        let tensor = self.named(path, feature)?;
        let shape: Vec<usize> =
            tensor.size().iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
        if output_type(tensor.kind()).is_none() {
            return Err(TeacherError::Feature {
                name: feature.name.clone(),
                path: path.to_owned(),
                expected: "an output of floats".into(),
                found: format!("{:?} {shape:?}", tensor.kind()),
            });
        }
        let kind = format!("{:?}", tensor.kind());
        let reduction = Reduction::of(path, feature, leading, &shape, &kind)?;
        Ok(Feature { tensor, leading: leading.len() as i64, reduction })
    }
}

/// A tensor that becomes vectors.
pub(super) struct Feature<'a> {
    tensor: &'a Tensor,
    leading: i64,
    reduction: Reduction,
}

impl Feature<'_> {
    /// The vectors of those rows, or positions, that `part` takes from `[rows, numbers]`.
    pub(super) fn vectors(&self, part: impl FnOnce(&Tensor) -> Tensor) -> FeatureBatch {
        let flat = match self.leading {
            1 => self.tensor.flatten(1, -1),
            _ => self.tensor.flatten(0, 1).flatten(1, -1),
        };
        FeatureBatch { width: self.reduction.width, values: self.reduction.apply(to_host(&part(&flat))) }
    }
}
