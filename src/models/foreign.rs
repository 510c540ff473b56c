//! Packed layers of transformers' AWQ and GPTQ checkpoints as MLX's: the same codes in another order, and `-scale · zero` for a bias.

use serde_json::{Map, Value};

use crate::mlx::{Array, Dtype, Result};

/// How the words of a checkpoint hold codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// AutoAWQ's `gemm`: `qweight` `[in, out / 8]`, of 8 outputs those at even places first.
    Awq,
    /// AutoGPTQ's: `qweight` `[in · bits / 32, out]`.
    Gptq,
}

/// What `quantization_config` says of such a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    layout: Layout,
    bits: i32,
    /// Zero points are stored less this.
    less: i32,
}

impl Foreign {
    /// Nothing for a `quant_method` of another kind.
    pub fn parse(block: &Map<String, Value>) -> std::result::Result<Option<Self>, String> {
        let text = |key: &str| block.get(key).and_then(Value::as_str).unwrap_or_default().to_lowercase();
        let layout = match text("quant_method").as_str() {
            "awq" => Layout::Awq,
            "gptq" => Layout::Gptq,
            _ => return Ok(None),
        };
        let value = |key: &str| block.get(key).cloned().unwrap_or(Value::Null);
        let bits = value("bits").as_i64().unwrap_or(0) as i32;
        let known: &[i32] = if layout == Layout::Awq { &[4] } else { &[2, 4, 8] };
        if !known.contains(&bits) {
            return Err(format!(
                "bits is {}; of {} checkpoints those of {known:?} bits are read",
                value("bits"),
                text("quant_method")
            ));
        }
        if ![Some(32), Some(64), Some(128)].contains(&value("group_size").as_i64()) {
            return Err(format!("group_size is {}; MLX has groups of 32, 64 or 128", value("group_size")));
        }
        let (key, known) = match layout {
            Layout::Awq => ("version", ["", "gemm", "gemm"]),
            Layout::Gptq => ("checkpoint_format", ["", "gptq", "gptq_v2"]),
        };
        let format = text(key);
        if !known.contains(&format.as_str()) {
            return Err(format!("{key} is '{format}'; {} is read", known[1..].join(" or ")));
        }
        let less = i32::from(layout == Layout::Gptq && format != "gptq_v2");
        Ok(Some(Foreign { layout, bits, less }))
    }

    /// The shape of MLX's words for a `qweight` of this one.
    pub fn words_shape(&self, shape: &[i32]) -> Option<Vec<i32>> {
        match (self.layout, shape) {
            (Layout::Gptq, &[words, outputs]) => Some(vec![outputs, words]),
            (Layout::Awq, &[inputs, words]) => Some(vec![words.checked_mul(8)?, inputs / 8]),
            _ => None,
        }
    }

    /// The shape of the `qzeros` that go with `scales` of this one.
    pub fn zeros_shape(&self, scales: &[i32]) -> Option<Vec<i32>> {
        let &[groups, outputs] = scales else { return None };
        let bits = outputs.checked_mul(self.bits).filter(|bits| bits % 32 == 0)?;
        Some(vec![groups, bits / 32])
    }

    /// MLX's words `[out, in · bits / 32]` of a `qweight`.
    pub fn words(&self, qweight: &Array) -> Result<Array> {
        let words = match self.layout {
            // Words hold neighbouring inputs from the lowest bits on, here and there.
            Layout::Gptq => qweight.view(Dtype::Uint32)?.t()?.contiguous()?,
            Layout::Awq => {
                let codes = self.unpack(qweight)?.t()?;
                let (outputs, inputs) = (codes.dim(0), codes.dim(1));
                let shifts = Array::from_slice(&[0u32, 4, 8, 12, 16, 20, 24, 28], &[8])?;
                let placed = codes.reshape(&[outputs, inputs / 8, 8])?.left_shift(&shifts)?;
                placed.sum(&[2], false)?.astype(Dtype::Uint32)?
            }
        };
        words.eval()?;
        Ok(words)
    }

    /// MLX's biases `[out, groups]`, float32, of `qzeros` and `scales` `[groups, out]`.
    pub fn biases(&self, qzeros: &Array, scales: &Array) -> Result<Array> {
        let mask = Array::from_slice(&[(1u32 << self.bits) - 1], &[])?;
        // A zero point of 0 less 1 is stored as the largest code.
        let zeros = self.unpack(qzeros)?.add(&Array::from_slice(&[self.less as u32], &[])?)?.bitwise_and(&mask)?;
        let biases = zeros.astype(Dtype::Float32)?.multiply(&scales.astype(Dtype::Float32)?)?.negative()?;
        let biases = biases.t()?.contiguous()?;
        biases.eval()?;
        Ok(biases)
    }

    /// Codes in words along the last axis, uint32.
    fn unpack(&self, words: &Array) -> Result<Array> {
        let shifts: Vec<u32> = match self.layout {
            Layout::Awq => vec![0, 16, 4, 20, 8, 24, 12, 28],
            Layout::Gptq => (0..32).step_by(self.bits as usize).collect(),
        };
        let count = shifts.len() as i32;
        let mask = Array::from_slice(&[(1u32 << self.bits) - 1], &[])?;
        let codes = words.view(Dtype::Uint32)?.expand_dims(&[-1])?.right_shift(&Array::from_slice(&shifts, &[count])?)?;
        codes.bitwise_and(&mask)?.reshape(&[words.dim(0), -1])
    }
}

/// Why the groups of inputs `[in]` are not those of neighbours, if they are not.
pub(super) fn disorder(groups: &Array, count: i32) -> Result<Option<String>> {
    let groups = groups.to_i32()?;
    let size = groups.len() / count.max(1) as usize;
    let at = groups.iter().enumerate().position(|(input, &group)| input / size.max(1) != group as usize);
    Ok(at.map(|input| {
        format!(
            "input {input} is of group {}: the columns were reordered (desc_act), which MLX's groups of neighbours cannot say; take a checkpoint without it, or quantise the original",
            groups[input]
        )
    }))
}
