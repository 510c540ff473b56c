//! Adaptive control of the entropy bonus (Skywork-OR1): the weight rises while entropy is low and falls while it is high.

use serde::{Deserialize, Serialize};

use super::LossOptions;

/// State of the entropy bonus between optimizer steps. With a fixed weight it only holds that weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntropyController {
    coef: f64,
    last_entropy: Option<f64>,
    /// Sum of entropies and number of tokens in the present accumulation window.
    window: Option<(f64, f64)>,
}

impl EntropyController {
    /// Starts from `entropy_coef` and `last_entropy` of the options.
    pub fn new(options: &LossOptions) -> Self {
        EntropyController { coef: options.entropy_coef, last_entropy: options.last_entropy, window: None }
    }

    /// Writes the present weight and the last entropy into the options of the next loss.
    pub fn apply_to(&self, options: &mut LossOptions) {
        options.entropy_coef = self.coef;
        options.last_entropy = self.last_entropy;
    }

    /// Adds a training micro-batch: `LossOutput::entropy_stats`, evaluated.
    pub fn record(&mut self, entropy_sum: f64, tokens: f64) {
        let (sum, count) = self.window.unwrap_or_default();
        self.window = Some((sum + entropy_sum, count + tokens));
    }

    /// Ends an optimizer step and returns the weight for the next one (TRL's metric `entropy_coef`).
    pub fn end_step(&mut self, options: &LossOptions) -> f64 {
        if let Some((sum, tokens)) = self.window.take().filter(|_| options.use_adaptive_entropy) {
            let entropy = sum / tokens.max(1.0);
            self.coef = if entropy <= options.entropy_target {
                (self.coef + options.entropy_coef_delta).min(options.entropy_coef_max)
            } else {
                (self.coef - options.entropy_coef_delta).max(options.entropy_coef_min)
            };
            self.last_entropy = Some(entropy);
        }
        self.coef
    }

    pub fn coef(&self) -> f64 {
        self.coef
    }

    /// Mean entropy over the tokens of the last optimizer step, in nats.
    pub fn last_entropy(&self) -> Option<f64> {
        self.last_entropy
    }

    /// Sum of entropies and number of tokens recorded since the last step.
    pub fn window(&self) -> Option<(f64, f64)> {
        self.window
    }
}
