//! Training steps for the TypeScript trainers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

use super::cancel::{Cancel, flag};
use super::error as js;
use super::model::{NativeModel, SharedModel};
use super::promise;
use crate::mlx::io::safetensors::{load_arrays, save_arrays};
use crate::mlx::{Error, Result};
use crate::optim::AdamWOptions;
use crate::rl::LossOptions;
use crate::rl::step::{self, GrpoBatch, StepOptions, TextRow, Trainer};

#[napi(object)]
pub struct TrainerOptions {
    /// AdamW's settings; torch's defaults.
    pub adam_beta1: Option<f64>,
    pub adam_beta2: Option<f64>,
    pub adam_epsilon: Option<f64>,
    /// Decoupled, on matrices only; 0 by default.
    pub weight_decay: Option<f64>,
    /// Gradients are scaled down to this global norm; 1 by default, 0 is off.
    pub max_grad_norm: Option<f64>,
    /// Above 0 a reference policy is kept for the KL penalty: the adapter switched off, or a copy of the weights as they are now.
    pub beta: Option<f64>,
    /// Recompute layers in the backward pass: less memory, a third more time.
    pub gradient_checkpointing: Option<bool>,
    /// Tokens that go through the head at a time; by default it follows from the size of the vocabulary.
    pub logits_chunk_size: Option<u32>,
    /// Of an adapter's dropout, 0 by default.
    pub seed: Option<f64>,
}

/// A prompt and what was generated for it.
#[napi(object)]
pub struct TrainRow {
    pub prompt_ids: Vec<i32>,
    pub completion_ids: Vec<i32>,
}

impl From<TrainRow> for step::TrainRow {
    fn from(row: TrainRow) -> Self {
        step::TrainRow { prompt: row.prompt_ids, completion: row.completion_ids }
    }
}

#[napi(object)]
pub struct LogprobOptions {
    pub temperature: f64,
    /// Under the reference policy.
    pub reference: Option<bool>,
    /// Entropies too.
    pub entropy: Option<bool>,
    /// Padded tokens of one forward pass; 4096 by default.
    pub token_budget: Option<u32>,
}

/// One list per row, one number per completion token.
#[napi(object)]
pub struct LogprobResult {
    pub logprobs: Vec<Vec<f64>>,
    pub entropies: Option<Vec<Vec<f64>>>,
}

/// A GRPO micro-batch. Lists per row have one number per completion token.
#[napi(object)]
pub struct NativeGrpoBatch {
    pub rows: Vec<TrainRow>,
    pub advantages: Vec<f64>,
    /// Absent on-policy.
    pub old_logprobs: Option<Vec<Vec<f64>>>,
    pub ref_logprobs: Option<Vec<Vec<f64>>>,
    pub sampling_logprobs: Option<Vec<Vec<f64>>>,
    /// 1 where a token counts; all by default.
    pub completion_mask: Option<Vec<Vec<i32>>>,
}

/// A text; the tokens whose mask is 1 are learnt.
#[napi(object)]
pub struct SftRow {
    pub ids: Vec<i32>,
    pub mask: Vec<i32>,
}

#[napi(object)]
pub struct SftOptions {
    /// Marked tokens of the whole accumulation window.
    pub num_items_in_batch: f64,
    /// Weight of the routers' load-balancing loss in this micro-batch; 0, which is off, by default.
    pub router_aux_loss_coef: Option<f64>,
}

#[napi(object)]
pub struct OptimizerStepOptions {
    pub learning_rate: f64,
}

#[napi(object)]
pub struct MicroStepResult {
    pub loss: f64,
    /// Tokens that counted.
    pub tokens: u32,
    pub metrics: HashMap<String, f64>,
}

impl From<step::MicroStep> for MicroStepResult {
    fn from(step: step::MicroStep) -> Self {
        MicroStepResult {
            loss: step.loss as f64,
            tokens: step.tokens as u32,
            metrics: step.metrics.into_iter().map(|(name, value)| (name, value as f64)).collect(),
        }
    }
}

#[napi(object)]
pub struct OptimizerStepResult {
    /// Before clipping.
    pub grad_norm: f64,
    /// The gradients were not finite: nothing was changed.
    pub skipped: bool,
}

type Shared = Arc<Mutex<Option<Trainer>>>;

/// One optimizer over a model's trainable parameters.
#[napi]
pub struct NativeTrainer {
    model: SharedModel,
    trainer: Shared,
}

fn with<T>(
    model: &SharedModel,
    trainer: &Shared,
    work: impl FnOnce(&mut Trainer, &mut crate::models::Model) -> Result<T>,
) -> Result<T> {
    let mut trainer = trainer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let trainer = trainer.as_mut().ok_or(Error::Disposed("trainer"))?;
    work(trainer, &mut *model.lock()?)
}

fn narrow(rows: Vec<Vec<f64>>) -> Vec<Vec<f32>> {
    rows.into_iter().map(|row| row.into_iter().map(|value| value as f32).collect()).collect()
}

fn widen(rows: Vec<Vec<f32>>) -> Vec<Vec<f64>> {
    rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
}

/// Rows in order, cut so that each part pads to at most `budget` tokens (one row at least).
fn parts(rows: &[step::TrainRow], budget: usize) -> Vec<std::ops::Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut longest) = (0, 0);
    for (index, row) in rows.iter().enumerate() {
        let length = row.prompt.len() + row.completion.len();
        if index > start && longest.max(length) * (index + 1 - start) > budget {
            parts.push(start..index);
            (start, longest) = (index, 0);
        }
        longest = longest.max(length);
    }
    if start < rows.len() {
        parts.push(start..rows.len());
    }
    parts
}

#[napi]
impl NativeTrainer {
    #[napi(constructor)]
    pub fn new(model: &NativeModel, options: Option<TrainerOptions>) -> js::Result<Self> {
        let options = options.unwrap_or(TrainerOptions {
            adam_beta1: None,
            adam_beta2: None,
            adam_epsilon: None,
            weight_decay: None,
            max_grad_norm: None,
            beta: None,
            gradient_checkpointing: None,
            logits_chunk_size: None,
            seed: None,
        });
        let optimizer = AdamWOptions {
            beta1: options.adam_beta1.unwrap_or(0.9),
            beta2: options.adam_beta2.unwrap_or(0.999),
            eps: options.adam_epsilon.unwrap_or(1e-8),
            weight_decay: options.weight_decay.unwrap_or(0.),
            ..AdamWOptions::default()
        };
        let options = StepOptions {
            optimizer,
            max_grad_norm: options.max_grad_norm.unwrap_or(1.) as f32,
            reference: options.beta.unwrap_or(0.) > 0.,
            checkpoint_layers: options.gradient_checkpointing.unwrap_or(false),
            logits_chunk: options.logits_chunk_size.unwrap_or(0).min(i32::MAX as u32) as i32,
            seed: options.seed.unwrap_or(0.) as u64,
        };
        let model = model.shared();
        let trainer = Trainer::new(&mut *model.lock()?, options)?;
        Ok(NativeTrainer { model, trainer: Arc::new(Mutex::new(Some(trainer))) })
    }

    /// Per-token log-probs of completions under `logits / temperature`, in float32.
    #[napi(ts_return_type = "Promise<LogprobResult>")]
    pub fn logprobs<'env>(
        &self,
        env: &'env Env,
        rows: Vec<TrainRow>,
        options: LogprobOptions,
        cancel: Option<&Cancel>,
    ) -> js::Result<Object<'env>> {
        let (model, trainer, cancel) = (self.model.clone(), self.trainer.clone(), flag(cancel));
        let rows: Vec<step::TrainRow> = rows.into_iter().map(Into::into).collect();
        let mut waiting = parts(&rows, options.token_budget.unwrap_or(4096).max(1) as usize).into_iter();
        let mut done = LogprobResult { logprobs: Vec::new(), entropies: options.entropy.unwrap_or(false).then(Vec::new) };
        promise::sliced(
            env,
            move || {
                cancel.check()?;
                let Some(part) = waiting.next() else {
                    return Ok(Some(LogprobResult {
                        logprobs: std::mem::take(&mut done.logprobs),
                        entropies: done.entropies.take(),
                    }));
                };
                let scored = with(&model, &trainer, |trainer, model| {
                    let entropy = done.entropies.is_some();
                    trainer.logprobs(model, &rows[part], options.temperature as f32, options.reference.unwrap_or(false), entropy)
                })?;
                done.logprobs.extend(widen(scored.logprobs));
                if let (Some(all), Some(new)) = (&mut done.entropies, scored.entropies) {
                    all.extend(widen(new));
                }
                Ok(None)
            },
            |result| result,
        )
    }

    /// Forward and backward of one micro-batch; gradients add up until `optimizerStep`. `options` are those of `grpoLoss` and
    /// `temperature` (1): log-probs are of `logits / temperature`.
    #[napi(
        ts_args_type = "batch: NativeGrpoBatch, options: object, cancel?: Cancel",
        ts_return_type = "Promise<MicroStepResult>"
    )]
    pub fn grpo_micro_step<'env>(
        &self,
        env: &'env Env,
        batch: NativeGrpoBatch,
        mut options: serde_json::Value,
        cancel: Option<&Cancel>,
    ) -> js::Result<Object<'env>> {
        let (model, trainer, cancel) = (self.model.clone(), self.trainer.clone(), flag(cancel));
        let temperature = options.as_object_mut().and_then(|options| options.shift_remove("temperature"));
        let temperature = match temperature {
            None | Some(serde_json::Value::Null) => 1.,
            Some(value) => {
                value.as_f64().ok_or_else(|| Error::Argument(format!("temperature must be a number, got {value}")))? as f32
            }
        };
        let options = LossOptions::from_json(options)?;
        let batch = GrpoBatch {
            rows: batch.rows.into_iter().map(Into::into).collect(),
            advantages: batch.advantages.into_iter().map(|value| value as f32).collect(),
            old_logprobs: batch.old_logprobs.map(narrow),
            reference_logprobs: batch.ref_logprobs.map(narrow),
            sampling_logprobs: batch.sampling_logprobs.map(narrow),
            completion_mask: batch.completion_mask,
        };
        promise::once(
            env,
            move || {
                cancel.check()?;
                with(&model, &trainer, |trainer, model| trainer.grpo(model, &batch, temperature, &options))
            },
            MicroStepResult::from,
        )
    }

    /// Forward and backward of supervised rows: summed cross-entropy of the marked tokens over `numItemsInBatch`, and the routers'
    /// load-balancing loss times its coefficient.
    #[napi(ts_return_type = "Promise<MicroStepResult>")]
    pub fn sft_micro_step<'env>(
        &self,
        env: &'env Env,
        rows: Vec<SftRow>,
        options: SftOptions,
        cancel: Option<&Cancel>,
    ) -> js::Result<Object<'env>> {
        let (model, trainer, cancel) = (self.model.clone(), self.trainer.clone(), flag(cancel));
        let rows: Vec<TextRow> = rows
            .into_iter()
            .map(|row| TextRow { ids: row.ids, mask: row.mask.into_iter().map(|mark| mark != 0).collect() })
            .collect();
        promise::once(
            env,
            move || {
                cancel.check()?;
                let router_aux_loss_coef = options.router_aux_loss_coef.unwrap_or(0.);
                with(&model, &trainer, |trainer, model| {
                    trainer.supervised(model, &rows, options.num_items_in_batch as f32, router_aux_loss_coef)
                })
            },
            MicroStepResult::from,
        )
    }

    /// Clips, updates and starts gathering anew. Gradients that are not finite change nothing and say `skipped`.
    #[napi(ts_return_type = "Promise<OptimizerStepResult>")]
    pub fn optimizer_step<'env>(
        &self,
        env: &'env Env,
        options: OptimizerStepOptions,
        cancel: Option<&Cancel>,
    ) -> js::Result<Object<'env>> {
        let (model, trainer, cancel) = (self.model.clone(), self.trainer.clone(), flag(cancel));
        promise::once(
            env,
            move || {
                cancel.check()?;
                with(&model, &trainer, |trainer, model| trainer.step(model, options.learning_rate))
            },
            |step| OptimizerStepResult { grad_norm: step.grad_norm as f64, skipped: step.skipped },
        )
    }

    /// Writes optimizer state (and reference weights) as `optimizer.safetensors` into an existing folder.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn save<'env>(&self, env: &'env Env, dir: String) -> js::Result<Object<'env>> {
        let (model, trainer) = (self.model.clone(), self.trainer.clone());
        promise::once(
            env,
            move || {
                let state = with(&model, &trainer, |trainer, _| trainer.state())?;
                save_arrays(&PathBuf::from(dir).join("optimizer.safetensors"), &state)
            },
            |()| (),
        )
    }

    /// Takes over what `save` wrote.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn load<'env>(&self, env: &'env Env, dir: String) -> js::Result<Object<'env>> {
        let (model, trainer) = (self.model.clone(), self.trainer.clone());
        promise::once(
            env,
            move || {
                let state = load_arrays(&PathBuf::from(dir).join("optimizer.safetensors"))?;
                with(&model, &trainer, |trainer, _| trainer.load_state(state))
            },
            |()| (),
        )
    }

    /// Forgets gradients gathered since the last `optimizerStep`.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn discard_gradients<'env>(&self, env: &'env Env) -> js::Result<Object<'env>> {
        let (model, trainer) = (self.model.clone(), self.trainer.clone());
        promise::once(
            env,
            move || {
                with(&model, &trainer, |trainer, _| {
                    trainer.discard_gradients();
                    Ok(())
                })
            },
            |()| (),
        )
    }

    /// Frees the optimizer's state.
    #[napi]
    pub fn dispose(&self) {
        let trainer = self.trainer.clone();
        crate::runtime::spawn_once(move || drop(trainer.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()));
    }
}
