//! Weights to begin with: those of a checkpoint, as far as names and shapes agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::{CModule, Device, Tensor};

use super::{Student, StudentError};
use crate::config::{InitLayers, LlamaConfig};
use crate::libtorch::plain_message;

/// How a zip archive begins: TorchScript is one, and so is what `torch.save` writes.
const ZIP: &[u8] = b"PK\x03\x04";
/// How a pickle begins, which `torch.save` of old wrote without an archive around it.
const PICKLE: &[u8] = &[0x80];
/// How the header of safetensors begins, and where: behind its length, which may be any eight bytes.
const HEADER: (usize, u8) = (8, b'{');

/// What a student began with (`[init]`), and what of either side found no match: all of it, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Initialised {
    /// Weights of the student that have the checkpoint's values.
    pub taken: u64,
    /// Weights of the student, running statistics among them, that are not in the checkpoint under their names; they
    /// keep what they were made with.
    pub missing: Vec<String>,
    /// Those that are there in another shape; they keep what they were made with too.
    pub other_shapes: Vec<OtherShape>,
    /// Names in the checkpoint that no weight of the student has.
    pub unused: Vec<String>,
}

/// A weight that the checkpoint has in another shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OtherShape {
    /// The student's name for it.
    pub name: String,
    /// The student's shape.
    pub expected: Vec<i64>,
    /// The checkpoint's.
    pub found: Vec<i64>,
}

impl fmt::Display for OtherShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, there {:?})", self.name, self.expected, self.found)
    }
}

impl Initialised {
    /// The student's weights that keep their own values, each with the reason.
    pub fn left(&self) -> Vec<String> {
        let missing = self.missing.iter().map(|name| format!("{name} (not there)"));
        self.other_shapes.iter().map(ToString::to_string).chain(missing).collect()
    }
}

/// Gives the variables of `student` the values that the checkpoint at `path` (a `.safetensors` file, a folder of them as
/// Hugging Face has it, or a TorchScript module) has under their names.
///
/// Of a checkpoint with more layers (`….layers.N.…`) those are taken that `layers` says. Of a module only parameters
/// can be read: what it has as buffers, batch norms' running statistics say, is missing.
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
        found.extend(read(&file).map_err(failed)?);
    }
    let variables: BTreeMap<String, Tensor> = student.variables().variables().into_iter().collect();
    let (ours, theirs) = (number_of_layers(variables.keys()), number_of_layers(found.keys()));
    let mut done = Initialised::default();
    let mut unused: BTreeSet<&String> = found.keys().collect();
    for (name, mut variable) in variables {
        let source = of_layer(&name, ours, theirs, layers);
        unused.remove(&source);
        match found.get(&source) {
            Some(value) if value.size() == variable.size() => {
                tch::no_grad(|| variable.copy_(value));
                done.taken += 1;
            }
            Some(value) => {
                done.other_shapes.push(OtherShape { name, expected: variable.size(), found: value.size() });
            }
            None => done.missing.push(name),
        }
    }
    if done.taken == 0 {
        let names: Vec<&str> = found.keys().take(3).map(String::as_str).collect();
        return Err(failed(format!(
            "none of the student's weights is there under its name and in its shape; expected {}, found {}, …",
            done.left().into_iter().take(3).collect::<Vec<_>>().join(", "),
            names.join(", ")
        )));
    }
    done.unused = unused.into_iter().cloned().collect();
    Ok(done)
}

/// Where the `config.json` beside a checkpoint in `folder`, Hugging Face's, says another model than `student` is: its weights are then
/// taken for another function than theirs. Empty where there is none.
pub fn other_model(student: &LlamaConfig, folder: &Path) -> Vec<String> {
    let text = std::fs::read(folder.join("config.json")).unwrap_or_default();
    let Ok(found) = serde_json::from_slice::<Value>(&text) else { return Vec::new() };
    let rope = found.get("rope_parameters").or_else(|| found.get("rope_scaling"));
    let theta = found.get("rope_theta").or_else(|| rope?.get("rope_theta"));
    // What Llama's own configs left out before others were made.
    let usual = Value::from(10_000.0);
    let theta = theta.or_else(|| (found.get("model_type")? == "llama").then_some(&usual));
    let heads = u64::from(student.num_attention_heads);
    let numbers = [
        ("rope_theta", theta, student.rope_theta),
        ("rms_norm_eps", found.get("rms_norm_eps"), student.rms_norm_eps),
        ("num_attention_heads", found.get("num_attention_heads"), heads as f64),
        ("num_key_value_heads", found.get("num_key_value_heads"), student.kv_heads().into()),
    ];
    let number = |(key, there, ours): (&str, Option<&Value>, f64)| {
        let there = there?.as_f64()?;
        (there != ours).then(|| format!("{key} = {there}, found student.{key} = {ours}"))
    };
    let mut others: Vec<String> = numbers.into_iter().filter_map(number).collect();
    let word = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let kind = word(rope.and_then(|rope| rope.get("rope_type").or_else(|| rope.get("type"))));
    others.extend(
        kind.filter(|kind| kind != "default")
            .map(|kind| format!("rope_type = {kind:?}, which no student has")),
    );
    let act = word(found.get("hidden_act")).filter(|act| act != "silu");
    others.extend(act.map(|act| format!("hidden_act = {act:?}, where a student has \"silu\"")));
    others
}

/// The weights in a file by name, or what is wrong with it. What it is its first bytes say, not its suffix.
fn read(file: &Path) -> Result<Vec<(String, Tensor)>, String> {
    let mut begins = Vec::new();
    let (at, header) = HEADER;
    let read = std::fs::File::open(file).and_then(|file| file.take(at as u64 + 1).read_to_end(&mut begins));
    read.map_err(|error| error.to_string())?;
    if begins.get(at) != Some(&header) {
        if begins.starts_with(ZIP) {
            return of_module(file);
        }
        if begins.starts_with(PICKLE) {
            return Err(format!(
                "expected safetensors or TorchScript, found a pickle; {}",
                out_of_pickle(file)
            ));
        }
    }
    Tensor::read_safetensors(file).map_err(|error| plain_message(&error))
}

/// The parameters of a TorchScript module, on the CPU. The bindings have no way to a module's buffers.
fn of_module(file: &Path) -> Result<Vec<(String, Tensor)>, String> {
    // An archive without a module's constants is refused before libtorch reads any pickle in it.
    let parameters = CModule::load_on_device(file, Device::Cpu)
        .and_then(|module| module.named_parameters())
        .map_err(|error| {
            let problem = plain_message(&error);
            format!(
                "expected a TorchScript module in the zip archive, found none ({problem}); {}",
                out_of_pickle(file)
            )
        })?;
    if parameters.is_empty() {
        return Err("expected a module with parameters, found none: a traced export has its weights as constants; give \
                    the student.safetensors beside it, or a module of torch.jit.script"
            .into());
    }
    Ok(parameters)
}

/// The way out of a pickle.
fn out_of_pickle(file: &Path) -> String {
    format!(
        "a state dict that torch.save wrote is a pickle, a program that is never run here; convert it once: python -c \
         'import torch, safetensors.torch as s; s.save_file(torch.load({file:?}, weights_only=True), \
         \"weights.safetensors\")'"
    )
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

    #[test]
    fn another_model_than_the_checkpoints_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let student: LlamaConfig = serde_json::from_value(serde_json::json!({
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        }))
        .unwrap();
        assert_eq!(other_model(&student, dir.path()), [""; 0]);
        let told = |config: Value| {
            std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            other_model(&student, dir.path())
        };
        let same = serde_json::json!({
            "rope_theta": 10000, "rms_norm_eps": 1e-5, "num_attention_heads": 4, "num_key_value_heads": 2,
            "hidden_act": "silu", "rope_scaling": null, "rope_parameters": { "rope_theta": 1e4, "rope_type": "default" },
        });
        assert_eq!(told(same), [""; 0]);
        let other = serde_json::json!({
            "rms_norm_eps": 1e-6, "num_attention_heads": 8, "hidden_act": "gelu",
            "rope_parameters": { "rope_theta": 5e5, "rope_type": "llama3" },
        });
        let told = told(other).join("\n");
        for words in [
            "rope_theta = 500000, found student.rope_theta = 10000",
            "rms_norm_eps = 0.000001",
            "num_attention_heads = 8",
            "rope_type = \"llama3\"",
            "hidden_act = \"gelu\"",
        ] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}
