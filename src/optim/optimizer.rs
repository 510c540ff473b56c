//! The optimizer: rules over named parameters in groups, their state, and its saving.

use std::collections::HashMap;

use serde_json::Value;

use super::{DecayedParameters, Group, Rule, Schedule, Step, decays};
use crate::mlx::{Array, Dtype, Error, Result, ops};
use crate::runtime::block_on_owner;

/// One parameter's part of the optimizer.
#[derive(Debug)]
struct Parameter {
    name: String,
    shape: Vec<i32>,
    dtype: Dtype,
    group: usize,
    decays: bool,
    /// In the order of the rule's slots.
    state: Vec<Array>,
    /// The float32 weight behind a half-precision one.
    master: Option<Array>,
}

/// The name of a master weight in a saved state, beside the rules' slots.
const MASTER: &str = "master";

/// Rules over named parameters. Parameters may come at any time and an update may take any of them; names, shapes and dtypes are
/// checked before anything changes, and nothing changes on an error. Updates are lazy and may be built on any thread.
#[derive(Debug)]
pub struct Optimizer {
    groups: Vec<Group>,
    parameters: Vec<Parameter>,
    index: HashMap<String, usize>,
    step: u64,
    master_weights: bool,
}

impl Optimizer {
    /// One rule for all parameters.
    pub fn new(rule: impl Rule + 'static) -> Result<Self> {
        Self::with_groups(vec![Group::new(Box::new(rule))?])
    }

    /// Several rules, as MLX's MultiOptimizer, or one rule with different settings. `init` says which parameter belongs to which
    /// group; one that was not named there belongs to the last.
    pub fn with_groups(groups: Vec<Group>) -> Result<Self> {
        if groups.is_empty() {
            return Err(Error::Argument("an optimizer needs at least one group".into()));
        }
        Ok(Optimizer { groups, parameters: Vec::new(), index: HashMap::new(), step: 0, master_weights: false })
    }

    /// From one group or an array of groups in JSON: see [`Group::from_json`].
    pub fn from_json(value: Value) -> Result<Self> {
        let groups = match value {
            Value::Array(groups) => groups,
            group => vec![group],
        };
        Self::with_groups(groups.into_iter().map(Group::from_json).collect::<Result<_>>()?)
    }

    /// State and arithmetic in float32, and float32 weights behind half-precision ones, so that steps smaller than their rounding
    /// add up. Without it both are in the parameter's dtype, as in MLX. To be chosen before the first parameter comes.
    pub fn with_master_weights(self) -> Self {
        debug_assert!(self.parameters.is_empty());
        Optimizer { master_weights: true, ..self }
    }

    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The first group's learning rate at the latest step, or at the first one before any; None where its rule makes its own.
    pub fn learning_rate(&self) -> Option<f64> {
        self.groups[0].learning_rate.as_ref().map(|schedule| schedule.lr(self.step.saturating_sub(1)))
    }

    /// Sets the learning rate of all groups from the next step on; a schedule ends with it.
    pub fn set_learning_rate(&mut self, rate: f64) -> Result<()> {
        let schedule = Schedule::constant(rate)?;
        for group in self.groups.iter_mut().filter(|group| group.learning_rate.is_some()) {
            group.learning_rate = Some(schedule.clone());
        }
        Ok(())
    }

    /// As `set_learning_rate`, of one group.
    pub fn set_group_learning_rate(&mut self, group: usize, rate: f64) -> Result<()> {
        self.known_group(group)?;
        let schedule = Schedule::constant(rate)?;
        let group = &mut self.groups[group];
        if group.learning_rate.is_none() {
            return Err(Error::Argument(format!("{} makes its own learning rate here", group.rule.name())));
        }
        group.learning_rate = Some(schedule);
        Ok(())
    }

    fn known_group(&self, group: usize) -> Result<()> {
        let groups = self.groups.len();
        if group < groups {
            Ok(())
        } else {
            Err(Error::Argument(format!("there is no group {group}; the optimizer has {groups}")))
        }
    }

    /// Makes parameters known, with state of zeros, as members of `group`; a known one keeps its state and must fit.
    pub fn init(&mut self, group: usize, names: &[String], params: &[Array]) -> Result<()> {
        self.known_group(group)?;
        self.check(names, params, None)?;
        for name in names {
            if let Some(known) = self.index.get(name).map(|&index| self.parameters[index].group)
                && known != group
            {
                return Err(Error::Argument(format!("parameter '{name}' is in group {known} already, not in group {group}")));
            }
        }
        self.add(group, names, params)
    }

    fn add(&mut self, group: usize, names: &[String], params: &[Array]) -> Result<()> {
        let mut new = Vec::new();
        for (name, weight) in names.iter().zip(params).filter(|(name, _)| !self.index.contains_key(*name)) {
            let Group { rule, decayed, .. } = &self.groups[group];
            let shape = weight.shape().to_vec();
            let dtype = weight.dtype();
            let state = rule.slots(&shape).into_iter().map(|(_, shape)| ops::zeros(&shape, self.state_dtype(dtype)));
            new.push(Parameter {
                name: name.clone(),
                dtype,
                group,
                decays: *decayed == DecayedParameters::All || decays(name, shape.len()),
                state: state.collect::<Result<_>>()?,
                master: None,
                shape,
            });
        }
        for parameter in new {
            self.index.insert(parameter.name.clone(), self.parameters.len());
            self.parameters.push(parameter);
        }
        Ok(())
    }

    fn state_dtype(&self, dtype: Dtype) -> Dtype {
        if self.master_weights { Dtype::Float32 } else { dtype }
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
        self.check(names, params, Some(grads))?;
        let known = self.parameters.len();
        self.add(self.groups.len() - 1, names, params)?;
        self.take_step(names, params, grads, scale).inspect_err(|_| {
            for parameter in self.parameters.drain(known..) {
                self.index.remove(&parameter.name);
            }
        })
    }

    fn take_step(&mut self, names: &[String], params: &[Array], grads: &[Array], scale: Option<&Array>) -> Result<Vec<Array>> {
        let rates = self.groups.iter().map(|group| group.rate(self.step)).collect::<Result<Vec<_>>>()?;
        let indices: Vec<usize> = names.iter().map(|name| self.index[name]).collect();
        let this = &*self;
        let build = || {
            let steps = indices.iter().zip(params.iter().zip(grads));
            steps
                .map(|(&index, (weight, gradient))| {
                    let parameter = &this.parameters[index];
                    let Group { rule, learning_rate_scale, .. } = &this.groups[parameter.group];
                    let dtype = this.state_dtype(parameter.dtype);
                    let weight = match &parameter.master {
                        Some(master) => master.clone(),
                        None => weight.astype(dtype)?,
                    };
                    let gradient = gradient.astype(dtype)?;
                    let (gradient, scale) = match scale {
                        Some(scale) if !rule.takes_scale() => (gradient.multiply(&scale.astype(dtype)?)?, None),
                        _ => (gradient, scale),
                    };
                    let step = Step {
                        number: this.step + 1,
                        rate: rates[parameter.group],
                        rate_scale: *learning_rate_scale,
                        decays: parameter.decays,
                        scale,
                    };
                    let result = rule.update(&weight, &gradient, &parameter.state, &step)?;
                    if result.len() != 1 + parameter.state.len() {
                        return Err(Error::Internal(format!("{} gave {} arrays", rule.name(), result.len())));
                    }
                    Ok(result)
                })
                .collect::<Result<Vec<_>>>()
        };
        let results = if self.groups.iter().any(|group| group.rule.needs_owner()) { block_on_owner(build) } else { build() }?;
        let mut updated = Vec::with_capacity(params.len());
        let mut weights = Vec::with_capacity(params.len());
        for (mut result, old) in results.into_iter().zip(params) {
            let weight = result.remove(0);
            updated.push(weight.astype(old.dtype())?);
            weights.push((weight, result));
        }
        for (&index, (weight, state)) in indices.iter().zip(weights) {
            let parameter = &mut self.parameters[index];
            parameter.state = state;
            if self.master_weights && parameter.dtype != Dtype::Float32 {
                parameter.master = Some(weight);
            }
        }
        self.step += 1;
        Ok(updated)
    }

    fn check(&self, names: &[String], params: &[Array], grads: Option<&[Array]>) -> Result<()> {
        let gradients = grads.map_or(params.len(), <[Array]>::len);
        if params.len() != names.len() || gradients != names.len() {
            return Err(Error::Argument(format!(
                "the optimizer got {} names, {} parameters and {gradients} gradients; there must be one of each",
                names.len(),
                params.len(),
            )));
        }
        let mut seen = std::collections::HashSet::new();
        for (place, (name, weight)) in names.iter().zip(params).enumerate() {
            if !seen.insert(name) {
                return Err(Error::Argument(format!("parameter '{name}' is there twice")));
            }
            if !weight.dtype().is_float() {
                let dtype = weight.dtype().name();
                return Err(Error::Dtype(format!("parameter '{name}' is {dtype}; only floats can be trained")));
            }
            if let Some(&index) = self.index.get(name) {
                let Parameter { shape, dtype, .. } = &self.parameters[index];
                if weight.shape() != shape {
                    return Err(Error::Shape(format!("parameter '{name}' has shape {shape:?}; got {:?}", weight.shape())));
                }
                if weight.dtype() != *dtype {
                    let (known, new) = (dtype.name(), weight.dtype().name());
                    return Err(Error::Dtype(format!("parameter '{name}' is {known}; got {new}")));
                }
            }
            let Some(gradient) = grads.map(|grads| &grads[place]) else { continue };
            if gradient.shape() != weight.shape() {
                return Err(Error::Shape(format!(
                    "parameter '{name}' has shape {:?}; its gradient has {:?}",
                    weight.shape(),
                    gradient.shape()
                )));
            }
            if !gradient.dtype().is_float() {
                let dtype = gradient.dtype().name();
                return Err(Error::Dtype(format!("the gradient of '{name}' is {dtype}; it must be a float")));
            }
        }
        Ok(())
    }

    /// The arrays of the state, to be evaluated with the parameters.
    pub fn state_arrays(&self) -> Vec<Array> {
        self.parameters.iter().flat_map(|parameter| parameter.state.iter().chain(&parameter.master)).cloned().collect()
    }

    /// The state by name, for saving, in MLX's names: `<parameter>.<slot>` such as `layers.0.weight.m`, and `<parameter>.master`;
    /// `step()` is apart. Learning rates are options, not state.
    pub fn state(&self) -> Vec<(String, Array)> {
        let mut state = Vec::new();
        for Parameter { name, shape, group, state: arrays, master, .. } in &self.parameters {
            let slots = self.groups[*group].rule.slots(shape);
            state.extend(slots.iter().zip(arrays).map(|((slot, _), array)| (format!("{name}.{slot}"), array.clone())));
            state.extend(master.iter().map(|master| (format!("{name}.{MASTER}"), master.clone())));
        }
        state
    }

    /// Continues from a saved state. Its parameters must be known (`init`), and everything that `state` gave after `step` steps
    /// must be there, and nothing else; nothing changes on an error.
    pub fn load_state(&mut self, step: u64, state: &HashMap<String, Array>) -> Result<()> {
        let find = |name: String, shape: &[i32], dtype: Dtype| match state.get(&name) {
            Some(array) if array.shape() != shape => {
                Err(Error::Shape(format!("the optimizer state's '{name}' has shape {:?}; it must be {shape:?}", array.shape())))
            }
            Some(array) if array.dtype() != dtype => {
                let (found, wanted) = (array.dtype().name(), dtype.name());
                Err(Error::Dtype(format!("the optimizer state's '{name}' is {found}; it must be {wanted}")))
            }
            Some(array) => Ok(array.clone()),
            None => Err(Error::Argument(format!("the optimizer state has no '{name}'"))),
        };
        let mut loaded = Vec::with_capacity(self.parameters.len());
        let mut used = 0;
        for Parameter { name, shape, dtype, group, .. } in &self.parameters {
            let slots = self.groups[*group].rule.slots(shape);
            let slots = slots.into_iter().map(|(slot, shape)| find(format!("{name}.{slot}"), &shape, self.state_dtype(*dtype)));
            let arrays = slots.collect::<Result<Vec<_>>>()?;
            let has_master = self.master_weights && *dtype != Dtype::Float32 && step > 0;
            let master = has_master.then(|| find(format!("{name}.{MASTER}"), shape, Dtype::Float32)).transpose()?;
            used += arrays.len() + usize::from(has_master);
            loaded.push((arrays, master));
        }
        if used != state.len() {
            return Err(Error::Argument(self.foreign(state, used)));
        }
        for (parameter, (arrays, master)) in self.parameters.iter_mut().zip(loaded) {
            (parameter.state, parameter.master) = (arrays, master);
        }
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
