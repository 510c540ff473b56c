//! The AdamW optimizer, learning-rate schedules and gradient clipping, with torch's and transformers' numbers.

mod adamw;
mod clip;
mod schedule;

pub use adamw::{AdamW, AdamWOptions, decays};
pub use clip::{clip_by_global_norm, clip_by_value, clip_coefficient, global_norm};
pub use schedule::{Schedule, ScheduleOptions, ScheduleType};

#[cfg(test)]
mod tests;
