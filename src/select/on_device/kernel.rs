//! Selection by a kernel of our own, which reads each logit once, and some of a long row before.

use pulp::bytemuck;
use tch::{Kind, Tensor};

use super::{NonFinite, Selected, Selector, not_finite};
use crate::libtorch::{Download, Reads, Source};

const TEXT: &str = include_str!("rows.cu");
/// Of a block, at most. A head, and one more, is no larger: the first bound is one of as many logits.
pub(super) const THREADS: usize = 256;
/// Of a block, at least.
const LEAST: usize = 64;
/// Logits that are worth a thread.
const EACH: usize = 16;

impl Selector {
    /// The kernel for logits that are read like `reads`; `None` of heads that are too large for it.
    fn kernel(&self, reads: Reads) -> Option<Source> {
        let nodes = self.nodes.as_slice();
        let nodes = if self.curve_len() > 0 { nodes } else { &[] };
        let tail = usize::from(!nodes.is_empty());
        let list: Vec<String> = nodes.iter().map(|node| format!("{node:?}")).collect();
        let list = if list.is_empty() { "0.0".into() } else { list.join(",") };
        let wanted = self.k + tail;
        // The first bound says little where nearly all of its logits are wanted.
        let threads =
            (self.classes / EACH).max(wanted + wanted / 2).next_power_of_two().clamp(LEAST, THREADS);
        let source = Source::new("select_rows", TEXT, reads, threads)
            .with("K", self.k)
            .with("TAIL", tail)
            .with("NODES", nodes.len())
            .with("POWERS", u8::from(!nodes.is_empty() && self.sums.are_multiples()))
            .with("NODE_LIST", list);
        (wanted <= THREADS).then_some(source)
    }

    /// [`Selector::select_on_device`]; `None` where there is no kernel for it.
    pub(super) fn by_kernel(&self, logits: &Tensor) -> Option<Result<Selected, NonFinite>> {
        let source = self.kernel(Reads::of(logits, 8)?)?;
        let kernel = source.on(logits.device()).ok()?;
        let rows = logits.size()[0] as usize;
        let (k, nodes) = (self.k, self.curve_len());
        // Columns of ids, values, curves, the largest, and what is wrong.
        let widths = [k, k, nodes, 1, 1];
        let words = (rows * widths.iter().sum::<usize>()) as i64;
        let found = Tensor::empty([words], (Kind::Int, logits.device()));
        let stride = logits.stride()[0] as usize;
        // SAFETY: rows.cu's parameters are the logits, of the type and shape that it was made for, how many rows and
        // classes they have and how far rows are apart, and as many words as its columns have; a row a block.
        #[allow(unsafe_code)]
        unsafe {
            let classes = self.classes.into();
            kernel.launch(rows, &[logits.into(), rows.into(), classes, stride.into(), (&found).into()]);
        }
        let found: Vec<i32> = Download::begin(&found, Kind::Int).numbers();
        let mut rest = &found[..];
        let [ids, values, curve, largest, bad] = widths.map(|width| {
            let (column, after) = rest.split_at(rows * width);
            rest = after;
            column
        });
        if let Some(row) = bad.iter().position(|count| *count != 0) {
            return Some(Err(not_finite(logits, row)));
        }
        let mut selected = self.unknown(rows);
        let Selected { targets, largest: of_rows } = &mut selected;
        targets.ids.copy_from_slice(bytemuck::cast_slice(ids));
        targets.values.copy_from_slice(bytemuck::cast_slice(values));
        targets.curve.copy_from_slice(bytemuck::cast_slice(curve));
        of_rows.copy_from_slice(bytemuck::cast_slice(largest));
        Some(Ok(self.finish(selected)))
    }
}
