//! Training steps over a model: log-probs of completions, gradients of a micro-batch, the optimizer's update.
//!
//! Only positions that predict a completion token go through the head: no padding is ever scored and no `[B, T, V]` exists.

use std::collections::HashMap;

use super::logprobs::{Entropy, HeadOptions};
use super::packed::{Packed, Scored};
use super::{LossInputs, LossOptions, LossOutput, grpo_loss};
use crate::mlx::{Array, Dtype, Error, Result, eval, ops, value_and_grad};
use crate::models::Model;
use crate::nn::RouterUse;
use crate::optim::{AdamWOptions, Optimizer, clip_coefficient, global_norm};

/// Names in a saved state, beside the optimizer's own.
const STEP: &str = "step";
const REFERENCE: &str = "reference.";

/// A prompt and what was generated for it.
#[derive(Clone, Debug)]
pub struct TrainRow {
    pub prompt: Vec<i32>,
    pub completion: Vec<i32>,
}

/// A text whose marked tokens are learnt.
#[derive(Clone, Debug)]
pub struct TextRow {
    pub ids: Vec<i32>,
    /// Which tokens are targets; the first token never is.
    pub mask: Vec<bool>,
}

/// Numbers that belong to the tokens of rows, one list per row, each as long as the row's completion.
pub type PerToken = Vec<Vec<f32>>;

/// The rows of a GRPO micro-batch and what is known about them.
#[derive(Clone, Debug, Default)]
pub struct GrpoBatch {
    pub rows: Vec<TrainRow>,
    pub advantages: Vec<f32>,
    /// Under the policy that generated; absent on-policy.
    pub old_logprobs: Option<PerToken>,
    pub reference_logprobs: Option<PerToken>,
    /// Of the sampler, for the off-policy mask.
    pub sampling_logprobs: Option<PerToken>,
    /// Tokens that count, 1 or 0; all by default.
    pub completion_mask: Option<Vec<Vec<i32>>>,
}

#[derive(Clone, Debug)]
pub struct StepOptions {
    pub optimizer: AdamWOptions,
    /// Gradients are scaled down to this global norm; 0 is off.
    pub max_grad_norm: f32,
    /// Keep what a KL penalty compares with: the adapter switched off, or a copy of the weights as they are now.
    pub reference: bool,
    /// Recompute each layer in the backward pass instead of keeping its activations.
    pub checkpoint_layers: bool,
    /// Tokens that go through the head at a time; 0 chooses by the size of the vocabulary.
    pub logits_chunk: i32,
    /// Of an adapter's dropout.
    pub seed: u64,
}

impl Default for StepOptions {
    fn default() -> Self {
        StepOptions {
            optimizer: AdamWOptions::default(),
            max_grad_norm: 1.,
            reference: false,
            checkpoint_layers: false,
            logits_chunk: 0,
            seed: 0,
        }
    }
}

/// What one micro-batch gave.
pub struct MicroStep {
    pub loss: f32,
    /// Tokens that counted.
    pub tokens: usize,
    /// TRL's names.
    pub metrics: Vec<(String, f32)>,
}

impl MicroStep {
    /// From a loss and the values of metrics.
    fn new(values: &[f32], metric_names: &[&str], tokens: usize) -> Self {
        let metrics = metric_names.iter().zip(&values[1..]).map(|(name, &value)| (name.to_string(), value)).collect();
        MicroStep { loss: values[0], tokens, metrics }
    }
}

/// How many experts a token of the model uses, if it has any. A loss over experts that are not there is an error, as in TRL.
fn balanced_experts(model: &Model, router_aux_loss_coef: f64) -> Result<Option<i32>> {
    match model.net.config().experts() {
        Some(experts) => Ok(Some(experts.num_experts_per_tok)),
        None if router_aux_loss_coef == 0. => Ok(None),
        None => Err(Error::Argument(format!(
            "routerAuxLossCoef is {router_aux_loss_coef}, but this {} has no experts; leave it out or give 0",
            model.net.config().model_type
        ))),
    }
}

pub struct OptimizerStep {
    /// Before clipping.
    pub grad_norm: f32,
    /// The gradients were not finite: nothing was changed.
    pub skipped: bool,
}

/// Token log-probs (and entropies) of rows.
pub struct RowLogprobs {
    pub logprobs: PerToken,
    pub entropies: Option<PerToken>,
}

/// An optimizer over a model's trainable parameters, with the gradients gathered since its last update.
pub struct Trainer {
    names: Vec<String>,
    optimizer: Optimizer,
    options: StepOptions,
    gradients: Option<Vec<Array>>,
    reference: Reference,
    /// Whether the output head learns; a frozen one needs no gradient.
    train_head: bool,
    /// The adapter that it trains, if the model had one.
    adapter: Option<String>,
    /// Micro-steps since the last update.
    micro_steps: u64,
}

enum Reference {
    None,
    AdapterOff,
    Weights(Vec<Array>),
}

impl Trainer {
    pub fn new(model: &mut Model, options: StepOptions) -> Result<Trainer> {
        let names = model.trainable();
        if names.is_empty() {
            return Err(Error::Argument(
                "the model is quantised, and codes cannot be trained: put an adapter on it with model.applyLora({ … }), which is trained instead (QLoRA), or load it unquantised".into(),
            ));
        }
        if !(options.max_grad_norm >= 0. && options.max_grad_norm.is_finite()) {
            return Err(Error::Argument(format!("maxGradNorm must be 0 (off) or more, got {}", options.max_grad_norm)));
        }
        if options.logits_chunk < 0 {
            return Err(Error::Argument(format!("logitsChunkSize must be 0 (automatic) or more, got {}", options.logits_chunk)));
        }
        let adapter = model.active_adapter().map(str::to_string);
        if adapter.is_none() && !model.adapter_names().is_empty() {
            let names = model.adapter_names().join("', '");
            return Err(Error::Argument(format!(
                "the model has adapters ('{names}'), but none is active: set the one to train, or delete them to train all weights"
            )));
        }
        let weights = weights_of(model, &names)?;
        let mut optimizer = options.optimizer.optimizer()?;
        optimizer.init(0, &names, &weights)?;
        let reference = match (options.reference, model.adapter().is_some()) {
            (false, _) => Reference::None,
            (true, true) => Reference::AdapterOff,
            (true, false) => Reference::Weights(weights),
        };
        model.net.set_checkpoint_layers(options.checkpoint_layers);
        let train_head = names.iter().any(|name| name == "lm_head.weight" || name == "model.embed_tokens.weight");
        Ok(Trainer { names, optimizer, options, gradients: None, reference, train_head, adapter, micro_steps: 0 })
    }

    /// Log-probs of completions under `logits / temperature`, without gradients.
    /// `tokens_at_once` bounds the padded tokens of one forward pass.
    pub fn logprobs(
        &self,
        model: &mut Model,
        rows: &[TrainRow],
        temperature: f32,
        reference: bool,
        entropy: bool,
    ) -> Result<RowLogprobs> {
        if rows.iter().all(|row| row.completion.is_empty()) {
            let empty = vec![Vec::new(); rows.len()];
            return Ok(RowLogprobs { logprobs: empty.clone(), entropies: entropy.then_some(empty) });
        }
        let packed = self.pack(model, rows)?;
        let options = self.head_options(temperature, if entropy { Entropy::Value } else { Entropy::Skip });
        let score = |model: &mut Model| {
            let scored = packed.score(model, &options)?.head;
            let mut wanted = vec![scored.logps];
            wanted.extend(scored.entropies);
            eval(&wanted)?;
            Ok(wanted)
        };
        let scored = if reference { self.as_reference(model, score)? } else { score(model)? };
        let logprobs = packed.split(&scored[0].to_f32()?);
        let entropies = scored.get(1).map(|entropies| Ok(packed.split(&entropies.to_f32()?))).transpose()?;
        Ok(RowLogprobs { logprobs, entropies })
    }

    fn pack(&self, model: &Model, rows: &[TrainRow]) -> Result<Packed> {
        self.check_adapter(model)?;
        let config = model.net.config();
        // A pass over a cache keeps its activations; and what is rotated by the length of its input comes out otherwise in two passes.
        // Dropout is another for every row.
        let share = !model.has_dropout() && !self.options.checkpoint_layers && !config.rope.scaling.depends_on_length();
        Packed::from_rows(rows, config.vocab_size, share, config.experts().is_some())
    }

    /// Another adapter on the model would be trained with the wrong moments.
    fn check_adapter(&self, model: &Model) -> Result<()> {
        if self.adapter.as_deref() == model.active_adapter() {
            return Ok(());
        }
        let shown = |name: Option<&str>| name.map_or("no adapter".to_string(), |name| format!("the adapter '{name}'"));
        let (mine, present) = (shown(self.adapter.as_deref()), shown(model.active_adapter()));
        Err(Error::Argument(format!(
            "this trainer was made for {mine}, but {present} is active; set that one, or make another trainer"
        )))
    }

    /// A seed of its own for every micro-step, the same again after a resumption.
    fn dropout_seed(&self) -> u64 {
        let place = self.optimizer.step().wrapping_mul(1 << 20).wrapping_add(self.micro_steps);
        self.options.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(place)
    }

    fn head_options(&self, temperature: f32, entropy: Entropy) -> HeadOptions {
        HeadOptions { temperature, entropy, chunk: self.options.logits_chunk, train_head: self.train_head }
    }

    /// Runs `work` with the reference policy in the model's place, and puts the policy back whatever happens.
    fn as_reference<T>(&self, model: &mut Model, work: impl FnOnce(&mut Model) -> Result<T>) -> Result<T> {
        model.unchanged(|model| match &self.reference {
            Reference::None => Err(Error::Argument("this trainer keeps no reference policy; create it with beta above 0".into())),
            Reference::AdapterOff => {
                model.set_adapter_enabled(false)?;
                let result = work(model);
                model.set_adapter_enabled(true)?;
                result
            }
            Reference::Weights(weights) => {
                let policy = weights_of(model, &self.names)?;
                model.set(&self.names, weights)?;
                let result = work(model);
                model.set(&self.names, &policy)?;
                result
            }
        })
    }

    /// Forward and backward of one GRPO micro-batch; the gradients add to those gathered so far.
    /// Log-probs are those of `logits / temperature`.
    pub fn grpo(&mut self, model: &mut Model, batch: &GrpoBatch, temperature: f32, options: &LossOptions) -> Result<MicroStep> {
        let packed = self.pack(model, &batch.rows)?;
        let top_k = balanced_experts(model, options.router_aux_loss_coef)?;
        if batch.advantages.len() != batch.rows.len() {
            return Err(Error::Shape(format!("{} advantages for {} rows", batch.advantages.len(), batch.rows.len())));
        }
        let optional = |what: &str, values: &Option<PerToken>| values.as_ref().map(|rows| packed.gather(what, rows)).transpose();
        let old = optional("oldLogprobs", &batch.old_logprobs)?;
        let reference = optional("refLogprobs", &batch.reference_logprobs)?;
        let sampling = optional("samplingLogprobs", &batch.sampling_logprobs)?;
        let mask_rows = match &batch.completion_mask {
            Some(mask) => mask.clone(),
            None => batch.rows.iter().map(|row| vec![1; row.completion.len()]).collect(),
        };
        let tokens = mask_rows.iter().flatten().filter(|&&counts| counts != 0).count();
        let mask = packed.gather("completionMask", &mask_rows)?;
        // Of a truncated row only the prompt counts for the router, as in TRL.
        let token_weights = packed.token_weights(|row| mask_rows[row].iter().any(|&counts| counts != 0))?;
        let advantages = Array::from_slice(&batch.advantages, &[batch.rows.len() as i32])?;
        let head =
            self.head_options(temperature, if options.has_entropy_bonus() { Entropy::Differentiable } else { Entropy::Value });
        let mut metric_names = Vec::new();

        let values = self.accumulate(model, |model| {
            let Scored { head: scored, router_logits } = packed.score(model, &head)?;
            let routed = top_k.map(|top_k| RouterUse::new(&router_logits, top_k, Some(&token_weights))).transpose()?;
            let inputs = LossInputs {
                old_per_token_logps: old.clone(),
                ref_per_token_logps: reference.clone(),
                sampling_per_token_logps: sampling.clone(),
                entropies: scored.entropies.map(|entropies| packed.spread(&entropies)).transpose()?,
                aux_loss: routed.as_ref().map(RouterUse::load_balancing_loss).transpose()?,
                ..LossInputs::new(packed.spread(&scored.logps)?, mask.clone(), advantages.clone())
            };
            let LossOutput { loss, mut metrics, .. } = grpo_loss(&inputs, options)?;
            if let Some(routed) = &routed {
                metrics.extend(routed.metrics()?);
            }
            metric_names = metrics.iter().map(|(name, _)| *name).collect();
            Ok(std::iter::once(loss).chain(metrics.into_iter().map(|(_, value)| value)).collect())
        })?;
        Ok(MicroStep::new(&values, &metric_names, tokens))
    }

    /// Forward and backward of supervised rows: the summed cross-entropy of the marked tokens over `num_items_in_batch`, and
    /// `router_aux_loss_coef` times the routers' load-balancing loss.
    pub fn supervised(
        &mut self,
        model: &mut Model,
        rows: &[TextRow],
        num_items_in_batch: f32,
        router_aux_loss_coef: f64,
    ) -> Result<MicroStep> {
        if !(router_aux_loss_coef >= 0. && router_aux_loss_coef.is_finite()) {
            return Err(Error::Argument(format!("routerAuxLossCoef must be 0 (off) or more, got {router_aux_loss_coef}")));
        }
        let top_k = balanced_experts(model, router_aux_loss_coef)?;
        if !(num_items_in_batch > 0. && num_items_in_batch.is_finite()) {
            return Err(Error::Argument(format!("numItemsInBatch must be above 0, got {num_items_in_batch}")));
        }
        let joined = rows
            .iter()
            .enumerate()
            .map(|(index, row)| {
                if row.mask.len() != row.ids.len() {
                    return Err(Error::Shape(format!(
                        "row {index} has {} ids and {} mask entries",
                        row.ids.len(),
                        row.mask.len()
                    )));
                }
                let scored = (1..row.ids.len()).filter(|&position| row.mask[position]).collect();
                Ok((row.ids.clone(), scored))
            })
            .collect::<Result<Vec<_>>>()?;
        let packed = Packed::new(&joined, model.net.config().vocab_size, top_k.is_some())?;
        let head = self.head_options(1., Entropy::Skip);
        let token_weights = packed.token_weights(|_| true)?;
        let mut metric_names = Vec::new();
        let values = self.accumulate(model, |model| {
            let Scored { head: scored, router_logits } = packed.score(model, &head)?;
            let mut loss = scored.logps.sum_all()?.divide_scalar(-num_items_in_batch)?;
            let mut metrics = Vec::new();
            if let Some(top_k) = top_k {
                let routed = RouterUse::new(&router_logits, top_k, Some(&token_weights))?;
                let aux_loss = routed.load_balancing_loss()?;
                metrics.push(("aux_loss", aux_loss.stop_gradient()?));
                metrics.extend(routed.metrics()?);
                if router_aux_loss_coef != 0. {
                    loss = loss.add(&aux_loss.multiply_scalar(router_aux_loss_coef as f32)?)?;
                }
            }
            metric_names = metrics.iter().map(|(name, _)| *name).collect();
            Ok(std::iter::once(loss).chain(metrics.into_iter().map(|(_, value)| value)).collect())
        })?;
        Ok(MicroStep::new(&values, &metric_names, packed.lengths.iter().sum()))
    }

    /// Differentiates the first output of `loss` and adds the gradients to those gathered; returns all outputs as numbers.
    fn accumulate(&mut self, model: &mut Model, mut loss: impl FnMut(&mut Model) -> Result<Vec<Array>>) -> Result<Vec<f32>> {
        self.check_adapter(model)?;
        let weights = weights_of(model, &self.names)?;
        let argnums: Vec<i32> = (0..weights.len() as i32).collect();
        let names = &self.names;
        let (values, gradients) = model.unchanged(|model| {
            model.set_dropout(Some(self.dropout_seed()))?;
            let result = value_and_grad(
                |inputs| {
                    model.set(names, inputs)?;
                    loss(model)
                },
                &weights,
                &argnums,
            );
            // Whatever happened inside, the model holds real weights again.
            model.set_dropout(None)?;
            model.set(names, &weights)?;
            result
        })?;
        self.micro_steps += 1;
        let gathered = match &self.gradients {
            Some(before) => before.iter().zip(&gradients).map(|(before, new)| before.add(new)).collect::<Result<Vec<_>>>()?,
            None => gradients.iter().map(|gradient| gradient.astype(Dtype::Float32)).collect::<Result<Vec<_>>>()?,
        };
        eval(&values.iter().chain(&gathered).collect::<Vec<_>>())?;
        self.gradients = Some(gathered);
        let values = values.iter().map(|value| value.astype(Dtype::Float32)?.reshape(&[1])).collect::<Result<Vec<_>>>()?;
        ops::concatenate(&values, 0)?.to_vec()
    }

    /// Clips the gathered gradients, updates the weights and starts gathering anew.
    pub fn step(&mut self, model: &mut Model, learning_rate: f64) -> Result<OptimizerStep> {
        if !(learning_rate.is_finite() && learning_rate >= 0.) {
            return Err(Error::Argument(format!("learningRate must be 0 or more, got {learning_rate}")));
        }
        self.check_adapter(model)?;
        self.micro_steps = 0;
        let gradients = self
            .gradients
            .take()
            .ok_or_else(|| Error::Argument("optimizerStep needs gradients; run a micro-step before it".into()))?;
        let norm = global_norm(&gradients)?;
        let grad_norm = norm.item()?;
        if !grad_norm.is_finite() {
            return Ok(OptimizerStep { grad_norm, skipped: true });
        }
        let scale = match self.options.max_grad_norm {
            0. => None,
            limit => Some(clip_coefficient(&norm, limit as f64)?),
        };
        let weights = weights_of(model, &self.names)?;
        self.optimizer.set_learning_rate(learning_rate)?;
        let updated = self.optimizer.update_scaled(&self.names, &weights, &gradients, scale.as_ref())?;
        // Nobody else may hold the old arrays while the new ones are computed: MLX then writes into them.
        drop((weights, gradients));
        eval(&updated.iter().cloned().chain(self.optimizer.state_arrays()).collect::<Vec<_>>())?;
        model.set(&self.names, &updated)?;
        Ok(OptimizerStep { grad_norm, skipped: false })
    }

    /// Forgets gradients gathered since the last update.
    pub fn discard_gradients(&mut self) {
        self.micro_steps = 0;
        self.gradients = None;
    }

    /// The gradients gathered so far, by parameter name.
    pub fn gradients(&self) -> Option<Vec<(&str, &Array)>> {
        self.gradients.as_ref().map(|arrays| self.names.iter().map(String::as_str).zip(arrays).collect())
    }

    /// Optimizer state and reference weights as named arrays, for a checkpoint.
    pub fn state(&self) -> Result<Vec<(String, Array)>> {
        let step = i32::try_from(self.optimizer.step()).unwrap_or(i32::MAX);
        let mut state = vec![(STEP.to_string(), Array::from_slice(&[step], &[1])?)];
        state.extend(self.optimizer.state());
        if let Reference::Weights(weights) = &self.reference {
            state.extend(self.names.iter().zip(weights).map(|(name, weight)| (format!("{REFERENCE}{name}"), weight.clone())));
        }
        Ok(state)
    }

    /// Takes over what `state` gave. Nothing changes on an error.
    pub fn load_state(&mut self, mut state: HashMap<String, Array>) -> Result<()> {
        let step = match state.remove(STEP) {
            Some(step) => step.to_i32()?,
            None => return Err(Error::Argument(format!("the optimizer state has no '{STEP}'"))),
        };
        let &[step] = step.as_slice() else {
            return Err(Error::Argument(format!("the optimizer state's '{STEP}' must be one number")));
        };
        let reference = match &self.reference {
            Reference::Weights(weights) => {
                let restored =
                    self.names.iter().zip(weights).map(|(name, weight)| match state.remove(&format!("{REFERENCE}{name}")) {
                        Some(saved) if saved.shape() == weight.shape() => Ok(saved),
                        Some(saved) => {
                            Err(Error::Shape(format!("the reference weight '{name}' is {saved:?}, the model's {weight:?}")))
                        }
                        None => Err(Error::Argument(format!("the optimizer state has no reference weight '{name}'"))),
                    });
                Some(restored.collect::<Result<Vec<_>>>()?)
            }
            Reference::None | Reference::AdapterOff => None,
        };
        self.optimizer.load_state(u64::try_from(step).unwrap_or(0), &state)?;
        if let Some(weights) = reference {
            self.reference = Reference::Weights(weights);
        }
        self.gradients = None;
        Ok(())
    }
}

/// The named weights of a model, in the order of the names.
fn weights_of(model: &Model, names: &[String]) -> Result<Vec<Array>> {
    let mut held: HashMap<String, Array> = model.parameters().into_iter().collect();
    names
        .iter()
        .map(|name| held.remove(name).ok_or_else(|| Error::Internal(format!("the model no longer has the weight '{name}'"))))
        .collect()
}
