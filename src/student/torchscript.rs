//! Any TorchScript module as a student.

use std::path::Path;

use tch::nn::VarStore;
use tch::{CModule, Tensor};

use super::{Input, Model, State, Student, StudentError};

pub(super) struct TorchScriptStudent {
    module: CModule,
    vs: VarStore,
}

impl TorchScriptStudent {
    /// Loads the module and lists its parameters in `vs` under their PyTorch names.
    pub(super) fn load(path: &Path, vs: VarStore) -> Result<Self, StudentError> {
        let loading = |error: tch::TchError| {
            StudentError::libtorch(format!("student.path: loading {}", path.display()), &error)
        };
        let module = CModule::load_on_device(path, vs.device()).map_err(loading)?;
        for (name, parameter) in module.named_parameters().map_err(loading)? {
            let mut parts: Vec<&str> = name.split('.').collect();
            let last = parts.pop().unwrap_or(&name);
            let folder = parts.into_iter().fold(vs.root(), |path, part| path / part);
            let trainable = parameter.requires_grad();
            drop(folder.add(last, parameter, trainable));
        }
        if vs.trainable_variables().is_empty() {
            return Err(StudentError::NothingToTrain { path: path.to_owned() });
        }
        Ok(Self { module, vs })
    }
}

impl Model for TorchScriptStudent {
    /// Images to `[rows, classes]`, or tokens `[rows, length]` to `[rows, length, classes]`. A module is given
    /// nothing but the tokens: what it attends to is its own matter.
    fn features(&self, input: &Input) -> Result<Tensor, StudentError> {
        let ask = |input: &Tensor| {
            let answer = self.module.forward_ts(&[input]);
            answer.map_err(|error| StudentError::libtorch("the student's forward pass", &error))
        };
        match input {
            Input::Images(images) => ask(images),
            Input::Tokens(tokens) => {
                let logits = ask(&tokens.tokens)?;
                let [rows, length] = tokens.tokens.size()[..] else { return Ok(logits) };
                if logits.size().len() != 3 || logits.size()[..2] != [rows, length] {
                    let expected = [rows * length, logits.size().last().copied().unwrap_or(0)];
                    return Err(StudentError::Output { expected, found: logits.size() });
                }
                Ok(tokens.pick(&logits))
            }
        }
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
