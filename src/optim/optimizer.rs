//! The optimizer: rules over named parameters in groups, their state, and its saving.

use std::collections::HashMap;

use serde_json::Value;

use super::plan::{Member, Plan};
use super::{Group, Rule, Scalar, Schedule};
use crate::mlx::{Array, Dtype, Error, Result};

/// One parameter's state.
#[derive(Debug)]
struct State {
    /// In the order of the rule's slots.
    arrays: Vec<Array>,
    /// The float32 weight behind a half-precision one.
    master: Option<Array>,
}

/// The name of a master weight in a saved state, beside the rules' slots.
const MASTER: &str = "master";

/// Rules over named parameters. Parameters may come at any time and an update may take any of them; names, shapes and dtypes are
/// checked before anything changes, and nothing changes on an error. Updates are lazy and may be built on any thread.
#[derive(Debug)]
pub struct Optimizer {
    plan: Plan,
    /// In the order of the plan's parameters.
    states: Vec<State>,
    step: u64,
}

impl Optimizer {
    /// One rule for all parameters.
    pub fn new(rule: impl Rule + 'static) -> Result<Self> {
        Self::with_groups(vec![Group::new(Box::new(rule))?])
    }

    /// Several rules, as MLX's MultiOptimizer, or one rule with different settings. `init` says which parameter belongs to which
    /// group; one that was not named there belongs to the last.
    pub fn with_groups(groups: Vec<Group>) -> Result<Self> {
        Ok(Optimizer { plan: Plan::new(groups)?, states: Vec::new(), step: 0 })
    }

    /// From one group or an array of groups in JSON: see [`Group::from_json`].
    pub fn from_json(value: Value) -> Result<Self> {
        Self::with_groups(Group::list_from_json(value)?)
    }

    /// State and arithmetic in float32, and float32 weights behind half-precision ones, so that steps smaller than their rounding
    /// add up. Without it both are in the parameter's dtype, as in MLX. To be chosen before the first parameter comes.
    pub fn with_master_weights(mut self) -> Self {
        debug_assert!(self.states.is_empty());
        self.plan.wide = true;
        self
    }

    pub fn groups(&self) -> &[Group] {
        &self.plan.groups
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The first group's learning rate at the latest step, or at the first one before any; None where its rule makes its own.
    pub fn learning_rate(&self) -> Option<f64> {
        self.plan.groups[0].learning_rate.as_ref().map(|schedule| schedule.lr(self.step.saturating_sub(1)))
    }

    /// Sets the learning rate of all groups from the next step on; a schedule ends with it.
    pub fn set_learning_rate(&mut self, rate: f64) -> Result<()> {
        let schedule = Schedule::constant(rate)?;
        for group in self.plan.groups.iter_mut().filter(|group| group.learning_rate.is_some()) {
            group.learning_rate = Some(schedule.clone());
        }
        Ok(())
    }

    /// As `set_learning_rate`, of one group.
    pub fn set_group_learning_rate(&mut self, group: usize, rate: f64) -> Result<()> {
        self.plan.known_group(group)?;
        let schedule = Schedule::constant(rate)?;
        let group = &mut self.plan.groups[group];
        if group.learning_rate.is_none() {
            return Err(Error::Argument(format!("{} makes its own learning rate here", group.rule.name())));
        }
        group.learning_rate = Some(schedule);
        Ok(())
    }

    /// Makes parameters known, with state of zeros, as members of `group`; a known one keeps its state and must fit.
    pub fn init(&mut self, group: usize, names: &[String], params: &[Array]) -> Result<()> {
        self.plan.known_group(group)?;
        self.plan.check(names, params, None)?;
        for name in names {
            if let Some(known) = self.plan.place(name).map(|index| self.plan.parameters[index].group)
                && known != group
            {
                return Err(Error::Argument(format!("parameter '{name}' is in group {known} already, not in group {group}")));
            }
        }
        self.add(group, names, params)
    }

    fn add(&mut self, group: usize, names: &[String], params: &[Array]) -> Result<()> {
        let known = self.plan.parameters.len();
        let mut states = Vec::new();
        for (name, weight) in names.iter().zip(params) {
            if self.plan.place(name).is_none() {
                let added = self.plan.add(group, name, weight).and_then(|index| self.plan.zeros(index));
                let arrays = added.inspect_err(|_| self.plan.truncate(known))?;
                states.push(State { arrays, master: None });
            }
        }
        self.states.extend(states);
        Ok(())
    }

    /// One step: new parameters, lazy, in the order and dtypes of the old. Evaluate them together with `state_arrays`, or the
    /// graph grows.
    pub fn update(&mut self, names: &[String], params: &[Array], grads: &[Array]) -> Result<Vec<Array>> {
        self.update_scaled(names, params, grads, None)
    }

    /// As `update` with gradients times `scale`, a float32 scalar such as `clip_coefficient` gives; AdamW needs no pass over the
    /// gradients for it.
    pub fn update_scaled(
        &mut self,
        names: &[String],
        params: &[Array],
        grads: &[Array],
        scale: Option<&Array>,
    ) -> Result<Vec<Array>> {
        self.plan.check(names, params, Some(grads))?;
        let known = self.states.len();
        self.add(self.plan.groups.len() - 1, names, params)?;
        self.take_step(names, params, grads, scale).inspect_err(|_| {
            self.plan.truncate(known);
            self.states.truncate(known);
        })
    }

    fn take_step(&mut self, names: &[String], params: &[Array], grads: &[Array], scale: Option<&Array>) -> Result<Vec<Array>> {
        let rates = self.plan.rates(&Scalar::Known(self.step as f64))?;
        let indices: Vec<usize> = names.iter().filter_map(|name| self.plan.place(name)).collect();
        let members: Vec<Member> = indices
            .iter()
            .zip(params.iter().zip(grads))
            .map(|(&index, (weight, gradient))| {
                let State { arrays, master } = &self.states[index];
                Member { index, weight: master.as_ref().unwrap_or(weight), gradient, state: arrays }
            })
            .collect();
        let results = self.plan.step(&members, &Scalar::Known((self.step + 1) as f64), &rates, scale)?;
        let updated = results.iter().zip(params).map(|((weight, _), old)| weight.astype(old.dtype()));
        let updated = updated.collect::<Result<Vec<_>>>()?;
        for (&index, (weight, arrays)) in indices.iter().zip(results) {
            let master = self.has_master(index).then_some(weight);
            self.states[index] = State { arrays, master };
        }
        self.step += 1;
        Ok(updated)
    }

    fn has_master(&self, index: usize) -> bool {
        self.plan.wide && self.plan.parameters[index].dtype != Dtype::Float32
    }

    /// The arrays of the state, to be evaluated with the parameters.
    pub fn state_arrays(&self) -> Vec<Array> {
        self.states.iter().flat_map(|state| state.arrays.iter().chain(&state.master)).cloned().collect()
    }

    /// The state by name, for saving, in MLX's names: `<parameter>.<slot>` such as `layers.0.weight.m`, and `<parameter>.master`;
    /// `step()` is apart. Learning rates are options, not state.
    pub fn state(&self) -> Vec<(String, Array)> {
        let mut state = Vec::new();
        for (index, State { arrays, master }) in self.states.iter().enumerate() {
            state.extend(self.plan.state_names(index).into_iter().zip(arrays.iter().cloned()));
            let name = &self.plan.parameters[index].name;
            state.extend(master.iter().map(|master| (format!("{name}.{MASTER}"), master.clone())));
        }
        state
    }

    /// Continues from a saved state. Its parameters must be known (`init`), and everything that `state` gave after `step` steps
    /// must be there, and nothing else; nothing changes on an error.
    pub fn load_state(&mut self, step: u64, state: &HashMap<String, Array>) -> Result<()> {
        let find = |name: String, shape: &[i32], dtype: Dtype| match state.get(&name) {
            Some(array) => state_fits(&name, array, shape, dtype).map(|()| array.clone()),
            None => Err(Error::Argument(format!("the optimizer state has no '{name}'"))),
        };
        let mut loaded = Vec::new();
        let mut used = 0;
        for (index, parameter) in self.plan.parameters.iter().enumerate() {
            let (slots, dtype) = (self.plan.slots(index), self.plan.state_dtype(index));
            let slots = self.plan.state_names(index).into_iter().zip(&slots).map(|(name, (_, shape))| find(name, shape, dtype));
            let arrays = slots.collect::<Result<Vec<_>>>()?;
            let has_master = self.has_master(index) && step > 0;
            let master = || find(format!("{}.{MASTER}", parameter.name), &parameter.shape, Dtype::Float32);
            let master = has_master.then(master).transpose()?;
            used += arrays.len() + usize::from(has_master);
            loaded.push(State { arrays, master });
        }
        if used != state.len() {
            return Err(Error::Argument(self.foreign(state, used)));
        }
        self.states = loaded;
        self.step = step;
        Ok(())
    }

    /// What is wrong with a state of which only `used` arrays have a place here.
    fn foreign(&self, state: &HashMap<String, Array>, used: usize) -> String {
        let own: std::collections::HashSet<String> = self.state().into_iter().map(|(name, _)| name).collect();
        let stray = state.keys().filter(|name| !own.contains(*name)).min();
        let example = stray.map_or(String::new(), |name| format!("; '{name}' does not"));
        format!("the optimizer state has {} arrays, of which {used} belong to this optimizer's parameters{example}", state.len())
    }
}

/// Refuses an array of a saved state that is not of the shape and dtype of its place.
pub fn state_fits(name: &str, array: &Array, shape: &[i32], dtype: Dtype) -> Result<()> {
    if array.shape() != shape {
        return Err(Error::Shape(format!("the optimizer state's '{name}' has shape {:?}; it must be {shape:?}", array.shape())));
    }
    if array.dtype() != dtype {
        let (found, wanted) = (array.dtype().name(), dtype.name());
        return Err(Error::Dtype(format!("the optimizer state's '{name}' is {found}; it must be {wanted}")));
    }
    Ok(())
}
