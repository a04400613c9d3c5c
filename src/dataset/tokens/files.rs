//! From the entries of `dataset.paths` to files, in an order that every machine agrees on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::TokensError;

/// The files that `entries` stand for, each once.
///
/// Entries keep their order; what one stands for is sorted by path, so that the order does not
/// depend on where a corpus lies or on how the file system lists it. In folders, only files with
/// one of `extensions` (`jsonl`, `jsonl.gz`) count (all files where there are none), nothing hidden, and none of the `cache-*.arrow` that Hugging Face's
/// `datasets` leaves in a dataset's folder.
///
/// # Errors
/// [`TokensError`]: an entry stands for nothing, or cannot be read.
pub fn resolve(entries: &[PathBuf], extensions: &[&str]) -> Result<Vec<PathBuf>, TokensError> {
    let mut files = Vec::new();
    for entry in entries {
        let mut found = Vec::new();
        match std::fs::metadata(entry) {
            Ok(metadata) if metadata.is_dir() => {
                walk(entry, extensions, &mut found)?;
                if found.is_empty() {
                    return Err(TokensError::NoMatch { path: entry.clone(), expected: files_of(extensions) });
                }
            }
            Ok(_) => found.push(entry.clone()),
            // A file whose name has brackets is found above; what is not there may be a pattern.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => expand(entry, &mut found)?,
            Err(source) => return Err(TokensError::Read { path: entry.clone(), source }),
        }
        found.sort();
        files.extend(found);
    }
    let mut seen = HashSet::new();
    // The same file may be reached by several paths.
    files.retain(|file| seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())));
    Ok(files)
}

fn files_of(extensions: &[&str]) -> String {
    let names: Vec<String> = extensions.iter().map(|extension| format!(".{extension}")).collect();
    if names.is_empty() { "files".into() } else { format!("{} files", names.join(", ")) }
}

/// Adds the files below `folder`. A link to a file is followed, a link to a folder is not: it may
/// lead back up.
fn walk(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) -> Result<(), TokensError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| TokensError::Read { path, source }
    };
    // What Hugging Face's `datasets` leaves beside a dataset's own files: results of `map` and `filter`, which hold documents again.
    let state = std::fs::read_to_string(folder.join("state.json")).unwrap_or_default();
    let of_datasets = !state.is_empty() || folder.join("dataset_info.json").exists();
    for entry in std::fs::read_dir(folder).map_err(read(folder))? {
        let entry = entry.map_err(read(folder))?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        // Unless the dataset is made of them, as its state then says.
        let left_behind = name.starts_with("cache-") && name.ends_with(".arrow") && !state.contains(&name);
        if name.starts_with('.') || of_datasets && left_behind {
            continue;
        }
        let kind = entry.file_type().map_err(read(&path))?;
        if kind.is_dir() {
            walk(&path, extensions, found)?;
            continue;
        }
        let of_kind = extensions.is_empty()
            || extensions
                .iter()
                .any(|known| name.strip_suffix(known).is_some_and(|stem| stem.ends_with('.')));
        if of_kind && (kind.is_file() || std::fs::metadata(&path).map_err(read(&path))?.is_file()) {
            found.push(path);
        }
    }
    Ok(())
}

/// Adds the files that match a pattern.
fn expand(entry: &Path, found: &mut Vec<PathBuf>) -> Result<(), TokensError> {
    let missing = || TokensError::Missing { path: entry.to_owned() };
    let pattern = entry.to_str().ok_or_else(missing)?;
    if !pattern.contains(['*', '?', '[']) {
        return Err(missing());
    }
    let wrong = |problem: String| TokensError::Pattern { pattern: pattern.to_owned(), problem };
    let paths = glob::glob(pattern).map_err(|error| wrong(error.to_string()))?;
    for path in paths {
        let path = path.map_err(|error| TokensError::Read {
            path: error.path().to_owned(),
            source: std::io::Error::from(error),
        })?;
        if path.is_file() {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(TokensError::NoMatch { path: entry.to_owned(), expected: files_of(&[]) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[PathBuf], root: &Path) -> Vec<String> {
        files.iter().map(|f| f.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    #[test]
    fn entries_keep_their_order_and_each_file_comes_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("a/deep")).unwrap();
        for name in [
            "b.txt",
            "a/2.txt",
            "a/1.txt",
            "a/deep/0.txt",
            "a/.hidden",
            "a/x.bin",
            "a/3.txt.gz",
            "odd[1].txt",
        ] {
            std::fs::write(root.join(name), "x").unwrap();
        }
        let get = |entries: &[&str], extensions: &[&str]| {
            let entries: Vec<PathBuf> = entries.iter().map(|e| root.join(e)).collect();
            resolve(&entries, extensions).map(|files| names(&files, root))
        };
        assert_eq!(get(&["b.txt", "a"], &["txt"]).unwrap(), ["b.txt", "a/1.txt", "a/2.txt", "a/deep/0.txt"]);
        assert_eq!(
            get(&["a"], &[]).unwrap(),
            ["a/1.txt", "a/2.txt", "a/3.txt.gz", "a/deep/0.txt", "a/x.bin"]
        );
        assert_eq!(get(&["a"], &["txt", "txt.gz"]).unwrap()[2..], ["a/3.txt.gz", "a/deep/0.txt"]);
        assert_eq!(get(&["a/2.txt", "**/[12].txt"], &["txt"]).unwrap(), ["a/2.txt", "a/1.txt"]);
        assert_eq!(get(&["odd[1].txt"], &[]).unwrap(), ["odd[1].txt"]);
        assert_eq!(get(&["b.txt", "./b.txt", "a/../b.txt"], &[]).unwrap(), ["b.txt"]);
        let error = |entries: &[&str], extensions: &[&str]| get(entries, extensions).unwrap_err().to_string();
        assert!(error(&["gone.txt"], &[]).contains("there is no"));
        assert!(error(&["a/*.json"], &[]).contains("expected files for"));
        assert!(error(&["a"], &["jsonl"]).contains("expected .jsonl files for"));
        assert!(error(&["a/[.txt"], &[]).contains("is no pattern"));
    }

    #[cfg(unix)]
    #[test]
    fn links_to_files_are_followed_and_loops_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir(root.join("a")).unwrap();
        std::fs::write(root.join("blob"), "x").unwrap();
        std::os::unix::fs::symlink(root.join("blob"), root.join("a/doc.txt")).unwrap();
        std::os::unix::fs::symlink(root, root.join("a/up")).unwrap();
        std::os::unix::fs::symlink(root.join("gone"), root.join("a/old.bak")).unwrap();
        let files = resolve(&[root.join("a")], &["txt"]).unwrap();
        assert_eq!(names(&files, root), ["a/doc.txt"]);
        // All files are wanted, and of one nobody can tell what it is.
        assert!(resolve(&[root.join("a")], &[]).is_err());
        let both = [root.join("blob"), root.join("a")];
        assert_eq!(names(&resolve(&both, &["txt"]).unwrap(), root), ["blob"]);
    }

    #[test]
    fn what_datasets_leaves_behind_is_no_data() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["data-0.arrow", "cache-1f2e.arrow"] {
            std::fs::write(root.join(name), "").unwrap();
        }
        let found = || names(&resolve(&[root.to_owned()], &["arrow"]).unwrap(), root);
        assert_eq!(found(), ["cache-1f2e.arrow", "data-0.arrow"]);
        std::fs::write(root.join("state.json"), r#"{"_data_files": [{"filename": "data-0.arrow"}]}"#)
            .unwrap();
        assert_eq!(found(), ["data-0.arrow"]);
        std::fs::write(root.join("state.json"), r#"{"_data_files": [{"filename": "cache-1f2e.arrow"}]}"#)
            .unwrap();
        assert_eq!(found().len(), 2);
        // Who names it wants it.
        assert_eq!(resolve(&[root.join("cache-1f2e.arrow")], &["arrow"]).unwrap().len(), 1);
    }
}
