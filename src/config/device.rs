//! The names of devices, the same for teachers and students.

use std::fmt;
use std::str::FromStr;

use super::Fault;

/// What a model runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor: `cpu`.
    Cpu,
    /// An NVIDIA GPU by index: `cuda` (the first) or `cuda:N`.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let index = match text {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => text.strip_prefix("cuda:").and_then(|index| index.parse().ok()),
        };
        index.map(Self::Cuda).ok_or_else(|| format!("expected cpu, cuda or cuda:N, found {text:?}"))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// The fault of a device's name, if it has one.
pub(super) fn validate(key: &str, name: &str) -> Option<Fault> {
    name.parse::<DeviceName>().err().map(|problem| Fault::new(key, problem))
}
