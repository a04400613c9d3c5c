use std::sync::Mutex;

use tch::nn::OptimizerConfig;
use tch::{CModule, Kind};

use super::*;

/// libtorch has one random generator a process, and tests run side by side.
static GENERATOR: Mutex<()> = Mutex::new(());

fn kinds() -> Vec<(StudentConfig, Vec<usize>)> {
    let image = vec![1, 28, 28];
    vec![
        (StudentConfig::Mlp { hidden: vec![16, 8], classes: None }, vec![28, 28]),
        (StudentConfig::Mlp { hidden: vec![], classes: None }, vec![12]),
        (StudentConfig::Conv { channels: vec![4, 8], depth: 2, classes: None }, image.clone()),
        (StudentConfig::Resnet18 { width: 4, classes: None }, image),
    ]
}

fn input(rows: i64, shape: &[usize]) -> Tensor {
    let mut size = vec![rows];
    size.extend(shape.iter().map(|d| *d as i64));
    Tensor::randn(size, (Kind::Float, Device::Cpu))
}

#[test]
fn each_kind_trains_and_its_export_answers_alike_at_any_batch_size() {
    let _alone = GENERATOR.lock().unwrap();
    tch::manual_seed(1);
    let dir = tempfile::tempdir().unwrap();
    for (at, (config, shape)) in kinds().into_iter().enumerate() {
        let mut student = create(&config, &shape, 5, Device::Cpu).unwrap();
        let mut optimizer = tch::nn::Sgd::default().build(student.variables(), 0.05).unwrap();
        let (x, y) = (input(8, &shape), Tensor::from_slice(&[0i64, 1, 2, 3, 4, 0, 1, 2]));
        student.set_training(true);
        let mut losses = Vec::new();
        for _ in 0..20 {
            let loss = student.forward(&x).unwrap().cross_entropy_for_logits(&y);
            optimizer.backward_step(&loss);
            losses.push(f64::try_from(&loss).unwrap());
        }
        assert!(losses[19] < losses[0], "{config:?}: {losses:?}");
        student.set_training(false);
        let path = dir.path().join(format!("{at}.pt"));
        student.export(&path).unwrap();
        let module = CModule::load(&path).unwrap();
        for rows in [1, 3, 8] {
            let x = input(rows, &shape);
            let here = tch::no_grad(|| student.forward(&x)).unwrap();
            let there = module.forward_ts(&[x]).unwrap();
            assert!(f64::try_from((here - there).abs().max()).unwrap() < 1e-6, "{config:?}");
        }
        // Exporting must not end the training.
        assert!(!student.variables().trainable_variables().is_empty());
    }
}

#[test]
fn the_seed_decides_the_first_weights() {
    let _alone = GENERATOR.lock().unwrap();
    let (config, shape) = kinds().remove(0);
    let first = |seed| {
        tch::manual_seed(seed);
        let student = create(&config, &shape, 5, Device::Cpu).unwrap();
        let x = Tensor::ones([1, 28, 28], (Kind::Float, Device::Cpu));
        Vec::<f32>::try_from(student.forward(&x).unwrap().reshape([-1])).unwrap()
    };
    assert_eq!(first(3), first(3));
    assert_ne!(first(3), first(4));
}

#[test]
fn resnet18_has_the_published_number_of_parameters() {
    let _alone = GENERATOR.lock().unwrap();
    let config = StudentConfig::Resnet18 { width: 64, classes: None };
    let student = create(&config, &[3, 32, 32], 10, Device::Cpu).unwrap();
    let count: usize = student.variables().trainable_variables().iter().map(Tensor::numel).sum();
    // The widely used CIFAR-10 form of it.
    assert_eq!(count, 11_173_962);
}

#[test]
fn what_does_not_fit_is_refused_with_a_way_out() {
    let _alone = GENERATOR.lock().unwrap();
    let refuse = |config: &StudentConfig, shape: &[usize]| {
        create(config, shape, 5, Device::Cpu).err().unwrap().to_string()
    };
    let conv = StudentConfig::Conv { channels: vec![4; 6], depth: 1, classes: None };
    assert!(refuse(&conv, &[784]).contains("layout = \"nchw\""));
    assert!(refuse(&conv, &[1, 28, 28]).contains("6 blocks"));
    let dir = tempfile::tempdir().unwrap();
    let missing = StudentConfig::Torchscript { path: dir.path().join("none.pt"), classes: None };
    assert!(refuse(&missing, &[4]).contains("none.pt"));
    // A traced export holds constants: nothing to train.
    let (config, shape) = kinds().remove(1);
    let path = dir.path().join("traced.pt");
    create(&config, &shape, 5, Device::Cpu).unwrap().export(&path).unwrap();
    let traced = StudentConfig::Torchscript { path, classes: None };
    assert!(refuse(&traced, &shape).contains("torch.jit.script"));
}
