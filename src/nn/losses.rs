//! The losses of `mlx.nn.losses`: the same names, defaults and numbers, but half precision is computed and returned in float32, and
//! gradients are finite where a formula divides by zero.

use std::f64::consts::{LN_2, PI};

use crate::mlx::{Array, Dtype, Error, Result, ops};

/// What becomes of the losses of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    None,
    Mean,
    Sum,
}

impl Reduction {
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "none" => Ok(Reduction::None),
            "mean" => Ok(Reduction::Mean),
            "sum" => Ok(Reduction::Sum),
            _ => Err(Error::Argument(format!("the reduction must be none, mean or sum, not '{name}'"))),
        }
    }

    fn of(self, losses: Array) -> Result<Array> {
        match self {
            Reduction::None => Ok(losses),
            Reduction::Mean => losses.mean_all(),
            Reduction::Sum => losses.sum_all(),
        }
    }
}

/// Half precision becomes float32.
fn full(array: &Array) -> Result<Array> {
    match array.dtype() {
        Dtype::Float16 | Dtype::Bfloat16 => array.astype(Dtype::Float32),
        _ => Ok(array.clone()),
    }
}

/// Arrays of one shape, in full precision.
fn same<const N: usize>(loss: &str, arrays: [(&str, &Array); N]) -> Result<[Array; N]> {
    let (first, like) = arrays[0];
    for (name, array) in &arrays[1..] {
        if array.shape() != like.shape() {
            let (found, wanted) = (array.shape(), like.shape());
            return Err(Error::Shape(format!("{loss}: {name} have shape {found:?}, but {first} have {wanted:?}")));
        }
    }
    let converted: Result<Vec<Array>> = arrays.iter().map(|(_, array)| full(array)).collect();
    converted?.try_into().map_err(|_| Error::Internal("as many arrays come out as went in".into()))
}

/// The axis counted from the front.
fn counted(loss: &str, array: &Array, axis: i32) -> Result<usize> {
    let ndim = array.ndim() as i32;
    if axis < -ndim || axis >= ndim {
        return Err(Error::Shape(format!("{loss}: axis {axis} is not one of shape {:?}", array.shape())));
    }
    Ok(axis.rem_euclid(ndim) as usize)
}

fn weighted(loss: &str, losses: Array, weights: Option<&Array>) -> Result<Array> {
    let Some(weights) = weights else { return Ok(losses) };
    let [losses, weights] = same(loss, [("losses", &losses), ("weights", weights)])?;
    losses.multiply(&weights)
}

fn positive(loss: &str, name: &str, value: f32) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::Argument(format!("{loss}: {name} must be a positive number, not {value}")))
}

/// The entries that integer `targets` name along an axis of `array`, which goes.
fn pick(loss: &str, array: &Array, targets: &Array, axis: usize) -> Result<Array> {
    let mut shape = array.shape().to_vec();
    shape.remove(axis);
    if targets.shape() != shape {
        let (found, whole) = (targets.shape(), array.shape());
        return Err(Error::Shape(format!(
            "{loss}: targets of shape {found:?} for inputs of shape {whole:?}; they should have {shape:?}"
        )));
    }
    if targets.dtype().is_float() || matches!(targets.dtype(), Dtype::Bool | Dtype::Complex64) {
        return Err(Error::Dtype(format!("{loss}: class targets must be integers, not {}", targets.dtype().name())));
    }
    array.take_along_axis_bounded(&targets.expand_dims(&[axis as i32])?, axis as i32)?.squeeze(&[axis as i32])
}

/// How `cross_entropy` weighs and reduces.
#[derive(Clone, Debug)]
pub struct CrossEntropy<'a> {
    /// One factor per loss.
    pub weights: Option<&'a Array>,
    pub axis: i32,
    /// The share of the target that goes to all classes alike, in [0, 1).
    pub label_smoothing: f32,
    pub reduction: Reduction,
}

impl Default for CrossEntropy<'_> {
    fn default() -> Self {
        CrossEntropy { weights: None, axis: -1, label_smoothing: 0.0, reduction: Reduction::None }
    }
}

/// Cross entropy of `logits` with `targets`: class numbers (one rank less) or probabilities (the logits' shape).
/// Class numbers are not checked against the number of classes: MLX does not.
pub fn cross_entropy(logits: &Array, targets: &Array, options: &CrossEntropy) -> Result<Array> {
    let name = "cross_entropy";
    let smoothing = options.label_smoothing;
    if !(0.0..1.0).contains(&smoothing) {
        return Err(Error::Argument(format!("{name}: label smoothing must be in [0, 1), not {smoothing}")));
    }
    let axis = counted(name, logits, options.axis)?;
    let over = [axis as i32];
    let logits = full(logits)?;
    let shifted = logits.subtract(&logits.max(&over, true)?.stop_gradient()?)?;
    let score = if targets.ndim() == logits.ndim() {
        let [shifted, targets] = same(name, [("logits", &shifted), ("target probabilities", targets)])?;
        shifted.multiply(&targets)?.sum(&over, false)?
    } else {
        pick(name, &shifted, targets, axis)?
    };
    let normaliser = shifted.logsumexp(&over, false)?;
    let losses = if smoothing > 0.0 {
        let mean = shifted.mean(&over, false)?;
        normaliser.subtract(&score.multiply_scalar(1.0 - smoothing)?.add(&mean.multiply_scalar(smoothing)?)?)?
    } else {
        normaliser.subtract(&score)?
    };
    options.reduction.of(weighted(name, losses, options.weights)?)
}

/// `log(x)`, but -100 for 0, with no gradient there.
fn clipped_log(x: &Array) -> Result<Array> {
    let zero = x.equal(&Array::scalar_of(0.0, x.dtype())?)?;
    let log = ops::where_(&zero, &ops::ones_like(x)?, x)?.log()?.maximum_scalar(-100.0)?;
    ops::where_(&zero, &ops::full_like(x, -100.0)?, &log)
}

/// Binary cross entropy of logits (`with_logits`) or probabilities with targets in [0, 1]. Logarithms stop at -100.
pub fn binary_cross_entropy(
    inputs: &Array,
    targets: &Array,
    weights: Option<&Array>,
    with_logits: bool,
    reduction: Reduction,
) -> Result<Array> {
    let name = "binary_cross_entropy";
    let [inputs, targets] = same(name, [("inputs", inputs), ("targets", targets)])?;
    let losses = if with_logits {
        inputs.logaddexp(&Array::scalar_of(0.0, inputs.dtype())?)?.subtract(&inputs.multiply(&targets)?)?
    } else {
        let rest = targets.negative()?.add_scalar(1.0)?;
        let (yes, no) = (clipped_log(&inputs)?, clipped_log(&inputs.negative()?.add_scalar(1.0)?)?);
        targets.multiply(&yes)?.add(&rest.multiply(&no)?)?.negative()?
    };
    reduction.of(weighted(name, losses, weights)?)
}

/// `|prediction - target|`
pub fn l1_loss(predictions: &Array, targets: &Array, reduction: Reduction) -> Result<Array> {
    let [predictions, targets] = same("l1_loss", [("predictions", predictions), ("targets", targets)])?;
    reduction.of(predictions.subtract(&targets)?.abs()?)
}

/// `(prediction - target)²`
pub fn mse_loss(predictions: &Array, targets: &Array, reduction: Reduction) -> Result<Array> {
    let [predictions, targets] = same("mse_loss", [("predictions", predictions), ("targets", targets)])?;
    reduction.of(predictions.subtract(&targets)?.square()?)
}

/// Minus the log-probability (of `inputs`) of each integer target. Targets are not checked against the number of classes.
pub fn nll_loss(inputs: &Array, targets: &Array, axis: i32, reduction: Reduction) -> Result<Array> {
    let axis = counted("nll_loss", inputs, axis)?;
    reduction.of(pick("nll_loss", &full(inputs)?, targets, axis)?.negative()?)
}

/// `½ (log v + (target - input)² / v)` with the variance `v` at least `eps`; `full` adds `½ log 2π`.
pub fn gaussian_nll_loss(
    inputs: &Array,
    targets: &Array,
    variances: &Array,
    with_constant: bool,
    eps: f32,
    reduction: Reduction,
) -> Result<Array> {
    let name = "gaussian_nll_loss";
    positive(name, "eps", eps)?;
    let [inputs, targets, variances] = same(name, [("inputs", inputs), ("targets", targets), ("variances", variances)])?;
    let variances = variances.maximum_scalar(eps)?;
    let losses = variances.log()?.add(&targets.subtract(&inputs)?.square()?.divide(&variances)?)?.multiply_scalar(0.5)?;
    reduction.of(if with_constant { losses.add_scalar((0.5 * (2.0 * PI).ln()) as f32)? } else { losses })
}

/// Kullback-Leibler divergence over an axis; both sides are log-probabilities.
pub fn kl_div_loss(inputs: &Array, targets: &Array, axis: i32, reduction: Reduction) -> Result<Array> {
    let axis = counted("kl_div_loss", inputs, axis)? as i32;
    let [inputs, targets] = same("kl_div_loss", [("inputs", inputs), ("targets", targets)])?;
    reduction.of(targets.exp()?.multiply(&targets.subtract(&inputs)?)?.sum(&[axis], false)?)
}

/// Squared below `beta` (which may be 0), linear above.
pub fn smooth_l1_loss(predictions: &Array, targets: &Array, beta: f32, reduction: Reduction) -> Result<Array> {
    if beta == 0.0 {
        return l1_loss(predictions, targets, reduction);
    }
    positive("smooth_l1_loss", "beta", beta)?;
    let [predictions, targets] = same("smooth_l1_loss", [("predictions", predictions), ("targets", targets)])?;
    let gap = predictions.subtract(&targets)?.abs()?;
    let squared = gap.square()?.multiply_scalar(0.5)?.divide_scalar(beta)?;
    reduction.of(ops::where_(&gap.less_scalar(beta)?, &squared, &gap.add_scalar(-0.5 * beta)?)?)
}

/// Squared below `delta`, linear above (Huber 1964).
pub fn huber_loss(inputs: &Array, targets: &Array, delta: f32, reduction: Reduction) -> Result<Array> {
    positive("huber_loss", "delta", delta)?;
    let [inputs, targets] = same("huber_loss", [("inputs", inputs), ("targets", targets)])?;
    let gap = inputs.subtract(&targets)?.abs()?;
    let quadratic = gap.minimum_scalar(delta)?;
    let linear = gap.subtract(&quadratic)?.multiply_scalar(delta)?;
    reduction.of(quadratic.square()?.multiply_scalar(0.5)?.add(&linear)?)
}

/// What `triplet_loss` measures.
#[derive(Clone, Copy, Debug)]
pub struct Triplet {
    pub axis: i32,
    /// Of the norm.
    pub p: f32,
    pub margin: f32,
    /// Added to the sum under the root.
    pub eps: f32,
    pub reduction: Reduction,
}

impl Default for Triplet {
    fn default() -> Self {
        Triplet { axis: -1, p: 2.0, margin: 1.0, eps: 1e-6, reduction: Reduction::None }
    }
}

/// `max(distance to the positive - distance to the negative + margin, 0)`
pub fn triplet_loss(anchors: &Array, positives: &Array, negatives: &Array, options: &Triplet) -> Result<Array> {
    let name = "triplet_loss";
    positive(name, "p", options.p)?;
    positive(name, "eps", options.eps)?;
    let axis = counted(name, anchors, options.axis)? as i32;
    let [anchors, positives, negatives] = same(name, [("anchors", anchors), ("positives", positives), ("negatives", negatives)])?;
    let distance = |other: &Array| {
        let power = anchors.subtract(other)?.abs()?.power(&Array::scalar_of(f64::from(options.p), anchors.dtype())?)?;
        let sum = power.sum(&[axis], false)?.add_scalar(options.eps)?;
        sum.power(&Array::scalar_of(1.0 / f64::from(options.p), sum.dtype())?)
    };
    let gap = distance(&positives)?.subtract(&distance(&negatives)?)?;
    options.reduction.of(gap.add_scalar(options.margin)?.maximum_scalar(0.0)?)
}

/// `max(1 - input · target, 0)` with targets of -1 and 1.
pub fn hinge_loss(inputs: &Array, targets: &Array, reduction: Reduction) -> Result<Array> {
    let [inputs, targets] = same("hinge_loss", [("inputs", inputs), ("targets", targets)])?;
    reduction.of(inputs.multiply(&targets)?.negative()?.add_scalar(1.0)?.maximum_scalar(0.0)?)
}

/// `log cosh(input - target)`
pub fn log_cosh_loss(inputs: &Array, targets: &Array, reduction: Reduction) -> Result<Array> {
    let [inputs, targets] = same("log_cosh_loss", [("inputs", inputs), ("targets", targets)])?;
    let errors = inputs.subtract(&targets)?;
    reduction.of(errors.logaddexp(&errors.negative()?)?.add_scalar(-LN_2 as f32)?)
}

/// `x1 · x2 / max(‖x1‖ ‖x2‖, eps)` over an axis: a similarity, as in `mlx.nn`.
pub fn cosine_similarity_loss(x1: &Array, x2: &Array, axis: i32, eps: f32, reduction: Reduction) -> Result<Array> {
    let name = "cosine_similarity_loss";
    positive(name, "eps", eps)?;
    let axis = counted(name, x1, axis)? as i32;
    let [x1, x2] = same(name, [("x1", x1), ("x2", x2)])?;
    // The root of 0 has no gradient.
    let norm = |x: &Array| x.square()?.sum(&[axis], false)?.maximum_scalar(f32::MIN_POSITIVE)?.sqrt();
    let product = x1.multiply(&x2)?.sum(&[axis], false)?;
    reduction.of(product.divide(&norm(&x1)?.multiply(&norm(&x2)?)?.maximum_scalar(eps)?)?)
}

/// `max(0, -target · (input1 - input2) + margin)` with targets of -1 and 1.
pub fn margin_ranking_loss(
    inputs1: &Array,
    inputs2: &Array,
    targets: &Array,
    margin: f32,
    reduction: Reduction,
) -> Result<Array> {
    let named = [("inputs1", inputs1), ("inputs2", inputs2), ("targets", targets)];
    let [inputs1, inputs2, targets] = same("margin_ranking_loss", named)?;
    let losses = targets.multiply(&inputs2.subtract(&inputs1)?)?.add_scalar(margin)?;
    reduction.of(losses.maximum_scalar(0.0)?)
}
