//! Selection by a kernel of our own, which reads each logit once, and some of a long row before.

use pulp::bytemuck;
use tch::{Kind, Tensor};

use super::{NonFinite, Selected, Selector, not_finite};
use crate::libtorch::{Download, Reads, Source};
use crate::target::TargetBatch;

const TEXT: &str = include_str!("rows.cu");
/// Of a block, at most. A head, and one more, is no larger: the first bound is one of as many logits.
pub(super) const THREADS: usize = 256;
/// Of a block, unless a head asks for more.
const USUAL: std::ops::RangeInclusive<usize> = 32..=128;
/// Bytes of logits that are worth a thread.
const EACH: usize = 64;

impl Selector {
    /// The kernel for such logits; `None` where there is none for their type, and of heads that are too large for it.
    fn kernel(&self, logits: &Tensor) -> Option<Source> {
        let reads = Reads::of(logits, 8)?;
        let nodes = self.nodes.as_slice();
        let nodes = if self.curve_len() > 0 { nodes } else { &[] };
        let tail = usize::from(!nodes.is_empty());
        let list: Vec<String> = nodes.iter().map(|node| format!("{node:?}")).collect();
        let list = if list.is_empty() { "0.0".into() } else { list.join(",") };
        let wanted = self.k + tail;
        let worth = self.classes * logits.kind().elt_size_in_bytes() / EACH;
        // The first bound says little where nearly all of its logits are wanted.
        let threads = worth.clamp(*USUAL.start(), *USUAL.end()).max(wanted + wanted / 2);
        let threads = threads.next_power_of_two().min(THREADS);
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
        let source = self.kernel(logits)?;
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
        let found = Download::begin(&found, Kind::Int).numbers::<i32>();
        let mut rest = found.as_slice();
        let [ids, values, curve, largest, bad] = widths.map(|width| {
            let (column, after) = rest.split_at(rows * width);
            rest = after;
            column
        });
        if let Some(row) = bad.iter().position(|bad| *bad != 0) {
            return Some(Err(not_finite(logits, row)));
        }
        let floats = |column: &[i32]| bytemuck::cast_slice::<_, f32>(column).to_vec();
        let targets = TargetBatch {
            rows,
            k,
            nodes,
            ids: bytemuck::cast_slice(ids).to_vec(),
            values: floats(values),
            curve: floats(curve),
            ..TargetBatch::default()
        };
        Some(Ok(self.finish(Selected { targets, largest: floats(largest) })))
    }
}
