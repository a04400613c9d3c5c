//! Which files an ONNX model is made of: weights of more than 2 GB lie beside it, and may do so if they are fewer.

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message;

use super::super::TeacherError;
use crate::digest::{Digest, Hasher};
use crate::mapped::Mapped;

/// What says where a tensor's numbers are (`TensorProto.external_data`), and the way there.
///
/// Messages and numbers of fields are those of onnx.proto (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>); what is not named
/// is passed over.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<Function>,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(message, repeated, tag = "7")]
    node: Vec<Node>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "15")]
    sparse_initializer: Vec<SparseTensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(message, optional, tag = "5")]
    t: Option<Tensor>,
    #[prost(message, optional, tag = "6")]
    g: Option<Graph>,
    #[prost(message, repeated, tag = "10")]
    tensors: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Graph>,
    #[prost(message, optional, tag = "22")]
    sparse_tensor: Option<SparseTensor>,
    #[prost(message, repeated, tag = "23")]
    sparse_tensors: Vec<SparseTensor>,
}

#[derive(Clone, PartialEq, Message)]
struct SparseTensor {
    #[prost(message, optional, tag = "1")]
    values: Option<Tensor>,
    #[prost(message, optional, tag = "2")]
    indices: Option<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// The key of a tensor's file, relative to the model's folder.
const LOCATION: &str = "location";

impl Model {
    fn name(&self, files: &mut BTreeSet<String>) {
        self.graph.iter().for_each(|graph| graph.name(files));
        self.functions.iter().flat_map(|function| &function.node).for_each(|node| node.name(files));
    }
}

impl Graph {
    fn name(&self, files: &mut BTreeSet<String>) {
        self.node.iter().for_each(|node| node.name(files));
        self.initializer.iter().for_each(|tensor| tensor.name(files));
        self.sparse_initializer.iter().for_each(|tensor| tensor.name(files));
    }
}

impl Node {
    fn name(&self, files: &mut BTreeSet<String>) {
        for attribute in &self.attribute {
            attribute.t.iter().chain(&attribute.tensors).for_each(|tensor| tensor.name(files));
            attribute.g.iter().chain(&attribute.graphs).for_each(|graph| graph.name(files));
            attribute
                .sparse_tensor
                .iter()
                .chain(&attribute.sparse_tensors)
                .for_each(|sparse| sparse.name(files));
        }
    }
}

impl SparseTensor {
    fn name(&self, files: &mut BTreeSet<String>) {
        self.values.iter().chain(&self.indices).for_each(|tensor| tensor.name(files));
    }
}

impl Tensor {
    fn name(&self, files: &mut BTreeSet<String>) {
        let locations = self.external_data.iter().filter(|entry| entry.key == LOCATION);
        files.extend(locations.map(|entry| entry.value.clone()));
    }
}

/// The digest of the model at `path`: of the file, or, where weights lie in files beside it, of the file's digest as it is
/// written and, for each of these in the order of their names, the name, a zero byte and its digest.
///
/// A file that is no ONNX (ONNX Runtime has a format of its own, which has all in one) names none.
///
/// # Errors
/// [`TeacherError::Read`].
pub(in super::super) fn digest(path: &Path) -> Result<Digest, TeacherError> {
    let read = |path: &Path, source| TeacherError::Read { path: path.to_owned(), source };
    let model = Digest::of_file(path).map_err(|source| read(path, source))?;
    let bytes = Mapped::open(path).map_err(|source| read(path, source))?.bytes();
    let mut files = BTreeSet::new();
    Model::decode(bytes).unwrap_or_default().name(&mut files);
    if files.is_empty() {
        return Ok(model);
    }
    let mut hasher = Hasher::new();
    hasher.update(model.as_str().as_bytes());
    for name in files {
        let file = path.with_file_name(&name);
        let digest = Digest::of_file(&file).map_err(|source| read(&file, source))?;
        hasher.update(name.as_bytes());
        hasher.update(&[0]);
        hasher.update(digest.as_str().as_bytes());
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tensor in the file `name`.
    fn tensor(name: &str) -> Tensor {
        let entry = |key: &str, value: &str| Entry { key: key.into(), value: value.into() };
        Tensor { external_data: vec![entry("offset", "64"), entry(LOCATION, name)] }
    }

    /// A model with tensors in files in every place that may have one.
    fn model() -> Model {
        let sparse = |name| SparseTensor { values: Some(tensor(name)), indices: None };
        let inner = Graph { initializer: vec![tensor("inner")], ..Graph::default() };
        let attribute = Attribute {
            t: Some(tensor("t")),
            g: Some(inner.clone()),
            tensors: vec![tensor("tensors")],
            graphs: vec![inner],
            sparse_tensor: Some(sparse("sparse")),
            sparse_tensors: vec![sparse("sparse")],
        };
        let node = Node { attribute: vec![attribute] };
        let graph = Graph {
            node: vec![node],
            initializer: vec![tensor("weights"), tensor("weights")],
            sparse_initializer: vec![sparse("initializer")],
        };
        let of_function = Attribute { t: Some(tensor("function")), ..Attribute::default() };
        let function = Function { node: vec![Node { attribute: vec![of_function] }] };
        Model { graph: Some(graph), functions: vec![function] }
    }

    #[test]
    fn a_model_is_another_when_any_file_of_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        std::fs::write(&path, model().encode_to_vec()).unwrap();
        let names = ["function", "initializer", "inner", "sparse", "t", "tensors", "weights"];
        for name in names {
            // One that is not there is named.
            let error = digest(&path).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            std::fs::write(dir.path().join(name), "1").unwrap();
        }
        let before = digest(&path).unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), "2").unwrap();
            assert_ne!(digest(&path).unwrap(), before, "{name}");
            std::fs::write(dir.path().join(name), "1").unwrap();
        }
        assert_eq!(digest(&path).unwrap(), before);
    }

    #[test]
    fn a_model_in_one_file_has_the_files_digest() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("model.ort");
        std::fs::write(&other, b"\x08\x00\x00\x00ORTM and what is no ONNX").unwrap();
        let teachers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/teachers");
        for path in [other, teachers.join("causal.onnx"), teachers.join("linear.onnx")] {
            assert_eq!(digest(&path).unwrap(), Digest::of_file(&path).unwrap());
        }
    }
}
