//! Several teachers' caches, and a student of all of them. The built programs.

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::path::PathBuf;

use crate::common::{Said, build, cache_config, kd_train, lines, train_config};

/// Caches of two teachers over the training slice, and a config over it.
struct Case {
    dir: tempfile::TempDir,
    config: PathBuf,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        build(&cache_config(dir.path(), "linear.onnx"), &dir.path().join("a"), &[]).code(0);
        build(&cache_config(dir.path(), "softmax.onnx"), &dir.path().join("b"), &["head.k=4"]).code(0);
        let config = train_config(dir.path());
        Self { dir, config }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn train(&self, name: &str, caches: &[&str], set: &[&str]) -> Said {
        let mut args =
            args!["--config", self.config, "--out", self.out(name), "--quiet", "--format", "json"].to_vec();
        for cache in caches {
            args.extend(args!["--cache", self.out(cache)]);
        }
        for set in set {
            args.extend(args!["--set", set]);
        }
        kd_train(&args)
    }

    /// The mean of `kl` in each epoch.
    fn kl(&self, name: &str) -> Vec<f64> {
        let of = |epoch: &serde_json::Value| epoch["kl"].as_f64().unwrap();
        lines(&self.out(name).join("metrics.jsonl")).iter().map(of).collect()
    }
}

#[test]
fn a_student_learns_from_two_teachers() {
    let case = Case::new();
    for average in ["probabilities", "logits"] {
        let set = format!("loss.mixture={{ weights = [2.0, 1.0], average = \"{average}\" }}");
        let report = case.train(average, &["a", "b"], &[&set, "loss.weights={ kl = 1.0 }"]).code(0).json();
        assert!(report["cache"].as_str().unwrap().ends_with('a'));
        assert!(report["further_caches"][0].as_str().unwrap().ends_with('b'));
        let kl = case.kl(average);
        assert!(kl.last().unwrap() < &(0.9 * kl[0]), "{average}: {kl:?}");
    }
    // A teacher beside itself says what it says alone.
    let set = ["loss.weights={ kl = 1.0 }"];
    case.train("alone", &["a"], &set).code(0);
    case.train("twice", &["a", "a"], &set).code(0);
    for (alone, twice) in case.kl("alone").iter().zip(case.kl("twice")) {
        assert!((alone - twice).abs() < 1e-3 * alone, "{alone} is not {twice}");
    }
}

#[test]
fn caches_that_do_not_belong_together_are_refused() {
    let case = Case::new();
    let less = case.out("less");
    build(&cache_config(case.dir.path(), "linear.onnx"), &less, &["dataset.limit=100"]).code(0);
    let fingerprints = ["--cache", "100 samples", "512 samples", "over the same samples"];
    case.train("refused", &["a", "less"], &[]).refused(&fingerprints);
    let weights = ["loss.mixture.weights", "2 of them", "found 3"];
    case.train("refused", &["a", "b"], &["loss.mixture.weights=[1.0, 1.0, 2.0]"]).refused(&weights);
    let set = ["loss.mixture.weights=[1.0, -1.0]"];
    case.train("refused", &["a", "b"], &set).refused(&["loss.mixture.weights[1]", "above 0", "-1"]);
    let set = ["loss.mixture.average=\"logits\"", "loss.tail=\"bucket\""];
    case.train("refused", &["a", "b"], &set).refused(&["loss.mixture.average", "bucket"]);
    assert!(!case.out("refused").exists());
}
