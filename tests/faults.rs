//! All faults of a config are told at once, each once, and none that is but the consequence of another.

use std::fmt::Write;

use kd_cache::config::{CacheConfig, Config, ConfigError, TrainConfig, load_str};

/// A training config whose keys have much to do with each other.
const TRAIN: &str = r#"
seed = 1
tokenizer = "t.json"
dataset = { kind = "idx", images = "i", labels = "l", limit = 100 }
augment = { views = 2, random_resized_crop = { scale = [0.5, 1.0] } }
init = { weights = "w", layers = "first" }
schedule = { kind = "warmup_stable_decay", warmup_epochs = 2.0, decay_epochs = 3.0, per = "epoch" }

[preprocess]
resize = 64
crop = 56
interpolation = "bicubic"
mean = [0.1, 0.2, 0.3]
std = [0.4, 0.5, 0.6]

[student]
kind = "llama"
hidden_size = 24
num_hidden_layers = 2
num_attention_heads = 6
num_key_value_heads = 3

[loss]
temperature = { from = 8.0, to = 2.0, start_epochs = 1.0, over_epochs = 4.0 }
weights = { dist = 1.0, cross_entropy = { from = 0.0, to = 1.0 } }
dist = { gamma = 0.0 }
mixture = { weights = [1.0, 2.0] }
features = [{ name = "a" }, { name = "b", weight = 2.0 }]
returned = [{ name = "a", output = 1 }, { name = "b", output = 2 }]

[optimizer]
kind = "sgd"
learning_rate = 0.1
momentum = 0.5
nesterov = true
groups = [{ match = "a", rate = 2.0 }, { match = "b" }]

[train]
epochs = 5
batch = 8
accumulate = 2
freeze = ["a"]
device = "cuda:1"
shuffle = { block = 64, buffer = 128 }
select_by = "last"

[validation.test]
dataset = { kind = "idx", images = "i", labels = "l" }
metrics = { mine = { command = ["a"], better = "higher", top = 3 } }

[tracking]
every = 10
tensorboard = true
mlflow = { uri = "http://127.0.0.1:5000" }
"#;

/// Caches' configs of the same kind: of images, of tokens by a program, of draws.
const CACHES: [&str; 3] = [
    r#"
seed = 1
dataset = { kind = "folder", path = "p", split = { part = "train", validation = 0.1 } }
augment = { views = 2, horizontal_flip = 0.5 }
preprocess = { size = [8, 9], crop = 8, interpolation = "bicubic", mean = [0.1, 0.2], std = [0.4, 0.5] }
teacher = { kind = "onnx", path = "t", input = "x", output = "y", classes = 10, device = "cuda" }
head = { k = 10 }
tail = { nodes = [0.5, 1.0], rank = 8, fit_samples = 9 }
features = [{ name = "a", output = "a", pool = "mean" }, { name = "b", output = "b" }]
storage = { form = "parquet", values = "quantized", level = 3 }
"#,
    r#"
dataset = { kind = "tokens", paths = ["p"], separator = 3, vocabulary = 9, tokenizer = "t", rows = { keep_rest = false, end_of_document = "x" } }
teacher = { kind = "command", path = "t", command = ["a"], classes = 9, padded_vocabulary = true }
head = { mass = 0.9, max_k = 8 }
"#,
    r#"
dataset = { kind = "text", paths = ["p"], tokenizer = "t", rows = { packing = "document" } }
teacher = { kind = "onnx", path = "t", head = "h", chunk = 3 }
head = { draws = 50, temperature = 2.0 }
storage = { values = "counts" }
"#,
];

/// Faults that have nothing to do with each other: what is set, and how the one fault begins that comes of it.
const OF_TRAIN: [(&str, &str); 23] = [
    ("train.device=gpu", "train.device: expected cpu, cuda or cuda:N"),
    ("train.epoch=3", "train.epoch: unknown key; did you mean epochs?"),
    ("train.batch=many", "train.batch: expected an integer, found \"many\""),
    ("train.prefetch=0", "train.prefetch: expected at least 1, found 0"),
    ("train.shuffle.buffer=100", "train.shuffle.buffer: expected a multiple of train.shuffle.block, 64"),
    ("optimizer.learning_rate=-1", "optimizer.learning_rate: expected more than 0, found -1"),
    ("optimizer.momentums=0.5", "optimizer.momentums: unknown key; did you mean momentum?"),
    ("optimizer.groups=[{ rate = 2.0 }]", "optimizer.groups[0].match: missing"),
    ("loss.weights.k1=1", "loss.weights.k1: unknown key; did you mean kl?"),
    ("loss.weights.mse=-1", "loss.weights.mse: expected at least 0, found -1"),
    (
        "loss.weights.jsd={ from = 0, to = 1, start_epochs = 9 }",
        "loss.weights.jsd.start_epochs: expected less",
    ),
    ("loss.tail=shap", "loss.tail: expected one of"),
    ("loss.mixture.weights=[1, -2]", "loss.mixture.weights[1]: expected a number above 0"),
    ("loss.features=[{ name = \"a\" }, { name = \"a\" }]", "loss.features[1].name: \"a\" is there twice"),
    ("student.hidden_size=25", "student.hidden_size: expected a multiple of 2"),
    ("student.rope_theta=true", "student.rope_theta: expected a number, found true"),
    (
        "schedule.decay_epochs=4",
        "schedule.decay_epochs: expected at most train.epochs = 5, found 4 after warmup_epochs = 2",
    ),
    ("schedule.decay=true", "schedule.decay: unknown key; did you mean decay_epochs?"),
    ("preprocess.crop=65", "preprocess.crop: expected at most the resized image's shorter side, 64"),
    ("preprocess.std=[0.0, 1.0, 1.0]", "preprocess.std: expected positive values, found 0"),
    ("tracking.mlflow.uri=mlruns", "tracking.mlflow.uri: expected http://"),
    ("optimizer.lr=1", "optimizer.lr: unknown key; did you mean learning_rate?"),
    ("tracking.evry=1", "tracking.evry: unknown key; did you mean every?"),
];

/// The same of the first of [`CACHES`].
const OF_CACHE: [(&str, &str); 16] = [
    ("teacher.device=gpu", "teacher.device: expected cpu, cuda or cuda:N"),
    ("teacher.graph_optimization=most", "teacher.graph_optimization: expected one of"),
    ("teacher.batch=0", "teacher.batch: expected at least 1, found 0"),
    ("teacher.imput=x", "teacher.imput: unknown key; did you mean input?"),
    ("teacher.threads=all", "teacher.threads: expected an integer, found \"all\""),
    ("head.k=11", "head.k: expected at most teacher.classes = 10, found 11"),
    ("head.kk=3", "head.kk: unknown key; did you mean k?"),
    ("tail.nodes=[0.5]", "tail.nodes: the nodes must contain 1"),
    ("tail.fit_samples=8", "tail.fit_samples: expected more than tail.rank = 8"),
    ("tail.form=x", "tail.form: unknown key; did you mean from?"),
    ("augment.horizontal_flip=2", "augment.horizontal_flip: expected at most 1, found 2"),
    (
        "augment.random_resized_crop.scale=[0.5, 0.1]",
        "augment.random_resized_crop.scale: expected two rising",
    ),
    ("preprocess.resize=20", "preprocess.size: expected either preprocess.resize"),
    ("preprocess.layout=3", "preprocess.layout: expected one of nchw, nhwc, flat, found 3"),
    ("features=[{ name = \"A\", output = \"a\" }]", "features[0].name: expected 1 to 48 of the letters"),
    ("storage.level=zstd", "storage.level: expected an integer, found \"zstd\""),
];

fn faults<C: Config>(text: &str, set: &[&str]) -> Vec<String> {
    let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    match load_str::<C>(text, "test", &set) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Faults { faults, .. }) => faults.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

/// Asserts that `found` are the faults that begin with `expected`, each once, and no others.
fn are(found: &[String], expected: &[&str], of: &[&str]) {
    for begin in expected {
        let of_it = found.iter().filter(|fault| fault.starts_with(begin)).count();
        assert_eq!(of_it, 1, "{begin:?} of {of:?} in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "of {of:?}: {found:#?}");
}

/// Whichever are mended, what is told of the others stays.
fn each_by_itself_and_with_every_other<C: Config>(text: &str, planted: &[(&str, &str)]) {
    assert_eq!(faults::<C>(text, &[]), [""; 0]);
    for (at, (set, begin)) in planted.iter().enumerate() {
        are(&faults::<C>(text, &[set]), &[begin], &[set]);
        for (other, other_begin) in &planted[at + 1..] {
            are(&faults::<C>(text, &[set, other]), &[begin, other_begin], &[set, other]);
        }
    }
    let (set, begins): (Vec<&str>, Vec<&str>) = planted.iter().copied().unzip();
    are(&faults::<C>(text, &set), &begins, &set);
}

#[test]
fn a_fault_is_told_whatever_else_is_wrong_with_a_training_config() {
    each_by_itself_and_with_every_other::<TrainConfig>(TRAIN, &OF_TRAIN);
}

#[test]
fn a_fault_is_told_whatever_else_is_wrong_with_a_caches_config() {
    each_by_itself_and_with_every_other::<CacheConfig>(CACHES[0], &OF_CACHE);
}

/// What is wrong with one key, in three ways: another type, a slip of the pen, and a name like no other.
fn broken(table: &mut toml::Table, key: &str, way: usize) -> String {
    let value = table.remove(key).unwrap();
    let (name, value) = match way {
        0 if value.is_bool() => (key.to_owned(), "zzz".into()),
        0 => (key.to_owned(), true.into()),
        1 => (format!("{key}q"), value),
        _ => ("zq".to_owned(), value),
    };
    table.insert(name.clone(), value);
    name
}

/// Calls `each` for every table within `value`, with the steps to it.
fn tables(value: &toml::Value, to: &mut Vec<String>, each: &mut impl FnMut(&[String], &toml::Table)) {
    match value {
        toml::Value::Table(table) => {
            each(to, table);
            for (name, inner) in table {
                to.push(name.clone());
                tables(inner, to, each);
                to.pop();
            }
        }
        toml::Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                to.push(at.to_string());
                tables(item, to, each);
                to.pop();
            }
        }
        _ => {}
    }
}

fn inside<'a>(value: &'a mut toml::Value, steps: &[String]) -> &'a mut toml::Table {
    let table = steps.iter().fold(value, |value, step| match value {
        toml::Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
        toml::Value::Table(table) => table.get_mut(step).unwrap(),
        _ => unreachable!(),
    });
    table.as_table_mut().unwrap()
}

/// Of a sound config in which one key is broken that key alone is told of.
fn nothing_but_what_is_broken<C: Config>(text: &str) -> usize {
    assert_eq!(faults::<C>(text, &[]), [""; 0], "{text}");
    let whole: toml::Value = text.parse::<toml::Table>().unwrap().into();
    let mut keys = Vec::new();
    tables(&whole, &mut Vec::new(), &mut |steps, table| {
        keys.extend(table.keys().map(|key| (steps.to_vec(), key.clone())));
    });
    for (steps, key) in &keys {
        let mut path = String::new();
        for step in steps {
            match step.parse::<usize>() {
                Ok(at) => write!(path, "[{at}]").unwrap(),
                Err(_) => write!(path, "{step}.").unwrap(),
            }
        }
        let path = path.replace(".[", "[").replace(']', "].");
        for way in 0..3 {
            let mut tree = whole.clone();
            let name = broken(inside(&mut tree, steps), key, way);
            let found = faults::<C>(&toml::to_string(&tree).unwrap(), &[]);
            let told = |fault: &String| {
                [key, &name].iter().any(|key| {
                    let rest = fault.strip_prefix(&format!("{path}{key}"));
                    rest.is_some_and(|rest| rest.starts_with([':', '.', '[']))
                })
            };
            assert!(found.iter().all(told), "{path}{key} as {name}: {found:#?}");
            assert!(way > 0 || !found.is_empty(), "{path}{key} = true is accepted");
        }
    }
    keys.len()
}

#[test]
fn consequences_are_no_faults_of_their_own() {
    assert!(nothing_but_what_is_broken::<TrainConfig>(TRAIN) > 80);
    for cache in CACHES {
        assert!(nothing_but_what_is_broken::<CacheConfig>(cache) > 12);
    }
}

#[test]
fn a_missing_section_hides_nothing_of_the_others() {
    let others = ["train.device=gpu", "loss.weights.mse=-1", "schedule.decay_epochs=4"];
    let begins = ["train.device: ", "loss.weights.mse: ", "schedule.decay_epochs: "];
    for section in ["student", "optimizer"] {
        let mut whole: toml::Table = TRAIN.parse().unwrap();
        whole.remove(section).unwrap();
        let missing = format!("{section}: missing");
        are(
            &faults::<TrainConfig>(&toml::to_string(&whole).unwrap(), &others),
            &[&[missing.as_str()], &begins[..]].concat(),
            &[section],
        );
    }
    let set = ["optimizer={ kind = \"adamw\", learning_rate = 0.1, betas = [0.9, 1.5], esp = 1e-8 }"];
    let begins = ["optimizer.betas: expected values in [0, 1), found 1.5", "optimizer.esp: unknown key"];
    are(&faults::<TrainConfig>(TRAIN, &set), &begins, &set);
    // Of a kind that is nearly there, its own keys are looked at; of one that is not, what all kinds have.
    let set = ["optimizer.kind=sgdd", "optimizer.momentum=2", "train.device=gpu"];
    let found = faults::<TrainConfig>(TRAIN, &set);
    are(&found, &["optimizer.kind: ", "optimizer.momentum: expected at most 1", "train.device: "], &set);
    let set = ["optimizer.kind=3", "optimizer.learning_rate=-1", "train.device=gpu"];
    let found = faults::<TrainConfig>(TRAIN, &set);
    are(&found, &["optimizer.kind: ", "optimizer.learning_rate: ", "train.device: "], &set);
}

#[test]
fn what_numbers_cannot_hold_is_told_once_and_by_its_key() {
    let set = ["optimizer.learning_rate=nan", "student.num_hidden_layers=5000000000"];
    let expected = [
        "optimizer.learning_rate: expected a finite number, found NaN",
        "student.num_hidden_layers: expected at most 4294967295, found 5000000000",
    ];
    are(&faults::<TrainConfig>(TRAIN, &set), &expected, &set);
    // Twice as many heads are more than 32 bits hold.
    let set = ["student.num_attention_heads=4294967295", "student.num_key_value_heads=1"];
    are(&faults::<TrainConfig>(TRAIN, &set), &["student.hidden_size: expected a multiple of 2"], &set);
}

#[cfg(all(feature = "onnx", feature = "torch"))]
mod programs {
    use super::*;
    use crate::common::{Said, kd_cache, kd_train, write};

    fn refused(run: impl Fn(&[String]) -> Said, text: &str, planted: &[(&str, &str)]) {
        let dir = tempfile::tempdir().unwrap();
        let config = write(dir.path(), "planted.toml", text);
        let mut args = ["config", "--config", config.to_str().unwrap()].map(str::to_owned).to_vec();
        args.extend(planted.iter().map(|(set, _)| format!("--set={set}")));
        let count = format!("planted.toml: {} faults", planted.len());
        let words: Vec<&str> = planted.iter().map(|(_, begin)| *begin).chain([count.as_str()]).collect();
        run(&args).refused(&words);
    }

    #[test]
    fn kd_train_tells_all_that_is_wrong_with_a_config() {
        refused(kd_train, TRAIN, &OF_TRAIN);
    }

    #[test]
    fn kd_cache_tells_all_that_is_wrong_with_a_config() {
        refused(kd_cache, CACHES[0], &OF_CACHE);
    }
}
