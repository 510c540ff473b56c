//! Packing the layers of a model.

use napi::Env;
use napi::bindgen_prelude::{FnArgs, Function, Object};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;

use super::error::{self as js, argument};
use super::model::SharedModel;
use super::promise;
use crate::mlx::ops::{Quantization, QuantizationMode};
use crate::mlx::{Dtype, Error, Result, memory};
use crate::models::{CalibrateOptions, CalibratedLayer, Calibration, Method, Model, Plan, QuantizeOptions, Recipe, Watch};
use crate::runtime;

/// How the layers whose names fit are packed, if at all.
#[napi(object)]
pub struct QuantizeRule {
    /// The end of a layer's name, or a whole one in which `*` stands for anything.
    pub pattern: String,
    pub skip: Option<bool>,
    pub bits: Option<i32>,
    pub group_size: Option<i32>,
    pub mode: Option<String>,
}

#[napi(object)]
pub struct QuantizeSettings {
    pub bits: Option<i32>,
    pub group_size: Option<i32>,
    pub mode: Option<String>,
    pub recipe: Option<String>,
    pub rules: Option<Vec<QuantizeRule>>,
}

impl QuantizeSettings {
    pub(super) fn parse(self) -> Result<QuantizeOptions> {
        let mode = self.mode.as_deref().map_or(Ok(QuantizationMode::Affine), QuantizationMode::parse)?;
        let how = Quantization::new(mode, self.group_size, self.bits)?;
        let rule = |rule: QuantizeRule| -> Result<(String, Option<Quantization>)> {
            if rule.skip == Some(true) {
                return Ok((rule.pattern, None));
            }
            let own = rule.mode.as_deref().map_or(Ok(mode), QuantizationMode::parse)?;
            // Another mode has groups and bits of its own.
            let group = rule.group_size.or(if own == mode { self.group_size } else { None });
            let bits = rule.bits.or(if own == mode { self.bits } else { None });
            Ok((rule.pattern, Some(Quantization::new(own, group, bits)?)))
        };
        Ok(QuantizeOptions {
            how,
            recipe: self.recipe.as_deref().map(Recipe::parse).transpose()?,
            rules: self.rules.unwrap_or_default().into_iter().map(rule).collect::<Result<_>>()?,
        })
    }
}

/// A layer that stays as it is.
#[napi(object)]
pub struct LeftLayer {
    pub name: String,
    pub reason: String,
}

/// What calibrating has made of a layer. Errors are squared errors of its outputs over the calibration inputs, in parts of the squared
/// outputs.
#[napi(object)]
pub struct CalibratedLayerReport {
    pub name: String,
    /// 'rtn' where the method had nothing to go by, or was no better.
    pub method: String,
    pub error: f64,
    /// What rounding to the nearest would cost.
    pub rtn_error: f64,
    /// Inputs that it was fitted to.
    pub tokens: f64,
    /// What is special about it.
    pub note: Option<String>,
}

impl From<CalibratedLayer> for CalibratedLayerReport {
    fn from(layer: CalibratedLayer) -> Self {
        let CalibratedLayer { name, method, error, rtn_error, tokens, note } = layer;
        CalibratedLayerReport { name, method: method.into(), error, rtn_error, tokens: tokens as f64, note }
    }
}

/// How a model is packed with the help of texts.
#[napi(object)]
pub struct CalibrationSettings {
    pub method: String,
    /// Token ids.
    pub rows: Vec<Vec<i32>>,
    pub batch_size: u32,
    pub damping: f64,
    pub scale_dtype: Option<String>,
}

impl CalibrationSettings {
    fn parse(self) -> Result<CalibrateOptions> {
        Ok(CalibrateOptions {
            method: Method::parse(&self.method)?,
            rows: self.rows,
            batch_size: self.batch_size as usize,
            damping: self.damping as f32,
            scales: self.scale_dtype.as_deref().map(Dtype::parse).transpose()?,
        })
    }
}

/// What quantising has done.
#[napi(object)]
pub struct QuantizeReport {
    /// Names of the layers that it packed.
    pub packed: Vec<String>,
    /// Layers that stay as they are.
    pub left: Vec<LeftLayer>,
    /// Of the whole model, adapter aside.
    pub bytes: f64,
    pub bits_per_weight: f64,
    /// Layer by layer, where a method was fitted to texts.
    pub layers: Option<Vec<CalibratedLayerReport>>,
}

impl QuantizeReport {
    fn new(model: &Model, plan: Plan, layers: Option<Vec<CalibratedLayer>>) -> Self {
        let size = model.size();
        QuantizeReport {
            packed: plan.packed.into_iter().map(|(name, _)| name).collect(),
            left: plan.left.into_iter().map(|(name, reason)| LeftLayer { name, reason }).collect(),
            bytes: size.bytes as f64,
            bits_per_weight: size.bytes as f64 * 8. / size.parameters as f64,
            layers: layers.map(|layers| layers.into_iter().map(Into::into).collect()),
        }
    }
}

type OnProgress<'a> = Option<Function<'a, FnArgs<(f64, f64)>, ()>>;

/// A function for any thread that tells JavaScript of two numbers, or nobody.
pub(super) fn reporter(on_progress: OnProgress) -> js::Result<Box<dyn Fn(u64, u64) + Send>> {
    let Some(callback) = on_progress else { return Ok(Box::new(|_, _| ())) };
    let report = callback
        .build_threadsafe_function()
        .weak::<true>()
        .callee_handled::<false>()
        .max_queue_size::<64>()
        .build()
        .map_err(argument)?;
    Ok(Box::new(move |done, total| {
        // A full queue only drops a report.
        let _ = report.call(FnArgs::from((done as f64, total as f64)), ThreadsafeFunctionCallMode::NonBlocking);
    }))
}

/// One layer a slice, so that others who wait for the model get their turn.
pub(super) fn quantize<'env>(
    env: &'env Env,
    shared: SharedModel,
    settings: QuantizeSettings,
    cancel: runtime::Cancel,
    on_progress: OnProgress,
) -> js::Result<Object<'env>> {
    let (options, report) = (settings.parse()?, reporter(on_progress)?);
    let mut state: Option<(Plan, usize)> = None;
    let work = move || {
        cancel.check()?;
        let mut model = shared.lock()?;
        let (plan, next) = match &mut state {
            Some(state) => state,
            None => state.insert((model.plan_quantization(&options)?, 0)),
        };
        if let Some((name, how)) = plan.packed.get(*next) {
            model.pack_layer(name, *how)?;
            *next += 1;
            report(*next as u64, plan.packed.len() as u64);
            return Ok(None);
        }
        memory::clear_cache()?;
        Ok(Some(QuantizeReport::new(&model, std::mem::take(plan), None)))
    };
    promise::sliced(env, work, |report| report)
}

/// One block a slice.
pub(super) fn calibrate<'env>(
    env: &'env Env,
    shared: SharedModel,
    settings: QuantizeSettings,
    calibration: CalibrationSettings,
    cancel: runtime::Cancel,
    on_progress: OnProgress,
) -> js::Result<Object<'env>> {
    let (options, report) = (settings.parse()?, reporter(on_progress)?);
    let mut given = Some(calibration.parse()?);
    let mut state: Option<Calibration> = None;
    let work = move || {
        cancel.check()?;
        let mut model = shared.lock()?;
        if let Some(given) = given.take() {
            state = Some(Calibration::new(&model, &options, given)?);
            return Ok(None);
        }
        let Some(run) = &mut state else { return Err(Error::Internal("a finished calibration ran again".into())) };
        if !run.step(&mut model, &Watch { progress: &*report, check: &|| cancel.check() })? {
            return Ok(None);
        }
        let report = state.take().map(Calibration::into_report);
        Ok(report.map(|(plan, layers)| QuantizeReport::new(&model, plan, Some(layers))))
    };
    promise::sliced(env, work, |report| report)
}

pub(super) fn dequantize<'env>(
    env: &'env Env,
    shared: SharedModel,
    cancel: runtime::Cancel,
    on_progress: OnProgress,
) -> js::Result<Object<'env>> {
    let report = reporter(on_progress)?;
    let mut total = None;
    let work = move || {
        cancel.check()?;
        let mut model = shared.lock()?;
        let packed = model.layer_names(true);
        let total = *total.get_or_insert(packed.len());
        if let Some(name) = packed.first() {
            model.unpack_layer(name)?;
            report((total - packed.len() + 1) as u64, total as u64);
            return Ok(None);
        }
        memory::clear_cache()?;
        Ok(Some(()))
    };
    promise::sliced(env, work, |()| ())
}
