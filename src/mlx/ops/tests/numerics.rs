//! Every case of `golden/numerics`, recorded from `mlx.core`. A case whose operation is unknown here fails.

use std::collections::HashMap;

use serde_json::Value;

use super::gradients;
use crate::mlx::fast::{self, Mask, RopeFrequencies, RopeOffset};
use crate::mlx::linalg::{self, NormOrder, Triangle};
use crate::mlx::ops;
use crate::mlx::{Array, Dtype, Result};
use crate::testing::{assert_close, cases, golden_path, load_tensors};

/// The non-array arguments of a case.
struct Args<'a>(&'a Value);

impl Args<'_> {
    fn int(&self, name: &str, default: i32) -> i32 {
        self.0.get(name).map_or(default, |value| value.as_i64().unwrap() as i32)
    }

    fn float(&self, name: &str) -> Option<f32> {
        self.0.get(name).and_then(Value::as_f64).map(|value| value as f32)
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.0.get(name).map_or(default, |value| value.as_bool().unwrap())
    }

    /// A list, one number as a list, or nothing.
    fn axes(&self, name: &str) -> Option<Vec<i32>> {
        match &self.0[name] {
            Value::Null => None,
            Value::Array(list) => Some(list.iter().map(|axis| axis.as_i64().unwrap() as i32).collect()),
            axis => Some(vec![axis.as_i64().unwrap() as i32]),
        }
    }
}

type Reduction = (fn(&Array, &[i32], bool) -> Result<Array>, fn(&Array) -> Result<Array>);

fn reduction(op: &str) -> Option<Reduction> {
    Some(match op {
        "sum" => (Array::sum, Array::sum_all),
        "mean" => (Array::mean, Array::mean_all),
        "max" => (Array::max, Array::max_all),
        "min" => (Array::min, Array::min_all),
        "prod" => (Array::prod, Array::prod_all),
        "all" => (Array::all, Array::all_all),
        "any" => (Array::any, Array::any_all),
        "logsumexp" => (Array::logsumexp, Array::logsumexp_all),
        _ => return None,
    })
}

fn unary(op: &str) -> Option<fn(&Array) -> Result<Array>> {
    Some(match op {
        "exp" => Array::exp,
        "sin" => Array::sin,
        "cos" => Array::cos,
        "tanh" => Array::tanh,
        "sigmoid" => Array::sigmoid,
        "abs" => Array::abs,
        "negative" => Array::negative,
        "square" => Array::square,
        "sign" => Array::sign,
        "floor" => Array::floor,
        "ceil" => Array::ceil,
        "erf" => Array::erf,
        "expm1" => Array::expm1,
        "sinh" => Array::sinh,
        "cosh" => Array::cosh,
        "arctan" => Array::arctan,
        "log" => Array::log,
        "log1p" => Array::log1p,
        "log2" => Array::log2,
        "log10" => Array::log10,
        "sqrt" => Array::sqrt,
        "rsqrt" => Array::rsqrt,
        "reciprocal" => Array::reciprocal,
        "arcsin" => Array::arcsin,
        "arccos" => Array::arccos,
        "arctanh" => Array::arctanh,
        "erfinv" => Array::erfinv,
        "linalg.inv" => linalg::inv,
        "linalg.svd_values" => linalg::svdvals,
        _ => return None,
    })
}

fn binary(op: &str) -> Option<fn(&Array, &Array) -> Result<Array>> {
    Some(match op {
        "add" => Array::add,
        "subtract" => Array::subtract,
        "multiply" => Array::multiply,
        "divide" => Array::divide,
        "power" => Array::power,
        "maximum" => Array::maximum,
        "minimum" => Array::minimum,
        "arctan2" => Array::arctan2,
        "logaddexp" => Array::logaddexp,
        "remainder" => Array::remainder,
        "floor_divide" => Array::floor_divide,
        "greater" => Array::greater,
        "less_equal" => Array::less_equal,
        "equal" => Array::equal,
        "not_equal" => Array::not_equal,
        "matmul" => Array::matmul,
        "outer" => Array::outer,
        "inner" => Array::inner,
        "linalg.solve" => linalg::solve,
        _ => return None,
    })
}

/// `a.at[b].op(c)`: rows of `a` at `b`.
fn at(op: &str, a: &Array, b: &Array, c: &Array) -> Result<Array> {
    let mut shape = b.shape().to_vec();
    shape.push(1);
    shape.extend(&a.shape()[1..]);
    let updates = c.broadcast_to(&[b.shape(), &a.shape()[1..]].concat())?.reshape(&shape)?;
    let indices = std::slice::from_ref(b);
    match op {
        "at.add" => a.scatter_add(indices, &updates, &[0]),
        "at.multiply" => a.scatter_prod(indices, &updates, &[0]),
        "at.maximum" => a.scatter_max(indices, &updates, &[0]),
        _ => a.scatter_min(indices, &updates, &[0]),
    }
}

fn rope(inputs: &[Array], args: &Args, expression: Option<&str>) -> Result<Array> {
    let frequencies = match args.float("base") {
        Some(base) => RopeFrequencies::Base(base),
        None => RopeFrequencies::Table(&inputs[1]),
    };
    let offset = match expression {
        Some(text) if text.starts_with("offset = b") => RopeOffset::PerRow(&inputs[1]),
        _ => RopeOffset::Same(args.int("offset", 0)),
    };
    let dims = args.int("dims", 0);
    fast::rope_with(&inputs[0], dims, args.flag("traditional", false), frequencies, args.float("scale").unwrap(), offset)
}

fn attention(inputs: &[Array], args: &Args) -> Result<Array> {
    let mask = match args.0["mask"].as_str() {
        None => Mask::None,
        Some("causal") => Mask::Causal,
        Some(_) => Mask::Array(&inputs[3]),
    };
    fast::scaled_dot_product_attention(&inputs[0], &inputs[1], &inputs[2], args.float("scale").unwrap(), mask)
}

fn norm(a: &Array, args: &Args) -> Result<Array> {
    let order = match &args.0["ord"] {
        Value::Null => NormOrder::L2,
        Value::String(name) => NormOrder::parse(name)?,
        number => NormOrder::P(number.as_f64().unwrap()),
    };
    linalg::norm(a, order, args.axes("axis").as_deref(), false)
}

fn run(op: &str, inputs: &[Array], args: &Args, expression: Option<&str>) -> Result<Vec<Array>> {
    if let Some(gradient) = op.strip_prefix("grad.") {
        return gradients::run(gradient, inputs, args.0);
    }
    let a = &inputs[0];
    if let Some(function) = unary(op) {
        return Ok(vec![function(a)?]);
    }
    if let Some(function) = binary(op) {
        return Ok(vec![function(a, &inputs[1])?]);
    }
    let keepdims = args.flag("keepdims", false);
    if let Some((over, every)) = reduction(op) {
        return Ok(vec![match args.axes("axis") {
            Some(axes) => over(a, &axes, keepdims)?,
            None => every(a)?,
        }]);
    }
    let axis = || args.axes("axis").expect("an axis")[0];
    let every = || (0..a.ndim() as i32).collect::<Vec<_>>();
    Ok(vec![match op {
        "where" => ops::where_(a, &inputs[1], &inputs[2])?,
        "round" => a.round(args.int("decimals", 0))?,
        "nan_to_num" => a.nan_to_num(args.float("nan").unwrap(), args.float("posinf"), args.float("neginf"))?,
        "clip" => a.clip(args.float("min"), args.float("max"))?,
        "var" => a.var(&args.axes("axis").unwrap_or_else(every), keepdims, args.int("ddof", 0))?,
        "std" => a.std(&args.axes("axis").unwrap_or_else(every), keepdims, args.int("ddof", 0))?,
        "argmax" => a.argmax(axis(), keepdims)?,
        "argmin" => a.argmin(axis(), keepdims)?,
        "sort" => a.sort(axis())?,
        "argsort" => a.argsort(axis())?,
        "partition_then_sort" | "argpartition_then_sort" => {
            let kth = args.int("kth", 0);
            let parts = if op.starts_with("arg") { a.argpartition(kth, -1)? } else { a.partition(kth, -1)? };
            parts.slice_axis(-1, 0, kth)?.sort(-1)?
        }
        "topk_then_sort" => a.topk(args.int("k", 0), -1)?.sort(-1)?,
        "cumsum" => a.cumsum(axis(), args.flag("reverse", false), args.flag("inclusive", true))?,
        "cumprod" => a.cumprod(axis(), false, true)?,
        "cummax" => a.cummax(axis(), false, true)?,
        "cummin" => a.cummin(axis(), false, true)?,
        "logcumsumexp" => a.logcumsumexp(axis(), false, true)?,
        "take" => match args.axes("axis") {
            Some(axes) => a.take_bounded(&inputs[1], axes[0])?,
            None => a.take_flat(&inputs[1])?,
        },
        "take_along_axis" => a.take_along_axis_bounded(&inputs[1], axis())?,
        "put_along_axis" => a.put_along_axis_bounded(&inputs[1], &inputs[2], axis())?,
        "at.add" | "at.multiply" | "at.maximum" | "at.minimum" => at(op, a, &inputs[1], &inputs[2])?,
        // a[:, 1::2, ::-1]
        "index.slice" => {
            let [rows, columns, last] = *a.shape() else { panic!("three axes") };
            a.slice_strided(&[0, 1, -1], &[rows, columns, -last - 1], &[1, 2, -1])?
        }
        // a[b, c]
        "index.two_arrays" => {
            let lengths = [&[1, 1], &a.shape()[2..]].concat();
            a.gather(&inputs[1..], &[0, 1], &lengths)?.squeeze(&[inputs[1].ndim() as i32, inputs[1].ndim() as i32 + 1])?
        }
        "slice_update" => {
            let start = Array::from_slice(&args.axes("start").unwrap(), &[1])?;
            a.slice_update_dynamic(&inputs[1], &start, &args.axes("axes").unwrap())?
        }
        "concatenate" => ops::concatenate(inputs, axis())?,
        "stack" => ops::stack(inputs, axis())?,
        "pad" => {
            let widths = args.0["pad_width"].as_array().unwrap();
            let side = |index: usize| widths.iter().map(|pair| pair[index].as_i64().unwrap() as i32).collect::<Vec<_>>();
            a.pad(&side(0), &side(1), args.float("constant_values").unwrap())?
        }
        "repeat" => a.repeat(args.int("repeats", 0), axis())?,
        "tile" => a.tile(&args.axes("reps").unwrap())?,
        "transpose" => a.transpose(&args.axes("axes").unwrap())?,
        "roll" => a.roll(args.int("shift", 0), axis())?,
        "tril" => a.tril(args.int("k", 0))?,
        "triu" => a.triu(args.int("k", 0))?,
        "addmm" => ops::addmm(a, &inputs[1], &inputs[2], args.float("alpha").unwrap(), args.float("beta").unwrap())?,
        "tensordot" => {
            let list = |index: usize| args.0["axes"][index].as_array().unwrap().iter().map(|axis| axis.as_i64().unwrap() as i32);
            a.tensordot(&inputs[1], &list(0).collect::<Vec<_>>(), &list(1).collect::<Vec<_>>())?
        }
        "einsum" => ops::einsum(args.0["subscripts"].as_str().unwrap(), inputs)?,
        "linalg.cholesky" => linalg::cholesky(a, false)?,
        "linalg.eigvalsh" => linalg::eigvalsh(a, Triangle::Lower)?,
        "linalg.qr_abs_r" => linalg::qr(a)?.1.abs()?,
        "linalg.norm" => norm(a, args)?,
        "softmax" if expression.is_some() => {
            a.astype(Dtype::Bfloat16)?.softmax_axes(&[axis()], args.flag("precise", false))?.astype(Dtype::Float32)?
        }
        "softmax" => a.softmax_axes(&[axis()], false)?,
        "fast.rms_norm" => fast::rms_norm(a, inputs.get(1), args.float("eps").unwrap())?,
        "fast.layer_norm" => fast::layer_norm(a, inputs.get(1), inputs.get(2), args.float("eps").unwrap())?,
        "fast.rope" => rope(inputs, args, expression)?,
        "fast.scaled_dot_product_attention" => attention(inputs, args)?,
        "conv1d" | "conv2d" => {
            let spatial = a.ndim() - 2;
            let fill = |name: &str, default: i32| vec![args.int(name, default); spatial];
            ops::conv(a, &inputs[1], &fill("stride", 1), &fill("padding", 0), &vec![1; spatial], args.int("groups", 1))?
        }
        "astype" => {
            let to = args.0["to"].as_str().unwrap();
            let converted = a.astype(Dtype::parse(to.split(',').next().unwrap())?)?;
            if to.contains("back") { converted.astype(Dtype::Float32)? } else { converted }
        }
        _ => panic!("no operation '{op}' here"),
    }])
}

/// A tensor of the fixture, or a plain value.
fn value(entry: &Value, tensors: &HashMap<String, Array>) -> Array {
    if let Some(name) = entry.get("tensor") {
        return tensors[name.as_str().unwrap()].clone();
    }
    let number = |entry: &Value| match entry {
        Value::String(text) => text.parse::<f32>().unwrap(),
        entry => entry.as_f64().unwrap() as f32,
    };
    match entry {
        Value::Array(list) => Array::from_slice(&list.iter().map(number).collect::<Vec<_>>(), &[list.len() as i32]).unwrap(),
        entry => Array::scalar(number(entry)),
    }
}

#[test]
fn every_recorded_case_agrees() {
    let fixture = cases("numerics");
    let tensors = load_tensors(golden_path("numerics").join("tensors.safetensors"));
    let list = fixture["cases"].as_array().unwrap();
    assert!(list.len() >= 180);
    for case in list {
        let name = case["name"].as_str().unwrap();
        let inputs: Vec<Array> = case["inputs"].as_object().unwrap().values().map(|entry| value(entry, &tensors)).collect();
        let options = &case["options"];
        let op = options["op"].as_str().unwrap();
        let got = run(op, &inputs, &Args(&options["args"]), options["expression"].as_str())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut want: Vec<Array> = case["expected"].as_object().unwrap().values().map(|entry| value(entry, &tensors)).collect();
        if op.starts_with("grad.") && got.len() == 2 && want.len() > 2 {
            // The gradient of a single input was recorded row by row.
            let rows = ops::stack(&want[1..], 0).unwrap();
            want.truncate(1);
            want.push(rows);
        }
        assert_eq!(got.len(), want.len(), "{name}: results");
        let bound = |name: &str| case["tolerance"][name].as_f64().unwrap() as f32;
        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_close(got, want, bound("atol"), bound("rtol"), &format!("{name} y{index}"));
        }
    }
}
