use std::collections::BTreeMap;
use std::sync::Mutex;

use tch::nn::OptimizerConfig;
use tch::{CModule, Kind};

use super::*;
use crate::config::{InitLayers, Precision, Stem, TrainSection};
use crate::libtorch::of_tests;

/// libtorch has one random generator a process, and tests run side by side.
static GENERATOR: Mutex<()> = Mutex::new(());

fn kinds() -> Vec<(StudentConfig, Vec<usize>)> {
    let image = vec![1, 28, 28];
    vec![
        (StudentConfig::Mlp { hidden: vec![16, 8], classes: None }, vec![28, 28]),
        (StudentConfig::Mlp { hidden: vec![], classes: None }, vec![12]),
        (StudentConfig::Conv { channels: vec![4, 8], depth: 2, classes: None }, image.clone()),
        (StudentConfig::Resnet18(ResnetConfig { width: 4, ..ResnetConfig::default() }), image),
        (StudentConfig::Resnet34(imagenet()), vec![3, 40, 33]),
        (StudentConfig::Resnet50(imagenet()), vec![3, 40, 33]),
    ]
}

fn imagenet() -> ResnetConfig {
    ResnetConfig { stem: Stem::Imagenet, width: 4, classes: None }
}

fn forward(student: &dyn Student, images: &Tensor) -> Result<Tensor, StudentError> {
    Ok(student.head(&student.features(&Input::Images(images.shallow_clone()))?))
}

fn on_device<T: tch::kind::Element>(values: &[T]) -> Tensor {
    Tensor::from_slice(values).to_device(of_tests())
}

fn input(rows: i64, shape: &[usize]) -> Tensor {
    let mut size = vec![rows];
    size.extend(shape.iter().map(|d| *d as i64));
    Tensor::randn(size, (Kind::Float, of_tests()))
}

/// Logits and gradients are single precision, and those of single precision but for the rounding of products.
fn half_types_are_near(made: impl Fn() -> Box<dyn Student>, input: impl Fn() -> Input) {
    let section: TrainSection = toml::from_str("epochs = 1\nbatch = 1").unwrap();
    let answers = |precision: Precision| {
        let student = computed(made(), &TrainSection { precision, ..section.clone() }).unwrap();
        let features = student.features(&input()).unwrap();
        let logits = student.head(&features);
        assert_eq!((features.kind(), logits.kind()), (Kind::Float, Kind::Float));
        (&logits * &logits).sum(Kind::Float).backward();
        let variables = student.variables().variables().into_iter();
        let gradients =
            variables.map(|(name, value)| (name, value.grad())).filter(|(_, grad)| grad.defined());
        (logits.detach(), gradients.collect::<BTreeMap<_, _>>())
    };
    let apart = |a: &Tensor, b: &Tensor| {
        assert_eq!((a.kind(), b.kind()), (Kind::Float, Kind::Float));
        let norm = |x: Tensor| f64::try_from(x.norm()).unwrap();
        norm(a - b) / norm(a.copy())
    };
    let whole = answers(Precision::F32);
    // Bits of significand, and a few products one after the other.
    for (precision, bits) in [(Precision::Bf16, 8), (Precision::F16, 11)] {
        let (half, unit) = (answers(precision), 2f64.powi(-bits));
        let found = apart(&whole.0, &half.0);
        assert!(found > unit / 100.0 && found < 5.0 * unit, "{precision:?}, logits: {found}");
        assert_eq!(whole.1.len(), half.1.len());
        let square = |x: &Tensor| f64::try_from((x * x).sum(Kind::Double)).unwrap();
        let (mut off, mut all) = (0.0, 0.0);
        for (name, a) in &whole.1 {
            // Layers behind one another round again, and where a sum is near 0 another part of it is cut off.
            assert!(apart(a, &half.1[name]) < 100.0 * unit, "{precision:?}, {name}");
            (off, all) = (off + square(&(a - &half.1[name])), all + square(a));
        }
        assert!(off < (30.0 * unit).powi(2) * all, "{precision:?}, all gradients: {}", (off / all).sqrt());
    }
}

#[test]
fn products_in_half_types_are_near_those_in_single_precision() {
    let _alone = GENERATOR.lock().unwrap();
    // Deeper ones round once more with each layer, and have nothing that these have not.
    for (config, shape) in kinds().into_iter().take(4) {
        let made = || {
            tch::manual_seed(7);
            create(&config, Asked::Images(&shape), 5, of_tests()).unwrap()
        };
        tch::manual_seed(8);
        let images = input(4, &shape);
        half_types_are_near(made, || Input::Images(images.shallow_clone()));
    }
}

#[test]
fn the_only_layer_of_a_built_in_student_is_what_its_head_is_given() {
    let _alone = GENERATOR.lock().unwrap();
    let wanted = |config: &StudentConfig, shape: &[usize]| match config {
        StudentConfig::Mlp { hidden, .. } => {
            hidden.last().map_or(shape.iter().product::<usize>() as i64, |width| i64::from(*width))
        }
        StudentConfig::Conv { channels, .. } => i64::from(channels[channels.len() - 1]),
        // Four times as wide where blocks are bottlenecks.
        StudentConfig::Resnet50(_) => 128,
        _ => 32,
    };
    for (config, shape) in kinds() {
        let student = create(&config, Asked::Images(&shape), 5, of_tests()).unwrap();
        let of = |layer: &str| Wanted { layers: vec![layer.to_owned()], losses: Vec::new() };
        let widths =
            |layer: &str| super::widths(student.as_ref(), Asked::Images(&shape), &of(layer), of_tests());
        assert_eq!(widths("features").unwrap(), [wanted(&config, &shape)], "{config:?}");
        let error = widths("block1").unwrap_err().to_string();
        assert!(error.contains("no layer \"block1\"; it has features"), "{error}");
        let input = Input::Images(input(3, &shape));
        let answer = student.answer(&input, &of("features")).unwrap();
        assert_eq!(answer.features, answer.layers[0]);
        let own = Wanted { layers: Vec::new(), losses: vec![1] };
        let error = student.answer(&input, &own).unwrap_err().to_string();
        assert!(error.contains("loss.returned") && error.contains("logits alone"), "{error}");
    }
}

#[test]
fn each_kind_trains_and_its_export_answers_alike_at_any_batch_size() {
    let _alone = GENERATOR.lock().unwrap();
    tch::manual_seed(1);
    let dir = tempfile::tempdir().unwrap();
    for (at, (config, shape)) in kinds().into_iter().enumerate() {
        let mut student = create(&config, Asked::Images(&shape), 5, of_tests()).unwrap();
        let mut optimizer = tch::nn::Sgd::default().build(student.variables(), 0.05).unwrap();
        let (x, y) = (input(8, &shape), on_device(&[0i64, 1, 2, 3, 4, 0, 1, 2]));
        student.set_training(true);
        let mut losses = Vec::new();
        for _ in 0..20 {
            let loss = forward(student.as_ref(), &x).unwrap().cross_entropy_for_logits(&y);
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
            let here = tch::no_grad(|| forward(student.as_ref(), &x)).unwrap();
            let there = module.forward_ts(&[x.to_device(Device::Cpu)]).unwrap().to_device(of_tests());
            // A GPU's convolutions cut their factors to the eleven bits of TF32, as PyTorch's do.
            let most = if of_tests().is_cuda() { 2e-2 } else { 1e-6 };
            assert!(f64::try_from((here - there).abs().max()).unwrap() < most, "{config:?}");
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
        let student = create(&config, Asked::Images(&shape), 5, of_tests()).unwrap();
        let x = Tensor::ones([1, 28, 28], (Kind::Float, of_tests()));
        Vec::<f32>::try_from(forward(student.as_ref(), &x).unwrap().reshape([-1])).unwrap()
    };
    assert_eq!(first(3), first(3));
    assert_ne!(first(3), first(4));
}

#[test]
fn resnets_have_the_published_number_of_parameters() {
    let _alone = GENERATOR.lock().unwrap();
    let count = |config: &StudentConfig, shape: &[usize], classes| {
        let student = create(config, Asked::Images(shape), classes, of_tests()).unwrap();
        student.variables().trainable_variables().iter().map(Tensor::numel).sum::<usize>()
    };
    // The widely used CIFAR-10 form.
    let small = StudentConfig::Resnet18(ResnetConfig::default());
    assert_eq!(count(&small, &[3, 32, 32], 10), 11_173_962);
    // torchvision's table of weights.
    let whole = || ResnetConfig { stem: Stem::Imagenet, ..ResnetConfig::default() };
    let published = [
        (StudentConfig::Resnet18(whole()), 11_689_512),
        (StudentConfig::Resnet34(whole()), 21_797_672),
        (StudentConfig::Resnet50(whole()), 25_557_032),
    ];
    for (config, expected) in published {
        assert_eq!(count(&config, &[3, 64, 64], 1000), expected, "{}", config.kind());
    }
}

/// tools/make_test_resnet.py made weights and answers, in torchvision.
#[test]
fn resnets_take_torchvisions_weights_and_answer_alike() {
    let _alone = GENERATOR.lock().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/students/resnet");
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let narrow = |stem| ResnetConfig { stem, width: 2, classes: None };
    for config in [
        StudentConfig::Resnet18(narrow(Stem::Small)),
        StudentConfig::Resnet34(narrow(Stem::Imagenet)),
        StudentConfig::Resnet50(narrow(Stem::Imagenet)),
    ] {
        let kind = config.kind();
        let said = &expected[kind];
        let numbers = |key: &str| {
            let values = said[key].as_array().unwrap().iter().map(|z| z.as_f64().unwrap());
            on_device(&values.collect::<Vec<f64>>())
        };
        let shape: Vec<usize> =
            said["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
        let mut student = create(&config, Asked::Images(&shape), 10, of_tests()).unwrap();
        let done =
            initialise(student.as_mut(), &folder.join(format!("{kind}.safetensors")), InitLayers::Every)
                .unwrap();
        assert!(done.left().is_empty(), "{kind}: {:?}", done.left());
        // So that nothing but the network decides: batch norms over a dozen values make much of a rounding.
        student.variables_mut().double();
        let count = 3 * shape.iter().product::<usize>();
        let images: Vec<f32> = (0..count).map(|at| (at * 7919 % 1009) as f32 / 512.0 - 1.0).collect();
        let mut size = vec![3];
        size.extend(shape.iter().map(|d| *d as i64));
        let images = on_device(&images).to_kind(Kind::Double).view(size.as_slice());
        let near = |found: Tensor, expected: Tensor, what: &str| {
            let off = f64::try_from((found.flatten(0, -1) - expected).abs().max()).unwrap();
            assert!(off < 1e-9, "{kind}, {what}: {off}");
        };
        near(forward(student.as_ref(), &images).unwrap(), numbers("evaluated"), "evaluated");
        student.set_training(true);
        near(forward(student.as_ref(), &images).unwrap(), numbers("trained"), "trained");
        let running = student.variables().variables().remove("bn1.running_mean").unwrap();
        near(running, numbers("bn1.running_mean"), "running mean");
    }
}

/// A module's parameters are taken as those of safetensors are; its buffers cannot be had, and are named.
#[test]
fn weights_begin_with_those_of_a_module() {
    let _alone = GENERATOR.lock().unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/students/resnet");
    let config = |stem| StudentConfig::Resnet18(ResnetConfig { stem, width: 2, classes: None });
    let begun = |stem, file: &str| {
        let mut student = create(&config(stem), Asked::Images(&[1, 28, 28]), 10, of_tests()).unwrap();
        let done = initialise(student.as_mut(), &folder.join(file), InitLayers::Every).unwrap();
        (done, student.variables().variables().into_iter().collect::<BTreeMap<_, _>>())
    };
    let (whole, expected) = begun(Stem::Small, "resnet18.safetensors");
    let counted = |name: &String| name.ends_with("num_batches_tracked");
    assert!(whole.left().is_empty() && whole.unused.len() == 20, "{whole:?}");
    assert!(whole.unused.iter().all(counted), "{whole:?}");
    let (done, found) = begun(Stem::Small, "resnet18.pt");
    let running = |name: &String| name.ends_with("running_mean") || name.ends_with("running_var");
    assert_eq!((done.missing.len(), done.taken + 40), (40, whole.taken));
    assert!(done.missing.iter().all(running) && done.other_shapes.is_empty(), "{done:?}");
    assert!(done.unused.is_empty(), "{done:?}");
    for (name, value) in found {
        assert_eq!(value == expected[&name], !running(&name), "{name}");
    }
    let (done, _) = begun(Stem::Imagenet, "resnet18.pt");
    let other =
        OtherShape { name: "conv1.weight".into(), expected: vec![2, 1, 7, 7], found: vec![2, 1, 3, 3] };
    assert_eq!((done.other_shapes, done.missing.len()), (vec![other], 40));
}

#[test]
fn a_pickle_is_refused_with_the_way_to_convert_it() {
    let _alone = GENERATOR.lock().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (config, shape) = kinds().remove(1);
    let mut student = create(&config, Asked::Images(&shape), 5, of_tests()).unwrap();
    let mut refuse =
        |path: &Path| initialise(student.as_mut(), path, InitLayers::Every).unwrap_err().to_string();
    // As torch.save wrote it before it wrote archives, and an archive that holds no module.
    let (pickle, archive) = (dir.path().join("old.safetensors"), dir.path().join("new.pth"));
    std::fs::write(&pickle, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.").unwrap();
    Tensor::write_npz(&[("archive/data", Tensor::zeros([2], (Kind::Float, tch::Device::Cpu)))], &archive)
        .unwrap();
    for path in [pickle, archive] {
        let refused = refuse(&path);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for word in ["init.weights", name.as_str(), "torch.save", "weights_only=True", "save_file"] {
            assert!(refused.contains(word), "{word:?} is not in:\n{refused}");
        }
    }
    // Anything else is taken for safetensors, and so is a file whose header's length looks like a pickle.
    let mut long = 0x280u64.to_le_bytes().to_vec();
    long.extend(b"{}");
    long.resize(0x288, b' ');
    for bytes in [b"weights".to_vec(), long] {
        let path = dir.path().join("other.pt");
        std::fs::write(&path, bytes).unwrap();
        let refused = refuse(&path);
        assert!(refused.contains("init.weights") && !refused.contains("torch.save"), "{refused}");
    }
    // What is traced has constants and no parameters.
    let traced = dir.path().join("traced.pt");
    create(&config, Asked::Images(&shape), 5, of_tests()).unwrap().export(&traced).unwrap();
    let refused = refuse(&traced);
    assert!(refused.contains("found none") && refused.contains("student.safetensors"), "{refused}");
}

#[test]
fn what_does_not_fit_is_refused_with_a_way_out() {
    let _alone = GENERATOR.lock().unwrap();
    let refuse = |config: &StudentConfig, shape: &[usize]| {
        create(config, Asked::Images(shape), 5, of_tests()).err().unwrap().to_string()
    };
    let conv = StudentConfig::Conv { channels: vec![4; 6], depth: 1, classes: None };
    assert!(refuse(&conv, &[784]).contains("layout = \"nchw\""));
    assert!(refuse(&conv, &[1, 28, 28]).contains("6 blocks"));
    let conv = StudentConfig::Conv { channels: vec![1; 70], depth: 1, classes: None };
    assert!(refuse(&conv, &[1, 28, 28]).contains("70 blocks"));
    let dir = tempfile::tempdir().unwrap();
    let missing = StudentConfig::Torchscript { path: dir.path().join("none.pt"), classes: None };
    assert!(refuse(&missing, &[4]).contains("none.pt"));
    // A traced export holds constants: nothing to train.
    let (config, shape) = kinds().remove(1);
    let path = dir.path().join("traced.pt");
    create(&config, Asked::Images(&shape), 5, of_tests()).unwrap().export(&path).unwrap();
    let traced = StudentConfig::Torchscript { path, classes: None };
    assert!(refuse(&traced, &shape).contains("torch.jit.script"));
}

#[test]
fn a_weight_that_two_layers_share_is_one_variable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/students/tied.pt");
    let config = StudentConfig::Torchscript { path, classes: None };
    let _alone = GENERATOR.lock().unwrap();
    let student = create(&config, Asked::Images(&[1, 28, 28]), 10, of_tests()).unwrap();
    let names: Vec<String> = student.variables().variables().into_keys().collect();
    assert_eq!(names.len(), 5, "{names:?}");
    assert_eq!(names.iter().filter(|name| name.ends_with("weight")).count(), 2, "{names:?}");
    let trained = student.variables().trainable_variables();
    assert!(trained.len() == 5 && trained.iter().all(Tensor::requires_grad));
    // The gradient of the one is that of both layers.
    let all = student.variables().variables();
    forward(&*student, &input(4, &[1, 28, 28])).unwrap().square().mean(Kind::Float).backward();
    assert!(all.values().all(|variable| variable.grad().defined()));
}

mod llama {
    use super::*;
    use crate::config::LlamaConfig;

    fn config() -> StudentConfig {
        StudentConfig::Llama(LlamaConfig {
            hidden_size: 24,
            intermediate_size: None,
            num_hidden_layers: 2,
            num_attention_heads: 6,
            num_key_value_heads: Some(2),
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            classes: None,
        })
    }

    fn made(seed: i64) -> Box<dyn Student> {
        tch::manual_seed(seed);
        create(&config(), Asked::Tokens, 11, of_tests()).unwrap()
    }

    fn logits(student: &dyn Student, input: TokenTensors) -> Tensor {
        tch::no_grad(|| student.head(&student.features(&Input::Tokens(input)).unwrap()))
    }

    fn off(a: &Tensor, b: &Tensor) -> f64 {
        f64::try_from((a - b).abs().max()).unwrap()
    }

    /// tools/make_test_llama.py made both.
    #[test]
    fn logits_are_those_of_transformers() {
        let _alone = GENERATOR.lock().unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/students/llama");
        let StudentConfig::Llama(config) = config() else { unreachable!() };
        let config = LlamaConfig {
            intermediate_size: Some(40),
            rope_theta: 5000.0,
            tie_word_embeddings: false,
            ..config
        };
        let mut student = create(&StudentConfig::Llama(config), Asked::Tokens, 11, of_tests()).unwrap();
        let done = initialise(student.as_mut(), &folder, InitLayers::Every).unwrap();
        assert_eq!((done.taken, done.left().len()), (21, 0));
        let expected = std::fs::read(folder.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        let list = |value: &serde_json::Value| value.as_array().unwrap().clone();
        let tokens: Vec<i64> =
            list(&expected["tokens"]).iter().flat_map(list).map(|t| t.as_i64().unwrap()).collect();
        let wanted: Vec<f64> = list(&expected["logits"])
            .iter()
            .flat_map(list)
            .flat_map(|position| list(&position))
            .map(|z| z.as_f64().unwrap())
            .collect();
        let found = logits(student.as_ref(), TokenTensors::whole(2, &tokens, of_tests()));
        let wanted = on_device(&wanted).view([14, 11]);
        assert!(off(&found, &wanted) < 1e-4, "{}", off(&found, &wanted));
    }

    #[test]
    fn nothing_is_seen_of_what_follows_nor_of_other_documents() {
        let _alone = GENERATOR.lock().unwrap();
        let student = made(1);
        let alone = |tokens: &[i64]| logits(student.as_ref(), TokenTensors::whole(1, tokens, of_tests()));
        let (first, second) = (alone(&[3, 1, 4]), alone(&[1, 5]));
        assert!(off(&alone(&[3, 1, 4, 9]).narrow(0, 0, 3), &first) < 1e-6);
        // Both in one row, and a shorter row beside it that is filled up.
        let tensor = |values: &[i64]| on_device(values).view([2, 5]);
        let packed = TokenTensors {
            tokens: tensor(&[3, 1, 4, 1, 5, 3, 1, 4, 0, 0]),
            places: tensor(&[0, 1, 2, 0, 1, 0, 1, 2, 0, 0]),
            documents: Some(tensor(&[0, 0, 0, 1, 1, 0, 0, 0, -1, -1])),
            positions: on_device(&[0i64, 1, 2, 3, 4, 5, 6, 7]),
        };
        let found = logits(student.as_ref(), packed);
        assert_eq!(found.size(), [8, 11]);
        assert!(off(&found, &Tensor::cat(&[&first, &second, &first], 0)) < 1e-5);
    }

    #[test]
    fn the_export_answers_alike_at_any_size() {
        let _alone = GENERATOR.lock().unwrap();
        let mut student = made(2);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("llama.pt");
        student.export(&path).unwrap();
        let module = CModule::load(&path).unwrap();
        for (rows, length) in [(1, 1), (1, 7), (3, 5), (4, 2)] {
            let tokens: Vec<i64> = (0..rows * length).map(|at| at * 7 % 11).collect();
            let here = logits(student.as_ref(), TokenTensors::whole(rows, &tokens, of_tests()));
            let there = module.forward_ts(&[Tensor::from_slice(&tokens).view([rows, length])]).unwrap();
            let there = there.to_device(of_tests());
            assert_eq!(there.size(), [rows, length, 11]);
            assert!(off(&here, &there.flatten(0, 1)) < 1e-5, "{rows} × {length}");
        }
        assert!(!student.variables().trainable_variables().is_empty());
    }

    #[test]
    fn products_in_half_types_are_near_those_in_single_precision() {
        let _alone = GENERATOR.lock().unwrap();
        let input = || Input::Tokens(TokenTensors::whole(2, &[3, 1, 4, 1, 5, 9, 2, 6], of_tests()));
        half_types_are_near(|| made(6), input);
    }

    #[test]
    fn weights_begin_with_those_of_a_checkpoint() {
        let _alone = GENERATOR.lock().unwrap();
        let (theirs, mut ours) = (made(3), made(4));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let named: Vec<(String, Tensor)> = theirs.variables().variables().into_iter().collect();
        Tensor::write_safetensors(&named, &path).unwrap();
        for from in [path.as_path(), dir.path()] {
            let done = initialise(ours.as_mut(), from, InitLayers::Every).unwrap();
            assert_eq!((done.taken, done.left().len()), (20, 0));
        }
        let input = || TokenTensors::whole(1, &[1, 2, 3], of_tests());
        assert!(off(&logits(ours.as_ref(), input()), &logits(theirs.as_ref(), input())) < 1e-7);
        // What has another shape is told, and kept.
        let mut other = create(&config(), Asked::Tokens, 12, of_tests()).unwrap();
        let done = initialise(other.as_mut(), &path, InitLayers::Every).unwrap();
        assert_eq!((done.taken, done.unused.len()), (19, 0));
        assert_eq!(done.left(), ["model.embed_tokens.weight ([12, 24], there [11, 24])"]);
        let mut stranger = create(&kinds()[1].0, Asked::Images(&[12]), 5, of_tests()).unwrap();
        let refused = initialise(stranger.as_mut(), &path, InitLayers::Every).unwrap_err().to_string();
        assert!(refused.contains("init.weights") && refused.contains("not there"), "{refused}");
        assert!(initialise(ours.as_mut(), &dir.path().join("none"), InitLayers::Every).is_err());
    }

    #[test]
    fn images_and_tokens_are_told_apart() {
        let _alone = GENERATOR.lock().unwrap();
        let refuse =
            |config: &StudentConfig, asked| create(config, asked, 5, of_tests()).err().unwrap().to_string();
        assert!(refuse(&config(), Asked::Images(&[1, 28, 28])).contains("rows of tokens"));
        assert!(refuse(&kinds()[0].0, Asked::Tokens).contains("images"));
    }
}
