//! The folder of a sweep: what lies where, and who may write into it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::{SweepError, SweepReport};
use crate::durable;

/// Every point.
const REPORT: &str = "sweep.json";
/// The points as a table for people, and as a picture; the program's matter.
const TABLE: &str = "table.md";
const PLOT: &str = "plot.svg";
/// What each run was begun with.
const CONFIGS: &str = "configs";
/// The runs.
const RUNS: &str = "runs";
/// What each said on standard error.
const LOGS: &str = "logs";
/// Held by the sweep at work.
const LOCK: &str = "lock";

/// A sweep on disk.
#[derive(Clone, Debug)]
pub struct SweepFolder(PathBuf);

/// Held while a sweep is at work; the system releases it however the process ends.
#[derive(Debug)]
pub(super) struct SweepLock(File);

impl Drop for SweepLock {
    /// Closing would do, but for a process that is just being started: until it runs, it has a copy of the file.
    fn drop(&mut self) {
        drop(self.0.unlock());
    }
}

impl SweepFolder {
    /// The sweep in `path`.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Every point with what is known of it.
    pub fn report(&self) -> PathBuf {
        self.0.join(REPORT)
    }

    /// The points as a table.
    pub fn table(&self) -> PathBuf {
        self.0.join(TABLE)
    }

    /// The points as a picture.
    pub fn plot(&self) -> PathBuf {
        self.0.join(PLOT)
    }

    /// The folder of the run `name`.
    pub fn run(&self, name: &str) -> PathBuf {
        self.0.join(RUNS).join(name)
    }

    /// Where it lies in the sweep's folder.
    pub(super) fn run_within(name: &str) -> String {
        format!("{RUNS}/{name}")
    }

    /// What the run `name` was begun with.
    pub(super) fn config(&self, name: &str) -> PathBuf {
        self.0.join(CONFIGS).join(format!("{name}.toml"))
    }

    /// What the run `name` said on standard error.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.0.join(LOGS).join(format!("{name}.txt"))
    }

    /// Takes the folder, making it where needed.
    ///
    /// # Errors
    /// [`SweepError::NotASweep`], [`SweepError::Locked`], [`SweepError::Write`].
    pub(super) fn claim(&self) -> Result<SweepLock, SweepError> {
        let ours = [REPORT, TABLE, PLOT, CONFIGS, RUNS, LOGS, LOCK];
        let found = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = found.map(|entry| entry.file_name().to_string_lossy().into_owned());
        if let Some(found) =
            names.into_iter().find(|name| !ours.contains(&name.trim_end_matches(durable::TEMPORARY)))
        {
            return Err(SweepError::NotASweep { path: self.0.clone(), found });
        }
        let write = |path: &Path, source| SweepError::Write { path: path.to_owned(), source };
        for folder in [CONFIGS, RUNS, LOGS] {
            let folder = self.0.join(folder);
            durable::create_folder(&folder).map_err(|source| write(&folder, source))?;
        }
        let path = self.0.join(LOCK);
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(|source| write(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(SweepLock(file)),
            Err(TryLockError::WouldBlock) => Err(SweepError::Locked { path: self.0.clone() }),
            Err(TryLockError::Error(source)) if durable::is_not_offered(&source) => Ok(SweepLock(file)),
            Err(TryLockError::Error(source)) => Err(write(&path, source)),
        }
    }

    /// What an earlier sweep in the folder has written down.
    pub(super) fn earlier(&self) -> Result<Option<SweepReport>, SweepError> {
        let path = self.report();
        let text = durable::if_there(fs::read(&path));
        let text = text.map_err(|source| SweepError::Read { path: path.clone(), source })?;
        let report = text.map(|text| serde_json::from_slice(&text)).transpose();
        report.map_err(|error| SweepError::Read { path, source: error.into() })
    }

    pub(super) fn write_report(&self, report: &SweepReport) -> Result<(), SweepError> {
        let mut text = serde_json::to_vec_pretty(report).map_err(std::io::Error::from);
        let path = self.report();
        let written =
            text.as_mut().map_err(|error| std::io::Error::other(error.to_string())).and_then(|text| {
                text.push(b'\n');
                durable::write_file(&path, text)
            });
        written.map_err(|source| SweepError::Write { path, source })
    }
}
