//! Few numbers at a time, where a call would take longer than they do.

/// Writes what `of` makes of each of `from` to `out`.
///
/// In groups, which compilers make vectors of whatever the machine; the last group ends with the last number and may be made of some that were
/// made before, so that nothing goes one by one.
///
/// # Panics
/// When `out` has another length.
#[inline(always)]
pub(crate) fn each<A: Copy, B>(from: &[A], out: &mut [B], of: impl Fn(A) -> B) {
    assert_eq!(from.len(), out.len(), "another length");
    if !in_groups::<8, A, B>(from, out, &of) && !in_groups::<4, A, B>(from, out, &of) {
        for (out, one) in out.iter_mut().zip(from) {
            *out = of(*one);
        }
    }
}

/// Whether there are enough for a group.
#[inline(always)]
fn in_groups<const GROUP: usize, A: Copy, B>(from: &[A], out: &mut [B], of: &impl Fn(A) -> B) -> bool {
    let Some((first, last)) = from.first_chunk::<GROUP>().zip(from.last_chunk::<GROUP>()) else {
        return false;
    };
    if from.len() <= 2 * GROUP {
        // Nearly always: without a loop.
        out.first_chunk_mut().into_iter().for_each(|out| *out = first.map(of));
    } else {
        for (out, group) in out.as_chunks_mut::<GROUP>().0.iter_mut().zip(from.as_chunks::<GROUP>().0) {
            *out = group.map(of);
        }
    }
    out.last_chunk_mut().into_iter().for_each(|out| *out = last.map(of));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_comes_to_its_place() {
        for len in 0..40u16 {
            let from: Vec<u16> = (0..len).map(|at| at * 3 + 1).collect();
            let mut out = vec![0; from.len()];
            each(&from, &mut out, |number| u32::from(number) + 70_000);
            assert!(out.iter().zip(&from).all(|(out, from)| *out == u32::from(*from) + 70_000), "{len}");
        }
    }
}
