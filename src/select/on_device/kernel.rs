//! Selection by a kernel of our own, which reads each logit once.

use tch::{Kind, Tensor};

use super::{NonFinite, Row, Selected, Selector, not_finite};
use crate::libtorch::{Download, Reads, Source};

const TEXT: &str = include_str!("rows.cu");
/// Of a block. A head, and one more, is no larger: the first bound is one of as many logits.
pub(super) const THREADS: usize = 256;

impl Selector {
    /// The kernel for logits that are read like `reads`; `None` of heads that are too large for it.
    fn kernel(&self, reads: Reads) -> Option<Source> {
        let nodes = self.nodes.as_slice();
        let nodes = if self.curve_len() > 0 { nodes } else { &[] };
        let tail = usize::from(!nodes.is_empty());
        let list: Vec<String> = nodes.iter().map(|node| format!("{:?}f", *node as f32)).collect();
        let list = if list.is_empty() { "0.0f".into() } else { list.join(",") };
        let source = Source::new("select_rows", TEXT, reads, THREADS)
            .with("K", self.k)
            .with("TAIL", tail)
            .with("NODES", nodes.len())
            .with("POWERS", u8::from(!nodes.is_empty() && self.sums.are_multiples()))
            .with("NODE_LIST", list);
        (self.k + tail <= THREADS).then_some(source)
    }

    /// [`Selector::select_on_device`]; `None` where there is no kernel for it.
    pub(super) fn by_kernel(&self, logits: &Tensor) -> Option<Result<Selected, NonFinite>> {
        let source = self.kernel(Reads::of(logits, 8)?)?;
        let kernel = source.on(logits.device()).ok()?;
        let rows = logits.size()[0] as usize;
        let (k, nodes) = (self.k, self.curve_len());
        let wanted = k + usize::from(nodes > 0);
        let words = 2 * wanted + nodes + 1;
        let found = Tensor::empty([rows as i64, words as i64], (Kind::Int, logits.device()));
        // SAFETY: rows.cu's parameters are the logits, of the type and shape that it was made for, their classes and
        // the words of each row, a row a block.
        #[allow(unsafe_code)]
        unsafe {
            kernel.launch(rows, &[logits.into(), self.classes.into(), (&found).into()]);
        }
        let found: Vec<i32> = Download::begin(&found, Kind::Int).numbers();
        let mut selected = self.unknown(rows);
        let (mut ids, mut numbers, mut log_sums) = (Vec::new(), Vec::new(), Vec::new());
        for (at, row) in found.chunks_exact(words).enumerate() {
            if row[words - 1] != 0 {
                return Some(Err(not_finite(logits, at)));
            }
            let float = |word: &i32| f32::from_bits(*word as u32);
            ids.clear();
            ids.extend(row[..k].iter().map(|id| *id as u32));
            numbers.clear();
            numbers.extend(row[wanted..2 * wanted].iter().map(float));
            log_sums.clear();
            log_sums.extend(row[2 * wanted..][..nodes].iter().map(|sum| f64::from(float(sum)).ln()));
            self.put(&mut selected, at, &Row { ids: &ids, logits: &numbers, log_sums: &log_sums });
        }
        Some(Ok(self.finish(selected)))
    }
}
