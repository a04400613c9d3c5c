//! ONNX models through ONNX Runtime, loaded at run time.

mod answer;
mod files;
mod images;
mod runtime;
mod signature;
mod tokens;

pub(super) use files::digest;
pub(super) use images::OnnxTeacher;
pub(super) use tokens::OnnxTokenTeacher;
