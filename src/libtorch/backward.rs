//! The backward pass from tensors whose gradients are known, as `torch.autograd.backward(tensors, grad_tensors)` has it.
//!
//! The bindings go backward from losses alone, and take no gradients. That by the logits, which some of our losses make in
//! one go with their value, could then only enter as that of a product with the logits: three readings and a writing of
//! as many numbers as there are logits, and memory for as many. TorchScript reaches the function that takes it.

use std::io::{Cursor, Write};
use std::sync::OnceLock;

use tch::{CModule, IValue, TchError, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The program, as TorchScript keeps it.
const CODE: &str = "\
class Backward(Module):
  def forward(self: __torch__.Backward,
    tensors: List[Tensor],
    gradients: List[Tensor]) -> bool:
    optional = annotate(List[Optional[Tensor]], [])
    for at in range(torch.len(gradients)):
      _0 = torch.append(optional, gradients[at])
    torch.autograd.backward(tensors, optional)
    return True
";
/// What else its archive has: an object of the class, without attributes; no constants; the oldest version that torch.save
/// writes (`caffe2/serialize/versions.h`).
const OBJECT: &[u8] = b"\x80\x02c__torch__\nBackward\n)\x81}b.";
const NO_CONSTANTS: &[u8] = b"\x80\x02).";
const VERSION: &[u8] = b"3\n";

/// Adds to the gradients of all variables that `roots`, tensors with a graph behind them, were made of: what the sum
/// `Σ ⟨tensor, gradient⟩` over the pairs has. A gradient has its tensor's shape and device, and any type.
///
/// # Errors
/// What libtorch says: a tensor without a graph, memory.
pub(crate) fn backward(roots: impl IntoIterator<Item = (Tensor, Tensor)>) -> Result<(), TchError> {
    static PROGRAM: OnceLock<Result<CModule, String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let archive = archive().map_err(|error| error.to_string())?;
        CModule::load_data(&mut archive.as_slice()).map_err(|error| error.to_string())
    });
    let program = program.as_ref().map_err(|problem| TchError::Torch(problem.clone()))?;
    let (tensors, gradients) = roots.into_iter().unzip();
    program.forward_is(&[IValue::TensorList(tensors), IValue::TensorList(gradients)]).map(drop)
}

/// The program in the form of a TorchScript file.
fn archive() -> zip::result::ZipResult<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [
        ("backward/data.pkl", OBJECT),
        ("backward/code/__torch__.py", CODE.as_bytes()),
        ("backward/constants.pkl", NO_CONSTANTS),
        ("backward/version", VERSION),
    ] {
        archive.start_file(name, stored)?;
        archive.write_all(bytes)?;
    }
    Ok(archive.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::libtorch::of_tests;

    #[test]
    fn gradients_go_through_all_roots_at_once_and_add_up() {
        let leaf = |numbers: &[f32]| Tensor::from_slice(numbers).to(of_tests()).set_requires_grad(true);
        let (x, w) = (leaf(&[1.0, -2.0, 3.0]), leaf(&[0.5, 4.0, -1.0]));
        // As often as it takes libtorch to specialise the program.
        for times in 1..6 {
            // Both roots come from one product.
            let product = &x * &w;
            let half = product.to_kind(Kind::BFloat16);
            let sum = product.square().sum(Kind::Float);
            let given = Tensor::from_slice(&[1.0f32, 2.0, -1.0]).to(of_tests());
            let two = Tensor::from(2.0f32).to(of_tests());
            backward([(half, given.shallow_clone()), (sum, two)]).unwrap();
            let expected = (&product * 4.0 + given) * &w * times;
            assert_eq!(Vec::<f32>::try_from(&x.grad()).unwrap(), Vec::<f32>::try_from(&expected).unwrap());
        }
        let error = backward([(x.detach(), w.detach())]).unwrap_err().to_string();
        assert!(error.contains("does not require grad"), "{error}");
    }
}
