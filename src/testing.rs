//! Golden numbers for tests: `__test__/fixtures/golden`, described by its README.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::mlx::{Array, Dtype};

/// Whether arrays are computed on a GPU. For the few tests of what only the CPU does, which then have nothing to test.
pub fn on_gpu() -> bool {
    crate::mlx::device() == "gpu"
}

/// A file or folder of the golden fixtures. Panics when it is missing: a fixture that is not there is a failure.
pub fn golden_path(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("__test__/fixtures/golden").join(name);
    assert!(path.exists(), "missing fixture {}", path.display());
    path
}

/// The parsed `cases.json` of a folder, for example `cases("models/qwen3")`.
pub fn cases(folder: &str) -> Value {
    let path = golden_path(folder).join("cases.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every tensor of a safetensors file in its own dtype. A reader apart from the one under test.
pub fn load_tensors(path: impl AsRef<Path>) -> HashMap<String, Array> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..header_end]).unwrap();
    let tensor = |entry: &Value| {
        let dtype = Dtype::from_safetensors(entry["dtype"].as_str().unwrap()).unwrap();
        let shape: Vec<i32> = entry["shape"].as_array().unwrap().iter().map(|size| size.as_i64().unwrap() as i32).collect();
        let offset = |index: usize| header_end + entry["data_offsets"][index].as_u64().unwrap() as usize;
        Array::from_bytes(&bytes[offset(0)..offset(1)], &shape, dtype).unwrap()
    };
    header.iter().filter(|(name, _)| *name != "__metadata__").map(|(name, entry)| (name.clone(), tensor(entry))).collect()
}

/// `|got - want| <= atol + rtol * |want|` for every element, and the same shape. NaN agrees only with NaN.
#[track_caller]
pub fn assert_close(got: &Array, want: &Array, atol: f32, rtol: f32, what: &str) {
    assert_eq!(got.shape(), want.shape(), "{what}: shape");
    let (got, want) = (got.to_f32().unwrap(), want.to_f32().unwrap());
    let mut worst: Option<(usize, f32)> = None;
    for (index, (&got, &want)) in got.iter().zip(&want).enumerate() {
        let agrees = got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= atol + rtol * want.abs();
        let gap = if (got - want).is_nan() { f32::INFINITY } else { (got - want).abs() };
        if !agrees && worst.is_none_or(|(_, largest)| gap > largest) {
            worst = Some((index, gap));
        }
    }
    if let Some((index, gap)) = worst {
        panic!("{what}: element {index} is {} and should be {}; off by {gap}", got[index], want[index]);
    }
}

#[test]
fn the_helpers_see_differences() {
    let tensors = load_tensors(golden_path("models/qwen3").join("io.safetensors"));
    let logits = &tensors["single_logits"];
    assert_eq!(logits.dim(-1) as usize, 160);
    assert_eq!(cases("models/qwen3")["cases"][0]["name"], "qwen3");
    assert_close(logits, logits, 0.0, 0.0, "itself");
    let shifted = logits.add_scalar(1e-2).unwrap();
    assert!(std::panic::catch_unwind(|| assert_close(&shifted, logits, 1e-3, 0.0, "shifted")).is_err());
    let nan = logits.multiply_scalar(f32::NAN).unwrap();
    assert!(std::panic::catch_unwind(|| assert_close(&nan, logits, 1.0, 0.0, "nan")).is_err());
}
