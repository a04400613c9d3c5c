//! Several teachers' caches, and a student of all of them. The built programs.

#![cfg(all(feature = "onnx", feature = "torch"))]

use crate::common::{Case, Said, build, cache_config, fixture, kd_train, train_config};

/// Caches of two teachers over the same samples, and a config over them.
fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    build(&cache_config(dir.path(), "linear.onnx"), &dir.path().join("a"), &[]).code(0);
    build(&cache_config(dir.path(), "softmax.onnx"), &dir.path().join("b"), &["head.k=4"]).code(0);
    let config = train_config(dir.path());
    Case { dir, config, caches: Vec::new() }
}

/// Trains from some of them.
fn train(case: &Case, name: &str, caches: &[&str], set: &[&str]) -> Said {
    let mut args = case.args(name, set, &["--quiet"]);
    for cache in caches {
        args.extend(args!["--cache", case.out(cache)]);
    }
    kd_train(&args)
}

/// The mean of `kl` in each epoch.
fn kl(case: &Case, name: &str) -> Vec<f64> {
    case.epochs(name).iter().map(|epoch| epoch["kl"].as_f64().unwrap()).collect()
}

#[test]
fn a_student_learns_from_two_teachers() {
    let case = case();
    for average in ["probabilities", "logits"] {
        let set = format!("loss.mixture={{ weights = [2.0, 1.0], average = \"{average}\" }}");
        let report = train(&case, average, &["a", "b"], &[&set, "loss.weights={ kl = 1.0 }"]).code(0).json();
        assert!(report["cache"].as_str().unwrap().ends_with('a'));
        assert!(report["further_caches"][0].as_str().unwrap().ends_with('b'));
        let kl = kl(&case, average);
        assert!(kl.last().unwrap() < &(0.9 * kl[0]), "{average}: {kl:?}");
    }
    // A teacher beside itself says what it says alone.
    let set = ["loss.weights={ kl = 1.0 }"];
    train(&case, "alone", &["a"], &set).code(0);
    train(&case, "twice", &["a", "a"], &set).code(0);
    for (alone, twice) in kl(&case, "alone").iter().zip(kl(&case, "twice")) {
        assert!((alone - twice).abs() < 1e-3 * alone, "{alone} is not {twice}");
    }
}

#[test]
fn a_run_goes_on_with_all_of_its_caches_in_their_order() {
    let case = case();
    let weights = "loss.mixture.weights=[2.0, 1.0]";
    train(&case, "run", &["a", "b"], &[weights, "train.max_steps=3"]).code(0);
    let resume = |caches: &[&str]| {
        let mut args = case.args("run", &[weights], &["--quiet", "--resume"]);
        for cache in caches {
            args.extend(args!["--cache", case.out(cache)]);
        }
        kd_train(&args)
    };
    let [a, b] = ["a", "b"].map(|name| format!("the cache {}", case.out(name).display()));
    let refused = resume(&["b", "a"]).refused(&["--resume", &a, &b]);
    let (begun, found) = refused.err.split_once(", found ").unwrap();
    assert!(begun.find(&a) < begun.find(&b) && found.find(&b) < found.find(&a), "{}", refused.err);
    resume(&["a", "a"]).refused(&["--resume", &a, &b]);
    resume(&["a", "b"]).code(0);
}

#[test]
fn caches_that_do_not_belong_together_are_refused() {
    let case = case();
    let less = case.out("less");
    build(&cache_config(case.dir.path(), "linear.onnx"), &less, &["dataset.limit=100"]).code(0);
    let fingerprints = ["--cache", "100 samples", "512 samples", "over the same samples"];
    train(&case, "refused", &["a", "less"], &[]).refused(&fingerprints);
    let unlabelled = fixture("fashion-mnist/train-images-idx3-ubyte.gz");
    let unlabelled = format!("dataset={{ kind = \"idx\", images = {unlabelled:?} }}");
    build(&cache_config(case.dir.path(), "seven.onnx"), &case.out("seven"), &[&unlabelled]).code(0);
    let classes = ["--cache", "7 classes", "10 classes", "over the same samples, classes"];
    train(&case, "refused", &["a", "seven"], &[]).refused(&classes);
    let flipped = "augment={ views = 2, horizontal_flip = 0.5 }";
    build(&cache_config(case.dir.path(), "linear.onnx"), &case.out("flipped"), &[flipped]).code(0);
    let views = ["--cache", "\"horizontal_flip\"", "no views", "classes and views"];
    train(&case, "refused", &["a", "flipped"], &[]).refused(&views);
    let weights = ["loss.mixture.weights", "2 of them", "found 3"];
    train(&case, "refused", &["a", "b"], &["loss.mixture.weights=[1.0, 1.0, 2.0]"]).refused(&weights);
    let set = ["loss.mixture.weights=[1.0, -1.0]"];
    train(&case, "refused", &["a", "b"], &set).refused(&["loss.mixture.weights[1]", "above 0", "-1"]);
    let set = ["loss.mixture.average=\"logits\"", "loss.tail=\"bucket\""];
    train(&case, "refused", &["a", "b"], &set).refused(&["loss.mixture.average", "bucket"]);
    assert!(!case.out("refused").exists());
}
