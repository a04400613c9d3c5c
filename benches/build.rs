//! What does building a cache cost beside the teacher that it runs?
//!
//! The teacher alone, with inputs prepared ahead and outputs thrown away, against `kd-cache build` of the same config: the
//! same runtime, batches and threads, which take turns. Two ratios of rates: of the main pass, which is what an
//! unlimited dataset comes to, and of all of it, loading, fit and commit included. Give it as many samples as take
//! some seconds:
//!
//! ```text
//! cargo bench --profile release --bench build -- CONFIG ROUNDS [KEY=VALUE]…
//! cargo bench --profile release --bench build -- configs/cache/fashion-mnist.toml 5 dataset.limit=10000
//! ```

#![allow(clippy::unwrap_used, reason = "a bench has nobody to report to")]

mod figures;

use std::cmp::Reverse;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use kd_cache::config::{CacheConfig, load};
use kd_cache::dataset::{self, AnyDataset, Dataset, TokenDataset};
use kd_cache::ids::SampleView;
use kd_cache::ops::{BuildUntil, Silent, build};
use kd_cache::preprocess::Preprocess;
use kd_cache::teacher::{self, RawOutput, Teacher, TokenBatch, TokenTeacher, Values};

use figures::spread;

/// A teacher and all that it is asked.
enum Alone {
    Images(Box<dyn Teacher>, Vec<(Vec<f32>, usize)>),
    Tokens(Box<dyn TokenTeacher>, Vec<TokenBatch>),
}

impl Alone {
    fn open(config: &CacheConfig) -> Self {
        match dataset::open(&config.dataset).unwrap() {
            AnyDataset::Images(dataset) => Self::images(config, dataset.as_ref()),
            AnyDataset::Tokens(dataset) => Self::tokens(config, dataset.as_ref()),
        }
    }

    fn images(config: &CacheConfig, dataset: &dyn Dataset) -> Self {
        let augment = config.augment.as_ref();
        let preprocess = Preprocess::with_views(&config.preprocess, augment, dataset.sample_shape()).unwrap();
        let samples = (0..dataset.len()).map(|at| dataset.id_at(at));
        let rows: Vec<SampleView> = samples
            .flat_map(|sample| (0..preprocess.views()).map(move |view| SampleView { sample, view }))
            .collect();
        let batch = |rows: &[SampleView]| (preprocess.batch(dataset, rows).unwrap(), rows.len());
        let batches = rows.chunks(config.teacher.image_batch()).map(batch).collect();
        let teacher = teacher::open(&config.teacher, &[], preprocess.output_shape()).unwrap();
        Self::Images(teacher, batches)
    }

    fn tokens(config: &CacheConfig, dataset: &dyn TokenDataset) -> Self {
        let length = |at: &u64| dataset.sequence_len(dataset.id_at(*at)).unwrap();
        // As a build has them in each shard: padded to the longest of a batch, which are alike.
        let mut rows: Vec<u64> = (0..dataset.len()).collect();
        rows.sort_by_key(|at| Reverse(length(at)));
        let longest = rows.first().map(length).unwrap_or(0);
        let batch = |rows: &[u64]| {
            let mut batch = TokenBatch::new(rows.iter().map(length).max().unwrap_or(0));
            for at in rows {
                let row = dataset.sequence(dataset.id_at(*at)).unwrap();
                let tokens: Vec<i64> = row.tokens.iter().map(|token| i64::from(*token)).collect();
                let mut starts = row.document_starts();
                starts.push(tokens.len());
                let documents: Vec<&[i64]> =
                    starts.windows(2).map(|ends| &tokens[ends[0]..ends[1]]).collect();
                batch.push_documents(&documents).unwrap();
            }
            batch
        };
        let batches = rows.chunks(config.teacher.token_batch()).map(batch).collect();
        Self::Tokens(teacher::open_tokens(&config.teacher, &[], longest).unwrap(), batches)
    }

    /// Asks everything once.
    fn run(&mut self) {
        match self {
            Self::Images(teacher, batches) => {
                let last =
                    batches.iter().map(|(inputs, rows)| teacher.forward(inputs, *rows).unwrap()).last();
                last.unwrap().values.wait();
            }
            Self::Tokens(teacher, batches) => {
                let mut last = None;
                let mut away = |output: RawOutput| {
                    // What is here has been waited for, and would keep its memory.
                    last = output.values.on_device().then_some(output.values);
                    ControlFlow::Continue(())
                };
                batches.iter().for_each(|batch| teacher.forward(batch, &mut away).unwrap());
                last.iter().for_each(Values::wait);
            }
        }
    }
}

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [config, rounds, sets @ ..] = arguments.as_slice() else {
        println!("build: takes CONFIG ROUNDS [KEY=VALUE]…; what it compares stands in benches/README.md");
        return;
    };
    let rounds: usize = rounds.parse().unwrap();
    let config: CacheConfig = load(Path::new(config), sets).unwrap();
    let mut alone = Alone::open(&config);
    alone.run();
    let (mut main_pass, mut whole) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut teacher = 0.0;
        let mut ask = || {
            let begun = Instant::now();
            alone.run();
            teacher = begun.elapsed().as_secs_f64();
        };
        let built = || {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("cache");
            build(&config, &out, BuildUntil::Complete, &AtomicBool::new(false), &Silent).unwrap()
        };
        // Who is first changes with each round.
        let report = if round % 2 == 0 {
            ask();
            built()
        } else {
            let report = built();
            ask();
            report
        };
        let pass = report.samples_done as f64 / report.samples_per_second;
        println!(
            "round {}: teacher {teacher:.2} s, main pass {pass:.2} s, whole build {:.2} s",
            round + 1,
            report.seconds
        );
        main_pass.push(teacher / pass);
        whole.push(teacher / report.seconds);
    }
    println!("rate beside the teacher's: main pass {}, whole {}", spread(main_pass, 3), spread(whole, 3));
}
