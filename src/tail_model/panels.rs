//! Tall matrices, and the two products with rows of numbers by class that everything here is made of.
//!
//! Both go through the classes in chunks, whose part of the matrix the first level of caches keeps while row after row
//! passes by, and meet all columns of a panel in registers. Sums have sixteen lanes, and each lane takes its classes, or
//! its rows, in order: neither threads nor chunks nor the machine's registers change a bit.

use std::array::from_fn;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::mapped::fetch;
use crate::vectors::{LANES, with_widest};

/// Rows, and columns of a panel, that meet in registers: nine sums, three parts of rows and one of a column are what AVX2 has
/// room for, and each number that is loaded serves three times.
const ABREAST: usize = 3;
/// Vectors of a chunk's matrix, about: 9 KB, and more where columns are many (33 KB of 129).
const CHUNK: usize = 144;
/// Rows that pass by one chunk after another.
const ROWS: usize = 5 * ABREAST;

/// One number for each of sixteen classes, where no load of them crosses two cache lines.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(64))]
struct Lanes([f32; LANES]);

const ZEROS: Lanes = Lanes([0.0; LANES]);

/// A matrix `[classes, columns]`: chunk after chunk of classes, of each chunk panel after panel of [`ABREAST`] columns, each
/// `[classes / LANES, ABREAST]` of [`Lanes`], filled up with zeros.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Panels {
    classes: usize,
    columns: usize,
    /// Classes of a chunk; the last may have fewer.
    chunk: usize,
    data: Vec<Lanes>,
}

/// Rows of numbers by class, which are made a chunk at a time.
pub(super) trait Rows {
    /// Writes what the row `row` has for `classes` to `x`, which is as long.
    fn write(&mut self, row: usize, classes: Range<usize>, x: &mut [f32]);

    /// Is told that [`Self::write`] comes next for that.
    fn expect(&self, row: usize, classes: Range<usize>);
}

impl Panels {
    /// Zeros.
    pub(super) fn zeros(classes: usize, columns: usize) -> Self {
        let width = columns.next_multiple_of(ABREAST);
        let chunk = (CHUNK / width.max(1)).max(4) * LANES;
        Self { classes, columns, chunk, data: vec![ZEROS; classes.div_ceil(LANES) * width] }
    }

    /// Each value from its class and column.
    pub(super) fn from_fn(classes: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let mut panels = Self::zeros(classes, columns);
        for (of_chunk, data) in panels.by_chunk() {
            let tiles = of_chunk.len().div_ceil(LANES);
            for (at, lanes) in data.iter_mut().enumerate() {
                let column = at / (tiles * ABREAST) * ABREAST + at % ABREAST;
                let classes = (of_chunk.start + at / ABREAST % tiles * LANES..of_chunk.end).zip(&mut lanes.0);
                if column < columns {
                    classes.for_each(|(class, lane)| *lane = value(class, column));
                }
            }
        }
        panels
    }

    /// Rows.
    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// One value.
    pub(super) fn at(&self, class: usize, column: usize) -> f32 {
        self.data[self.place(class, column)].0[class % LANES]
    }

    /// Where the lanes of a value are.
    fn place(&self, class: usize, column: usize) -> usize {
        let (chunk, class) = (class / self.chunk, class % self.chunk);
        let tiles = self.classes_of(chunk).len().div_ceil(LANES);
        let panel = chunk * self.lanes_of_chunk() + column / ABREAST * tiles * ABREAST;
        panel + class / LANES * ABREAST + column % ABREAST
    }

    /// Columns of all panels.
    fn width(&self) -> usize {
        self.columns.next_multiple_of(ABREAST)
    }

    /// Vectors of a chunk.
    fn lanes_of_chunk(&self) -> usize {
        (self.chunk / LANES * self.width()).max(1)
    }

    /// The classes of the chunk `at`; none where there is no such.
    fn classes_of(&self, at: usize) -> Range<usize> {
        (at * self.chunk).min(self.classes)..((at + 1) * self.chunk).min(self.classes)
    }

    /// The classes of every chunk, and its part of the matrix.
    fn by_chunk(&mut self) -> Vec<(Range<usize>, &mut [Lanes])> {
        let chunks = 0..self.classes.div_ceil(self.chunk);
        let classes: Vec<Range<usize>> = chunks.map(|at| self.classes_of(at)).collect();
        let lanes = self.lanes_of_chunk();
        classes.into_iter().zip(self.data.chunks_mut(lanes)).collect()
    }

    /// `out[row, column] = Σ_class x[row, class] · self[class, column]` for `rows` of `x`: `[rows, columns]`.
    pub(super) fn project_rows(&self, rows: Range<usize>, x: &mut impl Rows, out: &mut [f32]) {
        with_widest(Projection { panels: self, rows, x, out });
    }

    /// `out = x · self` for rows of `x`, `[rows, classes]`, in parallel: `[rows, columns]`.
    pub(super) fn project(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.classes.max(1);
        let mut out = vec![0.0; rows * self.columns];
        let task = rows_of_task(rows);
        out.par_chunks_mut((task * self.columns).max(1)).enumerate().for_each(|(at, out)| {
            let mut x = Given { x, classes: self.classes };
            self.project_rows(at * task..(at * task + task).min(rows), &mut x, out);
        });
        out
    }

    /// `self += xᵀ · t` with `x`: `[rows, classes]` and `t`: `[rows, columns]`, in parallel.
    pub(super) fn add_back(&mut self, x: &[f32], t: &[f32]) {
        let (classes, columns) = (self.classes, self.columns);
        self.by_chunk().into_par_iter().for_each(|(of_chunk, sums)| {
            with_widest(Back { x: Given { x, classes }, of_chunk, t, columns, sums });
        });
    }
}

/// Rows that one task takes, of `rows` that all threads have: as many as go well together, and no more than leaves
/// every thread with as many as the others.
pub(super) fn rows_of_task(rows: usize) -> usize {
    let tasks = rows.div_ceil(ROWS).next_multiple_of(rayon::current_num_threads());
    rows.div_ceil(tasks.max(1)).next_multiple_of(ABREAST).max(ABREAST)
}

/// Rows in memory, `[rows, classes]`.
struct Given<'a> {
    x: &'a [f32],
    classes: usize,
}

impl Given<'_> {
    fn part(&self, row: usize, classes: Range<usize>) -> &[f32] {
        &self.x[row * self.classes..][classes]
    }
}

impl Rows for Given<'_> {
    #[inline(always)]
    fn write(&mut self, row: usize, classes: Range<usize>, x: &mut [f32]) {
        x.copy_from_slice(self.part(row, classes));
    }

    fn expect(&self, row: usize, classes: Range<usize>) {
        fetch(self.part(row, classes));
    }
}

/// [`Panels::project_rows`].
struct Projection<'a, X> {
    panels: &'a Panels,
    rows: Range<usize>,
    x: &'a mut X,
    out: &'a mut [f32],
}

impl<X: Rows> WithSimd for Projection<'_, X> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { panels, rows, x: given, out } = self;
        let width = panels.width();
        // Of each row, of each column.
        let mut sums = vec![ZEROS; rows.len().next_multiple_of(ABREAST) * width];
        let mut x = Abreast::new(panels.chunk);
        for (at, columns) in panels.data.chunks(panels.lanes_of_chunk()).enumerate() {
            let of_chunk = panels.classes_of(at);
            let starts = rows.clone().step_by(ABREAST);
            for (first, sums) in starts.zip(sums.chunks_exact_mut(ABREAST * width)) {
                let some = x.write(given, first..(first + ABREAST).min(rows.end), of_chunk.clone());
                // What comes next is on its way meanwhile.
                if some.end < rows.end {
                    expect(given, some.end..(some.end + ABREAST).min(rows.end), of_chunk.clone());
                } else {
                    expect(
                        given,
                        rows.start..(rows.start + ABREAST).min(rows.end),
                        panels.classes_of(at + 1),
                    );
                }
                for (panel, columns) in columns.chunks_exact(columns.len() / width * ABREAST).enumerate() {
                    add_products(simd, &x, columns, &mut sums[panel * ABREAST..], width);
                }
            }
        }
        let sums = sums.chunks_exact(width.max(1)).flat_map(|sums| &sums[..panels.columns]);
        out.iter_mut().zip(sums).for_each(|(out, lanes)| *out = lanes.0.iter().sum());
    }
}

/// A chunk's part of [`Panels::add_back`].
struct Back<'a> {
    x: Given<'a>,
    of_chunk: Range<usize>,
    /// `[rows, columns]`.
    t: &'a [f32],
    columns: usize,
    sums: &'a mut [Lanes],
}

impl WithSimd for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x: mut given, of_chunk, t, columns, sums } = self;
        let (rows, width) = (t.len() / columns, columns.next_multiple_of(ABREAST));
        let mut x = Abreast::new(of_chunk.len());
        for first in (0..rows).step_by(ABREAST) {
            let some = x.write(&mut given, first..(first + ABREAST).min(rows), of_chunk.clone());
            expect(&given, some.end..(some.end + ABREAST).min(rows), of_chunk.clone());
            let sums = sums.chunks_exact_mut(sums.len() / width * ABREAST);
            for (panel, sums) in sums.enumerate() {
                // A row or column that is not there counts nothing.
                let of = |row: usize, column: usize| {
                    if row < rows && column < columns { t[row * columns + column] } else { 0.0 }
                };
                let t = from_fn(|row| from_fn(|column| of(first + row, panel * ABREAST + column)));
                add_multiples(simd, &x, &t, sums);
            }
        }
    }
}

/// Some rows' numbers for the classes of a chunk, and zeros to whole vectors, and where there is no row.
struct Abreast([Vec<f32>; ABREAST]);

impl Abreast {
    fn new(classes: usize) -> Self {
        Self(from_fn(|_| vec![0.0; classes.next_multiple_of(LANES)]))
    }

    /// Takes those of `rows`, which it returns.
    #[inline(always)]
    fn write(&mut self, from: &mut impl Rows, rows: Range<usize>, classes: Range<usize>) -> Range<usize> {
        for (row, x) in (rows.start..).zip(&mut self.0) {
            let (x, rest) = x.split_at_mut(if row < rows.end { classes.len() } else { 0 });
            if !x.is_empty() {
                from.write(row, classes.clone(), x);
            }
            rest.fill(0.0);
        }
        rows
    }

    /// Sixteen classes of all rows, then the next sixteen.
    #[inline(always)]
    fn tiles(&self) -> impl Iterator<Item = [&[f32; LANES]; ABREAST]> {
        let [first, second, third] = self.0.each_ref().map(|x| x.as_chunks().0);
        first.iter().zip(second).zip(third).map(|((first, second), third)| [first, second, third])
    }
}

/// Tells of all `rows`.
fn expect(given: &impl Rows, rows: Range<usize>, classes: Range<usize>) {
    rows.for_each(|row| given.expect(row, classes.clone()));
}

/// `sums[row · width + column] += x[row] · columns[column]`, lane by lane, with `columns`: `[classes / LANES, columns]`.
#[inline(always)]
fn add_products<S: Simd>(simd: S, x: &Abreast, columns: &[Lanes], sums: &mut [Lanes], width: usize) {
    for part in 0..LANES / S::F32_LANES {
        let mut all: [[S::f32s; ABREAST]; ABREAST] =
            from_fn(|row| from_fn(|column| vector::<S>(&sums[row * width + column].0, part)));
        for (x, columns) in x.tiles().zip(columns.as_chunks::<ABREAST>().0) {
            let x = x.map(|x| vector::<S>(x, part));
            for (column, lanes) in columns.iter().enumerate() {
                let lanes = vector::<S>(&lanes.0, part);
                for (row, x) in x.into_iter().enumerate() {
                    all[row][column] = simd.mul_add_f32s(x, lanes, all[row][column]);
                }
            }
        }
        for (row, all) in all.into_iter().enumerate() {
            for (column, all) in all.into_iter().enumerate() {
                S::as_mut_simd_f32s(&mut sums[row * width + column].0).0[part] = all;
            }
        }
    }
}

/// `sums[class, column] += Σ_row x[row][class] · t[row][column]` with `sums`: `[classes / LANES, columns]`.
#[inline(always)]
fn add_multiples<S: Simd>(simd: S, x: &Abreast, t: &[[f32; ABREAST]; ABREAST], sums: &mut [Lanes]) {
    let t: [[S::f32s; ABREAST]; ABREAST] = t.map(|t| t.map(|t| simd.splat_f32s(t)));
    for (x, sums) in x.tiles().zip(sums.as_chunks_mut::<ABREAST>().0) {
        for part in 0..LANES / S::F32_LANES {
            let x = x.map(|x| vector::<S>(x, part));
            for (column, sum) in sums.iter_mut().enumerate() {
                let sum = &mut S::as_mut_simd_f32s(&mut sum.0).0[part];
                for (x, t) in x.into_iter().zip(&t) {
                    *sum = simd.mul_add_f32s(x, t[column], *sum);
                }
            }
        }
    }
}

/// A register of them.
#[inline(always)]
fn vector<S: Simd>(lanes: &[f32; LANES], part: usize) -> S::f32s {
    S::as_simd_f32s(lanes).0[part]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small whole numbers, whose sums are exact in any order.
    fn value(i: usize, j: usize) -> f32 {
        ((i * 7 + j * 13) % 11) as f32 - 5.0
    }

    proptest! {
        #[test]
        fn products_are_what_they_are_by_definition(
            classes in prop_oneof![1usize..40, 2000usize..3000],
            columns in 1usize..30,
            rows in 1usize..40,
        ) {
            let panels = Panels::from_fn(classes, columns, value);
            prop_assert_eq!(panels.classes(), classes);
            let x: Vec<f32> = (0..rows * classes).map(|i| ((i * 3) % 7) as f32 - 3.0).collect();
            let product = panels.project(&x);
            prop_assert_eq!(product.len(), rows * columns);
            for (at, found) in product.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let by_hand: f32 = (0..classes).map(|i| x[row * classes + i] * value(i, column)).sum();
                prop_assert_eq!(*found, by_hand);
            }
            let t: Vec<f32> = (0..rows * columns).map(|at| value(at, at / 5)).collect();
            let mut back = Panels::zeros(classes, columns);
            back.add_back(&x, &t);
            back.add_back(&x, &t);
            for (class, column) in (0..classes).flat_map(|class| (0..columns).map(move |at| (class, at))) {
                let of_row = |row: usize| x[row * classes + class] * t[row * columns + column];
                prop_assert_eq!(panels.at(class, column), value(class, column));
                prop_assert_eq!(back.at(class, column), 2.0 * (0..rows).map(of_row).sum::<f32>());
            }
        }
    }

    #[test]
    fn neither_threads_nor_companions_nor_registers_change_a_bit() {
        let (classes, columns, rows) = (3001, 17, 37);
        let noise = |i: usize, j: usize| ((i * 7919 + j * 104_729) % 1009) as f32 / 1009.0 - 0.3;
        let panels = Panels::from_fn(classes, columns, noise);
        let x: Vec<f32> = (0..rows * classes).map(|i| noise(i, 5)).collect();
        let both = |x: &[f32]| {
            let t = panels.project(x);
            let mut back = Panels::zeros(classes, columns);
            back.add_back(x, &t);
            (t, back)
        };
        let whole = both(&x);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(whole, pool.install(|| both(&x)));
        }
        let one_by_one: Vec<f32> = x.chunks(classes).flat_map(|x| panels.project(x)).collect();
        assert_eq!(whole.0, one_by_one);
        let mut plain = vec![0.0; rows * columns];
        let mut given = Given { x: &x, classes };
        pulp::Scalar.vectorize(Projection { panels: &panels, rows: 0..rows, x: &mut given, out: &mut plain });
        assert_eq!(whole.0, plain);
    }
}
