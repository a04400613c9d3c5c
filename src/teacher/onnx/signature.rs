//! What a model takes and gives, by name, type and shape.

use std::path::Path;

use ort::value::{Outlet, TensorElementType, ValueType};

use crate::config::FeatureConfig;
use crate::teacher::TeacherError;

/// The input or output that is named, or one of the usual names, or the only one.
pub(super) fn pick<'a>(
    path: &Path,
    key: &'static str,
    wanted: Option<&str>,
    usual: &[&str],
    found: &'a [Outlet],
) -> Result<&'a Outlet, TeacherError> {
    let named = |name: &str| found.iter().find(|outlet| outlet.name() == name);
    let problem = match wanted {
        Some(wanted) => match named(wanted) {
            Some(outlet) => return Ok(outlet),
            None => format!("expected one named {wanted:?}"),
        },
        None => match usual.iter().find_map(|name| named(name)) {
            Some(outlet) => return Ok(outlet),
            None if found.len() == 1 => return Ok(&found[0]),
            None => "name one of them".into(),
        },
    };
    Err(TeacherError::Name { path: path.to_owned(), key, problem, found: names(found.iter()) })
}

/// Refuses a feature whose output is not among `found`.
pub(super) fn check_features(
    path: &Path,
    features: &[FeatureConfig],
    found: &[Outlet],
) -> Result<(), TeacherError> {
    let missing = features.iter().find(|feature| !found.iter().any(|o| o.name() == feature.output));
    missing.map_or(Ok(()), |feature| {
        Err(TeacherError::FeatureOutput {
            name: feature.name.clone(),
            path: path.to_owned(),
            output: feature.output.clone(),
            found: names(found.iter()),
        })
    })
}

pub(super) fn names<'a>(outlets: impl Iterator<Item = &'a Outlet>) -> Vec<String> {
    outlets.map(|outlet| outlet.name().to_owned()).collect()
}

pub(super) fn element(outlet: &Outlet) -> Option<TensorElementType> {
    match outlet.dtype() {
        ValueType::Tensor { ty, .. } => Some(*ty),
        _ => None,
    }
}

/// The declared sizes, `None` where one is open; `None` for what is no tensor.
pub(super) fn dimensions(outlet: &Outlet) -> Option<Vec<Option<usize>>> {
    match outlet.dtype() {
        ValueType::Tensor { shape, .. } => Some(shape.iter().map(|d| usize::try_from(*d).ok()).collect()),
        _ => None,
    }
}

/// `f32 [?, 10]`.
pub(super) fn describe(outlet: &Outlet) -> String {
    let (Some(ty), Some(dims)) = (element(outlet), dimensions(outlet)) else { return "no tensor".into() };
    let words: Vec<String> = dims.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
    format!("{ty} [{}]", words.join(", "))
}
