//! Adagrad: gradients over the root of the sum of their squares (Duchi, Hazan and Singer, 2011).

use serde::Deserialize;

use super::rule::{Constants, Options, named};
use super::{Rule, Schedule, Slot, Step};
use crate::mlx::{Array, Result};

/// `v = v + g²`, `w = w - rate * g / (√v + eps)`, with MLX's defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Adagrad {
    pub learning_rate: Option<Schedule>,
    pub eps: f64,
}

impl Default for Adagrad {
    fn default() -> Self {
        Adagrad { learning_rate: None, eps: 1e-8 }
    }
}

impl Rule for Adagrad {
    named!("Adagrad");

    fn check(&self) -> Result<()> {
        Options(self).has_learning_rate()?;
        Options(self).above_zero("eps", self.eps)
    }

    fn slots(&self, shape: &[i32]) -> Vec<Slot> {
        vec![("v", shape.to_vec())]
    }

    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>> {
        let squares = state[0].add(&gradient.square()?)?;
        let update = gradient.times(&step.rate)?.divide(&squares.sqrt()?.plus(self.eps)?)?;
        Ok(vec![weight.subtract(&update)?, squares])
    }
}
