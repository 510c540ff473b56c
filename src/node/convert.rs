//! Checkpoints into other checkpoints, and what is in them.

use std::path::{Path, PathBuf};

use napi::Env;
use napi::bindgen_prelude::{FnArgs, Function, Object};
use napi_derive::napi;

use super::cancel::{Cancel, flag};
use super::error as js;
use super::promise;
use super::quantize::{LeftLayer, QuantizeSettings, reporter};
use crate::mlx::{Dtype, Result, memory};
use crate::models::{Conversion, ConvertOptions, inspect};

#[napi(object)]
pub struct ConvertSettings {
    /// float32, float16 or bfloat16.
    pub dtype: Option<String>,
    pub quantize: Option<QuantizeSettings>,
    pub dequantize: Option<bool>,
    /// A file of weights is no larger, unless one weight is.
    pub shard_bytes: Option<f64>,
}

impl ConvertSettings {
    fn parse(self) -> Result<ConvertOptions> {
        let default = ConvertOptions::default();
        Ok(ConvertOptions {
            dtype: self.dtype.as_deref().map(Dtype::parse).transpose()?,
            quantize: self.quantize.map(QuantizeSettings::parse).transpose()?,
            dequantize: self.dequantize.unwrap_or(false),
            shard_bytes: self.shard_bytes.map_or(default.shard_bytes, |bytes| bytes.max(1.) as u64),
        })
    }
}

/// A checkpoint that a conversion writes, or would.
#[napi(object)]
pub struct ConvertReport {
    pub dtype: String,
    /// Of the weights.
    pub bytes: f64,
    /// Numbers that they stand for.
    pub parameters: f64,
    pub bits_per_weight: f64,
    /// Names of the layers that it packs.
    pub packed: Vec<String>,
    /// Layers that were to be packed and are not.
    pub left: Vec<LeftLayer>,
}

impl ConvertReport {
    fn new(dtype: Dtype, size: crate::models::PackedSize, plan: crate::models::Plan) -> Self {
        ConvertReport {
            dtype: dtype.name().to_string(),
            bytes: size.bytes as f64,
            parameters: size.parameters as f64,
            bits_per_weight: size.bytes as f64 * 8. / size.parameters as f64,
            packed: plan.packed.into_iter().map(|(name, _)| name).collect(),
            left: plan.left.into_iter().map(|(name, reason)| LeftLayer { name, reason }).collect(),
        }
    }
}

/// What `convertCheckpoint` would write.
#[napi(ts_return_type = "Promise<ConvertReport>")]
pub fn plan_conversion(env: &Env, dir: String, settings: ConvertSettings) -> js::Result<Object<'_>> {
    let options = settings.parse()?;
    let work = move || Conversion::plan(Path::new(&dir), options);
    promise::once(
        env,
        move || work().map(|conversion| (conversion.dtype(), conversion.size(), conversion.into_plan())),
        |(dtype, size, plan)| ConvertReport::new(dtype, size, plan),
    )
}

/// Writes a checkpoint as another one: configuration and weights, tensor by tensor, into `out`, where files of weights that an earlier,
/// interrupted call finished are kept. `onProgress` gets bytes written and bytes in all.
#[napi(ts_return_type = "Promise<ConvertReport>")]
pub fn convert_checkpoint<'env>(
    env: &'env Env,
    dir: String,
    out: String,
    settings: ConvertSettings,
    cancel: Option<&Cancel>,
    #[napi(ts_arg_type = "(written: number, total: number) => void")] on_progress: Option<Function<FnArgs<(f64, f64)>, ()>>,
) -> js::Result<Object<'env>> {
    let (options, report, cancel) = (settings.parse()?, reporter(on_progress)?, flag(cancel));
    let (dir, out) = (PathBuf::from(dir), PathBuf::from(out));
    promise::once(
        env,
        move || {
            let conversion = Conversion::plan(&dir, options)?;
            let converted = conversion.run(&dir, &out, &mut |written, total| {
                cancel.check()?;
                report(written, total);
                Ok(())
            });
            memory::clear_cache()?;
            converted
        },
        |converted| ConvertReport::new(converted.dtype, converted.size, converted.plan),
    )
}

/// Everything about a checkpoint folder as JSON, after all checks that loading makes; no weight is read.
#[napi]
pub fn inspect_checkpoint(dir: String) -> js::Result<String> {
    Ok(inspect(Path::new(&dir))?.to_string())
}
