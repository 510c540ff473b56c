//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

use serde::Deserialize;

use super::rule::{Options, named};
use super::{Adam, DecayedParameters, Group, Optimizer, Rule, Schedule, Slot, Step};
use crate::mlx::{Array, Error, Result};

/// Adam whose weight shrinks by `rate * weight_decay` of itself each step, with MLX's defaults: no bias correction, which torch
/// always has. `amsgrad` is torch's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AdamW {
    pub learning_rate: Option<Schedule>,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    /// Divides the moments by `1 - beta^t`, as torch always does.
    pub bias_correction: bool,
    /// Divides by the largest second moment so far.
    pub amsgrad: bool,
}

impl Default for AdamW {
    fn default() -> Self {
        let Adam { learning_rate, betas, eps, bias_correction, amsgrad, .. } = Adam::default();
        AdamW { learning_rate, betas, eps, weight_decay: 0.01, bias_correction, amsgrad }
    }
}

impl AdamW {
    /// The same without any decay.
    fn adam(&self) -> Adam {
        let AdamW { betas, eps, bias_correction, amsgrad, .. } = *self;
        Adam { learning_rate: None, betas, eps, bias_correction, weight_decay: 0.0, amsgrad }
    }
}

impl Rule for AdamW {
    named!("AdamW");

    fn check(&self) -> Result<()> {
        let options = Options(self);
        self.adam().check_options(&options)?;
        options.at_least_zero("weightDecay", self.weight_decay)
    }

    fn slots(&self, shape: &[i32]) -> Vec<Slot> {
        self.adam().slots(shape)
    }

    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>> {
        self.adam().update_decayed(weight, gradient, state, step, step.decay(self.weight_decay))
    }

    fn takes_scale(&self) -> bool {
        true
    }

    fn needs_owner(&self) -> bool {
        self.adam().needs_owner()
    }
}

/// The trainers' AdamW in transformers' words: torch's semantics and defaults, but a weight decay of 0.
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

    /// With float32 state and weights behind half-precision ones, and no decay of norms and biases.
    pub fn optimizer(&self) -> Result<Optimizer> {
        self.validate()?;
        let AdamWOptions { lr, beta1, beta2, eps, weight_decay } = *self;
        let rule = AdamW {
            learning_rate: Some(Schedule::constant(lr)?),
            betas: [beta1, beta2],
            eps,
            weight_decay,
            bias_correction: true,
            amsgrad: false,
        };
        let group = Group { decayed: DecayedParameters::Matrices, ..Group::new(Box::new(rule))? };
        Ok(Optimizer::with_groups(vec![group])?.with_master_weights())
    }
}
