//! Learning-rate schedules: pure functions of the step, as in transformers.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mlx::{Error, Result};

/// The curve of the learning rate after its warmup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleType {
    /// Down to 0 in a straight line.
    #[default]
    Linear,
    /// Down to 0 along half a cosine, or along `num_cycles` of them.
    Cosine,
    /// As cosine, but down to `min_lr`.
    CosineWithMinLr,
    /// The same rate always, without warmup.
    Constant,
    ConstantWithWarmup,
}

/// A schedule by name; the names are those of transformers' `lr_scheduler_type` and its keyword arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ScheduleOptions {
    pub lr_scheduler_type: ScheduleType,
    /// The highest rate.
    pub learning_rate: f64,
    /// Optimizer steps in which the rate rises from 0.
    pub warmup_steps: u64,
    /// Optimizer steps of the whole training.
    pub max_steps: u64,
    /// Waves of the cosine; 0.5 is one descent.
    pub num_cycles: f64,
    /// The lowest rate of `cosine_with_min_lr`, absolute.
    pub min_lr: Option<f64>,
    /// The same as a share of the highest.
    pub min_lr_rate: Option<f64>,
}

impl Default for ScheduleOptions {
    fn default() -> Self {
        ScheduleOptions {
            lr_scheduler_type: ScheduleType::Linear,
            learning_rate: 1e-6,
            warmup_steps: 0,
            max_steps: 0,
            num_cycles: 0.5,
            min_lr: None,
            min_lr_rate: None,
        }
    }
}

/// A checked schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    options: ScheduleOptions,
    /// The lowest factor of `cosine_with_min_lr`.
    floor: f64,
}

impl Schedule {
    pub fn new(options: ScheduleOptions) -> Result<Self> {
        let rate = options.learning_rate;
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(Error::Argument(format!("learningRate is {rate}; it must be a finite number of at least 0")));
        }
        if !options.num_cycles.is_finite() || options.num_cycles <= 0.0 {
            return Err(Error::Argument(format!("numCycles is {}; it must be above 0", options.num_cycles)));
        }
        let floor = match (options.lr_scheduler_type, options.min_lr, options.min_lr_rate) {
            (ScheduleType::CosineWithMinLr, Some(low), None) => low / rate,
            (ScheduleType::CosineWithMinLr, None, Some(share)) => share,
            (ScheduleType::CosineWithMinLr, ..) => {
                return Err(Error::Argument("cosine_with_min_lr needs either minLr or minLrRate".into()));
            }
            (_, None, None) => 0.0,
            _ => return Err(Error::Argument("minLr and minLrRate belong to lrSchedulerType 'cosine_with_min_lr'".into())),
        };
        if !(0.0..=1.0).contains(&floor) {
            return Err(Error::Argument(format!(
                "the lowest learning rate is {floor} of the highest; it must lie between 0 and 1"
            )));
        }
        Ok(Schedule { options, floor })
    }

    /// A schedule from a JSON object in camelCase.
    pub fn from_json(value: Value) -> Result<Self> {
        Self::new(crate::options::from_json(value, "learning-rate schedule")?)
    }

    /// The learning rate of optimizer step `step`, counted from 0.
    pub fn lr(&self, step: u64) -> f64 {
        self.options.learning_rate * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        let options = &self.options;
        if options.lr_scheduler_type == ScheduleType::Constant {
            return 1.0;
        }
        if step < options.warmup_steps {
            return step as f64 / options.warmup_steps as f64;
        }
        let length = options.max_steps.saturating_sub(options.warmup_steps).max(1) as f64;
        let progress = (step - options.warmup_steps) as f64 / length;
        let wave = || 0.5 * (1.0 + (PI * options.num_cycles * 2.0 * progress).cos());
        match options.lr_scheduler_type {
            ScheduleType::Linear => (1.0 - progress).max(0.0),
            ScheduleType::Cosine => wave().max(0.0),
            ScheduleType::CosineWithMinLr => (wave() * (1.0 - self.floor) + self.floor).max(0.0),
            ScheduleType::Constant | ScheduleType::ConstantWithWarmup => 1.0,
        }
    }
}
