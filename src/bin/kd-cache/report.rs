//! Reports for people.

use std::path::Path;

use indicatif::{HumanBytes, HumanCount};
use kd_cache::cache::FeatureLayout;
use kd_cache::ops::{
    BuildOutcome, BuildReport, CacheReport, ConvertReport, Damage, ExportReport, FidelityReport,
    ImportReport, InspectReport, PlanReport, ShowReport, VerifyReport,
};

/// Head classes shown at most.
const SHOWN: usize = 20;

/// What a build will take.
pub fn plan(report: &PlanReport) -> String {
    let PlanReport { rate, time, .. } = report;
    let mut rows = vec![
        ("positions", format!("{} in {} shards", HumanCount(report.positions), HumanCount(report.shards))),
        ("classes", HumanCount(report.classes as u64).to_string()),
        (
            "teacher",
            format!(
                "{:.0} samples/s by itself ({}, {}; median of {} batches of {})",
                rate.teacher_samples_per_second, report.runtime, report.device, rate.batches, rate.batch
            ),
        ),
        (
            "rate",
            format!(
                "{:.0} samples/s, {:.0} positions/s with reading and selection, one after the other",
                rate.samples_per_second, rate.positions_per_second
            ),
        ),
        (
            "pre-pass",
            match report.fit_samples {
                0 => "none (no tail model and no codes to fit)".to_owned(),
                positions => {
                    format!("{} for {} positions", duration(time.tail_model_hours), HumanCount(positions))
                }
            },
        ),
        (
            "main pass",
            format!("{}; less where cores are to spare, as stages overlap", duration(time.main_pass_hours)),
        ),
        ("time", duration(time.hours)),
    ];
    if let Some(cost) = time.cost {
        rows.push(("cost", format!("{cost:.2}")));
    }
    if let Some(free) = report.free_bytes {
        let verdict = match report.fits() {
            Some(false) if report.scratch_bytes > free => format!(
                ": the sample of the fit will not fit ({}); choose another --out or a smaller tail.fit_samples",
                HumanBytes(report.scratch_bytes)
            ),
            Some(false) => ": the cache will not fit; choose another --out or a smaller head.k".into(),
            _ => String::new(),
        };
        rows.push(("free space", format!("{}{verdict}", HumanBytes(free))));
    }
    let mut text: String = rows.into_iter().map(|(name, value)| format!("{name:<13}{value}\n")).collect();
    text.push_str("\n     k  bytes per position        in all\n");
    for size in &report.sizes {
        let configured = if size.configured { "  head.k of the config" } else { "" };
        let bytes = HumanBytes(size.bytes).to_string();
        text.push_str(&format!(
            "{:>6}  {:>18.2}  {bytes:>12}{configured}\n",
            size.k, size.bytes_per_position
        ));
    }
    text
}

/// What a conversion did.
pub fn convert(report: &ConvertReport, out: &Path) -> String {
    let cache = &report.cache;
    let loss = if report.lossless {
        "every target is the same, bit for bit"
    } else if cache.values.starts_with("quantized") {
        "values were rounded to steps"
    } else {
        "values were rounded to half precision"
    };
    format!(
        "{}: {} samples, {} positions, {}, {:.1} bytes per position ({} before); {loss}\n",
        out.display(),
        HumanCount(cache.samples),
        HumanCount(cache.positions),
        HumanBytes(cache.bytes),
        cache.bytes_per_position,
        HumanBytes(report.bytes_before),
    )
}

/// What was imported.
pub fn import(report: &ImportReport, out: &Path) -> String {
    let cache = &report.cache;
    format!(
        "{}: {} rows, {} positions, {}, {:.1} bytes per position\n{} of {} classes are exact at every position; \
         the files have {:.1} % of the mass at T = 1, and of the rest nothing but its mass is known\n",
        out.display(),
        HumanCount(cache.samples),
        HumanCount(cache.positions),
        HumanBytes(cache.bytes),
        cache.bytes_per_position,
        cache.k,
        HumanCount(cache.classes as u64),
        100.0 * report.mean_mass,
    )
}

/// Hours in a unit that suits them.
fn duration(hours: f64) -> String {
    match hours * 3600.0 {
        seconds if seconds < 90.0 => format!("{seconds:.1} s"),
        seconds if seconds < 5400.0 => format!("{:.1} min", seconds / 60.0),
        _ => format!("{hours:.1} h"),
    }
}

/// What a build did.
pub fn build(report: &BuildReport, out: &Path) -> String {
    let BuildReport { outcome, samples_done, samples_resumed, seconds, cache, .. } = report;
    let out = out.display();
    let one_each = cache.positions == cache.samples || cache.positions == 0;
    let positions =
        if one_each { String::new() } else { format!(", {} positions", HumanCount(cache.positions)) };
    let size = format!(
        "{} samples{positions}, {}, {:.1} bytes per position",
        HumanCount(samples_done + samples_resumed),
        HumanBytes(cache.bytes),
        cache.bytes_per_position
    );
    let rate = match one_each {
        true => format!("{:.0} samples/s", report.samples_per_second),
        false => format!("{:.0} positions/s", report.positions_per_second),
    };
    match outcome {
        BuildOutcome::AlreadyComplete => format!("{out} is complete already: {size}\n"),
        BuildOutcome::Fitted => format!(
            "{out}: tail model and codes are fitted, in {seconds:.1} s; other builds can take them (tail.from), and \
             the same command without --fit-only goes on\n"
        ),
        BuildOutcome::Built | BuildOutcome::Interrupted => {
            let resumed = match samples_resumed {
                0 => String::new(),
                resumed => format!(", {} resumed", HumanCount(*resumed)),
            };
            format!(
                "{out}: {size}\n{} samples predicted{resumed} in {seconds:.1} s, {rate}\n",
                HumanCount(*samples_done)
            )
        }
    }
}

/// What a cache holds.
pub fn inspect(report: &InspectReport) -> String {
    let preprocess =
        report.preprocess.as_ref().map_or_else(|| "none: samples are tokens".to_owned(), ToString::to_string);
    let complete = if report.complete {
        "yes".to_owned()
    } else {
        format!("no, {} of {} shards; the same build goes on", report.shards, report.expected_shards)
    };
    let mut rows = vec![
        ("complete", complete),
        ("samples", HumanCount(report.samples).to_string()),
        ("positions", HumanCount(report.positions).to_string()),
        ("classes", report.classes.to_string()),
        ("head", format!("{}, {}", head(report), report.values)),
        ("tail nodes", nodes(report)),
        ("tail rank", if report.rank == 0 { "0, the prior alone".into() } else { report.rank.to_string() }),
        ("size", format!("{} in {} shards, {}", HumanBytes(report.bytes), report.shards, report.form)),
        ("per position", format!("{:.2} bytes", report.bytes_per_position)),
        (
            "teacher",
            format!(
                "{} ({}), gives {}",
                report.teacher,
                report.runtime,
                report.output_kind.replace('_', "-")
            ),
        ),
        ("", report.teacher_digest.clone()),
        ("dataset", report.dataset_fingerprint.clone()),
        ("preprocess", preprocess),
        ("written by", format!("{}, format {}", report.created_by, report.format_version)),
    ];
    if let Some(accuracy) = report.teacher_accuracy {
        rows.insert(10, ("", format!("accuracy {accuracy:.4} on the cached labels")));
    }
    for feature in report.features.iter().rev() {
        let FeatureLayout { name, output, values, width, .. } = feature;
        rows.insert(
            7,
            ("feature", format!("{name}: {width} numbers, {}, of output {output}", values.as_str())),
        );
    }
    if let Some(augment) = &report.augment {
        rows.insert(rows.len() - 1, ("augment", augment.to_string()));
    }
    rows.into_iter().map(|(name, value)| format!("{name:<13}{value}\n")).collect()
}

/// How large heads are.
pub fn head(report: &InspectReport) -> String {
    match (report.draws, report.temperature, report.mass) {
        (Some(draws), Some(temperature), _) => {
            format!("classes of {draws} draws at T = {temperature}, up to {}", report.k)
        }
        (_, _, Some(mass)) => format!("classes that hold {mass} of the mass at T = 1, up to {}", report.k),
        _ => format!("{} classes", report.k),
    }
}

/// Where tail curves are known.
pub fn nodes(report: &InspectReport) -> String {
    if report.draws.is_some() {
        "none (nothing is kept of what was not drawn)".to_owned()
    } else if report.nodes.is_empty() {
        "none (the head holds every class)".to_owned()
    } else {
        report.nodes.iter().map(f64::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// What is wrong with a cache.
pub fn verify(report: &VerifyReport) -> String {
    let checked = format!("{} files and {} rows checked\n", report.files, HumanCount(report.rows));
    if report.sound {
        return format!("sound: {checked}");
    }
    // That it is not finished is told as the first damage, and may be all there is.
    let unfinished = !report.complete && report.damages.len() == 1 && report.unlisted == 0;
    let mut text = format!("{}: {checked}", if unfinished { "unfinished" } else { "damaged" });
    for damage in &report.damages {
        text.push_str(&format!("  {}", damage.file));
        if let Some(row) = damage.row {
            text.push_str(&format!(", row {row}"));
        }
        if let Some(sample) = damage.sample {
            text.push_str(&format!(" (sample {sample})"));
        }
        text.push_str(&format!(": {}\n", damage.problem));
    }
    if report.unlisted > 0 {
        text.push_str(&format!("  and {} more\n", HumanCount(report.unlisted)));
    }
    let of_shard = |damage: &&Damage| damage.file.starts_with("shards/");
    // What lies beside the shards is made once, and shards mean nothing without it.
    let is_read_with = |damage: &&Damage| {
        damage.file.ends_with(".arrow") && damage.file != "encoder.arrow" && !of_shard(damage)
    };
    if let Some(damage) = report.damages.iter().find(is_read_with) {
        text.push_str(&format!(
            "Keep the shards that are sound: they are read with {}, which is to be had from another copy of the cache; without one, build it anew.\n",
            damage.file
        ));
    }
    if report.damages.iter().any(|damage| of_shard(&damage)) {
        text.push_str("Remove the shards that are damaged: the command that built the cache makes those again that are missing.\n");
    }
    text
}

/// A decoded target.
pub fn show(report: &ShowReport) -> String {
    let mut text =
        format!("sample {}, position {}, T = {}", report.sample, report.position, report.temperature);
    if let Some(label) = report.label {
        text.push_str(&format!(", label {label}"));
    }
    text.push_str("\n   class  probability  logit\n");
    let rows = report.ids.iter().zip(&report.probabilities).zip(&report.logits);
    for ((id, probability), logit) in rows.take(SHOWN) {
        text.push_str(&format!("{id:>8}  {probability:>11.6}  {logit:>8.3}\n"));
    }
    if report.ids.len() > SHOWN {
        text.push_str(&format!("     and {} more (--format json has all)\n", report.ids.len() - SHOWN));
    }
    if report.tail_classes > 0 {
        let classes = HumanCount(report.tail_classes as u64);
        text.push_str(&format!("    tail  {:>11.6}  over {classes} classes\n", report.tail_mass));
    }
    text
}

/// How far targets are from the teacher.
pub fn fidelity(report: &FidelityReport) -> String {
    let mut text = format!(
        "{} positions, {} classes, k = {}, {:.1} bytes per position\n",
        HumanCount(report.positions),
        report.classes,
        report.k,
        report.bytes_per_position
    );
    text.push_str("   T  tail             rms        KL  kept mass  top-1 agreement     drift\n");
    for row in &report.rows {
        let kl = row.kl.map_or_else(|| "inf".to_owned(), |kl| format!("{kl:.5}"));
        text.push_str(&format!(
            "{:>4}  {:<11} {:>8.5}  {kl:>8}  {:>9.4}  {:>15.4}  {:>8.5}\n",
            row.temperature,
            row.tail.as_str(),
            row.rms,
            row.kept_mass,
            row.top1_agreement,
            row.drift
        ));
    }
    text
}

/// What was exported.
pub fn export(report: &ExportReport, out: &Path) -> String {
    let at = report.temperature.map_or_else(String::new, |temperature| format!(" at T = {temperature}"));
    format!(
        "{}: {} rows{at}, {}, with {}\n",
        if out == Path::new("-") { "standard output".to_owned() } else { out.display().to_string() },
        HumanCount(report.rows),
        HumanBytes(report.bytes),
        report.columns.join(", ")
    )
}

/// What page was written.
pub fn page(report: &CacheReport, out: &Path, bytes: usize) -> String {
    format!(
        "{}: {} of {} positions, {}\n",
        out.display(),
        HumanCount(report.positions),
        HumanCount(report.cache.positions),
        HumanBytes(bytes as u64)
    )
}
