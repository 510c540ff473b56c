//! Short-time Fourier transforms, as `mlx.core.fft.stft` and `istft` have them since MLX 0.32.4: of stretches of the last axis that overlap.

use super::fft::{self, FftNorm};
use super::ops::{self, arange, check, where_, zeros};
use super::{Array, Dtype, Error, Result};

/// Where the stretches lie, and what each is multiplied by.
#[derive(Clone, Debug)]
pub struct ShortTime {
    /// Samples of a stretch.
    pub n_fft: i32,
    /// Samples from one stretch to the next: a quarter of `n_fft` unless given.
    pub hop_length: Option<i32>,
    /// Length of the window of ones where none is given: `n_fft` unless given.
    pub win_length: Option<i32>,
    /// At most `n_fft` factors, centred in the stretch.
    pub window: Option<Array>,
    /// Whether a stretch is centred at its place, for which the signal is padded at both ends.
    pub center: bool,
    pub norm: FftNorm,
    /// Whether only the frequencies from 0 on are there: of real signals, unless told.
    pub onesided: Option<bool>,
}

impl ShortTime {
    /// The distance of stretches, and the window padded to `n_fft`.
    fn frame(&self, op: &str) -> Result<(i32, Array)> {
        check::at_least(op, "nFft", self.n_fft, 1)?;
        let hop = self.hop_length.unwrap_or(self.n_fft / 4);
        check::at_least(op, "hopLength (a quarter of nFft unless given)", hop, 1)?;
        let window = match &self.window {
            Some(window) => window.clone(),
            None => {
                let length = self.win_length.unwrap_or(self.n_fft);
                check::at_least(op, "winLength", length, 1)?;
                ops::ones(&[length], Dtype::Float32)?
            }
        };
        if window.ndim() != 1 || window.size() > self.n_fft as usize {
            let shape = window.shape();
            return Err(Error::Shape(format!(
                "{op}: a window has one axis of at most nFft = {}, got shape {shape:?}",
                self.n_fft
            )));
        }
        let missing = self.n_fft - window.dim(0);
        Ok((hop, window.pad(&[missing / 2], &[missing - missing / 2], 0.)?))
    }
}

/// Frequencies by stretches, complex64 `[.., frequencies, stretches]`, of a signal `[.., samples]`, padded in this mode where stretches are centred.
pub fn stft(x: &Array, how: &ShortTime, pad_mode: &str) -> Result<Array> {
    check::one_of("stft", "padMode", pad_mode, &["constant", "edge", "reflect"])?;
    check::min_ndim("stft", x, 1)?;
    check::not_empty("stft", x)?;
    let (hop, window) = how.frame("stft")?;
    let mut signal = x.clone();
    if how.center {
        let mut sides = vec![0; x.ndim()];
        sides[x.ndim() - 1] = how.n_fft / 2;
        signal = signal.pad_with(&sides, &sides, &Array::scalar_of(0., x.dtype())?, pad_mode)?;
    }
    let length = signal.dim(-1);
    if length < how.n_fft {
        return Err(Error::Shape(format!("stft: {length} samples are too few for nFft = {}", how.n_fft)));
    }
    let stretches = signal.take(&places((length - how.n_fft) / hop + 1, hop, how.n_fft)?, -1)?.multiply(&window)?;
    let complex = x.dtype() == Dtype::Complex64 || window.dtype() == Dtype::Complex64;
    let onesided = how.onesided.unwrap_or(!complex);
    let transform = if onesided && !complex { fft::rfftn } else { fft::fftn };
    let spectrum = transform(&stretches, None, Some(&[-1]), how.norm)?;
    let spectrum = if onesided { spectrum.slice_axis(-1, 0, how.n_fft / 2 + 1)? } else { spectrum };
    spectrum.swapaxes(-1, -2)
}

/// The signal `[.., samples]`, float32, of frequencies by stretches: what overlaps is added up, and divided by the sum of the squared windows.
/// With `length` it is cut, or padded with zeros, to that.
pub fn istft(x: &Array, how: &ShortTime, length: Option<i32>) -> Result<Array> {
    check::min_ndim("istft", x, 2)?;
    check::not_empty("istft", x)?;
    let (hop, window) = how.frame("istft")?;
    let spectrum = x.swapaxes(-1, -2)?;
    let stretches = if how.onesided.unwrap_or(true) {
        fft::irfftn(&spectrum, Some(&[how.n_fft]), Some(&[-1]), how.norm)?
    } else {
        fft::ifftn(&spectrum, Some(&[how.n_fft]), Some(&[-1]), how.norm)?.real()?
    };
    let count = stretches.dim(-2);
    let total = check::size("istft", i64::from(count - 1) * i64::from(hop) + i64::from(how.n_fft))?;
    let places = places(count, hop, how.n_fft)?;
    let sum = |parts: &Array| -> Result<Array> {
        let rows = parts.reshape(&[-1, count * how.n_fft])?;
        let places = places.reshape(&[1, -1])?.broadcast_to(rows.shape())?;
        zeros(&[rows.dim(0), total], rows.dtype())?.scatter_add_axis(&places, &rows, -1)
    };
    let weight = sum(&window.multiply(&window)?.broadcast_to(&[count, how.n_fft])?)?;
    // Where no window reaches there is nothing to restore.
    let weight = where_(&weight.greater_scalar(1e-10)?, &weight, &ops::ones_like(&weight)?)?;
    let signal = sum(&stretches.multiply(&window)?)?.divide(&weight)?;
    let edge = if how.center { how.n_fft / 2 } else { 0 };
    let end = match length {
        None if total < 2 * edge => {
            return Err(Error::Shape(format!("istft: of {total} samples the padding of {edge} at both ends leaves nothing")));
        }
        None => total - edge,
        Some(length) => {
            check::at_least("istft", "length", length, 0)?;
            total.min(edge.saturating_add(length))
        }
    };
    let mut signal = signal.slice_axis(-1, edge.min(total), end)?;
    if let Some(missing) = length.map(|length| length - (end - edge)).filter(|&missing| missing > 0) {
        signal = signal.pad(&[0, 0], &[0, missing], 0.)?;
    }
    let samples = signal.dim(-1);
    signal.reshape(&[&x.shape()[..x.ndim() - 2], &[samples]].concat())
}

/// Of each of `count` stretches, the places of its `size` samples: int32 `[count, size]`.
fn places(count: i32, hop: i32, size: i32) -> Result<Array> {
    let starts = arange(0., f64::from(count), 1., Dtype::Int32)?.multiply(&Array::scalar_i32(hop))?;
    starts.reshape(&[-1, 1])?.add(&arange(0., f64::from(size), 1., Dtype::Int32)?)
}
