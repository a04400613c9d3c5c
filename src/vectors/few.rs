//! Few numbers at a time, where a call would take longer than they do.

/// Writes what `of` makes of each of `from` to `out`.
///
/// In groups, which compilers make vectors of whatever the machine; what is left at the end is made once more together with what
/// stands before it, so that nothing goes one by one.
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
    let (Some(last), Some(_)) = (from.last_chunk::<GROUP>(), out.last_chunk::<GROUP>()) else { return false };
    let (groups, rest) = from.as_chunks::<GROUP>();
    for (out, group) in out.as_chunks_mut::<GROUP>().0.iter_mut().zip(groups) {
        *out = group.map(of);
    }
    if let (false, Some(out)) = (rest.is_empty(), out.last_chunk_mut::<GROUP>()) {
        *out = last.map(of);
    }
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
