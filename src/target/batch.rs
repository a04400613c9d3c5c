//! The targets of many positions in contiguous memory.

/// What stands for a logit where a head is shorter than the longest: e to the power of it is 0 at every
/// temperature in use, and nothing that is computed with it is NaN.
pub const PADDING: f32 = -65504.0;

/// Heads and tail curves of `rows` positions, row after row.
///
/// # Value space
/// `values` are raw logits relative to the position's largest (so the first is 0 and none is
/// above 0), `curve` is `g(β)` in nats at the cache's nodes, `codes` are whole numbers from −127 to
/// 127. No temperature is applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetBatch {
    /// Number of positions.
    pub rows: usize,
    /// Head size.
    pub k: usize,
    /// Nodes per tail curve; 0 when the head holds every class.
    pub nodes: usize,
    /// Numbers per tail code; 0 in a cache whose tail model is the prior alone.
    pub rank: usize,
    /// Classes in each head, where heads differ in size: `[rows]`, each from 1 to `k`; empty where all
    /// have `k`. What a head has less is filled with its first id and [`PADDING`].
    pub counts: Vec<u16>,
    /// Class ids by falling logit, ties by rising id: `[rows, k]`.
    pub ids: Vec<u32>,
    /// Logits relative to the largest, falling: `[rows, k]`.
    pub values: Vec<f32>,
    /// Tail curves: `[rows, nodes]`.
    pub curve: Vec<f32>,
    /// Tail codes, in units of the tail shape's basis: `[rows, rank]`.
    pub codes: Vec<i8>,
}

impl TargetBatch {
    /// `rows` positions without tail codes, zeroed, ready to be written into.
    pub fn zeroed(rows: usize, k: usize, nodes: usize) -> Self {
        let mut batch = Self::default();
        batch.resize(rows, k, nodes, 0);
        batch
    }

    /// Makes room for `rows` positions, keeping the memory; what it holds is not defined.
    pub fn resize(&mut self, rows: usize, k: usize, nodes: usize, rank: usize) {
        (self.rows, self.k, self.nodes, self.rank) = (rows, k, nodes, rank);
        self.counts.clear();
        self.ids.resize(rows * k, 0);
        self.values.resize(rows * k, 0.0);
        self.curve.resize(rows * nodes, 0.0);
        self.codes.resize(rows * rank, 0);
    }

    /// Lets heads differ in size; to begin with, each has `k` classes.
    pub fn vary(&mut self) {
        // k is below the number of classes and bounded by the config where heads differ.
        self.counts = vec![u16::try_from(self.k).unwrap_or(u16::MAX); self.rows];
    }

    /// Classes in a position's head.
    pub fn count(&self, row: usize) -> usize {
        self.counts.get(row).map_or(self.k, |count| usize::from(*count))
    }

    /// Says how many classes a position's head has; without effect where all have `k`.
    pub fn set_count(&mut self, row: usize, count: usize) {
        if let Some(slot) = self.counts.get_mut(row) {
            *slot = u16::try_from(count).unwrap_or(u16::MAX);
        }
    }

    /// Fills what heads have less than `k` with their first id and [`PADDING`].
    pub fn pad(&mut self) {
        for (row, count) in self.counts.iter().enumerate() {
            let (start, end) = (row * self.k, (row + 1) * self.k);
            let first = self.ids[start];
            self.ids[start + usize::from(*count)..end].fill(first);
            self.values[start + usize::from(*count)..end].fill(PADDING);
        }
    }

    /// Adds the positions of `other`, which has the same `k`, `nodes` and `rank` unless this is
    /// empty.
    pub fn extend(&mut self, other: &Self) {
        (self.k, self.nodes, self.rank) = (other.k, other.nodes, other.rank);
        self.rows += other.rows;
        self.counts.extend_from_slice(&other.counts);
        self.ids.extend_from_slice(&other.ids);
        self.values.extend_from_slice(&other.values);
        self.curve.extend_from_slice(&other.curve);
        self.codes.extend_from_slice(&other.codes);
    }

    /// The positions at `rows`, in that order.
    ///
    /// # Panics
    /// When one is not below [`Self::rows`].
    pub fn of(&self, rows: &[usize]) -> Self {
        let mut out = Self::default();
        out.resize(rows.len(), self.k, self.nodes, self.rank);
        if !self.counts.is_empty() {
            out.counts = rows.iter().map(|row| self.counts[*row]).collect();
        }
        for (to, from) in rows.iter().enumerate() {
            let copy = |width: usize| (to * width..(to + 1) * width, from * width..(from + 1) * width);
            let (head, curve, code) = (copy(self.k), copy(self.nodes), copy(self.rank));
            out.ids[head.0.clone()].copy_from_slice(&self.ids[head.1.clone()]);
            out.values[head.0].copy_from_slice(&self.values[head.1]);
            out.curve[curve.0].copy_from_slice(&self.curve[curve.1]);
            out.codes[code.0].copy_from_slice(&self.codes[code.1]);
        }
        out
    }

    /// Ids, values and curve of one position, what fills a shorter head left out.
    ///
    /// # Panics
    /// When `row` is not below `rows`.
    pub fn row(&self, row: usize) -> (&[u32], &[f32], &[f32]) {
        (
            &self.ids[row * self.k..][..self.count(row)],
            &self.values[row * self.k..][..self.count(row)],
            &self.curve[row * self.nodes..(row + 1) * self.nodes],
        )
    }

    /// The tail code of one position: `[rank]`.
    ///
    /// # Panics
    /// When `row` is not below `rows`.
    pub fn code(&self, row: usize) -> &[i8] {
        &self.codes[row * self.rank..(row + 1) * self.rank]
    }
}
