//! `kd-train export`: a run's student in another form, as others load it. The built program.

#![cfg(all(unix, feature = "onnx", feature = "torch"))]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{
    Said, build, cache_config, files, fixture, kd_train, kd_train_command, python_has, python_with, targets,
    train_config, write,
};
use serde_json::{Value, json};

/// A folder with runs in it.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    /// Runs over the training slice.
    fn of_images() -> Self {
        let dir = tempfile::tempdir().unwrap();
        build(&cache_config(dir.path(), "linear.onnx"), &dir.path().join("cache"), &[]).code(0);
        train_config(dir.path());
        Self { dir }
    }

    /// Runs over tokens that count in eights.
    fn of_tokens() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stream: Vec<u8> = (0..240u16).flat_map(|at| (at % 8).to_le_bytes()).collect();
        let (tokens, teacher) = (dir.path().join("tokens.bin"), fixture("teachers/causal.onnx"));
        std::fs::write(&tokens, stream).unwrap();
        let cache = format!(
            "[dataset]\nkind = \"tokens\"\npaths = [{tokens:?}]\ndtype = \"u16\"\nrows = {{ length = 12 }}\n\
             [teacher]\nkind = \"onnx\"\npath = {teacher:?}\n[head]\nk = 6\n[tail]\nfit_samples = 60\n"
        );
        build(&write(dir.path(), "cache.toml", &cache), &dir.path().join("cache"), &[]).code(0);
        let train = "[student]\nkind = \"llama\"\nhidden_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 4\n\
                     num_key_value_heads = 2\n[loss]\nweights = { cross_entropy = 1.0 }\n[optimizer]\nkind = \"adamw\"\n\
                     learning_rate = 0.01\n[train]\nepochs = 3\nbatch = 4\nthreads = 1\n";
        write(dir.path(), "train.toml", train);
        Self { dir }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, name: &str, set: &[&str]) -> PathBuf {
        let (config, cache, out) = (self.out("train.toml"), self.out("cache"), self.out(name));
        let mut args = args!["--config", config, "--cache", cache, "--out", out, "--quiet"].to_vec();
        for set in set {
            args.extend(args!["--set", set]);
        }
        kd_train(&args).code(0);
        out
    }

    fn export(&self, run: &Path, to: &str, more: &[&str]) -> Said {
        let mut command = kd_train_command(&args!["export", run, "--to", to, "--format", "json"]);
        command.args(more).current_dir(self.dir.path()).output().unwrap().into()
    }
}

/// Name, type, shape and values of every tensor: what the format's specification says, read by hand.
fn tensors(path: &Path) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let mut all = BTreeMap::new();
    for (name, about) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
        let numbers = |key: &str| {
            let list = about[key].as_array().unwrap().iter();
            list.map(|number| number.as_u64().unwrap()).collect::<Vec<u64>>()
        };
        let (shape, place) = (numbers("shape"), numbers("data_offsets"));
        let values = data[place[0] as usize..place[1] as usize].to_vec();
        let kind = about["dtype"].as_str().unwrap().to_owned();
        if kind == "F32" {
            assert_eq!(values.len() as u64, 4 * shape.iter().product::<u64>(), "{name}");
        }
        all.insert(name.clone(), (kind, shape, values));
    }
    all
}

/// Logits of a TorchScript file for the images of the test slice, as `kd-train predict` prepares them.
fn classes(module: &Path) -> Vec<i64> {
    let data = kd_cache::dataset::open_images(
        &kd_cache::config::DatasetConfig::Idx {
            images: fixture("fashion-mnist/t10k-images-idx3-ubyte.gz"),
            labels: None,
            limit: None,
        },
        "dataset",
    )
    .unwrap();
    let prepare = kd_cache::preprocess::Preprocess::new(&Default::default(), data.sample_shape()).unwrap();
    let rows: Vec<_> = (0..data.len())
        .map(|at| kd_cache::ids::SampleView { sample: kd_cache::ids::SampleId(at), view: 0 })
        .collect();
    let pixels = prepare.batch(data.as_ref(), &rows).unwrap();
    let input = tch::Tensor::from_slice(&pixels).view([rows.len() as i64, 1, 28, 28]);
    let module = tch::CModule::load(module).unwrap();
    Vec::try_from(tch::no_grad(|| module.forward_ts(&[input]).unwrap()).argmax(-1, false)).unwrap()
}

fn predicted(run: &Path) -> Vec<i64> {
    let said = kd_train(&args!["predict", run, "--dataset", "test"]).code(0);
    let class = |line: &str| serde_json::from_str::<Value>(line).unwrap()["class"].as_i64().unwrap();
    said.out.lines().map(class).collect()
}

#[test]
fn torchscript_and_safetensors_hold_the_student_that_was_kept() {
    let case = Case::of_images();
    let small = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/small.pt"));
    let conv = "student={ kind = \"conv\", channels = [4, 8] }";
    for (name, set) in [("mlp", "seed=1"), ("conv", conv), ("module", small.as_str())] {
        let run = case.run(name, &[set]);
        let before = files(&run);
        let report = case.export(&run, "torchscript", &[]).code(0).json();
        // Named after the run, where the command was given.
        let module = case.out(&format!("{name}.pt"));
        assert_eq!((&report["form"], &report["out"]), (&json!("torchscript"), &json!(format!("{name}.pt"))));
        let bytes = std::fs::metadata(&module).unwrap().len();
        assert_eq!(report["bytes"], json!(bytes));
        assert!(report["digest"].as_str().unwrap().starts_with("sha256:"));
        assert_eq!(classes(&module), predicted(&run), "{name}");

        let report = case.export(&run, "safetensors", &["--out", "weights.safetensors"]).code(0).json();
        let found = tensors(&case.out("weights.safetensors"));
        assert_eq!(found, tensors(&run.join("student.safetensors")));
        assert!(found.values().any(|(_, shape, _)| shape.len() > 1), "{:?}", found.keys());
        let note = report.get("note").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(note.contains("buffers"), name == "module", "{report}");
        assert!(files(&run) == before, "the run stays as it is");
    }
    let said =
        kd_train(&args!["export", case.out("mlp"), "--to", "torchscript", "--out", case.out("again.pt")])
            .code(0);
    assert!(said.out.contains("again.pt: ") && said.out.contains("sha256:"), "{}", said.out);
}

#[test]
fn a_language_model_is_a_folder_for_transformers() {
    let case = Case::of_tokens();
    let run = case.run("lm", &[]);
    let report = case.export(&run, "safetensors", &[]).code(0).json();
    assert_eq!(
        (&report["out"], &report["files"]),
        (&json!("lm-transformers"), &json!(["config.json", "model.safetensors"]))
    );
    assert!(files(&case.out("lm-transformers")) == files(&run.join("transformers")));
    // Another student's files are replaced, somebody's own stay.
    for name in ["model.safetensors", "config.json", "README.md"] {
        std::fs::write(case.out("lm-transformers").join(name), "older").unwrap();
    }
    case.export(&run, "safetensors", &[]).code(0);
    let mut expected = files(&run.join("transformers"));
    expected.insert("README.md".into(), b"older".to_vec());
    assert!(files(&case.out("lm-transformers")) == expected);
    let names: Vec<String> = tensors(&case.out("lm-transformers/model.safetensors")).into_keys().collect();
    for name in ["model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight", "model.norm.weight"] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    case.export(&run, "safetensors", &["--out", "lm.safetensors"]).code(0);
    assert!(tensors(&case.out("lm.safetensors")) == tensors(&run.join("student.safetensors")));
    case.export(&run, "torchscript", &[]).code(0);
    let module = tch::CModule::load(case.out("lm.pt")).unwrap();
    let tokens = tch::Tensor::from_slice(&[0i64, 1, 2, 3, 4]).view([1, 5]);
    assert_eq!(module.forward_ts(&[tokens]).unwrap().size(), [1, 5, 50]);
    if let Some(python) = python_with(&["safetensors", "numpy"]) {
        let text = "import sys; from safetensors.numpy import load_file; print(len(load_file(sys.argv[1])))";
        let done = Command::new(python).args(["-c", text]).arg(case.out("lm.safetensors")).output().unwrap();
        assert_eq!(Said::from(done).code(0).out.trim(), names.len().to_string());
    }
}

#[test]
fn what_cannot_be_exported_says_why_and_leaves_nothing() {
    let case = Case::of_images();
    let run = case.run("run", &[]);
    case.export(&case.out("nothing"), "torchscript", &[]).refused(&["nothing/config.toml"]);
    case.export(&run, "pickle", &[]).refused(&["pickle", "safetensors"]);
    case.export(&run, "onnx", &["--python", "/no/such/python"]).refused(&[
        "--python",
        "/no/such/python",
        "pip install",
    ]);
    case.export(&run, "onnx", &["--python", "false"]).refused(&["--to onnx: false could not make it"]);
    case.export(&run, "onnx", &["--python", "true"]).refused(&["--python", "to say what it compared"]);
    case.export(&run, "onnx", &["--tolerance=-1"]).refused(&["--tolerance"]);
    // A Python without PyTorch.
    if python_has(&["json"]) {
        std::fs::create_dir(case.out("modules")).unwrap();
        write(&case.out("modules"), "torch.py", "raise ImportError('there is none')\n");
        let to = case.out("run.onnx");
        let mut command = kd_train_command(&args!["export", run, "--to", "onnx", "--out", to]);
        Said::from(command.env("PYTHONPATH", case.out("modules")).output().unwrap()).refused(&[
            "lacks",
            "torch (there is none)",
            "pip install torch",
            "or name another Python",
        ]);
    }
    // Data that are gone do not say what an image is like.
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    std::fs::write(run.join("config.toml"), config.replace("fashion-mnist/", "gone/")).unwrap();
    case.export(&run, "onnx", &[]).refused(&["--shape", "1,28,28", "gone"]);
    let left: Vec<String> = files(case.dir.path()).into_keys().filter(|name| name.contains("onnx")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Students of every kind as ONNX, which then are teachers that say what the student says. Skipped, aloud, without
/// PyTorch and onnx.
#[test]
fn onnx_models_say_what_the_student_says() {
    let Some(python) = python_with(&["torch", "onnx", "onnxruntime"]) else { return };
    let with = ["--python", python.as_str()];
    let case = Case::of_images();
    let small = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/small.pt"));
    let conv = "student={ kind = \"conv\", channels = [4, 8] }";
    let pair = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/pair.pt"));
    for (name, set) in
        [("mlp", "seed=1"), ("conv", conv), ("module", small.as_str()), ("pair", pair.as_str())]
    {
        let run = case.run(name, &[set]);
        let report = case.export(&run, "onnx", &with).code(0).json();
        let check = &report["check"];
        assert!(check["runtime"].as_str().unwrap().starts_with("onnxruntime "), "{report}");
        assert!(
            check["largest_difference"].as_f64().unwrap() <= check["tolerance"].as_f64().unwrap(),
            "{report}"
        );
        let set = [
            format!("teacher.path={:?}", case.out(&format!("{name}.onnx"))),
            format!("dataset.images={:?}", fixture("fashion-mnist/t10k-images-idx3-ubyte.gz")),
            format!("dataset.labels={:?}", fixture("fashion-mnist/t10k-labels-idx1-ubyte.gz")),
        ];
        let cache = case.out(&format!("cache-of-{name}"));
        build(&case.out("cache.toml"), &cache, &set.each_ref().map(String::as_str)).code(0);
        let targets = targets(&cache);
        let first: Vec<i64> = targets.ids.chunks(targets.k).map(|ids| i64::from(ids[0])).collect();
        assert_eq!(first, predicted(&run), "{name}");
    }
    // What differs by more than is allowed is not written.
    let said = case.export(
        &case.out("conv"),
        "onnx",
        &["--python", &python, "--tolerance", "0", "--out", "zero.onnx"],
    );
    if said.code == Some(2) {
        said.refused(&["differs by", "more than the tolerance"]);
        assert!(!case.out("zero.onnx").exists());
    }

    let case = Case::of_tokens();
    let run = case.run("lm", &[]);
    let report = case.export(&run, "onnx", &with).code(0).json();
    assert!(report["check"]["largest_difference"].as_f64().unwrap() < 1e-4, "{report}");
    let set = format!("teacher.path={:?}", case.out("lm.onnx"));
    build(&case.out("cache.toml"), &case.out("of-student"), &[&set]).code(0);
    let targets = targets(&case.out("of-student"));
    let module = tch::CModule::load(run.join("student.pt")).unwrap();
    let tokens: Vec<i64> = (0..12).map(|at| at % 8).collect();
    let logits = module.forward_ts(&[tch::Tensor::from_slice(&tokens).view([1, 12])]).unwrap();
    let expected: Vec<i64> = Vec::try_from(logits.argmax(-1, false).view([-1])).unwrap();
    let found: Vec<i64> = targets.ids.chunks(targets.k).take(12).map(|ids| i64::from(ids[0])).collect();
    assert_eq!(found, expected);
}
