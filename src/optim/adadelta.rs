//! AdaDelta: updates in the unit of the weight (Zeiler, 2012, arXiv:1212.5701).

use serde::Deserialize;

use super::rule::{Constants, Options, average, named};
use super::{Rule, Schedule, Slot, Step};
use crate::mlx::{Array, Result};

/// `v = rho * v + (1 - rho) * g²`, `d = √(u + eps) / √(v + eps) * g`, `u = rho * u + (1 - rho) * d²`, `w = w - rate * d`, with
/// MLX's defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AdaDelta {
    pub learning_rate: Option<Schedule>,
    pub rho: f64,
    pub eps: f64,
}

impl Default for AdaDelta {
    fn default() -> Self {
        AdaDelta { learning_rate: None, rho: 0.9, eps: 1e-6 }
    }
}

impl Rule for AdaDelta {
    named!("AdaDelta");

    fn check(&self) -> Result<()> {
        let options = Options(self);
        options.has_learning_rate()?;
        options.share("rho", self.rho)?;
        options.above_zero("eps", self.eps)
    }

    fn slots(&self, shape: &[i32]) -> Vec<Slot> {
        vec![("v", shape.to_vec()), ("u", shape.to_vec())]
    }

    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>> {
        let gradients = average(&state[0], &gradient.square()?, self.rho)?;
        let root = |squares: &Array| squares.plus(self.eps)?.sqrt();
        let update = root(&state[1])?.divide(&root(&gradients)?)?.multiply(gradient)?;
        let updates = average(&state[1], &update.square()?, self.rho)?;
        Ok(vec![weight.subtract(&update.times(&step.rate)?)?, gradients, updates])
    }
}
