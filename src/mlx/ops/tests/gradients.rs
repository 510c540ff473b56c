//! The compositions of `golden/numerics` whose gradients were recorded.

use serde_json::Value;

use crate::mlx::fast::{self, Mask, RopeFrequencies, RopeOffset};
use crate::mlx::{Array, Dtype, Result, value_and_grad};

/// The value, then the gradients.
pub fn run(name: &str, inputs: &[Array], args: &Value) -> Result<Vec<Array>> {
    let causal = args["mask"].as_str() == Some("causal");
    let name = name.to_string();
    let wanted = match name.as_str() {
        "mlp" => 4,
        "attention" => 3,
        "rms_norm" | "cumulative" => 2,
        _ => 1,
    };
    let (values, gradients) =
        value_and_grad(move |x| Ok(vec![loss(&name, x, causal)?]), inputs, &(0..wanted).collect::<Vec<i32>>())?;
    Ok([values, gradients].concat())
}

fn loss(name: &str, x: &[Array], causal: bool) -> Result<Array> {
    match name {
        "mlp" => x[0].matmul(&x[1])?.silu()?.multiply(&x[0].matmul(&x[2])?)?.matmul(&x[3])?.multiply(&x[4])?.sum_all(),
        "rms_norm" => fast::rms_norm(&x[0], Some(&x[1]), 1e-6)?.multiply(&x[2])?.sum_all(),
        "rope" => {
            let rotated = fast::rope(&x[0], 32, RopeFrequencies::Base(1e4), 1., RopeOffset::Same(5))?;
            rotated.multiply(&x[1])?.sum_all()
        }
        "attention" => {
            let mask = if causal { Mask::Causal } else { Mask::None };
            let attended = fast::scaled_dot_product_attention(&x[0], &x[1], &x[2], 32f32.powf(-0.5), mask)?;
            attended.multiply(&x[3])?.sum_all()
        }
        "cross_entropy" => fast::cross_entropy_bounded(&x[0], &x[1])?.mean_all(),
        "embedding" => x[0].take_bounded(&x[1], 0)?.multiply(&x[2])?.sum_all(),
        "entropy" => {
            let logps = x[0].log_softmax(-1)?;
            logps.exp()?.multiply(&logps)?.sum_all()?.negative()
        }
        "clipped_ratio" => {
            let ratio = x[0].subtract(&x[1])?.exp()?;
            let clipped = ratio.clip(Some(0.8), Some(1.2))?.multiply(&x[2])?;
            ratio.multiply(&x[2])?.minimum(&clipped)?.mean_all()?.negative()
        }
        "topk_router" => {
            let chosen = x[0].softmax(-1)?.take_along_axis_bounded(&x[1].astype(Dtype::Int32)?, -1)?;
            chosen.divide(&chosen.sum(&[-1], true)?)?.multiply(&x[2])?.sum_all()
        }
        "cumulative" => {
            let sums = x[0].cumsum(-1, false, true)?.multiply(&x[1])?;
            sums.add(&x[0].logsumexp(&[-1], true)?.multiply(&x[1])?)?.sum_all()
        }
        _ => panic!("no gradient '{name}' here"),
    }
}
