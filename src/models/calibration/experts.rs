//! Blocks of experts: each is fitted to the tokens that the packed router sends to it.

use super::Method;
use super::codes::round;
use super::gram::Gram;
use super::layer::{Errors, Inputs, Worker, plain};
use crate::mlx::ops::{self, Quantization, Quantized};
use crate::mlx::{Array, Error, Result, kernels};
use crate::models::checkpoint::eval_codes;
use crate::nn::{Packed, SparseMoe, SwitchLinear, Weight};

/// The codes of one layer of all experts, as they come.
struct Stack {
    name: String,
    how: Option<Quantization>,
    codes: Vec<Quantized>,
    method: Method,
    errors: Errors,
    tokens: usize,
    /// Experts with too few tokens of their own.
    few: usize,
}

impl Stack {
    fn new(worker: &Worker, prefix: &str, part: &str) -> Self {
        let name = format!("{prefix}.switch_mlp.{part}");
        let how = worker.plan.how(&name);
        Stack { name, how, codes: Vec::new(), method: Method::Rtn, errors: Errors::default(), tokens: 0, few: 0 }
    }

    /// Adds an expert, and returns the numbers that it computes with from now on. Without inputs it is rounded.
    fn push(&mut self, worker: &Worker, matrix: &Array, inputs: Option<&Inputs>) -> Result<Array> {
        let Some(how) = self.how else { return Ok(matrix.clone()) };
        let codes = match inputs {
            Some(inputs) => {
                let solved = worker.solve(&self.name, matrix, how, inputs)?;
                self.errors.add(solved.errors);
                if solved.method != Method::Rtn {
                    self.method = solved.method;
                }
                solved.codes
            }
            None => round(matrix, how, worker.scales)?,
        };
        eval_codes(&codes)?;
        let numbers = ops::dequantize(&codes.weight, &codes.scales, codes.biases.as_ref(), how, None, Some(matrix.dtype()))?;
        self.codes.push(codes);
        Ok(numbers)
    }

    /// Puts the codes into the layer.
    fn finish(self, worker: &mut Worker, layer: &mut SwitchLinear, what: &str) -> Result<()> {
        let Some(how) = self.how else { return Ok(()) };
        let stack = |part: &dyn Fn(&Quantized) -> Option<Array>| -> Result<Option<Array>> {
            let parts: Vec<Array> = self.codes.iter().filter_map(part).collect();
            if parts.is_empty() { Ok(None) } else { ops::stack(&parts, 0).map(Some) }
        };
        let lost = || Error::Internal("experts without codes".into());
        let codes = Quantized {
            weight: stack(&|codes| Some(codes.weight.clone()))?.ok_or_else(lost)?,
            scales: stack(&|codes| Some(codes.scales.clone()))?.ok_or_else(lost)?,
            biases: stack(&|codes| codes.biases.clone())?,
        };
        eval_codes(&codes)?;
        let (count, dtype) = (self.codes.len(), layer.weight.dtype());
        layer.weight = Weight::Packed(Packed { codes, how, dtype });
        let note = (self.few > 0).then(|| format!("{} of {count} experts had fewer tokens than inputs and {what}", self.few));
        worker.tell(self.name, self.method, self.errors, self.tokens, note);
        Ok(())
    }
}

/// Tokens `[N, hidden]` of each expert, by their rows.
fn routed(moe: &SparseMoe, x: &Array, experts: usize) -> Result<Vec<Vec<i32>>> {
    let chosen = moe.route(&moe.gate.forward(x)?)?.experts;
    let k = chosen.dim(-1) as usize;
    let mut rows = vec![Vec::new(); experts];
    for (index, expert) in chosen.to_vec::<u32>()?.into_iter().enumerate() {
        if let Some(rows) = rows.get_mut(expert as usize) {
            rows.push((index / k) as i32);
        }
    }
    Ok(rows)
}

impl Worker<'_> {
    /// An expert with fewer tokens than inputs, whose moments say nothing about most directions, gets those of all tokens for its first
    /// two projections, and is rounded in the third, whose inputs no other expert has.
    pub fn experts(&mut self, prefix: &str, moe: &mut SparseMoe, gram: &Gram, inner: &[Array]) -> Result<()> {
        self.linears(prefix, [("gate", &mut moe.gate)], gram)?;
        if let Some(expert) = &mut moe.shared_expert {
            self.mlp(&format!("{prefix}.shared_expert"), expert, gram, inner.iter().map(|x| Ok(x.clone())))?;
        }
        if let Some(gate) = &mut moe.shared_expert_gate {
            self.linears(prefix, [("shared_expert_gate", gate)], gram)?;
        }
        let flat: Vec<Array> = inner.iter().map(|x| x.reshape(&[-1, x.dim(-1)])).collect::<Result<_>>()?;
        let x = ops::concatenate(&flat, 0)?;
        drop(flat);
        let shape = moe.switch_mlp.gate_proj.weight.shape();
        let rows = routed(moe, &x, shape[0] as usize)?;
        let shared = self.inputs(gram)?;
        let [mut gates, mut ups, mut downs] = ["gate_proj", "up_proj", "down_proj"].map(|part| Stack::new(self, prefix, part));
        let part = |layer: &SwitchLinear, expert: usize| {
            plain(&layer.weight)?.slice_axis(0, expert as i32, expert as i32 + 1)?.squeeze(&[0])
        };
        for (expert, rows) in rows.iter().enumerate() {
            (self.watch.check)()?;
            let tokens = if rows.is_empty() { None } else { Some(x.take(&Array::from_slice(rows, &[rows.len() as i32])?, 0)?) };
            let enough = |width: i32| rows.len() >= width as usize;
            let own = tokens.as_ref().filter(|_| enough(shape[2])).map(Gram::of).transpose()?;
            let inputs = own.as_ref().map(|gram| self.inputs(gram)).transpose()?;
            let glu = &moe.switch_mlp;
            for stack in [&mut gates, &mut ups] {
                stack.few += usize::from(own.is_none());
                stack.tokens += rows.len();
            }
            let inputs = inputs.as_ref().unwrap_or(&shared);
            let gate = gates.push(self, &part(&glu.gate_proj, expert)?, Some(inputs))?;
            let up = ups.push(self, &part(&glu.up_proj, expert)?, Some(inputs))?;
            let inner = tokens.map(|x| kernels::swiglu(&x.matmul(&gate.t()?)?, &x.matmul(&up.t()?)?)).transpose()?;
            let own = inner.as_ref().map(Gram::of).transpose()?;
            let fits = enough(shape[1]);
            let inputs = own.as_ref().map(|gram| if fits { self.inputs(gram) } else { Ok(Inputs::few(gram)) }).transpose()?;
            downs.few += usize::from(!fits);
            downs.tokens += rows.len();
            downs.push(self, &part(&glu.down_proj, expert)?, inputs.as_ref())?;
        }
        let glu = &mut moe.switch_mlp;
        gates.finish(self, &mut glu.gate_proj, "are fitted to those of all")?;
        ups.finish(self, &mut glu.up_proj, "are fitted to those of all")?;
        downs.finish(self, &mut glu.down_proj, "are rounded")
    }
}
