//! Loss and optimizers against numbers from PyTorch (tools/dump_reference.py), and the numbers of
//! ours that the Python reader is held to.

#![cfg(feature = "torch")]

use crate::common::fixture;
use kd_cache::cache::CacheReader;
use kd_cache::config::{DkdConfig, LossConfig, LossWeights, OptimizerConfig, ScheduleConfig};
use kd_cache::loss::{Means, TargetSpace, TargetTensors, WeightedLoss, cross_entropy};
use kd_cache::optim::{Optimizer, Schedule};
use kd_cache::target::{TailHandling, TailNodes, TargetBatch};
use serde_json::{Value, json};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

fn reference(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture("reference").join(name)).unwrap()).unwrap()
}

/// A matrix, row by row.
fn matrix(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn tensor(rows: &[Vec<f64>]) -> Tensor {
    Tensor::from_slice(&rows.concat()).to_kind(Kind::Float).view([rows.len() as i64, -1])
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn labels(value: &Value) -> Tensor {
    Tensor::from_slice(&serde_json::from_value::<Vec<i64>>(value.clone()).unwrap())
}

#[track_caller]
fn close(found: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!(
        (found - expected).abs() < 3e-6 * (1.0 + expected.abs()),
        "{what}: {found}, PyTorch has {expected}"
    );
}

/// All classes in the head, sorted as a cache sorts them: nothing is lost, so that the loss is
/// that of PyTorch on the teacher's own logits.
fn whole_heads(teacher: &[Vec<f64>]) -> TargetBatch {
    let k = teacher[0].len();
    let mut batch = TargetBatch { rows: teacher.len(), k, ..TargetBatch::default() };
    for row in teacher {
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        batch.ids.extend(order.iter().map(|class| *class as u32));
        batch.values.extend(order.iter().map(|class| (row[*class] - row[order[0]]) as f32));
    }
    batch
}

/// A loss of these weights.
fn config(weights: &LossWeights, tail: TailHandling, temperature: f64) -> LossConfig {
    let weights = weights.clone();
    LossConfig { temperature: temperature.into(), tail, weights, ..LossConfig::default() }
}

/// Means over all rows of `logits`.
fn all(logits: &Tensor) -> Means {
    let rows = logits.size()[0] as usize;
    Means { positions: rows, labels: rows }
}

#[test]
fn the_weighted_loss_and_its_gradient_are_pytorchs() {
    let reference = reference("kl.json");
    let (teacher, labels) = (matrix(&reference["teacher"]), labels(&reference["labels"]));
    let targets = TargetTensors::new(&whole_heads(&teacher), Device::Cpu);
    let space = TargetSpace { classes: 7, k: 7, draws: None, nodes: TailNodes::default(), tail_model: None };
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 15);
    for case in cases {
        let number = |key: &str| case[key].as_f64().unwrap();
        let weights = LossWeights {
            kl: number("kl_weight").into(),
            cross_entropy: number("cross_entropy_weight").into(),
            ..LossWeights::default()
        };
        let temperature = number("temperature");
        let student = tensor(&matrix(&reference["student"])).set_requires_grad(true);
        for tail in TailHandling::ALL {
            let mut student = student.detach().copy().set_requires_grad(true);
            let settings = config(&weights, tail, temperature);
            let loss = WeightedLoss::new(&settings, std::slice::from_ref(&space), Device::Cpu).unwrap();
            let mut terms =
                loss.forward(&student, Some(&labels), std::slice::from_ref(&targets), all(&student));
            terms.backward(1.0).unwrap();
            let what = format!("{tail}, T = {temperature}, {weights:?}");
            close(terms.value.double_value(&[]), &case["loss"], &what);
            // Terms without weight are not computed.
            assert_eq!(
                ["kl", "cross_entropy"].map(|name| terms.terms.contains_key(name)),
                [weights.kl, weights.cross_entropy].map(|weight| weight.largest() > 0.0)
            );
            for (name, term) in &terms.terms {
                close(term.double_value(&[]), &case[name], &format!("{what}, {name}"));
            }
            let gradient = matrix(&case["gradient"]).concat();
            for (found, expected) in numbers(&student.grad()).iter().zip(gradient) {
                close(*found, &expected.into(), &format!("{what}, gradient"));
            }
            student.zero_grad();
        }
    }
}

/// Every further term, its value and its gradient for the student's logits.
#[test]
fn every_term_is_pytorchs() {
    let reference = reference("losses.json");
    let (teacher, labels) = (matrix(&reference["teacher"]), labels(&reference["labels"]));
    let targets = TargetTensors::new(&whole_heads(&teacher), Device::Cpu);
    let space = TargetSpace { classes: 7, k: 7, draws: None, nodes: TailNodes::default(), tail_model: None };
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3 * 15 + 1);
    for case in cases {
        let name = case["term"].as_str().unwrap();
        let temperature = case["temperature"].as_f64().unwrap();
        let weights: LossWeights = serde_json::from_value(json!({ name: 1.0 })).unwrap();
        let mut settings = LossConfig {
            jsd_beta: case["jsd_beta"].as_f64().unwrap(),
            dkd: DkdConfig { alpha: 1.5, beta: 4.0 },
            label_smoothing: case["label_smoothing"].as_f64().unwrap(),
            ..config(&weights, TailHandling::Shape, temperature)
        };
        let section = |name: &str| case["settings"].get(name).cloned().unwrap_or(json!({}));
        settings.dist = serde_json::from_value(section("dist")).unwrap();
        settings.nkd = serde_json::from_value(section("nkd")).unwrap();
        settings.ranking = serde_json::from_value(section("ranking")).unwrap();
        let loss = WeightedLoss::new(&settings, std::slice::from_ref(&space), Device::Cpu).unwrap();
        let student = tensor(&matrix(&reference["student"])).set_requires_grad(true);
        let mut terms = loss.forward(&student, Some(&labels), std::slice::from_ref(&targets), all(&student));
        terms.backward(1.0).unwrap();
        let what = format!("{name} at T = {temperature}, {settings:?}");
        close(terms.value.double_value(&[]), &case["loss"], &what);
        for (found, expected) in numbers(&student.grad()).iter().zip(matrix(&case["gradient"]).concat()) {
            close(*found, &expected.into(), &format!("{what}, gradient"));
        }
    }
}

#[test]
fn optimizers_take_pytorchs_steps() {
    let reference = reference("optimizers.json");
    let (inputs, labels) = (tensor(&matrix(&reference["inputs"])), labels(&reference["labels"]));
    let start = tensor(&matrix(&reference["start"]));
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let config: OptimizerConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let vs = VarStore::new(Device::Cpu);
        let weight = vs.root().var_copy("weight", &start);
        let mut optimizer = Optimizer::new(&config, &vs).unwrap();
        for (step, expected) in case["steps"].as_array().unwrap().iter().enumerate() {
            let loss = cross_entropy(&inputs.matmul(&weight.tr()), &labels).mean(Kind::Float);
            optimizer.zero_grad();
            loss.backward();
            optimizer.step(config.learning_rate());
            let expected = matrix(expected).concat();
            for (found, expected) in numbers(&weight).iter().zip(expected) {
                close(*found, &expected.into(), &format!("{config:?}, step {step}"));
            }
        }
    }
}

/// Gradients as PyTorch clips them, seen in a step that takes all of them away from weights of 0.
#[test]
fn gradients_are_clipped_as_pytorchs() {
    let reference = reference("clipping.json");
    let rows = |value: &Value| match value[0].is_array() {
        true => tensor(&matrix(value)),
        false => tensor(&[serde_json::from_value(value.clone()).unwrap()]).reshape([-1]),
    };
    let config = json!({ "kind": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0 });
    let config: OptimizerConfig = serde_json::from_value(config).unwrap();
    let gradients = reference["gradients"].as_object().unwrap();
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let vs = VarStore::new(Device::Cpu);
        let scale = case["scale"].as_f64().unwrap();
        let mut loss = Tensor::zeros([], (Kind::Float, Device::Cpu));
        for (name, gradient) in gradients {
            let gradient = rows(gradient) * scale;
            loss += (vs.root().zeros(name, &gradient.size()) * gradient).sum(Kind::Float);
        }
        let mut optimizer = Optimizer::new(&config, &vs).unwrap();
        optimizer.zero_grad();
        loss.backward();
        if let Some(most) = case["clip_value"].as_f64() {
            optimizer.clip_value(most);
        }
        if let Some(most) = case["clip_norm"].as_f64() {
            let norm = optimizer.clip_norm(most).unwrap().double_value(&[]);
            close(norm / scale, &(case["norm"].as_f64().unwrap() / scale).into(), "the norm before");
        }
        optimizer.step(1.0 / scale);
        for (name, variable) in vs.variables() {
            let expected = numbers(&(rows(&case["gradients"][&name]) / -scale));
            for (found, expected) in numbers(&variable).iter().zip(expected) {
                close(*found, &expected.into(), &format!("{name}, {case}"));
            }
        }
    }
}

/// A loss that is scaled changes no step, by a power of two not even in the last bit; a gradient that is not finite is
/// left out, and so is nothing else.
#[test]
fn scaled_losses_take_the_same_steps_and_leave_out_what_is_not_finite() {
    let reference = reference("optimizers.json");
    let (inputs, labels) = (tensor(&matrix(&reference["inputs"])), labels(&reference["labels"]));
    let start = tensor(&matrix(&reference["start"]));
    for case in reference["cases"].as_array().unwrap() {
        let config: OptimizerConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let stores = [VarStore::new(Device::Cpu), VarStore::new(Device::Cpu)];
        let weights = stores.each_ref().map(|vs| vs.root().var_copy("weight", &start));
        let mut optimizers = stores.each_ref().map(|vs| Optimizer::new(&config, vs).unwrap());
        optimizers[1].scale_loss();
        assert_eq!((optimizers[0].loss_scale(), optimizers[0].skipped()), (1.0, None));
        for step in 0..4 {
            for (optimizer, weight) in optimizers.iter_mut().zip(&weights) {
                let loss = cross_entropy(&inputs.matmul(&weight.tr()), &labels).mean(Kind::Float);
                // Too large for its scale.
                if step == 2 && optimizer.skipped() == Some(0) {
                    optimizer.zero_grad();
                    (&loss * 1e30 * optimizer.loss_scale()).backward();
                    assert!(!optimizer.unscale().unwrap());
                }
                let loss = cross_entropy(&inputs.matmul(&weight.tr()), &labels).mean(Kind::Float);
                optimizer.zero_grad();
                (loss * optimizer.loss_scale()).backward();
                assert!(optimizer.unscale().unwrap());
                optimizer.step(config.learning_rate());
            }
            assert_eq!(numbers(&weights[0]), numbers(&weights[1]), "{config:?}, step {step}");
        }
        assert_eq!((optimizers[1].loss_scale(), optimizers[1].skipped()), (32_768.0, Some(1)));
        // What is kept of it is taken up again.
        let (steps, memory) = optimizers[1].state();
        let mut other = Optimizer::new(&config, &stores[1]).unwrap();
        other.scale_loss();
        other.restore(steps, &memory);
        assert_eq!((other.loss_scale(), other.skipped()), (32_768.0, Some(1)));
    }
}

/// Layers and groups with rates and decays of their own are PyTorch's parameter groups.
#[test]
fn groups_and_layers_take_pytorchs_steps() {
    let reference = reference("groups.json");
    let (inputs, labels) = (tensor(&matrix(&reference["inputs"])), labels(&reference["labels"]));
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let config: OptimizerConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let vs = VarStore::new(Device::Cpu);
        let variable = |folder: &str, name: &str| {
            let start = &reference["start"][format!("{folder}.{name}")];
            let start = match start[0].is_array() {
                true => tensor(&matrix(start)),
                false => tensor(&[serde_json::from_value(start.clone()).unwrap()]).reshape([-1]),
            };
            (vs.root() / folder).var_copy(name, &start)
        };
        let weights = [("hidden0", "weight"), ("hidden1", "norm"), ("hidden1", "weight"), ("head", "weight")];
        let [first, norm, second, head] = weights.map(|(folder, name)| variable(folder, name));
        let mut optimizer = Optimizer::new(&config, &vs).unwrap();
        for (step, expected) in case["steps"].as_array().unwrap().iter().enumerate() {
            let hidden = inputs.matmul(&first.tr()).tanh() * &norm;
            let hidden = hidden.matmul(&second.tr()).tanh();
            let loss = cross_entropy(&hidden.matmul(&head.tr()), &labels).mean(Kind::Float);
            optimizer.zero_grad();
            loss.backward();
            optimizer.step(config.learning_rate());
            let named = vs.variables();
            assert_eq!(named.len(), expected.as_object().unwrap().len());
            for (name, expected) in expected.as_object().unwrap() {
                let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
                for (found, expected) in numbers(&named[name]).iter().zip(expected) {
                    close(*found, &expected.into(), &format!("{config:?}, {name}, step {step}"));
                }
            }
        }
    }
}

/// Each schedule by epochs and, as an epoch of one step is a step, by steps.
#[test]
fn schedules_are_pytorchs() {
    let reference = reference("schedules.json");
    let cases = reference.as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let expected: Vec<f64> = serde_json::from_value(case["factors"].clone()).unwrap();
        let config: ScheduleConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let by_steps = Schedule::new(&config, 0.5, 12, 1);
        let mut settings = case["config"].clone();
        settings["per"] = json!("epoch");
        let config: ScheduleConfig = serde_json::from_value(settings).unwrap();
        let by_epochs = Schedule::new(&config, 0.5, 12, 7);
        for (at, expected) in (0u64..).zip(expected) {
            let what = format!("{config:?} at {at}");
            close(by_steps.at(at), &(0.5 * expected).into(), &what);
            for step in [0, 3, 6] {
                close(by_epochs.at(at * 7 + step), &(0.5 * expected).into(), &what);
            }
        }
    }
}

/// `tests/fixtures/reference/kl_python.json`: losses and gradients on the caches `tests/fixtures/v1` and `v2`,
/// which tests/python holds `tools/read_cache.py` to. To write it anew:
/// `KD_CACHE_WRITE_FIXTURE=1 cargo test --release --test suite numerics::`.
#[test]
fn the_python_reader_is_held_to_our_losses() {
    // Any order, across shards, and one row twice.
    let rows = [7u64, 0, 11, 4, 5, 7];
    let classes = 20;
    // Two decimals, between -5 and 5.
    let logit = |row: usize, class: usize| {
        (((row * row * 37 + class * class * 11 + row * class * 5) % 1001) as f64 - 500.0) / 100.0
    };
    let student: Vec<Vec<f64>> =
        (0..rows.len()).map(|row| (0..classes).map(|class| logit(row, class)).collect()).collect();
    let weights = LossWeights { kl: 1.0.into(), ..LossWeights::default() };
    // No more digits than single precision has.
    let short = |number: &f64| (*number as f32).to_string().parse::<f64>().unwrap();
    let mut cases = Vec::new();
    for version in ["v1", "v2"] {
        let reader = CacheReader::open(&fixture(&format!("{version}/cache"))).unwrap();
        let mut targets = TargetBatch::default();
        reader.gather(&rows, &mut targets).unwrap();
        let targets = TargetTensors::new(&targets, Device::Cpu);
        let manifest = reader.manifest();
        let space = TargetSpace {
            classes: manifest.classes,
            k: manifest.head.k,
            draws: manifest.draws(),
            nodes: manifest.tail.nodes.clone(),
            tail_model: reader.tail_model().cloned(),
        };
        for (temperature, tail) in
            [1.0, 2.0, 4.0].into_iter().flat_map(|t| TailHandling::ALL.map(|tail| (t, tail)))
        {
            let settings = config(&weights, tail, temperature);
            let loss = WeightedLoss::new(&settings, std::slice::from_ref(&space), Device::Cpu).unwrap();
            let student = tensor(&student).set_requires_grad(true);
            let mut terms = loss.forward(&student, None, std::slice::from_ref(&targets), all(&student));
            terms.backward(1.0).unwrap();
            let gradient = numbers(&student.grad());
            let gradient: Vec<Vec<f64>> =
                gradient.chunks(classes).map(|row| row.iter().map(short).collect()).collect();
            let loss = short(&terms.value.double_value(&[]));
            cases.push(json!({
                "cache": version, "temperature": temperature, "tail": tail, "loss": loss, "gradient": gradient
            }));
        }
    }
    let ours = json!({ "rows": rows, "student": student, "cases": cases });
    if std::env::var_os("KD_CACHE_WRITE_FIXTURE").is_some() {
        std::fs::write(fixture("reference/kl_python.json"), format!("{ours}\n")).unwrap();
    }
    let kept = reference("kl_python.json");
    assert_eq!((&kept["rows"], &kept["student"]), (&ours["rows"], &ours["student"]));
    assert_eq!(kept["cases"].as_array().unwrap().len(), cases.len());
    for (kept, ours) in kept["cases"].as_array().unwrap().iter().zip(&cases) {
        let what = format!("{}, {}, T = {}", ours["cache"], ours["tail"], ours["temperature"]);
        for key in ["cache", "tail", "temperature"] {
            assert_eq!(kept[key], ours[key]);
        }
        close(ours["loss"].as_f64().unwrap(), &kept["loss"], &what);
        let gradient = matrix(&kept["gradient"]).concat();
        for (found, kept) in matrix(&ours["gradient"]).concat().iter().zip(gradient) {
            close(*found, &kept.into(), &format!("{what}, gradient"));
        }
    }
}
