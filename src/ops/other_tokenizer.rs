//! Whether the data's ids mean what the teacher has learned them as: where a `tokenizer.json` lies beside the teacher, as tools that
//! export one leave it, it is to be the data's.

use super::samples::Samples;
use crate::config::CacheConfig;
use crate::dataset::Tokenizer;

/// What is to be said of the teacher of `config` beside which a tokenizer lies that gives an id of the dataset's another meaning.
pub(super) fn warning(config: &CacheConfig, samples: &Samples) -> Option<String> {
    let Samples::Tokens(dataset) = samples else { return None };
    let path = &config.teacher.path;
    let folder = if path.is_dir() { path } else { path.parent()? };
    let beside = folder.join("tokenizer.json");
    let own = config.dataset.tokenizer()?;
    // Whatever lies there that is none is nobody's concern here.
    let other = Tokenizer::open(&beside).ok()?;
    if dataset.tokenizer()?.digest == other.identity().digest {
        return None;
    }
    let ours = Tokenizer::open(own).ok()?;
    ours.contradicts(&other).then(|| {
        format!(
            "warning: {} lies beside the teacher and means other tokens by the same ids than the dataset's {}: if it is the teacher's \
             own, give it as dataset.tokenizer",
            beside.display(),
            own.display()
        )
    })
}
