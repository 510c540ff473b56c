//! Adamax: Adam with the largest gradient instead of the mean square (Kingma and Ba, 2015).

use serde::Deserialize;

use super::rule::{Constants, Options, average, named};
use super::{Rule, Schedule, Slot, Step};
use crate::mlx::{Array, Result};

/// `m = b1 * m + (1 - b1) * g`, `v = max(b2 * v, |g|)`, `w = w - rate * m / (v + eps)`: MLX's, without bias correction.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Adamax {
    pub learning_rate: Option<Schedule>,
    pub betas: [f64; 2],
    pub eps: f64,
}

impl Default for Adamax {
    fn default() -> Self {
        Adamax { learning_rate: None, betas: [0.9, 0.999], eps: 1e-8 }
    }
}

impl Rule for Adamax {
    named!("Adamax");

    fn check(&self) -> Result<()> {
        let options = Options(self);
        options.has_learning_rate()?;
        options.betas(self.betas)?;
        options.at_least_zero("eps", self.eps)
    }

    fn slots(&self, shape: &[i32]) -> Vec<Slot> {
        vec![("m", shape.to_vec()), ("v", shape.to_vec())]
    }

    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>> {
        let mean = average(&state[0], gradient, self.betas[0])?;
        let largest = state[1].times(self.betas[1])?.maximum(&gradient.abs()?)?;
        let update = mean.times(&step.rate)?.divide(&largest.plus(self.eps)?)?;
        Ok(vec![weight.subtract(&update)?, mean, largest])
    }
}
