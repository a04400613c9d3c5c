//! What can be wrong with a config, in the user's words.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong with a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The dotted key, `head.k`.
    pub key: String,
    /// What is wrong with it: expected, found, and the way out.
    pub problem: String,
}

impl Fault {
    /// A fault of `key`.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}

/// Whether the place `inner` is `outer` or within it; everything is within the config, which has no key.
pub(super) fn lies_in(inner: &str, outer: &str) -> bool {
    let rest = inner.strip_prefix(outer);
    rest.is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "{}: {}", self.key, self.problem)
        }
    }
}

/// Why a config could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read config {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{origin} is not valid TOML: {source}")]
    Syntax {
        /// The file, or what else the text came from.
        origin: String,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// An override is not `key=value`, or its key runs through a value.
    #[error("--set {given:?}: {problem}")]
    Override {
        /// What was given.
        given: String,
        /// Expected and found.
        problem: String,
    },
    /// Everything that is wrong with the values, at once.
    #[error("{}", list(origin, faults))]
    Faults {
        /// The file, or what else the text came from.
        origin: String,
        /// The faults, in the order of the keys.
        faults: Vec<Fault>,
    },
}

fn list(origin: &str, faults: &[Fault]) -> String {
    let noun = if faults.len() == 1 { "fault" } else { "faults" };
    let mut text = format!("{origin}: {} {noun}", faults.len());
    for fault in faults {
        text.push_str("\n  ");
        text.push_str(&fault.to_string());
    }
    text
}
