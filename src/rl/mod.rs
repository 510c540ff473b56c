//! Reinforcement learning with verifiable rewards: pure functions, with the names and the numbers of TRL's GRPO trainer.

pub mod advantages;
mod entropy;
pub mod logprobs;
mod loss;
mod masks;
mod metrics;
mod objective;
mod options;
mod packed;
pub mod ratios;
pub mod step;

pub use entropy::EntropyController;
pub use loss::{LossAndGrad, LossInputs, LossOutput, grpo_loss, grpo_loss_and_grad};
pub use masks::high_entropy_mask;
pub use options::{ImportanceSamplingLevel, LossOptions, LossType};

#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod speed_tests;
#[cfg(test)]
mod step_tests;
