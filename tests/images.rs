//! Images in folders, of any size: from files to a student.

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::path::{Path, PathBuf};

use crate::common::{
    Said, build, build_command, files, fixture, kd_cache, kd_train_command, talking_build, write,
};
use kd_cache::cache::CacheReader;
use kd_cache::ids::SampleId;
use kd_cache::target::TargetBatch;
use serde_json::{Value, json};

const CLASSES: u32 = 3;
const IMAGES: u32 = 40;

/// A folder of PNGs of many sizes in three classes, told apart by their colours.
fn folder(root: &Path) -> PathBuf {
    let folder = root.join("images");
    for at in 0..IMAGES {
        let class = at % CLASSES;
        let (width, height) = (30 + at * 7 % 31, 30 + at * 5 % 23);
        let image = image::RgbImage::from_fn(width, height, |x, y| {
            let value = |channel: u32| {
                let strong = if channel == class { 170 } else { 40 };
                (strong + (x * 3 + y * 5 + at * 11) % 60) as u8
            };
            image::Rgb([value(0), value(1), value(2)])
        });
        let class = folder.join(format!("class-{class}"));
        std::fs::create_dir_all(&class).unwrap();
        image.save(class.join(format!("{at:02}.png"))).unwrap();
    }
    folder
}

/// A config of a cache over `images`, and one of a student of it. The teacher looks at the mean colour.
fn configs(root: &Path, images: &Path) -> (PathBuf, PathBuf) {
    let cache = format!(
        r#"seed = 7
[dataset]
kind = "folder"
path = {images:?}
[preprocess]
resize = 32
crop = 28
[teacher]
kind = "onnx"
path = {teacher:?}
batch = 16
threads = 1
[head]
k = 3
[tail]
fit_samples = 30
[storage]
shard_samples = 12
"#,
        teacher = fixture("teachers/colour.onnx"),
    );
    let train = format!(
        r#"seed = 3
[dataset]
kind = "folder"
path = {images:?}
[student]
kind = "conv"
channels = [8, 8]
[loss]
weights = {{ kl = 0.5, cross_entropy = 0.5 }}
[optimizer]
kind = "adamw"
learning_rate = 0.01
[train]
epochs = 2
batch = 16
threads = 1
[validation.same.dataset]
kind = "folder"
path = {images:?}
"#
    );
    (write(root, "cache.toml", &cache), write(root, "train.toml", &train))
}

fn train(config: &Path, cache: &Path, out: &Path, set: &[&str]) -> Said {
    let mut command = kd_train_command(&args![
        "--config", config, "--cache", cache, "--out", out, "--format", "json", "--quiet"
    ]);
    for set in set {
        command.args(["--set", set]);
    }
    command.output().unwrap().into()
}

fn targets(cache: &Path) -> (Vec<(u64, u16)>, TargetBatch) {
    let reader = CacheReader::open(cache).unwrap();
    let views = reader.manifest().views as u16;
    let (mut rows, mut at) = (Vec::new(), Vec::new());
    for sample in 0..reader.manifest().samples {
        for view in 0..views {
            at.push(reader.row_of(SampleId(sample), view).unwrap().unwrap());
            rows.push((sample, view));
        }
        assert_eq!(reader.row_of(SampleId(sample), views).unwrap(), None);
    }
    assert_eq!(at, (0..reader.rows()).collect::<Vec<_>>());
    let mut targets = TargetBatch::default();
    reader.gather(&at, &mut targets).unwrap();
    (rows, targets)
}

/// Which id has which file, of a part of them too, for whoever joins a cache with files of theirs.
#[test]
fn samples_are_listed_with_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let images = folder(dir.path());
    let (config, _) = configs(dir.path(), &images);
    let listed = |set: &[&str]| {
        let mut args = args!["samples", "--config", config].to_vec();
        set.iter().for_each(|set| args.extend(args!["--set", set]));
        let out = kd_cache(&args).code(0).out;
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let all = listed(&[]);
    assert_eq!(all.len(), IMAGES as usize);
    assert_eq!(all[1], json!({ "sample": 1, "file": "class-0/03.png", "label": 0, "class": "class-0" }));
    let part = listed(&["dataset.split={ part = \"validation\", validation = 0.25, seed = 3 }"]);
    assert_eq!(part.len(), 10);
    assert!(part.iter().zip(0..).all(|(line, id)| line["sample"] == id));
    let files: Vec<&Value> = all.iter().map(|line| &line["file"]).collect();
    assert!(part.iter().all(|line| files.contains(&&line["file"])));
    // Kinds that torchvision's ImageFolder does not take are told of, with the first of them.
    image::RgbImage::new(40, 40).save(images.join("class-1/0.gif")).unwrap();
    let said = talking_build(&config, &dir.path().join("cache"), &[]).code(0).err;
    assert!(said.contains("1 of 41 images") && said.contains("the first class-1/0.gif"), "{said}");
}

#[test]
fn a_folder_of_images_of_any_size_is_built_verified_and_learnt_from() {
    let dir = tempfile::tempdir().unwrap();
    let images = folder(dir.path());
    let (config, training) = configs(dir.path(), &images);
    let cache = dir.path().join("cache");
    let report = build(&config, &cache, &[]).code(0).json();
    assert_eq!((&report["outcome"], &report["samples_done"]), (&json!("built"), &json!(IMAGES)));
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(cache.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["dataset"]["kind"], "folder");
    assert_eq!(manifest["dataset"]["sample_shape"], json!([0, 0, 3]));
    assert_eq!(
        (&manifest["preprocess"]["resize"], &manifest["preprocess"]["crop"]),
        (&json!(32), &json!(28))
    );
    assert!(manifest.get("augment").is_none() && manifest["views"] == 1);
    let shards = manifest["shards"].as_array().unwrap();
    assert_eq!(
        shards.iter().map(|shard| shard["rows"].as_u64().unwrap()).collect::<Vec<_>>(),
        [12, 12, 12, 4]
    );
    kd_cache(&args!["verify", cache]).code(0);
    let inspected = kd_cache(&args!["inspect", cache]).code(0);
    assert!(inspected.out.contains("resize 32, crop 28, scale 0.003922"), "{}", inspected.out);
    let fidelity = kd_cache(&args!["fidelity", cache, "--config", config, "--format", "json", "--quiet"]);
    let rows = fidelity.code(0).json()["rows"].as_array().unwrap().clone();
    assert!(rows.iter().all(|row| row["top1_agreement"] == 1.0), "{rows:?}");

    let run = dir.path().join("run");
    let report = train(&training, &cache, &run, &[]).code(0).json();
    assert_eq!((&report["samples"], &report["epochs"]), (&json!(IMAGES), &json!(2)));
    assert!(report["validation"]["same"]["accuracy"].as_f64().unwrap() >= 0.0);
    // The student's size of input is the cache's, written down for a run that has no cache.
    let text = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(text.contains("crop = 28") && text.contains("resize = 32"), "{text}");

    // Another image, and it is another dataset.
    std::fs::copy(images.join("class-0/00.png"), images.join("class-1/01.png")).unwrap();
    train(&training, &cache, &dir.path().join("other"), &[]).refused(&["dataset: ", "fingerprint"]);
}

/// The same grey images as an IDX file, which has one channel, and as PNGs, which have three alike.
fn grey(root: &Path) -> (PathBuf, PathBuf) {
    const SIDE: u32 = 28;
    let folder = root.join("grey");
    let mut idx: Vec<u8> = [0x0803, IMAGES, SIDE, SIDE].iter().flat_map(|n| n.to_be_bytes()).collect();
    for at in 0..IMAGES {
        let image = image::GrayImage::from_fn(SIDE, SIDE, |x, y| image::Luma([(x * 7 + y * at) as u8]));
        let class = folder.join(format!("class-{}", at * CLASSES / IMAGES));
        std::fs::create_dir_all(&class).unwrap();
        image.save(class.join(format!("{at:02}.png"))).unwrap();
        idx.extend(image.as_raw());
    }
    let file = root.join("grey-idx3-ubyte");
    std::fs::write(&file, idx).unwrap();
    (folder, file)
}

#[test]
fn grey_images_in_a_folder_have_one_channel_and_those_of_a_file_three_where_that_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, idx) = grey(dir.path());
    let (config, training) = configs(dir.path(), &folder);
    let idx = format!("dataset={{ kind = \"idx\", images = {idx:?} }}");
    let built = |name: &str, set: &[&str]| {
        let cache = dir.path().join(name);
        build(&config, &cache, set).code(0);
        (targets(&cache).1, cache)
    };
    // A teacher of grey images.
    let teacher = format!("teacher.path={:?}", fixture("teachers/linear.onnx"));
    build(&config, &dir.path().join("refused"), &["preprocess={ size = [28, 28] }", &teacher]).refused(&[
        "[?, 1, 28, 28]",
        "[batch, 3, 28, 28]",
        "change preprocess.layout (or channels",
    ]);
    let (of_idx, _) = built("idx-1", &["preprocess={}", &idx, &teacher]);
    let (of_folder, cache) = built("folder-1", &["preprocess={ channels = 1, size = [28, 28] }", &teacher]);
    assert_eq!(of_idx, of_folder);
    // The student sees one channel, as the cache says.
    train(&training, &cache, &dir.path().join("run"), &[]).code(0);
    // A teacher of colours.
    let (of_folder, _) = built("folder-3", &["preprocess={ size = [28, 28] }"]);
    let (of_idx, _) = built("idx-3", &["preprocess={ channels = 3 }", &idx]);
    assert_eq!(of_idx, of_folder);
    build(&config, &dir.path().join("refused"), &["preprocess={ channels = 2 }"])
        .refused(&["preprocess.channels: expected 1 (grey) or 3 (red, green and blue), found 2"]);
}

/// Classes are known by their folders' names where labels count: a set may lack some, and one of other names is predicted, not measured.
#[test]
fn a_validation_folder_counts_its_classes_as_the_training_set_does() {
    let dir = tempfile::tempdir().unwrap();
    let images = folder(dir.path());
    let (config, training) = configs(dir.path(), &images);
    let copied = |from: &str, to: &str| {
        let to = dir.path().join(to);
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(images.join(from)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    for class in ["class-1", "class-2"] {
        copied(class, &format!("part/{class}"));
        copied(class, &format!("photos/of-{class}"));
        copied(class, "heap/all");
    }
    let (cache, run) = (dir.path().join("cache"), dir.path().join("run"));
    build(&config, &cache, &[]).code(0);
    train(&training, &cache, &run, &["train.epochs=8"]).code(0);
    let with = |command: &str, name: &str, more: &[&str]| {
        let set =
            format!("validation.{name}.dataset={{ kind = \"folder\", path = {:?} }}", dir.path().join(name));
        let mut args = args![command, run, "--dataset", name, "--set", set].to_vec();
        args.extend(more.iter().map(std::ffi::OsString::from));
        kd_train_command(&args)
    };
    let measured = Said::from(with("eval", "part", &["--format", "json"]).output().unwrap()).code(0).json();
    let predicted = |name: &str| {
        let out = dir.path().join("p.jsonl");
        Said::from(with("predict", name, &["--out", out.to_str().unwrap()]).output().unwrap()).code(0);
        crate::common::lines(&out).iter().map(|line| line["class"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let classes = predicted("part");
    let of = |class: &str| std::fs::read_dir(images.join(class)).unwrap().count();
    let labels = std::iter::repeat_n(1, of("class-1")).chain(std::iter::repeat_n(2, of("class-2")));
    let right = classes.iter().zip(labels).filter(|(class, label)| *class == label).count() as f64;
    let accuracy = measured["validation"]["part"]["accuracy"].as_f64().unwrap();
    assert!(right > 0.0 && (accuracy - right / classes.len() as f64).abs() < 1e-9, "{measured}");
    // Of other names: the same images are predicted alike.
    Said::from(with("eval", "photos", &[]).output().unwrap()).refused(&[
        "validation.photos.dataset",
        "class-0, class-1, class-2",
        "\"of-class-1\"",
    ]);
    assert_eq!(predicted("photos"), classes);

    // A folder that only holds images has names that mean nothing, where nobody learns from labels.
    let heap = format!("dataset.path={:?}", dir.path().join("heap"));
    let of_heap = dir.path().join("cache-of-heap");
    build(&config, &of_heap, &[&heap, "tail.fit_samples=20"]).code(0);
    let kl = [heap.as_str(), "loss.weights={ kl = 1.0 }"];
    train(&training, &of_heap, &dir.path().join("of-heap"), &kl).code(0);
    train(&training, &of_heap, &dir.path().join("refused"), &[&heap])
        .refused(&["validation.same.dataset", "trained on (all)"]);
}

#[test]
fn threads_and_batches_change_nothing_in_what_the_teacher_sees() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _) = configs(dir.path(), &folder(dir.path()));
    let built = |name: &str, threads: &str| {
        let out = dir.path().join(name);
        let mut command = build_command(&config, &out, &[]);
        Said::from(command.env("RAYON_NUM_THREADS", threads).output().unwrap()).code(0);
        files(&out)
    };
    assert_eq!(built("one", "1"), built("four", "4"));
}

const VIEWS: [&str; 1] = ["augment={ views = 3, seed = 9, random_resized_crop = {}, horizontal_flip = 0.5 }"];

#[test]
fn views_are_cached_each_and_the_student_sees_the_teachers() {
    let dir = tempfile::tempdir().unwrap();
    let (config, training) = configs(dir.path(), &folder(dir.path()));
    let cache = dir.path().join("views");
    let report = build(&config, &cache, &VIEWS).code(0).json();
    assert_eq!(report["cache"]["positions"], json!(3 * IMAGES));
    kd_cache(&args!["verify", cache]).code(0);
    let inspected = kd_cache(&args!["inspect", cache]).code(0);
    assert!(inspected.out.contains("3 views of seed 9, random resized crops of area"), "{}", inspected.out);
    let (rows, found) = targets(&cache);
    assert_eq!(rows.len(), 3 * IMAGES as usize);
    // Views of a sample differ: they are not one crop three times.
    let row = |at: usize| (found.row(at).1.to_vec(), found.row(at).2.to_vec());
    let alike = (0..IMAGES as usize).filter(|at| row(3 * at) == row(3 * at + 1)).count();
    assert!(alike < 4, "{alike} of {IMAGES} samples have two views alike");
    // The second view is the same whether there are three or two: it depends on nothing else.
    let two = dir.path().join("two");
    build(&config, &two, &[VIEWS[0].replace("views = 3", "views = 2").as_str(), "storage.values=f32"])
        .code(0);
    let three = dir.path().join("three");
    build(&config, &three, &[VIEWS[0], "storage.values=f32", "teacher.batch=16"]).code(0);
    let (of_two, of_three) = (targets(&two).1, targets(&three).1);
    for sample in 0..IMAGES as usize {
        for view in 0..2 {
            let (a, b) = (of_two.row(2 * sample + view), of_three.row(3 * sample + view));
            assert_eq!(a.0, b.0);
            assert!(a.1.iter().zip(b.1).all(|(a, b)| (a - b).abs() < 1e-4), "sample {sample}, view {view}");
        }
    }
    let fidelity = kd_cache(&args![
        "fidelity", cache, "--config", config, "--set", VIEWS[0], "--format", "json", "--quiet"
    ]);
    let rows = fidelity.code(0).json()["rows"].as_array().unwrap().clone();
    assert!(rows.iter().all(|row| row["top1_agreement"] == 1.0), "{rows:?}");

    // The run takes the views from the manifest, and a config that says otherwise is refused.
    let run = dir.path().join("run");
    let report = train(&training, &cache, &run, &["train.epochs=4"]).code(0).json();
    assert_eq!(report["samples"], json!(IMAGES));
    assert!(std::fs::read_to_string(run.join("config.toml")).unwrap().contains("views = 3"));
    let other = VIEWS[0].replace("seed = 9", "seed = 8");
    let out = dir.path().join("refused");
    train(&training, &cache, &out, &[&other]).refused(&[
        "augment",
        "\"seed\":9",
        "\"seed\":8",
        "leave the table out",
    ]);
    let validated = format!("validation.same.cache={:?}", cache.to_str().unwrap());
    train(&training, &cache, &out, &[&validated]).refused(&["validation.same.cache", "without [augment]"]);
    // Other views are another cache.
    build(&config, &cache, &[&other]).refused(&["augment"]);
    kd_cache(&args!["convert", cache, dir.path().join("parquet"), "--form", "parquet", "--quiet"]).code(0);
    kd_cache(&args!["verify", dir.path().join("parquet")]).code(0);
    assert_eq!(targets(&dir.path().join("parquet")).0, targets(&cache).0);
}

#[test]
fn an_interrupted_build_of_views_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _) = configs(dir.path(), &folder(dir.path()));
    let whole = dir.path().join("whole");
    build(&config, &whole, &VIEWS).code(0);
    // As a crash after the second shard leaves it.
    let torn = dir.path().join("torn");
    let mut manifest: Value =
        serde_json::from_slice(&std::fs::read(whole.join("manifest.json")).unwrap()).unwrap();
    let shards: Vec<Value> = manifest["shards"].as_array().unwrap()[..2].to_vec();
    for file in files(&whole).keys().filter(|file| *file != "manifest.json") {
        std::fs::create_dir_all(torn.join(file).parent().unwrap()).unwrap();
        std::fs::copy(whole.join(file), torn.join(file)).unwrap();
    }
    std::fs::create_dir_all(torn.join("build")).unwrap();
    let lines: String = shards.iter().map(|shard| format!("{shard}\n")).collect();
    std::fs::write(torn.join("build/shards.jsonl"), lines).unwrap();
    manifest["shards"] = json!([]);
    manifest["complete"] = json!(false);
    std::fs::write(torn.join("build/plan.json"), manifest.to_string()).unwrap();
    let report = build(&config, &torn, &VIEWS).code(0).json();
    assert_eq!((&report["samples_resumed"], &report["samples_done"]), (&json!(72), &json!(3 * IMAGES - 72)));
    assert_eq!(files(&torn), files(&whole));
}

#[test]
fn what_cannot_be_built_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let images = folder(dir.path());
    let (config, training) = configs(dir.path(), &images);
    let out = dir.path().join("refused");
    let refused = |set: &[&str], words: &[&str]| {
        build(&config, &out, set).refused(words);
        assert!(!out.exists());
    };
    refused(&["preprocess={ resize = 32 }"], &["sizes of their own", "give preprocess.crop"]);
    refused(
        &["preprocess={ resize = 32, size = [28, 28], crop = 40 }", "augment={ views = 0 }"],
        &["preprocess.size: expected either", "preprocess.crop: expected at most", "32, found 40"],
    );
    refused(
        &["preprocess={ size = [28, 28, 3] }"],
        &["preprocess.size: expected at most 2 of them, found 3"],
    );
    refused(
        &["augment={ views = 2 }"],
        &["augment: expected random_resized_crop or a positive horizontal_flip"],
    );
    refused(
        &["augment={ random_resized_crop = { scale = [0.5, 0.2], ratio = [0, 1] } }"],
        &["augment.random_resized_crop.scale: expected two rising", "augment.random_resized_crop.ratio"],
    );
    refused(&["dataset.path=\"none\""], &["cannot read none"]);
    // A student without labels to learn from.
    let flat = dir.path().join("flat");
    std::fs::create_dir(&flat).unwrap();
    std::fs::copy(images.join("class-0/00.png"), flat.join("0.png")).unwrap();
    let flat = format!("dataset.path={:?}", flat.to_str().unwrap());
    let cache = dir.path().join("flat-cache");
    build(&config, &cache, &[&flat, "tail.fit_samples=1"]).code(0);
    train(&training, &cache, &out, &[&flat]).refused(&["labels"]);
    // An image that is cut off is named, and nothing is left behind.
    let image = images.join("class-2/02.png");
    let bytes = std::fs::read(&image).unwrap();
    std::fs::write(&image, &bytes[..bytes.len() / 2]).unwrap();
    refused(&[], &["class-2/02.png: expected an image that can be decoded", "write it anew or remove it"]);
}
