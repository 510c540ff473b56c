//! `golden/switch`: products with gathered and quantised matrices, recorded from MLX.

use std::collections::HashMap;

use serde_json::Value;

use crate::mlx::ops::{self, Gather, Quantization, QuantizationMode};
use crate::mlx::{Array, Dtype, vjp};
use crate::testing::{assert_close, cases, golden_path, load_tensors, on_gpu};

struct Case<'a> {
    case: &'a Value,
    tensors: &'a HashMap<String, Array>,
}

impl Case<'_> {
    fn find(&self, part: &str, name: &str) -> Option<Array> {
        let tensor = self.case[part].get(name)?["tensor"].as_str().unwrap();
        Some(self.tensors[tensor].clone())
    }

    fn input(&self, name: &str) -> Array {
        self.find("inputs", name).unwrap()
    }

    fn how(&self) -> Quantization {
        let options = &self.case["options"];
        let int = |name: &str| Some(options[name].as_i64().unwrap() as i32);
        let mode = QuantizationMode::parse(options["mode"].as_str().unwrap()).unwrap();
        Quantization::new(mode, int("group_size"), int("bits")).unwrap()
    }

    fn compare(&self, name: &str, got: &Array) {
        let bound = |name: &str| self.case["tolerance"][name].as_f64().unwrap() as f32;
        let want = self.find("expected", name).unwrap();
        // A GPU rounds scale · number + bias once, the recorded CPU twice: half a last place of the bias, whose size is below 16.
        let fused = if on_gpu() && name == "dequantized" { 1e-6 * 2. } else { 0. };
        assert_close(got, &want, fused + bound("atol"), bound("rtol"), &format!("{} {name}", self.case["name"]));
    }
}

#[test]
fn every_recorded_case_agrees() {
    let fixture = cases("switch");
    let tensors = load_tensors(golden_path("switch").join("tensors.safetensors"));
    let mut seen = HashMap::new();
    for case in fixture["cases"].as_array().unwrap() {
        let kind = case["kind"].as_str().unwrap();
        *seen.entry(kind).or_insert(0) += 1;
        let case = Case { case, tensors: &tensors };
        let sorted = case.case["options"]["sorted_indices"].as_bool().unwrap_or(false);
        match kind {
            // The layer: `nn/switch.rs` reads these cases.
            "switch_glu" => {}
            "gather_mm" => {
                let indices = case.input("rhs_indices");
                let product = move |x: &[Array]| Ok(vec![ops::gather_mm(&x[0], &x[1], None, Some(&indices), sorted)?]);
                let (outputs, gradients) = vjp(product, &[case.input("a"), case.input("b")], &[case.input("cotangent")]).unwrap();
                case.compare("out", &outputs[0]);
                case.compare("grad_a", &gradients[0]);
                case.compare("grad_b", &gradients[1]);
            }
            "quantize" => {
                let coded = ops::quantize(&case.input("w"), case.how(), None).unwrap();
                let want = case.find("expected", "packed").unwrap();
                assert_eq!(coded.weight.to_vec::<u32>().unwrap(), want.to_vec::<u32>().unwrap(), "{}", case.case["name"]);
                case.compare("scales", &coded.scales);
                assert_eq!(coded.biases.is_some(), case.find("expected", "biases").is_some());
                if let Some(biases) = &coded.biases {
                    case.compare("biases", biases);
                }
                let numbers =
                    ops::dequantize(&coded.weight, &coded.scales, coded.biases.as_ref(), case.how(), None, Some(Dtype::Float32));
                case.compare("dequantized", &numbers.unwrap());
            }
            "quantized_matmul" => {
                let (packed, scales, biases) = (case.input("packed"), case.input("scales"), case.find("inputs", "biases"));
                let got = ops::quantized_matmul(&case.input("x"), &packed, &scales, biases.as_ref(), true, case.how());
                case.compare("out", &got.unwrap());
            }
            "gather_qmm" => {
                let (packed, scales, biases) = (case.input("packed"), case.input("scales"), case.find("inputs", "biases"));
                let (x, indices) = (case.input("x"), case.input("rhs_indices"));
                let gather = Gather { lhs: None, rhs: Some(&indices), transpose: true, sorted };
                let got = ops::gather_qmm(&x, &packed, &scales, biases.as_ref(), case.how(), gather);
                case.compare("out", &got.unwrap());
            }
            _ => panic!("unknown kind '{kind}'"),
        }
    }
    for kind in ["gather_mm", "quantize", "quantized_matmul", "gather_qmm"] {
        assert!(seen[kind] >= 4, "{kind}: {seen:?}");
    }
}
