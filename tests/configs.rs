//! Every config in `configs/` is one that the programs take, and every test that MIGRATING.md names is there.

use std::path::Path;

use kd_cache::config::{
    CacheConfig, Config, OptimizerConfig, Per, ScheduleConfig, TrainConfig, load, load_str, load_sweep,
};

fn parse_all<C: Config>(folder: &str) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(folder);
    let mut parsed = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        assert_eq!(path.extension().and_then(|e| e.to_str()), Some("toml"), "{}", path.display());
        if let Err(error) = load::<C>(&path, &[]) {
            panic!("{error}");
        }
        parsed += 1;
    }
    parsed
}

#[test]
fn cache_configs_parse() {
    assert!(parse_all::<CacheConfig>("cache") >= 2);
}

#[test]
fn train_configs_parse() {
    assert!(parse_all::<TrainConfig>("train") >= 2);
}

/// Configs are completed and checked by editors that know Taplo's directive, against the schema of their kind.
#[test]
fn configs_name_their_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, kind) in
        [("cache", "cache"), ("train", "train"), ("train/presets", "train"), ("sweep", "sweep")]
    {
        let folder = root.join("configs").join(folder);
        let schema = root.join(format!("schemas/{kind}-config.json")).canonicalize().unwrap();
        let rules: serde_json::Value = serde_json::from_slice(&std::fs::read(&schema).unwrap()).unwrap();
        let rules = jsonschema::validator_for(&rules).unwrap();
        let paths = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        for path in paths.filter(|path| path.is_file()) {
            let (text, name) = (std::fs::read_to_string(&path).unwrap(), path.display());
            let named = text.lines().next().and_then(|line| line.strip_prefix("#:schema ")).unwrap_or_else(|| {
                panic!("{name}: expected #:schema and the way to schemas/{kind}-config.json in its first line")
            });
            let found = folder.join(named).canonicalize();
            assert!(found.as_ref().is_ok_and(|found| *found == schema), "{name}: {named} is {found:?}");
            let table: toml::Table = text.parse().unwrap();
            let table = serde_json::to_value(table).unwrap();
            let errors: Vec<String> =
                rules.iter_errors(&table).map(|e| format!("{e} at {}", e.instance_path())).collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
        }
    }
}

/// The Knowledge Distillation Toolkit's, by its names and with its numbers (knowledge_distillation/kd_training.py).
#[test]
fn presets_have_the_toolkits_numbers() {
    assert_eq!(parse_all::<TrainConfig>("train/presets"), 3);
    let preset = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/train/presets");
        let config = load::<TrainConfig>(&folder.join(format!("{name}.toml")), &[]).unwrap();
        assert_eq!((config.seed, config.train.epochs, config.optimizer.learning_rate()), (32, 10, 1e-4));
        (config.optimizer, config.schedule)
    };
    let adam = |betas, eps| OptimizerConfig::Adam {
        learning_rate: 1e-4,
        weight_decay: 0.0,
        decay_all: false,
        betas,
        eps,
        layer_decay: None,
        groups: Vec::new(),
    };
    let linear = ScheduleConfig::Linear { warmup_epochs: 1.0, final_fraction: 0.0, per: Per::Epoch };
    assert_eq!(preset("adam_wav2vec2.0"), (adam([0.9, 0.98], 1e-6), linear));
    let cosine = ScheduleConfig::CosineRestarts {
        warmup_epochs: 0.0,
        period_epochs: 9.0,
        growth: 1.0,
        final_fraction: 0.01,
        per: Per::Epoch,
    };
    assert_eq!(preset("adam_distilBert"), (adam([0.9, 0.999], 1e-6), cosine));
    let adamw = OptimizerConfig::Adamw {
        learning_rate: 1e-4,
        weight_decay: 0.01,
        decay_all: true,
        betas: [0.9, 0.98],
        eps: 1e-6,
        layer_decay: None,
        groups: Vec::new(),
    };
    assert_eq!(preset("adamW_distilBert"), (adamw, ScheduleConfig::default()));
}

/// With each of its points' keys the base is a training config.
#[test]
fn sweep_configs_parse() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/sweep");
    let mut parsed = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let config = load_sweep(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let base = std::fs::read_to_string(&config.base).unwrap();
        for point in config.points() {
            let keys = config.set.iter().chain(&point.keys);
            let set: Vec<String> = keys.map(|(key, value)| format!("{key}={value}")).collect();
            load_str::<TrainConfig>(&base, &point.name, &set).unwrap_or_else(|error| panic!("{error}"));
            parsed += 1;
        }
    }
    assert!(parsed >= 8);
}

#[test]
fn the_tests_that_the_page_of_migrating_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("MIGRATING.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let names: Vec<&str> = rows
        .flat_map(|row| row.split('`').skip(1).step_by(2))
        .filter(|code| code.contains("::") && !code.contains(' '))
        .collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        let (path, test) = name.rsplit_once("::").unwrap();
        // `room::file::tests::inner`: the tests are in the file, in `tests.rs` beside it, or in `tests/inner.rs`.
        let room = path.split("::tests").next().unwrap().replace("::", "/");
        let files = [
            format!("tests/{path}.rs"),
            format!("src/{room}.rs"),
            format!("src/{room}/tests.rs"),
            format!("src/{}.rs", path.replace("::", "/")),
        ];
        let texts: Vec<String> =
            files.iter().filter_map(|file| std::fs::read_to_string(root.join(file)).ok()).collect();
        assert!(!texts.is_empty(), "{name}: none of {files:?} is there");
        let wanted = if test.is_empty() { String::new() } else { format!("fn {test}(") };
        assert!(texts.iter().any(|text| text.contains(&wanted)), "{name}: no such test in {files:?}");
    }
}
