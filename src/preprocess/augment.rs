//! Views of an image: what is random about them depends on seed, sample and view alone.

use super::geometry::Pixels;
use crate::config::{AugmentConfig, RandomResizedCrop};
use crate::ids::SampleView;
use crate::permutation::mix;

/// Crops that are tried before one is cut out of the middle.
const TRIES: usize = 10;

/// A part of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

/// What is done to one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Draw {
    /// What is cut out, where something is.
    pub(super) part: Option<Part>,
    /// Whether it is mirrored.
    pub(super) flip: bool,
}

/// Draws the view `row` of an image of `height` × `width`.
pub(super) fn draw(config: &AugmentConfig, row: SampleView, height: usize, width: usize) -> Draw {
    let mut random = Random::new(config.seed, row);
    // First, so that a mirrored view stays one whatever crops there are.
    let flip = random.uniform() < config.horizontal_flip;
    let crop = config.random_resized_crop.as_ref();
    Draw { part: crop.map(|crop| part(crop, &mut random, height, width)), flip }
}

/// torchvision's `RandomResizedCrop.get_params`: ten tries, then the middle.
fn part(crop: &RandomResizedCrop, random: &mut Random, height: usize, width: usize) -> Part {
    let (h, w) = (height as f64, width as f64);
    let [least, most] = crop.ratio;
    for _ in 0..TRIES {
        let area = h * w * random.between(crop.scale[0], crop.scale[1]);
        let ratio = random.between(least.ln(), most.ln()).exp();
        let (part_w, part_h) =
            ((area * ratio).sqrt().round_ties_even(), (area / ratio).sqrt().round_ties_even());
        if part_w >= 1.0 && part_w <= w && part_h >= 1.0 && part_h <= h {
            let (part_h, part_w) = (part_h as usize, part_w as usize);
            let (top, left) = (random.below(height - part_h + 1), random.below(width - part_w + 1));
            return Part { top, left, height: part_h, width: part_w };
        }
    }
    let (part_h, part_w) = if w / h < least {
        ((w / least).round_ties_even(), w)
    } else if w / h > most {
        (h, (h * most).round_ties_even())
    } else {
        (h, w)
    };
    let (part_h, part_w) = ((part_h as usize).clamp(1, height), (part_w as usize).clamp(1, width));
    Part { top: (height - part_h) / 2, left: (width - part_w) / 2, height: part_h, width: part_w }
}

impl Pixels<'_> {
    /// Left for right.
    pub(super) fn mirrored(mut self) -> Self {
        let (width, channels) = (self.width, self.channels);
        for row in self.bytes.to_mut().chunks_exact_mut((width * channels).max(1)) {
            for column in 0..width / 2 {
                for channel in 0..channels {
                    row.swap(column * channels + channel, (width - 1 - column) * channels + channel);
                }
            }
        }
        self
    }
}

/// SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014), from a state made
/// of seed, sample and view.
struct Random(u64);

impl Random {
    fn new(seed: u64, row: SampleView) -> Self {
        // "view": apart from every other use of the seed.
        Self(mix(mix(mix(seed ^ 0x7669_6577) ^ row.sample.0) ^ u64::from(row.view)))
    }

    /// In [0, 1), 53 bits of it.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.uniform()
    }

    /// A whole number below `end`, which is at least 1 and far below 2^53.
    fn below(&mut self, end: usize) -> usize {
        ((self.uniform() * end as f64) as usize).min(end - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SampleId;

    fn row(sample: u64, view: u16) -> SampleView {
        SampleView { sample: SampleId(sample), view }
    }

    fn config() -> AugmentConfig {
        AugmentConfig {
            views: 4,
            seed: 5,
            random_resized_crop: Some(RandomResizedCrop::default()),
            horizontal_flip: 0.5,
        }
    }

    /// Caches depend on these numbers: a student must see what the teacher saw.
    #[test]
    fn draws_are_pinned() {
        let found: Vec<String> = [row(0, 0), row(0, 1), row(1, 0), row(1_281_166, 3)]
            .into_iter()
            .map(|row| {
                let Draw { part: Some(Part { top, left, height, width }), flip } =
                    draw(&config(), row, 375, 500)
                else {
                    panic!("no part")
                };
                format!("{top}+{height} {left}+{width} {flip}")
            })
            .collect();
        assert_eq!(
            found,
            ["119+143 271+165 true", "5+341 42+448 false", "21+286 51+311 false", "2+335 61+407 true"]
        );
    }

    #[test]
    fn draws_are_of_the_ranges_and_fill_them() {
        let config = config();
        let (mut flips, mut areas, mut ratios) = (0, Vec::new(), Vec::new());
        const N: u64 = 20_000;
        for sample in 0..N {
            let Draw { part: Some(part), flip } = draw(&config, row(sample, 1), 500, 500) else { panic!() };
            assert!(part.top + part.height <= 500 && part.left + part.width <= 500);
            flips += u64::from(flip);
            areas.push((part.height * part.width) as f64 / 250_000.0);
            ratios.push(part.width as f64 / part.height as f64);
        }
        let share = flips as f64 / N as f64;
        // Four standard deviations of a fair coin.
        assert!((share - 0.5).abs() < 4.0 * (0.25f64 / N as f64).sqrt(), "{share}");
        let range =
            |values: &[f64]| values.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
        let (small, large) = range(&areas);
        // Whole pixels move an area or a ratio by less than a hundredth.
        assert!(small > 0.079 && small < 0.085 && large > 0.95 && large <= 1.0, "{small} {large}");
        let (narrow, wide) = range(&ratios);
        assert!(narrow > 0.74 && narrow < 0.76 && wide > 1.32 && wide < 1.35, "{narrow} {wide}");
        // Uniform in the logarithm: as many below 1 as above.
        let below = ratios.iter().filter(|ratio| **ratio < 1.0).count() as f64 / N as f64;
        assert!((below - 0.5).abs() < 0.03, "{below}");
    }

    #[test]
    fn what_no_crop_fits_is_cut_out_of_the_middle() {
        // 1 × 1000: a crop of at most 4:3 has no row to lie in unless it is tiny.
        let strip = RandomResizedCrop { scale: [1.0, 1.0], ..RandomResizedCrop::default() };
        let config = AugmentConfig { random_resized_crop: Some(strip), ..config() };
        let part = |height, width| draw(&config, row(3, 0), height, width).part.unwrap();
        assert_eq!(part(30, 1000), Part { top: 0, left: 480, height: 30, width: 40 });
        assert_eq!(part(1000, 30), Part { top: 480, left: 0, height: 40, width: 30 });
        assert_eq!(part(1, 1), Part { top: 0, left: 0, height: 1, width: 1 });
    }

    #[test]
    fn a_mirror_turns_each_row_and_keeps_pixels_whole() {
        let image = Pixels { height: 2, width: 3, channels: 2, bytes: (0..12).collect::<Vec<u8>>().into() };
        assert_eq!(*image.clone().mirrored().bytes, [4, 5, 2, 3, 0, 1, 10, 11, 8, 9, 6, 7]);
        assert_eq!(image.clone().mirrored().mirrored().bytes, image.bytes);
    }
}
