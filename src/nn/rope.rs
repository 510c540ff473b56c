//! Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) and the ways of stretching them, with the numbers of
//! transformers' `modeling_rope_utils`.

use std::f64::consts::PI;

use crate::mlx::fast::{RopeFrequencies, RopeOffset};
use crate::mlx::{Array, Dtype, Error, Result, fast, kernels};

/// YaRN (Peng et al. 2023, arXiv:2309.00071).
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    pub original_max_position_embeddings: i32,
    pub beta_fast: f64,
    pub beta_slow: f64,
    /// Rounds the borders of the ramp to whole dimensions.
    pub truncate: bool,
    /// Multiplies the rotated queries and keys.
    pub attention_factor: f64,
}

/// LongRoPE (Ding et al. 2024, arXiv:2402.13753): one factor per frequency, one set for short and one for long inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    pub short_factor: Vec<f64>,
    pub long_factor: Vec<f64>,
    pub original_max_position_embeddings: i32,
    pub attention_factor: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    Default,
    /// All positions divided by the factor.
    Linear {
        factor: f64,
    },
    /// NTK-aware: the base grows with the length of the input once that passes `max_position_embeddings`.
    Dynamic {
        factor: f64,
        max_position_embeddings: i32,
    },
    Yarn(Yarn),
    LongRope(LongRope),
    /// Gemma 4: only this part of the features is rotated, with the wavelengths of all, divided by the factor.
    Proportional {
        partial_rotary_factor: f64,
        factor: f64,
    },
    /// Llama 3.1: high frequencies kept, low ones divided by the factor, a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: i32,
    },
}

impl RopeScaling {
    /// Whether the same position is rotated otherwise in a longer input.
    pub fn depends_on_length(&self) -> bool {
        matches!(self, RopeScaling::Dynamic { .. } | RopeScaling::LongRope(_))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// How many features of a head are rotated, even.
    pub dims: i32,
    pub theta: f64,
    pub scaling: RopeScaling,
}

#[derive(Clone)]
enum Frequencies {
    /// Positions times `scale`.
    Table {
        table: Array,
        scale: f32,
    },
    /// `table · growth^exponents`, where growth depends on the length.
    Dynamic {
        table: Array,
        exponents: Array,
        factor: f32,
        max_position_embeddings: i32,
    },
    ShortOrLong {
        short: Array,
        long: Array,
        original_max_position_embeddings: i32,
    },
}

#[derive(Clone)]
pub struct Rope {
    dims: i32,
    frequencies: Frequencies,
    attention_factor: f32,
    /// Neighbours are rotated instead of halves.
    traditional: bool,
    /// Multiplies positions.
    scale: f32,
}

impl Rope {
    pub fn new(config: &RopeConfig) -> Result<Self> {
        let dims = config.dims;
        if dims <= 0 || dims % 2 != 0 {
            return Err(Error::Config(format!("rotary embeddings need an even head size, not {dims}")));
        }
        let wavelengths: Vec<f64> = (0..dims / 2).map(|i| config.theta.powf(2.0 * i as f64 / dims as f64)).collect();
        let mut attention_factor = 1.0;
        let frequencies = match &config.scaling {
            RopeScaling::Default => Frequencies::Table { table: table(&wavelengths)?, scale: 1.0 },
            RopeScaling::Linear { factor } => Frequencies::Table { table: table(&wavelengths)?, scale: (1.0 / factor) as f32 },
            RopeScaling::Dynamic { factor, max_position_embeddings } => {
                if dims == 2 {
                    return Err(Error::Config("dynamic rotary embeddings need a head size above 2".into()));
                }
                let exponents: Vec<f64> = (0..dims / 2).map(|i| 2.0 * i as f64 / (dims - 2) as f64).collect();
                Frequencies::Dynamic {
                    table: table(&wavelengths)?,
                    exponents: table(&exponents)?,
                    factor: *factor as f32,
                    max_position_embeddings: *max_position_embeddings,
                }
            }
            RopeScaling::Yarn(yarn) => {
                attention_factor = yarn.attention_factor;
                Frequencies::Table { table: table(&yarn_wavelengths(yarn, &wavelengths, config.theta))?, scale: 1.0 }
            }
            RopeScaling::LongRope(long) => {
                attention_factor = long.attention_factor;
                let scaled = |factors: &[f64]| {
                    if factors.len() != wavelengths.len() {
                        let (found, wanted) = (factors.len(), wavelengths.len());
                        return Err(Error::Config(format!("longrope needs {wanted} factors for a head of {dims}, not {found}")));
                    }
                    table(&wavelengths.iter().zip(factors).map(|(length, factor)| length * factor).collect::<Vec<_>>())
                };
                Frequencies::ShortOrLong {
                    short: scaled(&long.short_factor)?,
                    long: scaled(&long.long_factor)?,
                    original_max_position_embeddings: long.original_max_position_embeddings,
                }
            }
            RopeScaling::Proportional { partial_rotary_factor, factor } => {
                let rotated = (partial_rotary_factor * f64::from(dims) / 2.0) as usize;
                let stretched = |(i, &length): (usize, &f64)| if i < rotated { length * factor } else { f64::INFINITY };
                Frequencies::Table {
                    table: table(&wavelengths.iter().enumerate().map(stretched).collect::<Vec<_>>())?,
                    scale: 1.0,
                }
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = *original_max_position_embeddings as f64;
                let stretched = |&length: &f64| {
                    let turns = original / (2.0 * PI * length);
                    if turns > *high_freq_factor {
                        return length;
                    }
                    if turns < *low_freq_factor {
                        return length * factor;
                    }
                    let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    length / ((1.0 - smooth) / factor + smooth)
                };
                Frequencies::Table { table: table(&wavelengths.iter().map(stretched).collect::<Vec<_>>())?, scale: 1.0 }
            }
        };
        Ok(Rope { dims, frequencies, attention_factor: attention_factor as f32, traditional: false, scale: 1.0 })
    }

    /// As in `mlx.nn.RoPE`: `traditional` rotates neighbours instead of halves, `scale` multiplies positions.
    pub fn with(self, traditional: bool, scale: f32) -> Self {
        Rope { traditional, scale, ..self }
    }

    /// Rotates the first `dims` features of `x` `[B, H, T, D]` (or `[.., T, D]`), whose first slot stands at `offset`.
    pub fn forward(&self, x: &Array, offset: RopeOffset) -> Result<Array> {
        let x = if self.attention_factor == 1.0 { x.clone() } else { x.multiply_scalar(self.attention_factor)? };
        let (table, scale) = match &self.frequencies {
            Frequencies::Table { table, scale } => (table.clone(), *scale),
            Frequencies::Dynamic { table, exponents, factor, max_position_embeddings } => {
                let longest = length(&x, &offset)?.maximum_scalar(*max_position_embeddings as f32)?;
                let ratio = longest.divide_scalar(*max_position_embeddings as f32)?;
                let growth = ratio.multiply_scalar(*factor)?.add_scalar(1.0 - factor)?;
                (table.multiply(&growth.power(exponents)?)?, 1.0)
            }
            Frequencies::ShortOrLong { short, long, original_max_position_embeddings } => {
                let is_long = length(&x, &offset)?.greater_scalar(*original_max_position_embeddings as f32)?;
                (crate::mlx::ops::where_(&is_long, long, short)?, 1.0)
            }
        };
        let scale = scale * self.scale;
        if self.traditional || x.ndim() != 4 {
            return fast::rope_with(&x, self.dims, self.traditional, RopeFrequencies::Table(&table), scale, offset);
        }
        kernels::rope(&x, self.dims, &table, scale, offset)
    }
}

fn table(values: &[f64]) -> Result<Array> {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    Array::from_slice(&values, &[values.len() as i32])
}

/// The largest position of the batch plus one, float32, without waiting for the device.
fn length(x: &Array, offset: &RopeOffset) -> Result<Array> {
    let slots = x.dim(-2);
    match offset {
        RopeOffset::Same(offset) => Ok(Array::scalar((offset + slots) as f32)),
        RopeOffset::PerRow(offsets) => offsets.max_all()?.astype(Dtype::Float32)?.add_scalar(slots as f32),
    }
}

fn yarn_wavelengths(yarn: &Yarn, wavelengths: &[f64], theta: f64) -> Vec<f64> {
    let dims = 2 * wavelengths.len();
    let dimension_of = |rotations: f64| {
        dims as f64 * (yarn.original_max_position_embeddings as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (dimension_of(yarn.beta_fast), dimension_of(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let blended = |(index, length): (usize, &f64)| {
        let interpolated = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
        length / (interpolated / yarn.factor + (1.0 - interpolated))
    };
    wavelengths.iter().enumerate().map(blended).collect()
}
