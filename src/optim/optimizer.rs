//! Optimizers whose whole state is tensors with names, so that a run can be interrupted and go on exactly.
//!
//! libtorch's own are not used, because its bindings give no access to what they remember. Numbers are held to
//! PyTorch's (`tests/numerics.rs`), whose formulas these are; Lion is of its paper.

use std::collections::BTreeMap;

use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::OptimError;
use super::flat::{self, Flat, Slots};
use super::rates::{self, Own};
use super::scaling::Scaling;
use crate::config::OptimizerConfig;

/// Changes the trainable variables of a store by their gradients.
pub struct Optimizer {
    config: OptimizerConfig,
    steps: i64,
    variables: Vec<Flat>,
    scaling: Option<Scaling>,
}

/// What an optimizer remembers, under the names `first.VARIABLE` and `second.VARIABLE`; and how losses are scaled.
pub type Memory = BTreeMap<String, Tensor>;

/// What the scaling of losses is called in it.
const SCALING: &str = "scaling";

impl Optimizer {
    /// The optimizer of all trainable variables of `vs`.
    ///
    /// Weight decay is of matrices and kernels alone: what has one dimension, norms and biases, keeps its size,
    /// unless the config says otherwise. From the first step on the variables may look into memory of the
    /// optimizer's.
    ///
    /// # Errors
    /// [`OptimError`]: a group or a layer decay that fits no variable.
    pub fn new(config: &OptimizerConfig, vs: &VarStore) -> Result<Self, OptimError> {
        Self::joined(config, vs, flat::limit)
    }

    /// The same with so many numbers of variables joined, at most.
    pub(super) fn joined(
        config: &OptimizerConfig,
        vs: &VarStore,
        limit: impl Fn(Device) -> usize,
    ) -> Result<Self, OptimError> {
        let named: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
        let trainable: Vec<_> = named.into_iter().filter(|(_, value)| value.requires_grad()).collect();
        let own = rates::own(config, &trainable)?;
        let variables = trainable.into_iter().zip(own).map(|((name, value), own)| (name, value, own));
        let variables = flat::join(variables, limit);
        Ok(Self { config: config.clone(), steps: 0, variables, scaling: None })
    }

    /// Takes on the trainable variables of another store, behind those it has; `before` stands before their names,
    /// which it must make different from those.
    pub fn add(&mut self, before: &str, vs: &VarStore) {
        let named: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
        let variables = named.into_iter().map(|(name, value)| {
            let own = rates::plain(&self.config, &value);
            (format!("{before}{name}"), value, own)
        });
        self.variables.extend(flat::join(variables, flat::limit));
    }

    /// Wants losses multiplied by [`Self::loss_scale`] from here on, as half precision needs it.
    pub fn scale_loss(&mut self) {
        self.scaling = Some(Scaling::default());
    }

    /// What a loss is to be multiplied by before its gradients are made, a power of two; 1 unless scaled.
    pub fn loss_scale(&self) -> f64 {
        self.scaling.map_or(1.0, |scaling| scaling.scale())
    }

    /// Steps that were left out because a gradient was not finite; `None` where losses are not scaled.
    pub fn skipped(&self) -> Option<u64> {
        self.scaling.map(|scaling| scaling.skipped())
    }

    /// Divides all gradients by what the loss was multiplied by, and says whether they can be used: whether their norm
    /// is a number. The next loss is scaled accordingly. Waits for the device, where losses are scaled.
    ///
    /// # Errors
    /// [`OptimError::NotFinite`]: no lower scale is left.
    pub fn unscale(&mut self) -> Result<bool, OptimError> {
        let Some(mut scaling) = self.scaling else { return Ok(true) };
        let inverse = 1.0 / scaling.scale();
        self.gradients().iter_mut().for_each(|gradient| drop(gradient.g_mul_scalar_(inverse)));
        let finite = self.gradient_norm().is_none_or(|norm| norm.double_value(&[]).is_finite());
        let goes_on = scaling.update(finite);
        self.scaling = Some(scaling);
        if goes_on { Ok(finite) } else { Err(OptimError::NotFinite) }
    }

    /// Forgets all gradients.
    pub fn zero_grad(&mut self) {
        self.variables.iter_mut().for_each(Flat::zero_grad);
    }

    /// The 2-norm of all gradients together, a scalar on their device; `None` where there are none.
    pub fn gradient_norm(&mut self) -> Option<Tensor> {
        let norms: Vec<Tensor> = self.gradients().iter().map(Tensor::norm).collect();
        (!norms.is_empty()).then(|| Tensor::stack(&norms, 0).norm())
    }

    /// Makes all gradients smaller by one factor where their norm together is above `most`, and gives the norm
    /// before (Pascanu et al., 2013; `torch.nn.utils.clip_grad_norm_`).
    pub fn clip_norm(&mut self, most: f64) -> Option<Tensor> {
        let norm = self.gradient_norm()?;
        let factor = (most / (&norm + 1e-6)).clamp_max(1.0);
        self.gradients().iter_mut().for_each(|gradient| drop(gradient.g_mul_(&factor)));
        Some(norm)
    }

    /// Brings every gradient between `−most` and `most`.
    pub fn clip_value(&mut self, most: f64) {
        self.gradients().iter_mut().for_each(|gradient| drop(gradient.clamp_(-most, most)));
    }

    fn gradients(&mut self) -> Vec<Tensor> {
        self.variables.iter_mut().flat_map(Flat::gradients).collect()
    }

    /// One step at `learning_rate`, times what each layer and group has of its own.
    pub fn step(&mut self, learning_rate: f64) {
        self.steps += 1;
        let (config, steps) = (&self.config, self.steps);
        tch::no_grad(|| {
            for variables in &mut self.variables {
                let own = variables.own;
                variables.step(|slots, gradient| slots.step(config, own, gradient, learning_rate, steps));
            }
        });
    }

    /// Steps made, and what is remembered.
    pub fn state(&self) -> (u64, Memory) {
        let mut memory = Memory::new();
        for (name, remembered) in self.variables.iter().flat_map(Flat::state) {
            for (what, tensor) in ["first", "second"].into_iter().zip(remembered) {
                memory.extend(tensor.map(|tensor| (format!("{what}.{name}"), tensor)));
            }
        }
        let scaling = self.scaling.map(|scaling| (SCALING.to_owned(), Tensor::from_slice(&scaling.state())));
        memory.extend(scaling);
        (self.steps.unsigned_abs(), memory)
    }

    /// Goes on from what [`Self::state`] gave; what is not there is as in the beginning.
    pub fn restore(&mut self, steps: u64, memory: &Memory) {
        self.steps = i64::try_from(steps).unwrap_or(i64::MAX);
        let of = |name: &str| {
            ["first", "second"].map(|what| memory.get(&format!("{what}.{name}")).map(Tensor::shallow_clone))
        };
        self.variables.iter_mut().for_each(|variables| variables.restore(of));
        let kept = memory.get(SCALING).and_then(|kept| <[f64; 3]>::try_from(Vec::try_from(kept).ok()?).ok());
        if let (Some(scaling), Some(kept)) = (&mut self.scaling, kept) {
            *scaling = Scaling::restored(kept);
        }
    }
}

/// Zeros like `value`, unless there is something already.
fn or_zeros<'a>(slot: &'a mut Option<Tensor>, value: &Tensor) -> &'a mut Tensor {
    slot.get_or_insert_with(|| value.zeros_like())
}

impl Slots<'_> {
    fn step(self, config: &OptimizerConfig, own: Own, gradient: &Tensor, learning_rate: f64, steps: i64) {
        let Own { rate, decay } = own;
        let Self { value, first, second } = self;
        let learning_rate = learning_rate * rate;
        // L2: the penalty's gradient.
        let penalised = |value: &Tensor| match decay == 0.0 {
            true => gradient.shallow_clone(),
            false => gradient + value * decay,
        };
        match *config {
            OptimizerConfig::Adamw { betas, eps, .. } => {
                // Decoupled: the weight itself shrinks.
                drop(value.g_mul_scalar_(1.0 - learning_rate * decay));
                adam(value, gradient, (first, second), betas, eps, learning_rate, steps);
            }
            OptimizerConfig::Adam { betas, eps, .. } => {
                let gradient = penalised(value);
                adam(value, &gradient, (first, second), betas, eps, learning_rate, steps);
            }
            OptimizerConfig::Sgd { momentum, nesterov, .. } => {
                let gradient = penalised(value);
                if momentum == 0.0 {
                    drop(value.g_add_(&(gradient * -learning_rate)));
                    return;
                }
                let velocity = match first {
                    Some(velocity) => velocity.g_mul_scalar_(momentum).g_add_(&gradient),
                    slot => slot.insert(gradient.copy()).shallow_clone(),
                };
                let along = if nesterov { gradient + velocity * momentum } else { velocity };
                drop(value.g_add_(&(along * -learning_rate)));
            }
            OptimizerConfig::Rmsprop { alpha, momentum, eps, .. } => {
                let gradient = penalised(value);
                let square = or_zeros(second, value);
                drop(square.g_mul_scalar_(alpha).g_add_(&(&gradient * &gradient * (1.0 - alpha))));
                let scaled = gradient / (square.sqrt() + eps);
                let along = match momentum == 0.0 {
                    true => scaled,
                    false => or_zeros(first, value).g_mul_scalar_(momentum).g_add_(&scaled),
                };
                drop(value.g_add_(&(along * -learning_rate)));
            }
            // Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2.
            OptimizerConfig::Lion { betas: [beta1, beta2], .. } => {
                let mean = or_zeros(first, value);
                let along = (&*mean * beta1 + gradient * (1.0 - beta1)).sign();
                drop(value.g_mul_scalar_(1.0 - learning_rate * decay));
                drop(value.g_add_(&(along * -learning_rate)));
                drop(mean.g_mul_scalar_(beta2).g_add_(&(gradient * (1.0 - beta2))));
            }
        }
    }
}

/// Kingma & Ba, "Adam", 2015, algorithm 1; the corrections are of the step, as at the end of its section 2, so that
/// few tensors are made.
fn adam(
    value: &mut Tensor,
    gradient: &Tensor,
    (first, second): (&mut Option<Tensor>, &mut Option<Tensor>),
    [beta1, beta2]: [f64; 2],
    eps: f64,
    learning_rate: f64,
    steps: i64,
) {
    let (mean, square) = (or_zeros(first, value), or_zeros(second, value));
    drop(mean.lerp_(gradient, 1.0 - beta1));
    drop(square.lerp_(&(gradient * gradient), 1.0 - beta2));
    let steps = i32::try_from(steps).unwrap_or(i32::MAX);
    let (correction1, correction2) = (1.0 - beta1.powi(steps), 1.0 - beta2.powi(steps));
    let root = correction2.sqrt();
    let size = square.sqrt().g_add_scalar_(eps * root);
    let along = (&*mean / size).g_mul_scalar_(-learning_rate * root / correction1);
    drop(value.g_add_(&along));
}
