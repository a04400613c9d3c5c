//! A run's event files: one for each time that the run was begun or gone on with.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{event, record};
use crate::durable;
use crate::tracking::Line;

/// TensorBoard takes files for its own that have this in their names, and reads them in the order of their names.
const BEFORE: &str = "events.out.tfevents.";

/// The event file of a run that goes on.
#[derive(Debug)]
pub struct EventFile(File);

impl EventFile {
    /// Begins a file in `folder`, after those that are there. `seconds`: since 1970.
    ///
    /// # Errors
    /// Whatever making folder or file returns.
    pub fn begin(folder: &Path, seconds: f64) -> io::Result<Self> {
        durable::create_folder(folder)?;
        let earlier = files(folder)?;
        // A clock that was set back must not change the order.
        let after = earlier.last().and_then(|path| second(path)).unwrap_or(0);
        let name = format!("{BEFORE}{:010}.kd-train.{:04}", (seconds as u64).max(after), earlier.len());
        let path = folder.join(name);
        let mut file = Self(OpenOptions::new().create_new(true).append(true).open(path)?);
        file.write(&event::version(seconds))?;
        Ok(file)
    }

    /// Adds `toml` under the name `config`, for the page of texts.
    ///
    /// # Errors
    /// Whatever writing returns.
    pub fn add_config(&mut self, seconds: f64, toml: &str) -> io::Result<()> {
        let markdown: String = toml.lines().map(|line| format!("    {line}\n")).collect();
        self.write(&event::text(seconds, "config", &markdown))
    }

    /// Adds the figures of a line.
    ///
    /// # Errors
    /// Whatever writing returns.
    pub fn add(&mut self, seconds: f64, line: &Line) -> io::Result<()> {
        self.write(&event::scalars(seconds, line))
    }

    /// In one piece, so that who reads along finds whole records.
    fn write(&mut self, event: &[u8]) -> io::Result<()> {
        self.0.write_all(&record::record(event))
    }

    /// Flushes to the disk.
    ///
    /// # Errors
    /// Whatever flushing returns.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    /// Cuts the files in `folder`, if there are any, to what stood there after `step` and `epochs` whole epochs.
    ///
    /// # Errors
    /// Whatever reading or cutting returns.
    pub fn cut(folder: &Path, step: u64, epochs: u32) -> io::Result<()> {
        for path in files(folder)? {
            let bytes = fs::read(&path)?;
            let mut end = 0;
            while let Some((event, length)) = record::first(&bytes[end..]) {
                let kept = event::place(event).is_some_and(|place| {
                    place.step <= step && place.epoch.is_none_or(|epoch| epoch <= epochs)
                });
                if !kept {
                    break;
                }
                end += length;
            }
            if end < bytes.len() {
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(end as u64)?;
                file.sync_all()?;
            }
        }
        Ok(())
    }
}

/// The event files in `folder`, in their order; none where there is no folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in durable::if_there(fs::read_dir(folder))?.into_iter().flatten() {
        let path = entry?.path();
        if second(&path).is_some() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The second in the name of an event file of ours.
fn second(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(BEFORE)?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracking::LineKind;

    fn of_step(step: u64) -> Line {
        Line::parse(&format!(r#"{{"step":{step},"epoch":1,"train_loss":0.5}}"#), LineKind::Step).unwrap()
    }

    fn of_epoch(step: u64, epoch: u32) -> Line {
        let text =
            format!(r#"{{"step":{step},"epoch":{epoch},"train_loss":0.5,"validation":{{"a":{{"kl":1}}}}}}"#);
        Line::parse(&text, LineKind::EpochBesideSteps).unwrap()
    }

    /// The places of all events in a folder.
    fn places(folder: &Path) -> Vec<(u64, Option<u32>)> {
        let mut found = Vec::new();
        for path in files(folder).unwrap() {
            let bytes = fs::read(path).unwrap();
            let mut at = 0;
            while let Some((event, length)) = record::first(&bytes[at..]) {
                let place = event::place(event).unwrap();
                found.push((place.step, place.epoch));
                at += length;
            }
            assert_eq!(at, bytes.len());
        }
        found
    }

    #[test]
    fn files_are_cut_to_the_step_that_is_gone_back_to() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tensorboard");
        EventFile::cut(&folder, 1, 1).unwrap();
        let mut first = EventFile::begin(&folder, 100.5).unwrap();
        first.add_config(100.5, "seed = 0\n").unwrap();
        for line in [of_step(5), of_step(10), of_epoch(10, 1), of_step(15)] {
            first.add(101.0, &line).unwrap();
        }
        first.sync().unwrap();
        let start = [(0, None), (0, None)];
        let lines = [(5, None), (10, None), (10, Some(1)), (15, None)];
        assert_eq!(places(&folder), [&start[..], &lines[..]].concat());
        // The epoch's last step was kept, and not yet that the epoch is done.
        EventFile::cut(&folder, 10, 0).unwrap();
        assert_eq!(places(&folder), [&start[..], &lines[..2]].concat());
        // Gone on with, by a clock that was set back.
        let mut second = EventFile::begin(&folder, 3.0).unwrap();
        second.add(3.0, &of_epoch(10, 1)).unwrap();
        second.add(3.0, &of_step(15)).unwrap();
        assert_eq!(places(&folder), [&start[..], &lines[..2], &[(0, None)], &lines[2..]].concat());
        // A record that a power cut tore.
        let last = files(&folder).unwrap().pop().unwrap();
        let whole = fs::read(&last).unwrap();
        fs::write(&last, &whole[..whole.len() - 3]).unwrap();
        EventFile::cut(&folder, 99, 9).unwrap();
        assert_eq!(places(&folder), [&start[..], &lines[..2], &[(0, None)], &lines[2..3]].concat());
        EventFile::cut(&folder, 5, 0).unwrap();
        assert_eq!(places(&folder), [&start[..], &lines[..1], &[(0, None)]].concat());
    }
}
