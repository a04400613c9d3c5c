//! The few calls of MLflow's REST API that a run needs.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::{Access, MlflowError, RunStatus};

/// The longest that a connection, and a whole call, may take: a server that has just been started is slow.
const TO_CONNECT: Duration = Duration::from_secs(5);
const TO_ANSWER: Duration = Duration::from_secs(30);
/// Bytes of an answer, and of the server's words in a message.
const MOST_BYTES: u64 = 1 << 20;
const MOST_WORDS: usize = 300;
/// What a call may hold of each, by MLflow's documentation.
pub(super) const METRICS_PER_CALL: usize = 1000;
pub(super) const PARAMS_PER_CALL: usize = 100;

/// Why a call gave no answer, or not the one that was hoped for.
#[derive(Debug)]
pub(super) struct Failure {
    /// Whether the same call may succeed later.
    pub(super) again: bool,
    /// In a word of MLflow's, where it is MLflow that refuses.
    code: String,
    /// For people.
    pub(super) problem: String,
}

impl Failure {
    /// A failure on this side, which may pass.
    pub(super) fn here(problem: String) -> Self {
        Self { again: true, code: String::new(), problem }
    }
}

/// A figure at a step. `time`: milliseconds since 1970.
pub(super) struct Metric {
    pub(super) key: String,
    pub(super) value: f64,
    pub(super) time: u64,
    pub(super) step: u64,
}

/// Calls one server.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    /// Without a slash at its end.
    uri: String,
    authorization: Option<Secret>,
}

/// What must not be printed.
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Client {
    pub(super) fn new(uri: &str, access: &Access) -> Result<Self, MlflowError> {
        let roots = access.certificates.as_deref().map(certificates).transpose()?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would turn a POST into a GET, and take the login elsewhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(TO_CONNECT))
            .timeout_global(Some(TO_ANSWER))
            .user_agent(concat!("kd-train/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(roots.unwrap_or(RootCerts::WebPki)).build())
            .build();
        let authorization = match access {
            Access { username: Some(user), password: Some(password), .. } => {
                Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
            }
            Access { token: Some(token), .. } => Some(format!("Bearer {token}")),
            _ => None,
        };
        Ok(Self {
            agent: agent.into(),
            uri: uri.trim_end_matches('/').to_owned(),
            authorization: authorization.map(Secret),
        })
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// The experiment called `name`, which is made if there is none.
    pub(super) fn experiment(&self, name: &str) -> Result<String, Failure> {
        match self.get("experiments/get-by-name", ("experiment_name", name)) {
            Ok(found) => self.word(&found, "/experiment/experiment_id"),
            Err(failure) if failure.code == "RESOURCE_DOES_NOT_EXIST" => {
                match self.post("experiments/create", &json!({ "name": name })) {
                    Ok(made) => self.word(&made, "/experiment_id"),
                    // Another run was quicker: it is there now, at the next try.
                    Err(failure) if failure.code == "RESOURCE_ALREADY_EXISTS" => {
                        Err(Failure { again: true, ..failure })
                    }
                    Err(failure) => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        }
    }

    /// A new run.
    pub(super) fn create_run(
        &self,
        experiment: &str,
        name: &str,
        time: u64,
        tags: &[(String, String)],
    ) -> Result<String, Failure> {
        let body = json!({
            "experiment_id": experiment, "run_name": name, "start_time": time, "tags": pairs(tags),
        });
        self.word(&self.post("runs/create", &body)?, "/run/info/run_id")
    }

    /// Says how a run is; `time` where it has ended.
    pub(super) fn update_run(&self, run: &str, status: RunStatus, time: Option<u64>) -> Result<(), Failure> {
        let mut body = json!({ "run_id": run, "status": status.as_str() });
        if let Some(time) = time {
            body["end_time"] = time.into();
        }
        self.post("runs/update", &body).map(drop)
    }

    /// Adds at most [`METRICS_PER_CALL`] metrics and [`PARAMS_PER_CALL`] parameters to a run.
    pub(super) fn log(
        &self,
        run: &str,
        metrics: &[Metric],
        params: &[(String, String)],
    ) -> Result<(), Failure> {
        let metrics: Vec<Value> = metrics
            .iter()
            .map(|Metric { key, value, time, step }| {
                json!({ "key": key, "value": value, "timestamp": time, "step": step })
            })
            .collect();
        let body = json!({ "run_id": run, "metrics": metrics, "params": pairs(params) });
        self.post("runs/log-batch", &body).map(drop)
    }

    fn get(&self, path: &str, (key, value): (&str, &str)) -> Result<Value, Failure> {
        let mut request = self.agent.get(self.path(path)).query(key, value);
        if let Some(Secret(authorization)) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        self.answer(request.call())
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let mut request = self.agent.post(self.path(path)).header("Content-Type", "application/json");
        if let Some(Secret(authorization)) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        self.answer(request.send(body.to_string()))
    }

    fn path(&self, path: &str) -> String {
        format!("{}/api/2.0/mlflow/{path}", self.uri)
    }

    fn answer(
        &self,
        called: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, Failure> {
        let unreached = |error: ureq::Error| Failure::here(format!("{} does not answer ({error})", self.uri));
        let mut response = called.map_err(unreached)?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(MOST_BYTES).read_to_vec().map_err(unreached)?;
        let found = serde_json::from_slice::<Value>(&body).ok();
        if status.is_success() {
            return found.filter(Value::is_object).ok_or_else(|| self.no_mlflow());
        }
        let word =
            |key: &str| found.as_ref().and_then(|found| found[key].as_str()).unwrap_or_default().to_owned();
        let words: String = word("message").chars().take(MOST_WORDS).collect();
        let more = if words.is_empty() { String::new() } else { format!(": {words}") };
        Err(Failure {
            again: status.is_server_error() || matches!(status.as_u16(), 408 | 429),
            code: word("error_code"),
            problem: format!("{} answers {status}{more}", self.uri),
        })
    }

    fn word(&self, answer: &Value, pointer: &str) -> Result<String, Failure> {
        answer.pointer(pointer).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| self.no_mlflow())
    }

    fn no_mlflow(&self) -> Failure {
        let problem = format!("{} answers, but not as an MLflow server does", self.uri);
        Failure { again: false, code: String::new(), problem }
    }
}

/// The certificates in a PEM file.
fn certificates(path: &Path) -> Result<RootCerts, MlflowError> {
    let refused = |problem: String| MlflowError::Certificates { path: path.to_owned(), problem };
    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| refused(error.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(refused("it holds none".into()));
    }
    Ok(RootCerts::from(found))
}

fn pairs(pairs: &[(String, String)]) -> Vec<Value> {
    pairs.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
}
