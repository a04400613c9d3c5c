//! Vectors that a teacher gives beside its logits.

/// The vectors of some positions, all of one width, row after row.
///
/// # Shapes
/// `values`: `[positions, width]`.
///
/// # Value space
/// As the teacher gave them: whatever its output holds, no normalisation applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureBatch {
    /// Numbers of a vector.
    pub width: usize,
    /// The vectors.
    pub values: Vec<f32>,
}

impl FeatureBatch {
    /// The vector of one position.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// The vectors at `rows`, in that order.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn of(&self, rows: &[usize]) -> Self {
        let values = rows.iter().flat_map(|row| self.row(*row)).copied().collect();
        Self { width: self.width, values }
    }

    /// How many there are.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }
}
