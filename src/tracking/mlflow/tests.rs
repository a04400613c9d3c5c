//! Runs against a small server that keeps what it is sent, and dies when it is told to.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::config::MlflowConfig;
use crate::tracking::LineKind;

/// What the server was asked.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    authorization: Option<String>,
    body: Value,
}

/// Answers as MLflow does, of one experiment and its runs.
struct Fake {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Request>>>,
    /// Requests that are answered before it dies.
    lives: Arc<AtomicU64>,
    /// Requests that are answered with 503 first.
    busy: Arc<AtomicU64>,
    /// Whether it refuses everything.
    refuses: Arc<AtomicBool>,
    /// Requests that are heard, and whose answers are lost.
    lost: Arc<AtomicU64>,
}

impl Fake {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            heard: Arc::default(),
            lives: Arc::new(AtomicU64::new(u64::MAX)),
            busy: Arc::default(),
            refuses: Arc::default(),
            lost: Arc::default(),
        };
        let (heard, lives, busy) = (fake.heard.clone(), fake.lives.clone(), fake.busy.clone());
        let (refuses, lost) = (fake.refuses.clone(), fake.lost.clone());
        thread::spawn(move || {
            let less = |count: &AtomicU64| {
                count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
            };
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = Self::read(&stream) else { continue };
                if !less(&lives) {
                    continue; // The connection is closed without a word.
                }
                let (status, answer) = if refuses.load(Ordering::SeqCst) {
                    (401, json!({ "error_code": "UNAUTHENTICATED", "message": "who are you?" }))
                } else if less(&busy) {
                    (503, json!({}))
                } else {
                    heard.lock().unwrap().push(request.clone());
                    Self::answer(&request, &heard.lock().unwrap())
                };
                if less(&lost) {
                    continue;
                }
                let body = answer.to_string();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).unwrap();
            }
        });
        fake
    }

    fn read(stream: &TcpStream) -> Option<Request> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let path = line.split(' ').nth(1)?.to_owned();
        let (mut length, mut authorization) = (0, None);
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let Some((key, value)) = line.trim_end().split_once(": ") else { break };
            match key.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().ok()?,
                "authorization" => authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).ok()? };
        Some(Request { path, authorization, body })
    }

    fn answer(request: &Request, heard: &[Request]) -> (u16, Value) {
        let path = request.path.strip_prefix("/base/api/2.0/mlflow/").unwrap_or_default();
        let created = heard.iter().any(|request| request.path.ends_with("/experiments/create"));
        let runs = heard.iter().filter(|request| request.path.ends_with("/runs/create")).count();
        match path.split('?').next().unwrap_or_default() {
            "experiments/get-by-name" if !created => {
                (404, json!({ "error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none of that name" }))
            }
            "experiments/get-by-name" => (200, json!({ "experiment": { "experiment_id": "7" } })),
            "experiments/create" => (200, json!({ "experiment_id": "7" })),
            "runs/create" => (200, json!({ "run": { "info": { "run_id": format!("run-{runs}") } } })),
            "runs/log-batch" | "runs/update" => (200, json!({})),
            _ => (404, json!({ "error_code": "ENDPOINT_NOT_FOUND", "message": path })),
        }
    }

    fn bodies(&self, of: &str) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        let own = heard.iter().filter(|request| request.path.ends_with(of));
        own.map(|request| request.body.clone()).collect()
    }

    /// Everything that was logged: run, name, value and step, or 0 of parameters.
    fn logged(&self, key: &str) -> Vec<(String, String, String, u64)> {
        let mut found = Vec::new();
        for body in self.bodies("/runs/log-batch") {
            for one in body[key].as_array().unwrap() {
                let value = one["value"].as_str().map_or_else(|| one["value"].to_string(), str::to_owned);
                let word = |value: &Value| value.as_str().unwrap().to_owned();
                let step = one["step"].as_u64().unwrap_or(0);
                found.push((word(&body["run_id"]), word(&one["key"]), value, step));
            }
        }
        found
    }
}

/// Adds a line to a file.
fn add(path: &Path, line: &Value) {
    let text = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, format!("{text}{line}\n")).unwrap();
}

fn step(step: u64) -> Value {
    json!({ "step": step, "epoch": 1, "train_loss": step as f64 / 4.0 })
}

fn epoch(epoch: u64, step: u64) -> Value {
    json!({ "step": step, "epoch": epoch, "train_loss": 0.5, "validation": { "te(st": { "kl": 0.25 } } })
}

fn server(address: SocketAddr) -> Server {
    let config = MlflowConfig {
        uri: Some(format!("http://{address}/base/")),
        experiment: "an experiment".into(),
        run_name: None,
    };
    let access = Access {
        username: Some("me".into()),
        password: Some("secret".into()),
        token: Some("later".into()),
        ..Access::default()
    };
    Server::new(&config, &access).unwrap()
}

fn run(dir: &Path) -> Run {
    Run {
        name: "a run".into(),
        params: (0..150).map(|at| (format!("key.{at}"), at.to_string())).collect(),
        tags: vec![("mlflow.source.name".into(), "kd-train".into())],
        steps: dir.join("steps.jsonl"),
        epochs: dir.join("metrics.jsonl"),
        epoch_lines: LineKind::EpochBesideSteps,
        kept: dir.join("mlflow.json"),
    }
}

fn wait_until(what: &str, wanted: impl Fn() -> bool) {
    let begun = Instant::now();
    while !wanted() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Steps of the metrics called `key`, and of which run they are.
fn steps_of(fake: &Fake, key: &str) -> Vec<(String, u64)> {
    let all = fake.logged("metrics").into_iter().filter(|metric| metric.1 == key);
    all.map(|(run, _, _, step)| (run, step)).collect()
}

#[test]
fn a_run_is_told_whole() {
    let (fake, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    let run = run(dir.path());
    add(&run.steps, &step(1));
    let mut mlflow = Mlflow::start(server(fake.address), run.clone()).unwrap();
    wait_until("the first line", || !steps_of(&fake, "train/loss").is_empty());
    // A line that is half written is left until it is whole.
    let half = fs::read_to_string(&run.steps).unwrap() + r#"{"step":2,"epo"#;
    fs::write(&run.steps, &half).unwrap();
    mlflow.more();
    add(&run.epochs, &epoch(1, 2));
    mlflow.more();
    wait_until("the epoch", || !steps_of(&fake, "epoch/loss").is_empty());
    fs::write(&run.steps, half + "ch\":1,\"train_loss\":0.5}\n").unwrap();
    mlflow.more();
    assert_eq!(mlflow.end(RunStatus::Finished), None);

    let create = &fake.bodies("/runs/create")[0];
    assert_eq!((&create["experiment_id"], &create["run_name"]), (&json!("7"), &json!("a run")));
    assert_eq!(create["tags"][0], json!({ "key": "mlflow.source.name", "value": "kd-train" }));
    assert_eq!(fake.bodies("/experiments/create"), [json!({ "name": "an experiment" })]);
    let heard = fake.heard.lock().unwrap().clone();
    assert!(heard[0].path.ends_with("get-by-name?experiment_name=an%20experiment"), "{}", heard[0].path);
    assert!(heard.iter().all(|request| request.authorization.as_deref() == Some("Basic bWU6c2VjcmV0")));
    let params = fake.logged("params");
    assert_eq!(params.len(), 150);
    assert_eq!((params[149].1.as_str(), params[149].2.as_str()), ("key.149", "149"));
    assert!(
        fake.bodies("/runs/log-batch").iter().all(|body| body["params"].as_array().unwrap().len() <= 100)
    );
    let id = || "run-1".to_owned();
    assert_eq!(steps_of(&fake, "train/loss"), [(id(), 1), (id(), 2)]);
    let losses: Vec<_> =
        fake.logged("metrics").into_iter().filter(|metric| metric.1 == "train/loss").collect();
    assert_eq!((losses[0].2.as_str(), losses[1].2.as_str()), ("0.25", "0.5"));
    assert_eq!(steps_of(&fake, "te_st/kl"), [(id(), 2)]);
    let updates = fake.bodies("/runs/update");
    assert_eq!((updates.len(), &updates[0]["status"]), (1, &json!("FINISHED")));
    assert!(updates[0]["end_time"].as_u64().unwrap() >= create["start_time"].as_u64().unwrap());
    assert!(create["start_time"].as_u64().unwrap() > 1_700_000_000_000);
}

#[test]
fn a_server_that_dies_half_way_gets_the_rest_when_the_run_goes_on() {
    let (fake, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    let run = run(dir.path());
    let mut mlflow = Mlflow::start(server(fake.address), run.clone()).unwrap();
    for at in 1..=3 {
        add(&run.steps, &step(at));
    }
    mlflow.more();
    wait_until("three lines", || steps_of(&fake, "train/loss").len() == 3);
    // The kept file is written after the answer.
    wait_until("what is kept", || fs::read_to_string(&run.kept).unwrap().contains("\"step\": 3"));
    fake.lives.store(0, Ordering::SeqCst);
    for at in 4..=6 {
        add(&run.steps, &step(at));
    }
    add(&run.epochs, &epoch(1, 6));
    let begun = Instant::now();
    mlflow.more();
    assert!(begun.elapsed() < Duration::from_millis(200), "training waits for the server");
    let (warning, is_new) = mlflow.end(RunStatus::Killed).unwrap();
    assert!(
        is_new && warning.contains(&fake.address.to_string()) && warning.contains("--resume"),
        "{warning}"
    );
    assert!(!warning.contains("secret"), "{warning}");

    // The run goes back to step 5, does 6 again, and goes on.
    fake.lives.store(u64::MAX, Ordering::SeqCst);
    fs::remove_file(&run.steps).unwrap();
    for at in 1..=5 {
        add(&run.steps, &step(at));
    }
    let mut mlflow = Mlflow::start(server(fake.address), run.clone()).unwrap();
    for at in 6..=7 {
        add(&run.steps, &step(at));
        mlflow.more();
    }
    assert_eq!(mlflow.end(RunStatus::Finished), None);
    let expected: Vec<_> = (1..=7).map(|at| ("run-1".to_owned(), at)).collect();
    assert_eq!(steps_of(&fake, "train/loss"), expected);
    assert_eq!(steps_of(&fake, "te_st/kl"), [("run-1".to_owned(), 6)]);
    assert_eq!(fake.logged("params").len(), 150);
    let statuses: Vec<Value> =
        fake.bodies("/runs/update").iter().map(|body| body["status"].clone()).collect();
    assert_eq!(statuses, [json!("RUNNING"), json!("FINISHED")]);

    // Once more: everything stands there already.
    let mut mlflow = Mlflow::start(server(fake.address), run.clone()).unwrap();
    assert_eq!(mlflow.end(RunStatus::Finished), None);
    assert_eq!(steps_of(&fake, "train/loss"), expected);
    // Another experiment has none of it.
    let other = MlflowConfig {
        uri: Some(format!("http://{}/base", fake.address)),
        experiment: "other".into(),
        run_name: Some("by name".into()),
    };
    let other = Server::new(&other, &Access { token: Some("t".into()), ..Access::default() }).unwrap();
    assert_eq!(Mlflow::start(other, run).unwrap().end(RunStatus::Finished), None);
    assert_eq!(steps_of(&fake, "train/loss").len(), 14);
    assert_eq!(fake.bodies("/runs/create")[1]["run_name"], "by name");
    let heard = fake.heard.lock().unwrap();
    assert_eq!(heard.last().unwrap().authorization.as_deref(), Some("Bearer t"));
}

#[test]
fn a_server_that_is_never_there_is_told_of_once() {
    let dir = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = run(dir.path());
    add(&run.steps, &step(1));
    let mut mlflow = Mlflow::start(server(address), run.clone()).unwrap();
    assert_eq!(mlflow.trouble(), None);
    let begun = Instant::now();
    let mut trouble = None;
    while trouble.is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        mlflow.more();
        trouble = mlflow.trouble();
        thread::sleep(Duration::from_millis(10));
    }
    // Five tries, with pauses of 0.5, 1, 2 and 4 seconds between them.
    assert!(begun.elapsed() > Duration::from_secs(7), "{:?}", begun.elapsed());
    assert!(trouble.unwrap().contains("does not answer"));
    assert_eq!(mlflow.trouble(), None);
    let (warning, is_new) = mlflow.end(RunStatus::Finished).unwrap();
    assert!(!is_new && warning.contains("does not answer"), "{warning}");
    assert!(!run.kept.exists());
}

#[test]
fn a_busy_server_is_asked_again_and_one_that_refuses_is_not() {
    let (fake, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    let run = run(dir.path());
    add(&run.steps, &step(1));
    fake.busy.store(2, Ordering::SeqCst);
    let mut mlflow = Mlflow::start(server(fake.address), run.clone()).unwrap();
    wait_until("the line", || steps_of(&fake, "train/loss").len() == 1);
    fake.refuses.store(true, Ordering::SeqCst);
    fake.lives.store(9, Ordering::SeqCst);
    add(&run.steps, &step(2));
    mlflow.more();
    let (warning, _) = mlflow.end(RunStatus::Finished).unwrap();
    assert!(warning.contains("401") && warning.contains("who are you?"), "{warning}");
    assert_eq!(fake.lives.load(Ordering::SeqCst), 8, "asked once");
}

/// MLflow takes a metric that it has, to the time, for the same.
#[test]
fn what_is_sent_again_is_the_same() {
    let (fake, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    let run = run(dir.path());
    let mut mlflow = Mlflow::start(server(fake.address), run.clone()).unwrap();
    let has_params = || fs::read_to_string(&run.kept).is_ok_and(|kept| kept.contains("\"params\": true"));
    wait_until("the parameters", has_params);
    fake.lost.store(1, Ordering::SeqCst);
    add(&run.steps, &step(1));
    mlflow.more();
    wait_until("both", || steps_of(&fake, "train/loss").len() == 2);
    assert_eq!(mlflow.end(RunStatus::Finished), None);
    let bodies = fake.bodies("/runs/log-batch");
    let sent: Vec<&Value> =
        bodies.iter().map(|body| &body["metrics"]).filter(|sent| sent[0].is_object()).collect();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0], sent[1]);
}

#[test]
fn a_server_must_be_named() {
    let config = MlflowConfig { uri: None, experiment: "a".into(), run_name: None };
    let refused = |access: &Access| Server::new(&config, access).unwrap_err().to_string();
    assert!(refused(&Access::default()).contains("MLFLOW_TRACKING_URI"));
    let with = |uri: &str| Access { uri: Some(uri.into()), ..Access::default() };
    assert!(refused(&with("sqlite:///x")).starts_with("MLFLOW_TRACKING_URI: expected http"));
    assert_eq!(Server::new(&config, &with("http://a:1/b/")).unwrap().client.uri(), "http://a:1/b");
    let secret = Access { password: Some("hidden".into()), token: Some("hidden".into()), ..with("http://a") };
    let server = Server::new(&config, &Access { username: Some("u".into()), ..secret.clone() }).unwrap();
    assert!(!format!("{secret:?} {server:?}").contains("hidden"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("certificates.pem");
    let certificates = |text: &str| {
        fs::write(&path, text).unwrap();
        refused(&Access { certificates: Some(path.clone()), ..with("https://a") })
    };
    assert!(certificates("nothing").contains("it holds none"));
    assert!(certificates("-----BEGIN CERTIFICATE-----\nx").contains("certificates.pem"));
}
