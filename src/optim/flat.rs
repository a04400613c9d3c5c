//! Variables that are treated alike, as one vector: a step over thousands of them costs a dozen operators and not a dozen
//! for each, which is what small models' steps on a GPU mostly consist of.
//!
//! Values and gradients are laid one behind the other, with gaps of zeros, in two long tensors, and the variables made to look into these. Whoever
//! gives a variable other memory, as a module does that is moved to a device, is found out by the address, and what the
//! variable has then counts.

use std::collections::BTreeMap;

use tch::{Device, Tensor};

use super::rates::Own;

/// Numbers of variables that are joined, gaps included, at most: on the CPU as many as stay in a core's cache from one operator to the
/// next, elsewhere as many as can be copied once without a thought to memory.
pub(super) fn limit(device: Device) -> usize {
    if device == Device::Cpu { 1 << 16 } else { 1 << 26 }
}

/// Each variable begins at a multiple of so many numbers, of 256 bytes or more: kernels that read several numbers at once rely on
/// memory like that, which is how libtorch gives it.
const APART: usize = 128;

/// Some variables of one kind of floats on one device, with what they have in common.
pub(super) struct Flat {
    pub(super) own: Own,
    members: Vec<Member>,
    /// `None` for one variable alone.
    joined: Option<Joined>,
    /// What is remembered of all of them, in the shape of the vector, or of the one variable.
    first: Option<Tensor>,
    second: Option<Tensor>,
}

/// Their memory.
struct Joined {
    value: Tensor,
    gradient: Tensor,
}

struct Member {
    name: String,
    value: Tensor,
    start: i64,
}

/// What a step changes: values, and what is remembered.
pub(super) struct Slots<'a> {
    pub(super) value: &'a mut Tensor,
    pub(super) first: &'a mut Option<Tensor>,
    pub(super) second: &'a mut Option<Tensor>,
}

/// Puts together what is alike, up to `limit` numbers, in the order of the first of each.
pub(super) fn join(
    variables: impl Iterator<Item = (String, Tensor, Own)>,
    limit: impl Fn(Device) -> usize,
) -> Vec<Flat> {
    let variables: Vec<_> = variables.collect();
    let mut names_of = BTreeMap::new();
    for (_, value, _) in &variables {
        *names_of.entry(value.data_ptr() as usize).or_insert(0) += 1;
    }
    let mut groups: Vec<(usize, Flat)> = Vec::new();
    for (name, value, own) in variables {
        let count = value.numel();
        // Numbers that several names share go on being shared.
        let alone = names_of.get(&(value.data_ptr() as usize)) != Some(&1) || count == 0;
        let alike = |(joined, group): &&mut (usize, Flat)| {
            let of = &group.members[0].value;
            let same = (of.kind(), of.device()) == (value.kind(), value.device());
            let end = joined.saturating_add(APART).saturating_add(count);
            same && group.own == own && end <= limit(value.device())
        };
        let place = if alone { None } else { groups.iter_mut().rev().find(alike) };
        match place {
            Some((joined, group)) => {
                let start = joined.next_multiple_of(APART);
                group.members.push(Member { name, value, start: start as i64 });
                *joined = start + count;
            }
            None => {
                let members = vec![Member { name, value, start: 0 }];
                let flat = Flat { own, members, joined: None, first: None, second: None };
                groups.push((if alone { usize::MAX } else { count }, flat));
            }
        }
    }
    groups.into_iter().map(|(_, flat)| flat).collect()
}

/// How long a vector with all of them is, and with what lies between them, which is 0.
fn end(members: &[Member]) -> i64 {
    members.iter().map(|member| member.start + member.value.numel() as i64).max().unwrap_or(0)
}

impl Member {
    /// Its part of `flat`, in its shape and with its dimensions in the order in which it has them in memory.
    fn of(&self, flat: &Tensor) -> Tensor {
        // Of a variable with gaps, or that repeats itself, these are the strides of one without.
        let strides = self.value.empty_like().stride();
        flat.as_strided(self.value.size(), strides, self.start)
    }

    /// Whether `tensor`, its value or gradient, looks into its part of `flat`. Asked of every variable at every step.
    fn lies_in(&self, flat: &Tensor, tensor: &Tensor) -> bool {
        let before = self.start as usize * flat.kind().elt_size_in_bytes();
        tensor.data_ptr() as usize == (flat.data_ptr() as usize).wrapping_add(before)
    }

    /// Has `tensor`, its value or gradient, look into its part of `flat`, which takes over what it has.
    fn settle(&self, flat: &Tensor, mut tensor: Tensor) {
        if !self.lies_in(flat, &tensor) {
            let mut view = self.of(flat);
            view.copy_(&tensor);
            tensor.set_data(&view);
        }
    }
}

impl Flat {
    /// Makes sure that values and gradients lie where they belong, and says whether there is a gradient of each.
    fn settle(&mut self) -> bool {
        let with = |member: &Member| member.value.grad().defined();
        if self.members.len() == 1 {
            return with(&self.members[0]);
        }
        let joined = self.joined.get_or_insert_with(|| {
            let of = &self.members[0].value;
            let value = Tensor::zeros([end(&self.members)], (of.kind(), of.device()));
            Joined { gradient: value.zeros_like(), value }
        });
        let mut all = true;
        for member in &self.members {
            member.settle(&joined.value, member.value.shallow_clone());
            let gradient = member.value.grad();
            if gradient.defined() {
                member.settle(&joined.gradient, gradient);
            } else {
                all = false;
            }
        }
        all
    }

    /// Forgets all gradients.
    pub(super) fn zero_grad(&mut self) {
        match &mut self.joined {
            Some(joined) => {
                let settled = |member: &&mut Member| {
                    let gradient = member.value.grad();
                    gradient.defined() && member.lies_in(&joined.gradient, &gradient)
                };
                let (bound, others): (Vec<_>, Vec<_>) = self.members.iter_mut().partition(settled);
                if !bound.is_empty() {
                    drop(joined.gradient.zero_());
                }
                others.into_iter().for_each(|member| member.value.zero_grad());
            }
            None => self.members.iter_mut().for_each(|member| member.value.zero_grad()),
        }
    }

    /// The gradients that there are, as one tensor where possible; what is done to them in place is done to them.
    pub(super) fn gradients(&mut self) -> Vec<Tensor> {
        tch::no_grad(|| match (self.settle(), &self.joined) {
            (true, Some(joined)) => vec![joined.gradient.shallow_clone()],
            _ => self.members.iter().map(|member| member.value.grad()).filter(Tensor::defined).collect(),
        })
    }

    /// Calls `step` with values, gradients and what is remembered, of those that have a gradient; not in automatic
    /// differentiation.
    pub(super) fn step(&mut self, step: impl Fn(Slots<'_>, &Tensor)) {
        let all = self.settle();
        let Self { members, joined, first, second, .. } = self;
        match joined {
            None => {
                let value = &mut members[0].value;
                let gradient = value.grad();
                if gradient.defined() {
                    step(Slots { value, first, second }, &gradient);
                }
            }
            Some(joined) if all => {
                step(Slots { value: &mut joined.value, first, second }, &joined.gradient);
            }
            Some(joined) => {
                for member in members.iter_mut().filter(|member| member.value.grad().defined()) {
                    let part = |flat: &Tensor| flat.narrow(0, member.start, member.value.numel() as i64);
                    let gradient = part(&joined.gradient);
                    let mut remembered = [&mut *first, &mut *second].map(|slot| slot.as_ref().map(part));
                    let [own_first, own_second] = &mut remembered;
                    let mut value = part(&joined.value);
                    step(Slots { value: &mut value, first: own_first, second: own_second }, &gradient);
                    // What was not remembered of any so far.
                    for (slot, own) in [&mut *first, &mut *second].into_iter().zip(remembered) {
                        if let (None, Some(own)) = (&slot, own) {
                            let whole = joined.value.zeros_like();
                            part(&whole).copy_(&own);
                            *slot = Some(whole);
                        }
                    }
                }
            }
        }
    }

    /// What is remembered, `[first, second]` of each variable, in its shape.
    pub(super) fn state(&self) -> impl Iterator<Item = (&str, [Option<Tensor>; 2])> {
        self.members.iter().map(|member| {
            let own = |slot: &Option<Tensor>| {
                slot.as_ref().map(|flat| match self.members.len() {
                    1 => flat.shallow_clone(),
                    _ => member.of(flat),
                })
            };
            (member.name.as_str(), [own(&self.first), own(&self.second)])
        })
    }

    /// Goes on from what `of` gives of each variable's name; what it does not is as in the beginning.
    pub(super) fn restore(&mut self, of: impl Fn(&str) -> [Option<Tensor>; 2]) {
        let device = self.members[0].value.device();
        let alone = self.members.len() == 1;
        let (mut first, mut second) = (None, None);
        for member in &self.members {
            for (slot, kept) in [&mut first, &mut second].into_iter().zip(of(&member.name)) {
                let Some(kept) = kept else { continue };
                let kept = kept.to_device(device);
                if alone {
                    *slot = Some(kept.copy());
                    continue;
                }
                let options = (member.value.kind(), device);
                let flat = slot.get_or_insert_with(|| Tensor::zeros([end(&self.members)], options));
                member.of(flat).copy_(&kept);
            }
        }
        (self.first, self.second) = (first, second);
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, nn};

    use super::*;
    use crate::config::OptimizerConfig;
    use crate::libtorch::{channels_last, of_tests};
    use crate::optim::Optimizer;

    /// A matrix, a bias, another matrix and one that no loss looks at.
    fn store() -> nn::VarStore {
        let store = nn::VarStore::new(of_tests());
        let numbers = |size: &[i64], step: f64| {
            let count: i64 = size.iter().product();
            (Tensor::arange(count, (Kind::Float, of_tests())) * step).sin().reshape(size)
        };
        for (name, size, step) in
            [("a", &[5, 3][..], 0.7), ("b", &[3], 1.3), ("c", &[3, 4], 2.1), ("d", &[2, 2], 0.4)]
        {
            drop(store.root().var_copy(name, &numbers(size, step)));
        }
        store
    }

    fn loss(store: &nn::VarStore, step: i64, with_d: bool) -> Tensor {
        let all = store.variables();
        let x = (Tensor::arange(10, (Kind::Float, of_tests())) + step).cos().view([2, 5]);
        let loss = (x.matmul(&all["a"]) + &all["b"]).tanh().matmul(&all["c"]).square().sum(Kind::Float);
        if with_d { loss + all["d"].square().sum(Kind::Float) } else { loss }
    }

    fn values(store: &nn::VarStore) -> Vec<Vec<f32>> {
        let mut all: Vec<_> = store.variables().into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.iter().map(|(_, value)| Vec::try_from(value.reshape([-1])).unwrap()).collect()
    }

    /// Joined or each alone: the same weights to the bit, also where one has no gradient at first, where a variable is
    /// given other memory in between, and where a new optimizer goes on.
    #[test]
    fn joined_variables_go_the_way_that_each_goes_alone() {
        for kind in ["adamw", "adam", "sgd", "rmsprop", "lion"] {
            let config: OptimizerConfig = serde_json::from_value(serde_json::json!({
                "kind": kind, "learning_rate": 0.01, "weight_decay": 0.1
            }))
            .unwrap();
            let run = |limit: usize| {
                let store = store();
                let mut optimizer = Optimizer::joined(&config, &store, |_| limit).unwrap();
                for step in 0..6 {
                    optimizer.zero_grad();
                    loss(&store, step, step > 1).backward();
                    optimizer.step(0.01);
                    if step == 2 {
                        tch::no_grad(|| {
                            let mut moved = store.variables().remove("c").unwrap();
                            let other = moved.copy() * 0.5;
                            moved.set_data(&other);
                        });
                    }
                    if step == 3 {
                        let (steps, memory) = optimizer.state();
                        optimizer = Optimizer::joined(&config, &store, |_| limit).unwrap();
                        optimizer.restore(steps, &memory);
                    }
                }
                values(&store)
            };
            let (alone, joined) = (run(0), run(1 << 16));
            assert_eq!(alone, joined, "{kind}");
        }
    }

    #[test]
    fn variables_lie_where_kernels_expect_them() {
        let store = store();
        let config: OptimizerConfig =
            serde_json::from_value(serde_json::json!({ "kind": "adamw", "learning_rate": 0.1 })).unwrap();
        let mut optimizer = Optimizer::joined(&config, &store, |_| 1 << 16).unwrap();
        loss(&store, 0, true).backward();
        optimizer.step(0.1);
        let address = |tensor: &Tensor| tensor.data_ptr() as usize;
        for (name, value) in store.variables() {
            for tensor in [value.grad(), value] {
                assert_eq!(address(&tensor) % 64, 0, "{name}");
            }
        }
    }

    /// Kernels with their channels last, as a module has them that was exported so, also where one has no gradient at first.
    #[test]
    fn variables_keep_their_order_in_memory() {
        let config: OptimizerConfig =
            serde_json::from_value(serde_json::json!({ "kind": "adamw", "learning_rate": 0.1 })).unwrap();
        let run = |limit: usize| {
            let store = store();
            for (name, step) in [("e", 0.3), ("f", 0.8)] {
                let kernel = (Tensor::arange(120, (Kind::Float, of_tests())) * step).sin().view([4, 5, 3, 2]);
                drop(store.root().var_copy(name, &kernel));
                let mut variable = store.variables().remove(name).unwrap();
                tch::no_grad(|| variable.set_data(&channels_last(&kernel)));
            }
            let mut optimizer = Optimizer::joined(&config, &store, |_| limit).unwrap();
            for step in 0..5 {
                optimizer.zero_grad();
                let all = store.variables();
                let mut of_kernels = all["e"].cos().sum(Kind::Float);
                if step > 1 {
                    of_kernels += (&all["e"] * &all["f"]).square().sum(Kind::Float);
                }
                (loss(&store, step, true) + of_kernels).backward();
                optimizer.step(0.1);
                if step == 2 {
                    let (steps, memory) = optimizer.state();
                    optimizer = Optimizer::joined(&config, &store, |_| limit).unwrap();
                    optimizer.restore(steps, &memory);
                }
            }
            for name in ["e", "f"] {
                assert_eq!(store.variables()[name].stride(), [30, 1, 10, 5], "{name}");
            }
            values(&store)
        };
        assert_eq!(run(0), run(1 << 16));
    }

    /// Two variables of one memory, as a module has them whose layers share their weights.
    #[test]
    fn numbers_that_are_shared_stay_shared() {
        let store = store();
        let shared = store.root().var_copy("e", &Tensor::ones([5, 3], (Kind::Float, of_tests())));
        let mut alike = store.variables().remove("a").unwrap();
        tch::no_grad(|| alike.set_data(&shared.detach()));
        let config = serde_json::json!({ "kind": "sgd", "learning_rate": 0.1 });
        let config: OptimizerConfig = serde_json::from_value(config).unwrap();
        let mut optimizer = Optimizer::joined(&config, &store, |_| 1 << 16).unwrap();
        loss(&store, 0, true).backward();
        optimizer.step(0.1);
        let all = store.variables();
        assert_eq!(all["a"].data_ptr(), all["e"].data_ptr());
        assert_ne!(f64::try_from(all["e"].mean(Kind::Float)).unwrap(), 1.0);
    }

    #[test]
    fn norms_and_limits_are_of_all_gradients() {
        let of_store = |limit: usize| {
            let store = store();
            let config = serde_json::json!({ "kind": "sgd", "learning_rate": 1.0 });
            let config: OptimizerConfig = serde_json::from_value(config).unwrap();
            let mut optimizer = Optimizer::joined(&config, &store, |_| limit).unwrap();
            loss(&store, 1, true).backward();
            let norm = optimizer.clip_norm(0.5).unwrap().double_value(&[]);
            let after = optimizer.gradient_norm().unwrap().double_value(&[]);
            (norm, after)
        };
        let ((alone, cut), (joined, also_cut)) = (of_store(0), of_store(1 << 16));
        assert!((alone - joined).abs() < 1e-5 * alone && alone > 0.5, "{alone} and {joined}");
        assert!((cut - 0.5).abs() < 1e-5 && (also_cut - 0.5).abs() < 1e-5, "{cut} and {also_cut}");
    }
}
