//! RMSprop: gradients over the root of their mean square (Tieleman and Hinton, 2012).

use serde::Deserialize;

use super::rule::{Constants, Options, average, named, with_l2};
use super::{Rule, Schedule, Slot, Step};
use crate::mlx::{Array, Result};

/// `v = alpha * v + (1 - alpha) * g²`, `w = w - rate * g / (√v + eps)`. Defaults of MLX; momentum, centering and decay as in torch.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RmsProp {
    pub learning_rate: Option<Schedule>,
    pub alpha: f64,
    pub eps: f64,
    /// An L2 penalty: added to the gradient as `weight_decay * w`.
    pub weight_decay: f64,
    /// Of the update: `b = momentum * b + g / (√v + eps)`.
    pub momentum: f64,
    /// Divides by the root of the gradient's variance instead of its mean square.
    pub centered: bool,
}

impl Default for RmsProp {
    fn default() -> Self {
        RmsProp { learning_rate: None, alpha: 0.99, eps: 1e-8, weight_decay: 0.0, momentum: 0.0, centered: false }
    }
}

impl Rule for RmsProp {
    named!("RMSprop");

    fn check(&self) -> Result<()> {
        let options = Options(self);
        options.has_learning_rate()?;
        options.share("alpha", self.alpha)?;
        options.above_zero("eps", self.eps)?;
        options.at_least_zero("weightDecay", self.weight_decay)?;
        options.at_least_zero("momentum", self.momentum)
    }

    fn slots(&self, shape: &[i32]) -> Vec<Slot> {
        let names = [Some("v"), self.centered.then_some("mean"), (self.momentum > 0.0).then_some("momentum")];
        names.into_iter().flatten().map(|name| (name, shape.to_vec())).collect()
    }

    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>> {
        let gradient = with_l2(gradient, weight, step.decay(self.weight_decay))?;
        let square = average(&state[0], &gradient.square()?, self.alpha)?;
        let mut new = vec![square.clone()];
        let mut spread = square;
        if self.centered {
            let mean = average(&state[1], &gradient, self.alpha)?;
            // Rounding may take a variance of 0 below it.
            spread = spread.subtract(&mean.square()?)?.maximum_scalar(0.0)?;
            new.push(mean);
        }
        let mut update = gradient.divide(&spread.sqrt()?.plus(self.eps)?)?;
        if self.momentum > 0.0 {
            update = state[new.len()].times(self.momentum)?.add(&update)?;
            new.push(update.clone());
        }
        new.insert(0, weight.subtract(&update.times(&step.rate)?)?);
        Ok(new)
    }
}
