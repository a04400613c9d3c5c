//! A run on an MLflow server, by MLflow's REST API 2.0.
//!
//! Training writes lines into files and is not concerned with the server at all. A thread of its own ([`Mlflow`]) reads
//! the files from where the server has got to and sends what it finds: the files are the queue, so that nothing is
//! lost, held in memory or waited for when the server is slow or away. How far the server has got is kept in the run's
//! folder; a run that goes on, goes on in the same run there, and sends what is missing first.

mod api;
mod kept;
mod params;
mod sender;
mod tail;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

pub use params::flatten;
pub use sender::{Mlflow, Run, RunStatus};

use crate::config::{MlflowConfig, problem_of_uri};

/// What MLflow's own client takes from the environment.
#[derive(Clone, Default)]
pub struct Access {
    /// `MLFLOW_TRACKING_URI`: the server, where the config names none.
    pub uri: Option<String>,
    /// `MLFLOW_TRACKING_USERNAME`, which together with the password comes before a token.
    pub username: Option<String>,
    /// `MLFLOW_TRACKING_PASSWORD`.
    pub password: Option<String>,
    /// `MLFLOW_TRACKING_TOKEN`.
    pub token: Option<String>,
    /// `MLFLOW_TRACKING_SERVER_CERT_PATH`: a PEM file of the certificates to trust; default: Mozilla's list.
    pub certificates: Option<PathBuf>,
}

impl fmt::Debug for Access {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// Why a server cannot be used, whether it answers or not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MlflowError {
    /// No server is named.
    #[error("tracking.mlflow.uri: missing; give the server's address, or set MLFLOW_TRACKING_URI")]
    NoUri,
    /// The address is none.
    #[error("MLFLOW_TRACKING_URI: {problem}")]
    Uri {
        /// Expected and found.
        problem: String,
    },
    /// The certificates cannot be read.
    #[error("MLFLOW_TRACKING_SERVER_CERT_PATH: cannot read certificates from {path}: {problem}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// No thread can be begun.
    #[error("cannot begin a thread for MLflow")]
    Thread(#[source] std::io::Error),
}

/// A server and an experiment there, not yet asked for anything.
#[derive(Debug)]
pub struct Server {
    client: api::Client,
    experiment: String,
    run_name: Option<String>,
}

impl Server {
    /// The server of `config`, or else of `access`.
    ///
    /// # Errors
    /// [`MlflowError`]; the server itself is not asked.
    pub fn new(config: &MlflowConfig, access: &Access) -> Result<Self, MlflowError> {
        let uri = match (&config.uri, &access.uri) {
            (Some(uri), _) => uri,
            (None, Some(uri)) => match problem_of_uri(uri) {
                Some(problem) => return Err(MlflowError::Uri { problem }),
                None => uri,
            },
            (None, None) => return Err(MlflowError::NoUri),
        };
        Ok(Self {
            client: api::Client::new(uri, access)?,
            experiment: config.experiment.clone(),
            run_name: config.run_name.clone(),
        })
    }
}
