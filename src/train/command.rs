//! A measure that a program of the user's computes from predictions.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::TrainError;
use crate::config::MetricConfig;
use crate::program::{Listener, Program};

/// Lines of its standard error that are shown when it fails.
const LINES: usize = 20;
/// Between two looks at it, and at the wish to stop.
const POLL: Duration = Duration::from_millis(10);
/// How long what it said is waited for once it has ended: what it started may hold its pipes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the command of the measure at `key`, which reads `predictions`; `None` when `stop` was set, and it was killed.
///
/// # Errors
/// [`TrainError::MetricCommand`]: it cannot be started, fails, says no finite number, or takes too long.
pub(super) fn measure(
    key: &str,
    config: &MetricConfig,
    predictions: &Path,
    stop: &AtomicBool,
) -> Result<Option<f64>, TrainError> {
    let failed = |problem: String, said: &str| TrainError::MetricCommand {
        key: format!("{key}.command"),
        command: config.command.join(" "),
        problem,
        said: if said.is_empty() { String::new() } else { format!("; it said:\n{said}") },
    };
    let Some((program, arguments)) = config.command.split_first() else {
        return Err(failed("expected a program, found none".into(), ""));
    };
    let mut starting = Command::new(program);
    starting.args(arguments).arg(predictions);
    starting.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running =
        Program::start(&mut starting).map_err(|error| failed(format!("cannot start it: {error}"), ""))?;
    let out = running.child().stdout.take().map(|pipe| Listener::new(pipe, 1));
    let err = running.child().stderr.take().map(|pipe| Listener::new(pipe, LINES));
    let heard = |pipe: &Option<Listener>| pipe.as_ref().map(|pipe| pipe.heard(PATIENCE)).unwrap_or_default();
    let begun = Instant::now();
    let most = Duration::try_from_secs_f64(config.timeout).unwrap_or(Duration::MAX);
    let ended: ExitStatus = loop {
        match running.child().try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return Err(failed(format!("cannot wait for it: {error}"), "")),
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if begun.elapsed() > most {
            running.kill();
            let problem =
                format!("it took longer than {} s and was killed; raise {key}.timeout", config.timeout);
            return Err(failed(problem, &heard(&err)));
        }
        std::thread::sleep(POLL);
    };
    let said = heard(&out);
    if !ended.success() {
        return Err(failed(format!("it ended with {ended}"), &heard(&err)));
    }
    match said.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Some(value)),
        _ => {
            let problem =
                format!("expected a finite number as the last line of its standard output, found {said:?}");
            Err(failed(problem, &heard(&err)))
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::config::Better;

    fn shell(script: &str, timeout: f64) -> MetricConfig {
        let command = ["sh", "-c", script, "metric"].map(str::to_owned).to_vec();
        MetricConfig { command, better: Better::Higher, timeout, top: 0, logits: false }
    }

    fn ask(config: &MetricConfig) -> Result<Option<f64>, String> {
        let stop = AtomicBool::new(false);
        let asked = measure("validation.test.metrics.mine", config, Path::new("/predictions"), &stop);
        asked.map_err(|error| error.to_string())
    }

    #[test]
    fn the_last_line_is_the_number() {
        assert_eq!(ask(&shell("echo loading; echo; echo ' -1.5e-3 '; echo", 60.0)), Ok(Some(-1.5e-3)));
        // It is told where the predictions lie, and may say as much as it likes.
        let much = "seq 100000; seq 100000 >&2; test \"$1\" = /predictions && echo 7";
        assert_eq!(ask(&shell(much, 60.0)), Ok(Some(7.0)));
    }

    #[test]
    fn what_is_no_number_is_refused_with_what_was_said() {
        let refused = |script: &str, words: &[&str]| {
            let error = ask(&shell(script, 60.0)).unwrap_err();
            for word in words.iter().chain(&["validation.test.metrics.mine.command: sh -c"]) {
                assert!(error.contains(word), "{word:?} is not in {error}");
            }
        };
        refused("echo 0.5; echo no such column >&2; exit 3", &["exit status: 3", "no such column"]);
        refused("echo 0.5; echo done", &["a finite number", "\"done\""]);
        refused("true", &["a finite number", "found \"\""]);
        refused("echo nan", &["found \"nan\""]);
        refused("echo inf", &["found \"inf\""]);
        refused("kill -9 $$", &["signal: 9"]);
        let mut nothing = shell("true", 1.0);
        nothing.command = vec!["/no/such/program".into()];
        assert!(ask(&nothing).unwrap_err().contains("cannot start it"));
    }

    /// Whether a process is there that is no zombie.
    fn lives(id: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn it_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        for stopped in [false, true] {
            let file = dir.path().join(format!("ids-{stopped}"));
            let script = format!("sleep 600 & echo $! > {}; wait", file.display());
            let begun = Instant::now();
            if stopped {
                let stop = AtomicBool::new(false);
                let config = shell(&script, 600.0);
                std::thread::scope(|scope| {
                    let asked = scope.spawn(|| measure("key", &config, Path::new("p"), &stop));
                    while std::fs::read_to_string(&file).map_or(0, |text| text.len()) == 0 {
                        std::thread::sleep(POLL);
                    }
                    stop.store(true, Ordering::Relaxed);
                    assert!(matches!(asked.join().unwrap(), Ok(None)));
                });
            } else {
                let error = ask(&shell(&script, 0.5)).unwrap_err();
                assert!(error.contains("longer than 0.5 s") && error.contains(".timeout"), "{error}");
            }
            assert!(begun.elapsed() < Duration::from_secs(60));
            let id = std::fs::read_to_string(&file).unwrap();
            let patience = Instant::now();
            while lives(id.trim()) {
                assert!(patience.elapsed() < Duration::from_secs(10), "{id} lives");
                std::thread::sleep(POLL);
            }
        }
    }
}
