//! `kd-train sweep`: many runs, each as `kd-train` alone would have made it. The built program.

#![cfg(all(unix, feature = "onnx", feature = "torch"))]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::common::{
    Said, build, cache_config, files, kd_train, kd_train_command, told, train_config, write,
};
use serde_json::{Value, json};

/// Temperatures and seeds: four runs of two epochs.
const GRID: &str = "[grid]\nloss.temperature = [1, 4]\nseed = [0, 1]\n";

/// A cache over the training slice, a training config, and a place for sweeps.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        build(&cache_config(dir.path(), "linear.onnx"), &dir.path().join("cache"), &[]).code(0);
        train_config(dir.path());
        Self { dir }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A sweep's config with `keys` beside base and cache.
    fn config(&self, name: &str, keys: &str) -> PathBuf {
        let text = format!("base = \"train.toml\"\ncache = \"cache\"\n{keys}");
        write(self.dir.path(), &format!("{name}.toml"), &text)
    }

    fn command(&self, config: &Path, out: &str, more: &[&str]) -> Command {
        let mut command = kd_train_command(&args!["sweep", "--config", config, "--out", self.out(out)]);
        command.args(["--format", "json"]).args(more);
        command
    }

    fn sweep(&self, config: &Path, out: &str, more: &[&str]) -> Said {
        self.command(config, out, more).output().unwrap().into()
    }

    /// A run by `kd-train` alone.
    fn alone(&self, name: &str, set: &[&str]) -> PathBuf {
        let (config, cache) = (self.out("train.toml"), self.out("cache"));
        let mut args =
            args!["--config", config, "--cache", cache, "--out", self.out(name), "--quiet"].to_vec();
        for set in set {
            args.extend(args!["--set", set]);
        }
        kd_train(&args).code(0);
        self.out(name)
    }

    fn report(&self, out: &str) -> Value {
        let text = std::fs::read(self.out(out).join("sweep.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

/// What only the cache can refuse is refused before anything runs, too.
#[test]
fn a_temperature_that_the_cache_does_not_cover_is_told_first() {
    let case = Case::new();
    let config = case.config("sweep", "[grid]\nloss.temperature = [1, 0.5]\n");
    case.sweep(&config, "out", &[])
        .refused(&["loss.temperature: temperature 0.5 is below 1", "temperature=0.5"]);
    assert!(!case.out("out/runs/temperature=1").exists());
}

/// What must not depend on who runs it: config, student, and every epoch but for its clock.
fn results(run: &Path) -> (String, Vec<u8>, Vec<Value>) {
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    let student = std::fs::read(run.join("student.safetensors")).unwrap();
    (config, student, told(&run.join("metrics.jsonl")))
}

fn states(report: &Value) -> Vec<&str> {
    report["points"].as_array().unwrap().iter().map(|point| point["state"].as_str().unwrap()).collect()
}

/// The body of the table: cells of each row, but for rule and head.
fn rows(table: &str) -> Vec<Vec<String>> {
    let lines = table.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What a program says of each run's predictions ranks them, the way that its config says; asked for, or because it
/// chose the epochs.
#[test]
fn a_commands_measure_ranks() {
    let case = Case::new();
    for (name, keys, set) in
        [("asked", "rank_by = \"test.mine\"\n", ""), ("chose", "", "train.select_by = \"test.mine\"\n")]
    {
        let values = write(case.dir.path(), name, "5\n1\n3\n");
        let script = format!("head -n 1 {0} && sed -i 1d {0}", values.display());
        let mine = format!("{{ command = [\"sh\", \"-c\", {script:?}], better = \"higher\" }}");
        let set = format!("[set]\ntrain.epochs = 1\nvalidation.test.metrics.mine = {mine}\n{set}");
        let config = case.config(&format!("by-{name}"), &format!("{keys}{set}[grid]\nseed = [0, 1, 2]\n"));
        let report = case.sweep(&config, &format!("out-{name}"), &[]).code(0).json();
        assert_eq!((&report["rank_by"], &report["higher_is_better"]), (&json!("test.mine"), &json!(true)));
        let of = |key: &str| report["points"].as_array().unwrap().iter().map(|p| p[key].clone()).collect();
        let (scores, ranks): (Vec<Value>, Vec<Value>) = (of("score"), of("rank"));
        assert_eq!(
            (scores, ranks),
            (vec![json!(5.0), json!(1.0), json!(3.0)], vec![json!(1), json!(3), json!(2)])
        );
        let table = std::fs::read_to_string(case.out(&format!("out-{name}/table.md"))).unwrap();
        assert!(table.contains("| test.mine "), "{table}");
    }
    let nobody = case.config("nobody", "rank_by = \"test.mine\"\n[grid]\nseed = [0]\n");
    case.sweep(&nobody, "refused", &[]).refused(&["rank_by = \"test.mine\"", "train_loss, or set.metric"]);
}

#[test]
fn a_grid_is_run_ranked_and_drawn_and_each_run_is_an_ordinary_one() {
    let case = Case::new();
    let config = case.config("sweep", &format!("jobs = \"auto\"\n{GRID}"));
    // Nothing is written where only the plan is asked for.
    let planned = case.sweep(&config, "out", &["--dry-run"]).code(0).json();
    assert_eq!((&planned["outcome"], states(&planned)), (&json!("planned"), vec!["pending"; 4]));
    assert!(!case.out("out").exists());

    let report = case.sweep(&config, "out", &[]).code(0).json();
    assert_eq!(report, case.report("out"));
    assert_eq!((&report["outcome"], states(&report)), (&json!("finished"), vec!["trained"; 4]));
    assert_eq!((&report["rank_by"], &report["higher_is_better"]), (&json!("test.accuracy"), &json!(true)));
    let points = report["points"].as_array().unwrap();
    let names: Vec<&str> = points.iter().map(|point| point["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["temperature=1,seed=0", "temperature=1,seed=1", "temperature=4,seed=0", "temperature=4,seed=1"]
    );
    for point in points {
        let run = case.out("out").join(point["run"].as_str().unwrap());
        let keys = &point["keys"];
        let set = ["loss.temperature", "seed"].map(|key| format!("{key}={}", keys[key]));
        let name = format!("alone-{}", point["name"].as_str().unwrap());
        let alone = case.alone(&name, &[&set[0], &set[1]]);
        assert_eq!(results(&run).0, results(&alone).0);
        assert!(results(&run) == results(&alone), "{name}");
        let names = |run: &Path| files(run).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&run), names(&alone));
        let summary: Value =
            serde_json::from_slice(&std::fs::read(run.join("summary.json")).unwrap()).unwrap();
        assert_eq!(point["validation"], summary["validation"]);
        assert_eq!(point["score"], summary["validation"]["test"]["accuracy"]);
        let bytes = std::fs::metadata(run.join("student.safetensors")).unwrap().len();
        assert_eq!(point["student_bytes"], json!(bytes));
        assert!(point["seconds"].as_f64().unwrap() > 0.0 && point["cache_bytes"].as_u64().unwrap() > 0);
    }

    // The best first, in the table as in the ranks.
    let table = std::fs::read_to_string(case.out("out").join("table.md")).unwrap();
    let rows = rows(&table);
    assert_eq!(rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"], "{table}");
    let scores: Vec<f64> = rows.iter().map(|row| row[3].parse().unwrap()).collect();
    assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]), "{table}");
    let best = points.iter().find(|point| point["rank"] == 1).unwrap();
    assert_eq!(rows[0][1..3], ["loss.temperature", "seed"].map(|key| best["keys"][key].to_string()));
    assert!(
        table.contains("| loss.temperature | seed") && table.contains("highest test.accuracy first"),
        "{table}"
    );

    let plot = std::fs::read_to_string(case.out("out").join("plot.svg")).unwrap();
    assert!(plot.starts_with("<svg xmlns=") && plot.trim_end().ends_with("</svg>"), "{plot}");
    // Two temperatures, each the mean of two seeds.
    assert_eq!(plot.matches("the mean of 2 seeds").count(), 2, "{plot}");
    for words in ["test.accuracy", "loss.temperature", "<polyline"] {
        assert!(plot.contains(words), "{words}: {plot}");
    }
    // As text it is the table.
    let said = kd_train(&args!["sweep", "--config", config, "--out", case.out("out"), "--quiet"]).code(0);
    assert!(
        said.out.starts_with("|   # | loss.temperature |") && said.out.contains("plot.svg"),
        "{}",
        said.out
    );
}

#[test]
fn what_is_done_is_skipped_points_may_be_added_and_others_must_stay() {
    let case = Case::new();
    case.sweep(&case.config("sweep", GRID), "out", &[]).code(0);
    let before = files(&case.out("out/runs"));
    let touched = |path: &str| std::fs::metadata(case.out(path)).unwrap().modified().unwrap();
    let written = touched("out/runs/temperature=1,seed=0/summary.json");
    let said = case.sweep(&case.config("sweep", GRID), "out", &[]).code(0);
    assert!(!said.err.contains("temperature="), "{}", said.err);
    assert!(files(&case.out("out/runs")) == before);

    let more = case.config(
        "more",
        "rank_by = \"test.cross_entropy\"\n[grid]\nloss.temperature = [1, 2, 4]\nseed = [0, 1]\n",
    );
    let said = case.sweep(&more, "out", &[]).code(0);
    assert_eq!(said.err.matches(" of 6: temperature=2,").count(), 2, "{}", said.err);
    assert_eq!(touched("out/runs/temperature=1,seed=0/summary.json"), written);
    let report = said.json();
    // The lowest is the best of these.
    let best =
        report["points"].as_array().unwrap().iter().min_by_key(|point| point["rank"].as_u64()).unwrap();
    assert!(
        report["points"]
            .as_array()
            .unwrap()
            .iter()
            .all(|point| point["score"].as_f64() >= best["score"].as_f64())
    );
    assert_eq!(states(&report), vec!["trained"; 6]);

    // Fewer points leave the others' runs alone.
    let fewer = case.config("fewer", "[grid]\nloss.temperature = [1]\nseed = [0]\n");
    let said = case.sweep(&fewer, "out", &[]).code(0);
    assert!(said.err.contains("5 more in"), "{}", said.err);
    // What a run was begun with may not change, and nothing is written then.
    let before = files(&case.out("out"));
    let changed = case.config("changed", &format!("{GRID}[set]\ntrain.epochs = 3\n"));
    case.sweep(&changed, "out", &[]).refused(&[
        "temperature=1,seed=0",
        "train.epochs",
        "begun with 2, found 3",
    ]);
    let key = case.config("key", &format!("{GRID}[set]\ntrain.max_steps = 5\n"));
    case.sweep(&key, "out", &[]).refused(&["train.max_steps", "begun with nothing, found 5"]);
    build(&case.out("cache.toml"), &case.out("cache2"), &["head.k=4"]).code(0);
    case.sweep(&case.config("sweep", GRID), "out", &["--set", "cache=cache2"]).refused(&["cache", "cache2"]);
    // What a cache holds is compared, not where it lies.
    std::fs::rename(case.out("cache"), case.out("moved")).unwrap();
    std::fs::rename(case.out("cache2"), case.out("cache")).unwrap();
    case.sweep(&case.config("sweep", GRID), "out", &[]).refused(&["begun with the cache", "found the cache"]);
    assert!(files(&case.out("out")) == before);
    let grid = case.config("sweep", GRID);
    let moved = format!("cache={:?}", case.out("moved"));
    case.sweep(&grid, "out", &["--set", &moved]).code(0);
    std::fs::remove_dir_all(case.out("cache")).unwrap();
    std::fs::rename(case.out("moved"), case.out("cache")).unwrap();
    // But where it changes nothing.
    let free = case.config("free", &format!("{GRID}[set]\ntrain.prefetch = 2\n"));
    case.sweep(&free, "out", &[]).code(0);
    // A folder of something else.
    std::fs::create_dir(case.out("mine")).unwrap();
    std::fs::write(case.out("mine/notes.md"), "mine").unwrap();
    case.sweep(&free, "mine", &[]).refused(&["holds no sweep", "notes.md"]);
}

/// Waits until `run` has an epoch behind it.
fn wait_for_epoch(run: &Path, child: &mut Child) {
    let begun = Instant::now();
    while std::fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count()) < 1 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no epoch within a minute");
        assert!(child.try_wait().unwrap().is_none(), "it ended before an epoch was over");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_killed_sweep_goes_on_to_the_same_bits() {
    let case = Case::new();
    let grid = "jobs = 2\n[set]\ntrain.epochs = 120\ntrain.keep_every = 3\n[grid]\nseed = [0, 1, 2]\n";
    let config = case.config("sweep", grid);
    let runs = |out: &str| ["seed=0", "seed=1", "seed=2"].map(|name| case.out(out).join("runs").join(name));
    let whole = case.sweep(&config, "whole", &[]).code(0).json();
    assert_eq!(states(&whole), ["trained"; 3]);

    // Once without a word to anybody: the runs find out by themselves.
    let mut child = case.command(&config, "parts", &[]).spawn().unwrap();
    wait_for_epoch(&runs("parts")[0], &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    // Another time politely, at once: what of the runs is still ending is waited for. What was written down last is
    // lost, so that whatever says that runs are at work is of the sweep that is.
    let summary = case.out("parts/sweep.json");
    std::fs::remove_file(&summary).unwrap();
    let mut child = case.command(&config, "parts", &[]).spawn().unwrap();
    let begun = Instant::now();
    while !std::fs::read_to_string(&summary).is_ok_and(|text| text.matches("\"running\"").count() > 2) {
        assert!(begun.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    let second = case.sweep(&config, "parts", &[]);
    second.refused(&["another kd-train sweep is at work"]);
    let kill = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let said = Said::from(child.wait_with_output().unwrap()).code(130);
    assert!(said.err.contains("interrupted; the same command goes on"), "{}", said.err);
    let report = said.json();
    assert_eq!(report["outcome"], "interrupted");
    assert!(states(&report).contains(&"interrupted"), "{report}");
    assert!(
        runs("parts")
            .iter()
            .any(|run| !run.join("student.safetensors").exists() || results(run).2.len() < 120)
    );

    let done = case.sweep(&config, "parts", &[]).code(0).json();
    assert_eq!(states(&done), ["trained"; 3]);
    for (whole, parts) in runs("whole").iter().zip(runs("parts")) {
        assert!(results(whole) == results(&parts), "{}", parts.display());
    }
    let scores = |report: &Value| {
        let points = report["points"].as_array().unwrap().iter();
        points.map(|point| (point["score"].clone(), point["rank"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(scores(&whole), scores(&done));
}

#[test]
fn every_point_is_checked_before_the_first_run() {
    let case = Case::new();
    let refused = |keys: &str, words: &[&str]| {
        case.sweep(&case.config("refused", keys), "refused", &[]).refused(words);
        assert!(!case.out("refused").exists());
    };
    refused(
        "[grid]\nloss.temprature = [1, 2]\nstudent.hidden = [[8], [0]]\nseed = [0, 1, 2]\n",
        &[
            "train.toml with the sweep's keys: 2 faults",
            "loss.temprature: unknown key; did you mean temperature?",
            "(in every run)",
            "student.hidden: expected widths of at least 1, found 0 (in temprature=1,hidden=0,seed=0, \
             temprature=1,hidden=0,seed=1 and 4 more)",
        ],
    );
    refused(
        "[grid]\nloss.temperature = [2, -1]\nseed = [0, 1, 2]\n[set]\ntrain.epochs = 0\n",
        &[
            "2 faults",
            "loss.temperature: expected more than 0, found -1 (in temperature=-1,seed=0, temperature=-1,seed=1 and 1 more)",
            "train.epochs: expected at least 1, found 0 (in every run)",
        ],
    );
    refused(
        "[grid]\nseeds = []\n[gird]\n",
        &["2 faults", "gird: unknown key; did you mean grid?", "grid.seeds"],
    );
    refused("[grid]\nseed.x = [1]\n", &["seed is a value, not a table"]);
    refused(
        "rank_by = \"valid.kl\"\n[grid]\nseed = [1]\n",
        &["no validation set named \"valid\" (there are: test)"],
    );
    refused("rank_by = \"test.nothing\"\n[grid]\nseed = [1]\n", &["rank_by = \"test.nothing\"", "accuracy"]);
    refused("[grid]\ncache = [\"cache\", \"nothing\"]\n", &["cache", "nothing holds no cache"]);
    let alone = write(case.dir.path(), "alone.toml", "base = \"train.toml\"\n[grid]\nseed = [1]\n");
    case.sweep(&alone, "refused", &[]).refused(&["loss.weights.kl: is 0.7, but there is no cache"]);
    let other = write(case.dir.path(), "other.toml", "base = \"nothing.toml\"\n[grid]\nseed = [1]\n");
    case.sweep(&other, "refused", &[]).refused(&["base: cannot read", "nothing.toml"]);
}

#[test]
fn a_run_that_fails_is_told_and_the_others_go_on() {
    let case = Case::new();
    let keys = "rank_by = \"train_loss\"\njobs = 2\n[set]\ntrain.epochs = 1\n[grid]\nstudent = [\n  { kind = \"mlp\", hidden = [4] },\n  \
                { kind = \"conv\", channels = [1, 1, 1, 1, 1, 1, 1] },\n  { kind = \"conv\", channels = [4] },\n]\n";
    let config = case.config("sweep", keys);
    let said = case.sweep(&config, "out", &[]).code(1);
    let report = said.json();
    assert_eq!(
        (&report["outcome"], states(&report)),
        (&json!("failed"), vec!["trained", "failed", "trained"])
    );
    let failed = &report["points"][1];
    assert!(failed["error"].as_str().unwrap().starts_with("student.channels: 7 blocks"), "{failed}");
    assert!(failed.get("rank").is_none() && failed.get("score").is_none());
    assert!(
        said.err.contains("student=conv-1-1-1-1-1-1-1: failed: student.channels: 7 blocks"),
        "{}",
        said.err
    );
    let table = std::fs::read_to_string(case.out("out/table.md")).unwrap();
    let rows = rows(&table);
    assert_eq!(
        rows.iter().map(|row| row.last().unwrap().as_str()).collect::<Vec<_>>(),
        ["trained", "trained", "failed"]
    );
    let loss = |row: usize| rows[row][2].parse::<f64>().unwrap();
    assert!(loss(0) < loss(1), "{table}");
    // Students are no numbers: bars.
    let plot = std::fs::read_to_string(case.out("out/plot.svg")).unwrap();
    assert_eq!(plot.matches("class=\"bar\"").count(), 2, "{plot}");
    // Two at a time share the cores; a share is written into the run's config.
    let config_of =
        |name: &str| std::fs::read_to_string(case.out("out/runs").join(name).join("config.toml")).unwrap();
    assert!(config_of("student=mlp-4").contains("threads = 1"), "as the base has it");
    // It is tried again, and nothing else is.
    let said = case.sweep(&config, "out", &[]).code(1);
    assert!(said.err.contains("3 of 3: student=conv-1") && !said.err.contains("student=mlp"), "{}", said.err);
}
