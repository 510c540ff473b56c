//! What an optimizer does with one parameter, and what the rules share: checks of options and arithmetic with constants.

use std::fmt::Debug;

use serde_json::Value;

use super::{AdaDelta, Adafactor, Adagrad, Adam, AdamW, Adamax, Lion, Muon, RmsProp, Scalar, Schedule, Sgd};
use crate::mlx::{Array, Error, Result};
use crate::options::{from_json, nearest};

/// One array of a parameter's state: its name in a saved state, and its shape.
pub type Slot = (&'static str, Vec<i32>);

/// The step that a parameter takes.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// Counted from 1.
    pub number: Scalar,
    /// The learning rate, with the group's factor.
    pub rate: Scalar,
    /// The group's factor alone, for a rule that makes its own learning rate.
    pub rate_scale: f64,
    /// Whether weight decay applies to this parameter.
    pub decays: bool,
    /// What the gradient is to be multiplied by, a float32 scalar; present only for a rule that `takes_scale`.
    pub scale: Option<&'a Array>,
}

impl Step<'_> {
    /// A rule's weight decay, or 0 where this parameter has none.
    pub(super) fn decay(&self, weight_decay: f64) -> f64 {
        if self.decays { weight_decay } else { 0.0 }
    }
}

/// The options of an optimizer, and its arithmetic.
pub trait Rule: Debug + Send + Sync {
    /// As MLX names it.
    fn name(&self) -> &'static str;

    /// None where the rule has a learning rate of its own.
    fn learning_rate(&self) -> Option<&Schedule>;

    /// Refuses options outside their range; the message names option and range.
    fn check(&self) -> Result<()>;

    /// The state of a parameter of this shape; it starts as zeros.
    fn slots(&self, shape: &[i32]) -> Vec<Slot>;

    /// The new weight, then the new state in the order of `slots`. All arrays have one dtype. Lazy.
    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>>;

    /// Whether `update` multiplies the gradient by `step.scale` itself, which may save a pass over it.
    fn takes_scale(&self) -> bool {
        false
    }

    /// Whether `update` calls a compiled function and so must run on the owner thread.
    fn needs_owner(&self) -> bool {
        false
    }
}

/// Name and learning rate of a rule that has an option for the latter.
macro_rules! named {
    ($name:literal) => {
        fn name(&self) -> &'static str {
            $name
        }

        fn learning_rate(&self) -> Option<&$crate::optim::Schedule> {
            self.learning_rate.as_ref()
        }
    };
}
pub(super) use named;

/// A rule by its MLX name (`AdamW`) from a JSON object of its options in camelCase.
pub fn rule_from_json(name: &str, options: Value) -> Result<Box<dyn Rule>> {
    macro_rules! rules {
        ($($name:literal $rule:ty),* $(,)?) => {
            match name {
                $($name => Box::new(from_json::<$rule>(options, name)?),)*
                _ => {
                    let known = [$($name),*];
                    let hint = nearest(name, &known).map_or(".".into(), |near| format!("; did you mean '{near}'?"));
                    return Err(Error::Argument(format!("unknown optimizer '{name}'{hint} Known: {}", known.join(", "))));
                }
            }
        };
    }
    let rule: Box<dyn Rule> = rules! {
        "SGD" Sgd, "Adam" Adam, "AdamW" AdamW, "Adamax" Adamax, "RMSprop" RmsProp, "Adagrad" Adagrad, "AdaDelta" AdaDelta,
        "Adafactor" Adafactor, "Lion" Lion, "Muon" Muon,
    };
    rule.check()?;
    Ok(rule)
}

/// The options of a rule under check.
pub(super) struct Options<'a>(pub &'a dyn Rule);

impl Options<'_> {
    fn refuse(&self, option: &str, value: f64, range: &str) -> Error {
        Error::Argument(format!("{}: {option} is {value}; it must be {range}", self.0.name()))
    }

    pub fn has_learning_rate(&self) -> Result<()> {
        match self.0.learning_rate() {
            Some(_) => Ok(()),
            None => Err(Error::Argument(format!("{}: learningRate is missing", self.0.name()))),
        }
    }

    pub fn at_least_zero(&self, option: &str, value: f64) -> Result<()> {
        let fits = value.is_finite() && value >= 0.0;
        if fits { Ok(()) } else { Err(self.refuse(option, value, "a finite number of at least 0")) }
    }

    pub fn above_zero(&self, option: &str, value: f64) -> Result<()> {
        let fits = value.is_finite() && value > 0.0;
        if fits { Ok(()) } else { Err(self.refuse(option, value, "a finite number above 0")) }
    }

    /// A share that may be 0 or 1.
    pub fn share(&self, option: &str, value: f64) -> Result<()> {
        if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(self.refuse(option, value, "between 0 and 1")) }
    }

    /// A coefficient of a running average.
    pub fn beta(&self, option: &str, value: f64) -> Result<()> {
        if (0.0..1.0).contains(&value) { Ok(()) } else { Err(self.refuse(option, value, "at least 0 and below 1")) }
    }

    pub fn betas(&self, betas: [f64; 2]) -> Result<()> {
        self.beta("betas[0]", betas[0])?;
        self.beta("betas[1]", betas[1])
    }
}

/// Arithmetic with a number in the array's own dtype, so that neither a half-precision array is promoted nor a float64 one rounded.
pub(super) trait Constants {
    fn times(&self, value: impl Into<Scalar>) -> Result<Array>;
    fn plus(&self, value: f64) -> Result<Array>;
}

impl Constants for Array {
    fn times(&self, value: impl Into<Scalar>) -> Result<Array> {
        self.multiply(&value.into().array(self.dtype())?)
    }

    fn plus(&self, value: f64) -> Result<Array> {
        self.add(&Array::scalar_of(value, self.dtype())?)
    }
}

/// The running average `beta * average + (1 - beta) * value`.
pub(super) fn average(average: &Array, value: &Array, beta: impl Into<Scalar>) -> Result<Array> {
    let beta = beta.into();
    average.times(&beta)?.add(&value.times(1.0 - beta)?)
}

/// The gradient of an L2 penalty on the weight added to the gradient.
pub(super) fn with_l2(gradient: &Array, weight: &Array, weight_decay: f64) -> Result<Array> {
    if weight_decay == 0.0 { Ok(gradient.clone()) } else { gradient.add(&weight.times(weight_decay)?) }
}
