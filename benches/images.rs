//! How many images does one core decode, resize and bring to floats in a second?
//!
//! A teacher that asks for more waits. Files are in the page cache: what is timed is decoding and resizing,
//! not the disk.
//!
//!     cargo bench --profile release --bench images -- FOLDER     a folder of images, as dataset.path

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use kd_cache::config::{AugmentConfig, DatasetConfig, FolderConfig, PreprocessConfig, RandomResizedCrop};
use kd_cache::dataset;
use kd_cache::ids::SampleView;
use kd_cache::permutation::Permutation;
use kd_cache::preprocess::Preprocess;

/// Images that are timed at once, drawn from all of the folder.
const BATCH: u64 = 64;

fn main() {
    let folder = std::env::args().skip(1).find(|word| !word.starts_with("--"));
    let Some(folder) = folder else {
        println!(
            "images: skipped; it needs a folder: cargo bench --profile release --bench images -- FOLDER"
        );
        return;
    };
    let config = FolderConfig { path: folder.into(), split: None, limit: None };
    let dataset = dataset::open_images(&DatasetConfig::Folder(config), "dataset").unwrap();
    let batch = BATCH.min(dataset.len());
    let order = Permutation::new(dataset.len(), 0, 0);
    let rows: Vec<SampleView> =
        (0..batch).map(|at| SampleView { sample: dataset.id_at(order.at(at)), view: 0 }).collect();
    let bytes: usize = rows.iter().map(|row| dataset.sample(row.sample).unwrap().bytes.len()).sum();
    println!("{} images, {} pixels each in the mean of {batch}", dataset.len(), bytes as u64 / 3 / batch);

    let eval = PreprocessConfig { resize: Some(256), crop: Some(224), ..PreprocessConfig::default() };
    let crops = AugmentConfig {
        views: 2,
        seed: 0,
        random_resized_crop: Some(RandomResizedCrop::default()),
        horizontal_flip: 0.5,
    };
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut criterion = Criterion::default().sample_size(20);
    let mut group = criterion.benchmark_group("images");
    group.throughput(Throughput::Elements(batch));
    group.bench_function("decode", |bench| {
        bench.iter(|| rows.iter().map(|row| dataset.sample(row.sample).unwrap().bytes.len()).sum::<usize>());
    });
    let mut prepared = |name: &str, augment: Option<&AugmentConfig>| {
        let preprocess = Preprocess::with_views(&eval, augment, dataset.sample_shape()).unwrap();
        group.bench_function(name, |bench| {
            bench.iter(|| one_core.install(|| black_box(preprocess.batch(dataset.as_ref(), &rows).unwrap())));
        });
    };
    prepared("decode_resize256_crop224", None);
    prepared("decode_random_resized_crop224", Some(&crops));
    group.finish();
    criterion.final_summary();
}
