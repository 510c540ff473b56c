//! Experts in checkpoints. transformers writes a tensor per expert and projection, or holds gates and ups of all experts in one;
//! the model, as mlx-lm, has one tensor per projection. Saved are transformers' names, or mlx-lm's where a model is quantised.

use std::rc::Rc;

use crate::mlx::Array;
use crate::mlx::io::safetensors::Source;
use crate::nn::Lora;

const EXPERTS: &str = ".mlp.experts.";
const STACKED: &str = ".mlp.switch_mlp.";

/// What a tensor of a checkpoint is of the model, whose names these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Whole(String),
    /// One expert of a stacked weight.
    Expert(String, i32),
    /// Gates above ups, `[experts, 2 · out, in]`.
    GateUp(String, String),
}

/// Where a tensor of a checkpoint belongs.
pub fn part_of(tensor: &str) -> Part {
    let stacked = |layer: &str, tensor: &str| format!("{layer}{STACKED}{tensor}");
    let Some((layer, rest)) = tensor.split_once(EXPERTS) else { return Part::Whole(tensor.to_string()) };
    match rest {
        "gate_up_proj" => Part::GateUp(stacked(layer, "gate_proj.weight"), stacked(layer, "up_proj.weight")),
        "down_proj" => Part::Whole(stacked(layer, "down_proj.weight")),
        _ => match rest.split_once('.') {
            Some((expert, projection)) if !expert.is_empty() && expert.bytes().all(|c| c.is_ascii_digit()) => {
                let known = [".weight", ".scales", ".biases"].iter().any(|part| tensor.ends_with(part));
                match expert.parse() {
                    Ok(expert) if known => Part::Expert(stacked(layer, projection), expert),
                    _ => Part::Whole(tensor.to_string()),
                }
            }
            _ => Part::Whole(tensor.to_string()),
        },
    }
}

/// Whether a weight of the model holds all experts.
pub fn is_stacked(name: &str) -> bool {
    name.contains(STACKED)
}

/// The name of one expert's tensor in transformers' checkpoints.
pub fn expert_name(name: &str, expert: i32) -> String {
    name.replacen(STACKED, &format!("{EXPERTS}{expert}."), 1)
}

/// A stacked weight as transformers' tensors, one per expert, with an adapter merged into it.
pub fn sources<'a>(name: &str, weight: &'a Array, lora: Option<Lora>) -> impl Iterator<Item = Source<'a>> {
    let (name, lora) = (name.to_string(), Rc::new(lora));
    (0..weight.dim(0)).map(move |expert| {
        let lora = lora.clone();
        Source {
            name: expert_name(&name, expert),
            shape: weight.shape()[1..].to_vec(),
            dtype: weight.dtype(),
            make: Box::new(move || {
                let own = weight.slice_axis(0, expert, expert + 1)?.squeeze(&[0])?;
                lora.as_ref().as_ref().map_or(Ok(own.clone()), |lora| lora.expert(expert)?.merge(&own))
            }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_experts() {
        let up = "model.layers.3.mlp.switch_mlp.up_proj.weight";
        let gate = up.replace("up_proj", "gate_proj");
        assert_eq!(part_of("model.layers.3.mlp.experts.12.up_proj.weight"), Part::Expert(up.into(), 12));
        let scales = up.replace("weight", "scales");
        assert_eq!(part_of("model.layers.3.mlp.experts.12.up_proj.scales"), Part::Expert(scales, 12));
        assert_eq!(expert_name(up, 12), "model.layers.3.mlp.experts.12.up_proj.weight");
        assert_eq!(part_of("model.layers.3.mlp.experts.gate_up_proj"), Part::GateUp(gate, up.into()));
        assert_eq!(part_of("model.layers.3.mlp.experts.down_proj"), Part::Whole(up.replace("up_proj", "down_proj")));
        for name in [up, "model.layers.3.mlp.gate.weight", "model.layers.3.mlp.experts.x.up_proj.weight"] {
            assert_eq!(part_of(name), Part::Whole(name.into()));
        }
        for name in ["model.layers.3.mlp.experts.99999999999.up_proj.weight", "a.mlp.experts.1", "a.mlp.experts..b.weight"] {
            assert_eq!(part_of(name), Part::Whole(name.into()));
        }
    }
}
