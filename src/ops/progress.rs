//! How an operation tells how far it is; the programs decide what becomes of it.

/// Receives the progress of one operation.
pub trait Progress: Sync {
    /// A phase begins: what it does, how many samples it has (0 where that is not known), how many are done already.
    fn phase(&self, name: &str, samples: u64, done: u64);

    /// A phase begins that is so many passes over the same samples.
    fn passes(&self, name: &str, passes: u64) {
        let _untold = (name, passes);
    }

    /// A phase begins that is so many epochs of several runs, at most; so many are done already.
    fn epochs(&self, name: &str, epochs: u64, done: u64) {
        let _untold = (name, epochs, done);
    }

    /// So many samples, passes or epochs more are done.
    fn advance(&self, samples: u64);

    /// What the phase trains on was lost at, when that was last looked at.
    fn loss(&self, loss: f64) {
        let _untold = loss;
    }

    /// The current phase is over.
    fn finish(&self);

    /// A line that should stay on the screen, when there is one.
    fn say(&self, line: &str) {
        let _unsaid = line;
    }
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _: &str, _: u64, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}
