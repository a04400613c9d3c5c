//! A file that a run is told in: what becomes of it never ends the run.

use std::io;
use std::path::PathBuf;

/// Where a run is told, until that fails.
///
/// The first failure ends the telling, because what comes after half a line or record would be none. A run that goes on
/// cuts the half, and begins to tell again.
pub(super) struct Outlet<T> {
    path: PathBuf,
    /// What nobody is told of after a failure.
    lost: &'static str,
    to: Option<T>,
    warning: Option<String>,
    said: bool,
}

impl<T> Outlet<T> {
    /// What opening `path` gave: nothing where nothing is to be told.
    pub(super) fn new(path: PathBuf, lost: &'static str, opened: io::Result<Option<T>>) -> Self {
        let mut outlet = Self { path, lost, to: None, warning: None, said: false };
        match opened {
            Ok(to) => outlet.to = to,
            Err(error) => outlet.fail(&error),
        }
        outlet
    }

    /// Tells, if it has not failed before.
    pub(super) fn tell(&mut self, tell: impl FnOnce(&mut T) -> io::Result<()>) {
        if let Some(Err(error)) = self.to.as_mut().map(tell) {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.to = None;
        self.warning = Some(format!(
            "warning: tracking: cannot write {} ({error}). The run is not disturbed by it; {} are lost from here on, until \
             the run goes on by the same command with --resume",
            self.path.display(),
            self.lost
        ));
    }

    /// What keeps the run from being told, said once.
    pub(super) fn trouble(&mut self) -> Option<String> {
        let trouble = if self.said { None } else { self.warning.clone() };
        self.said |= trouble.is_some();
        trouble
    }

    /// What has kept the run from being told, and whether that is new.
    pub(super) fn end(&self) -> Option<(String, bool)> {
        self.warning.clone().map(|warning| (warning, !self.said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many lines, and half of the next.
    struct Full {
        lines: Vec<&'static str>,
        room: usize,
    }

    impl Full {
        fn add(&mut self, line: &'static str) -> io::Result<()> {
            let has_room = self.lines.len() < self.room;
            self.lines.push(if has_room { line } else { &line[..line.len() / 2] });
            if has_room { Ok(()) } else { Err(io::Error::other("no space left")) }
        }
    }

    #[test]
    fn a_failure_is_told_once_and_nothing_is_written_after_it() {
        let mut full = Full { lines: Vec::new(), room: 2 };
        let mut outlet = Outlet::new("runs/a/steps.jsonl".into(), "lines", Ok(Some(&mut full)));
        for line in ["one", "two"] {
            outlet.tell(|to| to.add(line));
        }
        assert_eq!((outlet.trouble(), outlet.end()), (None, None));
        for line in ["four", "five"] {
            outlet.tell(|to| to.add(line));
        }
        let (warning, is_new) = outlet.end().unwrap();
        assert!(is_new && warning.contains("runs/a/steps.jsonl (no space left)"), "{warning}");
        assert_eq!(outlet.trouble(), Some(warning.clone()));
        assert_eq!((outlet.trouble(), outlet.end()), (None, Some((warning, false))));
        drop(outlet);
        assert_eq!(full.lines, ["one", "two", "fo"]);
    }

    #[test]
    fn what_cannot_be_opened_is_a_failure_and_what_is_not_wanted_is_none() {
        let open = |opened| Outlet::<Vec<u8>>::new("a".into(), "lines", opened);
        let mut unwanted = open(Ok(None));
        unwanted.tell(|_| Err(io::Error::other("never asked")));
        assert_eq!(unwanted.trouble(), None);
        assert!(
            open(Err(io::Error::other("a folder"))).trouble().is_some_and(|said| said.contains("a folder"))
        );
    }
}
