//! Whether the data's ids mean what the teacher has learned them as: where a `tokenizer.json` lies beside the teacher, as tools that
//! export one leave it, it is to be the data's.

use std::path::Path;

use super::samples::Samples;
use crate::dataset::Tokenizer;

/// What is to be said of a teacher in `path` beside which another tokenizer lies than that of `samples`.
pub(super) fn warning(path: &Path, samples: &Samples) -> Option<String> {
    let Samples::Tokens(dataset) = samples else { return None };
    let own = dataset.tokenizer()?;
    let folder = if path.is_dir() { path } else { path.parent()? };
    let beside = folder.join("tokenizer.json");
    // Whatever lies there that is none is nobody's concern here.
    let other = Tokenizer::open(&beside).ok()?;
    (other.identity().digest != own.digest).then(|| {
        format!(
            "warning: {} lies beside the teacher and is another tokenizer than the dataset's {}: the teacher takes the same ids for other \
             tokens, if that is its own. Give it as dataset.tokenizer",
            beside.display(),
            own.file
        )
    })
}
