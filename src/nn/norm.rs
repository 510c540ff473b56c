//! Normalisation layers.

use super::{Module, join};
use crate::mlx::{Array, Dtype, Error, Result, fast, kernels, ops};

/// `x / √(mean(x²) + eps) · weight` over the last axis, accumulated in float32.
#[derive(Clone)]
pub struct RmsNorm {
    pub weight: Array,
    pub eps: f32,
}

impl RmsNorm {
    pub fn new(size: i32, eps: f32, dtype: Dtype) -> Result<Self> {
        Ok(RmsNorm { weight: ops::zeros(&[size], dtype)?, eps })
    }

    pub fn forward(&self, x: &Array) -> Result<Array> {
        kernels::rms_norm(x, &self.weight, self.eps)
    }
}

impl Module for RmsNorm {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        f(join(prefix, "weight"), &self.weight);
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        f(join(prefix, "weight"), &mut self.weight);
    }
}

/// A scale and a shift per feature, `[size]` each; either may be absent.
#[derive(Clone)]
pub struct Affine {
    pub weight: Option<Array>,
    pub bias: Option<Array>,
}

impl Affine {
    /// Zeros, to be filled from a checkpoint.
    pub fn new(size: i32, weight: bool, bias: bool, dtype: Dtype) -> Result<Self> {
        let zeros = |wanted: bool| wanted.then(|| ops::zeros(&[size], dtype)).transpose();
        Ok(Affine { weight: zeros(weight)?, bias: zeros(bias)? })
    }
}

impl Module for Affine {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        for (name, array) in [("weight", &self.weight), ("bias", &self.bias)] {
            if let Some(array) = array {
                f(join(prefix, name), array);
            }
        }
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        for (name, array) in [("weight", &mut self.weight), ("bias", &mut self.bias)] {
            if let Some(array) = array {
                f(join(prefix, name), array);
            }
        }
    }
}

/// `(x - mean) / √(variance + eps) · weight + bias` over the last axis, accumulated in float32 (Ba et al. 2016, arXiv:1607.06450).
pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Result<Array> {
    let size = x.shape().last().copied().unwrap_or(0);
    if size == 0 {
        return Err(Error::Shape(format!("layer_norm needs a last axis with elements; the input has shape {:?}", x.shape())));
    }
    fit("layer_norm", size, weight, bias)?;
    fast::layer_norm(x, weight, bias, eps)
}

fn fit(layer: &str, size: i32, weight: Option<&Array>, bias: Option<&Array>) -> Result<()> {
    for (name, array) in [("weight", weight), ("bias", bias)] {
        if let Some(array) = array
            && array.shape() != [size]
        {
            return Err(Error::Shape(format!("{layer}: the {name} has shape {:?}; the input makes it [{size}]", array.shape())));
        }
    }
    Ok(())
}

#[derive(Clone)]
pub struct LayerNorm {
    pub affine: Affine,
    pub eps: f32,
}

impl LayerNorm {
    pub fn new(size: i32, eps: f32, affine: bool, bias: bool, dtype: Dtype) -> Result<Self> {
        Ok(LayerNorm { affine: Affine::new(size, affine, affine && bias, dtype)?, eps })
    }

    pub fn forward(&self, x: &Array) -> Result<Array> {
        layer_norm(x, self.affine.weight.as_ref(), self.affine.bias.as_ref(), self.eps)
    }
}

/// Normalises `x` `[B, .., features]` over groups of features and all positions (Wu and He 2018, arXiv:1803.08494).
///
/// `mlx.nn` takes every `groups`-th feature as one group; `pytorch_compatible` takes neighbours, as PyTorch does.
pub fn group_norm(
    x: &Array,
    groups: i32,
    weight: Option<&Array>,
    bias: Option<&Array>,
    eps: f32,
    pytorch_compatible: bool,
) -> Result<Array> {
    let shape = x.shape().to_vec();
    let (Some(&batch), Some(&features)) = (shape.first(), shape.last()) else {
        return Err(Error::Shape("group_norm needs an input [B, .., features], not a scalar".into()));
    };
    if shape.len() < 2 || groups <= 0 || features % groups != 0 || x.size() == 0 {
        return Err(Error::Shape(format!("group_norm: shape {shape:?} has no features that {groups} groups could share")));
    }
    fit("group_norm", features, weight, bias)?;
    let normalised = if pytorch_compatible {
        let positions = x.size() as i32 / batch / features;
        let split = x.reshape(&[batch, positions, groups, features / groups])?.transpose(&[0, 2, 1, 3])?;
        let flat = split.reshape(&[batch, groups, -1])?;
        let flat = fast::layer_norm(&flat, None, None, eps)?;
        flat.reshape(&[batch, groups, positions, features / groups])?.transpose(&[0, 2, 1, 3])?
    } else {
        let split = x.reshape(&[batch, -1, groups])?;
        let centred = split.subtract(&split.mean(&[1], true)?)?;
        centred.multiply(&split.var(&[1], true, 0)?.add_scalar(eps)?.rsqrt()?)?
    };
    let mut y = normalised.reshape(&shape)?;
    if let Some(weight) = weight {
        y = weight.multiply(&y)?;
    }
    if let Some(bias) = bias {
        y = y.add(bias)?;
    }
    Ok(y)
}

#[derive(Clone)]
pub struct GroupNorm {
    pub affine: Affine,
    pub groups: i32,
    pub eps: f32,
    pub pytorch_compatible: bool,
}

impl GroupNorm {
    pub fn new(groups: i32, size: i32, eps: f32, affine: bool, pytorch_compatible: bool, dtype: Dtype) -> Result<Self> {
        Ok(GroupNorm { affine: Affine::new(size, affine, affine, dtype)?, groups, eps, pytorch_compatible })
    }

    pub fn forward(&self, x: &Array) -> Result<Array> {
        let Affine { weight, bias } = &self.affine;
        group_norm(x, self.groups, weight.as_ref(), bias.as_ref(), self.eps, self.pytorch_compatible)
    }
}

/// A module that is its scale and shift, under its own name.
macro_rules! module_of_affine {
    ($($type:ty),*) => { $(
        impl Module for $type {
            fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
                self.affine.visit(prefix, f);
            }

            fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
                self.affine.visit_mut(prefix, f);
            }
        }
    )* };
}

module_of_affine!(LayerNorm, GroupNorm);
