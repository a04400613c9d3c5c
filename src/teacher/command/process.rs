//! The program: started, listened to, ended.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, BufWriter};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::TeacherError;

/// Lines of its standard error that are shown when it fails.
const LINES: usize = 20;
/// How long it may take to end once nothing more is asked of it.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A running program.
pub(super) struct Process {
    child: Child,
    words: String,
    said: Arc<Mutex<VecDeque<String>>>,
    listener: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`, the pipes to and from it apart.
    pub(super) fn start(
        command: &[String],
    ) -> Result<(Self, BufWriter<ChildStdin>, BufReader<ChildStdout>), TeacherError> {
        let words = command.join(" ");
        let failed = |problem: String| TeacherError::Command {
            command: words.clone(),
            doing: "starting it",
            problem,
            said: String::new(),
        };
        let (program, arguments) = command.split_first().ok_or_else(|| failed("it is empty".into()))?;
        let mut starting = Command::new(program);
        starting.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is ours to answer: the batch at hand is finished, and the end of its input ends the program.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut starting, 0);
        let mut child = starting.spawn().map_err(|error| failed(error.to_string()))?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("it has no pipes".into()));
        };
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let kept = said.clone();
        let listener = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let Ok(mut kept) = kept.lock() else { return };
                if kept.len() == LINES {
                    kept.pop_front();
                }
                kept.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
        let process = Self { child, words, said, listener: Some(listener) };
        Ok((process, BufWriter::new(stdin), BufReader::new(stdout)))
    }

    /// What went wrong, with how it ended and what it said.
    pub(super) fn failed(&mut self, doing: &'static str, problem: &str) -> TeacherError {
        // A program that has died needs a moment to be seen dead.
        let ended = self.wait(Duration::from_secs(1));
        let problem = match &ended {
            Some(status) => format!("{problem}; it ended with {status}"),
            None => problem.to_owned(),
        };
        if ended.is_some()
            && let Some(listener) = self.listener.take()
        {
            // It ends with the pipe; what it kept is what is shown.
            listener.join().unwrap_or_default();
        }
        let said = self.said.lock().map(|said| said.iter().cloned().collect::<Vec<_>>()).unwrap_or_default();
        TeacherError::Command { command: self.words.clone(), doing, problem, said: said.join("\n") }
    }

    fn wait(&mut self, patience: Duration) -> Option<std::process::ExitStatus> {
        let begun = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if begun.elapsed() < patience => std::thread::sleep(POLL),
                _ => return None,
            }
        }
    }
}

impl Drop for Process {
    /// Its standard input is closed by now; what does not end of itself is ended.
    fn drop(&mut self) {
        if self.wait(PATIENCE).is_none() && self.child.kill().is_ok() {
            // Reaps it; there is nobody to tell of a failure.
            self.child.wait().map(drop).unwrap_or_default();
        }
    }
}
