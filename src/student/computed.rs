//! How a student is computed: what its products are in, and how images lie in memory. Its variables, features, layers and
//! logits are what they are without.

use std::path::Path;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::{Answer, Input, Model, State, Student, StudentError, Wanted};
use crate::config::{Precision, TrainSection};
use crate::libtorch::{Autocast, channels_last};

/// How a model of images or tokens is asked.
#[derive(Clone, Copy, Debug)]
pub struct Computation {
    autocast: Autocast,
    channels_last: bool,
}

impl Computation {
    /// As `section` says, on `device`.
    ///
    /// # Errors
    /// [`StudentError::Precision`]: the libtorch that is loaded cannot do it.
    pub fn new(section: &TrainSection, device: Device) -> Result<Self, StudentError> {
        let autocast = Autocast::new(device, section.precision).map_err(StudentError::Precision)?;
        Ok(Self { autocast, channels_last: section.channels_last })
    }

    /// What `ask` makes of `input`. Tensors of it may be of a half type.
    pub fn run<T>(&self, input: &Input, ask: impl FnOnce(&Input) -> T) -> T {
        match input {
            Input::Images(images) if self.channels_last => {
                let laid = Input::Images(channels_last(images));
                self.autocast.run(|| ask(&laid))
            }
            _ => self.autocast.run(|| ask(input)),
        }
    }
}

struct Computed {
    student: Box<dyn Student>,
    by: Computation,
}

/// The same student with matrices and kernels multiplied in the precision of `section`, forward and backward, and its images in
/// the memory format of `section`; it is exported without either, because whoever loads it decides how it is computed.
///
/// # Errors
/// As [`Computation::new`].
pub fn computed(student: Box<dyn Student>, section: &TrainSection) -> Result<Box<dyn Student>, StudentError> {
    if section.precision == Precision::F32 && !section.channels_last {
        return Ok(student);
    }
    let by = Computation::new(section, student.variables().device())?;
    Ok(Box::new(Computed { student, by }))
}

impl Model for Computed {
    fn features(&self, input: &Input) -> Result<Tensor, StudentError> {
        Ok(self.by.run(input, |input| self.student.features(input))?.to_kind(Kind::Float))
    }

    fn answer(&self, input: &Input, wanted: &Wanted) -> Result<Answer, StudentError> {
        let Answer { features, layers, losses } =
            self.by.run(input, |input| self.student.answer(input, wanted))?;
        let float = |tensors: Vec<Tensor>| tensors.iter().map(|one| one.to_kind(Kind::Float)).collect();
        Ok(Answer { features: features.to_kind(Kind::Float), layers: float(layers), losses: float(losses) })
    }

    fn head(&self, features: &Tensor) -> Tensor {
        self.by.autocast.run(|| self.student.head(features)).to_kind(Kind::Float)
    }

    fn has_head(&self) -> bool {
        self.student.has_head()
    }
}

impl Student for Computed {
    fn set_training(&mut self, training: bool) {
        self.student.set_training(training);
    }

    fn variables(&self) -> &VarStore {
        self.student.variables()
    }

    fn variables_mut(&mut self) -> &mut VarStore {
        self.student.variables_mut()
    }

    fn export(&mut self, path: &Path) -> Result<(), StudentError> {
        self.student.export(path)
    }

    fn state(&self) -> State {
        self.student.state()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ResnetConfig, StudentConfig};
    use crate::libtorch::of_tests;
    use crate::student::{Asked, create};

    /// In double precision, because the CPU's gradients in single precision are wrong where channels are last and few, which
    /// is why that is not offered there.
    #[test]
    fn how_images_lie_in_memory_changes_roundings_alone() {
        let shape = [3, 20, 18];
        let resnet = || ResnetConfig { width: 4, ..ResnetConfig::default() };
        for config in [
            StudentConfig::Conv { channels: vec![4, 8], depth: 2, classes: None },
            StudentConfig::Resnet18(resnet()),
            StudentConfig::Resnet50(resnet()),
        ] {
            let images = Input::Images(Tensor::randn([4, 3, 20, 18], (Kind::Double, of_tests())));
            let [plain, laid] = [false, true].map(|channels_last| {
                let mut student = create(&config, Asked::Images(&shape), 5, of_tests()).unwrap();
                student.variables_mut().double();
                let section: TrainSection = toml::from_str("epochs = 1\nbatch = 1").unwrap();
                computed(student, &TrainSection { channels_last, ..section }).unwrap()
            });
            let (first, mut second) = (plain.variables().variables(), laid.variables().variables());
            tch::no_grad(|| second.iter_mut().for_each(|(name, variable)| variable.copy_(&first[name])));
            let [features, others] = [&plain, &laid].map(|student| {
                let features = student.features(&images).unwrap().to_kind(Kind::Double);
                (&features * &features).sum(Kind::Double).backward();
                features.detach()
            });
            let apart = |a: &Tensor, b: &Tensor| f64::try_from((a - b).norm() / a.norm()).unwrap();
            // What comes out of it is single precision.
            assert!(apart(&features, &others) < 1e-6, "{config:?}");
            let learning = first.iter().filter(|(_, variable)| variable.grad().defined());
            assert!(learning.clone().count() > 3, "{config:?}");
            for (name, variable) in learning {
                let off = apart(&variable.grad(), &second[name].grad());
                assert!(off < 1e-5, "{config:?}, {name}: {off}");
            }
        }
    }
}
