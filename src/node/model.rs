//! A loaded checkpoint.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use napi::Env;
use napi::bindgen_prelude::{ClassInstance, Either, FnArgs, Function, Object};
use napi_derive::napi;

use super::cache::{ModelCacheOptions, NativeCache, NativePrefixCache};
use super::cancel::{Cancel, flag};
use super::engine::NativeEngine;
use super::error as js;
use super::generation::{BatchProgress, EngineOptions, generate_batch};
use super::promise;
use super::quantize::{CalibrationSettings, QuantizeSettings, calibrate, dequantize, quantize, reporter};
use super::sampling::GenerateOptions;
use super::score::token_logprobs;
use super::tokenizer::NativeTokenizer;
use super::{ArrayHandle, integers};
use crate::cache::Cache;
use crate::mlx::{Array, Dtype, Error, Result, memory};
use crate::models::{self, AdapterFormat, DEFAULT_NAME, Forward, Hidden, LoadOptions, LoraConfig, Model, MoeConfig, Targets};
use crate::nn::Weight;
use crate::runtime;

/// The model as its users share it: JavaScript, generations and trainers. Empty once disposed.
#[derive(Clone)]
pub(super) struct SharedModel(Arc<Mutex<Option<Model>>>);

/// A model that is there, locked.
pub(super) struct ModelGuard<'a>(MutexGuard<'a, Option<Model>>);

impl std::ops::Deref for ModelGuard<'_> {
    type Target = Model;
    fn deref(&self) -> &Model {
        self.0.as_ref().expect("checked when locked")
    }
}

impl std::ops::DerefMut for ModelGuard<'_> {
    fn deref_mut(&mut self) -> &mut Model {
        self.0.as_mut().expect("checked when locked")
    }
}

impl SharedModel {
    fn new(model: Model) -> Self {
        SharedModel(Arc::new(Mutex::new(Some(model))))
    }

    pub(super) fn is(&self, other: &SharedModel) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn lock(&self) -> Result<ModelGuard<'_>> {
        let guard = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if guard.is_none() {
            return Err(Error::Disposed("model"));
        }
        Ok(ModelGuard(guard))
    }
}

#[napi(object)]
pub struct LoadModelOptions {
    /// `auto` (float32 on the CPU, bfloat16 on a GPU), `float32`, `bfloat16` or `float16`.
    pub dtype: Option<String>,
    /// Packs layers while they are read.
    pub quantize: Option<QuantizeSettings>,
}

/// A layer with a weight matrix.
#[napi(object)]
pub struct LayerInfo {
    pub name: String,
    /// `[out, in]`, with the experts in front where there are several.
    pub shape: Vec<i32>,
    pub packed: bool,
}

#[napi(object)]
pub struct LoraOptions {
    /// Size of the low-rank factors, 8 by default.
    pub rank: Option<u32>,
    /// The factors' product is scaled by `alpha / rank` (`alpha / sqrt(rank)` with `useRslora`); 16 by default.
    pub alpha: Option<f64>,
    /// The layers to adapt: ends of their names such as `q_proj` or `mlp.gate`, in which `*` and `?` stand for anything but a dot and `**` for
    /// anything; `'all-linear'`; or, as a single text, a regular expression of whole names. By default the projections of attention and of
    /// MLPs that all tokens go through.
    pub target_modules: Option<Either<String, Vec<String>>>,
    /// Layers among these that get no adapter, named in the same way.
    pub exclude_modules: Option<Either<String, Vec<String>>>,
    /// The blocks that get one, by number from 0; all by default.
    pub layers_to_transform: Option<Vec<i32>>,
    /// The same as a count from the last block, as in mlx-lm; -1 for all.
    pub num_layers: Option<i32>,
    /// Ranks of layers that differ, by regular expressions of the ends of their names, of which the first that fits counts.
    pub rank_pattern: Option<serde_json::Map<String, serde_json::Value>>,
    /// The same of alpha.
    pub alpha_pattern: Option<serde_json::Map<String, serde_json::Value>>,
    /// The share of the factors' inputs that training drops, 0 by default.
    pub dropout: Option<f64>,
    /// Scale by `alpha / sqrt(rank)`.
    pub use_rslora: Option<bool>,
    /// DoRA: learn the length of each output apart from its direction.
    pub use_dora: Option<bool>,
    /// Of the first values.
    pub seed: Option<f64>,
}

fn targets_of(given: Either<String, Vec<String>>) -> Targets {
    match given {
        Either::A(text) if text.eq_ignore_ascii_case("all-linear") => Targets::AllLinear,
        Either::A(pattern) => Targets::Pattern(pattern),
        Either::B(names) => Targets::Names(names),
    }
}

impl LoraOptions {
    fn config(self) -> Result<LoraConfig> {
        let usual = LoraConfig::default();
        let rank = |value: &serde_json::Value| value.as_i64().and_then(|rank| i32::try_from(rank).ok());
        let alpha = |value: &serde_json::Value| value.as_f64().map(|alpha| alpha as f32);
        Ok(LoraConfig {
            rank: self.rank.map_or(usual.rank, |rank| i32::try_from(rank).unwrap_or(i32::MAX)),
            alpha: self.alpha.map_or(usual.alpha, |alpha| alpha as f32),
            target_modules: self.target_modules.map_or(usual.target_modules, targets_of),
            exclude_modules: self.exclude_modules.map_or(usual.exclude_modules, targets_of),
            layers_to_transform: self.layers_to_transform,
            num_layers: self.num_layers,
            rank_pattern: patterns("rankPattern", self.rank_pattern, rank)?,
            alpha_pattern: patterns("alphaPattern", self.alpha_pattern, alpha)?,
            dropout: self.dropout.unwrap_or(0.) as f32,
            use_rslora: self.use_rslora.unwrap_or(false),
            use_dora: self.use_dora.unwrap_or(false),
            seed: self.seed.unwrap_or(0.) as u64,
        })
    }
}

fn patterns<T>(
    what: &str,
    given: Option<serde_json::Map<String, serde_json::Value>>,
    value: impl Fn(&serde_json::Value) -> Option<T>,
) -> Result<Vec<(String, T)>> {
    let read = |(pattern, number): (String, serde_json::Value)| {
        let read =
            value(&number).ok_or_else(|| Error::Argument(format!("{what}['{pattern}'] must be a number, not {number}")))?;
        Ok((pattern, read))
    };
    given.into_iter().flatten().map(read).collect()
}

/// What one forward pass gives.
#[napi(object, object_from_js = false)]
pub struct ForwardHandles {
    /// `[B, T, V]`
    pub logits: ArrayHandle,
    /// Of each layer with experts, `[B, T, experts]`; empty unless asked for.
    pub router_logits: Vec<ArrayHandle>,
}

/// A checkpoint in memory, with or without a LoRA adapter.
#[napi]
pub struct NativeModel {
    shared: SharedModel,
    /// Fixed at loading, so that reading them never waits for running work.
    model_type: String,
    dtype: Dtype,
    config_json: String,
    generation_config_json: String,
    num_parameters: f64,
    vocab_size: u32,
    context_length: u32,
    head_dim: i32,
    eos_token_ids: Vec<i32>,
    experts: Option<MoeConfig>,
}

impl NativeModel {
    fn new(model: Model) -> Self {
        let config = model.net.config();
        NativeModel {
            model_type: config.model_type.clone(),
            dtype: model.dtype,
            config_json: model.config_json.to_string(),
            generation_config_json: model.generation_config.as_ref().map_or_else(|| "{}".to_string(), |value| value.to_string()),
            num_parameters: model.size().parameters as f64,
            vocab_size: config.vocab_size as u32,
            context_length: config.max_position_embeddings as u32,
            head_dim: config.head_dim,
            eos_token_ids: model.eos_token_ids(),
            experts: config.experts().cloned(),
            shared: SharedModel::new(model),
        }
    }

    pub(super) fn shared(&self) -> SharedModel {
        self.shared.clone()
    }

    pub(super) fn eos(&self) -> &[i32] {
        &self.eos_token_ids
    }

    pub(super) fn vocabulary(&self) -> i32 {
        self.vocab_size as i32
    }

    pub(super) fn head_dim(&self) -> i32 {
        self.head_dim
    }
}

#[napi]
impl NativeModel {
    /// Loads a checkpoint folder (`config.json`, safetensors). `onProgress` gets bytes loaded and bytes in all.
    #[napi(ts_return_type = "Promise<NativeModel>")]
    pub fn load<'env>(
        env: &'env Env,
        dir: String,
        options: Option<LoadModelOptions>,
        cancel: Option<&Cancel>,
        #[napi(ts_arg_type = "(loaded: number, total: number) => void")] on_progress: Option<Function<FnArgs<(f64, f64)>, ()>>,
    ) -> js::Result<Object<'env>> {
        let (dtype, quantize) = options.map_or((None, None), |options| (options.dtype, options.quantize));
        let dtype = match dtype.as_deref() {
            None | Some("auto") => None,
            Some(name) => Some(Dtype::parse(name)?),
        };
        let options = LoadOptions { dtype, quantize: quantize.map(QuantizeSettings::parse).transpose()? };
        let report = reporter(on_progress)?;
        let cancel = flag(cancel);
        let dir = PathBuf::from(dir);
        promise::once(
            env,
            move || {
                models::load(&dir, &options, &mut |loaded, total| {
                    cancel.check()?;
                    report(loaded, total);
                    Ok(())
                })
            },
            NativeModel::new,
        )
    }

    /// A model of random weights from a `config.json` text, for training from scratch.
    #[napi(factory)]
    pub fn create(config_json: String, seed: Option<f64>, dtype: Option<String>) -> js::Result<NativeModel> {
        let config = serde_json::from_str(&config_json)
            .map_err(|error| Error::Config(format!("the configuration is not JSON: {error}")))?;
        let dtype = dtype.map_or(Ok(Dtype::Float32), |name| Dtype::parse(&name))?;
        let model = models::init(config, Path::new("configuration"), dtype, seed.unwrap_or(0.) as u64)?;
        Ok(NativeModel::new(model))
    }

    #[napi(getter)]
    pub fn model_type(&self) -> &str {
        &self.model_type
    }

    #[napi(getter)]
    pub fn dtype(&self) -> &str {
        self.dtype.name()
    }

    /// `config.json` as it was read.
    #[napi(getter)]
    pub fn config_json(&self) -> &str {
        &self.config_json
    }

    /// `generation_config.json` as it was read, `{}` without one.
    #[napi(getter)]
    pub fn generation_config_json(&self) -> &str {
        &self.generation_config_json
    }

    #[napi(getter)]
    pub fn num_parameters(&self) -> f64 {
        self.num_parameters
    }

    /// Parameters that training changes: the adapter's, or all.
    #[napi(getter)]
    pub fn num_trainable(&self) -> js::Result<f64> {
        let model = self.shared.lock()?;
        let names: std::collections::HashSet<String> = model.trainable().into_iter().collect();
        let sizes = model.parameters().into_iter().filter(|(name, _)| names.contains(name)).map(|(_, array)| array.size());
        Ok(sizes.sum::<usize>() as f64)
    }

    /// Layers with a weight matrix, in the order of the checkpoint's weights.
    #[napi]
    pub fn layers(&self) -> js::Result<Vec<LayerInfo>> {
        let model = self.shared.lock()?;
        let mut weights = Vec::new();
        model.net.weights("", &mut weights);
        let info = |(name, weight): (String, &Weight)| LayerInfo { name, shape: weight.shape(), packed: weight.is_packed() };
        Ok(weights.into_iter().map(info).collect())
    }

    /// The layers of a checkpoint folder, from its `config.json` alone.
    #[napi]
    pub fn layers_of(dir: String) -> js::Result<Vec<LayerInfo>> {
        let layers = models::layers_of(Path::new(&dir))?;
        Ok(layers.into_iter().map(|(name, shape)| LayerInfo { name, shape, packed: false }).collect())
    }

    /// The block `quantization` of `config.json` for the model as it is, as JSON; undefined where no layer is packed.
    #[napi(getter)]
    pub fn quantization_json(&self) -> js::Result<Option<String>> {
        Ok(self.shared.lock()?.quantization().map(|block| block.to_string()))
    }

    /// Packs layers, one in memory twice at a time. `onProgress` gets layers done and layers in all. Stopped, the layers done so far stay
    /// packed.
    #[napi(ts_return_type = "Promise<QuantizeReport>")]
    pub fn quantize<'env>(
        &self,
        env: &'env Env,
        settings: QuantizeSettings,
        cancel: Option<&Cancel>,
        #[napi(ts_arg_type = "(done: number, total: number) => void")] on_progress: Option<Function<FnArgs<(f64, f64)>, ()>>,
    ) -> js::Result<Object<'env>> {
        quantize(env, self.shared(), settings, flag(cancel), on_progress)
    }

    /// Packs all layers, fitted to the inputs that texts give them. `onProgress` gets layers done and layers in all.
    #[napi(ts_return_type = "Promise<QuantizeReport>")]
    pub fn calibrate<'env>(
        &self,
        env: &'env Env,
        settings: QuantizeSettings,
        calibration: CalibrationSettings,
        cancel: Option<&Cancel>,
        #[napi(ts_arg_type = "(done: number, total: number) => void")] on_progress: Option<Function<FnArgs<(f64, f64)>, ()>>,
    ) -> js::Result<Object<'env>> {
        calibrate(env, self.shared(), settings, calibration, flag(cancel), on_progress)
    }

    /// Log-probs of every token but the first of each row, after those before it. Rows of one length that follow each other are computed
    /// together, `batch_size` at most. `onProgress` gets rows done and rows in all.
    #[napi(ts_return_type = "Promise<Float32Array[]>")]
    pub fn token_logprobs<'env>(
        &self,
        env: &'env Env,
        rows: Vec<Vec<i32>>,
        batch_size: u32,
        cancel: Option<&Cancel>,
        #[napi(ts_arg_type = "(done: number, total: number) => void")] on_progress: Option<Function<FnArgs<(f64, f64)>, ()>>,
    ) -> js::Result<Object<'env>> {
        token_logprobs(env, self.shared(), rows, batch_size as usize, self.vocabulary(), flag(cancel), on_progress)
    }

    /// Unpacks what is packed.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn dequantize<'env>(
        &self,
        env: &'env Env,
        cancel: Option<&Cancel>,
        #[napi(ts_arg_type = "(done: number, total: number) => void")] on_progress: Option<Function<FnArgs<(f64, f64)>, ()>>,
    ) -> js::Result<Object<'env>> {
        dequantize(env, self.shared(), flag(cancel), on_progress)
    }

    #[napi(getter)]
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    #[napi(getter)]
    pub fn context_length(&self) -> u32 {
        self.context_length
    }

    /// Experts that each token uses in the layers that have them; null where no layer has.
    #[napi(getter)]
    pub fn num_experts_per_tok(&self) -> Option<i32> {
        self.experts.as_ref().map(|experts| experts.num_experts_per_tok)
    }

    /// Weight of the load-balancing loss by the model's own configuration; null where no layer has experts.
    #[napi(getter)]
    pub fn router_aux_loss_coef(&self) -> Option<f64> {
        self.experts.as_ref().map(|experts| experts.router_aux_loss_coef)
    }

    #[napi(getter)]
    pub fn eos_token_ids(&self) -> Vec<i32> {
        self.eos_token_ids.clone()
    }

    /// Logits `[B, T, V]` of token ids `[B, T]`, after what the caches hold, of which there is one per layer. Without caches rows may
    /// begin with padding. On an error the caches are as before. `outputRouterLogits` gives those of the layers with experts too. Waits
    /// while training holds the model.
    #[napi]
    pub fn forward(
        &self,
        input_ids: ArrayHandle,
        caches: Option<Vec<ClassInstance<NativeCache>>>,
        left_padding: Option<Vec<f64>>,
        output_router_logits: Option<bool>,
    ) -> js::Result<ForwardHandles> {
        let output_router_logits = output_router_logits.unwrap_or(false);
        if output_router_logits && self.experts.is_none() {
            return Err(Error::Argument(format!("outputRouterLogits: this {} has no experts", self.model_type)).into());
        }
        let ids = &*input_ids;
        if ids.ndim() != 2 || !matches!(ids.dtype(), Dtype::Int32 | Dtype::Uint32) || ids.size() == 0 {
            return Err(Error::Shape(format!(
                "forward needs token ids of shape [B, T] in int32; got {:?} of {}",
                ids.shape(),
                ids.dtype().name()
            ))
            .into());
        }
        let values = ids.to_i32()?;
        if let Some(id) = values.iter().find(|&&id| id < 0 || id >= self.vocab_size as i32) {
            return Err(Error::Argument(format!("token {id} is outside the vocabulary of {}", self.vocab_size)).into());
        }
        let padding = left_padding.map(|padding| integers("leftPadding", &padding)).transpose()?;
        let padding = padding.map(|padding| Array::from_slice(&padding, &[padding.len() as i32])).transpose()?;
        let model = self.shared.lock()?;
        let ids = ids.astype(Dtype::Int32)?;
        let mut instances = caches;
        let mut caches: Option<Vec<Cache>> =
            instances.as_ref().map(|caches| caches.iter().map(|cache| cache.cache.clone()).collect());
        let input = Forward { ids: &ids, left_padding: padding.as_ref(), caches: caches.as_deref_mut() };
        let Hidden { states, router_logits } = model.net.forward(input)?;
        let logits = model.net.logits(&states)?;
        for (instance, cache) in instances.iter_mut().flatten().zip(caches.into_iter().flatten()) {
            instance.cache = cache;
        }
        let router_logits = if output_router_logits { router_logits.into_iter().map(Into::into).collect() } else { Vec::new() };
        Ok(ForwardHandles { logits: logits.into(), router_logits })
    }

    /// One empty cache per layer: for one row, or for as many as numbers of padding.
    #[napi]
    pub fn new_caches(&self, options: ModelCacheOptions, left_padding: Option<Vec<f64>>) -> js::Result<Vec<NativeCache>> {
        let options = options.parse()?;
        let padding = left_padding.map(|padding| integers("leftPadding", &padding)).transpose()?;
        let model = self.shared.lock()?;
        let caches = match padding {
            Some(padding) => model.net.new_batch_caches_with(&padding, &options)?,
            None => model.net.new_caches_with(&options)?,
        };
        Ok(caches.into_iter().map(|cache| NativeCache { cache }).collect())
    }

    /// Names as in the checkpoint.
    #[napi]
    pub fn parameter_names(&self) -> js::Result<Vec<String>> {
        Ok(self.shared.lock()?.parameters().into_iter().map(|(name, _)| name).collect())
    }

    #[napi]
    pub fn parameter(&self, name: String) -> js::Result<ArrayHandle> {
        let model = self.shared.lock()?;
        let found = model.parameters().into_iter().find(|(candidate, _)| *candidate == name);
        Ok(found.ok_or_else(|| Error::Argument(format!("this model has no parameter '{name}'; see parameterNames()")))?.1.into())
    }

    /// An engine that decodes requests together; see `NativeEngine`. With a draft model or prompt lookup it answers them one after
    /// the other, checking several guessed tokens in each pass. Prompts are looked up in `prefix_cache`, where there is one, and put in.
    #[napi]
    pub fn create_engine(
        &self,
        options: Option<EngineOptions>,
        draft_model: Option<&NativeModel>,
        prefix_cache: Option<&NativePrefixCache>,
    ) -> js::Result<NativeEngine> {
        Ok(NativeEngine::new(self, &options.unwrap_or_default(), draft_model, prefix_cache)?)
    }

    /// Every prompt `n` times, all rows decoded together unless `limits` say otherwise; a prompt is prefilled once. Rows in group order.
    #[allow(clippy::too_many_arguments)]
    #[napi(ts_return_type = "Promise<BatchResult>")]
    pub fn generate_batch<'env>(
        &self,
        env: &'env Env,
        prompt_ids: Vec<Vec<i32>>,
        options: GenerateOptions,
        cancel: Option<&Cancel>,
        #[napi(ts_arg_type = "(progress: BatchProgress) => void")] on_progress: Option<Function<BatchProgress, ()>>,
        tokenizer: Option<&NativeTokenizer>,
        limits: Option<EngineOptions>,
        prefix_cache: Option<&NativePrefixCache>,
    ) -> js::Result<Object<'env>> {
        let limits = limits.unwrap_or_default();
        generate_batch(env, self, prompt_ids, options, tokenizer, limits, prefix_cache, flag(cancel), on_progress)
    }

    /// Adds the parts of an adapter, which counts from now on, and freezes everything else.
    #[napi]
    pub fn apply_lora(&self, options: LoraOptions, name: Option<String>) -> js::Result<()> {
        let config = options.config()?;
        Ok(self.shared.lock()?.add_adapter(name.as_deref().unwrap_or(DEFAULT_NAME), config)?)
    }

    /// Reads an adapter of PEFT or mlx-lm, in place of one of the same name; it counts from now on.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn load_adapter<'env>(&self, env: &'env Env, dir: String, name: Option<String>) -> js::Result<Object<'env>> {
        let shared = self.shared();
        let name = name.unwrap_or_else(|| DEFAULT_NAME.into());
        promise::once(env, move || shared.lock()?.load_adapter_as(&name, &PathBuf::from(dir)), |()| ())
    }

    /// Writes the active adapter into an existing folder, in the layout of `peft` (default) or `mlx-lm`.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn save_adapter<'env>(
        &self,
        env: &'env Env,
        dir: String,
        base_model: String,
        #[napi(ts_arg_type = "'peft' | 'mlx-lm'")] format: Option<String>,
    ) -> js::Result<Object<'env>> {
        let shared = self.shared();
        let format = format.map_or(Ok(AdapterFormat::default()), |name| AdapterFormat::parse(&name))?;
        promise::once(env, move || shared.lock()?.save_adapter(&PathBuf::from(dir), &base_model, format), |()| ())
    }

    /// The adapter that counts from now on; with null the base model computes.
    #[napi]
    pub fn set_adapter(&self, name: Option<String>) -> js::Result<()> {
        Ok(self.shared.lock()?.set_adapter(name.as_deref())?)
    }

    #[napi]
    pub fn delete_adapter(&self, name: String) -> js::Result<()> {
        Ok(self.shared.lock()?.delete_adapter(&name)?)
    }

    /// The names of all adapters, in the order in which they came.
    #[napi(getter)]
    pub fn adapter_names(&self) -> js::Result<Vec<String>> {
        Ok(self.shared.lock()?.adapter_names())
    }

    #[napi(getter)]
    pub fn active_adapter(&self) -> js::Result<Option<String>> {
        Ok(self.shared.lock()?.active_adapter().map(str::to_string))
    }

    /// Off: the base model computes. On: the active adapter counts.
    #[napi]
    pub fn set_adapter_enabled(&self, enabled: bool) -> js::Result<()> {
        Ok(self.shared.lock()?.set_adapter_enabled(enabled)?)
    }

    /// Merges the active adapter into the weights and takes it off. `dequantize` leaves all weights unpacked.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn fuse<'env>(&self, env: &'env Env, dequantize: Option<bool>) -> js::Result<Object<'env>> {
        let shared = self.shared();
        promise::once(env, move || shared.lock()?.fuse(dequantize.unwrap_or(false)), |()| ())
    }

    /// Writes the weights and configuration in the Hugging Face layout into an existing folder, numbers and scales in `dtype`, or else as
    /// they are.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn save<'env>(&self, env: &'env Env, dir: String, dtype: Option<String>) -> js::Result<Object<'env>> {
        let shared = self.shared();
        let dtype = dtype.as_deref().map_or(Ok(self.dtype), Dtype::parse)?;
        promise::once(env, move || shared.lock()?.save_as(&PathBuf::from(dir), dtype), |()| ())
    }

    /// Frees the weights as soon as the work that uses them pauses, and gives their memory back to the system. Running
    /// generations end with `ERR_MLX_DISPOSED` at their next token.
    #[napi]
    pub fn dispose(&self) {
        let shared = self.shared();
        runtime::spawn_once(move || {
            drop(shared.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take());
            // Nobody is there to hear of a failure, and the next allocation would report it.
            let _ = memory::clear_cache();
        });
    }
}
