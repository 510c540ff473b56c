//! Which layers an adapter is on.

use regex::Regex;

use super::config::LoraConfig;
use crate::mlx::{Error, Result};
use crate::nn::Layer;

/// The linear layers that get an adapter when nothing else is asked for: those of attention and of MLPs that all tokens go through.
pub const DEFAULT_TARGETS: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// A choice of layers.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    Default,
    /// Every linear layer, routers and experts too, but not the head, as PEFT's `all-linear`.
    AllLinear,
    /// One matches by its end, as in PEFT: `q_proj`, `self_attn.q_proj`, `model.layers.0.self_attn.q_proj`. In one with `*` (anything but a
    /// dot), `**` (anything) or `?` (one character but a dot) these stand for others.
    Names(Vec<String>),
    /// A regular expression of whole names, as a string is in PEFT.
    Pattern(String),
}

impl From<Vec<String>> for Targets {
    fn from(names: Vec<String>) -> Self {
        Targets::Names(names)
    }
}

/// What a layer is called: by the model and mlx-lm, and by transformers where that differs.
fn names_of(name: &str) -> impl Iterator<Item = String> {
    let other = name.contains(".switch_mlp.").then(|| name.replacen(".switch_mlp.", ".experts.", 1));
    std::iter::once(name.to_string()).chain(other)
}

fn ends_with(name: &str, target: &str) -> bool {
    name.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a pattern of `rankPattern` or `alphaPattern` fits, as in PEFT: a regular expression of the end of a name.
pub(super) fn matches_pattern(pattern: &str, name: &str) -> Result<bool> {
    let regex = compile(&format!(r"^(?:.*\.)?(?:{pattern})$"), pattern)?;
    Ok(names_of(name).any(|name| regex.is_match(&name)))
}

fn compile(text: &str, given: &str) -> Result<Regex> {
    Regex::new(text).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
        Error::Argument(format!("'{given}' is no regular expression of layer names: {reason}"))
    })
}

/// One name of a list in the form in which it is compared.
enum Name {
    End(String),
    Glob(Regex),
}

impl Name {
    fn parse(target: &str) -> Result<Self> {
        if !target.contains(['*', '?']) {
            return Ok(Name::End(target.to_string()));
        }
        let marked = target.replace("**", "\u{1}").replace('*', "\u{2}").replace('?', "\u{3}");
        let text = regex::escape(&marked).replace('\u{1}', ".*").replace('\u{2}', "[^.]*").replace('\u{3}', "[^.]");
        Ok(Name::Glob(compile(&format!(r"^(?:.*\.)?{text}$"), target)?))
    }

    fn matches(&self, name: &str) -> bool {
        names_of(name).any(|name| match self {
            Name::End(end) => ends_with(&name, end),
            Name::Glob(regex) => regex.is_match(&name),
        })
    }

    /// Names the layer itself, not layers like it.
    fn is(&self, name: &str) -> bool {
        matches!(self, Name::End(end) if names_of(name).any(|name| name == *end))
    }
}

/// The number of the block that a layer is in.
pub(super) fn block_of(name: &str) -> Option<i32> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

fn is_router(name: &str) -> bool {
    name.ends_with(".gate") || name.ends_with(".shared_expert_gate")
}

/// For each layer whether the configuration puts an adapter on it. `blocks`: how many the model has.
pub(super) fn choose(config: &LoraConfig, layers: &[(String, Layer)], blocks: i32) -> Result<Vec<bool>> {
    let taken = |name: &str| match block_of(name) {
        Some(block) => config.takes_block(block, blocks),
        None => !config.chooses_blocks(),
    };
    let mut chosen: Vec<bool> = match &config.target_modules {
        Targets::Default => {
            let is = |name: &str, layer: &Layer| {
                matches!(layer, Layer::Linear(_)) && block_of(name).is_some() && !is_router(name) && taken(name)
            };
            layers.iter().map(|(name, layer)| is(name, layer)).collect()
        }
        Targets::AllLinear => {
            let is = |name: &str, layer: &Layer| !matches!(layer, Layer::Embedding(_)) && block_of(name).is_some() && taken(name);
            layers.iter().map(|(name, layer)| is(name, layer)).collect()
        }
        Targets::Names(names) => {
            let parsed = names.iter().map(|name| Name::parse(name)).collect::<Result<Vec<_>>>()?;
            for (target, name) in names.iter().zip(&parsed) {
                if !layers.iter().any(|(layer, _)| name.matches(layer)) {
                    return Err(Error::Argument(format!(
                        "LoRA target '{target}' is no layer of this model; there are {}",
                        kinds(layers)
                    )));
                }
            }
            let is = |layer: &str| parsed.iter().any(|name| name.is(layer) || (name.matches(layer) && taken(layer)));
            layers.iter().map(|(layer, _)| is(layer)).collect()
        }
        Targets::Pattern(pattern) => {
            let regex = compile(&format!("^(?:{pattern})$"), pattern)?;
            layers.iter().map(|(layer, _)| names_of(layer).any(|name| regex.is_match(&name)) && taken(layer)).collect()
        }
    };
    exclude(&config.exclude_modules, layers, &mut chosen)?;
    if !chosen.contains(&true) {
        return Err(Error::Argument(match &config.target_modules {
            Targets::Pattern(pattern) => format!(
                "the LoRA target '{pattern}' fits no layer: a text is 'all-linear' or a regular expression of whole names such as \
                 '{}', and a list holds ends of names; there are {}",
                layers.first().map_or("", |(name, _)| name),
                kinds(layers)
            ),
            _ => format!("the LoRA targets leave no layer; there are {}", kinds(layers)),
        }));
    }
    Ok(chosen)
}

fn exclude(excluded: &Targets, layers: &[(String, Layer)], chosen: &mut [bool]) -> Result<()> {
    let matches: Box<dyn Fn(&str) -> bool> = match excluded {
        Targets::Names(names) => {
            let parsed = names.iter().map(|name| Name::parse(name)).collect::<Result<Vec<_>>>()?;
            Box::new(move |layer| parsed.iter().any(|name| name.matches(layer)))
        }
        Targets::Pattern(pattern) => {
            let regex = compile(&format!("^(?:{pattern})$"), pattern)?;
            Box::new(move |layer| names_of(layer).any(|name| regex.is_match(&name)))
        }
        Targets::Default | Targets::AllLinear => {
            return Err(Error::Argument("excludeModules must be names or a regular expression".into()));
        }
    };
    for ((name, _), chosen) in layers.iter().zip(chosen) {
        *chosen &= !matches(name);
    }
    Ok(())
}

/// The last parts of the layers' names, each once.
pub(super) fn kinds<T>(layers: &[(String, T)]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for (name, _) in layers {
        let kind = last(name);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(", ")
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The shortest list of targets that means exactly the layers that `has` names.
pub(super) fn shortest(all: &[&str], has: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut targets: Vec<String> = Vec::new();
    for name in all.iter().filter(|name| has(name)) {
        let kind = last(name);
        let whole = all.iter().filter(|other| ends_with(other, kind)).all(|other| has(other));
        let target = if whole { kind } else { name }.to_string();
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}
