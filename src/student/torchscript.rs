//! Any TorchScript module as a student.

use std::path::Path;

use tch::nn::VarStore;
use tch::{CModule, IValue, Kind, TchError, Tensor};

use super::{Answer, Input, Model, State, Student, StudentError, Wanted};
use crate::libtorch::{other_than_torchscript, plain_message};

pub(super) struct TorchScriptStudent {
    module: CModule,
    vs: VarStore,
}

impl TorchScriptStudent {
    /// Loads the module and lists its parameters in `vs` under their PyTorch names.
    pub(super) fn load(path: &Path, vs: VarStore) -> Result<Self, StudentError> {
        let loading = |error: TchError| {
            StudentError::libtorch(format!("student.path: loading {}", path.display()), &error)
        };
        let module = CModule::load_on_device(path, vs.device()).map_err(|error| {
            let other = other_than_torchscript(path).unwrap_or_default();
            StudentError::Libtorch {
                doing: format!("student.path: loading {}", path.display()),
                problem: plain_message(&error) + other,
            }
        })?;
        let mut known: Vec<Tensor> = Vec::new();
        for (name, parameter) in module.named_parameters().map_err(loading)? {
            // A weight that two layers share has a name in each: it is one variable, to be stepped once.
            if known.iter().any(|known| are_one(known, &parameter)) {
                continue;
            }
            known.push(parameter.shallow_clone());
            let mut parts: Vec<&str> = name.split('.').collect();
            let last = parts.pop().unwrap_or(&name);
            let folder = parts.into_iter().fold(vs.root(), |path, part| path / part);
            let trainable = parameter.requires_grad();
            drop(folder.add(last, parameter, trainable));
        }
        let trained = known.iter().filter(|parameter| parameter.requires_grad());
        let other = trained.map(Tensor::kind).find(|kind| *kind != Kind::Float);
        if let Some(found) = other {
            return Err(StudentError::NotSingle { path: path.to_owned(), found: format!("{found:?}") });
        }
        if vs.trainable_variables().is_empty() {
            return Err(StudentError::NothingToTrain { path: path.to_owned() });
        }
        Ok(Self { module, vs })
    }
}

/// Whether both are one parameter, and not two in one place: what is said of one is then said of the other.
fn are_one(one: &Tensor, other: &Tensor) -> bool {
    if one.data_ptr() != other.data_ptr() || one.size() != other.size() {
        return false;
    }
    let (of_one, of_other) = (one.requires_grad(), other.requires_grad());
    let one = one.set_requires_grad(!of_one);
    let both = other.requires_grad() != of_other;
    drop(one.set_requires_grad(of_one));
    both
}

/// What a module returns for `input`: the logits, and of a tuple what else is in it.
///
/// # Errors
/// [`StudentError`]: libtorch failed, or there is no tensor.
pub fn ask(module: &CModule, input: &Tensor) -> Result<Vec<Tensor>, StudentError> {
    const DOING: &str = "the student's forward pass";
    let answer = module.forward_is(&[IValue::Tensor(input.shallow_clone())]);
    let tensor = |one| if let IValue::Tensor(tensor) = one { Some(tensor) } else { None };
    let failed = |error: TchError| {
        let problem = plain_message(&error);
        let hint = match problem.contains("more than 1 value per channel") {
            true => {
                "; a batch of one sample has no variance for batch normalisation: set train.drop_last, or another train.batch"
            }
            false => "",
        };
        StudentError::Libtorch { doing: DOING.into(), problem: problem + hint }
    };
    let all: Option<Vec<Tensor>> = match answer.map_err(failed)? {
        IValue::Tuple(all) => all.into_iter().map(tensor).collect(),
        one => tensor(one).map(|one| vec![one]),
    };
    all.filter(|all| !all.is_empty()).ok_or_else(|| StudentError::Libtorch {
        doing: DOING.into(),
        problem: "expected a tensor, the logits, or a tuple of tensors with the logits first".into(),
    })
}

impl Model for TorchScriptStudent {
    /// Images to `[rows, classes]`, or tokens `[rows, length]` to `[rows, length, classes]`. A module is given
    /// nothing but the tokens: what it attends to is its own matter.
    fn features(&self, input: &Input) -> Result<Tensor, StudentError> {
        Ok(self.answer(input, &Wanted::default())?.features)
    }

    /// Of a module that returns a tuple, layers and losses are called by their places in it.
    fn answer(&self, input: &Input, wanted: &Wanted) -> Result<Answer, StudentError> {
        let given = match input {
            Input::Images(images) => images,
            Input::Tokens(tokens) => &tokens.tokens,
        };
        let all = ask(&self.module, given)?;
        let of_positions = |tensor: &Tensor| match input {
            Input::Images(_) => Ok(tensor.shallow_clone()),
            Input::Tokens(tokens) => {
                let [rows, length] = tokens.tokens.size()[..] else { return Ok(tensor.shallow_clone()) };
                if tensor.size().len() != 3 || tensor.size()[..2] != [rows, length] {
                    let expected = [rows * length, tensor.size().last().copied().unwrap_or(0)];
                    return Err(StudentError::Output { expected, found: tensor.size() });
                }
                Ok(tokens.pick(tensor))
            }
        };
        let layer = |layer: &String| {
            let place = layer.parse::<usize>().ok().filter(|place| *place > 0);
            let known = || (1..all.len()).map(|place| place.to_string()).collect();
            let missing = || StudentError::Layer { layer: layer.clone(), known: known() };
            of_positions(place.and_then(|place| all.get(place)).ok_or_else(missing)?)
        };
        let loss = |output: &usize| {
            let missing = |found: String| StudentError::Returned { output: *output, found };
            let found = all.get(*output).filter(|_| *output > 0);
            let found = found.ok_or_else(|| missing(format!("it returns {} tensors", all.len())))?;
            match found.numel() {
                1 => Ok(found.reshape([0i64; 0])),
                _ => Err(missing(format!("found a tensor of shape {:?}", found.size()))),
            }
        };
        Ok(Answer {
            features: of_positions(&all[0])?,
            layers: wanted.layers.iter().map(layer).collect::<Result<_, StudentError>>()?,
            losses: wanted.losses.iter().map(loss).collect::<Result<_, StudentError>>()?,
        })
    }
}

impl Student for TorchScriptStudent {
    fn set_training(&mut self, training: bool) {
        if training {
            self.module.set_train();
        } else {
            self.module.set_eval();
        }
    }

    fn variables(&self) -> &VarStore {
        &self.vs
    }

    fn variables_mut(&mut self) -> &mut VarStore {
        &mut self.vs
    }

    fn export(&mut self, path: &Path) -> Result<(), StudentError> {
        self.set_training(false);
        self.module
            .save(path)
            .map_err(|error| StudentError::libtorch(format!("writing {}", path.display()), &error))
    }

    fn state(&self) -> State {
        State::Module
    }
}
