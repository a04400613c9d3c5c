//! The exponential moving average of weights over the steps.

use std::collections::BTreeMap;

use tch::Tensor;
use tch::nn::VarStore;

use super::Memory;

/// Averages of all trainable variables, `a ← d a + (1 − d) w` after each step.
///
/// `d = min(decay, (1 + n) / (10 + n))` at the n-th step, so that the first weights, which are random, are soon
/// forgotten (TensorFlow's `ExponentialMovingAverage` with `num_updates`; Polyak & Juditsky, 1992, for averaging).
pub struct Average {
    decay: f64,
    steps: u64,
    /// Name, variable, and its average.
    variables: Vec<(String, Tensor, Tensor)>,
}

impl Average {
    /// Begins with the variables as they are.
    pub fn new(decay: f64, vs: &VarStore) -> Self {
        let named: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
        let trainable = named.into_iter().filter(|(_, value)| value.requires_grad());
        let with_average = |(name, value): (String, Tensor)| {
            let average = value.detach().copy();
            (name, value, average)
        };
        Self { decay, steps: 0, variables: trainable.map(with_average).collect() }
    }

    /// After a step.
    pub fn update(&mut self) {
        self.steps += 1;
        let decay = self.decay.min((1 + self.steps) as f64 / (10 + self.steps) as f64);
        tch::no_grad(|| {
            for (_, value, average) in &mut self.variables {
                let to: &Tensor = value;
                *average += (to - &*average) * (1.0 - decay);
            }
        });
    }

    /// Exchanges variables and averages: once to measure and keep the averages, once more to go on.
    pub fn swap(&mut self) {
        tch::no_grad(|| {
            for (_, value, average) in &mut self.variables {
                let now = value.copy();
                value.copy_(average);
                average.copy_(&now);
            }
        });
    }

    /// Every average by the name of its variable.
    pub fn state(&self) -> Memory {
        self.variables.iter().map(|(name, _, average)| (name.clone(), average.shallow_clone())).collect()
    }

    /// Goes on from [`Self::state`] after so many steps; what is not there begins anew.
    pub fn restore(&mut self, steps: u64, memory: &Memory) {
        self.steps = steps;
        tch::no_grad(|| {
            for (name, _, average) in &mut self.variables {
                if let Some(kept) = memory.get(name) {
                    average.copy_(kept);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use tch::nn::Init;

    use super::*;

    fn value(tensor: &Tensor) -> f64 {
        tensor.double_value(&[0])
    }

    #[test]
    fn averages_follow_their_formula_and_change_places() {
        let vs = VarStore::new(Device::Cpu);
        let mut weight = vs.root().var("w", &[1], Init::Const(1.0));
        let mut average = Average::new(0.5, &vs);
        let mut expected = 1.0;
        for (step, w) in [(1, 3.0), (2, -1.0), (3, 4.0), (40, 2.0)] {
            tch::no_grad(|| drop(weight.fill_(w)));
            while average.steps < step {
                average.update();
                let n = average.steps as f64;
                let d = f64::min(0.5, (1.0 + n) / (10.0 + n));
                expected = d * expected + (1.0 - d) * w;
            }
        }
        let memory = average.state();
        assert!((value(&memory["w"]) - expected).abs() < 1e-6, "{} is not {expected}", value(&memory["w"]));
        average.swap();
        assert!((value(&weight) - expected).abs() < 1e-6);
        average.swap();
        assert_eq!(value(&weight), 2.0);
        // Another run goes on from what was kept.
        let mut other = Average::new(0.5, &vs);
        other.restore(40, &memory);
        tch::no_grad(|| drop(weight.fill_(7.0)));
        average.update();
        other.update();
        assert_eq!(value(&average.state()["w"]), value(&other.state()["w"]));
    }
}
