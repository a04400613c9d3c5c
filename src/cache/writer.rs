//! Writes a cache, shard by shard, so that a crash at any moment loses at most the shard at hand.
//!
//! Order of events: tail model, plan, then for each shard the file and its line in the journal,
//! at last the manifest. Each is flushed before the next begins; what has no line in the journal
//! does not exist.

use super::codebook_file::{self, Coding};
use super::contents::check_file;
use super::format::{
    BUILD_FOLDER, CODEBOOK_FILE, ENCODER_FILE, FORMER_FILE, JOURNAL_FILE, MANIFEST_FILE, PLAN_FILE,
    SAMPLE_FILE, SHARDS_FOLDER, TAIL_MODEL_FILE, shard_file,
};
use super::shard_encode::{ShardRows, encode_shard};
use super::{
    CacheError, EncoderTable, FileEntry, Manifest, ShardEntry, WriterLock, durable, journal, tail_file,
};
use crate::digest::Digest;
use crate::encoding::Codebook;
use crate::ids::ShardIndex;
use crate::target::TailModel;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What a build finds out before its first shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beginnings<'a> {
    /// Where tails lie, if the head leaves any.
    pub model: Option<&'a TailModel>,
    /// What gives positions their codes, if the tail model's rank is above 0.
    pub encoder: Option<&'a EncoderTable>,
    /// The codes of positions, if values are quantized.
    pub codebook: Option<&'a Codebook>,
}

/// An open cache under construction; holds the lock.
#[derive(Debug)]
pub struct CacheWriter {
    dir: PathBuf,
    lock: WriterLock,
    plan: Manifest,
    coding: Coding,
    /// The zstd level of Parquet.
    level: i32,
    /// Whether this process made what is there, and may take it away if nothing comes of it.
    planned: bool,
    /// The shards of the whole cache that this was before some of them were lost.
    former: Vec<ShardEntry>,
    /// Those of them that [`Self::missing`] has taken over.
    adopted: Vec<ShardEntry>,
}

/// What was found in the folder.
#[derive(Debug)]
pub enum Found {
    /// A finished cache with the same settings.
    Complete(Box<Manifest>),
    /// Nothing, or an unfinished cache with the same settings.
    Writer(Box<CacheWriter>),
}

impl CacheWriter {
    /// Opens `dir` for a build whose finished manifest will be `plan` (without shards, tail model, codebook
    /// and completeness). `level` is the zstd level of Parquet, which changes bytes but nothing in them.
    ///
    /// # Errors
    /// [`CacheError::Locked`] when another process builds there, [`CacheError::Mismatch`] when
    /// the folder holds a cache with other settings, [`CacheError::Occupied`] when it holds
    /// something else, and errors of reading and writing.
    pub fn open(dir: &Path, plan: Manifest, level: i32) -> Result<Found, CacheError> {
        let manifest_path = dir.join(MANIFEST_FILE);
        if manifest_path.exists() {
            let manifest = Manifest::load(&manifest_path)?;
            refuse_differences(dir, &manifest, &plan)?;
            // What wrote the manifest was ended before it had tidied up, or is about to. The cache is as good with it.
            if dir.join(BUILD_FOLDER).exists()
                && let Ok(lock) = WriterLock::acquire(dir)
            {
                _ = lock.finish();
            }
            return Ok(Found::Complete(Box::new(manifest)));
        }
        let plan_path = dir.join(BUILD_FOLDER).join(PLAN_FILE);
        if !plan_path.exists() {
            refuse_occupied(dir)?;
        }
        let lock = WriterLock::acquire(dir)?;
        if manifest_path.exists() {
            // Somebody finished between the first look and the lock.
            lock.finish()?;
            return Self::open(dir, plan, level);
        }
        let mut writer = Self {
            dir: dir.to_owned(),
            lock,
            plan,
            coding: Coding::default(),
            level,
            planned: plan_path.exists(),
            former: Vec::new(),
            adopted: Vec::new(),
        };
        if writer.planned {
            let found = Manifest::load(&plan_path)?;
            refuse_differences(dir, &found, &writer.plan)?;
            writer.plan = found;
            writer.plan.shards = journal::read(&writer.journal_path())?;
            for entry in writer.plan.files_beside() {
                check_file(dir, &entry.file, entry.bytes, &entry.digest)?;
            }
            writer.coding = Coding::read(dir, &writer.plan)?;
            let former = dir.join(BUILD_FOLDER).join(FORMER_FILE);
            if former.exists() {
                writer.former = Manifest::load(&former)?.shards;
            }
            writer.drop_unsound_shards()?;
        }
        Ok(Found::Writer(Box::new(writer)))
    }

    /// As [`Self::open`]; a finished cache that has lost shards becomes an unfinished one, of which [`Self::missing`] are to be made
    /// again.
    ///
    /// # Errors
    /// As [`Self::open`], and [`CacheError::Damaged`] or [`CacheError::Read`] where a file beside the shards is not there
    /// whole, which nothing can make up for.
    pub fn open_or_mend(dir: &Path, plan: Manifest, level: i32) -> Result<Found, CacheError> {
        match Self::open(dir, plan.clone(), level)? {
            Found::Complete(manifest) if !is_whole(dir, &manifest)? => {
                reopen(dir, *manifest)?;
                Self::open(dir, plan, level)
            }
            found => Ok(found),
        }
    }

    /// Samples in a forward pass of the teacher of the cache that `dir` holds, whole or begun; `None` where it holds none.
    ///
    /// # Errors
    /// Those of reading its manifest.
    pub fn batch_kept_in(dir: &Path) -> Result<Option<usize>, CacheError> {
        let kept = [dir.join(MANIFEST_FILE), dir.join(BUILD_FOLDER).join(PLAN_FILE)];
        let kept = kept.iter().find(|path| path.exists()).map(|path| Manifest::load(path)).transpose()?;
        Ok(kept.map(|manifest| manifest.teacher.batch))
    }

    /// Whether an earlier, interrupted run got so far that what lies beside the shards is written.
    pub fn is_planned(&self) -> bool {
        self.planned
    }

    /// The manifest so far.
    pub fn manifest(&self) -> &Manifest {
        &self.plan
    }

    /// The first shard that is not committed yet.
    pub fn next_shard(&self) -> ShardIndex {
        ShardIndex(u32::try_from(self.plan.shards.len()).unwrap_or(u32::MAX))
    }

    /// The next shards to be made, by their numbers: up to the end, or to one that is still there of the whole cache that this
    /// was before. Those that stand next are taken over first.
    ///
    /// # Errors
    /// [`CacheError::Write`].
    pub fn missing(&mut self) -> Result<Range<u64>, CacheError> {
        while let Some(entry) = self.former.get(self.plan.shards.len())
            && check_file(&self.dir, &entry.file, entry.bytes, &entry.digest).is_ok()
        {
            journal::append(&self.journal_path(), entry)?;
            self.plan.shards.push(entry.clone());
            self.adopted.push(entry.clone());
        }
        let (next, all) = (self.plan.shards.len() as u64, self.plan.expected_shards());
        let there = |at: &u64| {
            let entry = usize::try_from(*at).ok().and_then(|at| self.former.get(at));
            entry.is_some_and(|entry| has_size(&self.dir.join(&entry.file), entry.bytes).unwrap_or(false))
        };
        Ok(next..(next + 1..all).find(there).unwrap_or(all).max(next))
    }

    /// What [`Self::missing`] has taken over.
    pub fn adopted(&self) -> &[ShardEntry] {
        &self.adopted
    }

    /// How many shards are lost of the whole cache that this was before.
    pub fn lost(&self) -> usize {
        let left = self.former.iter().skip(self.plan.shards.len());
        let is_lost =
            |entry: &&ShardEntry| !has_size(&self.dir.join(&entry.file), entry.bytes).unwrap_or(false);
        left.filter(is_lost).count()
    }

    /// A file in the build folder for whatever fits the tail model; it goes with the folder.
    pub fn scratch(&self) -> PathBuf {
        self.dir.join(BUILD_FOLDER).join(SAMPLE_FILE)
    }

    /// Writes what the build found out and the plan. From here on the build can be resumed.
    ///
    /// # Errors
    /// [`CacheError::Write`], [`CacheError::Arrow`].
    pub fn begin(&mut self, found: Beginnings<'_>) -> Result<(), CacheError> {
        durable::create_folder(&self.dir.join(SHARDS_FOLDER))?;
        if let Some(model) = found.model {
            let bytes = tail_file::encode(model, &self.dir.join(TAIL_MODEL_FILE))?;
            self.plan.tail.model = Some(self.write_entry(TAIL_MODEL_FILE.into(), &bytes)?);
        }
        if let Some(encoder) = found.encoder {
            let bytes = tail_file::encode_encoder(encoder, &self.dir.join(ENCODER_FILE))?;
            self.plan.tail.encoder = Some(self.write_entry(ENCODER_FILE.into(), &bytes)?);
        }
        if let Some(codebook) = found.codebook {
            let bytes = codebook_file::encode(codebook, &self.dir.join(CODEBOOK_FILE))?;
            self.plan.storage.codebook = Some(self.write_entry(CODEBOOK_FILE.into(), &bytes)?);
        }
        self.coding = Coding::read(&self.dir, &self.plan)?;
        self.plan.save(&self.dir.join(BUILD_FOLDER).join(PLAN_FILE))?;
        self.planned = true;
        Ok(())
    }

    /// Writes a file of the cache and says what it is.
    fn write_entry(&self, file: String, bytes: &[u8]) -> Result<FileEntry, CacheError> {
        durable::write_file(&self.dir.join(&file), bytes)?;
        Ok(FileEntry { file, bytes: bytes.len() as u64, digest: Digest::of_bytes(bytes) })
    }

    /// Commits the next shard.
    ///
    /// # Errors
    /// [`CacheError::Write`], [`CacheError::Arrow`].
    pub fn commit_shard(&mut self, rows: &ShardRows) -> Result<(), CacheError> {
        let columns = self.plan.columns();
        let file = shard_file(self.next_shard(), columns.form);
        let path = self.dir.join(&file);
        let bytes = encode_shard(rows, &columns, &self.coding, self.level)
            .map_err(|source| CacheError::Arrow { path: path.clone(), source })?;
        durable::write_file(&path, &bytes)?;
        let entry = ShardEntry {
            file,
            rows: rows.sample_ids.len() as u64,
            positions: columns.tokens.map(|_| rows.targets.rows as u64),
            first_sample: rows.sample_ids.first().map_or(0, |id| id.0),
            bytes: bytes.len() as u64,
            digest: Digest::of_bytes(&bytes),
        };
        journal::append(&self.journal_path(), &entry)?;
        self.plan.shards.push(entry);
        Ok(())
    }

    /// Writes the manifest: from here on the cache is complete.
    ///
    /// # Errors
    /// [`CacheError::Incomplete`] when shards are missing, [`CacheError::Write`].
    pub fn finish(mut self) -> Result<Manifest, CacheError> {
        let expected = self.plan.expected_shards();
        if self.plan.shards.len() as u64 != expected {
            return Err(CacheError::Incomplete {
                path: self.dir,
                committed: self.plan.shards.len(),
                expected,
            });
        }
        self.plan.complete = true;
        self.plan.save(&self.dir.join(MANIFEST_FILE))?;
        self.lock.finish()?;
        Ok(self.plan)
    }

    /// Gives up. What was committed stays, to be resumed; if nothing was, nothing is left.
    ///
    /// # Errors
    /// [`CacheError::Write`].
    pub fn abandon(self) -> Result<(), CacheError> {
        if self.planned {
            return Ok(());
        }
        self.lock.finish()?;
        // Both succeed only on empty folders, which is what an unplanned build leaves.
        drop(fs::remove_dir(self.dir.join(SHARDS_FOLDER)));
        drop(fs::remove_dir(&self.dir));
        Ok(())
    }

    fn journal_path(&self) -> PathBuf {
        self.dir.join(BUILD_FOLDER).join(JOURNAL_FILE)
    }

    /// Keeps the committed shards up to the first that is not what the journal says (a disk that
    /// lied about flushing), and rewrites the journal where it was cut or torn.
    fn drop_unsound_shards(&mut self) -> Result<(), CacheError> {
        let (dir, form) = (&self.dir, self.plan.storage.form);
        let sound = |(at, shard): &(usize, ShardEntry)| {
            shard.file == shard_file(ShardIndex(*at as u32), form)
                && check_file(dir, &shard.file, shard.bytes, &shard.digest).is_ok()
        };
        let shards = std::mem::take(&mut self.plan.shards);
        self.plan.shards = shards.into_iter().enumerate().take_while(sound).map(|(_, shard)| shard).collect();
        journal::rewrite(&self.journal_path(), &self.plan.shards)
    }
}

/// Whether all shards of a complete cache are there, as far as their sizes say; what is wrong inside of them is for
/// `kd-cache verify`.
///
/// # Errors
/// [`CacheError::Damaged`], [`CacheError::Read`]: a file beside the shards is not there whole, which nothing can make up for.
fn is_whole(dir: &Path, manifest: &Manifest) -> Result<bool, CacheError> {
    for entry in manifest.files_beside() {
        if !has_size(&dir.join(&entry.file), entry.bytes)? {
            check_file(dir, &entry.file, entry.bytes, &entry.digest)?;
        }
    }
    for entry in &manifest.shards {
        if !has_size(&dir.join(&entry.file), entry.bytes)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the file at `path` is there, and of so many bytes.
fn has_size(path: &Path, bytes: u64) -> Result<bool, CacheError> {
    let found = durable::if_there(path, fs::metadata(path))?;
    Ok(found.is_some_and(|found| found.len() == bytes))
}

/// Makes a complete cache one that is not finished, so that what it has lost is made again. The manifest is moved last, and with
/// it the cache is incomplete.
fn reopen(dir: &Path, manifest: Manifest) -> Result<(), CacheError> {
    let lock = WriterLock::acquire(dir)?;
    let (path, build) = (dir.join(MANIFEST_FILE), dir.join(BUILD_FOLDER));
    if !path.exists() {
        // Somebody else has done it since.
        return Ok(());
    }
    let mut plan = manifest;
    plan.complete = false;
    let mut kept = std::mem::take(&mut plan.shards);
    let there = |entry: &ShardEntry| has_size(&dir.join(&entry.file), entry.bytes).unwrap_or(false);
    kept.truncate(kept.iter().take_while(|entry| there(entry)).count());
    plan.save(&build.join(PLAN_FILE))?;
    journal::rewrite(&build.join(JOURNAL_FILE), &kept)?;
    durable::rename(&path, &build.join(FORMER_FILE))?;
    drop(lock);
    Ok(())
}

/// Refuses to build into a folder with files of somebody else's.
fn refuse_occupied(dir: &Path) -> Result<(), CacheError> {
    for entry in durable::if_there(dir, fs::read_dir(dir))?.into_iter().flatten() {
        let entry = entry.map_err(|source| CacheError::Read { path: dir.to_owned(), source })?;
        // Left by a build that was killed before its plan was written.
        let ours = [BUILD_FOLDER, SHARDS_FOLDER, TAIL_MODEL_FILE, ENCODER_FILE, CODEBOOK_FILE];
        let name = entry.file_name().to_string_lossy().into_owned();
        if !ours.contains(&name.trim_end_matches(durable::TEMPORARY)) {
            return Err(CacheError::Occupied { path: dir.to_owned(), found: name });
        }
    }
    Ok(())
}

/// Refuses to add to a cache that was made with other settings.
fn refuse_differences(dir: &Path, found: &Manifest, wanted: &Manifest) -> Result<(), CacheError> {
    let json = |manifest: &Manifest| {
        let mut identity = manifest.clone();
        // What a build finds out rather than decides, what is for people only, and what another machine has other: a build
        // that goes on there keeps what it began with in its manifest.
        identity.complete = false;
        identity.shards.clear();
        identity.tail.model = None;
        identity.tail.encoder = None;
        identity.storage.codebook = None;
        identity.teacher.file.clear();
        identity.teacher.threads = None;
        identity.created_by.clear();
        serde_json::to_value(identity)
            .map_err(|error| CacheError::Json { path: dir.to_owned(), problem: error.to_string() })
    };
    let mut differences = Vec::new();
    compare("", &json(found)?, &json(wanted)?, &mut differences);
    if differences.is_empty() {
        return Ok(());
    }
    Err(CacheError::Mismatch { path: dir.to_owned(), differences })
}

fn compare(
    key: &str,
    found: &serde_json::Value,
    wanted: &serde_json::Value,
    differences: &mut Vec<(String, String, String)>,
) {
    use serde_json::Value;
    if let (Value::Object(found), Value::Object(wanted)) = (found, wanted) {
        let mut names: Vec<&String> = found.keys().collect();
        names.extend(wanted.keys().filter(|name| !found.contains_key(*name)));
        for name in names {
            let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            let of =
                |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or(Value::Null);
            compare(&inner, &of(found), &of(wanted), differences);
        }
    } else if found != wanted {
        let word = |value: &Value| if value.is_null() { "none".to_owned() } else { value.to_string() };
        differences.push((key.to_owned(), word(found), word(wanted)));
    }
}
