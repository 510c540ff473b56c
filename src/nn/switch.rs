//! Linear layers of several experts, of which every token uses a few (Shazeer et al. 2017, arXiv:1701.06538), with the names of
//! mlx-lm's `switch_layers`.

use super::{Layer, Lora, Module, Packed, Weight, join, module_of};
use crate::mlx::ops::{self, Quantization, Quantized};
use crate::mlx::{Array, Dtype, Error, Result, device, in_trace, kernels};

/// Whether tokens with so many experts in all are sorted by expert, so that each expert's weights are read once. The places where both ways
/// are equally fast, by `bench/switch.mjs --threshold` (docs/moe.md):
///
/// - On the CPU 32 pairs of token and expert: beyond, sorting is 2.8 times as fast at 48 and 5.8 times at 512. Gradients gain from fewer on,
///   but training has more.
/// - On a GPU 8 where gradients will be wanted, which cost 2.6 times as much unsorted at 64 pairs and 19 times at 1024; over 1024 where not:
///   the forward pass alone is twice as fast unsorted at 512.
pub fn sorts(pairs: usize) -> bool {
    pairs
        >= match (device(), in_trace()) {
            ("gpu", true) => 8,
            ("gpu", false) => 2048,
            _ => 32,
        }
}

/// Expert indices as uint32 inside `0..experts`: see `Array::bounded`.
pub fn expert_indices(indices: &Array, experts: i32) -> Result<Array> {
    let bounded = ops::matrix_indices("switch", Some(indices), &[experts, 1, 1])?;
    bounded.ok_or_else(|| Error::Internal("switch: indices were lost".into()))
}

/// Tokens in the order of their experts.
pub struct SortedTokens {
    /// `[N · k, 1, in]`
    pub x: Array,
    /// uint32 `[N · k]`, ascending.
    pub indices: Array,
    /// The place of each pair of token and expert in that order, uint32 `[N · k]`.
    pub places: Array,
    /// The shape of the indices before.
    shape: Vec<i32>,
}

impl SortedTokens {
    /// Sorts tokens `x` `[.., in]` by their experts `[.., k]`, repeating each `k` times.
    pub fn new(x: &Array, indices: &Array) -> Result<Self> {
        let (k, width) = (indices.dim(-1), x.dim(-1));
        let flat = indices.flatten()?;
        let order = flat.argsort(-1)?;
        let tokens = order.floor_divide(&Array::scalar_of(f64::from(k), order.dtype())?)?;
        Ok(SortedTokens {
            x: x.reshape(&[-1, 1, width])?.take(&tokens, 0)?,
            indices: flat.take(&order, 0)?,
            places: order.argsort(-1)?,
            shape: indices.shape().to_vec(),
        })
    }

    /// `[N · k, 1, out]` in the order of the experts to `[.., k, out]` in that of the tokens.
    pub fn restore(&self, y: &Array) -> Result<Array> {
        restore_tokens(y, &self.places, &self.shape)
    }
}

/// Rows `[N · k, 1, out]` in the order of `SortedTokens` to `[shape.., out]` in that of the tokens.
pub fn restore_tokens(y: &Array, places: &Array, shape: &[i32]) -> Result<Array> {
    y.take(places, 0)?.reshape(&[shape, &[y.dim(-1)]].concat())
}

/// Adds each expert's bias `[experts, out]` to its rows `[.., 1, out]`.
fn add_bias(y: Array, bias: Option<&Array>, indices: &Array) -> Result<Array> {
    match bias {
        Some(bias) => y.add(&bias.take(indices, 0)?.expand_dims(&[-2])?),
        None => Ok(y),
    }
}

/// What holds for the weights of all experts: a third axis, and a bias that fits.
fn check_experts(what: &str, weight: &Array, bias: Option<&Array>) -> Result<()> {
    if weight.ndim() != 3 {
        return Err(Error::Shape(format!("{what}: weights must be [experts, out, in], got shape {:?}", weight.shape())));
    }
    let wanted = &weight.shape()[..2];
    match bias {
        Some(bias) if bias.shape() != wanted => {
            Err(Error::Shape(format!("{what}: the bias must have shape {wanted:?}, got {:?}", bias.shape())))
        }
        _ => Ok(()),
    }
}

/// `x wᵀ + bias` with the weights `[experts, out, in]` and biases `[experts, out]` of the experts at `indices` `[..]`: rows
/// `[.., 1, in]`, broadcast against the indices, to `[.., 1, out]`. `sorted` says that the indices ascend.
pub fn switch_linear(x: &Array, weight: &Array, bias: Option<&Array>, indices: &Array, sorted: bool) -> Result<Array> {
    check_experts("switch_linear", weight, bias)?;
    let indices = expert_indices(indices, weight.dim(0))?;
    let y = ops::gather_mm(x, &weight.swapaxes(-1, -2)?, None, Some(&indices), sorted)?;
    add_bias(y, bias, &indices)
}

/// `switch_linear` with packed weights.
pub fn quantized_switch_linear(
    x: &Array,
    w: &Quantized,
    bias: Option<&Array>,
    indices: &Array,
    how: Quantization,
    sorted: bool,
) -> Result<Array> {
    check_experts("quantized_switch_linear", &w.weight, bias)?;
    ops::check_packed_product("quantized_switch_linear", x, w, how)?;
    let indices = expert_indices(indices, w.weight.dim(0))?;
    let dtype = if w.scales.dtype().is_float() { w.scales.dtype() } else { x.dtype() };
    let weight = Weight::Packed(Packed { codes: w.clone(), how, dtype });
    add_bias(weight.gather(x, &indices, sorted)?, bias, &indices)
}

/// A linear layer per expert.
#[derive(Clone)]
pub struct SwitchLinear {
    /// `[experts, out, in]`
    pub weight: Weight,
    /// `[experts, out]`
    pub bias: Option<Array>,
    pub lora: Option<Lora>,
}

impl SwitchLinear {
    /// All zeros, to be filled from a checkpoint. Lazy: takes no memory until then.
    pub fn new(inputs: i32, outputs: i32, experts: i32, bias: bool, dtype: Dtype) -> Result<Self> {
        let bias = if bias { Some(ops::zeros(&[experts, outputs], dtype)?) } else { None };
        Ok(SwitchLinear { weight: Weight::zeros(&[experts, outputs, inputs], dtype)?, bias, lora: None })
    }

    /// As `switch_linear`, for uint32 indices that are experts: nothing checks them on the device.
    pub fn forward(&self, x: &Array, indices: &Array, sorted: bool) -> Result<Array> {
        let y = match &self.lora {
            Some(lora) if lora.enabled => lora.switch(x, &self.weight, indices, sorted)?,
            _ => self.weight.gather(x, indices, sorted)?,
        };
        add_bias(y, self.bias.as_ref(), indices)
    }
}

impl Module for SwitchLinear {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        self.weight.visit(prefix, f);
        if let Some(bias) = &self.bias {
            f(join(prefix, "bias"), bias);
        }
        self.lora.visit(prefix, f);
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        self.weight.visit_mut(prefix, f);
        if let Some(bias) = &mut self.bias {
            f(join(prefix, "bias"), bias);
        }
        self.lora.visit_mut(prefix, f);
    }

    fn layers<'a>(&'a mut self, prefix: &str, layers: &mut Vec<(String, Layer<'a>)>) {
        layers.push((prefix.to_string(), Layer::Switch(self)));
    }

    fn weights<'a>(&'a self, prefix: &str, weights: &mut Vec<(String, &'a Weight)>) {
        weights.push((prefix.to_string(), &self.weight));
    }

    fn adapters<'a>(&'a self, prefix: &str, adapters: &mut Vec<(String, &'a Lora)>) {
        adapters.extend(self.lora.as_ref().map(|lora| (prefix.to_string(), lora)));
    }
}

/// The gated feed-forward block of each expert: `down(silu(gate(x)) · up(x))`.
#[derive(Clone)]
pub struct SwitchGlu {
    pub gate_proj: SwitchLinear,
    pub up_proj: SwitchLinear,
    pub down_proj: SwitchLinear,
}

impl SwitchGlu {
    pub fn new(hidden: i32, intermediate: i32, experts: i32, bias: bool, dtype: Dtype) -> Result<Self> {
        let linear = |inputs, outputs| SwitchLinear::new(inputs, outputs, experts, bias, dtype);
        Ok(SwitchGlu {
            gate_proj: linear(hidden, intermediate)?,
            up_proj: linear(hidden, intermediate)?,
            down_proj: linear(intermediate, hidden)?,
        })
    }

    /// Tokens `[.., hidden]` and their experts `[.., k]` (uint32; nothing checks them on the device) to `[.., k, hidden]`.
    pub fn forward(&self, x: &Array, indices: &Array) -> Result<Array> {
        switch_apply(x, indices, |x, indices, sorted| {
            let up = self.up_proj.forward(x, indices, sorted)?;
            let gate = self.gate_proj.forward(x, indices, sorted)?;
            self.down_proj.forward(&kernels::swiglu(&gate, &up)?, indices, sorted)
        })
    }
}

module_of!(SwitchGlu: gate_proj, up_proj, down_proj);

/// Applies `layer` to tokens `[.., in]` and their experts `[.., k]`, sorted by expert when there are many: `[.., k, out]`. The
/// layer gets rows `[.., 1, in]`, experts, and whether these ascend, and returns rows `[.., 1, out]`.
pub fn switch_apply(x: &Array, indices: &Array, layer: impl FnOnce(&Array, &Array, bool) -> Result<Array>) -> Result<Array> {
    let (tokens, chosen) = (x.ndim().saturating_sub(1), indices.ndim().saturating_sub(1));
    if x.ndim() == 0 || indices.ndim() == 0 || x.shape()[..tokens] != indices.shape()[..chosen] {
        let (x, indices) = (x.shape(), indices.shape());
        return Err(Error::Shape(format!("switch: tokens [.., in] and experts [.., k] do not fit: {x:?} and {indices:?}")));
    }
    if !sorts(indices.size()) {
        return layer(&x.expand_dims(&[-2, -3])?, indices, false)?.squeeze(&[-2]);
    }
    let sorted = SortedTokens::new(x, indices)?;
    sorted.restore(&layer(&sorted.x, &sorted.indices, true)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::ops::QuantizationMode;
    use crate::mlx::{random, vjp};
    use crate::testing::{assert_close, cases, golden_path, load_tensors};

    #[test]
    fn the_recorded_layers_agree() {
        let fixture = cases("switch");
        let tensors = load_tensors(golden_path("switch").join("tensors.safetensors"));
        let (mut sorted, mut plain) = (0, 0);
        for case in fixture["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == "switch_glu") {
            let name = case["name"].as_str().unwrap();
            let input = |key: &str| tensors[&format!("{name}/in/{key}")].clone();
            let indices = input("indices").astype(Dtype::Uint32).unwrap();
            *(if sorts(indices.size()) { &mut sorted } else { &mut plain }) += 1;
            let layer = |given: &[Array]| {
                let linear = |weight: &Array| SwitchLinear { weight: weight.clone().into(), bias: None, lora: None };
                let glu = SwitchGlu { gate_proj: linear(&given[1]), up_proj: linear(&given[2]), down_proj: linear(&given[3]) };
                Ok(vec![glu.forward(&given[0], &indices)?])
            };
            let at = ["x", "gate", "up", "down"].map(input);
            let (outputs, gradients) = vjp(layer, &at, &[input("cotangent")]).unwrap();
            let bound = |key: &str| case["tolerance"][key].as_f64().unwrap() as f32;
            let found = outputs.iter().chain(&gradients);
            for (key, found) in ["y", "grad_x", "grad_gate", "grad_up", "grad_down"].iter().zip(found) {
                let want = &tensors[&format!("{name}/out/{key}")];
                assert_close(found, want, bound("atol"), bound("rtol"), &format!("{name} {key}"));
            }
        }
        // A GPU sorts so few only where it differentiates, as it does here.
        assert!(device() == "gpu" || (sorted >= 3 && plain >= 2), "{sorted} sorted, {plain} not");
    }

    fn noise(shape: &[i32], seed: u64) -> Array {
        random::normal(0., 1., shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap()
    }

    fn indices(shape: &[i32], experts: i32) -> Array {
        random::randint(0, experts, shape, Dtype::Uint32, &random::key(9).unwrap()).unwrap()
    }

    #[test]
    fn every_token_meets_its_experts_with_their_biases() {
        // 3 tokens, and 40 tokens, for which they are sorted.
        for tokens in [3, 40] {
            let (experts, weight, bias) = (indices(&[tokens, 2], 5), noise(&[5, 4, 32], 1), noise(&[5, 4], 2));
            let x = noise(&[tokens, 32], 3);
            let layer = SwitchLinear { weight: weight.clone().into(), bias: Some(bias.clone()), lora: None };
            let found = switch_apply(&x, &experts, |x, indices, sorted| layer.forward(x, indices, sorted)).unwrap();
            let checked =
                switch_apply(&x, &experts, |x, indices, sorted| switch_linear(x, &weight, Some(&bias), indices, sorted));
            let chosen = weight.take(&experts, 0).unwrap();
            let want = chosen.matmul(&x.reshape(&[tokens, 1, 32, 1]).unwrap()).unwrap().squeeze(&[-1]).unwrap();
            let want = want.add(&bias.take(&experts, 0).unwrap()).unwrap();
            // Sums of 32 products of about 1.
            assert_close(&found, &want, 1e-5, 1e-5, "bias");
            assert_close(&checked.unwrap(), &want, 1e-5, 1e-5, "checked");
        }
    }

    #[test]
    fn packed_experts_compute_what_their_numbers_do() {
        for (mode, group) in [("affine", 32), ("mxfp4", 32), ("nvfp4", 16)] {
            let how = Quantization::new(QuantizationMode::parse(mode).unwrap(), Some(group), Some(4)).unwrap();
            let (plain, bias) = (Weight::from(noise(&[4, 8, 64], 1)), noise(&[4, 8], 2));
            let packed = SwitchLinear { weight: plain.pack(how).unwrap(), bias: Some(bias.clone()), lora: None };
            let Weight::Packed(Packed { codes, .. }) = &packed.weight else { panic!("not packed") };
            let same = SwitchLinear { weight: packed.weight.numbers().unwrap().into(), bias: Some(bias.clone()), lora: None };
            // Unsorted, sorted, and unpacked on the CPU.
            for tokens in [2, 50, 150] {
                let (x, experts) = (noise(&[tokens, 64], 5), indices(&[tokens, 2], 4));
                let found = switch_apply(&x, &experts, |x, i, sorted| packed.forward(x, i, sorted)).unwrap();
                let want = switch_apply(&x, &experts, |x, i, sorted| same.forward(x, i, sorted)).unwrap();
                assert_close(&found, &want, 1e-4, 1e-4, mode);
                let checked =
                    switch_apply(&x, &experts, |x, i, sorted| quantized_switch_linear(x, codes, Some(&bias), i, how, sorted));
                assert_close(&checked.unwrap(), &found, 0., 0., "checked");
            }
        }
    }

    #[test]
    fn names_are_those_of_checkpoints() {
        let glu = SwitchGlu::new(32, 64, 2, true, Dtype::Float32).unwrap();
        let mut names = Vec::new();
        glu.visit("switch_mlp", &mut |name, _| names.push(name));
        let part = |part: &str| ["weight", "bias"].map(|name| format!("switch_mlp.{part}.{name}"));
        assert_eq!(names, ["gate_proj", "up_proj", "down_proj"].map(part).concat());
        let how = Quantization::new(QuantizationMode::Affine, None, None).unwrap();
        let mut packed = SwitchLinear::new(64, 8, 2, true, Dtype::Float32).unwrap();
        packed.weight = packed.weight.pack(how).unwrap();
        assert_eq!(packed.weight.shape(), [2, 8, 64]);
        names.clear();
        packed.visit("up", &mut |name, _| names.push(name));
        assert_eq!(names, ["up.weight", "up.scales", "up.biases", "up.bias"]);
    }

    #[test]
    fn what_does_not_fit_is_a_typed_error_and_strange_experts_stay_inside() {
        let (weight, x) = (noise(&[3, 4, 8], 1), noise(&[2, 1, 1, 8], 2));
        let ids = indices(&[2, 2], 3);
        let errors = [
            switch_linear(&x, &noise(&[4, 8], 1), None, &ids, false),
            switch_linear(&x, &weight, Some(&noise(&[4], 1)), &ids, false),
            switch_linear(&noise(&[2, 1, 1, 7], 1), &weight, None, &ids, false),
            switch_apply(&noise(&[3, 8], 1), &ids, |x, _, _| Ok(x.clone())),
            switch_apply(&Array::scalar(1.), &ids, |x, _, _| Ok(x.clone())),
        ];
        for error in errors {
            assert_eq!(error.unwrap_err().code(), "ERR_MLX_SHAPE");
        }
        let float = noise(&[2, 2], 1);
        assert_eq!(switch_linear(&x, &weight, None, &float, false).unwrap_err().code(), "ERR_MLX_DTYPE");
        let strange = Array::from_slice(&[-1, 7, i32::MIN, i32::MAX], &[2, 2]).unwrap();
        let found = switch_linear(&x, &weight, None, &strange, false).unwrap();
        let inside = Array::from_slice(&[2u32, 2, 0, 2], &[2, 2]).unwrap();
        assert_close(&found, &switch_linear(&x, &weight, None, &inside, false).unwrap(), 0., 0., "bounded");
    }
}
