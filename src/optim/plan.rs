//! What an optimizer knows of its parameters, and the step of all of them as a function of arrays: the state comes in and goes out.

use std::collections::{HashMap, HashSet};

use super::{DecayedParameters, Group, Scalar, Slot, Step, decays};
use crate::mlx::{Array, Dtype, Error, Result, ops};
use crate::runtime::block_on_owner;

/// What is known of one parameter.
#[derive(Debug)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<i32>,
    pub dtype: Dtype,
    pub group: usize,
    decays: bool,
}

/// A parameter's part in a step.
pub struct Member<'a> {
    /// Its place among the plan's parameters.
    pub index: usize,
    pub weight: &'a Array,
    pub gradient: &'a Array,
    /// In the order of the rule's slots.
    pub state: &'a [Array],
}

/// Groups and the parameters in them.
#[derive(Debug)]
pub struct Plan {
    pub groups: Vec<Group>,
    pub parameters: Vec<Parameter>,
    index: HashMap<String, usize>,
    /// State and arithmetic in float32 whatever the parameter's dtype.
    pub wide: bool,
}

impl Plan {
    pub fn new(groups: Vec<Group>) -> Result<Self> {
        if groups.is_empty() {
            return Err(Error::Argument("an optimizer needs at least one group".into()));
        }
        Ok(Plan { groups, parameters: Vec::new(), index: HashMap::new(), wide: false })
    }

    pub fn place(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    pub fn known_group(&self, group: usize) -> Result<()> {
        let groups = self.groups.len();
        if group < groups {
            Ok(())
        } else {
            Err(Error::Argument(format!("there is no group {group}; the optimizer has {groups}")))
        }
    }

    /// Makes an unknown parameter known and says where it is.
    pub fn add(&mut self, group: usize, name: &str, weight: &Array) -> Result<usize> {
        self.known_group(group)?;
        floating(name, weight)?;
        let shape = weight.shape().to_vec();
        let decays = self.groups[group].decayed == DecayedParameters::All || decays(name, shape.len());
        self.index.insert(name.to_string(), self.parameters.len());
        self.parameters.push(Parameter { name: name.to_string(), shape, dtype: weight.dtype(), group, decays });
        Ok(self.parameters.len() - 1)
    }

    /// Forgets all but the first `count` parameters.
    pub fn truncate(&mut self, count: usize) {
        for parameter in self.parameters.drain(count.min(self.parameters.len())..) {
            self.index.remove(&parameter.name);
        }
    }

    pub fn slots(&self, index: usize) -> Vec<Slot> {
        let Parameter { group, shape, .. } = &self.parameters[index];
        self.groups[*group].rule.slots(shape)
    }

    pub fn state_dtype(&self, index: usize) -> Dtype {
        if self.wide { Dtype::Float32 } else { self.parameters[index].dtype }
    }

    /// The state before the first step.
    pub fn zeros(&self, index: usize) -> Result<Vec<Array>> {
        self.slots(index).iter().map(|(_, shape)| ops::zeros(shape, self.state_dtype(index))).collect()
    }

    /// The names of a parameter's state, for saving.
    pub fn state_names(&self, index: usize) -> Vec<String> {
        let name = &self.parameters[index].name;
        self.slots(index).iter().map(|(slot, _)| format!("{name}.{slot}")).collect()
    }

    /// Refuses names that come twice, and weights and gradients that do not fit what is known.
    pub fn check(&self, names: &[String], params: &[Array], grads: Option<&[Array]>) -> Result<()> {
        let gradients = grads.map_or(params.len(), <[Array]>::len);
        if params.len() != names.len() || gradients != names.len() {
            return Err(Error::Argument(format!(
                "the optimizer got {} names, {} parameters and {gradients} gradients; there must be one of each",
                names.len(),
                params.len(),
            )));
        }
        let mut seen = HashSet::new();
        for (place, (name, weight)) in names.iter().zip(params).enumerate() {
            if !seen.insert(name) {
                return Err(Error::Argument(format!("parameter '{name}' is there twice")));
            }
            floating(name, weight)?;
            if let Some(index) = self.place(name) {
                self.fits(index, weight)?;
            }
            if let Some(grads) = grads {
                gradient_fits(name, weight, &grads[place])?;
            }
        }
        Ok(())
    }

    /// Refuses a weight that is not of the shape and dtype of a known parameter.
    pub fn fits(&self, index: usize, weight: &Array) -> Result<()> {
        let Parameter { name, shape, dtype, .. } = &self.parameters[index];
        if weight.shape() != shape {
            return Err(Error::Shape(format!("parameter '{name}' has shape {shape:?}; got {:?}", weight.shape())));
        }
        if weight.dtype() != *dtype {
            let (known, new) = (dtype.name(), weight.dtype().name());
            return Err(Error::Dtype(format!("parameter '{name}' is {known}; got {new}")));
        }
        Ok(())
    }

    /// The learning rates of the step after `taken` ones, by group, without the groups' factors.
    pub fn rates(&self, taken: &Scalar) -> Result<Vec<Scalar>> {
        self.groups.iter().map(|group| group.rate(taken)).collect()
    }

    /// New weight and state of each member, lazy. `number` counts steps from 1; `rates` are by group, without the groups' factors;
    /// gradients are multiplied by `scale`. Weights come back in the dtype of the state.
    pub fn step(
        &self,
        members: &[Member],
        number: &Scalar,
        rates: &[Scalar],
        scale: Option<&Array>,
    ) -> Result<Vec<(Array, Vec<Array>)>> {
        if rates.len() != self.groups.len() {
            return Err(Error::Internal(format!("{} learning rates for {} groups", rates.len(), self.groups.len())));
        }
        let scaled: Vec<Scalar> = self.groups.iter().zip(rates).map(|(group, rate)| rate * group.learning_rate_scale).collect();
        let build = || members.iter().map(|member| self.member(member, number, &scaled, scale)).collect();
        if self.groups.iter().any(|group| group.rule.needs_owner()) { block_on_owner(build) } else { build() }
    }

    fn member(&self, member: &Member, number: &Scalar, rates: &[Scalar], scale: Option<&Array>) -> Result<(Array, Vec<Array>)> {
        let parameter = &self.parameters[member.index];
        let Group { rule, learning_rate_scale, .. } = &self.groups[parameter.group];
        let dtype = self.state_dtype(member.index);
        let (weight, gradient) = (member.weight.astype(dtype)?, member.gradient.astype(dtype)?);
        let (gradient, scale) = match scale {
            Some(scale) if !rule.takes_scale() => (gradient.multiply(&scale.astype(dtype)?)?, None),
            _ => (gradient, scale),
        };
        let step = Step {
            number: number.clone(),
            rate: rates[parameter.group].clone(),
            rate_scale: *learning_rate_scale,
            decays: parameter.decays,
            scale,
        };
        let mut result = rule.update(&weight, &gradient, member.state, &step)?;
        if result.len() != 1 + member.state.len() {
            return Err(Error::Internal(format!("{} gave {} arrays", rule.name(), result.len())));
        }
        let weight = result.remove(0);
        Ok((weight, result))
    }
}

fn floating(name: &str, weight: &Array) -> Result<()> {
    if weight.dtype().is_float() {
        return Ok(());
    }
    Err(Error::Dtype(format!("parameter '{name}' is {}; only floats can be trained", weight.dtype().name())))
}

/// Refuses a gradient that cannot be one of this weight.
pub fn gradient_fits(name: &str, weight: &Array, gradient: &Array) -> Result<()> {
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
    Ok(())
}
