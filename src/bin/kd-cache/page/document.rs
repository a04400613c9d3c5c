//! The page as a whole.

use indicatif::{HumanBytes, HumanCount};
use kd_cache::ops::CacheReport;

use super::{fidelity, provenance, size, targets};
use crate::shared::Markup;

/// Scripts and everything from elsewhere are forbidden by the page itself, too.
const HEAD: &str = "\
<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
";

/// The page about the cache that is called `name`.
pub fn page(report: &CacheReport, name: &str) -> String {
    let mut markup = Markup::default();
    markup.literal(HEAD);
    markup.leaf("title", &[], &format!("{name}: kd-cache report"));
    markup.literal("<style>\n");
    markup.literal(include_str!("style.css"));
    markup.literal("</style>\n</head>\n");
    markup.element("body", &[], |markup| {
        opening(markup, report, name);
        targets::kept_mass(markup, report);
        targets::entropy(markup, report);
        targets::ranks(markup, report);
        targets::labels(markup, report);
        size::size(markup, report);
        fidelity::fidelity(markup, report);
        provenance::section(markup, report);
    });
    markup.literal("\n</html>\n");
    markup.finish()
}

fn opening(markup: &mut Markup, report: &CacheReport, name: &str) {
    let cache = &report.cache;
    markup.leaf("h1", &[], name);
    let tail = match cache.rank {
        _ if cache.draws.is_some() => "nothing of the others".to_owned(),
        _ if cache.k == cache.classes => "no tail".to_owned(),
        0 => "the others as a curve and a prior".to_owned(),
        rank => format!("the others as a curve and a shape of rank {rank}"),
    };
    let kept = match (cache.draws, cache.temperature) {
        (Some(draws), Some(t)) => {
            format!("those that {draws} draws at T = {t} met are kept with their numbers")
        }
        _ => format!("{} are kept exactly", HumanCount(cache.k as u64)),
    };
    let text = format!(
        "Distillation targets of {} samples: {} classes, of which {kept} and {tail}; {}, {:.1} bytes per position.",
        HumanCount(cache.samples),
        HumanCount(cache.classes as u64),
        HumanBytes(cache.bytes),
        cache.bytes_per_position
    );
    markup.leaf("p", &[], &text);
    if !cache.complete {
        let text = format!(
            "Not complete: {} of {} shards. The same kd-cache build goes on; what follows is about the \
             committed shards.",
            cache.shards, cache.expected_shards
        );
        markup.leaf("p", &[("class", "warning")], &text);
    }
    let text = format!(
        "Pictures are of {} of {} positions, drawn with the cache's seed, and of the cache alone: \
         the teacher was not asked again.",
        HumanCount(report.positions),
        HumanCount(cache.positions)
    );
    markup.leaf("p", &[("class", "soft")], &text);
}
