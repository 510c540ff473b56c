//! Optimizers of MLX and torch, learning-rate schedules of MLX and transformers, gradient clipping.
//!
//! An [`Optimizer`] applies a [`Rule`] (SGD, AdamW, Muon ...) to named parameters. A rule is a struct of options; adding one is a
//! file with its options and arithmetic, and a line in [`rule_from_json`]. A [`Plan`] is the optimizer without arrays: its step is a
//! function of the state, with step and learning rate as numbers or, inside a compiled function, as arrays ([`Scalar`]).

mod adadelta;
mod adafactor;
mod adagrad;
mod adam;
mod adamax;
mod adamw;
mod clip;
mod group;
mod lion;
mod muon;
mod optimizer;
mod plan;
mod rmsprop;
mod rule;
mod scalar;
mod schedule;
mod sgd;

pub use adadelta::AdaDelta;
pub use adafactor::Adafactor;
pub use adagrad::Adagrad;
pub use adam::Adam;
pub use adamax::Adamax;
pub use adamw::{AdamW, AdamWOptions};
pub use clip::{clip_by_global_norm, clip_by_value, clip_coefficient, global_norm};
pub use group::{DecayedParameters, Group, decays};
pub use lion::Lion;
pub use muon::Muon;
pub use optimizer::{Optimizer, state_fits};
pub use plan::{Member, Parameter, Plan, gradient_fits};
pub use rmsprop::RmsProp;
pub use rule::{Rule, Slot, Step, rule_from_json};
pub use scalar::Scalar;
pub use schedule::{MlxSchedule, Schedule, ScheduleOptions, ScheduleType, StageShape};
pub use sgd::Sgd;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod lazy_tests;
#[cfg(test)]
mod schedule_tests;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;
