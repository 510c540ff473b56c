//! Adafactor: second moments of a matrix from the means of its rows and columns (Shazeer and Stern, 2018, arXiv:1804.04235).

use serde::Deserialize;

use super::rule::{Constants, Options, average};
use super::{Rule, Scalar, Schedule, Slot, Step};
use crate::mlx::{Array, Error, Result};

/// MLX's options and defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Adafactor {
    /// Used, and needed, only without `relative_step`.
    pub learning_rate: Option<Schedule>,
    /// Added to the squared gradient; the least size of a weight that `scale_parameter` counts with.
    pub eps: [f64; 2],
    /// The root mean square of an update is at most this.
    pub clip_threshold: f64,
    /// The second moment's coefficient at step t is `1 - t^decay_rate`.
    pub decay_rate: f64,
    /// The first moment's coefficient; none is kept without it.
    #[serde(rename = "beta1")]
    pub beta_1: Option<f64>,
    pub weight_decay: f64,
    /// Multiplies the learning rate by the root mean square of the weight.
    pub scale_parameter: bool,
    /// A learning rate of `1 / √t`, at most 0.01.
    pub relative_step: bool,
    /// With `relative_step`: at most 1e-6 times the step instead of 0.01.
    pub warmup_init: bool,
}

impl Default for Adafactor {
    fn default() -> Self {
        Adafactor {
            learning_rate: None,
            eps: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta_1: None,
            weight_decay: 0.0,
            scale_parameter: true,
            relative_step: true,
            warmup_init: false,
        }
    }
}

impl Rule for Adafactor {
    fn name(&self) -> &'static str {
        "Adafactor"
    }

    fn learning_rate(&self) -> Option<&Schedule> {
        if self.relative_step { None } else { self.learning_rate.as_ref() }
    }

    fn check(&self) -> Result<()> {
        let options = Options(self);
        if !self.relative_step && self.learning_rate.is_none() {
            return Err(Error::Argument("Adafactor: without relativeStep learningRate is needed".into()));
        }
        options.at_least_zero("eps[0]", self.eps[0])?;
        options.at_least_zero("eps[1]", self.eps[1])?;
        options.above_zero("clipThreshold", self.clip_threshold)?;
        if !(self.decay_rate.is_finite() && self.decay_rate <= 0.0) {
            let rate = self.decay_rate;
            return Err(Error::Argument(format!("Adafactor: decayRate is {rate}; it must be a finite number of at most 0")));
        }
        if let Some(beta) = self.beta_1 {
            options.beta("beta1", beta)?;
        }
        options.at_least_zero("weightDecay", self.weight_decay)
    }

    fn slots(&self, shape: &[i32]) -> Vec<Slot> {
        let mut slots = match shape {
            [rows @ .., _, last] => {
                let (row, column) = (&shape[..shape.len() - 1], [rows, &[*last]].concat());
                vec![("exp_avg_sq_row", row.to_vec()), ("exp_avg_sq_col", column)]
            }
            _ => vec![("exp_avg_sq", shape.to_vec())],
        };
        if self.beta_1.is_some() {
            slots.push(("exp_avg", shape.to_vec()));
        }
        slots
    }

    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>> {
        let time = &step.number;
        let rate = match (self.relative_step, self.warmup_init) {
            (true, warmup) => {
                let highest = if warmup { 1e-6 * time } else { Scalar::Known(1e-2) };
                highest.min(1.0 / time.sqrt()) * step.rate_scale
            }
            (false, _) => step.rate.clone(),
        };
        let rate = if self.scale_parameter {
            root_mean_square(weight)?.maximum(&Array::scalar_of(self.eps[1], weight.dtype())?)?.times(rate)?
        } else {
            rate.array(weight.dtype())?
        };
        let beta = &(1.0 - time.powf(self.decay_rate));
        let square = gradient.square()?.plus(self.eps[0])?;
        let (mut moments, factor) = if weight.ndim() >= 2 {
            let rows = average(&state[0], &square.mean(&[-1], false)?, beta)?;
            let columns = average(&state[1], &square.mean(&[-2], false)?, beta)?;
            let row = rows.divide(&rows.mean(&[-1], true)?)?.rsqrt()?.expand_dims(&[-1])?;
            let factor = row.multiply(&columns.rsqrt()?.expand_dims(&[-2])?)?;
            (vec![rows, columns], factor)
        } else {
            let squares = average(&state[0], &square, beta)?;
            let factor = squares.rsqrt()?;
            (vec![squares], factor)
        };
        let mut update = factor.multiply(gradient)?;
        let excess = root_mean_square(&update)?.times(self.clip_threshold.recip())?;
        update = update.divide(&excess.maximum(&Array::scalar_of(1.0, weight.dtype())?)?)?.multiply(&rate)?;
        if let (Some(beta), Some(mean)) = (self.beta_1, state.get(moments.len())) {
            update = average(mean, &update, beta)?;
            moments.push(update.clone());
        }
        let decay = step.decay(self.weight_decay);
        let kept = if decay == 0.0 { weight.clone() } else { weight.subtract(&weight.multiply(&rate.times(decay)?)?)? };
        moments.insert(0, kept.subtract(&update)?);
        Ok(moments)
    }
}

fn root_mean_square(array: &Array) -> Result<Array> {
    array.square()?.mean_all()?.sqrt()
}
