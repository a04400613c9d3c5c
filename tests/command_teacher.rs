//! A program as teacher: the built program beside `tests/programs/teacher.py`.

use std::path::{Path, PathBuf};

use crate::common::{build, files, fixture, kd_cache, python_has, repository, talking_build, targets, write};
use kd_cache::cache::CacheReader;
use kd_cache::target::{FeatureBatch, TargetBatch};

/// Rows of up to 8 tokens, the second document across the first two.
const TOKENS: [u16; 20] = [3, 1, 4, 1, 5, 0, 9, 2, 6, 5, 3, 5, 0, 8, 9, 7, 9, 3, 2, 3];

/// Whether python3 can run the program.
fn python() -> bool {
    python_has(&["numpy", "pyarrow"])
}

fn teacher(behaviour: &str) -> String {
    format!(
        "[teacher]\nkind = \"command\"\ncommand = [\"python3\", {:?}]\npath = {behaviour:?}\nbatch = 1\n",
        repository("tests/programs/teacher.py")
    )
}

fn of_tokens(dir: &Path, behaviour: &str) -> PathBuf {
    let tokens = dir.join("tokens.bin");
    std::fs::write(&tokens, TOKENS.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<u8>>())
        .unwrap();
    let text = format!(
        "[dataset]\nkind = \"tokens\"\npaths = [{tokens:?}]\ndtype = \"u16\"\nseparator = 0\nrows = {{ length = 8 }}\n{}\
         [head]\nk = 4\n[tail]\nrank = 0\n[storage]\nvalues = \"f32\"\nshard_samples = 1\n",
        teacher(behaviour)
    );
    write(dir, &format!("{behaviour}.toml"), &text)
}

fn of_images(dir: &Path, behaviour: &str) -> PathBuf {
    let text = format!(
        "[dataset]\nkind = \"idx\"\nimages = {:?}\nlimit = 12\n{}[head]\nk = 4\n[storage]\nvalues = \"f32\"\n",
        fixture("fashion-mnist/train-images-idx3-ubyte.gz"),
        teacher(behaviour).replace("batch = 1", "batch = 5")
    );
    write(dir, "images.toml", &text)
}

/// As the program computes them.
fn logits(a: i64, b: i64) -> Vec<f32> {
    (0..50).map(|j: i64| ((a * 31 + b * 17 + j * (j + 7)) % 97) as f32 / 8.0 - 6.0).collect()
}

#[track_caller]
fn hold(targets: &TargetBatch, asked: &[(i64, i64)]) {
    assert_eq!(targets.rows, asked.len());
    for (row, (a, b)) in asked.iter().enumerate() {
        let logits = logits(*a, *b);
        let mut order: Vec<u32> = (0..50).collect();
        order.sort_by(|x, y| logits[*y as usize].total_cmp(&logits[*x as usize]).then(x.cmp(y)));
        let (ids, values, _) = targets.row(row);
        assert_eq!(ids, &order[..4], "row {row}");
        for (id, value) in ids.iter().zip(values) {
            assert_eq!(*value, logits[*id as usize] - logits[order[0] as usize], "row {row}");
        }
    }
}

#[test]
fn any_program_is_a_teacher_of_tokens() {
    if !python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut asked = Vec::new();
    for row in TOKENS.chunks(8) {
        let mut place = 0;
        for (at, token) in row.iter().enumerate() {
            // A separator ends its document: the next token is the first of another.
            place = if at == 0 || row[at - 1] == 0 { 0 } else { place + 1 };
            asked.push((i64::from(*token), place));
        }
    }
    let mut caches = Vec::new();
    for behaviour in ["f32", "f16", "bf16", "f64", "pieces"] {
        let cache = dir.path().join(behaviour);
        build(&of_tokens(dir.path(), behaviour), &cache, &["teacher.chunk=3"]).code(0);
        kd_cache(&["verify", "--quiet", cache.to_str().unwrap()]).code(0);
        hold(&targets(&cache), &asked);
        caches.push(cache);
    }
    let manifest = CacheReader::open(&caches[2]).unwrap();
    let teacher = &manifest.manifest().teacher;
    assert_eq!((teacher.dtype.as_str(), teacher.runtime.as_str()), ("bf16", "a test's program"));
    assert!(teacher.digest.as_str().starts_with("sha256:"));
    // The same teacher asked again, against what was kept of it.
    let config = of_tokens(dir.path(), "f32");
    let said =
        ["fidelity", caches[0].to_str().unwrap(), "--config", config.to_str().unwrap(), "--format", "json"];
    kd_cache(&said).code(0);
}

/// Fewer classes are left than the head holds, so that some are in it that nobody would draw, and tails far below them: the cache
/// is sound all the same, in every form.
#[test]
fn masked_classes_make_no_cache_unsound() {
    if !python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (values, more) in
        [("f32", "tail.rank=0"), ("f16", "tail.rank=0"), ("quantized", "storage.form=arrow")]
    {
        let cache = dir.path().join(values);
        let set = [&format!("storage.values={values}"), more];
        build(&of_tokens(dir.path(), "masked"), &cache, &set).code(0);
        kd_cache(&["verify", "--quiet", cache.to_str().unwrap()]).code(0);
    }
}

#[test]
fn any_program_is_a_teacher_of_images() {
    if !python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let said = talking_build(&of_images(dir.path(), "pieces"), &cache, &[]).code(0);
    assert!(!said.err.contains("warning"), "{}", said.err);
    // Of one that is not always of the same mind the build warns.
    for (behaviour, words) in
        [("random", "from one time to the next"), ("among", "what else is in the batch")]
    {
        let out = dir.path().join(behaviour);
        let said = talking_build(&of_images(dir.path(), behaviour), &out, &[]).code(0);
        assert!(said.err.contains(words) && said.err.contains("evaluation mode"), "{}", said.err);
    }
    let images = std::fs::read(fixture("fashion-mnist/train-images-idx3-ubyte.gz")).unwrap();
    let mut raw = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&images[..]), &mut raw).unwrap();
    let asked: Vec<(i64, i64)> = raw[16..]
        .chunks(784)
        .take(12)
        .map(|image| (image.iter().map(|byte| i64::from(*byte)).sum(), 0))
        .collect();
    hold(&targets(&cache), &asked);
}

/// Every vector of the only feature of a cache.
fn vectors(cache: &Path) -> FeatureBatch {
    let reader = CacheReader::open(cache).unwrap();
    let mut out = FeatureBatch::default();
    reader.gather_feature(0, &(0..reader.rows()).collect::<Vec<u64>>(), &mut out).unwrap();
    out
}

#[test]
fn a_program_gives_features_beside_its_logits() {
    if !python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let feature = "[[features]]\nname = \"numbers\"\noutput = \"sums\"\n";
    let with_feature = |config: PathBuf| {
        let text = std::fs::read_to_string(&config).unwrap() + feature;
        write(dir.path(), "with.toml", &text)
    };
    for behaviour in ["pieces", "bf16"] {
        let cache = dir.path().join(behaviour);
        build(&with_feature(of_tokens(dir.path(), behaviour)), &cache, &["teacher.chunk=3"]).code(0);
        kd_cache(&["verify", "--quiet", cache.to_str().unwrap()]).code(0);
        let found = vectors(&cache);
        assert_eq!((found.width, found.rows()), (3, TOKENS.len()));
        for (at, token) in TOKENS.iter().enumerate() {
            let [a, b, sum] = found.row(at) else { panic!("{:?}", found.row(at)) };
            assert_eq!((*a, a + b), (f32::from(*token), *sum), "token {at}");
        }
    }
    let cache = dir.path().join("images");
    let set = ["features=[{ name = \"numbers\", output = \"sums\", values = \"i8\" }]"];
    build(&of_images(dir.path(), "pieces"), &cache, &set).code(0);
    let found = vectors(&cache);
    assert_eq!(found.rows(), 12);
    for row in 0..12 {
        let [a, b, sum] = found.row(row) else { panic!("{:?}", found.row(row)) };
        assert!(*a > 1e4 && *b == 0.0 && a == sum, "{:?}", found.row(row));
    }
    let ignorant = dir.path().join("ignorant");
    build(&with_feature(of_tokens(dir.path(), "ignorant")), &ignorant, &[])
        .refused(&["teacher.command", "a column for each of sums behind the logits"]);
    assert!(!ignorant.exists());
}

#[test]
fn a_program_that_dies_is_shown_and_the_build_goes_on() {
    if !python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (cache, whole) = (dir.path().join("cache"), dir.path().join("whole"));
    let config = of_tokens(dir.path(), "f32");
    // Its eighth question: one is for the probe, two for documents, three for the tail model, and one shard is committed.
    let script = repository("tests/programs/teacher.py");
    let dying = format!("teacher.command=[\"python3\", {script:?}, \"dies\"]");
    build(&config, &cache, &[&dying]).refused(&[
        "teacher.command",
        "out of memory, as far as a test can tell",
        "exit status: 7",
        "teacher.py dies",
    ]);
    let committed = std::fs::read_to_string(cache.join("build/shards.jsonl")).unwrap();
    assert_eq!(committed.lines().count(), 1);
    let said = build(&config, &cache, &[]).code(0);
    assert_eq!(said.json()["outcome"], "built", "{}", said.out);
    build(&config, &whole, &[]).code(0);
    assert_eq!(targets(&cache), targets(&whole));
    assert!(files(&cache) == files(&whole), "the bytes of a build that never stopped");
}

/// What it started holds its output, which would be waited for.
#[cfg(target_os = "linux")]
#[test]
fn a_program_that_leaves_others_behind_when_it_dies_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = of_tokens(dir.path(), "f32");
    let left = dir.path().join("left");
    let script = format!("sleep 600 & echo $! > {}; echo no memory >&2; exit 3", left.display());
    let begun = std::time::Instant::now();
    let dying = format!("teacher.command=[\"sh\", \"-c\", {script:?}]");
    build(&config, &dir.path().join("cache"), &[&dying]).refused(&["exit status: 3", "no memory"]);
    assert!(begun.elapsed() < std::time::Duration::from_secs(120), "{:?}", begun.elapsed());
    let left = std::fs::read_to_string(left).unwrap();
    let patience = std::time::Instant::now();
    while std::fs::read_to_string(format!("/proc/{}/stat", left.trim()))
        .is_ok_and(|stat| !stat.contains(") Z"))
    {
        assert!(patience.elapsed() < std::time::Duration::from_secs(10), "{left} lives");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn what_is_no_teacher_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let missing = ["teacher.command=[\"no-such-program\"]"];
    build(&of_tokens(dir.path(), "f32"), &cache, &missing).refused(&[
        "teacher.command",
        "starting it",
        "no-such-program",
    ]);
    build(&of_tokens(dir.path(), "f32"), &cache, &["teacher.command=[]"])
        .refused(&["teacher.command", "found none"]);
    let onnx = ["teacher.kind=onnx"];
    build(&of_tokens(dir.path(), "f32"), &cache, &onnx).refused(&["teacher.command", "remove it"]);
    build(&of_tokens(dir.path(), "f32"), &cache, &["teacher.output=logits"])
        .refused(&["teacher.output", "remove it"]);
    if !python() {
        return;
    }
    for (behaviour, words) in [
        ("prints", &["its greeting", "nothing else there", "\"load\""][..]),
        ("undigested", &["kd_cache.digest", "64 hexadecimal digits"]),
        ("shape", &["expected one column, a fixed-size list of Float32"]),
        ("short", &["expected 8 rows of logits"]),
        ("long", &["expected 8 rows of logits"]),
    ] {
        build(&of_tokens(dir.path(), behaviour), &cache, &[]).refused(words);
    }
    let few = ["teacher.classes=40"];
    build(&of_tokens(dir.path(), "f32"), &cache, &few)
        .refused(&["teacher.classes = 40", "padded_vocabulary"]);
    build(&of_tokens(dir.path(), "f32"), &cache, &["teacher.classes=40", "teacher.padded_vocabulary=true"])
        .code(0);
    assert_eq!(CacheReader::open(&cache).unwrap().manifest().classes, 40);
}
