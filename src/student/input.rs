//! What a student is given, as tensors on its device.

use tch::{Device, Kind, Tensor};

/// A batch of inputs.
#[derive(Debug)]
pub enum Input {
    /// Prepared images: `[rows, …input shape]`, float.
    Images(Tensor),
    /// Rows of tokens.
    Tokens(TokenTensors),
}

/// Rows of tokens, padded to the longest.
#[derive(Debug)]
pub struct TokenTensors {
    /// Tokens: `[rows, length]`, int64.
    pub tokens: Tensor,
    /// Each token's place in its document: `[rows, length]`, int64.
    pub places: Tensor,
    /// The number of each token's document in the row, −1 for padding: `[rows, length]`, int64. A token
    /// attends to its own document only. `None`: each row is one document without padding.
    pub documents: Option<Tensor>,
    /// Where in `rows × length` the positions lie that are asked about, none of the padding among them: `[positions]`, int64.
    pub positions: Tensor,
}

impl TokenTensors {
    /// Rows that are one document each, without padding.
    pub fn whole(rows: i64, tokens: &[i64], device: Device) -> Self {
        let tokens = Tensor::from_slice(tokens).view([rows, -1]).to_device(device);
        let length = tokens.size()[1];
        let kind = (Kind::Int64, device);
        let places = Tensor::arange(length, kind).unsqueeze(0).expand([rows, length], false);
        Self { tokens, places, documents: None, positions: Tensor::arange(rows * length, kind) }
    }

    /// Which tokens each attends to: `[rows, 1, length, length]`, bool; `None` where that is all before it.
    pub(super) fn mask(&self) -> Option<Tensor> {
        let documents = self.documents.as_ref()?;
        let same = documents.unsqueeze(1).eq_tensor(&documents.unsqueeze(2));
        // Padding is a document of its own, so that no row of the mask is empty.
        Some(same.tril(0).unsqueeze(1))
    }

    /// `[rows, length, width]` to `[positions, width]`.
    pub(super) fn pick(&self, hidden: &Tensor) -> Tensor {
        hidden.flatten(0, 1).index_select(0, &self.positions)
    }
}
