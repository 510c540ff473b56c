//! The schedules of `mlx.optimizers`.

use std::f64::consts::PI;

use serde::Deserialize;

use super::{Scalar, Schedule, at_least_zero};
use crate::mlx::{Error, Result};

/// In JSON an object whose `type` is the name of MLX's function, with its arguments.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum MlxSchedule {
    /// `init * decay_rate^step`
    ExponentialDecay { init: f64, decay_rate: f64 },
    /// `init * decay_rate^⌊step / step_size⌋`
    StepDecay { init: f64, decay_rate: f64, step_size: u64 },
    /// Half a cosine from `init` to `end` in `decay_steps` steps, then `end`.
    CosineDecay {
        init: f64,
        decay_steps: u64,
        #[serde(default)]
        end: f64,
    },
    /// A straight line from `init` to `end` in `steps` steps, then `end`.
    LinearSchedule { init: f64, end: f64, steps: u64 },
    /// One schedule after the other; schedule i + 1 begins at boundary i and counts its steps from there.
    JoinSchedules { schedules: Vec<Schedule>, boundaries: Vec<u64> },
}

impl MlxSchedule {
    pub(super) fn check(&self) -> Result<()> {
        let rates = |pairs: &[(&str, f64)]| pairs.iter().try_for_each(|(name, value)| at_least_zero(name, *value));
        let steps = |name: &str, steps: u64| match steps {
            0 => Err(Error::Argument(format!("{name} is 0; it must be at least 1"))),
            _ => Ok(()),
        };
        match self {
            MlxSchedule::ExponentialDecay { init, decay_rate } => rates(&[("init", *init), ("decayRate", *decay_rate)]),
            MlxSchedule::StepDecay { init, decay_rate, step_size } => {
                rates(&[("init", *init), ("decayRate", *decay_rate)])?;
                steps("stepSize", *step_size)
            }
            MlxSchedule::CosineDecay { init, decay_steps, end } => {
                rates(&[("init", *init), ("end", *end)])?;
                steps("decaySteps", *decay_steps)
            }
            MlxSchedule::LinearSchedule { init, end, steps: count } => {
                rates(&[("init", *init), ("end", *end)])?;
                steps("steps", *count)
            }
            MlxSchedule::JoinSchedules { schedules, boundaries } => {
                if schedules.is_empty() || boundaries.len() + 1 != schedules.len() {
                    return Err(Error::Argument(format!(
                        "join_schedules has {} schedules and {} boundaries; it needs one boundary between any two schedules",
                        schedules.len(),
                        boundaries.len()
                    )));
                }
                match boundaries.windows(2).find(|pair| pair[0] >= pair[1]) {
                    Some(pair) => Err(Error::Argument(format!("boundaries must rise, but {} follows {}", pair[1], pair[0]))),
                    None => Ok(()),
                }
            }
        }
    }

    pub(super) fn at(&self, step: &Scalar) -> Scalar {
        match self {
            MlxSchedule::ExponentialDecay { init, decay_rate } => *init * step.exponent_of(*decay_rate),
            MlxSchedule::StepDecay { init, decay_rate, step_size } => {
                *init * (step / *step_size as f64).floor().exponent_of(*decay_rate)
            }
            MlxSchedule::CosineDecay { init, decay_steps, end } => {
                let steps = *decay_steps as f64;
                let progress = step.min(steps) / steps;
                *end + 0.5 * (1.0 + (PI * progress).cos()) * (init - end)
            }
            MlxSchedule::LinearSchedule { init, end, steps } => *init + step.min(*steps as f64) * ((end - init) / *steps as f64),
            MlxSchedule::JoinSchedules { schedules, boundaries } => {
                let later = boundaries.iter().zip(&schedules[1..]);
                later.fold(schedules[0].at(step), |rate, (&boundary, schedule)| {
                    let boundary = boundary as f64;
                    step.below(boundary, || rate, || schedule.at(&(step - boundary)))
                })
            }
        }
    }
}
