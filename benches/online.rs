//! What does a student learn, and what does a step cost, where the teacher runs in every one of them?
//!
//! Online distillation with the full softmax, as other toolkits do it, for `tools/compare_targets.py`: the same
//! student, first weights, order and schedule as the run in RUN, whose rows of tokens come out of CACHE, and
//! whose weights are put into RUN in the end, so that `kd-train eval RUN` measures them. Of a run that ends after
//! `train.max_steps` the first third of the steps is not timed.
//!
//! ```text
//! cargo bench --profile release --bench online -- RUN CACHE CACHE_CONFIG TEMPERATURE [KEY=VALUE]…
//! ```

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kd_cache::cache::CacheReader;
use kd_cache::checkpoint;
use kd_cache::config::{CacheConfig, OutputKind, TrainConfig, load};
use kd_cache::libtorch;
use kd_cache::loader::{Inputs, Order, Samples, TokenInputs, stream};
use kd_cache::optim::{Optimizer, Schedule};
use kd_cache::student::{self, Asked, Input, Student, TokenTensors};
use kd_cache::teacher::{self, OutputReading, RawOutput, TeacherError, TokenBatch, TokenTeacher, Values};
use kd_cache::train::RunFolder;
use tch::{Cuda, Device, Kind, Reduction, Tensor};

/// The rows as the teacher takes them.
fn for_teacher(tokens: &TokenInputs) -> Result<TokenBatch, TeacherError> {
    let mut batch = TokenBatch::new(tokens.length);
    for row in 0..tokens.rows {
        let all = row * tokens.length..(row + 1) * tokens.length;
        let valid = tokens.documents[all.clone()].iter().filter(|number| **number >= 0).count();
        let row = all.start..all.start + valid;
        batch.push(&tokens.tokens[row.clone()], &tokens.places[row])?;
    }
    Ok(batch)
}

/// The rows as the student takes them.
fn for_student(tokens: &TokenInputs, device: Device) -> Input {
    let shape = [tokens.rows as i64, tokens.length as i64];
    let tensor = |values: &[i64]| Tensor::from_slice(values).view(shape).to_device(device);
    Input::Tokens(TokenTensors {
        tokens: tensor(&tokens.tokens),
        places: tensor(&tokens.places),
        documents: Some(tensor(&tokens.documents)),
        positions: Tensor::from_slice(&tokens.positions).to_device(device),
    })
}

/// Adds the gradients of T² KL(teacher ‖ student), a mean over the batch's positions, chunk by chunk of the
/// teacher's answer, and gives the loss and the time that the teacher took.
fn backward(
    student: &dyn Student,
    teacher: &mut dyn TokenTeacher,
    tokens: &TokenInputs,
    reading: &mut Option<OutputReading>,
    temperature: f64,
    device: Device,
) -> (f64, Duration) {
    let positions = tokens.positions.len() as f64;
    let features = student.features(&for_student(tokens, device)).unwrap();
    let leaf = features.detach().set_requires_grad(true);
    let (mut at, mut sum, mut learning) = (0, 0.0, Duration::ZERO);
    let begun = Instant::now();
    let mut sink = |output: RawOutput| {
        output.values.wait();
        let learned = Instant::now();
        let (rows, classes) = (output.rows as i64, output.classes as i64);
        let reading = reading.get_or_insert_with(|| OutputReading::decide(OutputKind::Auto, &output));
        let logits = match (&output.values, *reading) {
            // As a trainer has them whose teacher is on the same device.
            (Values::Device(logits), OutputReading::Logits) => logits.tensor().to_kind(Kind::Float),
            _ => Tensor::from_slice(&reading.into_logits(output).unwrap().into_vec()).view([rows, classes]),
        };
        let target = (logits.to_device(device) / temperature).log_softmax(-1, Kind::Float);
        let own = (student.head(&leaf.narrow(0, at, rows)) / temperature).log_softmax(-1, Kind::Float);
        let loss = own.kl_div(&target, Reduction::Sum, true) * (temperature * temperature / positions);
        loss.backward();
        sum += loss.double_value(&[]);
        at += rows;
        learning += learned.elapsed();
        ControlFlow::Continue(())
    };
    teacher.forward(&for_teacher(tokens).unwrap(), &mut sink).unwrap();
    let taken = begun.elapsed() - learning;
    (features * leaf.grad()).sum(Kind::Float).backward();
    (sum, taken)
}

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [run, cache, teacher_config, temperature, sets @ ..] = arguments.as_slice() else {
        println!("online: takes RUN CACHE CACHE_CONFIG TEMPERATURE; see tools/compare_targets.py");
        return;
    };
    let run = RunFolder::new(Path::new(run));
    let config: TrainConfig = load(&run.config(), &[]).unwrap();
    let teacher_config: CacheConfig = load(Path::new(teacher_config), sets).unwrap();
    let temperature: f64 = temperature.parse().unwrap();
    let device = libtorch::resolve(&config.train.device).unwrap();
    let cache = CacheReader::open(Path::new(cache)).unwrap();
    let classes = cache.manifest().classes;
    let mut teacher =
        teacher::open_tokens(&teacher_config.teacher, &[], cache.manifest().longest_row()).unwrap();
    let samples = Arc::new(Samples::tokens(cache, false));

    // As `kd-train` does before it draws the first weights.
    tch::manual_seed(config.seed as i64);
    if let Device::Cuda(_) = device {
        Cuda::manual_seed_all(config.seed);
    }
    let mut student = student::create(&config.student, Asked::Tokens, classes, device).unwrap();
    let mut optimizer = Optimizer::new(&config.optimizer, student.variables()).unwrap();
    let steps_per_epoch = samples.len().div_ceil(config.train.batch as u64);
    let peak = config.optimizer.learning_rate();
    let schedule = Schedule::new(&config.schedule, peak, config.train.epochs, steps_per_epoch);
    student.set_training(true);
    let (mut begun, mut in_teacher) = (Instant::now(), Duration::ZERO);
    let (mut step, mut rows, mut positions) = (0, 0, 0);
    let mut reading = None;
    let most = config.train.max_steps.unwrap_or(u64::MAX);
    let untimed = config
        .train
        .max_steps
        .map_or(0, |most| most.min(u64::from(config.train.epochs).saturating_mul(steps_per_epoch)) / 3);
    for epoch in 0..config.train.epochs {
        let order = Order::Shuffled { seed: config.seed, epoch, within: config.train.shuffle };
        let (mut sum, mut batches) = (0.0, 0);
        for batch in stream(&samples, order, config.train.batch, config.train.prefetch, 0) {
            if step >= most {
                break;
            }
            if step == untimed {
                (begun, in_teacher, rows, positions) = (Instant::now(), Duration::ZERO, 0, 0);
            }
            let Inputs::Tokens(tokens) = batch.unwrap().inputs else { panic!("a cache of tokens") };
            optimizer.zero_grad();
            let (student, teacher) = (student.as_ref(), teacher.as_mut());
            let (loss, taken) = backward(student, teacher, &tokens, &mut reading, temperature, device);
            if let Some(most) = config.train.clip_norm {
                optimizer.clip_norm(most);
            }
            optimizer.step(schedule.at(step));
            (sum, batches, step) = (sum + loss, batches + 1, step + 1);
            in_teacher += taken;
            rows += tokens.rows;
            positions += tokens.positions.len();
        }
        eprintln!("epoch {}: loss {:.4}", epoch + 1, sum / f64::from(batches));
        if step >= most {
            break;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    checkpoint::save_variables(student.as_ref(), &run.variables()).unwrap();
    println!(
        r#"{{"steps": {}, "samples": {rows}, "seconds": {seconds}, "teacher_seconds": {}, "positions_per_second": {}}}"#,
        step - untimed,
        in_teacher.as_secs_f64(),
        positions as f64 / seconds,
    );
}
