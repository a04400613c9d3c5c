//! The program: started, listened to, ended.

use std::io::{BufReader, BufWriter};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::TeacherError;
use crate::program::{Listener, Program};

/// Lines of its standard error that are shown when it fails.
const LINES: usize = 20;
/// How long it may take to end once nothing more is asked of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a program that has died takes to be seen dead, and what it said to be heard.
const MOMENT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// A running program.
pub(super) struct Process {
    program: Arc<Mutex<Program>>,
    words: String,
    said: Listener,
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
        let mut program = Program::start(&mut starting).map_err(|error| failed(error.to_string()))?;
        let child = program.child();
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("it has no pipes".into()));
        };
        let program = Arc::new(Mutex::new(program));
        watch(&program);
        let process = Self { program, words, said: Listener::new(stderr, LINES) };
        Ok((process, BufWriter::new(stdin), BufReader::new(stdout)))
    }

    /// What went wrong, with how it ended and what it said.
    pub(super) fn failed(&self, doing: &'static str, problem: &str) -> TeacherError {
        let ended = self.wait(MOMENT);
        let problem = match &ended {
            Some(status) => format!("{problem}; it ended with {status}"),
            None => problem.to_owned(),
        };
        let said = self.said.heard(if ended.is_some() { MOMENT } else { Duration::ZERO });
        TeacherError::Command { command: self.words.clone(), doing, problem, said }
    }

    fn wait(&self, patience: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            // Looked at in a line of its own: the lock is not kept while waiting.
            let ended = self.program.lock().ok()?.child().try_wait();
            match ended {
                Ok(Some(status)) => return Some(status),
                Ok(None) if begun.elapsed() < patience => std::thread::sleep(POLL),
                _ => return None,
            }
        }
    }
}

/// Kills what the program has started once it has failed: as long as some of them hold its standard output, its answer
/// would be waited for.
fn watch(program: &Arc<Mutex<Program>>) {
    let watched = Arc::downgrade(program);
    std::thread::spawn(move || {
        while let Some(program) = watched.upgrade() {
            let Ok(mut program) = program.lock() else { return };
            match program.child().try_wait() {
                Ok(None) => {}
                Ok(Some(status)) if !status.success() => return program.kill(),
                _ => return,
            }
            drop(program);
            std::thread::sleep(POLL);
        }
    });
}

impl Drop for Process {
    /// Its standard input is closed by now; what does not end of itself is ended.
    fn drop(&mut self) {
        if self.wait(PATIENCE).is_none()
            && let Ok(mut program) = self.program.lock()
        {
            program.kill();
        }
    }
}
