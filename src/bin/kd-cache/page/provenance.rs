//! What a cache is made of, in words and digests.

use indicatif::{HumanBytes, HumanCount};
use kd_cache::ops::CacheReport;

use super::heading::heading;
use super::table::{Cells, facts, table};
use crate::shared::Markup;

/// Shards listed at most.
const SHOWN: usize = 200;

/// Everything that `kd-cache inspect` says, and the digests behind it.
pub fn section(markup: &mut Markup, report: &CacheReport) {
    let (cache, made_of) = (&report.cache, &report.provenance);
    heading(
        markup,
        "Provenance",
        "As the cache's manifest says; kd-cache verify compares the digests with the files.",
    );
    let complete = if cache.complete {
        "yes".to_owned()
    } else {
        format!("no, {} of {} shards", cache.shards, cache.expected_shards)
    };
    let mut rows = vec![
        ("written by", format!("{}, format {}", cache.created_by, cache.format_version)),
        ("complete", complete),
        ("cache digest", made_of.digest.to_string()),
        ("samples", HumanCount(cache.samples).to_string()),
        ("positions", HumanCount(cache.positions).to_string()),
        ("classes", HumanCount(cache.classes as u64).to_string()),
        ("head", format!("{}, {}", crate::report::head(cache), cache.values)),
        ("tail nodes", crate::report::nodes(cache)),
        ("tail rank", cache.rank.to_string()),
        (
            "size",
            format!(
                "{} in {} shards, {:.2} bytes per position",
                HumanBytes(cache.bytes),
                HumanCount(cache.shards as u64),
                cache.bytes_per_position
            ),
        ),
        ("seed", made_of.seed.to_string()),
    ];
    if let Some(model) = &made_of.tail_model {
        let of = if made_of.tail_model_from.is_some() { " of another cache" } else { "" };
        let fitted = format!("{}, fitted on {} samples{of}", model.file, HumanCount(made_of.fit_samples));
        rows.extend([("tail model", fitted), ("", model.digest.to_string())]);
    }
    if let Some(encoder) = &made_of.encoder {
        rows.extend([("tail encoder", encoder.file.clone()), ("", encoder.digest.to_string())]);
    }
    facts(markup, &rows);
    teacher(markup, report);
    data(markup, report);
    shards(markup, report);
}

fn teacher(markup: &mut Markup, report: &CacheReport) {
    let teacher = &report.provenance.teacher;
    markup.leaf("h3", &[], "Teacher");
    let mut rows = vec![
        ("kind and file", format!("{} {}", teacher.kind, teacher.file)),
        ("digest", teacher.digest.to_string()),
        ("runtime", teacher.runtime.clone()),
        ("device", format!("{}, batches of {}", teacher.device, HumanCount(teacher.batch as u64))),
        ("output", format!("{}, {}", teacher.output_kind, teacher.dtype)),
    ];
    let names = [("input name", &teacher.input), ("output name", &teacher.output)];
    rows.extend(names.into_iter().filter_map(|(key, name)| Some((key, name.clone()?))));
    if let Some(accuracy) = report.cache.teacher_accuracy {
        rows.push(("accuracy", format!("{accuracy:.4} on the cached labels")));
    }
    facts(markup, &rows);
}

fn data(markup: &mut Markup, report: &CacheReport) {
    let dataset = &report.provenance.dataset;
    markup.leaf("h3", &[], "Data");
    let labels = dataset.labels.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let mut rows = vec![
        ("kind", dataset.kind.clone()),
        ("fingerprint", dataset.fingerprint.to_string()),
        ("labels", labels),
        ("sample shape", format!("{:?}", dataset.sample_shape)),
    ];
    if let Some(preprocess) = &report.provenance.preprocess {
        rows.push(("preprocessing", preprocess.config.to_string()));
        rows.push(("", preprocess.digest.to_string()));
    }
    if let Some(augment) = &report.provenance.augment {
        rows.push(("augmentation", augment.config.to_string()));
        rows.push(("", augment.digest.to_string()));
    }
    facts(markup, &rows);
}

fn shards(markup: &mut Markup, report: &CacheReport) {
    let shards = &report.provenance.shards;
    markup.leaf("h3", &[], "Shards");
    markup.element("details", &[], |markup| {
        markup.leaf("summary", &[], &format!("{} files and their digests", HumanCount(shards.len() as u64)));
        let heads = [
            ("file", Cells::Words),
            ("rows", Cells::Numbers),
            ("first sample", Cells::Numbers),
            ("bytes", Cells::Numbers),
            ("digest", Cells::Words),
        ];
        let rows: Vec<Vec<String>> = shards
            .iter()
            .take(SHOWN)
            .map(|shard| {
                vec![
                    shard.file.clone(),
                    HumanCount(shard.rows).to_string(),
                    shard.first_sample.to_string(),
                    HumanCount(shard.bytes).to_string(),
                    shard.digest.to_string(),
                ]
            })
            .collect();
        table(markup, &heads, &rows);
        if shards.len() > SHOWN {
            let more = HumanCount((shards.len() - SHOWN) as u64);
            markup.leaf("p", &[], &format!("and {more} more (--format json has all)"));
        }
    });
}
