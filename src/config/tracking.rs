//! What is told of a run while it goes on, and to whom.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;

/// What is told of a run while it goes on, beside a line of `metrics.jsonl` for each epoch. Nothing here changes a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrackingConfig {
    /// Steps between two lines of `steps.jsonl`: learning rate, losses and speed since the line before. The device is
    /// waited for at these steps alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub every: Option<u64>,
    /// Measures the norm of the gradients where `train.clip_norm` does not.
    #[serde(skip_serializing_if = "is_off")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub gradient_norm: bool,
    /// Writes event files for TensorBoard to the folder `tensorboard` of the run.
    #[serde(skip_serializing_if = "is_off")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub tensorboard: bool,
    /// Sends all lines to an MLflow server, as a run of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlflow: Option<MlflowConfig>,
}

/// A run on an MLflow server. Who may log in comes from the environment, as for MLflow's own client:
/// `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MlflowConfig {
    /// The server's address, `http://…` or `https://…`; default: the environment variable `MLFLOW_TRACKING_URI`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The experiment's name; an experiment is made where there is none of the name.
    #[serde(default = "default_experiment")]
    pub experiment: String,
    /// The run's name; default: that of the run's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_name: Option<String>,
}

/// The experiment that every MLflow server has.
fn default_experiment() -> String {
    "Default".into()
}

fn is_off(on: &bool) -> bool {
    !on
}

/// Names before the slash in the names of what is tracked, so that no validation set may have them.
const TAKEN: [&str; 2] = ["train", "epoch"];

impl TrackingConfig {
    /// Whether nothing is said of it.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Faults of the section, and of the names of validation sets where they become names of figures.
    pub(super) fn validate<'a>(&self, sets: impl Iterator<Item = &'a String>) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.tensorboard || self.mlflow.is_some() {
            faults.extend(sets.filter(|name| TAKEN.contains(&name.as_str())).map(|name| {
                let problem = format!(
                    "expected another name, because tracking calls its own figures {name}/…; found {name}"
                );
                Fault::new(format!("validation.{name}"), problem)
            }));
        }
        if let Some(mlflow) = &self.mlflow {
            if let Some(problem) = mlflow.uri.as_deref().and_then(problem_of_uri) {
                faults.push(Fault::new("tracking.mlflow.uri", problem));
            }
            for (key, name) in
                [("experiment", Some(&mlflow.experiment)), ("run_name", mlflow.run_name.as_ref())]
            {
                if name.is_some_and(|name| name.trim().is_empty()) {
                    faults.push(Fault::new(format!("tracking.mlflow.{key}"), "expected a name, found none"));
                }
            }
        }
        faults
    }
}

/// What is wrong with the address of an MLflow server. What it holds is not repeated where it may be a password.
pub fn problem_of_uri(uri: &str) -> Option<String> {
    let Some(rest) = uri.strip_prefix("http://").or_else(|| uri.strip_prefix("https://")) else {
        return Some(format!("expected http:// or https:// and a server's name, found {uri:?}"));
    };
    let server = rest.split('/').next().unwrap_or(rest);
    if server.contains('@') {
        let problem = "expected no user and password, which the environment variables MLFLOW_TRACKING_USERNAME and \
                       MLFLOW_TRACKING_PASSWORD give; found some";
        return Some(problem.into());
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '?' || c == '#';
    (server.is_empty() || rest.contains(odd))
        .then(|| format!("expected http:// or https:// and a server's name, found {uri:?}"))
}

#[cfg(test)]
mod tests {
    use crate::config::{ConfigError, TrainConfig, load_str};

    const GOOD: &str = r#"
        student = { kind = "mlp", hidden = [8], classes = 3 }
        optimizer = { kind = "adamw", learning_rate = 0.1 }
        loss = { weights = { cross_entropy = 1.0 } }
        train = { epochs = 1, batch = 2 }
    "#;

    fn faults(set: &[&str]) -> Vec<String> {
        let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        match load_str::<TrainConfig>(GOOD, "test", &set) {
            Ok(_) => vec![],
            Err(ConfigError::Faults { faults, .. }) => faults.iter().map(ToString::to_string).collect(),
            Err(other) => vec![other.to_string()],
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_passwords_are_not() {
        assert_eq!(faults(&["tracking.mlflow.uri=http://127.0.0.1:5000/base", "tracking.every=3"]), [""; 0]);
        let found = faults(&["tracking.every=0"]);
        assert_eq!(found, ["tracking.every: expected at least 1, found 0"]);
        for uri in ["mlruns", "sqlite:///x.db", "http://", "https:///path", "http://a b"] {
            let found = faults(&[&format!("tracking.mlflow.uri={uri}")]);
            let words = format!(
                "tracking.mlflow.uri: expected http:// or https:// and a server's name, found {uri:?}"
            );
            assert_eq!(found, [words]);
        }
        let found = faults(&["tracking.mlflow.uri=http://me:secret@host:5000"]);
        assert!(found[0].contains("MLFLOW_TRACKING_PASSWORD") && !found[0].contains("secret"), "{found:?}");
        let found = faults(&["tracking.mlflow.experiment=\" \""]);
        assert_eq!(found, ["tracking.mlflow.experiment: expected a name, found none"]);
    }

    #[test]
    fn validation_sets_keep_clear_of_the_names_of_tracking() {
        let set = "validation.train.cache=x";
        assert_eq!(faults(&[set]), [""; 0]);
        let found = faults(&[set, "tracking.tensorboard=true"]);
        assert!(found[0].starts_with("validation.train: expected another name"), "{found:?}");
    }

    #[test]
    fn a_config_without_the_section_is_written_without_it() {
        let config: TrainConfig = load_str(GOOD, "test", &[]).unwrap();
        assert!(!toml::to_string(&config).unwrap().contains("tracking"));
    }
}
