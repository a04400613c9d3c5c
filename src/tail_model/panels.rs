//! Tall matrices in panels of eight columns, and the two products with rows of logits that everything
//! here is made of.

use rayon::prelude::*;

/// Columns of a panel: what vector registers take at once.
pub(super) const LANES: usize = 8;
/// Classes that one task sums over all rows: rows stay in order, so thread counts change nothing.
const CLASSES_PER_TASK: usize = 1024;

/// A matrix `[classes, columns]`, columns padded with zeros to a multiple of [`LANES`]: panel after
/// panel, each `[classes][LANES]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Panels {
    classes: usize,
    data: Vec<[f32; LANES]>,
}

impl Panels {
    /// Zeros.
    pub(super) fn zeros(classes: usize, columns: usize) -> Self {
        Self { classes, data: vec![[0.0; LANES]; classes * columns.div_ceil(LANES)] }
    }

    /// Each value from its class and column.
    pub(super) fn from_fn(classes: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let mut panels = Self::zeros(classes, columns);
        for column in 0..columns {
            let panel = &mut panels.data[column / LANES * classes..];
            for (class, row) in panel[..classes].iter_mut().enumerate() {
                row[column % LANES] = value(class, column);
            }
        }
        panels
    }

    /// Rows.
    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// Columns, padding included.
    pub(super) fn width(&self) -> usize {
        self.data.len().checked_div(self.classes).unwrap_or(0) * LANES
    }

    /// One value.
    pub(super) fn at(&self, class: usize, column: usize) -> f32 {
        self.data[column / LANES * self.classes + class][column % LANES]
    }

    /// `out[column] = Σ_class x[class] · self[class, column]`, in an order that never changes.
    ///
    /// `x` is one row of `[classes]`, `out` is `[width]`.
    pub(super) fn project_row(&self, x: &[f32], out: &mut [f32]) {
        for (panel, out) in self.data.chunks_exact(self.classes.max(1)).zip(out.chunks_exact_mut(LANES)) {
            // Four sums in flight, or each addition would wait for the one before.
            let mut sums = [[0.0f32; LANES]; 4];
            let (xs, rows) = (x.chunks_exact(4), panel.chunks_exact(4));
            let (x_rest, row_rest) = (xs.remainder(), rows.remainder());
            for (x, rows) in xs.zip(rows) {
                for ((sum, x), row) in sums.iter_mut().zip(x).zip(rows) {
                    for (sum, value) in sum.iter_mut().zip(row) {
                        *sum += x * value;
                    }
                }
            }
            for (x, row) in x_rest.iter().zip(row_rest) {
                for (sum, value) in sums[0].iter_mut().zip(row) {
                    *sum += x * value;
                }
            }
            for (lane, out) in out.iter_mut().enumerate() {
                *out = (sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane]);
            }
        }
    }

    /// `out = x · self` for rows of `x`, `[rows, classes]`, in parallel: `[rows, width]`.
    pub(super) fn project(&self, x: &[f32]) -> Vec<f32> {
        let width = self.width();
        let mut out = vec![0.0; x.len() / self.classes.max(1) * width];
        x.par_chunks(self.classes.max(1))
            .zip(out.par_chunks_mut(width.max(1)))
            .for_each(|(x, out)| self.project_row(x, out));
        out
    }

    /// `self += xᵀ · t` with `x`: `[rows, classes]` and `t`: `[rows, width]`.
    pub(super) fn add_back(&mut self, x: &[f32], t: &[f32]) {
        let (classes, width) = (self.classes, self.width());
        for (panel, part) in self.data.chunks_exact_mut(classes.max(1)).enumerate() {
            part.par_chunks_mut(CLASSES_PER_TASK).enumerate().for_each(|(task, sums)| {
                let first = task * CLASSES_PER_TASK;
                for (x, t) in x.chunks_exact(classes).zip(t.chunks_exact(width)) {
                    let t = &t[panel * LANES..(panel + 1) * LANES];
                    for (sum, x) in sums.iter_mut().zip(&x[first..]) {
                        for (sum, t) in sum.iter_mut().zip(t) {
                            *sum += x * t;
                        }
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_what_they_are_by_definition() {
        for (classes, columns, rows) in [(5usize, 3usize, 4usize), (2050, 9, 3), (1, 1, 1)] {
            let value = |i: usize, j: usize| ((i * 7 + j * 13) % 11) as f32 - 5.0;
            let panels = Panels::from_fn(classes, columns, value);
            assert_eq!(
                (panels.at(classes - 1, columns - 1), panels.width() % LANES),
                (value(classes - 1, columns - 1), 0)
            );
            let x: Vec<f32> = (0..rows * classes).map(|i| ((i * 3) % 7) as f32 - 3.0).collect();
            let width = panels.width();
            let product = panels.project(&x);
            for (x, product) in x.chunks(classes).zip(product.chunks(width)) {
                for (column, found) in product.iter().enumerate() {
                    let by_hand =
                        |column: usize| x.iter().enumerate().map(|(i, x)| x * value(i, column)).sum::<f32>();
                    assert_eq!(*found, if column < columns { by_hand(column) } else { 0.0 });
                }
            }
            let mut back = Panels::zeros(classes, columns);
            back.add_back(&x, &product);
            back.add_back(&x, &product);
            for class in [0, classes / 2, classes - 1] {
                let by_hand: f32 = (0..rows).map(|row| x[row * classes + class] * product[row * width]).sum();
                assert_eq!(back.at(class, 0), 2.0 * by_hand);
            }
        }
    }
}
