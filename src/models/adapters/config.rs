//! What an adapter is: which layers it is on, and how large it is there. Names are PEFT's and mlx-lm's.

use super::targets::{Targets, matches_pattern};
use crate::mlx::{Error, Result};

/// The largest rank that is taken for real.
pub(super) const MAX_RANK: i32 = 1 << 16;

#[derive(Clone, Debug)]
pub struct LoraConfig {
    pub rank: i32,
    pub alpha: f32,
    pub target_modules: Targets,
    /// Layers that the targets name but that get no adapter.
    pub exclude_modules: Targets,
    /// The blocks that get one, by number; all by default. Layers outside blocks get theirs by their whole name.
    pub layers_to_transform: Option<Vec<i32>>,
    /// The same as a count from the last block.
    pub num_layers: Option<i32>,
    /// Ranks of layers that differ, by a regular expression of their names' ends; the first that fits counts.
    pub rank_pattern: Vec<(String, i32)>,
    /// The same of alpha.
    pub alpha_pattern: Vec<(String, f32)>,
    /// The share of the factors' inputs that training drops.
    pub dropout: f32,
    /// Scales by `alpha / √rank` instead of `alpha / rank` (arXiv:2312.03732).
    pub use_rslora: bool,
    /// Learns the length of each output apart from its direction (arXiv:2402.09353).
    pub use_dora: bool,
    pub seed: u64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            rank: 8,
            alpha: 16.0,
            target_modules: Targets::Default,
            exclude_modules: Targets::Names(Vec::new()),
            layers_to_transform: None,
            num_layers: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            seed: 0,
        }
    }
}

impl LoraConfig {
    /// The rank of a layer, and what its factors' product is multiplied by. `name` is checked to fit its patterns by `check`.
    pub fn size(&self, name: &str) -> Result<(i32, f32)> {
        let rank = first(&self.rank_pattern, name)?.unwrap_or(self.rank);
        let alpha = first(&self.alpha_pattern, name)?.unwrap_or(self.alpha);
        Ok((rank, alpha / if self.use_rslora { (rank as f32).sqrt() } else { rank as f32 }))
    }

    pub(super) fn check(&self, blocks: i32) -> Result<()> {
        let refuse = |message: String| Err(Error::Argument(message));
        for rank in std::iter::once(self.rank).chain(self.rank_pattern.iter().map(|(_, rank)| *rank)) {
            if !(1..=MAX_RANK).contains(&rank) {
                return refuse(format!("LoRA rank must be from 1 to {MAX_RANK}, not {rank}"));
            }
        }
        for alpha in std::iter::once(self.alpha).chain(self.alpha_pattern.iter().map(|(_, alpha)| *alpha)) {
            if !alpha.is_finite() || alpha <= 0.0 {
                return refuse(format!("LoRA alpha must be a number above 0, not {alpha}"));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(format!("LoRA dropout must be 0 or more and below 1, not {}", self.dropout));
        }
        if matches!(&self.target_modules, Targets::Names(names) if names.is_empty()) {
            return refuse("LoRA target_modules is empty; name layers such as q_proj, v_proj, or give 'all-linear'".into());
        }
        if let Some(layers) = &self.layers_to_transform {
            if self.num_layers.is_some() {
                return refuse("layersToTransform and numLayers both choose blocks; give one of them".into());
            }
            if layers.is_empty() {
                return refuse("layersToTransform is empty; leave it out for all blocks".into());
            }
            if let Some(layer) = layers.iter().find(|layer| !(0..blocks).contains(*layer)) {
                return refuse(format!("layersToTransform names block {layer}; this model has 0 to {}", blocks - 1));
            }
        }
        match self.num_layers {
            Some(count) if !(count == -1 || (1..=blocks).contains(&count)) => {
                refuse(format!("numLayers must be from 1 to {blocks}, or -1 for all blocks, not {count}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a block is among the chosen ones.
    pub(super) fn takes_block(&self, block: i32, blocks: i32) -> bool {
        match (&self.layers_to_transform, self.num_layers) {
            (Some(layers), _) => layers.contains(&block),
            (None, Some(count)) if count > 0 => block >= blocks - count,
            _ => true,
        }
    }

    pub(super) fn chooses_blocks(&self) -> bool {
        self.layers_to_transform.is_some() || self.num_layers.is_some_and(|count| count > 0)
    }
}

/// The value of the first pattern that fits.
fn first<T: Copy>(patterns: &[(String, T)], name: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if matches_pattern(pattern, name)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}
