//! AdamW with torch's semantics: bias correction and decoupled weight decay. State and arithmetic are float32.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::mlx::kernels::{self, AdamWStep};
use crate::mlx::{Array, Compiled, Dtype, Error, Result, compile_available, compiled, ops};
use crate::runtime::block_on_owner;

/// Whether weight decay applies to a parameter: to matrices, not to biases and the weights of norms.
pub fn decays(name: &str, ndim: usize) -> bool {
    ndim >= 2 && !name.ends_with("bias") && !name.contains("norm")
}

/// torch's defaults, but transformers' weight decay of 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        AdamWOptions { lr: 1e-6, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

impl AdamWOptions {
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("learningRate", self.lr), ("adamEpsilon", self.eps), ("weightDecay", self.weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::Argument(format!("{name} is {value}; it must be a finite number of at least 0")));
            }
        }
        for (name, value) in [("adamBeta1", self.beta1), ("adamBeta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::Argument(format!("{name} is {value}; it must lie in [0, 1)")));
            }
        }
        Ok(())
    }
}

/// One parameter's part of the optimizer.
struct Parameter {
    name: String,
    shape: Vec<i32>,
    decays: bool,
    /// First and second moment of the gradient, float32; absent before the first step.
    moments: Option<[Array; 2]>,
    /// The float32 weight behind a half-precision one: steps smaller than its rounding must add up.
    master: Option<Array>,
}

/// The optimizer of a fixed list of parameters.
pub struct AdamW {
    options: AdamWOptions,
    parameters: Vec<Parameter>,
    step: u64,
    arithmetic: Arithmetic,
}

/// What computes the update, best first.
enum Arithmetic {
    Kernel,
    Compiled(Compiled),
    Composed,
}

impl Arithmetic {
    fn best() -> Result<Self> {
        static CAN_COMPILE: OnceLock<bool> = OnceLock::new();
        Ok(if kernels::available() {
            Arithmetic::Kernel
        } else if *CAN_COMPILE.get_or_init(compile_available) {
            Arithmetic::Compiled(compiled(composed, true)?)
        } else {
            Arithmetic::Composed
        })
    }

    /// Weight, first and second moment after a step, from weight, gradient and moments.
    fn update(&self, arrays: [Array; 4], scale: &Array, step: &AdamWStep) -> Result<Vec<Array>> {
        if let Arithmetic::Kernel = self {
            return Ok(kernels::adamw(arrays.each_ref(), scale, step)?.to_vec());
        }
        let AdamWStep { step_size, root, kept, beta1, rest1, beta2, rest2, eps } = *step;
        let constants = [step_size, root, kept, beta1, rest1, beta2, rest2, eps].map(Array::scalar);
        let inputs: Vec<Array> = arrays.into_iter().chain([scale.clone()]).chain(constants).collect();
        match self {
            Arithmetic::Compiled(update) => update.call(&inputs),
            _ => composed(&inputs),
        }
    }
}

impl AdamW {
    /// For parameters of these names and shapes, in the order of every later `update`; the flag says whether weight decay applies.
    pub fn new(options: AdamWOptions, parameters: impl IntoIterator<Item = (String, Vec<i32>, bool)>) -> Result<Self> {
        options.validate()?;
        let parameters = parameters
            .into_iter()
            .map(|(name, shape, decays)| Parameter { name, shape, decays, moments: None, master: None })
            .collect();
        Ok(AdamW { options, parameters, step: 0, arithmetic: Arithmetic::best()? })
    }

    /// The same optimizer with one operation at a time, for comparison.
    #[cfg(test)]
    pub(super) fn without_fusion(self) -> Self {
        AdamW { arithmetic: Arithmetic::Composed, ..self }
    }

    pub fn options(&self) -> &AdamWOptions {
        &self.options
    }

    /// Sets the learning rate of the next steps.
    pub fn set_lr(&mut self, lr: f64) {
        self.options.lr = lr;
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// One step: new parameters, lazy, in the dtypes of the old. Evaluate them together with `state_arrays`, or the graph grows.
    pub fn update(&mut self, params: &[Array], grads: &[Array]) -> Result<Vec<Array>> {
        self.update_scaled(params, grads, &Array::scalar(1.0))
    }

    /// As `update` with gradients times `scale`, a float32 scalar such as `clip_coefficient` gives; saves a pass over the gradients.
    pub fn update_scaled(&mut self, params: &[Array], grads: &[Array], scale: &Array) -> Result<Vec<Array>> {
        self.check(params, grads)?;
        let AdamWOptions { lr, beta1, beta2, eps, weight_decay } = self.options;
        let time = (self.step + 1) as f64;
        let step = AdamWStep {
            step_size: (lr / (1.0 - beta1.powf(time))) as f32,
            root: (1.0 / (1.0 - beta2.powf(time)).sqrt()) as f32,
            kept: 1.0,
            beta1: beta1 as f32,
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            eps: eps as f32,
        };
        let decayed = (1.0 - lr * weight_decay) as f32;

        // A unique reference may go to the owner thread; a compiled function is not shared between threads.
        let (arithmetic, parameters) = (&mut self.arithmetic, &self.parameters);
        let results = block_on_owner(move || {
            let updates = parameters.iter().zip(params.iter().zip(grads)).map(|(parameter, (weight, gradient))| {
                let weight = match &parameter.master {
                    Some(master) => master.clone(),
                    None => weight.astype(Dtype::Float32)?,
                };
                let [first, second] = match &parameter.moments {
                    Some(moments) => moments.clone(),
                    None => [ops::zeros_like(&weight)?, ops::zeros_like(&weight)?],
                };
                let step = if parameter.decays { AdamWStep { kept: decayed, ..step } } else { step };
                arithmetic.update([weight, gradient.astype(Dtype::Float32)?, first, second], scale, &step)
            });
            updates.collect::<Result<Vec<_>>>()
        })?;

        self.step += 1;
        let mut updated = Vec::with_capacity(params.len());
        for ((parameter, result), old) in self.parameters.iter_mut().zip(results).zip(params) {
            let [weight, first, second] = <[Array; 3]>::try_from(result)
                .map_err(|result| Error::Internal(format!("the AdamW update gave {} arrays instead of 3", result.len())))?;
            parameter.moments = Some([first, second]);
            updated.push(weight.astype(old.dtype())?);
            if old.dtype() != Dtype::Float32 {
                parameter.master = Some(weight);
            }
        }
        Ok(updated)
    }

    fn check(&self, params: &[Array], grads: &[Array]) -> Result<()> {
        if params.len() != self.parameters.len() || grads.len() != self.parameters.len() {
            return Err(Error::Argument(format!(
                "the optimizer has {} parameters; got {} arrays and {} gradients",
                self.parameters.len(),
                params.len(),
                grads.len()
            )));
        }
        for (parameter, (weight, gradient)) in self.parameters.iter().zip(params.iter().zip(grads)) {
            if weight.shape() != parameter.shape || gradient.shape() != parameter.shape {
                return Err(Error::Shape(format!(
                    "parameter '{}' has shape {:?}; got {:?} and a gradient of {:?}",
                    parameter.name,
                    parameter.shape,
                    weight.shape(),
                    gradient.shape()
                )));
            }
            if !weight.dtype().is_float() {
                return Err(Error::Dtype(format!(
                    "parameter '{}' is {}; only floats can be trained",
                    parameter.name,
                    weight.dtype().name()
                )));
            }
        }
        Ok(())
    }

    /// The arrays of the state, to be evaluated with the parameters.
    pub fn state_arrays(&self) -> Vec<Array> {
        self.state().into_iter().map(|(_, array)| array).collect()
    }

    /// The state by name, for saving: `exp_avg.<name>`, `exp_avg_sq.<name>` and `master.<name>`; `step()` is apart.
    pub fn state(&self) -> Vec<(String, Array)> {
        let mut state = Vec::new();
        for Parameter { name, moments, master, .. } in &self.parameters {
            if let Some([first, second]) = moments {
                state.push((format!("exp_avg.{name}"), first.clone()));
                state.push((format!("exp_avg_sq.{name}"), second.clone()));
            }
            state.extend(master.iter().map(|master| (format!("master.{name}"), master.clone())));
        }
        state
    }

    /// Continues from a saved state. Everything that `state` gave after `step` steps must be there; nothing changes on an error.
    pub fn load_state(&mut self, step: u64, state: &HashMap<String, Array>) -> Result<()> {
        let find = |kind: &str, parameter: &Parameter| match state.get(&format!("{kind}.{}", parameter.name)) {
            Some(array) if array.shape() == parameter.shape && array.dtype() == Dtype::Float32 => Ok(Some(array.clone())),
            Some(array) => {
                Err(Error::Shape(format!("{kind}.{} is {array:?}; it must be float32 {:?}", parameter.name, parameter.shape)))
            }
            None => Ok(None),
        };
        let mut loaded = Vec::with_capacity(self.parameters.len());
        let mut used = 0;
        for parameter in &self.parameters {
            let moments = match (find("exp_avg", parameter)?, find("exp_avg_sq", parameter)?) {
                (Some(first), Some(second)) => Some([first, second]),
                (None, None) if step == 0 => None,
                _ => return Err(Error::Argument(format!("the optimizer state has no moments of '{}'", parameter.name))),
            };
            let master = find("master", parameter)?;
            used += moments.iter().len() * 2 + master.iter().len();
            loaded.push((moments, master));
        }
        if used != state.len() {
            return Err(Error::Argument(format!(
                "the optimizer state has {} arrays, of which {used} belong to this optimizer's parameters",
                state.len()
            )));
        }
        for (parameter, (moments, master)) in self.parameters.iter_mut().zip(loaded) {
            (parameter.moments, parameter.master) = (moments, master);
        }
        self.step = step;
        Ok(())
    }
}

/// Weight, first and second moment after a step, from: weight, gradient, moments, gradient scale, step size, 1 / sqrt of the
/// second bias correction, factor of the weight, beta1, 1 - beta1, beta2, 1 - beta2, epsilon.
fn composed(inputs: &[Array]) -> Result<Vec<Array>> {
    let [weight, gradient, first, second, scale, step_size, root, kept, beta1, rest1, beta2, rest2, eps] = inputs else {
        return Err(Error::Internal(format!("the AdamW update takes 13 arrays, not {}", inputs.len())));
    };
    let gradient = gradient.multiply(scale)?;
    let first = first.multiply(beta1)?.add(&gradient.multiply(rest1)?)?;
    let second = second.multiply(beta2)?.add(&gradient.square()?.multiply(rest2)?)?;
    let denominator = second.sqrt()?.multiply(root)?.add(eps)?;
    let weight = weight.multiply(kept)?.subtract(&first.multiply(step_size)?.divide(&denominator)?)?;
    Ok(vec![weight, first, second])
}
