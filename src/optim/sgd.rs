//! Stochastic gradient descent.

use serde::Deserialize;

use super::rule::{Constants, Options, named, with_l2};
use super::{Rule, Scalar, Schedule, Slot, Step};
use crate::mlx::{Array, Error, Result};

/// `v = momentum * v + (1 - dampening) * g`, `w = w - rate * v`, with MLX's defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Sgd {
    pub learning_rate: Option<Schedule>,
    pub momentum: f64,
    /// An L2 penalty: added to the gradient as `weight_decay * w`.
    pub weight_decay: f64,
    pub dampening: f64,
    /// Looks one step ahead: the update is `g + momentum * v`. Needs momentum and no dampening.
    pub nesterov: bool,
    /// Whether the first gradient is dampened like the later ones (MLX) or starts the momentum whole (torch).
    pub dampen_first: bool,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd { learning_rate: None, momentum: 0.0, weight_decay: 0.0, dampening: 0.0, nesterov: false, dampen_first: true }
    }
}

impl Rule for Sgd {
    named!("SGD");

    fn check(&self) -> Result<()> {
        let options = Options(self);
        options.has_learning_rate()?;
        options.at_least_zero("momentum", self.momentum)?;
        options.at_least_zero("weightDecay", self.weight_decay)?;
        options.share("dampening", self.dampening)?;
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::Argument("SGD: nesterov needs a momentum above 0 and a dampening of 0".into()));
        }
        Ok(())
    }

    fn slots(&self, shape: &[i32]) -> Vec<Slot> {
        if self.momentum > 0.0 { vec![("v", shape.to_vec())] } else { Vec::new() }
    }

    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>> {
        let gradient = with_l2(gradient, weight, step.decay(self.weight_decay))?;
        let [momentum] = state else {
            return Ok(vec![weight.subtract(&gradient.times(&step.rate)?)?]);
        };
        let dampened = Scalar::Known(1.0 - self.dampening);
        let share = if self.dampen_first { dampened } else { step.number.below(1.5, || Scalar::Known(1.0), || dampened) };
        let new = if share.is_known(1.0) { gradient.clone() } else { gradient.times(share)? };
        let momentum = momentum.times(self.momentum)?.add(&new)?;
        let update = if self.nesterov { gradient.add(&momentum.times(self.momentum)?)? } else { momentum.clone() };
        Ok(vec![weight.subtract(&update.times(&step.rate)?)?, momentum])
    }
}
