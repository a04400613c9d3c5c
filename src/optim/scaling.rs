//! Losses multiplied before gradients are made, so that those do not vanish in half precision.
//!
//! Source: Micikevicius et al., "Mixed Precision Training", 2018, section 3.2. Numbers and rule are those of PyTorch's
//! `torch.amp.GradScaler`.

/// The scale at the beginning: 2¹⁶.
const FIRST: f64 = 65_536.0;
/// What the scale is multiplied by after [`INTERVAL`] steps without an infinite gradient.
const GROWTH: f64 = 2.0;
/// What it is multiplied by after a step with one.
const BACKOFF: f64 = 0.5;
const INTERVAL: u64 = 2000;
/// The lowest scale. Where gradients are not finite even with it, no scale helps.
const LEAST: f64 = 1.0 / 65_536.0;

/// By what losses are multiplied, a power of two, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scaling {
    scale: f64,
    /// Steps since it last changed.
    good: u64,
    /// Steps that were left out.
    skipped: u64,
}

impl Default for Scaling {
    fn default() -> Self {
        Self { scale: FIRST, good: 0, skipped: 0 }
    }
}

impl Scaling {
    pub(super) fn scale(&self) -> f64 {
        self.scale
    }

    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// A step's gradients were all finite, or not; the answer is `false` where no lower scale is left.
    pub(super) fn update(&mut self, finite: bool) -> bool {
        if !finite {
            (self.good, self.skipped) = (0, self.skipped + 1);
            self.scale *= BACKOFF;
            return self.scale >= LEAST;
        }
        self.good += 1;
        if self.good == INTERVAL {
            self.good = 0;
            self.scale *= GROWTH;
        }
        true
    }

    /// All of it as numbers; counts are far below 2⁵³.
    pub(super) fn state(&self) -> [f64; 3] {
        [self.scale, self.good as f64, self.skipped as f64]
    }

    /// What [`Self::state`] gave.
    pub(super) fn restored([scale, good, skipped]: [f64; 3]) -> Self {
        Self { scale, good: good as u64, skipped: skipped as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_at_once_and_doubles_after_many_steps() {
        let mut scaling = Scaling::default();
        assert!(scaling.update(false) && scaling.update(false));
        assert_eq!((scaling.scale(), scaling.skipped()), (16_384.0, 2));
        for _ in 0..INTERVAL - 1 {
            assert!(scaling.update(true));
        }
        assert_eq!(scaling.scale(), 16_384.0);
        let kept = Scaling::restored(scaling.state());
        assert_eq!(kept, scaling);
        assert!(scaling.update(true));
        assert_eq!(scaling.scale(), 32_768.0);
        // A step that is left out begins the count again.
        let mut other = kept;
        assert!(other.update(false) && other.update(true));
        assert_eq!(other.state(), [8_192.0, 1.0, 3.0]);
        let mut left = 0;
        while other.update(false) {
            left += 1;
        }
        assert_eq!(left, 29, "2¹³ to 2⁻¹⁶");
    }
}
