//! Every class against scripts recorded from mlx-lm.

use std::collections::HashMap;

use serde_json::Value;

use crate::cache::{BatchKvCache, BatchRotatingKvCache, Cache, Fetched, KvCache, Offsets, Placement, RotatingKvCache, Visible};
use crate::mlx::ops::{self, Quantization, QuantizationMode, Quantized};
use crate::mlx::{Array, Dtype};
use crate::testing::{assert_close, cases, golden_path, load_tensors, on_gpu};

fn int(value: &Value) -> i32 {
    value.as_i64().unwrap() as i32
}

fn ints(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(int).collect()
}

fn affine(args: &Value) -> Quantization {
    Quantization::new(QuantizationMode::Affine, Some(int(&args["group_size"])), Some(int(&args["bits"]))).unwrap()
}

/// `[B][T][K]` of a placement or of a recorded mask (null: all, "causal").
fn visible(mask: Option<Array>, causal: bool, shape: [i32; 3]) -> Vec<bool> {
    let [rows, queries, keys] = shape;
    let mask = match mask {
        Some(mask) => mask,
        None if causal => ops::tri(queries, keys, keys - queries, Dtype::Bool).unwrap(),
        None => ops::ones(&[1], Dtype::Bool).unwrap(),
    };
    mask.broadcast_to(&[rows, 1, queries, keys]).unwrap().to_vec::<bool>().unwrap()
}

fn placed(placement: &Placement, shape: [i32; 3]) -> Vec<bool> {
    match &placement.visible {
        Visible::All => visible(None, false, shape),
        Visible::Causal => visible(None, true, shape),
        Visible::Masked(mask) => visible(Some(mask.array().unwrap()), false, shape),
    }
}

fn per_row(offsets: &Offsets, rows: i32) -> Vec<i32> {
    match offsets {
        Offsets::Same(offset) => vec![*offset; rows as usize],
        Offsets::PerRow(offsets) => offsets.clone(),
    }
}

struct Script<'a> {
    tensors: &'a HashMap<String, Array>,
    caches: HashMap<String, Cache>,
    /// Where rows that end with padding end.
    ends: HashMap<String, Vec<i32>>,
    /// Caches that single tokens have gone round.
    rotated: HashMap<String, bool>,
    window: i32,
    compared: usize,
}

impl Script<'_> {
    fn tensor(&self, value: &Value) -> Option<&Array> {
        self.tensors.get(value.as_str()?)
    }

    fn recorded(&self, value: &Value, shape: [i32; 3]) -> Vec<bool> {
        visible(self.tensor(value).cloned(), value == "causal", shape)
    }

    fn make(&self, step: &Value) -> Cache {
        let args = &step["args"];
        match step["class"].as_str().unwrap() {
            "KVCache" => KvCache::new().into(),
            "QuantizedKVCache" => KvCache::quantized(affine(args)).into(),
            "RotatingKVCache" => {
                RotatingKvCache::new(int(&args["max_size"]), args["keep"].as_i64().unwrap_or(0) as i32).unwrap().into()
            }
            "BatchKVCache" => BatchKvCache::new(&ints(&args["left_padding"])).unwrap().into(),
            "BatchRotatingKVCache" => {
                BatchRotatingKvCache::new(int(&args["max_size"]), &ints(&args["left_padding"])).unwrap().into()
            }
            class => panic!("{class}"),
        }
    }

    fn update(&mut self, step: &Value, what: &str) {
        let name = step["cache"].as_str().unwrap();
        let (keys, values) = (self.tensor(&step["keys"]).unwrap(), self.tensor(&step["values"]).unwrap());
        let cache = &self.caches[name];
        let (rows, tokens) = (keys.dim(0), keys.dim(2));
        let placement = cache.placement(tokens, None);
        let windowed = cache.placement(tokens, Some(self.window));
        let kept = if let Cache::Rotating(cache) = cache { cache.keep() } else { 0 };
        let mut cache = cache.clone();
        let fetched = cache.update(keys, values).unwrap();
        let slots = match &fetched {
            Fetched::Plain(keys, _) => keys.dim(2),
            Fetched::Quantized { keys, .. } => keys.weight.dim(2),
        };
        let shape = [rows, tokens, slots];
        // Queries at padding may see anything.
        let offsets = per_row(&placement.offsets, rows);
        let ends = self.ends.get(name);
        let real = |row: i32, query: i32| {
            let position = offsets[row as usize] + query;
            position >= 0 && ends.is_none_or(|ends| position < ends[row as usize])
        };
        let agree = |ours: &[bool], theirs: &[bool], of: &str| {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                let (row, query) = (index as i32 / (tokens * slots), index as i32 / slots % tokens);
                assert!(
                    !real(row, query) || ours == theirs,
                    "{what}: {of} of row {row}, query {query}, key {}",
                    index as i32 % slots
                );
            }
        };
        let ours = placed(&placement, shape);
        if tokens > 1 && self.rotated.get(name) == Some(&true) && offsets.len() > 1 {
            // mlx-lm asks for padding before it undoes the rotation, and so hides a row's first token. By position:
            for row in 0..rows {
                for (query, key) in (0..tokens).flat_map(|query| (0..slots).map(move |key| (query, key))) {
                    let position = offsets[row as usize] + query;
                    let of_key = offsets[row as usize] + key - (slots - tokens);
                    let wanted = of_key >= 0 && of_key <= position && position - of_key < int(&step["state"]["max_size"]);
                    let seen = ours[((row * tokens + query) * slots + key) as usize];
                    assert!(!real(row, query) || seen == wanted, "{what}: mask of row {row}, query {query}, key {key}");
                }
            }
        } else if kept == 0 {
            agree(&ours, &self.recorded(&step["mask_array"], shape), "mask");
            agree(&placed(&windowed, shape), &self.recorded(&step["mask_window"], shape), "windowed mask");
        } else {
            // mlx-lm hides the kept tokens from chunks; a token alone sees all there is.
            for query in 0..tokens {
                let row = &ours[(query * slots) as usize..((query + 1) * slots) as usize];
                let position = slots - tokens + query;
                let max_size = int(&step["state"]["max_size"]);
                for (key, &seen) in (0..).zip(row) {
                    let wanted = tokens == 1 || key <= position && (key < kept || key > position - (max_size - kept));
                    assert_eq!(seen, wanted, "{what}: mask with kept tokens, query {query}, key {key}");
                }
            }
        }
        // Slots that a token sees.
        let mut seen = vec![false; (rows * slots) as usize];
        for (index, _) in ours.iter().enumerate().filter(|(_, visible)| **visible) {
            let (row, query) = (index as i32 / (tokens * slots), index as i32 / slots % tokens);
            seen[(row * slots + index as i32 % slots) as usize] |= real(row, query);
        }
        let seen = Array::from_slice(&seen.iter().map(|&seen| u8::from(seen)).collect::<Vec<_>>(), &[rows, 1, slots, 1]).unwrap();
        let seen = seen.astype(Dtype::Bool).unwrap();
        let same = |got: &Array, key: String| {
            let want = self.tensor(&step[&key]).unwrap_or_else(|| panic!("{what}: no {key}"));
            assert_eq!(got.shape(), want.shape(), "{what}: {key}");
            let nothing = ops::zeros(&[1], got.dtype()).unwrap();
            let only = |array: &Array| ops::where_(&seen, array, &nothing).unwrap();
            if on_gpu() && key.ends_with("dequantized") {
                // A GPU multiplies and adds with one rounding.
                return assert_close(&only(got), &only(want), 1e-6, 1e-6, &format!("{what}: {key}"));
            }
            assert_eq!(only(got).to_bytes().unwrap(), only(want).to_bytes().unwrap(), "{what}: {key}");
        };
        match fetched {
            Fetched::Plain(keys, values) => {
                same(&keys, "returned_keys".into());
                same(&values, "returned_values".into());
            }
            Fetched::Quantized { keys, values, how } => {
                for (half, Quantized { weight, scales, biases }) in [("keys", keys), ("values", values)] {
                    let biases = biases.unwrap();
                    same(&weight, format!("returned_{half}_packed"));
                    same(&scales, format!("returned_{half}_scales"));
                    same(&biases, format!("returned_{half}_biases"));
                    let numbers = ops::dequantize(&weight, &scales, Some(&biases), how, None, None).unwrap();
                    same(&numbers, format!("returned_{half}_dequantized"));
                }
            }
        }
        self.caches.insert(name.into(), cache);
        self.compared += 1;
    }

    fn run(&mut self, step: &Value, what: &str) {
        let name = step["cache"].as_str().unwrap().to_string();
        let from = |key: &str| self.caches[step[key].as_str().unwrap()].clone();
        let optional = |key: &str| step.get(key).filter(|value| !value.is_null()).map(ints);
        match step["op"].as_str().unwrap() {
            "new" => {
                let cache = self.make(step);
                self.caches.insert(name.clone(), cache);
            }
            "update" => self.update(step, what),
            "trim" => {
                let trimmed = self.caches.get_mut(&name).unwrap().trim(int(&step["n"]));
                assert_eq!(trimmed, int(&step["returned"]), "{what}");
            }
            "filter" => self.caches.get_mut(&name).unwrap().filter(&ints(&step["indices"])).unwrap(),
            "extend" => {
                let other = from("other");
                self.caches.get_mut(&name).unwrap().extend(&other).unwrap();
            }
            "extract" => {
                let row = from("from").extract(int(&step["index"])).unwrap();
                self.caches.insert(name.clone(), row);
            }
            "merge" => {
                let caches: Vec<Cache> =
                    step["from"].as_array().unwrap().iter().map(|name| self.caches[name.as_str().unwrap()].clone()).collect();
                let merged = Cache::merge(&caches.iter().collect::<Vec<_>>()).unwrap();
                self.caches.insert(name.clone(), merged);
            }
            "prepare" => {
                let (left, right, lengths) = (optional("left_padding"), optional("right_padding"), optional("lengths"));
                let cache = self.caches.get_mut(&name).unwrap();
                cache.prepare(left.as_deref(), right.as_deref(), lengths.as_deref()).unwrap();
                if let Some(lengths) = lengths {
                    let offsets = per_row(&cache.placement(1, None).offsets, lengths.len() as i32);
                    self.ends
                        .insert(name.clone(), offsets.iter().zip(&lengths).map(|(offset, length)| offset + length).collect());
                }
            }
            "finalize" => {
                self.caches.get_mut(&name).unwrap().finalize().unwrap();
                self.ends.remove(&name);
            }
            "to_quantized" => {
                let cache = from("from").to_quantized(affine(step)).unwrap();
                self.caches.insert(name.clone(), cache);
            }
            op => panic!("{op}"),
        }
        self.check_state(step, &self.caches[&name], what);
        self.rotated.insert(name, step["state"]["rotated"] == true);
    }

    fn check_state(&self, step: &Value, cache: &Cache, what: &str) {
        let state = &step["state"];
        assert_eq!(cache.kind(), state["type"].as_str().unwrap(), "{what}: type");
        let offsets = cache.placement(1, None).offsets;
        match &state["offset"] {
            Value::Array(_) => {
                let wanted = ints(&state["offset"]);
                assert_eq!(per_row(&offsets, wanted.len() as i32), wanted, "{what}: offsets");
            }
            offset => assert_eq!(offsets, Offsets::Same(int(offset)), "{what}: offset"),
        }
        if state["left_padding"].is_array() {
            assert_eq!(cache.left_padding().unwrap(), ints(&state["left_padding"]), "{what}: left padding");
        }
        if state["size"].is_i64() {
            assert_eq!(cache.len(), int(&state["size"]), "{what}: size");
        }
        assert_eq!(cache.is_trimmable(), state["trimmable"].as_bool().unwrap(), "{what}: trimmable");
        assert!(!state["empty"].as_bool().unwrap() || cache.is_empty(), "{what}: empty");
        for (index, key) in ["content_keys", "content_values"].into_iter().enumerate() {
            let Some(want) = self.tensor(&step[key]) else { continue };
            let got = &cache.state().unwrap()[index];
            let padding = cache.left_padding().map_or(vec![0; got.dim(0) as usize], <[i32]>::to_vec);
            for (row, padding) in (0..).zip(padding) {
                let part = |array: &Array| {
                    array.slice_axis(0, row, row + 1).unwrap().slice_axis(2, padding.max(0), array.dim(2)).unwrap()
                };
                assert_close(&part(got), &part(want), 0.0, 0.0, &format!("{what}: {key} of row {row}"));
            }
        }
    }
}

#[test]
fn recorded_scripts() {
    let tensors = load_tensors(golden_path("cache").join("tensors.safetensors"));
    let recorded = cases("cache");
    let (mut scripts, mut compared) = (0, 0);
    for case in recorded["cases"].as_array().unwrap() {
        let window = case["options"]["window"].as_i64().unwrap_or(5) as i32;
        let mut script = Script {
            tensors: &tensors,
            caches: HashMap::new(),
            ends: HashMap::new(),
            rotated: HashMap::new(),
            window,
            compared: 0,
        };
        for (index, step) in case["ops"].as_array().unwrap().iter().enumerate() {
            script.run(step, &format!("{} step {index} ({})", case["name"].as_str().unwrap(), step["op"].as_str().unwrap()));
        }
        scripts += 1;
        compared += script.compared;
    }
    assert!(scripts >= 36 && compared >= 256, "{scripts} scripts, {compared} updates");
}
