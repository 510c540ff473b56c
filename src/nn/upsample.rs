//! Resizing of spatial axes, channels last: one axis after the other, with the sampling positions of `mlx.nn.Upsample`.

use crate::mlx::{Array, Dtype, Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    Nearest,
    Linear,
    Cubic,
}

impl Interpolation {
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "nearest" => Ok(Interpolation::Nearest),
            "linear" => Ok(Interpolation::Linear),
            "cubic" => Ok(Interpolation::Cubic),
            _ => Err(Error::Argument(format!("the mode of upsampling must be nearest, linear or cubic, not '{name}'"))),
        }
    }
}

/// One input element per output position, with its factor.
type Tap = (Vec<i32>, Vec<f32>);

/// `x` `[N, .., C]` with each spatial axis multiplied by its factor (sizes are rounded down).
///
/// `align_corners` puts the first and last samples onto each other. `antialias` widens the kernel when it shrinks, and uses the cubic kernel
/// with a = -0.5 in place of -0.75.
pub fn upsample(x: &Array, factors: &[f64], mode: Interpolation, align_corners: bool, antialias: bool) -> Result<Array> {
    if x.ndim() < 3 || factors.len() != x.ndim() - 2 {
        return Err(Error::Shape(format!(
            "upsampling needs one factor for each spatial axis of [N, .., C]: {} factors for {:?}",
            factors.len(),
            x.shape()
        )));
    }
    if antialias && align_corners {
        return Err(Error::Argument("upsampling cannot both align corners and antialias".into()));
    }
    let mut y = x.clone();
    for (i, &factor) in factors.iter().enumerate() {
        let (axis, size) = (i as i32 + 1, x.shape()[i + 1]);
        let length = (factor * f64::from(size)).floor();
        if !(length >= 1.0 && length <= f64::from(i32::MAX)) {
            return Err(Error::Argument(format!("a factor of {factor} gives {size} elements no size of at least 1")));
        }
        let length = length as i32;
        y = match mode {
            Interpolation::Nearest if factor.fract() == 0.0 => y.repeat(factor as i32, axis)?,
            Interpolation::Nearest => y.take(&indices(&nearest(size, length))?, axis)?,
            _ => {
                let positions = positions(size, length, factor, align_corners);
                let taps = match (mode, antialias) {
                    (_, true) => widened(&positions, size, factor, mode),
                    (Interpolation::Cubic, false) => cubic(&positions, size),
                    _ => linear(&positions, size),
                };
                weighted(&y, &taps, axis)?
            }
        };
    }
    Ok(y)
}

fn indices(values: &[i32]) -> Result<Array> {
    Array::from_slice(values, &[values.len() as i32])
}

fn nearest(size: i32, length: i32) -> Vec<i32> {
    let ratio = (f64::from(size) / f64::from(length)) as f32;
    let at = |i: i32| if length > size { ((i as f32 + 0.5) * ratio - 0.5).round_ties_even() } else { i as f32 * ratio };
    (0..length).map(|i| (at(i) as i32).clamp(0, size - 1)).collect()
}

/// Where each output element stands between the input elements.
fn positions(size: i32, length: i32, factor: f64, align_corners: bool) -> Vec<f32> {
    let (step, start) = if align_corners {
        (f64::from(size - 1) / f64::from((length - 1).max(1)), 0.0)
    } else {
        let step = 1.0 / factor;
        (step, (f64::from(length - 1) * step - f64::from(size) + 1.0) / 2.0)
    };
    (0..length).map(|i| i as f32 * step as f32 - start as f32).collect()
}

fn linear(positions: &[f32], size: i32) -> Vec<Tap> {
    let clipped: Vec<f32> = positions.iter().map(|position| position.clamp(0.0, (size - 1) as f32)).collect();
    let weights: Vec<f32> = clipped.iter().map(|position| position - position.floor()).collect();
    vec![
        (clipped.iter().map(|position| position.floor() as i32).collect(), weights.iter().map(|weight| 1.0 - weight).collect()),
        (clipped.iter().map(|position| position.ceil() as i32).collect(), weights),
    ]
}

/// Keys' kernel (1981) with its parameter `a`, at a distance of at most 2.
fn keys(distance: f32, a: f32) -> f32 {
    let x = distance;
    if x <= 1.0 { ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0 } else { (((x - 5.0) * x + 8.0) * x - 4.0) * a }
}

fn cubic(positions: &[f32], size: i32) -> Vec<Tap> {
    (-1..=2)
        .map(|k| {
            positions
                .iter()
                .map(|position| {
                    let element = position.floor() + k as f32;
                    (element.clamp(0.0, (size - 1) as f32) as i32, keys((position - element).abs(), -0.75))
                })
                .unzip()
        })
        .collect()
}

/// A kernel made wider where the result is smaller; elements beyond the border do not count.
fn widened(positions: &[f32], size: i32, factor: f64, mode: Interpolation) -> Vec<Tap> {
    let width = if factor < 1.0 { (1.0 / factor) as f32 } else { 1.0 };
    let radius = if mode == Interpolation::Cubic { 2.0 } else { 1.0 };
    let reach = (radius * f64::from(width)).ceil() as i32 + 1;
    let kernel = |distance: f32| match mode {
        Interpolation::Cubic if distance > 2.0 => 0.0,
        Interpolation::Cubic => keys(distance, -0.5),
        _ => (1.0 - distance).max(0.0),
    };
    let weight = |position: f32, k: i32| {
        let element = position.floor() + k as f32;
        let inside = (0.0..size as f32).contains(&element);
        (element, if inside { kernel((position - element).abs() / width) } else { 0.0 })
    };
    let sums: Vec<f32> = positions
        .iter()
        .map(|&position| {
            let sum: f32 = (1 - reach..reach).map(|k| weight(position, k).1).sum();
            if sum > 0.0 { sum } else { 1.0 }
        })
        .collect();
    (1 - reach..reach)
        .map(|k| {
            positions
                .iter()
                .zip(&sums)
                .map(|(&position, sum)| {
                    let (element, weight) = weight(position, k);
                    (element.clamp(0.0, (size - 1) as f32) as i32, weight / sum)
                })
                .unzip()
        })
        .collect()
}

fn weighted(x: &Array, taps: &[Tap], axis: i32) -> Result<Array> {
    let mut along = vec![1; x.ndim()];
    along[axis as usize] = -1;
    let mut sum: Option<Array> = None;
    for (elements, weights) in taps {
        if weights.iter().all(|&weight| weight == 0.0) {
            continue;
        }
        let weights = Array::from_slice(weights, &[weights.len() as i32])?.reshape(&along)?;
        let weights = if x.dtype().is_float() { weights.astype(x.dtype())? } else { weights };
        let term = x.take(&indices(elements)?, axis)?.multiply(&weights)?;
        sum = Some(match sum {
            Some(sum) => sum.add(&term)?,
            None => term,
        });
    }
    sum.map_or_else(|| x.take(&indices(&[])?, axis)?.astype(Dtype::Float32), Ok)
}
