//! Lion: steps of one size in the direction of a sign (Chen et al., 2023, arXiv:2302.06675).

use serde::Deserialize;

use super::rule::{Constants, Options, average, named};
use super::{Rule, Schedule, Slot, Step};
use crate::mlx::{Array, Result};

/// `c = b1 * m + (1 - b1) * g`, `m = b2 * m + (1 - b2) * g`, `w = w - rate * (sign(c) + decay * w)`, with MLX's defaults. Wants a
/// learning rate 3 to 10 times below AdamW's, and as much more decay.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Lion {
    pub learning_rate: Option<Schedule>,
    pub betas: [f64; 2],
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Lion { learning_rate: None, betas: [0.9, 0.99], weight_decay: 0.0 }
    }
}

impl Rule for Lion {
    named!("Lion");

    fn check(&self) -> Result<()> {
        let options = Options(self);
        options.has_learning_rate()?;
        options.betas(self.betas)?;
        options.at_least_zero("weightDecay", self.weight_decay)
    }

    fn slots(&self, shape: &[i32]) -> Vec<Slot> {
        vec![("m", shape.to_vec())]
    }

    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>> {
        let direction = average(&state[0], gradient, self.betas[0])?.sign()?;
        let mean = average(&state[0], gradient, self.betas[1])?;
        let decay = step.decay(self.weight_decay);
        let kept = if decay == 0.0 { weight.clone() } else { weight.times(1.0 - &step.rate * decay)? };
        Ok(vec![kept.subtract(&direction.times(&step.rate)?)?, mean])
    }
}
