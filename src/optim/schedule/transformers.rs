//! The schedules of transformers: names of `lr_scheduler_type`, its keyword arguments in camelCase.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::{Scalar, at_least_zero};
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
    /// `num_cycles` times from the highest rate down to 0 along half a cosine.
    CosineWithRestarts,
    /// Down to `lr_end` along the `power` of a straight line.
    Polynomial,
    /// The same rate always, without warmup.
    Constant,
    ConstantWithWarmup,
    /// One over the root of the steps in units of `timescale`.
    InverseSqrt,
    /// As cosine, but down to `min_lr`.
    CosineWithMinLr,
    /// The same a step ahead, with a warmup that starts at `warmup_lr_rate`.
    CosineWarmupWithMinLr,
    /// The highest rate for `num_stable_steps`, then `num_decay_steps` down to `min_lr_ratio`.
    WarmupStableDecay,
}

/// The curve of the first and last stage of `warmup_stable_decay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StageShape {
    #[serde(rename = "linear")]
    Linear,
    #[serde(rename = "cosine")]
    Cosine,
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// A schedule by name. Options that are absent have transformers' defaults; one of another schedule is refused.
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
    /// Waves of the cosine; 0.5, the default, is one descent. With restarts the number of descents, 1 by default.
    pub num_cycles: Option<f64>,
    /// The lowest rate, absolute.
    pub min_lr: Option<f64>,
    /// The same as a share of the highest.
    pub min_lr_rate: Option<f64>,
    /// The rate at the first step of `cosine_warmup_with_min_lr`, as a share of the highest.
    pub warmup_lr_rate: Option<f64>,
    /// The last rate of `polynomial`, absolute; 1e-7 by default.
    pub lr_end: Option<f64>,
    /// Of `polynomial`; 1 by default.
    pub power: Option<f64>,
    /// Of `inverse_sqrt`; by default the warmup, or 10000 without one.
    pub timescale: Option<u64>,
    /// Of `warmup_stable_decay`; by default what warmup and decay leave of `max_steps`.
    pub num_stable_steps: Option<u64>,
    /// Of `warmup_stable_decay`, which needs it.
    pub num_decay_steps: Option<u64>,
    /// Of `warmup_stable_decay`; linear by default.
    pub warmup_type: Option<StageShape>,
    /// Of `warmup_stable_decay`; cosine by default.
    pub decay_type: Option<StageShape>,
    /// The rate before and after `warmup_stable_decay`, as a share of the highest; 0 by default.
    pub min_lr_ratio: Option<f64>,
}

impl Default for ScheduleOptions {
    fn default() -> Self {
        ScheduleOptions {
            lr_scheduler_type: ScheduleType::Linear,
            learning_rate: 1e-6,
            warmup_steps: 0,
            max_steps: 0,
            num_cycles: None,
            min_lr: None,
            min_lr_rate: None,
            warmup_lr_rate: None,
            lr_end: None,
            power: None,
            timescale: None,
            num_stable_steps: None,
            num_decay_steps: None,
            warmup_type: None,
            decay_type: None,
            min_lr_ratio: None,
        }
    }
}

/// Options that hold together, with the curve they describe.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Checked {
    rate: f64,
    warmup: u64,
    steps: u64,
    curve: Curve,
}

#[derive(Clone, Debug, PartialEq)]
enum Curve {
    Constant,
    ConstantWithWarmup,
    Linear,
    Cosine { cycles: f64, floor: f64 },
    CosineWarmup { cycles: f64, floor: f64, start: Option<f64> },
    Restarts { cycles: f64 },
    Polynomial { end: f64, power: f64 },
    InverseSqrt { timescale: u64 },
    Stages { stable: u64, decay: u64, rise: StageShape, fall: StageShape, floor: f64, cycles: f64 },
}

impl Checked {
    pub fn new(options: ScheduleOptions) -> Result<Self> {
        use ScheduleType::*;
        options.refuse_foreign()?;
        let ScheduleOptions { learning_rate: rate, warmup_steps: warmup, max_steps: steps, .. } = options;
        at_least_zero("learningRate", rate)?;
        let cycles = options.num_cycles.unwrap_or(if options.lr_scheduler_type == CosineWithRestarts { 1.0 } else { 0.5 });
        above_zero("numCycles", cycles)?;
        let curve = match options.lr_scheduler_type {
            Constant => Curve::Constant,
            ConstantWithWarmup => Curve::ConstantWithWarmup,
            Linear => Curve::Linear,
            Cosine => Curve::Cosine { cycles, floor: 0.0 },
            CosineWithMinLr => Curve::Cosine { cycles, floor: options.floor()? },
            CosineWarmupWithMinLr => {
                options.warmup_lr_rate.map_or(Ok(()), |start| share("warmupLrRate", start))?;
                Curve::CosineWarmup { cycles, floor: options.floor()?, start: options.warmup_lr_rate }
            }
            CosineWithRestarts => Curve::Restarts { cycles },
            Polynomial => {
                let (end, power) = (options.lr_end.unwrap_or(1e-7), options.power.unwrap_or(1.0));
                at_least_zero("lrEnd", end)?;
                above_zero("power", power)?;
                if end >= rate {
                    return Err(Error::Argument(format!("lrEnd is {end}; it must lie below the learningRate of {rate}")));
                }
                Curve::Polynomial { end: end / rate, power }
            }
            InverseSqrt => match options.timescale.unwrap_or(if warmup == 0 { 10_000 } else { warmup }) {
                0 => return Err(Error::Argument("timescale is 0; it must be at least 1".into())),
                timescale => Curve::InverseSqrt { timescale },
            },
            WarmupStableDecay => options.stages(cycles)?,
        };
        Ok(Checked { rate, warmup, steps, curve })
    }

    pub fn at(&self, step: &Scalar) -> Scalar {
        self.rate * self.factor(step)
    }

    fn factor(&self, now: &Scalar) -> Scalar {
        let (warmup, steps) = (self.warmup as f64, self.steps as f64);
        let rising = || match &self.curve {
            Curve::Constant => Scalar::Known(1.0),
            Curve::CosineWarmup { start: None, .. } => (now + 1.0) / warmup,
            Curve::CosineWarmup { start: Some(start), .. } => *start + (1.0 - start) * now / (warmup - 1.0).max(1.0),
            Curve::Stages { rise, floor, .. } => above(*floor, rise.risen(&(now / warmup))),
            _ => now / warmup,
        };
        let length = (steps - warmup).max(1.0);
        let past = now - warmup;
        now.below(warmup, rising, || {
            let progress = &past / length;
            match &self.curve {
                Curve::Constant | Curve::ConstantWithWarmup => Scalar::Known(1.0),
                Curve::Linear => ((steps - now) / length).max(0.0),
                Curve::Cosine { cycles, floor } => above(*floor, wave(*cycles, &progress)),
                Curve::CosineWarmup { cycles, floor, .. } => above(*floor, wave(*cycles, &(progress + 1.0 / length))),
                Curve::Restarts { cycles } => {
                    let restarted = || wave(0.5, &restart(*cycles, &past, length));
                    progress.below(1.0, restarted, || Scalar::Known(0.0))
                }
                Curve::Polynomial { end, power } => above(*end, (1.0 - progress).max(0.0).powf(*power)),
                Curve::InverseSqrt { timescale } => {
                    let timescale = *timescale as f64;
                    (timescale / (past + timescale)).sqrt()
                }
                Curve::Stages { stable, decay, fall, floor, cycles, .. } => {
                    let (stable, decay) = (*stable as f64, *decay as f64);
                    let falling = &past - stable;
                    let last = || {
                        let fallen = || above(*floor, fall.fallen(&(&falling / decay), *cycles));
                        falling.below(decay, fallen, || Scalar::Known(*floor))
                    };
                    past.below(stable, || Scalar::Known(1.0), last)
                }
            }
        })
    }
}

/// How far the current of `cycles` descents in `length` steps is, in `[0, 1)`.
fn restart(cycles: f64, past: &Scalar, length: f64) -> Scalar {
    if let Scalar::Known(past) = past {
        return Scalar::Known((cycles * (past / length)).fract());
    }
    // Whole numbers stay exact in float32, where a rounded quotient could fall to the wrong side of a restart.
    let turned = cycles * past;
    let whole = (&turned / length).floor() * length;
    (turned - whole) / length
}

/// A factor from `[0, 1]` moved to `[floor, 1]`.
fn above(floor: f64, factor: Scalar) -> Scalar {
    (factor * (1.0 - floor) + floor).max(0.0)
}

/// From 1 along `cycles` waves of a cosine.
fn wave(cycles: f64, progress: &Scalar) -> Scalar {
    0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())
}

impl StageShape {
    fn risen(self, progress: &Scalar) -> Scalar {
        match self {
            StageShape::Linear => progress.clone(),
            StageShape::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
            StageShape::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
        }
    }

    fn fallen(self, progress: &Scalar, cycles: f64) -> Scalar {
        match self {
            StageShape::Linear => 1.0 - progress,
            StageShape::Cosine => wave(cycles, progress),
            StageShape::OneMinusSqrt => 1.0 - progress.sqrt(),
        }
    }
}

impl ScheduleOptions {
    /// An option that this schedule would ignore is a mistake.
    fn refuse_foreign(&self) -> Result<()> {
        use ScheduleType::*;
        let with_floor: &[ScheduleType] = &[CosineWithMinLr, CosineWarmupWithMinLr];
        let waves: &[ScheduleType] = &[Cosine, CosineWithRestarts, CosineWithMinLr, CosineWarmupWithMinLr, WarmupStableDecay];
        let stages: &[ScheduleType] = &[WarmupStableDecay];
        let owners = [
            ("numCycles", self.num_cycles.is_some(), waves),
            ("minLr", self.min_lr.is_some(), with_floor),
            ("minLrRate", self.min_lr_rate.is_some(), with_floor),
            ("warmupLrRate", self.warmup_lr_rate.is_some(), &[CosineWarmupWithMinLr]),
            ("lrEnd", self.lr_end.is_some(), &[Polynomial]),
            ("power", self.power.is_some(), &[Polynomial]),
            ("timescale", self.timescale.is_some(), &[InverseSqrt]),
            ("numStableSteps", self.num_stable_steps.is_some(), stages),
            ("numDecaySteps", self.num_decay_steps.is_some(), stages),
            ("warmupType", self.warmup_type.is_some(), stages),
            ("decayType", self.decay_type.is_some(), stages),
            ("minLrRatio", self.min_lr_ratio.is_some(), stages),
        ];
        match owners.iter().find(|(_, given, types)| *given && !types.contains(&self.lr_scheduler_type)) {
            Some((name, _, types)) => {
                let names: Vec<String> = types.iter().map(|kind| format!("'{}'", kind.name())).collect();
                let own = self.lr_scheduler_type.name();
                Err(Error::Argument(format!("{name} belongs to lrSchedulerType {}, not to '{own}'", names.join(", "))))
            }
            None => Ok(()),
        }
    }

    /// The lowest rate as a share of the highest.
    fn floor(&self) -> Result<f64> {
        let name = self.lr_scheduler_type.name();
        let floor = match (self.min_lr, self.min_lr_rate) {
            (Some(low), None) => low / self.learning_rate,
            (None, Some(share)) => share,
            _ => return Err(Error::Argument(format!("{name} needs either minLr or minLrRate"))),
        };
        share("the lowest learning rate as a share of the highest", floor)?;
        Ok(floor)
    }

    fn stages(&self, cycles: f64) -> Result<Curve> {
        let Some(decay) = self.num_decay_steps else {
            return Err(Error::Argument("warmup_stable_decay needs numDecaySteps".into()));
        };
        let rest = self.max_steps.checked_sub(self.warmup_steps).and_then(|rest| rest.checked_sub(decay));
        let Some(stable) = self.num_stable_steps.or(rest) else {
            return Err(Error::Argument(format!(
                "warmupSteps of {} and numDecaySteps of {decay} do not fit into maxSteps of {}",
                self.warmup_steps, self.max_steps
            )));
        };
        let floor = self.min_lr_ratio.unwrap_or(0.0);
        share("minLrRatio", floor)?;
        let (rise, fall) = (self.warmup_type.unwrap_or(StageShape::Linear), self.decay_type.unwrap_or(StageShape::Cosine));
        Ok(Curve::Stages { stable, decay, rise, fall, floor, cycles })
    }
}

impl ScheduleType {
    fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(String::from)).unwrap_or_default()
    }
}

fn share(name: &str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::Argument(format!("{name} is {value}; it must lie between 0 and 1")))
}

fn above_zero(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Error::Argument(format!("{name} is {value}; it must be a finite number above 0")))
}
