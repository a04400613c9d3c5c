//! TorchScript modules through libtorch.

mod answer;
mod arguments;
mod images;
mod module;
mod tokens;

pub(super) use images::TorchScriptTeacher;
pub(super) use tokens::TorchScriptTokenTeacher;
