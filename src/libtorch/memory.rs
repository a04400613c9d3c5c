//! The numbers of tensors on the CPU, where they lie.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use tch::kind::Element;
use tch::{Device, Kind, Tensor};

/// A tensor's values as `T`, row after row: where the tensor has them, if it has them like that.
#[derive(Debug)]
pub(crate) struct Numbers<T>(Tensor, PhantomData<T>);

/// In single precision.
pub(crate) type Floats = Numbers<f32>;

impl<T: Element> Numbers<T> {
    /// Of `tensor`, which nothing changes in place before this is dropped.
    pub(crate) fn of(tensor: &Tensor) -> Self {
        Self(tensor.detach().to_kind(T::KIND).to_device(Device::Cpu).contiguous(), PhantomData)
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        let len = self.0.numel();
        if len == 0 {
            return &[];
        }
        // SAFETY: a contiguous tensor of the CPU has as many numbers of its type, which is `T`'s, from there on, for as long as
        // `self` holds it.
        #[allow(unsafe_code)]
        let values = unsafe { std::slice::from_raw_parts(self.0.data_ptr().cast::<T>(), len) };
        values
    }
}

/// A tensor's values in single precision, row after row; crosses the bus in the type that they have.
pub(crate) fn to_host(tensor: &Tensor) -> Vec<f32> {
    Floats::of(&tensor.to_device(Device::Cpu)).as_slice().to_vec()
}

/// A tensor's values of type `kind`, which is `T`'s, row after row, wherever it is. Waits for the device.
pub(crate) fn numbers<T: Element + Copy + Default>(tensor: &Tensor, kind: Kind) -> Vec<T> {
    let flat = tensor.detach().to_kind(kind).contiguous();
    let mut values = vec![T::default(); flat.numel()];
    let all = values.len();
    flat.copy_data(&mut values, all);
    values
}

/// A float tensor of `size` on the CPU with what `fill` writes; what it leaves out is not defined.
pub(crate) fn filled(size: &[i64], fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Tensor {
    let tensor = Tensor::empty(size, (Kind::Float, Device::Cpu));
    let len = tensor.numel();
    if len > 0 {
        let start = tensor.data_ptr().cast::<MaybeUninit<f32>>();
        // SAFETY: a new tensor is contiguous and nobody else's; nothing is said of what its memory holds.
        #[allow(unsafe_code)]
        fill(unsafe { std::slice::from_raw_parts_mut(start, len) });
    }
    tensor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_tensor_is_read_and_written_there() {
        let rows = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]);
        assert_eq!(Floats::of(&rows).as_slice(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(Floats::of(&rows).as_slice().as_ptr(), rows.data_ptr().cast::<f32>().cast_const());
        assert_eq!(Floats::of(&rows.tr().to_kind(Kind::Double)).as_slice(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert!(Floats::of(&rows.narrow(0, 0, 0)).as_slice().is_empty());
        let made = filled(&[3, 2], |values| {
            for (value, number) in values.iter_mut().zip([7.0, 8.0, 9.0, 10.0, 11.0, 12.0]) {
                *value = MaybeUninit::new(number);
            }
        });
        assert_eq!(made, Tensor::from_slice(&[7.0f32, 8.0, 9.0, 10.0, 11.0, 12.0]).view([3, 2]));
        assert_eq!(filled(&[0, 4], |_| panic!("nothing to fill")).size(), [0, 4]);
    }
}
