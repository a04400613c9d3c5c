//! Interrupted builds: whatever ends them, the next run goes on and ends with the bytes of a build
//! that was never interrupted. And builds that must not go on: others' folders, other settings.

#![cfg(all(unix, feature = "onnx", feature = "torch"))]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::common::{Said, build, build_command, cache_config, files, fixture, kd_cache, talking_build};
use crate::features;
use kd_cache::cache::{CacheWriter, WriterLock, read_manifest};

/// Many small shards, so that there is much to interrupt.
const SHARDS: u64 = 64;
const SET: [&str; 2] = ["storage.shard_samples=8", "teacher.batch=4"];

/// A build that was never interrupted, and what interrupted ones are made from.
struct Case {
    dir: tempfile::TempDir,
    config: PathBuf,
    set: Vec<&'static str>,
    whole: BTreeMap<String, Vec<u8>>,
}

impl Case {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(set: &[&'static str]) -> Self {
        Self::of(|dir| cache_config(dir, "linear.onnx"), set)
    }

    /// Of the config that `config` writes into a folder.
    fn of(config: impl FnOnce(&Path) -> PathBuf, set: &[&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let out = dir.path().join("whole");
        let set = [&SET, set].concat();
        build(&config, &out, &set).code(0);
        let whole = files(&out);
        // Manifest and tail model, and what gives codes.
        let beside = 2 + u64::from(whole.contains_key("encoder.arrow"));
        assert_eq!(whole.len() as u64, SHARDS + beside);
        Self { dir, config, set, whole }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a build in `out`.
    fn start(&self, out: &Path) -> Child {
        build_command(&self.config, out, &self.set).spawn().unwrap()
    }

    /// Starts a build and stops it once `shards` are committed; `None` when it was faster.
    fn interrupted(&self, out: &Path, shards: usize, signal: &str) -> Option<Said> {
        let child = self.start(out);
        wait_for_shards(out, shards);
        send(&child, signal);
        let said = Said::from(child.wait_with_output().unwrap());
        (!out.join("manifest.json").exists()).then_some(said)
    }

    /// As [`Self::interrupted`]; again when the build was faster.
    fn surely_interrupted(&self, out: &Path, shards: usize, signal: &str) -> Said {
        for _ in 0..20 {
            if let Some(said) = self.interrupted(out, shards, signal) {
                return said;
            }
            std::fs::remove_dir_all(out).unwrap();
        }
        panic!("20 builds were all faster than {signal}");
    }

    /// Goes on to the end, and compares.
    #[track_caller]
    fn finish(&self, out: &Path) -> serde_json::Value {
        let report = build(&self.config, out, &self.set).code(0).json();
        let found = files(out);
        assert_eq!(found.keys().collect::<Vec<_>>(), self.whole.keys().collect::<Vec<_>>());
        for (name, bytes) in &found {
            assert!(bytes == &self.whole[name], "{name} differs from that of the uninterrupted build");
        }
        report
    }
}

/// Waits until the journal in `out` has `shards` lines or the build is over.
fn wait_for_shards(out: &Path, shards: usize) {
    let journal = out.join("build/shards.jsonl");
    let begun = Instant::now();
    let committed = || std::fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    while committed() < shards && !out.join("manifest.json").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no shard within a minute");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn send(child: &Child, signal: &str) {
    // A build that has just ended cannot be reached, which is as good.
    drop(Command::new("sh").args(["-c", &format!("kill -{signal} {} 2>/dev/null", child.id())]).status());
}

/// A file as large as is allowed (`ulimit -f`) ends a build with an error, and no signal without a word.
#[test]
fn a_limit_on_files_is_told() {
    let case = Case::new();
    let out = case.out("limited");
    let build = build_command(&case.config, &out, &case.set);
    // 512 bytes each: less than a shard.
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 2; exec \"$@\"", "sh"]).arg(build.get_program()).args(build.get_args());
    let said = Said::from(limited.output().unwrap()).code(2);
    assert!(said.err.contains("cannot write") && said.err.contains("too large"), "{}", said.err);
    case.finish(&out);
}

/// Numbers that look random and are the same everywhere.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn twenty_random_kills_leave_no_trace() {
    let case = Case::new();
    let mut state = 20;
    let (mut kills, mut amid) = (0, 0);
    while kills < 20 {
        assert!(amid < 200, "builds keep ending before they are killed");
        amid += 1;
        let out = case.out(&format!("killed-{amid}"));
        let child = case.start(&out);
        // Some before the first shard (loading, the tail model, the plan), most among the shards.
        if random(&mut state).is_multiple_of(4) {
            std::thread::sleep(Duration::from_millis(random(&mut state) % 60));
        } else {
            wait_for_shards(&out, (random(&mut state) % SHARDS) as usize);
            std::thread::sleep(Duration::from_micros(random(&mut state) % 3000));
        }
        send(&child, "KILL");
        child.wait_with_output().unwrap();
        if out.join("manifest.json").exists() {
            continue;
        }
        kills += 1;
        case.finish(&out);
        std::fs::remove_dir_all(&out).unwrap();
    }
}

/// What gives positions their codes survives with the build.
#[test]
fn codes_go_on_as_they_began() {
    let case = Case::with(&["tail.rank=2"]);
    for shards in [0, 1, 40] {
        let out = case.out(&format!("killed-{shards}"));
        case.surely_interrupted(&out, shards, "KILL");
        case.finish(&out);
    }
    // An encoder that is not the one it began with is found out.
    let out = case.out("changed");
    case.surely_interrupted(&out, 5, "KILL");
    let encoder = out.join("encoder.arrow");
    let mut bytes = std::fs::read(&encoder).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&encoder, bytes).unwrap();
    build(&case.config, &out, &case.set).refused(&["encoder.arrow", "expected sha256:"]);
}

/// Features stand in the same shards as the targets.
#[test]
fn a_killed_build_goes_on_with_its_features() {
    let case = Case::of(|dir| features::config(dir, "features.onnx", features::CELLS), &[]);
    for shards in [0, 1, 30, 60] {
        let out = case.out(&format!("killed-{shards}"));
        case.surely_interrupted(&out, shards, "KILL");
        case.finish(&out);
    }
}

#[test]
fn one_cache_survives_many_kills() {
    let case = Case::new();
    let out = case.out("cache");
    let mut killed = 0;
    for shards in [0, 1, 9, 20, 21, 40, 55] {
        killed += usize::from(case.interrupted(&out, shards, "KILL").is_some());
    }
    assert!(killed >= 3, "only {killed} of 7 builds were killed");
    case.finish(&out);
}

#[test]
fn ctrl_c_ends_with_130_and_the_same_command_goes_on() {
    let case = Case::new();
    for signal in ["INT", "TERM"] {
        let out = case.out(signal);
        let said = case.surely_interrupted(&out, 2, signal).code(130);
        let report = said.json();
        assert_eq!(report["outcome"], "interrupted");
        assert!(said.err.contains("the same command goes on where it was"), "{}", said.err);
        let committed = report["samples_done"].as_u64().unwrap();
        assert!((16..512).contains(&committed), "{committed}");
        // An unfinished cache says so, can be looked at, and is not mistaken for a finished one.
        let inspected = kd_cache(&args!["inspect", out, "--format", "json"]).code(0).json();
        assert_eq!(inspected["complete"], false);
        assert_eq!(inspected["positions"], committed);
        let verified = kd_cache(&args!["verify", out, "--quiet"]).code(1);
        assert!(verified.out.contains("the build is not finished"), "{}", verified.out);
        kd_cache(&args!["fidelity", out, "--config", case.config])
            .refused(&["is incomplete", "run the command that began it again"]);
        let report = case.finish(&out);
        assert_eq!(report["samples_resumed"], committed);
        assert_eq!(report["samples_done"], 512 - committed);
    }
}

#[test]
fn a_second_ctrl_c_ends_a_build_amid_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let (mark, out) = (dir.path().join("mark"), dir.path().join("out"));
    // A teacher that never answers.
    let script = format!("echo $$ > {}; exec sleep 300", mark.display());
    let teacher =
        format!("teacher={{ kind = \"command\", command = [\"sh\", \"-c\", {script:?}], path = \"none\" }}");
    let config = cache_config(dir.path(), "linear.onnx");
    let child = build_command(&config, &out, &[&teacher]).spawn().unwrap();
    let begun = Instant::now();
    let id = loop {
        let id = std::fs::read_to_string(&mark).unwrap_or_default();
        if id.ends_with('\n') {
            break id;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no teacher within a minute");
        std::thread::sleep(Duration::from_millis(5));
    };
    // The first waits for the batch. Of two that come close together one might be lost.
    for _ in 0..2 {
        send(&child, "INT");
        std::thread::sleep(Duration::from_millis(300));
    }
    let said = Said::from(child.wait_with_output().unwrap()).code(130);
    drop(Command::new("kill").arg(id.trim()).status());
    assert!(begun.elapsed() < Duration::from_secs(120), "the teacher was waited for");
    assert_eq!((said.out.as_str(), said.err.trim()), ("", "stopping; once more to stop at once"));
}

#[test]
fn torn_journals_and_lost_shards_are_made_anew() {
    let case = Case::new();
    let journal = |out: &Path| out.join("build/shards.jsonl");
    // A line that was cut while it was written.
    let out = case.out("torn");
    case.surely_interrupted(&out, 3, "KILL");
    let mut file = std::fs::OpenOptions::new().append(true).open(journal(&out)).unwrap();
    file.write_all(br#"{"file":"shards/000"#).unwrap();
    case.finish(&out);
    // Shards that the journal has and the disk lost: missing, cut, changed.
    for damage in ["missing", "cut", "changed"] {
        let out = case.out(damage);
        case.surely_interrupted(&out, 3, "KILL");
        let shard = out.join("shards/00001.arrow");
        match damage {
            "missing" => std::fs::remove_file(&shard).unwrap(),
            "cut" => std::fs::File::options().write(true).open(&shard).unwrap().set_len(100).unwrap(),
            _ => {
                let mut bytes = std::fs::read(&shard).unwrap();
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                std::fs::write(&shard, bytes).unwrap();
            }
        }
        let report = case.finish(&out);
        assert_eq!(report["samples_resumed"], 8, "only the first shard was sound");
    }
}

#[test]
fn a_finished_cache_is_left_alone() {
    let case = Case::new();
    let out = case.out("whole");
    let written = std::fs::metadata(out.join("manifest.json")).unwrap().modified().unwrap();
    let report = build(&case.config, &out, &SET).code(0).json();
    assert_eq!(report["outcome"], "already_complete");
    assert_eq!((&report["samples_done"], &report["samples_resumed"]), (&0.into(), &512.into()));
    assert_eq!(files(&out), case.whole);
    assert_eq!(std::fs::metadata(out.join("manifest.json")).unwrap().modified().unwrap(), written);
}

#[test]
fn there_is_one_writer_at_a_time() {
    let case = Case::new();
    let out = case.out("cache");
    let lock = WriterLock::acquire(&out).unwrap();
    build(&case.config, &out, &SET).refused(&["is being written by another process"]);
    drop(lock);
    case.finish(&out);
}

#[test]
fn other_settings_are_refused_naming_both_values() {
    let case = Case::new();
    let half = case.out("half");
    case.surely_interrupted(&half, 2, "KILL");
    let interrupted = files(&half);
    let other = crate::common::fixture("teachers/softmax.onnx");
    let test_images = crate::common::fixture("fashion-mnist/t10k-images-idx3-ubyte.gz");
    let test_labels = crate::common::fixture("fashion-mnist/t10k-labels-idx1-ubyte.gz");
    let teacher = format!("teacher.path={}", other.display());
    let (images, labels) = (
        format!("dataset.images={}", test_images.display()),
        format!("dataset.labels={}", test_labels.display()),
    );
    let differences: [(&[&str], &[&str]); 9] = [
        (&["head.k=4"], &["head.k: the cache has 3, this build 4"]),
        (&["seed=8"], &["seed: the cache has 7, this build 8"]),
        (&[&teacher], &["teacher.digest: the cache has", "teacher.output_kind: the cache has \"logits\""]),
        (&[&images, &labels], &["dataset.fingerprint", "samples: the cache has 512, this build 256"]),
        (&["preprocess.scale=1.0"], &["preprocess.scale: the cache has 0.0039", "preprocess.digest"]),
        (&["tail.nodes=[0.5,1.0]"], &["tail.nodes: the cache has [0.125,0.25,0.5,0.75,1.0]"]),
        (&["tail.fit_samples=10"], &["tail.fit_samples: the cache has 200, this build 10"]),
        (&["storage.values=f32"], &["storage.values: the cache has \"f16\", this build \"f32\""]),
        (&["storage.shard_samples=16"], &["storage.shard_samples: the cache has 8, this build 16"]),
    ];
    for (change, words) in differences {
        let set: Vec<&str> = SET.iter().chain(change).copied().collect();
        for out in [case.out("whole"), half.clone()] {
            build(&case.config, &out, &set)
                .refused(words)
                .refused(&["was made with other settings", "choose another folder"]);
        }
    }
    assert_eq!(files(&case.out("whole")), case.whole);
    assert_eq!(files(&half), interrupted);
}

/// A whole cache that has lost shards: those are made again, and no others.
#[test]
fn lost_shards_are_made_again() {
    let case = Case::new();
    let out = case.out("lost");
    build(&case.config, &out, &SET).code(0);
    let shard = |number: u32| out.join(format!("shards/{number:05}.arrow"));
    let lose = || {
        for number in [2, 5, 6] {
            std::fs::remove_file(shard(number)).unwrap();
        }
        // Cut, and in its full length but with a byte that is wrong: the latter is found where shards are taken over.
        let bytes = std::fs::read(shard(9)).unwrap();
        std::fs::write(shard(9), &bytes[..bytes.len() / 2]).unwrap();
        let mut bytes = std::fs::read(shard(12)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(shard(12), bytes).unwrap();
    };
    lose();
    let said = talking_build(&case.config, &out, &SET).code(0);
    assert!(said.err.contains("4 of its shards are missing or cut"), "{}", said.err);
    let report = said.json();
    assert_eq!((&report["outcome"], &report["samples_done"]), (&"built".into(), &(5 * 8).into()));
    assert_eq!(report["samples_resumed"], 512 - 5 * 8);
    assert!(files(&out) == case.whole);
    // Nothing is lost of what is asked for here.
    lose();
    let fitted = build_command(&case.config, &out, &SET).arg("--fit-only").output().unwrap();
    assert_eq!(Said::from(fitted).code(0).json()["outcome"], "already_complete");
    assert!(out.join("manifest.json").exists());
    // Interrupted on the way, it goes on.
    let mut plan = read_manifest(&out).unwrap();
    plan.complete = false;
    plan.shards.clear();
    drop(CacheWriter::open_or_mend(&out, plan, 3).unwrap());
    assert!(!out.join("manifest.json").exists() && out.join("build/former.json").exists());
    kd_cache(&args!["inspect", out]).code(0);
    let said = kd_cache(&args!["verify", out, "--quiet"]).code(1);
    assert!(said.out.starts_with("unfinished: "), "{}", said.out);
    build(&case.config, &out, &SET).code(0);
    assert!(files(&out) == case.whole);
    // Other settings make no shard of it.
    std::fs::remove_file(shard(3)).unwrap();
    let other = [&SET[..], &["seed=8"]].concat();
    build(&case.config, &out, &other).refused(&["seed: the cache has 7, this build 8"]);
    assert!(out.join("manifest.json").exists());
    let said = kd_cache(&args!["verify", out, "--quiet"]).code(1);
    assert!(said.out.contains("00003.arrow: cannot be read") && said.out.contains("makes those again"));
    // What lies beside the shards cannot be made again.
    std::fs::remove_file(out.join("tail_model.arrow")).unwrap();
    build(&case.config, &out, &SET).refused(&["tail_model.arrow"]);
}

#[test]
fn a_folder_of_somebody_elses_is_left_alone() {
    let case = Case::new();
    let out = case.out("theirs");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("thesis.tex"), "years of work").unwrap();
    build(&case.config, &out, &SET)
        .refused(&["is not empty and holds no cache (thesis.tex)", "choose another folder"]);
    assert_eq!(files(&out).keys().collect::<Vec<_>>(), ["thesis.tex"]);
    // A file in the place of the folder.
    let file = case.out("theirs/thesis.tex");
    build(&case.config, &file, &SET).refused(&["thesis.tex"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"years of work");
}

#[test]
fn a_batch_that_was_found_out_is_kept() {
    let case = Case::new();
    let auto = [&SET[..], &["teacher.batch=\"auto\""]].concat();
    let wrong = [&SET[..], &["teacher.batch=\"automatic\""]].concat();
    build(&case.config, &case.out("none"), &wrong).refused(&[
        "teacher.batch",
        "from 1 on, or \"auto\"",
        "automatic",
    ]);
    // What is found out stands in the manifest, and is as good as a number in the config.
    let out = case.out("auto");
    build(&case.config, &out, &auto).code(0);
    let manifest: serde_json::Value = serde_json::from_slice(&files(&out)["manifest.json"]).unwrap();
    let found = manifest["teacher"]["batch"].as_u64().unwrap();
    assert!(found.is_power_of_two() && found <= 8, "a power of two within a shard, found {found}");
    let given = format!("teacher.batch={found}");
    let given = [&SET[..], &[given.as_str()]].concat();
    let numbered = case.out("numbered");
    build(&case.config, &numbered, &given).code(0);
    assert_eq!(files(&numbered), files(&out));
    // A model that is made for one size is asked about as many.
    let fixed = case.out("fixed");
    let path = format!("teacher.path={}", fixture("teachers/batch_of_4.onnx").display());
    build(&case.config, &fixed, &[&auto[..], &[&path]].concat()).code(0);
    assert_eq!(read_manifest(&fixed).unwrap().teacher.batch, 4);
    // Whatever would be found out now: a build that was begun goes on as it was begun, and a whole one is whole.
    // (No power of two, which might be found out anew.)
    let odd = Case::with(&["teacher.batch=3"]);
    let begun = odd.out("begun");
    odd.surely_interrupted(&begun, 3, "INT").code(130);
    build(&odd.config, &begun, &auto).code(0);
    assert_eq!(files(&begun), odd.whole);
    let report = build(&odd.config, &begun, &auto).code(0).json();
    assert_eq!(report["outcome"], "already_complete");
}
