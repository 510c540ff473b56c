//! The rotary part of `config.json`: `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before),
//! with the precedence and defaults of transformers.

use super::config::Reader;
use crate::mlx::Result;
use crate::nn::{LongRope, RopeConfig, RopeScaling, Yarn};

const TYPES: &str = "one of default, linear, dynamic, yarn, longrope, llama3, proportional";

/// Rotary embeddings of the first `dims` features from the keys of `config.json` that speak of them.
pub fn rope_from_json(json: &serde_json::Value, dims: i32) -> Result<RopeConfig> {
    let config = Reader::new(json, std::path::Path::new("RoPE"))?;
    let longest = config.integer("max_position_embeddings", Some(32768), 1, i64::from(i32::MAX))?;
    rope(&config, dims, longest)
}

pub(crate) fn rope(config: &Reader, head_dim: i32, max_position_embeddings: i32) -> Result<RopeConfig> {
    let theta = config.float("rope_theta", Some(10_000.0), 1.000001, 1e15)?;
    // Older files with both keep their meaning: transformers lets a non-empty rope_scaling win.
    let scaling = match config.nested("rope_scaling", "rope_scaling.")? {
        Some(scaling) if !scaling.is_empty() => Some(scaling),
        _ => config.nested("rope_parameters", "rope_parameters.")?,
    };
    let Some(rope) = scaling else {
        refuse_partial(config)?;
        return Ok(RopeConfig { dims: head_dim, theta, scaling: RopeScaling::Default });
    };
    for key in ["full_attention", "sliding_attention"] {
        if rope.get(key).is_some() {
            return Err(rope.wrong(key, "absent: rotary parameters per layer type are not supported"));
        }
    }
    let theta = rope.float("rope_theta", Some(theta), 1.000001, 1e15)?;
    let type_key = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
    let kind = rope.text(type_key)?.unwrap_or("default");
    refuse_partial(config)?;
    if kind != "proportional" {
        refuse_partial(&rope)?;
    }
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: factor(&rope)? },
        "dynamic" => {
            if head_dim == 2 {
                return Err(config.wrong("head_dim", "above 2 for dynamic rotary embeddings"));
            }
            RopeScaling::Dynamic { factor: factor(&rope)?, max_position_embeddings }
        }
        "yarn" => yarn(config, &rope, max_position_embeddings)?,
        "longrope" => longrope(config, &rope, head_dim, max_position_embeddings)?,
        "llama3" => {
            let low = rope.float("low_freq_factor", None, 1e-6, 1e6)?;
            let high = rope.float("high_freq_factor", None, 1e-6, 1e6)?;
            if high <= low {
                return Err(rope.wrong("high_freq_factor", &format!("above low_freq_factor, {low}")));
            }
            RopeScaling::Llama3 {
                factor: factor(&rope)?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original(config, &rope, max_position_embeddings)?,
            }
        }
        "proportional" => RopeScaling::Proportional {
            partial_rotary_factor: rope.float("partial_rotary_factor", Some(1.0), 0.0, 1.0)?,
            factor: rope.float("factor", Some(1.0), 1e-6, 1e6)?,
        },
        _ => return Err(rope.wrong(type_key, TYPES)),
    };
    Ok(RopeConfig { dims: head_dim, theta, scaling })
}

fn refuse_partial(reader: &Reader) -> Result<()> {
    if reader.float("partial_rotary_factor", Some(1.0), f64::MIN, f64::MAX)? == 1.0 {
        return Ok(());
    }
    Err(reader.wrong("partial_rotary_factor", "1: partly rotated heads are not supported"))
}

fn factor(rope: &Reader) -> Result<f64> {
    rope.float("factor", None, 1e-6, 1e6)
}

/// The length that the model was pretrained at. A key at the top of the file has priority.
fn original(config: &Reader, rope: &Reader, max_position_embeddings: i32) -> Result<i32> {
    let holder = if config.get("original_max_position_embeddings").is_some() { config } else { rope };
    holder.integer("original_max_position_embeddings", Some(max_position_embeddings), 1, i32::MAX as i64)
}

/// A value where 0 and null both mean the default, as Python's `or` has it.
fn or_default(rope: &Reader, key: &str, default: f64) -> Result<f64> {
    let value = rope.float(key, Some(default), 0.0, 1e9)?;
    Ok(if value == 0.0 { default } else { value })
}

fn yarn(config: &Reader, rope: &Reader, max_position_embeddings: i32) -> Result<RopeScaling> {
    let original = original(config, rope, max_position_embeddings)?;
    let factor = rope.float("factor", Some(max_position_embeddings as f64 / original as f64), 1e-6, 1e6)?;
    let mscale_of = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    let (mscale, mscale_all_dim) =
        (rope.float("mscale", Some(0.0), 0.0, 1e6)?, rope.float("mscale_all_dim", Some(0.0), 0.0, 1e6)?);
    let derived =
        if mscale != 0.0 && mscale_all_dim != 0.0 { mscale_of(mscale) / mscale_of(mscale_all_dim) } else { mscale_of(1.0) };
    let (beta_fast, beta_slow) = (or_default(rope, "beta_fast", 32.0)?, or_default(rope, "beta_slow", 1.0)?);
    if beta_fast < beta_slow {
        return Err(rope.wrong("beta_fast", &format!("at least beta_slow, {beta_slow}")));
    }
    Ok(RopeScaling::Yarn(Yarn {
        factor,
        original_max_position_embeddings: original,
        beta_fast,
        beta_slow,
        truncate: rope.boolean("truncate")?.unwrap_or(true),
        attention_factor: rope.float("attention_factor", Some(derived), 1e-6, 1e6)?,
    }))
}

fn longrope(config: &Reader, rope: &Reader, head_dim: i32, max_position_embeddings: i32) -> Result<RopeScaling> {
    let original = original(config, rope, max_position_embeddings)?;
    let factor = rope.float("factor", Some(max_position_embeddings as f64 / original as f64), 1e-6, 1e6)?;
    let derived = if factor <= 1.0 || original < 2 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
    let factors = |key: &str| {
        let wanted = format!("a list of {} positive numbers", head_dim / 2);
        let list = rope.get(key).and_then(|value| value.as_array()).ok_or_else(|| rope.wrong(key, &wanted))?;
        let values: Vec<f64> = list.iter().filter_map(|value| value.as_f64()).filter(|&value| value > 0.0).collect();
        if values.len() == list.len() && values.len() == head_dim as usize / 2 {
            Ok(values)
        } else {
            Err(rope.wrong(key, &wanted))
        }
    };
    Ok(RopeScaling::LongRope(LongRope {
        short_factor: factors("short_factor")?,
        long_factor: factors("long_factor")?,
        original_max_position_embeddings: original,
        attention_factor: rope.float("attention_factor", Some(derived), 1e-6, 1e6)?,
    }))
}
