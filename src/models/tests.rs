//! Models against numbers recorded from transformers.

mod adapters;
mod convert;
mod foreign;
mod golden;
mod hostile;
mod lora;
pub(super) mod quantized;
mod rope;
mod sizes;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{LoadOptions, Model, load};
use crate::mlx::{Array, Dtype, Result, ops};

/// Loads in float32, the dtype of the recorded numbers.
fn load_f32(dir: &Path) -> Result<Model> {
    load(dir, &LoadOptions { dtype: Some(Dtype::Float32), ..LoadOptions::default() }, &mut |_, _| Ok(()))
}

/// A new empty folder that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mlx-node-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// A copy of a checkpoint folder.
    fn copy_of(dir: &Path) -> Self {
        let scratch = Self::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), scratch.0.join(entry.file_name())).unwrap();
        }
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Mean cross-entropy of tokens 1.. of `ids` `[1, T]`.
fn loss(model: &Model, ids: &Array) -> Result<Array> {
    let length = ids.dim(1);
    let logits = model.net.logits(&model.net.hidden(super::Forward::new(ids))?)?;
    let logps = logits.log_softmax(-1)?.slice_axis(1, 0, length - 1)?;
    let next = ids.slice_axis(1, 1, length)?.expand_dims(&[2])?;
    logps.take_along_axis(&next, 2)?.mean_all()?.negative()
}

/// Left padding per row, int32 `[B]`, from an attention mask `[B, T]`.
fn left_padding(mask: &Array) -> Array {
    let mask = mask.astype(Dtype::Int32).unwrap();
    let real = mask.sum(&[1], false).unwrap();
    ops::full(&[mask.dim(0)], mask.dim(1) as f64, Dtype::Int32).unwrap().subtract(&real).unwrap()
}
