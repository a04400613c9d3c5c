//! One run in a process of its own.
//!
//! It is asked to stop by the end of its standard input, which this process holds: so it also stops, and keeps its
//! state, when this process is killed. Its standard error goes to a file that it keeps locked, so that nobody takes
//! its folder before it has gone.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Instant;

use super::SweepError;
use crate::durable::is_not_offered;

/// Exit code of a run that was interrupted.
const INTERRUPTED: i32 = 130;
/// Characters of what a failed run said, at most.
const LONGEST_REASON: usize = 2000;

/// How a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// In a folder that is not there.
    New,
    /// In a folder in which a run has kept nothing to go on from.
    Over,
    /// Where it was interrupted.
    GoOn,
}

/// What a process is to run.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// The training config, whole.
    pub config: &'a Path,
    /// The cache over the training samples.
    pub cache: Option<&'a Path>,
    /// The run's folder.
    pub out: &'a Path,
    /// How it begins.
    pub begin: Begin,
    /// `train.threads`, where its config gives none.
    pub threads: Option<usize>,
    /// Its share of the cores, where several share them.
    pub share: Option<usize>,
}

/// A run at work.
pub(super) struct Process {
    child: Child,
    /// Held open for as long as the run may go on.
    input: Option<ChildStdin>,
    log: PathBuf,
    pub(super) begun: Instant,
}

/// How a run ended.
#[derive(Debug, PartialEq)]
pub(super) enum Ended {
    Trained,
    Interrupted,
    Failed(String),
}

impl Process {
    /// Starts `command`; `None` where a run of an earlier sweep is still about to end in its folder.
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Option<Self>, SweepError> {
        let write = |source| SweepError::Write { path: log.to_owned(), source };
        let file = File::options().create(true).truncate(false).write(true).open(log).map_err(write)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) if is_not_offered(&source) => {}
            Err(TryLockError::Error(source)) => return Err(write(source)),
        }
        file.set_len(0).map_err(write)?;
        // The lock lives as long as any copy of the file: from here on, as long as the process does.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::from(file));
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt;
            // Ctrl-C is for this process, which then asks the runs to stop.
            command.process_group(0);
        }
        let started = command.spawn();
        let mut child = started.map_err(|source| {
            let program = PathBuf::from(command.get_program());
            SweepError::Start { program, source }
        })?;
        let input = child.stdin.take();
        Ok(Some(Self { child, input, log: log.to_owned(), begun: Instant::now() }))
    }

    /// What the operating system calls it.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop where it can go on later.
    pub(super) fn stop(&mut self) {
        self.input = None;
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) if status.success() => Some(Ended::Trained),
            Ok(Some(status)) if status.code() == Some(INTERRUPTED) => Some(Ended::Interrupted),
            Ok(Some(status)) => Some(Ended::Failed(self.reason(status))),
            Err(error) => Some(Ended::Failed(format!("nobody knows how it ended: {error}"))),
        }
    }

    /// What it said last.
    fn reason(&self, status: ExitStatus) -> String {
        let said = fs::read(&self.log).unwrap_or_default();
        let said = reason(&String::from_utf8_lossy(&said));
        match status.code() {
            Some(_) if !said.is_empty() => said,
            Some(code) => format!("ended with exit code {code}, and said nothing"),
            None => format!(
                "was killed ({status}); where memory was short, fewer jobs or a smaller batch need less"
            ),
        }
    }
}

/// The last error of a log, or its last line.
fn reason(log: &str) -> String {
    let from = log.rfind("error: ").map(|at| &log[at + "error: ".len()..]);
    let text = from.or_else(|| log.trim_end().lines().last()).unwrap_or_default().trim();
    text.chars().take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_what_was_said_last() {
        assert_eq!(
            reason("epoch 1\nerror: train.device: no GPU\n  is there\n"),
            "train.device: no GPU\n  is there"
        );
        assert_eq!(reason("one\nthread 'main' panicked\n\n"), "thread 'main' panicked");
        assert_eq!(reason(""), "");
        assert_eq!(reason(&format!("error: {}", "ü".repeat(5000))).chars().count(), LONGEST_REASON);
    }

    #[cfg(unix)]
    #[test]
    fn a_process_ends_with_its_input_and_holds_its_log_till_then() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.txt");
        let shell = |text: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", text]);
            command
        };
        let wait = |process: &mut Process| loop {
            if let Some(ended) = process.ended() {
                return ended;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        let mut process = Process::start(shell("cat > /dev/null; exit 130"), &log).unwrap().unwrap();
        assert!(Process::start(shell("true"), &log).unwrap().is_none());
        assert_eq!(process.ended(), None);
        process.stop();
        assert_eq!(wait(&mut process), Ended::Interrupted);
        let mut process = Process::start(shell("echo error: no luck >&2; exit 2"), &log).unwrap().unwrap();
        assert_eq!(wait(&mut process), Ended::Failed("no luck".into()));
        let mut process = Process::start(shell("kill -9 $$"), &log).unwrap().unwrap();
        assert!(matches!(wait(&mut process), Ended::Failed(why) if why.contains("killed")));
        let mut process = Process::start(shell("true"), &log).unwrap().unwrap();
        assert_eq!(wait(&mut process), Ended::Trained);
    }
}
