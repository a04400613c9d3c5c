//! Programs of the user's, each with what it starts in a process group of its own: Ctrl-C is this process's to answer, and
//! what is killed is killed with all that it started.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(10);

/// A running program that does not outlive this value.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Starts `command`.
    ///
    /// # Errors
    /// Whatever starting it returns.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        command.spawn().map(Self)
    }

    /// The process itself: its pipes, and how it ended.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Kills the program, if it has not ended, and what it started.
    pub fn kill(&mut self) {
        #[cfg(unix)]
        if let Ok(group) = i32::try_from(self.0.id()) {
            use nix::sys::signal::{Signal, killpg};
            // They may all just have ended: there is nobody to tell.
            killpg(nix::unistd::Pid::from_raw(group), Signal::SIGKILL).unwrap_or_default();
        }
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

/// Hears all of a pipe, so that nobody waits for room in it, and keeps the last lines that are not empty.
#[derive(Debug)]
pub struct Listener {
    last: Arc<Mutex<VecDeque<String>>>,
    thread: JoinHandle<()>,
}

impl Listener {
    /// Keeps `lines` lines of `pipe`.
    pub fn new(pipe: impl Read + Send + 'static, lines: usize) -> Self {
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&last);
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                let Ok(mut kept) = kept.lock() else { return };
                if line.is_empty() {
                    continue;
                }
                if kept.len() == lines {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        Self { last, thread }
    }

    /// What was heard last, once the pipe has closed, or `patience` is over: others may hold it open.
    pub fn heard(&self, patience: Duration) -> String {
        let begun = Instant::now();
        while !self.thread.is_finished() && begun.elapsed() < patience {
            std::thread::sleep(POLL);
        }
        let last = self.last.lock().map(|last| last.iter().cloned().collect::<Vec<_>>());
        last.unwrap_or_default().join("\n")
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_pipe_that_others_hold_open_is_not_waited_for() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'a\\n\\nb\\nc'; echo; sleep 600 & exit 3"]).stdout(Stdio::piped());
        let mut program = Program::start(&mut command).unwrap();
        let listener = Listener::new(program.child().stdout.take().unwrap(), 2);
        assert_eq!(program.child().wait().unwrap().code(), Some(3));
        let begun = Instant::now();
        let mut heard = String::new();
        while heard != "b\nc" {
            assert!(begun.elapsed() < Duration::from_secs(60), "{heard:?}");
            heard = listener.heard(POLL);
        }
        assert!(!listener.thread.is_finished());
        program.kill();
        listener.thread.join().unwrap();
    }
}
