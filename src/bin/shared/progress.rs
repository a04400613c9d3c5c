//! A bar on a terminal, a line now and then elsewhere, nothing when quiet.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kd_cache::ops::Progress;

use super::tell;

/// Between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// What lines begin with that are told however quiet it is to be.
const WARNING: &str = "warning: ";

/// Shows an operation's progress on standard error.
pub struct Terminal {
    form: Form,
    current: Mutex<Option<Phase>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Bar,
    Lines,
    Quiet,
}

struct Phase {
    name: String,
    /// What `samples` and `done` count.
    unit: Unit,
    samples: u64,
    at_start: u64,
    done: u64,
    begun: Instant,
    said: Instant,
    bar: Option<ProgressBar>,
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Samples,
    /// Of which there may be fewer.
    Passes,
    /// Of several runs; there may be fewer, too.
    Epochs,
}

impl Terminal {
    /// Silent when `quiet`.
    pub fn new(quiet: bool) -> Self {
        let form = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Form::Quiet,
            (false, true) => Form::Bar,
            (false, false) => Form::Lines,
        };
        Self { form, current: Mutex::new(None) }
    }

    fn begin(&self, name: &str, unit: Unit, samples: u64, done: u64) {
        let bar = (self.form == Form::Bar).then(|| {
            let bar = bar(name, samples, done);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        let name = name.to_owned();
        self.with(|phase| {
            *phase = Some(Phase { name, unit, samples, at_start: done, done, begun: now, said: now, bar })
        });
    }

    /// Runs `change` on the current phase. A panic elsewhere must not hide behind a lock's own.
    fn with<T>(&self, change: impl FnOnce(&mut Option<Phase>) -> T) -> T {
        change(&mut self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// A bar that takes what room the words leave it. The prefix is the loss, of phases that have one.
fn bar(name: &str, samples: u64, done: u64) -> ProgressBar {
    let template = match samples {
        0 => "{msg:>12} {human_pos}{prefix}, {per_sec}",
        _ => "{msg:>12} [{wide_bar}] {human_pos}/{human_len}{prefix}, {per_sec}, {eta} left",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(samples).with_style(style.progress_chars("=> ")).with_message(name.to_owned());
    bar.set_position(done);
    bar.reset_eta();
    bar
}

impl Phase {
    /// `teacher: 20480 of 60000 samples, 4096/s, 10 s left`, or what is done where nobody knows how many there are.
    fn line(&self) -> String {
        let Self { name, samples, done, .. } = self;
        let rate = (done - self.at_start) as f64 / self.begun.elapsed().as_secs_f64().max(1e-9);
        let mut line = match self.unit {
            Unit::Samples if *samples == 0 => format!("{name}: {done} samples, {rate:.0}/s"),
            Unit::Samples => format!("{name}: {done} of {samples} samples, {rate:.0}/s"),
            Unit::Passes => format!("{name}: {done} of at most {samples} passes"),
            Unit::Epochs => format!("{name}: {done} of at most {samples} epochs"),
        };
        if done < samples && rate > 0.0 {
            line.push_str(&format!(", {:.0} s left", (samples - done) as f64 / rate));
        }
        line
    }
}

impl Progress for Terminal {
    fn phase(&self, name: &str, samples: u64, done: u64) {
        self.begin(name, Unit::Samples, samples, done);
    }

    fn passes(&self, name: &str, passes: u64) {
        self.begin(name, Unit::Passes, passes, 0);
    }

    fn epochs(&self, name: &str, epochs: u64, done: u64) {
        self.begin(name, Unit::Epochs, epochs, done);
    }

    fn advance(&self, samples: u64) {
        self.with(|phase| {
            let Some(phase) = phase else { return };
            phase.done += samples;
            if let Some(bar) = &phase.bar {
                bar.inc(samples);
            } else if self.form == Form::Lines && phase.said.elapsed() >= BETWEEN_LINES {
                phase.said = Instant::now();
                tell(phase.line());
            }
        });
    }

    fn loss(&self, loss: f64) {
        self.with(|phase| {
            if let Some(bar) = phase.as_ref().and_then(|phase| phase.bar.as_ref()) {
                bar.set_prefix(format!(", loss {loss:.4}"));
            }
        });
    }

    fn finish(&self) {
        self.with(|phase| {
            let Some(phase) = phase.take() else { return };
            match (&phase.bar, self.form) {
                (Some(bar), _) => {
                    bar.finish_and_clear();
                    tell(phase.line());
                }
                (None, Form::Lines) => tell(phase.line()),
                _ => {}
            }
        });
    }

    fn say(&self, line: &str) {
        // Who wants no progress still wants to know what is wrong.
        if self.form != Form::Quiet || line.starts_with(WARNING) {
            self.with(|phase| match phase.as_ref().and_then(|phase| phase.bar.as_ref()) {
                Some(bar) => bar.suspend(|| tell(line)),
                None => tell(line),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that remembers what was written to it.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_has_the_loss_when_there_is_one_and_a_line_has_none() {
        let terminal = Terminal { form: Form::Bar, current: Mutex::new(None) };
        // Long enough that the words alone nearly fill a line.
        terminal.phase("epoch 12/300", 1_281_167, 600_000);
        let bar = terminal.with(|phase| phase.as_ref().unwrap().bar.clone().unwrap());
        // Drawn here only.
        bar.disable_steady_tick();
        let screen = Screen::default();
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        let shown = || {
            bar.force_draw();
            screen.0.lock().unwrap().clone()
        };
        assert!(shown().contains("600,000/1,281,167, "), "{}", shown());
        assert!(!shown().contains("loss"), "{}", shown());
        terminal.loss(7.5);
        terminal.loss(2.25);
        terminal.advance(64);
        assert!(shown().contains("600,064/1,281,167, loss 2.2500, "), "{}", shown());
        assert!(!terminal.with(|phase| phase.as_ref().unwrap().line()).contains("loss"));
    }
}
