//! Conversions file to file against the same done in memory.

use serde_json::{Value, json};

use super::quantized::{assert_same, how, plainly, quantize, random_model};
use super::*;
use crate::mlx::{Error, memory};
use crate::models::{Conversion, ConvertOptions, QuantizeOptions, inspect};
use crate::testing::{golden_path, load_tensors};

fn load_as(dir: &Path, dtype: Dtype) -> Model {
    load(dir, &LoadOptions { dtype: Some(dtype), ..LoadOptions::default() }, &mut |_, _| Ok(())).unwrap()
}

fn convert(dir: &Path, options: ConvertOptions) -> Scratch {
    let out = Scratch::new();
    Conversion::plan(dir, options).unwrap().run(dir, &out.0, &mut |_, _| Ok(())).unwrap();
    out
}

fn quantized(options: QuantizeOptions) -> ConvertOptions {
    ConvertOptions { quantize: Some(options), ..ConvertOptions::default() }
}

#[test]
fn what_is_converted_is_what_is_quantised_in_memory() {
    for name in ["qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_untied_sharded"] {
        let dir = golden_path(&format!("models/{name}"));
        for dtype in [Dtype::Float32, Dtype::Bfloat16] {
            let options = plainly(how("affine", 32, 4));
            let out = convert(&dir, ConvertOptions { dtype: Some(dtype), ..quantized(options.clone()) });
            let mut model = load_as(&dir, dtype);
            quantize(&mut model, &options);
            let saved = Scratch::new();
            model.save(&saved.0).unwrap();
            for file in ["config.json", "model.safetensors"] {
                let [found, want] = [&out, &saved].map(|folder| std::fs::read(folder.0.join(file)).unwrap());
                assert!(found == want, "{name} {}: {file} differs", dtype.name());
            }
            // And back to numbers: those that the codes stand for.
            let plain = convert(&out.0, ConvertOptions { dequantize: true, ..ConvertOptions::default() });
            for layer in model.layer_names(true) {
                model.unpack_layer(&layer).unwrap();
            }
            assert_same(&load_as(&plain.0, dtype), &model, name);
            let config: Value = serde_json::from_slice(&std::fs::read(plain.0.join("config.json")).unwrap()).unwrap();
            assert!(config.get("quantization").is_none(), "{name}");
            assert_eq!(config.get("torch_dtype").or(config.get("dtype")), Some(&json!(dtype.name())));
            let names = load_tensors(plain.0.join("model.safetensors"));
            assert!(names.keys().all(|name| !name.contains("switch_mlp")), "transformers reads one tensor per expert");
        }
    }
}

#[test]
fn a_dtype_alone_changes_the_numbers_alone() {
    let dir = golden_path("models/qwen3_moe");
    let out = convert(&dir, ConvertOptions { dtype: Some(Dtype::Float16), ..ConvertOptions::default() });
    assert_same(&load_as(&out.0, Dtype::Float16), &load_as(&dir, Dtype::Float16), "float16");
    assert!(load_tensors(out.0.join("model.safetensors")).values().all(|array| array.dtype() == Dtype::Float16));
    // Without one it is that of the configuration.
    let same = convert(&out.0, ConvertOptions::default());
    let [first, second] = [&out, &same].map(|folder| std::fs::read(folder.0.join("model.safetensors")).unwrap());
    assert!(first == second);
    // Codes stay codes; their scales have the dtype.
    let packed = convert(&dir, quantized(plainly(how("affine", 32, 8))));
    let half = convert(&packed.0, ConvertOptions { dtype: Some(Dtype::Bfloat16), ..ConvertOptions::default() });
    let tensors = load_tensors(half.0.join("model.safetensors"));
    assert_eq!(tensors["lm_head.weight"].dtype(), Dtype::Uint32);
    assert_eq!(tensors["lm_head.scales"].dtype(), Dtype::Bfloat16);
}

#[test]
fn finished_shards_are_kept_and_half_ones_are_not() {
    let dir = golden_path("models/qwen3");
    let options = ConvertOptions { dtype: Some(Dtype::Bfloat16), shard_bytes: 10_000, ..ConvertOptions::default() };
    let whole = convert(&dir, options.clone());
    let shards = |folder: &Path| -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|end| end == "safetensors"));
        files.sort();
        files
    };
    assert!(shards(&whole.0).len() > 3);
    assert!(shards(&whole.0).iter().all(|path| std::fs::metadata(path).unwrap().len() < 14_000));
    let model = load_as(&dir, Dtype::Bfloat16);
    assert_same(&load_as(&whole.0, Dtype::Bfloat16), &model, "shards");

    let out = Scratch::new();
    let stopped = Conversion::plan(&dir, options.clone()).unwrap().run(&dir, &out.0, &mut |done, total| {
        if 2 * done > total { Err(Error::Cancelled) } else { Ok(()) }
    });
    assert!(matches!(stopped.err(), Some(Error::Cancelled)));
    let finished = shards(&out.0);
    assert!(!finished.is_empty() && finished.len() < shards(&whole.0).len());
    assert!(!out.0.join("config.json").exists());
    // One is cut off, and one is of the right size with another header; the others are marked in their data.
    let cut = std::fs::read(&finished[0]).unwrap();
    std::fs::write(&finished[0], &cut[..cut.len() - 1]).unwrap();
    for path in &finished[1..] {
        let mut bytes = std::fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    let mut reports = Vec::new();
    Conversion::plan(&dir, options)
        .unwrap()
        .run(&dir, &out.0, &mut |done, total| {
            reports.push((done, total));
            Ok(())
        })
        .unwrap();
    assert!(reports.is_sorted());
    assert_eq!(reports.last().unwrap().0, reports.last().unwrap().1);
    for (index, (found, want)) in shards(&out.0).iter().zip(shards(&whole.0)).enumerate() {
        let kept = (1..finished.len()).contains(&index);
        assert_eq!(std::fs::read(found).unwrap() == std::fs::read(want).unwrap(), !kept, "shard {index}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let dir = golden_path("models/qwen3");
    let refused = |dir: &Path, options: ConvertOptions, code: &str, part: &str| {
        let error = Conversion::plan(dir, options).err().unwrap();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    let default = ConvertOptions::default;
    refused(&dir, ConvertOptions { dequantize: true, ..default() }, "ERR_MLX_ARGUMENT", "is not quantised");
    refused(
        &dir,
        ConvertOptions { dequantize: true, ..quantized(plainly(how("affine", 32, 4))) },
        "ERR_MLX_ARGUMENT",
        "not both",
    );
    refused(&dir, ConvertOptions { dtype: Some(Dtype::Int32), ..default() }, "ERR_MLX_DTYPE", "float32");
    refused(&dir, quantized(plainly(how("affine", 128, 4))), "ERR_MLX_ARGUMENT", "no layer can be packed");
    refused(&dir.join("nowhere"), default(), "ERR_MLX_LOAD", "config.json");
    let packed = convert(&dir, quantized(plainly(how("affine", 32, 4))));
    // The layers of width 56 are left, and would be again.
    refused(&packed.0, quantized(plainly(how("affine", 32, 4))), "ERR_MLX_ARGUMENT", "56");
}

#[test]
fn the_model_is_never_in_memory() {
    let dir = Scratch::new();
    random_model("qwen3_moe").save(&dir.0).unwrap();
    let bytes = std::fs::metadata(dir.0.join("model.safetensors")).unwrap().len() as usize;
    // Other tests run beside this one and allocate too: the lowest of some tries is this conversion's own.
    let peak = (0..12).map(|_| {
        let before = memory::stats().unwrap().active;
        memory::reset_peak().unwrap();
        convert(&dir.0, quantized(plainly(how("affine", 32, 4))));
        memory::stats().unwrap().peak.saturating_sub(before)
    });
    let peak = peak.min().unwrap();
    // The largest layer, of 256 KB, is read, and its codes are made; the model has 2.5 MB.
    assert!(peak < bytes / 3, "{peak} of {bytes} bytes");
}

#[test]
fn a_checkpoint_is_described() {
    let found = inspect(&golden_path("models/qwen3_moe")).unwrap();
    let model = load_f32(&golden_path("models/qwen3_moe")).unwrap();
    let total = model.size().parameters;
    assert_eq!(found["parameters"]["total"], total);
    let experts: u64 =
        model.parameters().iter().filter(|(name, _)| name.contains("switch_mlp")).map(|(_, array)| array.size() as u64).sum();
    assert!(experts > 0);
    // Two of four experts.
    assert_eq!(found["parameters"]["active"], total - experts / 2);
    assert_eq!(found["bytes"], 4 * total);
    assert_eq!(found["memory"]["weights"]["bfloat16"], 2 * total);
    // Keys and values of 4 layers with one head of 16.
    assert_eq!(found["memory"]["kv_cache_per_token"]["bfloat16"], 2 * 4 * 16 * 2);
    assert_eq!(found["quantization"], Value::Null);
    assert_eq!(found["dtypes"]["float32"]["bytes"], 4 * total);
    let packed = convert(&golden_path("models/qwen3_moe"), quantized(plainly(how("affine", 32, 4))));
    let found = inspect(&packed.0).unwrap();
    assert_eq!(found["quantization"]["bits"], 4);
    assert_eq!(found["parameters"]["total"], total);
    assert!(found["bits_per_weight"].as_f64().unwrap() < 12.);
    assert!(found["tensors"].as_array().unwrap().iter().any(|tensor| tensor["dtype"] == "uint32"));
    assert!(inspect(Path::new("nowhere")).is_err());
}
