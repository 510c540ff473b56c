//! Adam (Kingma and Ba, 2015), and the arithmetic that it shares with AdamW.

use std::cell::OnceCell;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use serde::Deserialize;

use super::rule::{Constants, Options, average, named, with_l2};
use super::{Rule, Scalar, Schedule, Slot, Step};
use crate::mlx::{Array, Compiled, Dtype, Error, Result, compile_available, compiled, kernels, ops};

/// `m = b1 * m + (1 - b1) * g`, `v = b2 * v + (1 - b2) * g²`, `w = w - rate * m / (√v + eps)`, with MLX's defaults: no bias
/// correction. Weight decay and `amsgrad` are torch's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Adam {
    pub learning_rate: Option<Schedule>,
    pub betas: [f64; 2],
    pub eps: f64,
    /// Divides the moments by `1 - beta^t`, as torch always does.
    pub bias_correction: bool,
    /// An L2 penalty: added to the gradient as `weight_decay * w`.
    pub weight_decay: f64,
    /// Divides by the largest second moment so far.
    pub amsgrad: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { learning_rate: None, betas: [0.9, 0.999], eps: 1e-8, bias_correction: false, weight_decay: 0.0, amsgrad: false }
    }
}

impl Adam {
    pub(super) fn check_options(&self, options: &Options) -> Result<()> {
        options.has_learning_rate()?;
        options.betas(self.betas)?;
        options.at_least_zero("eps", self.eps)?;
        options.at_least_zero("weightDecay", self.weight_decay)
    }

    /// The step with a decoupled decay of the weight, besides the L2 penalty of the options.
    pub(super) fn update_decayed(
        &self,
        weight: &Array,
        gradient: &Array,
        state: &[Array],
        step: &Step,
        decay: f64,
    ) -> Result<Vec<Array>> {
        let l2 = step.decay(self.weight_decay);
        let (scaled, scale) = match step.scale {
            Some(scale) if l2 != 0.0 || self.amsgrad => (gradient.multiply(&scale.astype(gradient.dtype())?)?, None),
            scale => (gradient.clone(), scale),
        };
        let gradient = with_l2(&scaled, weight, l2)?;

        let [beta1, beta2] = self.betas;
        let correction = |beta: f64| if self.bias_correction { step.number.correction_of(beta) } else { Scalar::Known(1.0) };
        let constants = Constant {
            step_size: &step.rate / &correction(beta1),
            root: 1.0 / correction(beta2).sqrt(),
            kept: 1.0 - &step.rate * decay,
            beta1,
            beta2,
            eps: self.eps,
        };
        if let [first, second, largest] = state {
            return constants.amsgrad([weight, &gradient, first, second, largest]);
        }
        let [first, second] = state else {
            return Err(Error::Internal(format!("Adam has two moments, not {}", state.len())));
        };
        constants.update([weight, &gradient, first, second], scale)
    }
}

impl Rule for Adam {
    named!("Adam");

    fn check(&self) -> Result<()> {
        self.check_options(&Options(self))
    }

    fn slots(&self, shape: &[i32]) -> Vec<Slot> {
        let names: &[&str] = if self.amsgrad { &["m", "v", "v_max"] } else { &["m", "v"] };
        names.iter().map(|&name| (name, shape.to_vec())).collect()
    }

    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>> {
        self.update_decayed(weight, gradient, state, step, 0.0)
    }

    fn takes_scale(&self) -> bool {
        true
    }

    fn needs_owner(&self) -> bool {
        !self.amsgrad && compiles()
    }
}

/// The constants of a step.
#[derive(Clone, Debug)]
pub(super) struct Constant {
    /// Learning rate over the first bias correction.
    pub step_size: Scalar,
    /// 1 / √ of the second bias correction.
    pub root: Scalar,
    /// Factor of the weight.
    pub kept: Scalar,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
}

impl Constant {
    /// In the order that `composed` and the kernel take them.
    fn list(&self) -> [Scalar; 8] {
        let Constant { step_size, root, kept, beta1, beta2, eps } = self;
        let known = [*beta1, 1.0 - beta1, *beta2, 1.0 - beta2, *eps].map(Scalar::Known);
        let [beta1, rest1, beta2, rest2, eps] = known;
        [step_size.clone(), root.clone(), kept.clone(), beta1, rest1, beta2, rest2, eps]
    }

    /// For the kernel, float32 `[8]`.
    fn array(&self) -> Result<Array> {
        let list = self.list();
        let known: Vec<f32> = list
            .iter()
            .filter_map(|number| if let Scalar::Known(number) = number { Some(*number as f32) } else { None })
            .collect();
        if known.len() == list.len() {
            return Array::from_slice(&known, &[8]);
        }
        let numbers = list.iter().map(|number| number.array(Dtype::Float32)).collect::<Result<Vec<_>>>()?;
        ops::stack(&numbers, 0)
    }

    /// Weight and moments after the step by the fastest way: our kernel, a compiled function, or one operation at a time.
    fn update(&self, arrays: [&Array; 4], scale: Option<&Array>) -> Result<Vec<Array>> {
        let dtype = arrays[0].dtype();
        if dtype == Dtype::Float32 && kernels::available() {
            let one;
            let scale = match scale {
                Some(scale) => scale,
                None => {
                    one = Array::scalar(1.0);
                    &one
                }
            };
            return Ok(kernels::adamw(arrays, scale, &self.array()?)?.to_vec());
        }
        // What is not known is part of a graph that is being compiled already.
        let lazy = [&self.step_size, &self.root, &self.kept].iter().any(|number| matches!(number, Scalar::Lazy(_)));
        let inputs = self.inputs(arrays, scale)?;
        if compiles() && !lazy { fused(&inputs) } else { composed(&inputs) }
    }

    /// What `composed` takes.
    pub fn inputs(&self, arrays: [&Array; 4], scale: Option<&Array>) -> Result<Vec<Array>> {
        let dtype = arrays[0].dtype();
        let scale = match scale {
            Some(scale) => scale.astype(dtype)?,
            None => Array::scalar_of(1.0, dtype)?,
        };
        let mut inputs: Vec<Array> = arrays.into_iter().cloned().chain([scale]).collect();
        for constant in self.list() {
            inputs.push(constant.array(dtype)?);
        }
        Ok(inputs)
    }

    /// As `update`, with the largest second moment last.
    fn amsgrad(&self, [weight, gradient, first, second, largest]: [&Array; 5]) -> Result<Vec<Array>> {
        let first = average(first, gradient, self.beta1)?;
        let second = average(second, &gradient.square()?, self.beta2)?;
        let largest = largest.maximum(&second)?;
        let update = first.times(&self.step_size)?.divide(&largest.sqrt()?.times(&self.root)?.plus(self.eps)?)?;
        Ok(vec![weight.times(&self.kept)?.subtract(&update)?, first, second, largest])
    }
}

/// Whether the update is a compiled function: where there is no kernel, and MLX can compile.
fn compiles() -> bool {
    static CAN_COMPILE: OnceLock<bool> = OnceLock::new();
    !kernels::available() && *CAN_COMPILE.get_or_init(compile_available)
}

/// `composed`, compiled.
fn fused(inputs: &[Array]) -> Result<Vec<Array>> {
    thread_local! {
        // Never freed: the thread that owns it ends with the process, when MLX may be gone.
        static UPDATE: OnceCell<ManuallyDrop<Compiled>> = const { OnceCell::new() };
    }
    UPDATE.with(|update| {
        if let Some(update) = update.get() {
            return update.call(inputs);
        }
        let new = ManuallyDrop::new(compiled(composed, true)?);
        update.get_or_init(|| new).call(inputs)
    })
}

/// Weight, first and second moment after a step, from: weight, gradient, moments, gradient scale, step size, 1 / sqrt of the
/// second bias correction, factor of the weight, beta1, 1 - beta1, beta2, 1 - beta2, epsilon.
pub(super) fn composed(inputs: &[Array]) -> Result<Vec<Array>> {
    let [weight, gradient, first, second, scale, step_size, root, kept, beta1, rest1, beta2, rest2, eps] = inputs else {
        return Err(Error::Internal(format!("the Adam update takes 13 arrays, not {}", inputs.len())));
    };
    let gradient = gradient.multiply(scale)?;
    let first = first.multiply(beta1)?.add(&gradient.multiply(rest1)?)?;
    let second = second.multiply(beta2)?.add(&gradient.square()?.multiply(rest2)?)?;
    let denominator = second.sqrt()?.multiply(root)?.add(eps)?;
    let weight = weight.multiply(kept)?.subtract(&first.multiply(step_size)?.divide(&denominator)?)?;
    Ok(vec![weight, first, second])
}
