//! Learning rates as pure functions of the optimizer step, counted from 0.

mod mlx;
mod transformers;

use serde::Deserialize;
use serde_json::Value;

use super::Scalar;
use crate::mlx::{Error, Result};
use crate::options::from_json;

pub use mlx::MlxSchedule;
pub use transformers::{ScheduleOptions, ScheduleType, StageShape};

/// A checked schedule.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub struct Schedule(Kind);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Constant(f64),
    Mlx(MlxSchedule),
    Transformers(transformers::Checked),
}

impl Schedule {
    /// The same rate always.
    pub fn constant(rate: f64) -> Result<Self> {
        at_least_zero("learningRate", rate)?;
        Ok(Schedule(Kind::Constant(rate)))
    }

    /// One of transformers' schedules.
    pub fn new(options: ScheduleOptions) -> Result<Self> {
        Ok(Schedule(Kind::Transformers(transformers::Checked::new(options)?)))
    }

    /// One of MLX's schedules.
    pub fn mlx(schedule: MlxSchedule) -> Result<Self> {
        schedule.check()?;
        Ok(Schedule(Kind::Mlx(schedule)))
    }

    /// From a number; an object in camelCase with `type`, one of MLX's schedules; or one with `lrSchedulerType`, one of
    /// transformers'.
    pub fn from_json(value: Value) -> Result<Self> {
        match &value {
            Value::Number(rate) => Self::constant(rate.as_f64().unwrap_or(f64::NAN)),
            Value::Object(fields) if fields.contains_key("type") => Self::mlx(from_json(value, "learning-rate schedule")?),
            Value::Object(_) => Self::new(from_json(value, "learning-rate schedule")?),
            _ => Err(Error::Argument(format!("learningRate is {value}; it must be a number or a schedule"))),
        }
    }

    /// The learning rate of optimizer step `step`, counted from 0.
    pub fn lr(&self, step: u64) -> f64 {
        match self.at(&Scalar::Known(step as f64)) {
            Scalar::Known(rate) => rate,
            Scalar::Lazy(_) => f64::NAN,
        }
    }

    /// As `lr`, of a step that may be part of a graph.
    pub fn at(&self, step: &Scalar) -> Scalar {
        match &self.0 {
            Kind::Constant(rate) => Scalar::Known(*rate),
            Kind::Mlx(schedule) => schedule.at(step),
            Kind::Transformers(schedule) => schedule.at(step),
        }
    }
}

impl TryFrom<Value> for Schedule {
    type Error = Error;

    fn try_from(value: Value) -> Result<Self> {
        Self::from_json(value)
    }
}

fn at_least_zero(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::Argument(format!("{name} is {value}; it must be a finite number of at least 0")))
}
