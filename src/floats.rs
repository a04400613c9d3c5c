//! A model's numbers in memory, in the type of floats that it gave them in.
//!
//! Whoever reads them widens them a row at a time, so that numbers of half types cross memory once, as they are. Values do
//! not depend on the type that they are kept in: each of half a type's is one of single precision.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use crate::mapped::{self, AHEAD};
use crate::vectors::widen;

/// Numbers where they lie.
#[derive(Clone, Copy, Debug)]
pub enum Floats<'a> {
    /// IEEE single precision.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE double precision, read as single.
    F64(&'a [f64]),
}

impl Floats<'_> {
    /// How many there are.
    pub fn len(self) -> usize {
        match self {
            Self::F32(all) => all.len(),
            Self::F16(all) => all.len(),
            Self::Bf16(all) => all.len(),
            Self::F64(all) => all.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Asks the processor for them, without waiting ([`mapped::fetch`]).
    pub fn fetch(self) {
        match self {
            Self::F32(all) => mapped::fetch(all),
            Self::F16(all) => mapped::fetch(all),
            Self::Bf16(all) => mapped::fetch(all),
            Self::F64(all) => mapped::fetch(all),
        }
    }

    /// The one at `index`, in single precision.
    ///
    /// # Panics
    /// When there is no such.
    pub fn at(self, index: usize) -> f32 {
        match self {
            Self::F32(all) => all[index],
            Self::F16(all) => all[index].to_f32(),
            Self::Bf16(all) => all[index].to_f32(),
            Self::F64(all) => all[index] as f32,
        }
    }

    /// Writes all of them to `out`, in single precision.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn write_to(self, out: &mut [f32]) {
        match self {
            Self::F32(all) => out.copy_from_slice(all),
            Self::F16(all) => widen(all, &[], out),
            Self::Bf16(all) => widen(all, &[], out),
            Self::F64(all) => {
                assert_eq!(all.len(), out.len(), "another length");
                out.iter_mut().zip(all).for_each(|(out, value)| *out = *value as f32);
            }
        }
    }

    /// Adds all of them to `into`, in single precision.
    pub fn append_to(self, into: &mut Vec<f32>) {
        if let Self::F32(all) = self {
            return into.extend_from_slice(all);
        }
        let end = into.len();
        into.resize(end + self.len(), 0.0);
        self.write_to(&mut into[end..]);
    }
}

impl<'a> Floats<'a> {
    /// Those in `range`.
    ///
    /// # Panics
    /// When there are no such.
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(all) => Self::F32(&all[range]),
            Self::F16(all) => Self::F16(&all[range]),
            Self::Bf16(all) => Self::Bf16(&all[range]),
            Self::F64(all) => Self::F64(&all[range]),
        }
    }

    /// The row `at` of rows of `classes`.
    ///
    /// # Panics
    /// When there is no such.
    pub fn row(self, at: usize, classes: usize) -> Self {
        self.part(at * classes..(at + 1) * classes)
    }

    /// The first `count` of them in single precision, and, where they are read from where they are, what lies [`AHEAD`] of
    /// each. What else they are in is asked for so far ahead and widened into `wide`, which is overwritten.
    ///
    /// # Panics
    /// When there are not so many.
    pub(crate) fn first<'w>(self, count: usize, wide: &'w mut Vec<f32>) -> (&'w [f32], &'w [f32])
    where
        'a: 'w,
    {
        fn ahead<T>(all: &[T]) -> &[T] {
            all.get(AHEAD / size_of::<T>()..).unwrap_or_default()
        }
        if let Self::F32(all) = self {
            return (&all[..count], ahead(all));
        }
        wide.resize(count, 0.0);
        match self {
            Self::F16(all) => widen(&all[..count], ahead(all), wide),
            Self::Bf16(all) => widen(&all[..count], ahead(all), wide),
            other => other.part(0..count).write_to(wide),
        }
        (wide, &[])
    }

    /// All of them in single precision: where they are, if that is what they are in, and else in `wide`, which is overwritten.
    pub fn widened<'w>(self, wide: &'w mut Vec<f32>) -> &'w [f32]
    where
        'a: 'w,
    {
        self.first(self.len(), wide).0
    }
}

impl<'a> From<&'a [f32]> for Floats<'a> {
    fn from(all: &'a [f32]) -> Self {
        Self::F32(all)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Floats<'a> {
    fn from(all: &'a [f32; N]) -> Self {
        Self::F32(all)
    }
}

impl<'a> From<&'a Vec<f32>> for Floats<'a> {
    fn from(all: &'a Vec<f32>) -> Self {
        Self::F32(all)
    }
}

/// Memory that is not ours and has numbers in it, which nobody changes.
pub trait Holder: Debug + Send + Sync {
    /// The numbers.
    fn floats(&self) -> Floats<'_>;
}

/// Numbers in memory of our own, or in that of whoever made them, which is let go with the last of these.
#[derive(Debug)]
pub struct FloatBuf(Place);

#[derive(Debug)]
enum Place {
    Own(Vec<f32>),
    Held(Arc<dyn Holder>, Range<usize>),
}

impl FloatBuf {
    /// Those in `range` of what `holder` has; nothing is copied.
    ///
    /// # Panics
    /// When it has no such.
    pub fn held(holder: Arc<dyn Holder>, range: Range<usize>) -> Self {
        let _there = holder.floats().part(range.clone());
        Self(Place::Held(holder, range))
    }

    /// Where they lie.
    pub fn floats(&self) -> Floats<'_> {
        match &self.0 {
            Place::Own(values) => Floats::F32(values),
            Place::Held(holder, range) => holder.floats().part(range.clone()),
        }
    }

    /// In memory of our own, in single precision.
    pub fn into_vec(self) -> Vec<f32> {
        match self.0 {
            Place::Own(values) => values,
            Place::Held(holder, range) => {
                let mut values = Vec::with_capacity(range.len());
                holder.floats().part(range).append_to(&mut values);
                values
            }
        }
    }
}

impl From<Vec<f32>> for FloatBuf {
    fn from(values: Vec<f32>) -> Self {
        Self(Place::Own(values))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug)]
    struct Doubles(Vec<f64>);

    impl Holder for Doubles {
        fn floats(&self) -> Floats<'_> {
            Floats::F64(&self.0)
        }
    }

    proptest! {
        /// Every type, against its conversions one by one, in any part of it; what is not finite stays what it is.
        #[test]
        fn every_type_is_widened_number_by_number(
            bits in proptest::collection::vec(any::<u16>(), 0..70),
            start in 0usize..70,
            len in 0usize..70,
        ) {
            let halves: Vec<f16> = bits.iter().map(|b| f16::from_bits(*b)).collect();
            let brains: Vec<bf16> = bits.iter().map(|b| bf16::from_bits(*b)).collect();
            let singles: Vec<f32> = bits.iter().map(|b| f32::from(*b) - 3e4).collect();
            let doubles: Vec<f64> = bits.iter().map(|b| f64::from(*b) / 3.0).collect();
            let start = start.min(bits.len());
            let range = start..(start + len).min(bits.len());
            for (floats, expected) in [
                (Floats::F16(&halves), halves.iter().map(|v| v.to_f32()).collect::<Vec<f32>>()),
                (Floats::Bf16(&brains), brains.iter().map(|v| v.to_f32()).collect()),
                (Floats::F32(&singles), singles.clone()),
                (Floats::F64(&doubles), doubles.iter().map(|v| *v as f32).collect()),
            ] {
                prop_assert_eq!((floats.len(), floats.is_empty()), (bits.len(), bits.is_empty()));
                let same = |found: &[f32], expected: &[f32]| {
                    let alike = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
                    found.len() == expected.len() && found.iter().zip(expected).all(alike)
                };
                let mut wide = vec![7.0; 3];
                prop_assert!(same(floats.part(range.clone()).widened(&mut wide), &expected[range.clone()]));
                let mut more = vec![5.0];
                floats.append_to(&mut more);
                prop_assert!(more[0] == 5.0 && same(&more[1..], &expected));
                let one_by_one: Vec<f32> = (0..floats.len()).map(|at| floats.at(at)).collect();
                prop_assert!(same(&one_by_one, &expected));
            }
        }
    }

    #[test]
    fn what_is_held_is_read_where_it_is() {
        let holder = Arc::new(Doubles((0..6).map(f64::from).collect()));
        let buf = FloatBuf::held(holder.clone(), 2..6);
        assert_eq!(buf.floats().row(1, 2).widened(&mut Vec::new()), [4.0, 5.0]);
        assert_eq!(Arc::strong_count(&holder), 2);
        assert_eq!(buf.into_vec(), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(Arc::strong_count(&holder), 1);
        let own = FloatBuf::from(vec![1.0, 2.0]);
        assert!(matches!(own.floats(), Floats::F32([1.0, 2.0])));
        assert_eq!(own.into_vec(), [1.0, 2.0]);
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn what_is_not_there_is_not_held() {
        FloatBuf::held(Arc::new(Doubles(vec![0.0; 3])), 1..4);
    }
}
