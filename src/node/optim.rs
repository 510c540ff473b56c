//! Optimizers, schedules and clipping. The state of an optimizer lives in JavaScript, where transforms can see it: an update takes
//! it and gives the new one.

use napi_derive::napi;
use serde_json::Value;

use super::ArrayHandle;
use super::error as js;
use crate::mlx::{Array, Dtype, Error, Result};
use crate::optim::{self, Group, Member, Plan, Scalar, Schedule, gradient_fits, state_fits};

/// Rules and the parameters that they apply to.
#[napi]
pub struct NativeOptimizer {
    plan: Plan,
}

/// What an optimizer keeps for a new parameter.
#[napi(object, object_from_js = false)]
pub struct ParameterState {
    /// The parameter's number.
    pub index: u32,
    /// Names in a saved state, such as `layers.0.weight.m`.
    pub names: Vec<String>,
    /// Zeros.
    pub arrays: Vec<ArrayHandle>,
}

fn arrays(handles: &[ArrayHandle]) -> Vec<Array> {
    handles.iter().map(|handle| Array::clone(handle)).collect()
}

fn handles(arrays: Vec<Array>) -> Vec<ArrayHandle> {
    arrays.into_iter().map(Into::into).collect()
}

#[napi]
impl NativeOptimizer {
    /// Groups as `{ optimizer, options, learningRateScale?, decayedParameters? }`.
    #[napi(constructor, ts_args_type = "groups: object[]", catch_unwind)]
    pub fn new(groups: Value) -> js::Result<Self> {
        Ok(NativeOptimizer { plan: Plan::new(Group::list_from_json(groups)?)? })
    }

    /// Which groups take a learning rate rather than make their own.
    #[napi(catch_unwind)]
    pub fn take_learning_rates(&self) -> Vec<bool> {
        self.plan.groups.iter().map(|group| group.learning_rate.is_some()).collect()
    }

    /// Makes a parameter known, if it is not yet.
    #[napi(catch_unwind)]
    pub fn add(&mut self, group: u32, name: String, parameter: ArrayHandle) -> js::Result<ParameterState> {
        let known = self.plan.parameters.len();
        let index = match self.plan.place(&name) {
            Some(index) => {
                self.plan.fits(index, &parameter)?;
                index
            }
            None => self.plan.add(group as usize, &name, &parameter)?,
        };
        let arrays = self.plan.zeros(index).inspect_err(|_| self.plan.truncate(known))?;
        Ok(ParameterState { index: index as u32, names: self.plan.state_names(index), arrays: handles(arrays) })
    }

    /// Forgets all but the first parameters.
    #[napi(catch_unwind)]
    pub fn truncate(&mut self, count: u32) {
        self.plan.truncate(count as usize);
    }

    /// Refuses an array that does not fit a known parameter.
    #[napi(catch_unwind)]
    pub fn check_parameter(&self, index: u32, parameter: ArrayHandle) -> js::Result<()> {
        Ok(self.plan.fits(self.known(index)?, &parameter)?)
    }

    /// Refuses arrays that cannot be a parameter's state.
    #[napi(catch_unwind)]
    pub fn check_state(&self, index: u32, state: Vec<ArrayHandle>) -> js::Result<()> {
        let index = self.known(index)?;
        let slots = self.plan.slots(index);
        for ((name, (_, shape)), array) in self.plan.state_names(index).iter().zip(&slots).zip(&state) {
            state_fits(name, array, shape, self.plan.state_dtype(index))?;
        }
        Ok(())
    }

    fn known(&self, index: u32) -> Result<usize> {
        let index = index as usize;
        match self.plan.parameters.get(index) {
            Some(_) => Ok(index),
            None => Err(Error::Internal(format!("the optimizer has no parameter {index}"))),
        }
    }

    /// The learning rates of the step after `taken` ones, by group.
    #[napi(catch_unwind)]
    pub fn rates(&self, taken: f64) -> js::Result<Vec<f64>> {
        let rates = self.plan.rates(&Scalar::Known(taken))?;
        Ok(rates.iter().map(|rate| if let Scalar::Known(rate) = rate { *rate } else { f64::NAN }).collect())
    }

    /// The same where the step is part of a graph.
    #[napi(catch_unwind)]
    pub fn lazy_rates(&self, taken: ArrayHandle) -> js::Result<Vec<ArrayHandle>> {
        let rates = self.plan.rates(&Scalar::lazy(&taken))?;
        Ok(handles(rates.iter().map(|rate| rate.array(Dtype::Float32)).collect::<Result<_>>()?))
    }

    /// New parameters, then the new state of each, in the order of the given ones. `number` is the step's, counted from 1.
    #[napi(catch_unwind)]
    pub fn update(
        &self,
        indices: Vec<u32>,
        parameters: Vec<ArrayHandle>,
        gradients: Vec<ArrayHandle>,
        state: Vec<ArrayHandle>,
        number: f64,
        rates: Vec<f64>,
    ) -> js::Result<Vec<ArrayHandle>> {
        let rates: Vec<Scalar> = rates.into_iter().map(Scalar::Known).collect();
        Ok(self.step(&indices, &parameters, &gradients, &state, &Scalar::Known(number), &rates)?)
    }

    /// The same where the step's number and the learning rates are part of a graph.
    #[napi(catch_unwind)]
    pub fn lazy_update(
        &self,
        indices: Vec<u32>,
        parameters: Vec<ArrayHandle>,
        gradients: Vec<ArrayHandle>,
        state: Vec<ArrayHandle>,
        number: ArrayHandle,
        rates: Vec<ArrayHandle>,
    ) -> js::Result<Vec<ArrayHandle>> {
        let rates: Vec<Scalar> = rates.iter().map(|rate| Scalar::lazy(rate)).collect();
        Ok(self.step(&indices, &parameters, &gradients, &state, &Scalar::lazy(&number), &rates)?)
    }

    fn step(
        &self,
        indices: &[u32],
        parameters: &[ArrayHandle],
        gradients: &[ArrayHandle],
        state: &[ArrayHandle],
        number: &Scalar,
        rates: &[Scalar],
    ) -> Result<Vec<ArrayHandle>> {
        if parameters.len() != indices.len() || gradients.len() != indices.len() {
            return Err(Error::Internal("an update needs one parameter and one gradient for each index".into()));
        }
        let state = arrays(state);
        let mut rest = state.as_slice();
        let mut members = Vec::with_capacity(indices.len());
        for (&index, (weight, gradient)) in indices.iter().zip(parameters.iter().zip(gradients)) {
            let index = self.known(index)?;
            self.plan.fits(index, weight)?;
            gradient_fits(&self.plan.parameters[index].name, weight, gradient)?;
            let Some((state, others)) = rest.split_at_checked(self.plan.slots(index).len()) else {
                return Err(Error::Internal("an update needs the whole state".into()));
            };
            rest = others;
            members.push(Member { index, weight, gradient, state });
        }
        let results = self.plan.step(&members, number, rates, None)?;
        let (weights, states): (Vec<_>, Vec<_>) = results.into_iter().unzip();
        Ok(weights.into_iter().chain(states.into_iter().flatten()).map(Into::into).collect())
    }
}

/// The learning rate of a schedule, in JSON, at a step counted from 0.
#[napi(namespace = "optim", ts_args_type = "schedule: object | number, step: number", catch_unwind)]
pub fn schedule_rate(schedule: Value, step: f64) -> js::Result<f64> {
    let schedule = Schedule::from_json(schedule)?;
    if !(step >= 0.0 && step.fract() == 0.0 && step < 2f64.powi(53)) {
        return Err(Error::Argument(format!("a step is a whole number of at least 0, not {step}")).into());
    }
    Ok(schedule.lr(step as u64))
}

/// The Euclidean norm over all elements of all arrays, a float32 scalar.
#[napi(namespace = "optim", catch_unwind)]
pub fn global_norm(gradients: Vec<ArrayHandle>) -> js::Result<ArrayHandle> {
    Ok(optim::global_norm(&arrays(&gradients))?.into())
}

/// The arrays scaled so that their norm is at most `maxNorm`, then the norm before.
#[napi(namespace = "optim", catch_unwind)]
pub fn clip_grad_norm(gradients: Vec<ArrayHandle>, max_norm: f64) -> js::Result<Vec<ArrayHandle>> {
    let (mut clipped, norm) = optim::clip_by_global_norm(&arrays(&gradients), max_norm)?;
    clipped.push(norm);
    Ok(handles(clipped))
}

/// The arrays with every element inside `[-clipValue, clipValue]`.
#[napi(namespace = "optim", catch_unwind)]
pub fn clip_grad_value(gradients: Vec<ArrayHandle>, clip_value: f64) -> js::Result<Vec<ArrayHandle>> {
    Ok(handles(optim::clip_by_value(&arrays(&gradients), clip_value)?))
}
