//! The codes of a whole cache: fitted to a sample once, kept beside the shards.

use super::QuantisedBatch;
use super::curve::{CurvePredictor, zigzag};
use super::symbol::{SymbolCode, SymbolCodeError};
use crate::target::TailNodes;

/// Precision of the buckets of each kind of number, see [`SymbolCode`].
const ID_PRECISION: u32 = 1;
const FALL_PRECISION: u32 = 2;
const CURVE_PRECISION: u32 = 2;
const TAIL_CODE_PRECISION: u32 = 3;
const COUNT_PRECISION: u32 = 2;
/// Two curve points are at most so many steps apart.
const LARGEST_CURVE_DIFFERENCE: u32 = 2 * 0xffff + 1;
/// The largest tail code, −128 included, as a number from 0.
const LARGEST_TAIL_CODE: u32 = 0xff;

/// Codebook tables that are none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodebookError {
    /// `order` is no order of the classes.
    #[error("order: expected each of the {classes} classes once, found another list")]
    Order {
        /// Number of classes.
        classes: usize,
    },
    /// A table of code lengths has another size.
    #[error("{table}: expected {expected} code lengths, found {found}")]
    Size {
        /// The table.
        table: &'static str,
        /// Codes times buckets.
        expected: usize,
        /// Lengths.
        found: usize,
    },
    /// Code lengths that are no code.
    #[error("{table}, code {code}: {source}")]
    Code {
        /// The table.
        table: &'static str,
        /// Which of its codes.
        code: usize,
        /// Why.
        #[source]
        source: SymbolCodeError,
    },
}

/// What decides which codes there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Number of classes, `V`.
    pub classes: usize,
    /// Largest head size.
    pub k: usize,
    /// Whether heads differ in size.
    pub variable: bool,
    /// Nodes of the tail curve; `None` without a tail.
    pub nodes: Option<TailNodes>,
    /// Numbers per tail code.
    pub rank: usize,
}

/// A codebook as a cache keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodebookTables {
    /// Classes by falling frequency in heads: `[classes]`.
    pub order: Vec<u32>,
    /// Code lengths of ids: `[contexts, buckets]`.
    pub ids: Vec<u8>,
    /// Code lengths of falls: `[contexts, buckets]`.
    pub falls: Vec<u8>,
    /// Code lengths of what is left of curves: `[nodes, buckets]`.
    pub curve: Vec<u8>,
    /// Code lengths of tail codes: `[rank, buckets]`.
    pub tail_codes: Vec<u8>,
    /// Code lengths of head sizes: `[buckets]`; empty where all heads are alike.
    pub counts: Vec<u8>,
}

/// The codes of a cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Codebook {
    pub(super) layout: Layout,
    /// By frequency: the class.
    pub(super) order: Vec<u32>,
    /// By class: its place in `order`.
    pub(super) place: Vec<u32>,
    pub(super) ids: Vec<SymbolCode>,
    pub(super) falls: Vec<SymbolCode>,
    pub(super) curve: Vec<SymbolCode>,
    pub(super) tail_codes: Vec<SymbolCode>,
    pub(super) counts: Option<SymbolCode>,
    pub(super) predictor: Option<CurvePredictor>,
    /// `log(V − k)` for each head size, in whole steps.
    pub(super) at_zero: Vec<f64>,
}

/// The code that a rank's id and fall are written with: the first ranks have one each, later ones share.
pub(super) fn context(rank: usize) -> usize {
    if rank < 16 { rank } else { 12 + rank.ilog2() as usize }
}

impl Layout {
    /// Codes of ids, and of falls.
    fn contexts(&self) -> usize {
        context(self.k - 1) + 1
    }

    fn nodes(&self) -> usize {
        self.nodes.as_ref().map_or(0, TailNodes::len)
    }

    /// Name, number of codes, largest number and precision of each table.
    fn tables(&self) -> [(&'static str, usize, u32, u32); 5] {
        // Classes and head sizes are below 2^32.
        let largest = |n: usize| (n - 1) as u32;
        [
            ("ids", self.contexts(), largest(self.classes), ID_PRECISION),
            ("falls", self.contexts(), u32::from(u16::MAX), FALL_PRECISION),
            ("curve", self.nodes(), LARGEST_CURVE_DIFFERENCE, CURVE_PRECISION),
            ("tail_codes", self.rank, LARGEST_TAIL_CODE, TAIL_CODE_PRECISION),
            ("counts", usize::from(self.variable), largest(self.k), COUNT_PRECISION),
        ]
    }

    /// Lengths in each table, in the order of [`CodebookTables`].
    pub fn table_sizes(&self) -> [usize; 5] {
        self.tables().map(|(_, codes, largest, precision)| codes * SymbolCode::buckets(largest, precision))
    }

    /// `log(V − count)` for each head size from 0 to `k`, in whole steps of `step` nats.
    fn at_zero(&self, step: f64) -> Vec<f64> {
        let log = |count: usize| ((self.classes - count).max(1) as f64).ln();
        (0..=self.k).map(|count| (log(count) / step + 0.5).floor()).collect()
    }
}

impl Codebook {
    /// The codes that are shortest for `sample`. `popularity`, a weight for each class, decides among
    /// classes that the sample's heads hold equally often.
    ///
    /// # Panics
    /// When the sample is not of `layout`, or `popularity` not of its classes.
    pub fn fit(layout: Layout, curve_step: f64, sample: &QuantisedBatch, popularity: Option<&[f64]>) -> Self {
        let mut seen = vec![0u64; layout.classes];
        for row in 0..sample.rows {
            for id in &sample.ids[row * sample.k..][..sample.count(row)] {
                seen[*id as usize] += 1;
            }
        }
        let weight = |class: u32| popularity.map_or(0.0, |weights| weights[class as usize]);
        let mut order: Vec<u32> = (0..layout.classes as u32).collect();
        order.sort_by(|a, b| {
            let frequent = seen[*b as usize].cmp(&seen[*a as usize]);
            frequent.then(weight(*b).total_cmp(&weight(*a))).then(a.cmp(b))
        });
        let mut book = Self::without_codes(layout, curve_step, order);
        // What each code would be asked to write.
        let tables = book.layout.tables();
        let mut numbers: [Vec<Vec<u32>>; 5] = tables.map(|(_, codes, ..)| vec![Vec::new(); codes]);
        for row in 0..sample.rows {
            book.each_number(sample, row, |table, code, number| numbers[table as usize][code].push(number));
        }
        let mut codes = numbers.into_iter().zip(tables).map(|(numbers, (_, _, largest, precision))| {
            let fit = |numbers: Vec<u32>| SymbolCode::fit(numbers.into_iter(), largest, precision);
            numbers.into_iter().map(fit).collect::<Vec<_>>()
        });
        let mut next = || codes.next().unwrap_or_default();
        (book.ids, book.falls, book.curve, book.tail_codes) = (next(), next(), next(), next());
        book.counts = next().pop();
        book
    }

    /// The codebook of `tables`.
    ///
    /// # Errors
    /// [`CodebookError`].
    pub fn new(layout: Layout, curve_step: f64, tables: &CodebookTables) -> Result<Self, CodebookError> {
        let classes = layout.classes;
        let mut seen = vec![false; classes];
        let once = |id: &u32| seen.get_mut(*id as usize).is_some_and(|seen| !std::mem::replace(seen, true));
        if tables.order.len() != classes || !tables.order.iter().all(once) {
            return Err(CodebookError::Order { classes });
        }
        let lengths = [&tables.ids, &tables.falls, &tables.curve, &tables.tail_codes, &tables.counts];
        let mut codes = Vec::new();
        for (lengths, (table, count, largest, precision)) in lengths.into_iter().zip(layout.tables()) {
            let buckets = SymbolCode::buckets(largest, precision);
            if lengths.len() != count * buckets {
                return Err(CodebookError::Size { table, expected: count * buckets, found: lengths.len() });
            }
            let code = |(code, lengths): (usize, &[u8])| {
                SymbolCode::new(lengths, largest, precision).map_err(|source| CodebookError::Code {
                    table,
                    code,
                    source,
                })
            };
            codes.push(lengths.chunks(buckets).enumerate().map(code).collect::<Result<Vec<_>, _>>()?);
        }
        let mut book = Self::without_codes(layout, curve_step, tables.order.clone());
        let mut codes = codes.into_iter();
        let mut next = || codes.next().unwrap_or_default();
        (book.ids, book.falls, book.curve, book.tail_codes) = (next(), next(), next(), next());
        book.counts = next().pop();
        Ok(book)
    }

    fn without_codes(layout: Layout, curve_step: f64, order: Vec<u32>) -> Self {
        let mut place = vec![0; layout.classes];
        order.iter().enumerate().for_each(|(at, class)| place[*class as usize] = at as u32);
        Self {
            at_zero: layout.at_zero(curve_step),
            predictor: layout.nodes.as_ref().map(CurvePredictor::new),
            layout,
            order,
            place,
            ids: Vec::new(),
            falls: Vec::new(),
            curve: Vec::new(),
            tail_codes: Vec::new(),
            counts: None,
        }
    }

    /// What a cache keeps of this.
    pub fn tables(&self) -> CodebookTables {
        let lengths = |codes: &[SymbolCode]| codes.iter().flat_map(|code| code.lengths()).copied().collect();
        CodebookTables {
            order: self.order.clone(),
            ids: lengths(&self.ids),
            falls: lengths(&self.falls),
            curve: lengths(&self.curve),
            tail_codes: lengths(&self.tail_codes),
            counts: lengths(self.counts.as_slice()),
        }
    }

    /// What decides which codes there are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The numbers of a position in the order in which they are written, each with its table and code.
    pub(super) fn each_number(
        &self,
        batch: &QuantisedBatch,
        row: usize,
        mut write: impl FnMut(Table, usize, u32),
    ) {
        let count = batch.count(row);
        if self.layout.variable {
            write(Table::Counts, 0, count as u32 - 1);
        }
        let head = row * batch.k..row * batch.k + count;
        for (rank, id) in batch.ids[head.clone()].iter().enumerate() {
            write(Table::Ids, context(rank), self.place[*id as usize]);
        }
        for (rank, pair) in batch.values[head].windows(2).enumerate() {
            write(Table::Falls, context(rank + 1), u32::from(pair[1].saturating_sub(pair[0])));
        }
        if let Some(predictor) = &self.predictor {
            let curve = &batch.curve[row * batch.nodes..][..batch.nodes];
            for at in (0..curve.len()).rev() {
                let foretold = predictor.predict(at, self.at_zero[count], curve);
                write(Table::Curve, at, zigzag(i32::from(curve[at]) - i32::from(foretold)));
            }
        }
        for (at, code) in batch.codes[row * batch.rank..][..batch.rank].iter().enumerate() {
            write(Table::TailCodes, at, zigzag(i32::from(*code)));
        }
    }
}

/// The tables of a codebook, as [`Layout::tables`] lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Ids = 0,
    Falls = 1,
    Curve = 2,
    TailCodes = 3,
    Counts = 4,
}
