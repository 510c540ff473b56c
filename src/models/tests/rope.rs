//! Rotary embeddings from `config.json` to rotated values, against transformers 5.23.
//!
//! The vectors are `apply_rotary_pos_emb` of `X` with `Qwen3RotaryEmbedding(Qwen3Config(head_dim=8, max_position_embeddings=mp,
//! rope_parameters={..., "rope_theta": 10000.0}))` at positions 5 and 100, printed with seven decimals:
//!
//! ```python
//! for pos in (5, 100):
//!     cos, sin = Qwen3RotaryEmbedding(config)(x, torch.tensor([[pos]]))
//!     print(apply_rotary_pos_emb(x, x, cos, sin)[0].flatten().tolist())
//! ```

use serde_json::{Value, json};

use super::*;
use crate::mlx::fast::RopeOffset;
use crate::models::{ModelConfig, qwen3};
use crate::nn::Rope;
use crate::testing::assert_close;

const X: [f32; 8] = [0.5, -1.0, 0.25, 2.0, 1.5, -0.75, 1.0, -0.5];

fn config(rope: &[(&str, Value)], max_position_embeddings: i32) -> Value {
    let mut config = json!({
        "model_type": "qwen3", "vocab_size": 16, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": max_position_embeddings,
    });
    for (key, value) in rope {
        config[key] = value.clone();
    }
    config
}

fn parse(config: &Value) -> Result<ModelConfig> {
    ModelConfig::parse(config, Path::new("config.json"), &qwen3::ARCHITECTURE)
}

type Case = (Value, i32, [f32; 8], [f32; 8]);

#[allow(clippy::excessive_precision)] // as printed
fn recorded() -> Vec<Case> {
    vec![
        (
            json!({"rope_type": "default"}),
            64,
            [1.5802176, -0.5180134, 0.1997084, 2.002475, -0.0539688, -1.1376125, 1.011245, -0.4899938],
            [1.1907079, 0.4310557, -0.7063954, 2.0399251, 1.0402954, 1.1733248, 0.7506701, -0.2978352],
        ),
        (
            json!({"rope_type": "linear", "factor": 4.0}),
            64,
            [-1.2658157, -0.8986917, 0.2374808, 2.0006235, 0.9474759, -0.868823, 1.0030468, -0.4974996],
            [0.694129, 1.2499976, -0.0051759, 2.0118737, 1.4206283, 0.0023856, 1.0307634, -0.4498489],
        ),
        (
            json!({"rope_type": "dynamic", "factor": 2.0}),
            64,
            [1.5802176, -0.5180134, 0.1997084, 2.002475, -0.0539688, -1.1376125, 1.011245, -0.4899938],
            [1.1907079, 0.631898, -0.3574846, 2.0210297, 1.0402954, -1.0785197, 0.9668013, -0.406742],
        ),
        (
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
            256,
            [1.7992823, -0.8209393, 0.2704026, 2.2779689, -0.0614505, -1.162671, 1.1420987, -0.5664677],
            [1.355775, -1.1663367, -0.0058934, 2.2907786, 1.1845111, -0.8157231, 1.1736577, -0.5122113],
        ),
        (
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.5,
                "truncate": false}),
            256,
            [2.3703263, -1.3441527, 0.3562212, 3.0009351, -0.0809532, -1.3072407, 1.5045702, -0.7462494],
            [1.7860619, 1.8714631, -0.0077638, 3.0178106, 1.5604432, 0.1151153, 1.5461452, -0.6747735],
        ),
        (
            json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "mscale": 0.7,
                "mscale_all_dim": 1.3, "beta_fast": 16.0, "beta_slow": 2.0}),
            256,
            [1.425015, -0.8577797, 0.2198055, 1.8038495, -0.0486682, -0.7313423, 0.9031754, -0.4497647],
            [1.0737613, 0.3574817, 0.1112573, 1.8090631, 0.9381219, -1.0690436, 0.9228554, -0.4283127],
        ),
        (
            json!({"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 64,
                "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 5.0]}),
            256,
            [1.8246781, -0.6572211, 0.240326, 2.3116045, -0.0623178, -1.2850657, 1.165723, -0.5684637],
            [1.3749111, -1.1579977, -0.1050263, 2.3204854, 1.2012298, 0.8616117, 1.1855953, -0.5310498],
        ),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64}),
            256,
            [1.5802176, -0.9490007, 0.2437451, 2.0003121, -0.0539688, -0.813571, 1.0015429, -0.4987499],
            [1.1907079, 0.4600852, 0.1233747, 2.0060935, 1.0402954, -1.1622485, 1.0233663, -0.4749616],
        ),
    ]
}

#[test]
fn every_type_rotates_as_transformers_does() {
    let x = Array::from_slice(&X, &[1, 1, 1, 8]).unwrap();
    for (scaling, max_positions, at_5, at_100) in recorded() {
        let name = scaling.to_string();
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = json!(10000.0);
        let current = parse(&config(&[("rope_parameters", parameters)], max_positions)).unwrap();
        let mut legacy = scaling;
        legacy["type"] = legacy["rope_type"].take();
        legacy.as_object_mut().unwrap().shift_remove("rope_type");
        let legacy = parse(&config(&[("rope_scaling", legacy), ("rope_theta", json!(10000))], max_positions)).unwrap();
        assert_eq!(current.rope, legacy.rope, "{name}");
        let rope = Rope::new(&current.rope).unwrap();
        for (position, want) in [(5, at_5), (100, at_100)] {
            let want = Array::from_slice(&want, &[1, 1, 1, 8]).unwrap();
            let same = rope.forward(&x, RopeOffset::Same(position)).unwrap();
            assert_close(&same, &want, 2e-5, 1e-5, &format!("{name} at {position}"));
            // The second row stands earlier; the batch's length is that of the first.
            let rows = ops::concatenate(&[&x, &x], 0).unwrap();
            let offsets = Array::from_slice(&[position, 0], &[2]).unwrap();
            let rows = rope.forward(&rows, RopeOffset::PerRow(&offsets)).unwrap();
            assert_close(&rows.slice_axis(0, 0, 1).unwrap(), &want, 2e-5, 1e-5, &format!("{name} at {position}, per row"));
        }
    }
}

#[test]
fn the_newer_and_the_inner_key_win() {
    let theta = |entries: &[(&str, Value)]| parse(&config(entries, 64)).unwrap().rope.theta;
    assert_eq!(theta(&[]), 10_000.0);
    assert_eq!(theta(&[("rope_theta", json!(5e6))]), 5e6);
    assert_eq!(theta(&[("rope_theta", json!(5e6)), ("rope_scaling", json!(null))]), 5e6);
    assert_eq!(theta(&[("rope_theta", json!(5e6)), ("rope_parameters", json!({"rope_theta": 1e6}))]), 1e6);
    let both = [("rope_parameters", json!({"rope_theta": 1e6})), ("rope_scaling", json!({"type": "linear", "factor": 2}))];
    let rope = parse(&config(&both, 64)).unwrap().rope;
    assert_eq!(rope.scaling, crate::nn::RopeScaling::Linear { factor: 2.0 });
    assert_eq!(rope.theta, 10_000.0);
}

#[test]
fn impossible_rotary_settings_name_the_key() {
    let cases = [
        (json!({"rope_type": "mystery"}), "rope_type is \"mystery\""),
        (json!({"rope_type": "linear"}), "factor is missing"),
        (json!({"rope_type": "linear", "factor": 0}), "factor is 0"),
        (json!({"rope_type": "dynamic", "factor": -1.5}), "factor is -1.5"),
        (json!({"rope_type": "default", "rope_theta": 0}), "rope_theta is 0"),
        (json!({"rope_type": "default", "rope_theta": "big"}), "rope_theta is \"big\""),
        (json!({"rope_type": "default", "partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5"),
        (
            json!({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 0}),
            "original_max_position_embeddings is 0",
        ),
        (json!({"rope_type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 32}), "beta_fast is 1"),
        (json!({"rope_type": "yarn", "factor": 4, "attention_factor": -1}), "attention_factor is -1"),
        (json!({"rope_type": "longrope", "short_factor": [1, 1, 1, 1], "long_factor": [1, 1]}), "long_factor is [1,1]"),
        (
            json!({"rope_type": "longrope", "short_factor": [1, 1, 0, 1], "long_factor": [1, 1, 1, 1]}),
            "short_factor is [1,1,0,1]",
        ),
        (json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}), "high_freq_factor is 4"),
        (json!({"full_attention": {"rope_type": "default"}}), "full_attention"),
        (json!([1]), "rope_parameters is [1]"),
    ];
    for (parameters, part) in cases {
        let error = parse(&config(&[("rope_parameters", parameters.clone())], 64)).unwrap_err();
        assert_eq!(error.code(), "ERR_MLX_CONFIG", "{parameters}");
        let text = error.to_string();
        assert!(text.contains(part) && text.contains("config.json"), "{parameters}: {text}");
    }
}
