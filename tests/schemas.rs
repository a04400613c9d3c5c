//! The JSON Schemas in `schemas/` are those of the code, accept what the code writes, and refuse
//! what is wrong.
//!
//! To write them anew: `KD_CACHE_UPDATE_SCHEMAS=1 cargo test --release --test suite schemas::`

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::synthetic::Synthetic;
use kd_cache::cache::Manifest;
use kd_cache::config::{CacheConfig, SweepConfig, TrainConfig, load_str};
use kd_cache::ids::SampleId;
use kd_cache::ops::{
    BuildOutcome, BuildReport, CacheReport, ConvertReport, ExportForm, ExportReport, ExportRow,
    ExportSettings, ExportTo, FidelityReport, FidelityRow, ImportReport, InspectReport, PlanReport, PlanSize,
    PlanTime, ReportSettings, ShowReport, Silent, TeacherRate, VerifyReport, export, inspect, report, show,
    verify,
};
use kd_cache::target::{TailHandling, Temperature};
use kd_cache::tracking::StepReport;
use schemars::JsonSchema;
use schemars::generate::{Contract, SchemaSettings};
use serde_json::{Map, Value, json};

const UPDATE: &str = "KD_CACHE_UPDATE_SCHEMAS";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

/// The schema of `T`: of what is accepted (configs) or of what is written (everything else).
fn schema<T: JsonSchema>(name: &str, title: &str, contract: Contract) -> (String, Value) {
    let mut settings = SchemaSettings::draft2020_12();
    settings.contract = contract;
    let generated = settings.into_generator().into_root_schema_for::<T>().to_value();
    let mut document = Map::new();
    document.insert("$schema".into(), generated["$schema"].clone());
    document.insert("$id".into(), format!("urn:kd-cache:schema:{name}").into());
    document.insert("title".into(), title.into());
    for (key, value) in generated.as_object().unwrap() {
        document.entry(key).or_insert_with(|| value.clone());
    }
    (format!("{name}.json"), document.into())
}

fn all() -> Vec<(String, Value)> {
    use Contract::{Deserialize, Serialize};
    #[allow(unused_mut, reason = "there is more to say with training")]
    let mut all = vec![
        schema::<CacheConfig>("cache-config", "Configuration of kd-cache build", Deserialize),
        schema::<TrainConfig>("train-config", "Configuration of kd-train", Deserialize),
        schema::<SweepConfig>("sweep-config", "Configuration of kd-train sweep", Deserialize),
        schema::<Manifest>("manifest", "manifest.json of a cache, format version 1", Serialize),
        schema::<PlanReport>("plan", "Report of kd-cache plan", Serialize),
        schema::<BuildReport>("build", "Report of kd-cache build", Serialize),
        schema::<InspectReport>("inspect", "Report of kd-cache inspect", Serialize),
        schema::<VerifyReport>("verify", "Report of kd-cache verify", Serialize),
        schema::<ShowReport>("show", "Report of kd-cache show", Serialize),
        schema::<FidelityReport>("fidelity", "Report of kd-cache fidelity", Serialize),
        schema::<ImportReport>("import", "Report of kd-cache import", Serialize),
        schema::<ConvertReport>("convert", "Report of kd-cache convert", Serialize),
        schema::<ExportReport>("export", "Report of kd-cache export", Serialize),
        schema::<ExportRow>("export-row", "A line of kd-cache export --to jsonl", Serialize),
        schema::<CacheReport>("report", "Report of kd-cache report: the data of its page", Serialize),
        schema::<StepReport>("train-step", "A line of steps.jsonl of a run", Serialize),
    ];
    #[cfg(feature = "torch")]
    all.extend(training::all());
    all
}

/// The reports of `kd-train`, which is not built without libtorch.
const OF_TRAINING: [&str; 7] = [
    "train-summary.json",
    "train-epoch.json",
    "train-eval.json",
    "train-prediction.json",
    "train-generate.json",
    "train-export.json",
    "train-sweep.json",
];

#[test]
fn the_files_are_what_the_code_says() {
    let update = std::env::var_os(UPDATE).is_some();
    let mut names = Vec::new();
    for (name, schema) in all() {
        let path = folder().join(&name);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if update {
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "schemas/{name} is not what the code says; after a change that is meant, run\n  \
             {UPDATE}=1 cargo test --release --test suite schemas::\nand commit it (a change of manifest.json is a \
             change of the format: see schemas/format-v2.md)"
        );
        names.push(name);
    }
    // A schema whose type is gone would never be compared with anything.
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = names.contains(&name) || OF_TRAINING.contains(&name.as_str());
        assert!(!name.ends_with(".json") || known, "schemas/{name} belongs to nothing");
    }
}

/// Asserts that `document` fits the schema `name` and that no result of `damage` does.
fn hold(name: &str, document: &Value, damage: &[(&str, Value)]) {
    let schema = all().into_iter().find(|(file, _)| file == &format!("{name}.json")).unwrap().1;
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(document).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{name}: {errors:?}\n{document:#}");
    for (pointer, wrong) in damage {
        let mut damaged = document.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = damaged.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match wrong {
            // Null stands for a key that is missing.
            Value::Null => assert!(parent.remove(key).is_some(), "{name} has no {pointer}"),
            wrong => drop(parent.insert(key.into(), wrong.clone())),
        }
        assert!(!validator.is_valid(&damaged), "{name}: accepted with {pointer} = {wrong}");
    }
}

#[test]
fn manifests_fit() {
    let dir = tempfile::tempdir().unwrap();
    for k in [4, 20] {
        for labelled in [true, false] {
            let dir = dir.path().join(format!("{k}-{labelled}"));
            Synthetic { k, labelled, ..Synthetic::fixture() }.write(&dir);
            let text = std::fs::read(dir.join("manifest.json")).unwrap();
            let manifest: Value = serde_json::from_slice(&text).unwrap();
            hold(
                "manifest",
                &manifest,
                &[
                    ("/format_version", Value::Null),
                    ("/samples", json!(-1)),
                    ("/classes", json!("20")),
                    ("/shards", json!({})),
                    ("/storage/values", json!("f64")),
                    ("/tail/nodes", json!("1")),
                    ("/teacher/digest", json!("sha256:00")),
                    ("/dataset/fingerprint", Value::Null),
                    ("/preprocess/digest", Value::Null),
                    ("/preprocess/layout", json!("chw")),
                ],
            );
        }
    }
}

fn value(report: &impl serde::Serialize) -> Value {
    serde_json::to_value(report).unwrap()
}

#[test]
fn reports_fit() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = Synthetic::fixture().write(dir.path());

    let inspected = inspect(dir.path()).unwrap();
    hold("inspect", &value(&inspected), &[("/classes", Value::Null), ("/teacher_accuracy", json!("high"))]);

    let settings = ReportSettings { samples: 5, fidelity: None };
    let mut reported = report(dir.path(), &settings, &Silent).unwrap();

    let sound = verify(dir.path(), &Silent).unwrap();
    assert!(sound.sound);
    hold("verify", &value(&sound), &[("/sound", json!("yes")), ("/damages", Value::Null)]);
    let shard = dir.path().join(&manifest.shards[1].file);
    let mut bytes = std::fs::read(&shard).unwrap();
    // Somewhere in the columns, behind the header.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&shard, &bytes).unwrap();
    let damaged = verify(dir.path(), &Silent).unwrap();
    assert!(!damaged.sound && !damaged.damages.is_empty());
    hold("verify", &value(&damaged), &[("/damages", json!([{ "file": 1, "problem": "" }]))]);

    let shown = show(dir.path(), SampleId(2), 0, Temperature::new(2.0).ok()).unwrap();
    hold("show", &value(&shown), &[("/tail_mass", Value::Null), ("/ids", json!([-1]))]);

    let built = BuildReport {
        outcome: BuildOutcome::Built,
        samples_done: 7,
        samples_resumed: 5,
        seconds: 0.5,
        samples_per_second: 14.0,
        positions_per_second: 1.0,
        cache: inspected,
    };
    hold("build", &value(&built), &[("/outcome", json!("done")), ("/cache", Value::Null)]);

    let converted =
        ConvertReport { lossless: true, complete: true, bytes_before: 9, seconds: 0.5, cache: built.cache };
    hold("convert", &value(&converted), &[("/lossless", json!("yes")), ("/cache", Value::Null)]);

    let row = |kl| FidelityRow {
        tail: TailHandling::Renormalize,
        temperature: 2.0,
        rms: 0.1,
        kl,
        kept_mass: 0.9,
        top1_agreement: 1.0,
        drift: 0.2,
    };
    let rows = vec![row(Some(0.1)), row(None)];
    let measured = FidelityReport { positions: 12, classes: 20, k: 4, bytes_per_position: 30.0, rows };
    hold("fidelity", &value(&measured), &[("/rows", json!([{ "tail": "none" }])), ("/k", json!(0.5))]);

    // With everything a report may have, and with what every report has.
    let damage = [
        ("/positions", json!(-1)),
        ("/kept_mass", json!([{ "temperature": 1.0 }])),
        ("/shapes", Value::Null),
        ("/size/columns", json!({})),
        ("/provenance/teacher", Value::Null),
        ("/provenance/digest", json!("sha256:00")),
    ];
    reported.fidelity = Some(measured);
    assert!(reported.labels.is_some() && reported.provenance.tail_model.is_some());
    hold("report", &value(&reported), &damage);
    (reported.fidelity, reported.labels, reported.provenance.tail_model) = (None, None, None);
    hold("report", &value(&reported), &damage);

    for full in [true, false] {
        let rate = TeacherRate {
            batches: 8,
            batch: 32,
            teacher_samples_per_second: 20.0,
            samples_per_second: 10.0,
            positions_per_second: 10.0,
        };
        let time =
            PlanTime { tail_model_hours: 0.5, main_pass_hours: 1.0, hours: 1.5, cost: full.then_some(3.0) };
        let planned = PlanReport {
            samples: 12,
            positions: 12,
            classes: 20,
            fit_samples: 12,
            scratch_bytes: 480,
            shards: 3,
            runtime: "none".into(),
            device: "cpu".into(),
            rate,
            time,
            sizes: vec![PlanSize { k: 4, configured: true, bytes_per_position: 36.0, bytes: 9000 }],
            free_bytes: full.then_some(1 << 40),
        };
        hold("plan", &value(&planned), &[("/time/hours", Value::Null), ("/sizes", json!([{ "k": 4 }]))]);
    }
}

#[test]
fn exports_fit() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("rows.jsonl");
    for (k, labelled) in [(4, true), (20, false)] {
        let cache = dir.path().join(format!("{k}"));
        Synthetic { k, labelled, ..Synthetic::fixture() }.write(&cache);
        for temperature in [None, Some(Temperature::new(2.0).unwrap())] {
            let settings = ExportSettings { form: ExportForm::Jsonl, temperature, samples: Some(0..3) };
            let report =
                export(&cache, &settings, ExportTo::File(&out), &AtomicBool::new(false), &Silent).unwrap();
            hold("export", &value(&report), &[("/form", json!("csv")), ("/rows", Value::Null)]);
            let target = if temperature.is_some() { "/probabilities" } else { "/logits" };
            for line in std::fs::read_to_string(&out).unwrap().lines() {
                let row: Value = serde_json::from_str(line).unwrap();
                // What the report says is in a row, and nothing else.
                assert_eq!(
                    row.as_object().unwrap().keys().collect::<Vec<_>>(),
                    report.columns.iter().collect::<Vec<_>>()
                );
                let damage = [
                    ("/ids", json!([-1])),
                    ("/sample", Value::Null),
                    ("/view", json!("0")),
                    (target, Value::Null),
                ];
                hold("export-row", &row, &damage);
            }
        }
    }
}

#[test]
fn configs_fit() {
    let cache = r#"
        dataset = { kind = "idx", images = "images", labels = "labels", limit = 10 }
        teacher = { kind = "onnx", path = "teacher.onnx" }
        head = { k = 12 }
        tail = { nodes = [0.5, 1.0] }
    "#;
    let config = load_str::<CacheConfig>(cache, "test", &[]).unwrap();
    hold(
        "cache-config",
        &serde_json::to_value(&config).unwrap(),
        &[
            ("/head", Value::Null),
            ("/head/k", json!(0)),
            ("/heads", json!({})),
            ("/teacher/kind", json!("tensorflow")),
            ("/dataset/kind", json!("csv")),
            ("/storage/shard_samples", json!(0)),
            ("/preprocess/scale", json!(0)),
        ],
    );
    let tokens = r#"
        teacher = { kind = "onnx", path = "teacher.onnx" }
        head = { k = 12 }
        [dataset]
        kind = "tokens"
        paths = ["a.bin", "b/*.npy"]
        dtype = "u16"
        separator = 0
        vocabulary = 50257
        tokenizer = "tokenizer.json"
        rows = { length = 1024, packing = "concatenate", keep_rest = false, end_of_document = "</s>" }
        split = { part = "train", validation = 0.01, seed = 3 }
    "#;
    let config = load_str::<CacheConfig>(tokens, "test", &[]).unwrap();
    hold(
        "cache-config",
        &serde_json::to_value(&config).unwrap(),
        &[
            ("/dataset/paths", json!([])),
            ("/dataset/path", json!("a.bin")),
            ("/dataset/dtype", json!("f16")),
            ("/dataset/separator", json!(-1)),
            ("/dataset/rows/length", json!(0)),
            ("/dataset/rows/overlap", json!(1)),
            ("/dataset/rows/end_of_document", json!(true)),
            ("/dataset/split/part", json!("test")),
            ("/dataset/split/validation", json!(1.0)),
        ],
    );
    let train = r#"
        dataset = { kind = "idx", images = "images", labels = "labels" }
        student = { kind = "mlp", hidden = [32] }
        loss = { temperature = 4.0, weights = { kl = 0.7, cross_entropy = 0.3 } }
        optimizer = { kind = "adamw", learning_rate = 0.001 }
        train = { epochs = 2, batch = 8 }
    "#;
    let config = load_str::<TrainConfig>(train, "test", &[]).unwrap();
    hold(
        "train-config",
        &serde_json::to_value(&config).unwrap(),
        &[
            ("/student", Value::Null),
            ("/student/kind", json!("transformer")),
            ("/loss/temperature", json!(0)),
            ("/loss/weights/kl", json!(-1)),
            ("/trains", json!({})),
        ],
    );
}

#[test]
fn sweep_configs_fit() {
    let sweep = r#"
        base = "train.toml"
        rank_by = "test.kl"
        [set]
        "train.epochs" = 3
        [grid]
        "loss.temperature" = [1, 2.5]
        student = [{ kind = "mlp", hidden = [8] }]
        [[list]]
        seed = 1
    "#;
    let config = load_str::<SweepConfig>(sweep, "test", &[]).unwrap();
    hold(
        "sweep-config",
        &serde_json::to_value(&config).unwrap(),
        &[
            ("/base", Value::Null),
            ("/jobs", json!(0)),
            ("/grid", json!({ "seed": 3 })),
            ("/list", json!({ "seed": 3 })),
            ("/runs", json!([])),
        ],
    );
}

#[test]
fn lines_of_steps_fit() {
    for full in [true, false] {
        let line = StepReport {
            step: 50,
            epoch: 1,
            learning_rate: 0.1,
            train_loss: 1.5,
            terms: [("kl".to_owned(), 1.0), ("jsd".to_owned(), 2.0)].into(),
            gradient_norm: full.then_some(0.7),
            samples_per_second: 20.0,
            positions_per_second: full.then_some(200.0),
        };
        hold("train-step", &value(&line), &[("/step", json!(-1)), ("/train_loss", Value::Null)]);
    }
}

#[cfg(feature = "torch")]
mod training {
    use std::collections::BTreeMap;

    use kd_cache::metrics::Evaluation;
    use kd_cache::student::{Initialised, OtherShape};
    use kd_cache::sweep::{PointReport, PointState, SweepOutcome, SweepReport};
    use kd_cache::train::{
        EpochReport, EvalReport, ExportedForm, ExportedStudent, Generated, KeptCheckpoint, OnnxCheck,
        Prediction, TrainOutcome, TrainReport,
    };

    use super::*;

    pub fn all() -> [(String, Value); 7] {
        use Contract::Serialize;
        let all = [
            schema::<TrainReport>(
                "train-summary",
                "Report of kd-train, and summary.json of a run",
                Serialize,
            ),
            schema::<EpochReport>("train-epoch", "A line of metrics.jsonl of a run", Serialize),
            schema::<EvalReport>("train-eval", "Report of kd-train eval", Serialize),
            schema::<Prediction>("train-prediction", "A line of kd-train predict", Serialize),
            schema::<Generated>("train-generate", "Report of kd-train generate", Serialize),
            schema::<ExportedStudent>("train-export", "Report of kd-train export", Serialize),
            schema::<SweepReport>("train-sweep", "Report of kd-train sweep, and its sweep.json", Serialize),
        ];
        assert!(all.iter().all(|(name, _)| OF_TRAINING.contains(&name.as_str())));
        all
    }

    #[test]
    fn training_reports_fit() {
        // With everything a report may have, and with nothing.
        for full in [true, false] {
            let some = |value: f64| full.then_some(value);
            let evaluation = Evaluation {
                samples: 10,
                accuracy: some(0.5),
                accuracy_top5: some(0.9),
                f1: some(0.4),
                f1_weighted: some(0.5),
                loss: some(1.5),
                cross_entropy: some(1.0),
                perplexity: some(2.7),
                calibration_error: some(0.1),
                acceptance: some(0.4),
                agreement: some(0.6),
                kl: some(0.1),
                of_commands: if full { [("auc".to_owned(), 0.8)].into() } else { BTreeMap::new() },
            };
            let validation = BTreeMap::from([("test".to_owned(), evaluation)]);
            let kept = KeptCheckpoint { name: "step-000002".into(), epoch: 1, step: 2, score: some(-0.5) };
            let epoch = EpochReport {
                epoch: 1,
                step: 2,
                learning_rate: 0.1,
                train_loss: 1.5,
                terms: [("kl".to_owned(), 1.0), ("jsd".to_owned(), 2.0)].into(),
                seconds: 0.5,
                samples_per_second: 20.0,
                gradient_norm: some(0.7),
                loss_scale: some(65_536.0),
                skipped_steps: full.then_some(3),
                temperature: some(2.0),
                weights: full.then(|| ("kl".to_owned(), 0.5)).into_iter().collect(),
                positions_per_second: some(200.0),
                validation: validation.clone(),
            };
            hold("train-epoch", &value(&epoch), &[("/epoch", json!(-1)), ("/validation", json!([]))]);
            let report = TrainReport {
                outcome: if full { TrainOutcome::Trained } else { TrainOutcome::Interrupted },
                epochs: 1,
                steps: 2,
                samples: 10,
                seconds: 0.6,
                train_loss: some(1.5),
                best_epoch: full.then_some(1),
                validation: validation.clone(),
                selected_by: "last".into(),
                checkpoints: if full { vec![kept.clone()] } else { Vec::new() },
                cache: full.then(|| "cache".to_owned()),
                further_caches: if full { vec!["another".to_owned()] } else { Vec::new() },
                teacher_digest: full.then(|| "sha256:00".to_owned()),
                temperature: some(2.0),
                device: "cpu".into(),
                seed: 0,
                parameters: 7,
                init: full.then(|| Initialised {
                    taken: 1,
                    missing: vec!["norm.running_mean".into()],
                    other_shapes: vec![OtherShape {
                        name: "head".into(),
                        expected: vec![3, 2],
                        found: vec![],
                    }],
                    unused: vec!["fc.weight".into()],
                }),
                warning: None,
                tracking_warning: full.then(|| "warning: MLflow".to_owned()),
            };
            hold("train-summary", &value(&report), &[("/outcome", json!("done")), ("/seed", Value::Null)]);
            let point = PointReport {
                name: "seed=0".into(),
                run: "runs/seed=0".into(),
                keys: [("seed".to_owned(), json!(0))].into_iter().collect(),
                state: if full { PointState::Trained } else { PointState::Pending },
                rank: full.then_some(1),
                score: some(0.5),
                validation: if full { validation.clone() } else { BTreeMap::new() },
                train_loss: some(1.0),
                best_epoch: full.then_some(1),
                epochs: full.then_some(2),
                parameters: full.then_some(3),
                student_bytes: full.then_some(4),
                cache: full.then(|| "cache".to_owned()),
                cache_bytes: full.then_some(5),
                seconds: some(0.1),
                error: full.then(|| "none".to_owned()),
            };
            let sweep = SweepReport {
                outcome: SweepOutcome::Finished,
                base: "train.toml".into(),
                rank_by: full.then(|| "test.kl".to_owned()),
                higher_is_better: false,
                keys: vec!["seed".into()],
                points: vec![point],
                seconds: 1.0,
            };
            let damage =
                [("/outcome", json!("done")), ("/points", json!([{ "name": "x" }])), ("/keys", Value::Null)];
            hold("train-sweep", &value(&sweep), &damage);
            let check = OnnxCheck { runtime: "onnxruntime".into(), largest_difference: 0.0, tolerance: 1e-4 };
            let exported = ExportedStudent {
                run: "run".into(),
                form: ExportedForm::Onnx,
                out: "run.onnx".into(),
                files: if full { vec!["config.json".into()] } else { Vec::new() },
                bytes: 1,
                digest: "sha256:00".into(),
                student: "mlp".into(),
                check: full.then_some(check),
                note: full.then(|| "none".to_owned()),
            };
            hold("train-export", &value(&exported), &[("/form", json!("pickle")), ("/bytes", Value::Null)]);
            let eval = EvalReport {
                run: "run".into(),
                checkpoint: full.then(|| "last".into()),
                device: "cpu".into(),
                validation,
            };
            hold(
                "train-eval",
                &value(&eval),
                &[
                    ("/validation/test/samples", Value::Null),
                    ("/validation/test/auc", json!("high")),
                    ("/run", json!(1)),
                ],
            );
            let generated = Generated {
                prompt: "a".into(),
                text: "b".into(),
                tokens: if full { vec![7] } else { Vec::new() },
                ended: full,
                tokens_per_second: 2.0,
            };
            hold("train-generate", &value(&generated), &[("/tokens", json!([-1])), ("/ended", Value::Null)]);
            let prediction = Prediction { sample: 3, class: 1, probability: 0.5, label: full.then_some(1) };
            hold("train-prediction", &value(&prediction), &[("/class", json!(-1)), ("/sample", Value::Null)]);
        }
    }
}
