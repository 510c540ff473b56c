//! Groups of parameters: who shares a rule, a learning rate and weight decay.

use serde::Deserialize;
use serde_json::Value;

use super::{Rule, Scalar, Schedule, rule_from_json};
use crate::mlx::{Error, Result};
use crate::options::from_json;

/// Whether a parameter is a matrix rather than a bias or the weight of a norm.
pub fn decays(name: &str, ndim: usize) -> bool {
    ndim >= 2 && !name.ends_with("bias") && !name.contains("norm")
}

/// The parameters of a group that weight decay applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayedParameters {
    /// As MLX and torch do.
    #[default]
    All,
    /// Neither biases nor the weights of norms, as transformers' trainers do: see [`decays`].
    Matrices,
}

/// The parameters that share a rule and a learning rate.
#[derive(Debug)]
pub struct Group {
    pub rule: Box<dyn Rule>,
    /// The rule's at first; None where the rule has its own.
    pub learning_rate: Option<Schedule>,
    /// Multiplies the learning rate, whoever sets it.
    pub learning_rate_scale: f64,
    pub decayed: DecayedParameters,
}

/// A group in JSON.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct GroupOptions {
    /// The rule's name, `AdamW`.
    optimizer: String,
    /// The rule's options.
    options: Value,
    learning_rate_scale: f64,
    decayed_parameters: DecayedParameters,
}

impl Default for GroupOptions {
    fn default() -> Self {
        GroupOptions {
            optimizer: String::new(),
            options: Value::Object(Default::default()),
            learning_rate_scale: 1.0,
            decayed_parameters: DecayedParameters::All,
        }
    }
}

impl Group {
    /// All parameters decay, at the rule's own learning rate.
    pub fn new(rule: Box<dyn Rule>) -> Result<Self> {
        rule.check()?;
        let learning_rate = rule.learning_rate().cloned();
        Ok(Group { rule, learning_rate, learning_rate_scale: 1.0, decayed: DecayedParameters::All })
    }

    /// From `{ optimizer, options?, learningRateScale?, decayedParameters?: 'all' | 'matrices' }`.
    pub fn from_json(value: Value) -> Result<Self> {
        let GroupOptions { optimizer, options, learning_rate_scale, decayed_parameters } = from_json(value, "optimizer group")?;
        if !(learning_rate_scale.is_finite() && learning_rate_scale >= 0.0) {
            return Err(Error::Argument(format!(
                "learningRateScale is {learning_rate_scale}; it must be a finite number of at least 0"
            )));
        }
        let group = Group::new(rule_from_json(&optimizer, options)?)?;
        Ok(Group { learning_rate_scale, decayed: decayed_parameters, ..group })
    }

    /// From one group or an array of groups in JSON.
    pub fn list_from_json(value: Value) -> Result<Vec<Self>> {
        let groups = match value {
            Value::Array(groups) => groups,
            group => vec![group],
        };
        groups.into_iter().map(Group::from_json).collect()
    }

    /// The learning rate of the step after `taken` ones, without the group's factor; 0 where the rule makes its own.
    pub fn rate(&self, taken: &Scalar) -> Result<Scalar> {
        let Some(schedule) = &self.learning_rate else { return Ok(Scalar::Known(0.0)) };
        match (schedule.at(taken), taken) {
            (Scalar::Known(rate), Scalar::Known(step)) if !rate.is_finite() => {
                Err(Error::Argument(format!("the learning rate of step {step} is {rate}")))
            }
            (rate, _) => Ok(rate),
        }
    }
}
