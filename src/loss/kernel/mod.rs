//! Loss and gradient of rows of logits on a GPU, by a kernel of our own: what [`fused`](super::fused) is on the CPU. Logits are
//! read twice and gradients written once, where libtorch's operators read and write some ten times over.

use tch::{Device, Kind, Tensor};

use super::TargetTensors;
use crate::libtorch::{Argument, Reads, SHARED, Source};

const TEXT: &str = include_str!("rows.cu");
/// Of a block, at most.
const THREADS: usize = 256;
/// Bytes of a block's memory that sums of a row take.
const SUMS: usize = 8 * (THREADS / 32) * 4;
/// Rows that share what is read of all classes for each.
const TOGETHER: usize = 4;

/// The divergence's part.
pub(super) struct OfTargets<'a> {
    /// 1 / T.
    pub(super) beta: f64,
    pub(super) targets: &'a TargetTensors,
    pub(super) spread: Spread<'a>,
    /// What the gradient of each position's divergence is multiplied by.
    pub(super) factor: f64,
}

/// Where the mass off the head lies.
pub(super) enum Spread<'a> {
    /// There is none, or it is not compared.
    Nowhere,
    /// In one outcome of its own.
    Bucket(Tail<'a>),
    /// As log-weights say, `[classes]`, and the code of each position with β times a basis, `[rank, classes]`: both float.
    Weights(Tail<'a>, &'a Tensor, Option<&'a Tensor>),
}

/// How much mass lies off the head: `ln m + … = at_zero ln(V − k) + curve · at_nodes`.
#[derive(Clone, Copy)]
pub(super) struct Tail<'a> {
    pub(super) at_zero: f64,
    /// `[nodes]`, float.
    pub(super) at_nodes: &'a Tensor,
}

/// The part of the labels.
pub(super) struct OfLabels<'a> {
    /// `[rows]`, int64, negative where there is none.
    pub(super) labels: &'a Tensor,
    pub(super) smoothing: f64,
    /// What the gradient of each position's cross-entropy is multiplied by.
    pub(super) factor: f64,
}

/// What comes out.
pub(super) struct Done {
    /// `[rows, classes]`, float.
    pub(super) gradient: Tensor,
    /// The divergence of each row, in nats, without `T²`: `[rows]`, or their sum, `[]`.
    pub(super) of_kl: Option<Tensor>,
    /// The cross-entropy of each row, 0 where there is no label: `[rows]`, or their sum, `[]`.
    pub(super) of_labels: Option<Tensor>,
}

/// Whether `tensor` is what a kernel takes it for.
fn fits(tensor: &Tensor, kind: Kind, size: &[usize], device: Device) -> bool {
    let alike = tensor.size().iter().map(|len| *len as usize).eq(size.iter().copied());
    alike && tensor.kind() == kind && tensor.device() == device
}

impl OfTargets<'_> {
    /// Whether the targets are those of so many rows.
    fn fits(&self, rows: usize, tail: Option<&Tail<'_>>, rank: usize, device: Device) -> bool {
        let TargetTensors { ids, values, curve, codes, counts } = self.targets;
        let k = ids.size().get(1).map_or(0, |k| *k as usize);
        let of_tail = |tail: &Tail<'_>| fits(curve, Kind::Float, &[rows, tail.at_nodes.numel()], device);
        fits(ids, Kind::Int64, &[rows, k], device)
            && fits(values, Kind::Float, &[rows, k], device)
            && tail.is_none_or(of_tail)
            && (rank == 0 || fits(codes, Kind::Float, &[rows, rank], device))
            && counts.as_ref().is_none_or(|counts| fits(counts, Kind::Float, &[rows], device))
    }
}

/// Both parts of `logits`, `[rows, classes]`, where they are; `None` where there is no kernel for it.
pub(super) fn rows(
    logits: &Tensor,
    kl: Option<&OfTargets<'_>>,
    labels: Option<&OfLabels<'_>>,
) -> Option<Done> {
    let (count, classes) = (logits.size()[0] as usize, *logits.size().get(1)? as usize);
    let (tail, log_w, basis) = match kl.map(|kl| &kl.spread) {
        None | Some(Spread::Nowhere) => (None, None, None),
        Some(Spread::Bucket(tail)) => (Some(tail), None, None),
        Some(Spread::Weights(tail, log_w, basis)) => (Some(tail), Some(*log_w), *basis),
    };
    let rank = basis.map_or(0, |basis| basis.size()[0] as usize);
    if !kl.is_none_or(|kl| kl.fits(count, tail, rank, logits.device()))
        || !labels.is_none_or(|labels| fits(labels.labels, Kind::Int64, &[count], logits.device()))
    {
        return None;
    }
    let words = classes.div_ceil(1024);
    // Of each row a bit for every 32 classes, its code, and its sums.
    let of_row = 4 * (words + rank.max(1)) + SUMS;
    let most = if rank > 0 { TOGETHER } else { 1 };
    let together = [4, 2, 1].into_iter().find(|rows| *rows <= most && rows * of_row <= SHARED)?;
    let per = if together > 1 { 4 } else { 8 };
    let reads = Reads::of(Some(logits).filter(|logits| logits.is_contiguous())?, per)?;
    let threads = (classes / reads.per()).next_power_of_two().clamp(32, THREADS);
    let width = |tensor: &Tensor| tensor.size()[1] as usize;
    let softened = kl.is_some_and(|kl| kl.beta != 1.0);
    let spread = match (tail, log_w) {
        (None, _) => 0,
        (_, Some(_)) => 1,
        (Some(_), None) => 2,
    };
    let smoothing = labels.map_or(0.0, |labels| labels.smoothing);
    let kernel = Source::new("loss_rows", TEXT, reads, threads)
        .with("ROWS", together)
        .with("KL", u8::from(kl.is_some()))
        .with("K", kl.map_or(1, |kl| width(&kl.targets.ids)))
        .with("NODES", kl.map_or(0, |kl| width(&kl.targets.curve)))
        .with("SPREAD", spread)
        .with("RANK", rank)
        .with("LABELS", u8::from(labels.is_some()))
        .with("SOFTENED", u8::from(softened))
        .with("SMOOTHED", u8::from(smoothing > 0.0))
        .with("WORDS", words)
        .on(logits.device())
        .ok()?;
    let new = |size: &[i64]| Tensor::empty(size, (Kind::Float, logits.device()));
    let gradient = new(&logits.size());
    let of_kl = kl.map(|_| new(&[count as i64]));
    let of_labels = labels.map(|_| new(&[count as i64]));
    // In rows one after the other, whoever made them.
    let of_targets = |of: fn(&TargetTensors) -> &Tensor| kl.map(|kl| of(kl.targets).contiguous());
    let ids = of_targets(|targets| &targets.ids);
    let values = of_targets(|targets| &targets.values);
    let curve = of_targets(|targets| &targets.curve);
    let codes = of_targets(|targets| &targets.codes);
    let counts = kl.and_then(|kl| kl.targets.counts.as_ref()).map(Tensor::contiguous);
    let given = labels.map(|labels| labels.labels.contiguous());
    let arguments: [Argument<'_>; 20] = [
        logits.into(),
        count.into(),
        classes.into(),
        ids.as_ref().into(),
        values.as_ref().into(),
        counts.as_ref().into(),
        curve.as_ref().into(),
        tail.map(|tail| tail.at_nodes).into(),
        tail.map_or(0.0, |tail| tail.at_zero).into(),
        codes.as_ref().into(),
        log_w.into(),
        basis.into(),
        given.as_ref().into(),
        kl.map_or(1.0, |kl| kl.beta).into(),
        kl.map_or(0.0, |kl| kl.factor).into(),
        labels.map_or(0.0, |labels| labels.factor).into(),
        smoothing.into(),
        of_kl.as_ref().into(),
        of_labels.as_ref().into(),
        (&gradient).into(),
    ];
    // SAFETY: these are rows.cu's parameters, of the types and shapes that it was made for: ids are those of classes, which
    // a cache's reader has checked, and labels too, below their number.
    #[allow(unsafe_code)]
    unsafe {
        kernel.launch(count.div_ceil(together), &arguments);
    }
    Some(Done { gradient, of_kl, of_labels })
}
