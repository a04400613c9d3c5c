//! Means since the last line of steps, out of the sums of whole epochs: a step costs nothing more.

use tch::Tensor;

use super::sums::{SumMeans, Totals};

/// Where the last line was, in the sums of the epoch at hand.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Window {
    since: Totals,
}

impl Window {
    /// A window that begins at `now`.
    pub(super) fn beginning(now: Totals) -> Self {
        Self { since: now }
    }

    /// Means since the last line; the next window begins at `now`.
    pub(super) fn close(&mut self, now: Totals) -> SumMeans {
        let means = now.less(&self.since).means();
        self.since = now;
        means
    }

    /// The epoch has ended with the sums `end`, and those of the next begin at nothing: what the window has of them
    /// so far lies before its beginning.
    pub(super) fn end_epoch(&mut self, end: &Totals) {
        self.since = self.since.less(end);
    }

    /// Everything, by name.
    pub(super) fn tensors(&self) -> Vec<(String, Tensor)> {
        self.since.iter().map(|(name, value)| (name.to_owned(), Tensor::from_slice(&[value]))).collect()
    }

    /// What [`Self::tensors`] gave; `None` where there is nothing of it.
    pub(super) fn restored(tensors: impl Iterator<Item = (String, Tensor)>) -> Option<Self> {
        let since = Totals::new(tensors.filter_map(|(name, value)| Some((name, f64::try_from(value).ok()?))));
        (!since.is_empty()).then_some(Self { since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{LossTerms, Means};
    use crate::train::sums::Sums;

    fn terms(total: f64, kl: f64) -> LossTerms {
        let scalar = |value: f64| Tensor::from(value);
        LossTerms::new(scalar(total), [("kl".to_owned(), scalar(kl))].into())
    }

    /// A line's means are those of its own steps, also where an epoch ends among them.
    #[test]
    fn windows_reach_across_epochs() {
        // Total, kl, positions, labels, gradient norm.
        let steps = [
            (3.0, 2.0, 4, 4, 1.0),
            (5.0, 4.0, 2, 1, 2.0),
            (1.0, 0.5, 8, 8, 4.0),
            (7.0, 6.0, 4, 0, 3.0),
            (2.0, 1.5, 6, 6, 5.0),
        ];
        let (mut sums, mut window) = (Sums::default(), Window::default());
        let mut lines = Vec::new();
        for (at, (total, kl, positions, labels, norm)) in steps.into_iter().enumerate() {
            let means = Means { positions, labels };
            sums.add(&terms(total, kl), means, Some(&Tensor::from(norm)));
            if (at + 1) % 2 == 0 {
                lines.push(window.close(sums.totals()));
            }
            if at == 2 {
                window.end_epoch(&sums.totals());
                sums = Sums::default();
                // Kept and read back on the way.
                let kept = window.tensors();
                assert_eq!(Window::restored(kept.into_iter()).as_ref(), Some(&window));
            }
        }
        for (line, pair) in lines.iter().zip(steps.chunks(2)) {
            let (a, b) = (pair[0], pair[1]);
            let positions = f64::from(a.2 as u32 + b.2 as u32);
            let mean = |x: f64, y: f64| (x * a.2 as f64 + y * b.2 as f64) / positions;
            let close = |found: Option<f64>, expected: f64| {
                assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?} is not {expected}");
            };
            close(line.total, mean(a.0, b.0));
            close(line.terms.get("kl").copied(), mean(a.1, b.1));
            close(line.gradient_norm, f64::midpoint(a.4, b.4));
        }
        assert_eq!(Window::restored(std::iter::empty()), None);
    }
}
