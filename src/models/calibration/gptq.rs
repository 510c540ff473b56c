//! GPTQ (Frantar et al. 2022, arXiv:2210.17323): columns are rounded one after the other, and what each is off by is made up for by the
//! columns that follow.

use super::codes::{code, pack};
use super::gram::Gram;
use crate::mlx::ops::{self, Quantization, Quantized};
use crate::mlx::{Array, Dtype, Error, Result, eval, linalg};

/// Rows of a weight that are computed together: what a head of a large vocabulary takes is bounded by it.
const ROWS: i32 = 16_384;

/// How far the columns that follow make up for one: the upper triangle `U` with `Uᵀ U = H⁻¹`, float32 `[in, in]`.
pub(super) struct Compensation {
    pub(super) upper: Array,
}

impl Compensation {
    /// `damping` is added to the diagonal, in parts of its mean; ten times as much each time that the sums are not positive definite
    /// even so, which is nothing where they are not finite.
    ///
    /// With `F` for the reversal of rows and columns and `L Lᵀ = F H F`, `R = F L F` is upper triangular and `R Rᵀ = H`, so that
    /// `U = R⁻¹`: one factorisation, where inverting first takes two. Both in float64.
    pub fn new(gram: &Gram, damping: f32) -> Result<Option<Self>> {
        let width = gram.moments.dim(0);
        let mean = gram.moments.divide_scalar(gram.tokens.max(1) as f32)?;
        let diagonal = mean.diagonal(0, 0, 1)?;
        // An input that never was anything: any weight does, so that it is rounded as it is.
        let level = diagonal.mean_all()?.item()?;
        if !level.is_finite() || level <= 0. {
            return Ok(None);
        }
        let dead = diagonal.equal(&Array::scalar(0.))?;
        let own = ops::where_(&dead, &Array::scalar(level), &Array::scalar(0.))?;
        for attempt in 0..4 {
            let added = own.add_scalar(level * damping * 10f32.powi(attempt))?;
            let damped = mean.add(&added.diag(0)?)?;
            let reversed = damped.flip(&[0, 1])?.contiguous()?.astype(Dtype::Float64)?;
            let lower = linalg::cholesky(&reversed, false)?;
            let inverse = linalg::tri_inv(&lower, false)?.astype(Dtype::Float32)?;
            let upper = inverse.flip(&[0, 1])?.contiguous()?;
            upper.eval()?;
            if upper.isfinite()?.all_all()?.item()? != 0. {
                debug_assert_eq!(upper.shape(), [width, width]);
                return Ok(Some(Compensation { upper }));
            }
        }
        Ok(None)
    }

    /// Codes of a float weight `[out, in]`. A group's scale is that of rounding its columns as they are when their turn comes, in the
    /// dtype `scales`; it comes in the dtype of the weight.
    pub fn quantize(
        &self,
        weight: &Array,
        how: Quantization,
        scales: Dtype,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Quantized> {
        let mut parts = Vec::new();
        for start in (0..weight.dim(0)).step_by(ROWS as usize) {
            let rows = weight.slice_axis(0, start, (start + ROWS).min(weight.dim(0)))?;
            parts.push(self.quantize_rows(&rows, how, scales, check)?);
        }
        let together = |part: &dyn Fn(&Quantized) -> Option<Array>| -> Result<Array> {
            ops::concatenate(&parts.iter().filter_map(part).collect::<Vec<_>>(), 0)
        };
        let codes = Quantized {
            weight: together(&|codes| Some(codes.weight.clone()))?,
            scales: together(&|codes| Some(codes.scales.clone()))?,
            biases: Some(together(&|codes| codes.biases.clone())?),
        };
        super::super::checkpoint::eval_codes(&codes)?;
        Ok(codes)
    }

    fn quantize_rows(
        &self,
        weight: &Array,
        how: Quantization,
        scales: Dtype,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Quantized> {
        let (rows, width, size) = (weight.dim(0) as usize, weight.dim(1) as usize, how.group_size() as usize);
        let mut codes = vec![0u8; rows * width];
        let (mut all_scales, mut all_biases) = (Vec::new(), Vec::new());
        let mut rest = weight.astype(Dtype::Float32)?;
        for start in (0..width).step_by(size) {
            check()?;
            let left = rest.dim(1);
            let group = rest.slice_axis(1, 0, size as i32)?.contiguous()?;
            let found = ops::quantize(&group.astype(scales)?, how, None)?;
            let lost = || Error::Internal("affine codes without biases".into());
            let (scale, bias) = (found.scales.astype(weight.dtype())?, found.biases.ok_or_else(lost)?.astype(weight.dtype())?);
            eval(&[&group, &scale, &bias])?;
            let at = start as i32;
            let part = self.upper.slice_axis(0, at, at + size as i32)?.slice_axis(1, at, width as i32)?;
            let triangle = part.slice_axis(1, 0, size as i32)?.contiguous()?.to_f32()?;
            let mut work = Group {
                size,
                most: ((1u32 << how.bits()) - 1) as f32,
                triangle: &triangle,
                values: group.to_f32()?,
                scales: scale.to_f32()?,
                biases: bias.to_f32()?,
                codes: vec![0u8; rows * size],
            };
            work.run();
            for (row, own) in work.codes.chunks_exact(size).enumerate() {
                codes[row * width + start..][..size].copy_from_slice(own);
            }
            if left as usize > size {
                let errors = Array::from_slice(&work.values, &[rows as i32, size as i32])?;
                let made_up = errors.matmul(&part.slice_axis(1, size as i32, left)?)?;
                rest = rest.slice_axis(1, size as i32, left)?.subtract(&made_up)?;
                rest.eval()?;
            }
            all_scales.push(scale);
            all_biases.push(bias);
        }
        Ok(Quantized {
            weight: pack(&codes, rows, width, how.bits())?,
            scales: ops::concatenate(&all_scales, 1)?,
            biases: Some(ops::concatenate(&all_biases, 1)?),
        })
    }
}

/// The columns of one group, of all rows.
struct Group<'a> {
    size: usize,
    /// The largest code.
    most: f32,
    /// `[size, size]`, row by row.
    triangle: &'a [f32],
    /// `[rows, size]`: the numbers, and in the end what each column was off by over the triangle's diagonal.
    values: Vec<f32>,
    /// `[rows]`
    scales: Vec<f32>,
    biases: Vec<f32>,
    codes: Vec<u8>,
}

impl Group<'_> {
    /// Rows do not know of each other: each thread takes some.
    fn run(&mut self) {
        let (size, most, triangle) = (self.size, self.most, self.triangle);
        let rows = self.scales.len();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(rows.div_ceil(64)).max(1);
        let share = rows.div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let parts = self.values.chunks_mut(share * size).zip(self.codes.chunks_mut(share * size));
            for ((values, codes), (scales, biases)) in parts.zip(self.scales.chunks(share).zip(self.biases.chunks(share))) {
                scope.spawn(move || {
                    let lines = values.chunks_exact_mut(size).zip(codes.chunks_exact_mut(size));
                    for ((values, codes), (&scale, &bias)) in lines.zip(scales.iter().zip(biases)) {
                        for column in 0..size {
                            let own = &triangle[column * size..][column..size];
                            let chosen = code(values[column], scale, bias, most);
                            codes[column] = chosen as u8;
                            let error = (values[column] - (chosen * scale + bias)) / own[0];
                            values[column] = error;
                            for (value, factor) in values[column + 1..].iter_mut().zip(&own[1..]) {
                                *value -= error * factor;
                            }
                        }
                    }
                });
            }
        });
    }
}
