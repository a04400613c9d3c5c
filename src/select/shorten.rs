//! Heads of the size that a mass asks for.

use crate::target::{TailNodes, TargetBatch};

/// Cuts every head to the smallest that holds `mass` of the softmax at T = 1, and adds to its tail what it
/// loses: head and tail together stay what they were.
///
/// Of a batch whose heads have all `k` classes and leave a tail.
pub(super) fn shorten(batch: &mut TargetBatch, mass: f64, nodes: &TailNodes) {
    let (betas, one) = (nodes.as_slice(), nodes.index_of_one());
    batch.vary();
    for row in 0..batch.rows {
        let (_, values, curve) = batch.row(row);
        let e: Vec<f64> = values.iter().map(|v| f64::from(*v).exp()).collect();
        let wanted = mass * (e.iter().sum::<f64>() + f64::from(curve[one]).exp());
        let mut held = 0.0;
        let enough = e.iter().position(|e| {
            held += e;
            held >= wanted
        });
        let Some(count) = enough.map(|last| last + 1).filter(|count| *count < values.len()) else { continue };
        let cut: Vec<f64> = values[count..].iter().map(|v| f64::from(*v)).collect();
        let curve = &mut batch.curve[row * batch.nodes..][..batch.nodes];
        for (g, beta) in curve.iter_mut().zip(betas) {
            // The largest of what is added up is taken out, so that nothing is lost below it.
            let largest = (beta * cut[0]).max(f64::from(*g));
            let sum: f64 = cut.iter().map(|v| (beta * v - largest).exp()).sum();
            *g = (largest + (sum + (f64::from(*g) - largest).exp()).ln()) as f32;
        }
        batch.set_count(row, count);
    }
    batch.pad();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::select::Selector;
    use crate::select::reference::select_row;
    use crate::target::TailNodes;

    proptest! {
        #[test]
        fn as_if_selected_with_that_many_classes(
            logits in proptest::collection::vec(-20.0f32..20.0, 60),
            mass in 0.05f64..1.0,
        ) {
            let nodes = TailNodes::default();
            let selector = Selector::new(30, 12, &nodes).unwrap().with_mass(Some(mass)).unwrap();
            let batch = selector.select(&logits).unwrap();
            for (row, z) in logits.chunks(30).enumerate() {
                let (ids, values, curve) = batch.row(row);
                let largest = z.iter().copied().fold(f32::MIN, f32::max);
                let all: f64 = z.iter().map(|z| f64::from(z - largest).exp()).sum();
                let held = |count: usize| values[..count].iter().map(|v| f64::from(*v).exp()).sum::<f64>() / all;
                prop_assert!(ids.len() == 12 || held(ids.len()) >= mass - 1e-6);
                prop_assert!(ids.len() == 1 || held(ids.len() - 1) < mass + 1e-6);
                let expected = select_row(z, ids.len(), &nodes);
                prop_assert_eq!(ids, &expected.ids[..]);
                for (g, expected) in curve.iter().zip(&expected.curve) {
                    prop_assert!((f64::from(*g) - expected).abs() < 1e-4, "{g} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_head_of_all_classes_has_no_tail_to_grow() {
        assert!(Selector::new(5, 5, &TailNodes::default()).unwrap().with_mass(Some(0.9)).is_none());
    }
}
