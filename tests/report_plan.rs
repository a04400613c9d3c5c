//! `kd-cache report` and `kd-cache plan`: a page that is whole and safe, numbers that are the cache's, and
//! sizes that a build then has.

use std::path::Path;

use crate::common::{Said, kd_cache, kd_cache_command, write};
use crate::synthetic::Synthetic;
use kd_cache::cache::format::{FILE_OVERHEAD_BYTES, tail_model_bytes};
use kd_cache::cache::{Beginnings, EncoderTable, Manifest};
use kd_cache::config::{FeatureValues, ValueEncoding};
use kd_cache::ops::{FidelityReport, FidelityRow};
use kd_cache::target::{TailHandling, TailModel, TailPrior, TailShape};
use serde_json::{Value, json};

/// The data that `report` prints, and that its second run prints again.
fn report(cache: &Path, more: &[&str]) -> Value {
    let run = || {
        let mut command = kd_cache_command(&args!["report", cache, "--format", "json", "--quiet"]);
        Said::from(command.args(more).output().unwrap()).code(0)
    };
    let said = run();
    assert_eq!((said.err.as_str(), &said.out), ("", &run().out));
    said.json()
}

/// The page that `report` writes to standard output.
fn page(cache: &Path, more: &[&str]) -> String {
    let mut command = kd_cache_command(&args!["report", cache, "--out", "-", "--quiet"]);
    let page = Said::from(command.args(more).output().unwrap()).code(0).out;
    check_page(&page);
    page
}

/// Every element is closed where it should be, and nothing runs or is fetched.
fn check_page(page: &str) {
    let mut open = Vec::new();
    // Style sheets hold no markup.
    let (before, style) = page.split_once("<style>").unwrap();
    let (style, after) = style.split_once("</style>").unwrap();
    for rest in before.split('<').chain(after.split('<')).skip(1) {
        let Some((tag, _)) = rest.split_once('>') else { continue };
        let name = tag.split_whitespace().next().unwrap();
        for word in [" src=", " href=", " style=", " on"] {
            assert!(!tag.contains(word), "{tag}");
        }
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None if ["!doctype", "meta"].contains(&name) => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for name in ["script", "img", "iframe", "object", "link", "a"] {
        assert!(!page.contains(&format!("<{name} ")) && !page.contains(&format!("<{name}>")), "{name}");
    }
    for word in ["url(", "@import", "http"] {
        assert!(!style.contains(word), "{word}");
    }
    assert!(style.contains("prefers-color-scheme: dark") && page.contains("default-src 'none'"));
    assert!(!after.contains("NaN") && !after.contains("inf"), "{after}");
}

fn softmax(z: &[f32], temperature: f64) -> Vec<f64> {
    let e: Vec<f64> = z.iter().map(|z| (f64::from(*z) / temperature).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

#[test]
fn numbers_are_those_of_the_logits() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing is lost: what is reported is the teacher's own but for the rounding of f32.
    let synthetic =
        Synthetic { samples: 40, classes: 6, k: 6, values: ValueEncoding::F32, ..Synthetic::fixture() };
    synthetic.write(dir.path());
    let said = report(dir.path(), &[]);
    assert_eq!((&said["positions"], &said["cache"]["positions"]), (&json!(40), &json!(40)));
    let logits = synthetic.logits();
    let close = |found: &Value, expected: f64| {
        let found = found.as_f64().unwrap();
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    };
    for shape in said["shapes"].as_array().unwrap() {
        let t = shape["temperature"].as_f64().unwrap();
        let targets: Vec<Vec<f64>> = logits.chunks(6).map(|z| softmax(z, t)).collect();
        let entropies: Vec<f64> =
            targets.iter().map(|p| p.iter().map(|p| -p * p.ln()).sum::<f64>()).collect();
        close(&shape["entropy"]["mean"], entropies.iter().sum::<f64>() / 40.0);
        let counts = shape["entropy_histogram"]["counts"].as_array().unwrap();
        assert_eq!(counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 40);
        close(&shape["entropy_histogram"]["to"], 6f64.ln());
        for (rank, found) in shape["ranks"].as_array().unwrap().iter().enumerate() {
            let mean: f64 = targets
                .iter()
                .map(|p| {
                    let mut p = p.clone();
                    p.sort_by(|a, b| b.total_cmp(a));
                    p[rank] / 40.0
                })
                .sum();
            close(&found["mean"], mean);
        }
        assert_eq!((&shape["tail"], &shape["further_ranks"]), (&json!(0.0), &json!(0.0)));
    }
    for kept in said["kept_mass"].as_array().unwrap() {
        close(&kept["kept"]["p5"], 1.0);
    }
    // Every label is somewhere in a head that holds every class.
    let targets = synthetic.targets();
    let mut ranks = [0u64; 6];
    for sample in 0..40 {
        let label = synthetic.label(sample);
        let head = targets.row(sample as usize).0;
        ranks[head.iter().position(|class| *class == label).unwrap()] += 1;
    }
    assert_eq!(said["labels"], json!({ "ranks": ranks, "further_ranks": 0, "outside": 0 }));
}

#[test]
fn a_tail_is_told_apart_from_the_head() {
    let dir = tempfile::tempdir().unwrap();
    let synthetic = Synthetic { samples: 300, classes: 50, k: 20, shard_samples: 64, ..Synthetic::fixture() };
    synthetic.write(dir.path());
    let said = report(dir.path(), &["--samples", "200"]);
    assert_eq!(said["positions"], 200);
    let kept = |at: usize| said["kept_mass"][at]["kept"]["mean"].as_f64().unwrap();
    let temperatures: Vec<f64> = said["kept_mass"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["temperature"].as_f64().unwrap())
        .collect();
    assert_eq!(temperatures, [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0]);
    // The higher the temperature, the less the head holds, down to its share of the classes.
    assert!((1..9).all(|at| kept(at) < kept(at - 1)) && kept(8) > 0.4, "{said:#}");
    for (shape, at) in [(&said["shapes"][0], 0), (&said["shapes"][1], 4)] {
        assert_eq!(shape["temperature"].as_f64().unwrap(), temperatures[at]);
        let ranks = shape["ranks"].as_array().unwrap();
        assert_eq!(ranks.len(), 16);
        let head = ranks.iter().map(|rank| rank["mean"].as_f64().unwrap()).sum::<f64>()
            + shape["further_ranks"].as_f64().unwrap();
        assert!((head - kept(at)).abs() < 1e-9);
        assert!((head + shape["tail"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    }
    let labels = &said["labels"];
    let counted = labels["ranks"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>()
        + labels["further_ranks"].as_u64().unwrap()
        + labels["outside"].as_u64().unwrap();
    assert_eq!(counted, 200);
    assert!(labels["outside"].as_u64().unwrap() > 0);
    let page = page(dir.path(), &["--samples", "200"]);
    for word in [">17+<", ">tail<", "200 of 300 positions"] {
        assert!(page.contains(word), "{word:?} is not in:\n{page}");
    }
}

#[test]
fn sizes_by_column_are_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = Synthetic::fixture().write(dir.path());
    let said = report(dir.path(), &[]);
    let size = &said["size"];
    assert_eq!(size["bytes"], manifest.bytes());
    let columns: Vec<(&str, u64)> = size["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| (column["column"].as_str().unwrap(), column["bytes"].as_u64().unwrap()))
        .collect();
    // 12 rows of 4 classes and 5 nodes.
    let rows = [
        ("sample_id", 12 * 8),
        ("view", 12 * 2),
        ("label", 12 * 4),
        ("head_ids", 12 * 4),
        ("head_values", 12 * 4 * 2),
        ("tail_curve", 12 * 5 * 2),
    ];
    assert_eq!(columns[..6], rows);
    assert_eq!(columns[6].0, "tail_model");
    assert_eq!(columns[7].0, "framing");
    assert_eq!(columns.iter().map(|(_, bytes)| bytes).sum::<u64>(), manifest.bytes());
}

#[test]
fn a_row_and_the_overhead_explain_every_shard() {
    let many: Vec<f64> = (1..=16).map(|node| f64::from(node) / 16.0).collect();
    let features = vec![(FeatureValues::F16, 7), (FeatureValues::I8, 1), (FeatureValues::I8, 100)];
    for (classes, k, nodes, rank) in [
        (20, 4, vec![1.0], 0),
        (300, 64, many.clone(), 0),
        (70_000, 3, many, 0),
        (20, 20, vec![1.0], 0),
        (20, 4, vec![0.5, 1.0], 1),
        (300, 3, vec![1.0], 128),
    ] {
        for values in [ValueEncoding::F16, ValueEncoding::F32] {
            for (labelled, shard_samples) in [(true, 1), (false, 7), (true, 64)] {
                let dir = tempfile::tempdir().unwrap();
                let samples = shard_samples + shard_samples / 2;
                let nodes = nodes.clone();
                let synthetic = Synthetic {
                    samples,
                    classes,
                    k,
                    nodes,
                    values,
                    shard_samples,
                    labelled,
                    rank,
                    features: if rank == 1 { features.clone() } else { Vec::new() },
                    ..Synthetic::fixture()
                };
                let mut writer = synthetic.open(dir.path());
                // Another model and other codes have as many bytes, and no fit to wait for.
                let model = (k < classes).then(|| {
                    let weights = vec![0.0; classes * synthetic.nodes.len()];
                    let prior = TailPrior::new(synthetic.tail_nodes(), classes, weights).unwrap();
                    let basis = vec![0.0; classes * rank];
                    let shape = (rank > 0).then(|| TailShape::new(prior.clone(), rank, basis).unwrap());
                    TailModel::new(prior, shape).unwrap()
                });
                let zeros = vec![0.0; classes];
                let encoder = (rank > 0).then(|| EncoderTable { mean: zeros.clone(), weights: zeros });
                let (model, encoder) = (model.as_ref(), encoder.as_ref());
                writer.begin(Beginnings { model, encoder, codebook: None }).unwrap();
                for mut shard in (Synthetic { rank: 0, ..synthetic.clone() }).shards() {
                    shard.targets.rank = rank;
                    shard.targets.codes = vec![0; rank * shard.targets.rows];
                    writer.commit_shard(&shard).unwrap();
                }
                let manifest = writer.finish().unwrap();
                let columns = manifest.columns();
                for shard in &manifest.shards {
                    let beside = shard.bytes - columns.bytes_per_row().unwrap() * shard.rows;
                    assert!(
                        (1..=columns.overhead_bytes()).contains(&beside),
                        "{beside} beside rows of {columns:?}"
                    );
                }
                let files: Vec<u64> = manifest.files_beside().map(|file| file.bytes).collect();
                if !files.is_empty() {
                    let at_most = tail_model_bytes(classes, columns.nodes, columns.rank);
                    let at_least = at_most - files.len() as u64 * FILE_OVERHEAD_BYTES;
                    assert!((at_least..=at_most).contains(&files.iter().sum()), "{files:?}");
                }
            }
        }
    }
}

#[test]
fn the_page_has_every_picture_and_goes_where_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    Synthetic::fixture().write(&cache);
    let said = kd_cache_command(&args!["report", cache]).current_dir(dir.path()).output().unwrap();
    let said = Said::from(said).code(0);
    assert!(said.out.starts_with("cache-report.html: 12 of 12 positions, "), "{}", said.out);
    assert!(said.err.contains("report: 12 of 12 samples"), "{}", said.err);
    let written = std::fs::read_to_string(dir.path().join("cache-report.html")).unwrap();
    assert_eq!(written, page(&cache, &[]), "the same bytes wherever they go");
    for title in [
        "Mass kept by the head",
        "Entropy of the target",
        "Entropy at T = 1",
        "Entropy at T = 4",
        "Probability by rank in the head",
        "Rank of the label in the head",
        "Size by column",
        "Fidelity",
        "Provenance",
    ] {
        assert!(written.contains(&format!(">{title}<")), "{title}");
    }
    assert_eq!(written.matches("<svg ").count(), 7);
    assert_eq!(written.matches("role=\"img\"").count(), 7);
    // Fidelity takes the teacher: the page says how to get it.
    assert!(written.contains("kd-cache fidelity DIR --config FILE --format json &gt; fidelity.json"));
    // Whatever `inspect` says stands in it.
    let inspected = kd_cache(&args!["inspect", cache, "--format", "json"]).code(0).json();
    for key in ["created_by", "teacher", "teacher_digest", "runtime", "dataset_fingerprint"] {
        assert!(written.contains(inspected[key].as_str().unwrap()), "{key}");
    }
    let manifest: Manifest =
        serde_json::from_slice(&std::fs::read(cache.join("manifest.json")).unwrap()).unwrap();
    for digest in [
        &manifest.preprocess.as_ref().unwrap().digest,
        &manifest.shards[2].digest,
        &manifest.digest().unwrap(),
    ] {
        assert!(written.contains(digest.as_str()), "{digest}");
    }
    // A cache without labels and without a tail has less to show, and says so.
    let whole = dir.path().join("whole");
    Synthetic { k: 20, labelled: false, ..Synthetic::fixture() }.write(&whole);
    let whole = page(&whole, &[]);
    for word in [
        "This cache has no labels.",
        "none (the head holds every class)",
        ">17+<",
        "no tail",
        "all of the mass",
    ] {
        assert!(whole.contains(word), "{word:?} is not in:\n{whole}");
    }
    assert!(!whole.contains(">tail<"), "{whole}");
    // A folder that nobody can write to.
    kd_cache(&args!["report", cache, "--quiet", "--out", dir.path().join("no/such/page.html")])
        .refused(&["--out: cannot write", "page.html"]);
    kd_cache(&args!["report", cache, "--quiet", "--out", "-", "--format", "json"])
        .refused(&["--out: --format json prints the data"]);
    kd_cache(&args!["report", dir.path().join("nothing")]).refused(&["holds no cache"]);
    kd_cache(&args!["report", cache, "--samples", "0"]).refused(&["--samples"]);
}

#[test]
fn what_a_stranger_wrote_stays_text() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "</title></style></td><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u{202e}\u{7}";
    let cache = dir.path().join("<b onclick=x>cache");
    let mut manifest = Synthetic::fixture().write(&cache);
    manifest.created_by = evil.into();
    manifest.teacher.file = evil.into();
    manifest.teacher.runtime = evil.into();
    manifest.teacher.device = evil.into();
    manifest.teacher.dtype = evil.into();
    manifest.teacher.output_kind = evil.into();
    manifest.teacher.input = Some(evil.into());
    manifest.teacher.output = Some(evil.into());
    manifest.dataset.kind = evil.into();
    std::fs::write(cache.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let page = page(&cache, &[]);
    let safe = "&lt;/title&gt;&lt;/style&gt;&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x \
                onerror=alert(1)&gt;&quot;&#39;&amp;\u{fffd}\u{fffd}";
    assert_eq!(page.matches(safe).count(), 9, "{page}");
    assert!(page.contains("<h1>&lt;b onclick=x&gt;cache</h1>"));
}

#[test]
fn unfinished_and_damaged_caches() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let synthetic = Synthetic::fixture();
    let mut writer = synthetic.begin(&cache);
    kd_cache(&args!["report", cache, "--quiet"]).refused(&["has no committed shard yet", "kd-cache build"]);
    let shards = synthetic.shards();
    writer.commit_shard(&shards[0]).unwrap();
    assert_eq!(report(&cache, &[])["cache"]["complete"], false);
    assert!(page(&cache, &[]).contains("Not complete: 1 of 3 shards."));
    // No tail model, and so nothing that vouches for so many classes.
    let plan = cache.join("build/plan.json");
    let text = std::fs::read_to_string(&plan).unwrap();
    let mut forged: Value = serde_json::from_str(&text).unwrap();
    (forged["classes"], forged["storage"]["ids"]) = (json!(4_000_000_000u32), json!("u32"));
    forged["tail"].as_object_mut().unwrap().remove("model");
    std::fs::write(&plan, forged.to_string()).unwrap();
    kd_cache(&args!["report", cache, "--quiet"]).refused(&["tail.model: expected a file"]);
    std::fs::write(&plan, text).unwrap();
    // Finite numbers that are no logits: nobody has verified this cache.
    let mut wild = shards[1].clone();
    wild.targets.values[3] = 60_000.0;
    writer.commit_shard(&wild).unwrap();
    kd_cache(&args!["report", cache, "--quiet"]).refused(&["sample 5", "T = 1", "kd-cache verify"]);
}

#[test]
fn fidelity_is_drawn_when_it_is_this_caches() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let manifest = Synthetic::fixture().write(&cache);
    let bytes_per_position = manifest.bytes() as f64 / 12.0;
    let rows = [1.0, 2.0, 4.0].into_iter().flat_map(|temperature| {
        TailHandling::ALL.map(|tail| FidelityRow {
            tail,
            temperature,
            rms: if tail == TailHandling::Prior { 0.0 } else { 0.0123 * temperature },
            kl: (tail != TailHandling::Renormalize).then_some(0.5),
            kept_mass: 0.9,
            top1_agreement: 1.0,
            drift: 0.25,
        })
    });
    let fidelity =
        FidelityReport { positions: 12, classes: 20, k: 4, bytes_per_position, rows: rows.collect() };
    let give = |change: fn(&mut Value)| {
        let mut fidelity = serde_json::to_value(&fidelity).unwrap();
        change(&mut fidelity);
        let file = write(dir.path(), "fidelity.json", &fidelity.to_string());
        kd_cache(&args!["report", cache, "--quiet", "--out", "-", "--fidelity", file])
    };
    let page = give(|_| {}).code(0).out;
    check_page(&page);
    assert_eq!(page.matches("<svg ").count(), 8);
    for word in ["0.04920", "∞", ">renormalize<", "Measured on 12 positions"] {
        assert!(page.contains(word), "{word:?} is not in:\n{page}");
    }
    give(|f| f["k"] = json!(5)).refused(&["--fidelity", "fidelity.json", "k: this one has 4, the file 5"]);
    give(|f| f["bytes_per_position"] = json!(33.5)).refused(&["another cache: bytes per position"]);
    give(|f| f["rows"][0]["temperature"] = json!(-1.0)).refused(&["fidelity.json", "temperature -1"]);
    give(|f| f["rows"] = json!("none")).refused(&["what kd-cache fidelity --format json prints"]);
    let missing = dir.path().join("missing.json");
    kd_cache(&args!["report", cache, "--quiet", "--fidelity", missing])
        .refused(&["--fidelity: cannot read", "missing.json"]);
}

#[cfg(all(feature = "onnx", feature = "torch"))]
mod plan {
    use super::*;
    use crate::common::{build, cache_config, files};

    fn plan(config: &Path, more: &[&str]) -> Said {
        let mut command = kd_cache_command(&args!["plan", "--config", config, "--quiet"]);
        Said::from(command.args(more).output().unwrap())
    }

    #[test]
    fn a_plan_writes_nothing_and_a_build_has_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let config = cache_config(dir.path(), "linear.onnx");
        let out = dir.path().join("cache");
        let before = files(dir.path());
        let said =
            plan(&config, &["--format", "json", "--price-per-hour", "7200", "--out", out.to_str().unwrap()]);
        let said = said.code(0).json();
        assert_eq!(files(dir.path()), before);
        assert!(!out.exists());
        for (key, value) in [
            ("samples", json!(512)),
            ("positions", json!(512)),
            ("classes", json!(10)),
            ("fit_samples", json!(200)),
            ("shards", json!(6)),
            ("device", json!("cpu")),
        ] {
            assert_eq!(said[key], value, "{key}");
        }
        let rate = |key: &str| said["rate"][key].as_f64().unwrap();
        assert_eq!((rate("batches"), rate("batch")), (8.0, 32.0));
        assert!(rate("teacher_samples_per_second") >= rate("samples_per_second"));
        assert_eq!(rate("samples_per_second"), rate("positions_per_second"));
        let time = |key: &str| said["time"][key].as_f64().unwrap();
        assert!((time("main_pass_hours") - 512.0 / rate("samples_per_second") / 3600.0).abs() < 1e-12);
        assert!((time("tail_model_hours") * 512.0 / 200.0 - time("main_pass_hours")).abs() < 1e-12);
        assert!((time("cost") - 7200.0 * time("hours")).abs() < 1e-9);
        assert!(said["free_bytes"].as_u64().unwrap() > 0);
        let sizes: Vec<(u64, bool)> = said["sizes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|size| (size["k"].as_u64().unwrap(), size["configured"].as_bool().unwrap()))
            .collect();
        assert_eq!(sizes, [(3, true), (4, false), (8, false)], "all below the 10 classes");
        for k in [3, 4] {
            let cache = dir.path().join(k.to_string());
            let built = build(&config, &cache, &[&format!("head.k={k}")]).code(0).json();
            let bytes = built["cache"]["bytes"].as_u64().unwrap();
            let planned = said["sizes"].as_array().unwrap().iter().find(|size| size["k"] == k).unwrap();
            let planned = planned["bytes"].as_u64().unwrap();
            // Six shards and a tail model, each with less overhead than is planned for.
            assert!((bytes..=bytes + 7 * FILE_OVERHEAD_BYTES).contains(&planned), "{planned} for {bytes}");
        }
    }

    #[test]
    fn plans_for_people_and_what_they_refuse() {
        let dir = tempfile::tempdir().unwrap();
        let config = cache_config(dir.path(), "linear.onnx");
        let text = plan(&config, &["--batches", "3"]).code(0).out;
        for word in [
            "512 in 6 shards",
            "samples/s",
            "positions/s",
            "median of 3 batches of 32",
            "head.k of the config",
            "33",
        ] {
            assert!(text.contains(word), "{word:?} is not in:\n{text}");
        }
        assert!(!text.contains("cost") && !text.contains("free space"), "{text}");
        // Two bytes for each logit of the sample, where tails have codes.
        for (rank, bytes) in [("tail.rank=0", 0), ("tail.rank=2", 200 * 10 * 2)] {
            let said = plan(&config, &["--set", rank, "--format", "json"]).code(0).json();
            assert_eq!(said["scratch_bytes"], bytes, "{rank}");
        }
        let text =
            plan(&config, &["--price-per-hour", "2", "--out", dir.path().to_str().unwrap()]).code(0).out;
        assert!(text.contains("cost ") && text.contains("free space"), "{text}");
        // The head holds every class: no tail model; more samples a batch than there are.
        let whole = plan(
            &config,
            &[
                "--set",
                "head.k=10",
                "--set",
                "dataset.limit=20",
                "--set",
                "teacher.batch=64",
                "--format",
                "json",
            ],
        );
        let whole = whole.code(0).json();
        assert_eq!((&whole["fit_samples"], &whole["time"]["tail_model_hours"]), (&json!(0), &json!(0.0)));
        assert_eq!(whole["rate"]["batch"], 20);
        let last = &whole["sizes"][2];
        assert_eq!((&last["k"], &last["configured"]), (&json!(10), &json!(true)));
        assert_eq!(last["bytes_per_position"], f64::from(8 + 2 + 4 + 10 * 3), "no curve");
        // What would stop the build stops the plan.
        plan(&config, &["--set", "head.k=11"]).refused(&["head.k", "10 classes", "11"]);
        plan(&config, &["--set", "teacher.path=missing.onnx"]).refused(&["teacher.path", "missing.onnx"]);
        for price in ["-1", "nan", "inf"] {
            plan(&config, &[&format!("--price-per-hour={price}")]).refused(&["--price-per-hour: expected"]);
        }
        plan(&config, &["--batches", "0"]).refused(&["--batches"]);
    }
}
