//! The memory format `channels_last`.

use tch::Tensor;

/// The same images `[batch, channels, height, width]` with the channels of a place side by side in memory, as PyTorch's
/// `to(memory_format=torch.channels_last)` lays them out. Operators of images that are given such give such. Anything of another
/// number of dimensions stays as it is.
pub(crate) fn channels_last(images: &Tensor) -> Tensor {
    let size = images.size();
    let [_, channels, height, width] = size[..] else { return images.shallow_clone() };
    // The bindings have no memory formats. The strides have to be said, because of one channel any would do, and libtorch goes by
    // them.
    let places = images.permute([0, 2, 3, 1]).contiguous();
    places.as_strided(&size, [height * width * channels, 1, width * channels, channels], None::<i64>)
}

#[cfg(test)]
mod tests {
    use tch::{Kind, nn};

    use super::*;
    use crate::libtorch::of_tests;

    #[test]
    fn numbers_stay_and_convolutions_follow_the_layout() {
        for channels in [1, 3] {
            let images = Tensor::randn([2, channels, 5, 7], (Kind::Float, of_tests()));
            let laid = channels_last(&images);
            assert_eq!(laid.size(), images.size());
            assert_eq!(laid.stride(), [35 * channels, 1, 7 * channels, channels]);
            assert!(laid.equal(&images));
            let variables = nn::VarStore::new(of_tests());
            let convolution = nn::conv2d(variables.root(), channels, 4, 3, nn::ConvConfig::default());
            let strides = |images: &Tensor| images.apply(&convolution).relu().stride();
            assert_eq!((strides(&images)[3], strides(&laid)[1]), (1, 1));
        }
        let flat = Tensor::randn([2, 9], (Kind::Float, of_tests()));
        assert!(channels_last(&flat).equal(&flat));
    }
}
