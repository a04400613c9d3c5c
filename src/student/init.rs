//! Weights to begin with: those of a checkpoint, as far as names and shapes agree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::Tensor;

use super::{Student, StudentError};
use crate::config::InitLayers;
use crate::libtorch::plain_message;

/// What was taken from a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Initialised {
    /// Variables that have the checkpoint's values.
    pub taken: Vec<String>,
    /// Variables that keep their own, and why: not there, or of another shape.
    pub left: Vec<String>,
}

/// Gives the variables of `student` the values that the checkpoint at `path` (a `.safetensors` file, or a
/// folder of them as Hugging Face has it) has under their names.
///
/// Of a checkpoint with more layers (`….layers.N.…`) those are taken that `layers` says.
///
/// # Errors
/// [`StudentError::Init`]: nothing to read, or nothing in it that fits.
pub fn initialise(
    student: &mut dyn Student,
    path: &Path,
    layers: InitLayers,
) -> Result<Initialised, StudentError> {
    let failed = |problem: String| StudentError::Init { path: path.to_owned(), problem };
    let mut found = BTreeMap::new();
    for file in files(path).map_err(|error| failed(error.to_string()))? {
        let read = Tensor::read_safetensors(&file).map_err(|error| failed(plain_message(&error)))?;
        found.extend(read);
    }
    let variables: BTreeMap<String, Tensor> = student.variables().variables().into_iter().collect();
    let (ours, theirs) = (number_of_layers(variables.keys()), number_of_layers(found.keys()));
    let mut done = Initialised::default();
    for (name, mut variable) in variables {
        let source = of_layer(&name, ours, theirs, layers);
        match found.get(&source) {
            Some(value) if value.size() == variable.size() => {
                tch::no_grad(|| variable.copy_(value));
                done.taken.push(name);
            }
            Some(value) => {
                done.left.push(format!("{name} ({:?}, there {:?})", variable.size(), value.size()));
            }
            None => done.left.push(format!("{name} (not there)")),
        }
    }
    if done.taken.is_empty() {
        let names: Vec<&str> = found.keys().take(3).map(String::as_str).collect();
        return Err(failed(format!(
            "none of the student's weights is there under its name and in its shape; expected {}, found {}, …",
            done.left.iter().take(3).cloned().collect::<Vec<_>>().join(", "),
            names.join(", ")
        )));
    }
    Ok(done)
}

/// The file, or the files of the folder in the order of their names.
fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        std::fs::metadata(path)?;
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|suffix| suffix == "safetensors") {
            files.push(file);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(std::io::Error::other("expected .safetensors files in the folder, found none")),
        false => Ok(files),
    }
}

/// The number of a variable's layer, and where it stands in the name.
fn layer_of(name: &str) -> Option<(std::ops::Range<usize>, usize)> {
    let start = name.find("layers.")? + "layers.".len();
    let end = start + name[start..].find('.')?;
    Some((start..end, name[start..end].parse().ok()?))
}

/// How many layers there are.
fn number_of_layers<'a>(names: impl Iterator<Item = &'a String>) -> usize {
    names.filter_map(|name| Some(layer_of(name)?.1 + 1)).max().unwrap_or(0)
}

/// The name under which a checkpoint with `theirs` layers has what is called `name` among `ours`.
fn of_layer(name: &str, ours: usize, theirs: usize, layers: InitLayers) -> String {
    match layer_of(name) {
        Some((place, layer)) if theirs > ours && ours > 0 => {
            let source = match layers {
                InitLayers::Every => layer * theirs / ours,
                InitLayers::First => layer,
                InitLayers::Last => layer + theirs - ours,
            };
            format!("{}{source}{}", &name[..place.start], &name[place.end..])
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_layers_those_are_taken_that_are_asked_for() {
        let name = |layer: usize| format!("model.layers.{layer}.mlp.up_proj.weight");
        for (layers, wanted) in [
            (InitLayers::Every, [0, 7, 15, 22]),
            (InitLayers::First, [0, 1, 2, 3]),
            (InitLayers::Last, [26, 27, 28, 29]),
        ] {
            let taken: Vec<String> = (0..4).map(|layer| of_layer(&name(layer), 4, 30, layers)).collect();
            assert_eq!(taken, wanted.map(name));
            assert_eq!(of_layer(&name(3), 4, 4, layers), name(3));
            assert_eq!(of_layer("model.norm.weight", 4, 30, layers), "model.norm.weight");
        }
        assert_eq!(number_of_layers([name(29), "lm_head.weight".into()].iter()), 30);
    }
}
