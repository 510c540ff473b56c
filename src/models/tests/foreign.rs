//! Checkpoints in the layouts of AutoAWQ and AutoGPTQ.

use serde_json::{Value, json};

use super::quantized::random_model;
use super::*;
use crate::mlx::io::safetensors::{Source, write};
use crate::models::experts::{expert_name, is_stacked};
use crate::models::{Conversion, ConvertOptions};
use crate::testing::assert_close;

/// Of a file, by name.
type Tensors = Vec<(String, Array)>;
/// What the layers, by name, stand for: of each expert.
type Numbers = Vec<(String, Vec<Array>)>;

/// A layer as it is before it is packed.
struct Codes {
    inputs: usize,
    outputs: usize,
    group: usize,
    bits: u32,
    seed: u32,
}

impl Codes {
    /// Any number below `limit` that the place decides.
    fn pick(&self, row: usize, column: usize, salt: u32, limit: u32) -> u32 {
        let mixed =
            (row as u32).wrapping_mul(2_654_435_761) ^ (column as u32).wrapping_mul(40_503).wrapping_add(self.seed + salt);
        (mixed ^ (mixed >> 13)).wrapping_mul(0x5bd1_e995).wrapping_shr(7) % limit
    }

    fn code(&self, output: usize, input: usize) -> u32 {
        self.pick(output, input, 1, 1 << self.bits)
    }

    fn zero(&self, output: usize, group: usize) -> u32 {
        self.pick(output, group, 77, 1 << self.bits)
    }

    /// Exact in float16.
    fn scale(&self, output: usize, group: usize) -> f32 {
        (1 + self.pick(output, group, 5, 1000)) as f32 / 65_536.
    }

    fn groups(&self) -> usize {
        self.inputs / self.group
    }

    /// `[out, in]`: exact in float32.
    fn numbers(&self) -> Vec<f32> {
        let number = |output: usize, input: usize| {
            let group = input / self.group;
            (self.code(output, input) as f32 - self.zero(output, group) as f32) * self.scale(output, group)
        };
        (0..self.outputs).flat_map(|output| (0..self.inputs).map(move |input| number(output, input))).collect()
    }

    /// Words of `rows` rows, of the codes that `at` gives of each, in the order in which `places` names them.
    fn words(rows: usize, columns: usize, bits: u32, places: &[usize], at: impl Fn(usize, usize) -> u32) -> Array {
        let count = places.len();
        let mut words = vec![0u32; rows * columns / count];
        for row in 0..rows {
            for word in 0..columns / count {
                for (nibble, place) in places.iter().enumerate() {
                    words[row * columns / count + word] |= at(row, word * count + place) << (bits * nibble as u32);
                }
            }
        }
        let words: Vec<i32> = words.into_iter().map(|word| word as i32).collect();
        Array::from_slice(&words, &[rows as i32, (columns / count) as i32]).unwrap()
    }

    /// Names and tensors in a layout.
    fn tensors(&self, method: &str, v2: bool) -> Vec<(&'static str, Array)> {
        let scales: Vec<f32> =
            (0..self.groups()).flat_map(|group| (0..self.outputs).map(move |output| self.scale(output, group))).collect();
        let scales = Array::from_slice(&scales, &[self.groups() as i32, self.outputs as i32]).unwrap();
        let mut tensors = vec![("scales", scales.astype(Dtype::Float16).unwrap())];
        let zero = |group: usize, output: usize| self.zero(output, group);
        if method == "awq" {
            let order = [0, 2, 4, 6, 1, 3, 5, 7];
            let code = |input: usize, output: usize| self.code(output, input);
            tensors.push(("qweight", Self::words(self.inputs, self.outputs, 4, &order, code)));
            tensors.push(("qzeros", Self::words(self.groups(), self.outputs, 4, &order, zero)));
        } else {
            let order: Vec<usize> = (0..32 / self.bits as usize).collect();
            let by_output = Self::words(self.outputs, self.inputs, self.bits, &order, |output, input| self.code(output, input));
            tensors.push(("qweight", by_output.t().unwrap().contiguous().unwrap()));
            let stored = |group: usize, output: usize| match v2 {
                true => zero(group, output),
                false => zero(group, output).wrapping_sub(1) & ((1 << self.bits) - 1),
            };
            tensors.push(("qzeros", Self::words(self.groups(), self.outputs, self.bits, &order, stored)));
            let groups: Vec<i32> = (0..self.inputs).map(|input| (input / self.group) as i32).collect();
            tensors.push(("g_idx", Array::from_slice(&groups, &[self.inputs as i32]).unwrap()));
        }
        tensors
    }
}

/// Writes a checkpoint whose projections are packed, and returns what they stand for. `change` may spoil the tensors.
fn written(dir: &Path, kind: &str, block: Value, change: &dyn Fn(&mut Tensors)) -> Numbers {
    let model = random_model(kind);
    let bits = block["bits"].as_u64().unwrap() as u32;
    let group = block["group_size"].as_u64().unwrap() as usize;
    let method = block["quant_method"].as_str().unwrap().to_string();
    let v2 = block["checkpoint_format"] == "gptq_v2";
    let (mut tensors, mut want, mut seed) = (Vec::new(), Vec::new(), 0);
    let mut weights = Vec::new();
    model.net.weights("", &mut weights);
    let packed = |name: &str| name.ends_with("_proj");
    for (name, weight) in &weights {
        let shape = weight.shape();
        if !packed(name) {
            continue;
        }
        let (outputs, inputs) = (shape[shape.len() - 2] as usize, shape[shape.len() - 1] as usize);
        let experts = if shape.len() == 3 { shape[0] } else { 1 };
        let mut numbers = Vec::new();
        for expert in 0..experts {
            seed += 1;
            let codes = Codes { inputs, outputs, group, bits, seed };
            let layer =
                if is_stacked(&format!("{name}.")) { expert_name(&format!("{name}."), expert) } else { format!("{name}.") };
            tensors.extend(codes.tensors(&method, v2).into_iter().map(|(part, array)| (format!("{layer}{part}"), array)));
            numbers.push(Array::from_slice(&codes.numbers(), &[outputs as i32, inputs as i32]).unwrap());
        }
        want.push((name.clone(), numbers));
    }
    model.net.visit("", &mut |name, array| {
        let layer = name.strip_suffix(".weight").unwrap_or(&name);
        if !packed(layer) {
            tensors.push((name, array.astype(Dtype::Float16).unwrap()));
        }
    });
    change(&mut tensors);
    let sources: Vec<Source> = tensors.iter().map(|(name, array)| Source::held(name.clone(), array)).collect();
    write(&dir.join("model.safetensors"), &sources.iter().collect::<Vec<_>>()).unwrap();
    let mut config = model.config_json.clone();
    config["quantization_config"] = block;
    config["torch_dtype"] = "float16".into();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    want
}

fn compare(model: &Model, want: &[(String, Vec<Array>)], what: &str) {
    let mut weights = Vec::new();
    model.net.weights("", &mut weights);
    for (name, numbers) in want {
        let (_, weight) = weights.iter().find(|(held, _)| held == name).unwrap();
        assert!(weight.is_packed(), "{what}: {name}");
        let numbers = if weight.shape().len() == 3 { ops::stack(numbers, 0).unwrap() } else { numbers[0].clone() };
        assert_close(&weight.numbers().unwrap(), &numbers, 0., 0., &format!("{what} {name}"));
    }
}

fn blocks() -> Vec<Value> {
    let mut all = vec![json!({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true, "version": "gemm"})];
    for (bits, format) in [(4, "gptq"), (8, "gptq"), (2, "gptq"), (4, "gptq_v2")] {
        all.push(json!({"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": false, "checkpoint_format": format}));
    }
    all
}

#[test]
fn their_codes_stand_for_the_same_numbers_here() {
    for kind in ["qwen2", "qwen3_moe"] {
        for block in blocks() {
            let (scratch, what) = (Scratch::new(), format!("{kind} {block}"));
            let want = written(&scratch.0, kind, block, &|_| ());
            let model = load_f32(&scratch.0).unwrap();
            compare(&model, &want, &what);
            let ids = Array::from_slice(&[5, 9, 23, 41], &[1, 4]).unwrap();
            let logits = |model: &Model| model.net.logits(&model.net.hidden(crate::models::Forward::new(&ids)).unwrap()).unwrap();
            // Written in mlx-lm's layout, in memory and file to file.
            let (saved, converted) = (Scratch::new(), Scratch::new());
            model.save(&saved.0).unwrap();
            let again = load_f32(&saved.0).unwrap();
            compare(&again, &want, &what);
            assert_eq!(again.quantization(), model.quantization(), "{what}");
            assert_close(&logits(&again), &logits(&model), 0., 0., &what);
            let options = ConvertOptions { dtype: Some(Dtype::Float32), ..ConvertOptions::default() };
            let conversion = Conversion::plan(&scratch.0, options).unwrap();
            conversion.run(&scratch.0, &converted.0, &mut |_, _| Ok(())).unwrap();
            compare(&load_f32(&converted.0).unwrap(), &want, &what);
        }
    }
}

#[test]
fn biases_of_zeros_that_the_model_does_not_have_are_left_out() {
    let block = || blocks()[1].clone();
    let bias = |value: f64| {
        move |tensors: &mut Tensors| {
            let bias = ops::full(&[128], value, Dtype::Float16).unwrap();
            tensors.push(("model.layers.0.self_attn.o_proj.bias".into(), bias));
        }
    };
    let scratch = Scratch::new();
    let want = written(&scratch.0, "qwen2", block(), &bias(0.));
    compare(&load_f32(&scratch.0).unwrap(), &want, "zeros");
    let scratch = Scratch::new();
    written(&scratch.0, "qwen2", block(), &bias(0.5));
    assert!(load_f32(&scratch.0).err().unwrap().to_string().contains("o_proj.bias"));
}

#[test]
fn what_does_not_fit_is_named() {
    let awq = || blocks()[0].clone();
    let gptq = || blocks()[1].clone();
    let layer = "model.layers.1.self_attn.k_proj";
    let spoil = |part: &'static str, spoilt: Option<Array>| {
        move |tensors: &mut Tensors| {
            let name = format!("{layer}.{part}");
            let at = tensors.iter().position(|(held, _)| *held == name).unwrap();
            match &spoilt {
                Some(array) => tensors[at].1 = array.clone(),
                None => drop(tensors.remove(at)),
            }
        }
    };
    let ints = |shape: &[i32]| ops::zeros(shape, Dtype::Int32).unwrap();
    let order = Array::from_slice(&(0..128).map(|input| (input % 4) / 2).collect::<Vec<i32>>(), &[128]).unwrap();
    type Change = Box<dyn Fn(&mut Tensors)>;
    let cases: Vec<(Value, Change, &str)> = vec![
        (gptq(), Box::new(spoil("g_idx", Some(order))), "desc_act"),
        (gptq(), Box::new(spoil("qzeros", None)), "k_proj.biases"),
        (gptq(), Box::new(spoil("scales", None)), "k_proj"),
        (gptq(), Box::new(spoil("qweight", Some(ints(&[16, 65])))), "k_proj"),
        (gptq(), Box::new(spoil("qzeros", Some(ints(&[4, 9])))), "k_proj"),
        (awq(), Box::new(spoil("qweight", Some(ints(&[128])))), "k_proj"),
        (awq(), Box::new(spoil("qweight", Some(ints(&[120, 8])))), "k_proj"),
        (awq(), Box::new(spoil("qzeros", Some(ints(&[2, 7])))), "k_proj"),
        (awq(), Box::new(spoil("scales", Some(ints(&[2, 64])))), "k_proj"),
    ];
    for (block, change, part) in cases {
        let scratch = Scratch::new();
        written(&scratch.0, "qwen3", block, &*change);
        let error = load_f32(&scratch.0).err().unwrap();
        assert!(["ERR_MLX_LOAD", "ERR_MLX_CONFIG"].contains(&error.code()), "{error:?}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}
