//! The weight of a layer: numbers, or codes of a few bits with a scale per group.

use super::quantized::quantized_rows;
use super::{Module, join};
use crate::mlx::ops::{self, Gather, Quantization, QuantizationMode, Quantized};
use crate::mlx::{Array, Dtype, Error, Result, cuda, device, kernels};

/// `[out, in]`, with the experts in front where there are several. Packed weights are not trained: gradients flow through their
/// products to the inputs, not to them.
#[derive(Clone, Debug)]
pub enum Weight {
    Plain(Array),
    Packed(Packed),
}

/// Codes, and how they code.
#[derive(Clone, Debug)]
pub struct Packed {
    pub codes: Quantized,
    pub how: Quantization,
    /// Of the numbers that they stand for.
    pub dtype: Dtype,
}

/// Whether packed experts are unpacked for so many pairs of token and expert, which takes the memory of one projection's numbers meanwhile.
/// Measured with `bench/switch.mjs --quantized` (docs/moe.md): on a GPU both ways take equal time at about 5000 pairs, and unpacking half
/// as long at 16384. On the CPU that is so from about 200 pairs on, but for what our own kernels multiply, which unpack tile by tile.
fn unpacks(pairs: usize, x: &Array, packed: &Packed) -> bool {
    let affine = packed.how.mode() == QuantizationMode::Affine;
    match device() {
        "gpu" => pairs >= 8192,
        _ => pairs >= 256 && !(kernels::available() && affine && x.dtype() == Dtype::Float32),
    }
}

impl From<Array> for Weight {
    fn from(numbers: Array) -> Self {
        Weight::Plain(numbers)
    }
}

impl Weight {
    /// All zeros, to be filled from a checkpoint. Lazy: takes no memory until then.
    pub fn zeros(shape: &[i32], dtype: Dtype) -> Result<Self> {
        Ok(Weight::Plain(ops::zeros(shape, dtype)?))
    }

    /// All zeros in codes, to be filled from a checkpoint, for numbers of this shape whose last axis the groups divide.
    pub fn packed_zeros(shape: &[i32], how: Quantization, dtype: Dtype) -> Result<Self> {
        let Some((&width, lead)) = shape.split_last().filter(|(width, lead)| !lead.is_empty() && how.divides(**width)) else {
            return Err(Error::Shape(format!("a weight {shape:?} has no whole groups of {}", how.group_size())));
        };
        let with = |size: i32| [lead, &[size]].concat();
        let affine = how.mode() == QuantizationMode::Affine;
        let groups = with(width / how.group_size());
        let codes = Quantized {
            weight: ops::zeros(&with((i64::from(width) * i64::from(how.bits()) / 32) as i32), Dtype::Uint32)?,
            scales: ops::zeros(&groups, if affine { dtype } else { Dtype::Uint8 })?,
            biases: affine.then(|| ops::zeros(&groups, dtype)).transpose()?,
        };
        Ok(Weight::Packed(Packed { codes, how, dtype }))
    }

    /// How the numbers are coded, where they are.
    pub fn quantization(&self) -> Option<Quantization> {
        match self {
            Weight::Plain(_) => None,
            Weight::Packed(packed) => Some(packed.how),
        }
    }

    /// The shape of the numbers, packed or not.
    pub fn shape(&self) -> Vec<i32> {
        match self {
            Weight::Plain(numbers) => numbers.shape().to_vec(),
            Weight::Packed(Packed { codes, how, .. }) => {
                let mut shape = codes.weight.shape().to_vec();
                if let Some(last) = shape.last_mut() {
                    *last = (i64::from(*last) * 32 / i64::from(how.bits())) as i32;
                }
                shape
            }
        }
    }

    /// Of the numbers, packed or not.
    pub fn dtype(&self) -> Dtype {
        match self {
            Weight::Plain(numbers) => numbers.dtype(),
            Weight::Packed(packed) => packed.dtype,
        }
    }

    pub fn is_packed(&self) -> bool {
        matches!(self, Weight::Packed(_))
    }

    /// The numbers, unpacked where they are packed.
    pub fn numbers(&self) -> Result<Array> {
        match self {
            Weight::Plain(numbers) => Ok(numbers.clone()),
            Weight::Packed(packed) => packed.numbers(),
        }
    }

    /// The same weight in codes.
    pub fn pack(&self, how: Quantization) -> Result<Self> {
        Ok(Weight::Packed(Packed { codes: ops::quantize(&self.numbers()?, how, None)?, how, dtype: self.dtype() }))
    }

    /// `x Wᵀ`: `[.., in]` to `[.., out]`.
    pub fn project(&self, x: &Array) -> Result<Array> {
        match self {
            Weight::Plain(numbers) => kernels::linear(x, numbers, None),
            Weight::Packed(packed) => packed.product(x, true),
        }
    }

    /// `x Wᵀ + bias` for a bias `[out]`.
    pub fn affine(&self, x: &Array, bias: &Array) -> Result<Array> {
        match self {
            Weight::Plain(numbers) => kernels::linear(x, numbers, Some(bias)),
            Weight::Packed(packed) => packed.product(x, true)?.add(bias),
        }
    }

    /// `y W`: `[.., out]` to `[.., in]`.
    pub fn project_back(&self, y: &Array) -> Result<Array> {
        match self {
            Weight::Plain(numbers) => y.matmul(numbers),
            Weight::Packed(packed) => packed.product(y, false),
        }
    }

    /// Rows of a table: ids `[..]` to `[.., in]`. Ids must lie in it: nothing checks them on the device.
    pub fn rows(&self, ids: &Array) -> Result<Array> {
        match self {
            Weight::Plain(numbers) => cuda::embedding(numbers, ids),
            Weight::Packed(packed) => quantized_rows(ids, &packed.codes, packed.how, Some(packed.dtype)),
        }
    }

    /// Rows `[.., 1, in]`, broadcast against the uint32 indices `[..]`, times the weights of the experts at these: `[.., 1, out]`.
    /// `sorted` says that the indices ascend. Nothing checks on the device that they are experts.
    pub fn gather(&self, x: &Array, indices: &Array, sorted: bool) -> Result<Array> {
        match self {
            Weight::Plain(numbers) => ops::gather_mm_trusted(x, &numbers.swapaxes(-1, -2)?, None, Some(indices), sorted),
            Weight::Packed(packed) if sorted && unpacks(indices.size(), x, packed) => {
                ops::gather_mm_trusted(x, &packed.numbers()?.swapaxes(-1, -2)?, None, Some(indices), sorted)
            }
            Weight::Packed(Packed { codes, how, .. }) => {
                let gather = Gather { lhs: None, rhs: Some(indices), transpose: true, sorted };
                ops::gather_qmm_trusted(x, &codes.weight, &codes.scales, codes.biases.as_ref(), *how, gather)
            }
        }
    }

    /// The arrays that it consists of, for a function that must have them as inputs; `with_parts` puts them back.
    pub fn parts(&self) -> Vec<Array> {
        let mut parts = Vec::new();
        self.visit("", &mut |_, part| parts.push(part.clone()));
        parts
    }

    /// The same weight of other arrays, in the order of `parts`.
    pub fn with_parts(&self, parts: &[Array]) -> Self {
        let (mut weight, mut given) = (self.clone(), parts.iter());
        weight.visit_mut("", &mut |_, part| {
            if let Some(array) = given.next() {
                *part = array.clone();
            }
        });
        weight
    }
}

impl Packed {
    /// The codes of other numbers, coded alike.
    pub fn merged(&self, change: impl FnOnce(&Array) -> Result<Array>) -> Result<Packed> {
        let codes = ops::quantize(&change(&self.numbers()?)?, self.how, None)?;
        Ok(Packed { codes, ..self.clone() })
    }

    /// `weight`, `scales` or `biases`.
    pub fn part(&self, name: &str) -> Result<Array> {
        let mut found = None;
        self.codes.visit("", &mut |part, array| {
            if part == name {
                found = Some(array.clone());
            }
        });
        found.ok_or_else(|| Error::Internal(format!("a packed weight has no part '{name}'")))
    }

    fn numbers(&self) -> Result<Array> {
        let Quantized { weight, scales, biases } = &self.codes;
        ops::dequantize(weight, scales, biases.as_ref(), self.how, None, Some(self.dtype))
    }

    fn product(&self, x: &Array, transpose: bool) -> Result<Array> {
        let Quantized { weight, scales, biases } = &self.codes;
        ops::quantized_matmul(x, weight, scales, biases.as_ref(), transpose, self.how)
    }
}

/// `prefix` is the layer's: the parts are `weight` or, packed, `weight`, `scales` and `biases`, as in mlx-lm's files.
impl Module for Weight {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        match self {
            Weight::Plain(numbers) => f(join(prefix, "weight"), numbers),
            Weight::Packed(packed) => packed.codes.visit(prefix, f),
        }
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        match self {
            Weight::Plain(numbers) => f(join(prefix, "weight"), numbers),
            Weight::Packed(packed) => packed.codes.visit_mut(prefix, f),
        }
    }
}
