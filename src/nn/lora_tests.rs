//! Adapters against the layers that they stand for: a weight with the factors merged into it.

use super::*;
use crate::mlx::ops::{Quantization, QuantizationMode};
use crate::mlx::vjp;
use crate::nn::{Embedding, Linear, SwitchLinear, switch_apply};
use crate::testing::assert_close;

fn noise(shape: &[i32], seed: u64) -> Array {
    random::normal(0.0, 1.0, shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap()
}

/// A weight of rows of length about 1, packed or not.
fn weight(shape: &[i32], packed: bool) -> Weight {
    let numbers = Weight::from(noise(shape, 1).multiply_scalar(0.125).unwrap());
    let how = Quantization::new(QuantizationMode::Affine, Some(32), Some(8)).unwrap();
    if packed { numbers.pack(how).unwrap() } else { numbers }
}

/// A trained adapter: both factors move the weight, and DoRA's lengths are not those of the start.
fn trained(weight: &Weight, dora: bool, columns: bool) -> Lora {
    let shape = weight.shape();
    let (a, b) = factor_shapes(&shape, 3);
    let part = |shape: &[i32], seed| noise(shape, seed).multiply_scalar(0.2).unwrap();
    let mut lora = Lora::of(part(&a, 2), part(&b, 3), 1.5);
    if dora {
        let mut dora = Dora::new(weight, columns).unwrap();
        let change = noise(dora.magnitude.shape(), 4).multiply_scalar(0.1).unwrap().add_scalar(1.2).unwrap();
        dora.magnitude = dora.magnitude.multiply(&change).unwrap();
        lora.dora = Some(dora);
    }
    lora
}

fn each_kind(check: impl Fn(bool, bool)) {
    for packed in [false, true] {
        for dora in [false, true] {
            check(packed, dora);
        }
    }
}

// All of these are sums of 64 products of about 1/8, once as one product and once as two.
const CLOSE: f32 = 2e-5;

#[test]
fn a_linear_layer_is_that_of_the_merged_weight() {
    each_kind(|packed, dora| {
        for bias in [None, Some(noise(&[24], 5))] {
            let weight = weight(&[24, 64], packed);
            let lora = trained(&weight, dora, false);
            let merged = Linear { weight: lora.merge_weight(&weight, true).unwrap(), bias: bias.clone(), lora: None };
            let layer = Linear { weight, bias, lora: Some(lora) };
            let x = noise(&[2, 7, 64], 6);
            assert_close(&layer.forward(&x).unwrap(), &merged.forward(&x).unwrap(), CLOSE, CLOSE, "linear");
        }
    });
}

#[test]
fn experts_are_those_of_the_merged_weights() {
    each_kind(|packed, dora| {
        for bias in [None, Some(noise(&[4, 24], 5))] {
            let weight = weight(&[4, 24, 64], packed);
            let lora = trained(&weight, dora, false);
            let merged = SwitchLinear { weight: lora.merge_weight(&weight, true).unwrap(), bias: bias.clone(), lora: None };
            // One expert's part is that of the stack.
            let own = weight.numbers().unwrap().slice_axis(0, 2, 3).unwrap().squeeze(&[0]).unwrap();
            let stack = merged.weight.numbers().unwrap().slice_axis(0, 2, 3).unwrap().squeeze(&[0]).unwrap();
            assert_close(&lora.expert(2).unwrap().merge(&own).unwrap(), &stack, 1e-6, 1e-6, "one expert");
            let layer = SwitchLinear { weight, bias, lora: Some(lora) };
            // Few tokens, and so many that they are sorted.
            for tokens in [3, 50] {
                let x = noise(&[tokens, 64], 6);
                let experts = random::randint(0, 4, &[tokens, 2], Dtype::Uint32, &random::key(7).unwrap()).unwrap();
                let run = |layer: &SwitchLinear| {
                    switch_apply(&x, &experts, |x, indices, sorted| layer.forward(x, indices, sorted)).unwrap()
                };
                assert_close(&run(&layer), &run(&merged), CLOSE, CLOSE, "experts");
            }
        }
    });
}

#[test]
fn an_embedding_and_its_head_are_those_of_the_merged_weight() {
    let kinds = [(false, false), (true, true), (true, false)];
    for (packed, (dora, columns)) in [false, true].into_iter().flat_map(|packed| kinds.map(|kind| (packed, kind))) {
        let weight = weight(&[24, 64], packed);
        let lora = trained(&weight, dora, columns);
        let merged = Embedding { weight: lora.merge_weight(&weight, true).unwrap(), lora: None };
        let layer = Embedding { weight, lora: Some(lora) };
        let ids = Array::from_slice(&[3, 0, 23, 3], &[2, 2]).unwrap();
        assert_close(&layer.forward(&ids).unwrap(), &merged.forward(&ids).unwrap(), 1e-5, 1e-5, "rows");
        let x = noise(&[5, 64], 6);
        let head = Head::tied(&layer.weight, layer.lora.as_ref());
        let want = merged.weight.project(&x).unwrap();
        // In DoRA the lengths of 24 rows' columns are divided out before the sum, not after it.
        assert_close(&head.project(&x).unwrap(), &want, 5e-5, 5e-5, "head");
        let off = Lora { on_head: false, ..layer.lora.clone().unwrap() };
        let base = Head::tied(&layer.weight, Some(&off)).project(&x).unwrap();
        assert_close(&base, &layer.weight.project(&x).unwrap(), 0.0, 0.0, "an adapter of the embedding alone");
        let AdaptedHead { hidden, low, b, factor } = head.adapted(&x).unwrap().unwrap();
        let logits = layer.weight.project(&hidden).unwrap().add(&low.matmul(&b.t().unwrap()).unwrap()).unwrap();
        let logits = factor.map_or(logits.clone(), |factor| logits.multiply(&factor).unwrap());
        assert_close(&logits, &want, 5e-5, 5e-5, "the parts of the head");
    }
}

#[test]
fn lengths_are_kept_until_something_changes() {
    let kept = |lora: &Lora| lora.dora.as_ref().unwrap().lengths.borrow().is_some();
    let weight = weight(&[24, 64], true);
    let mut layer = Linear { lora: Some(trained(&weight, true, false)), weight, bias: None };
    let x = noise(&[5, 64], 6);
    let want = |layer: &Linear| {
        let merged = layer.lora.as_ref().unwrap().merge_weight(&layer.weight, true).unwrap();
        merged.project(&x).unwrap()
    };
    // Factors that are not computed yet may be anything's: their lengths are those of this once.
    assert!(!layer.lora.as_ref().unwrap().a.is_available());
    for round in 0..3 {
        assert_close(&layer.forward(&x).unwrap(), &want(&layer), CLOSE, CLOSE, "first, second and third pass");
        assert_eq!(kept(layer.lora.as_ref().unwrap()), round > 0);
    }
    // A gradient neither takes what is kept for other factors nor leaves anything of its own.
    let lora = layer.lora.clone().unwrap();
    let at = parts(&lora).iter().map(|part| part.multiply_scalar(1.5).unwrap()).collect::<Vec<_>>();
    let traced = std::cell::RefCell::new(lora);
    let run = |inputs: &[Array]| {
        let mut given = inputs.iter();
        let lora = &mut *traced.borrow_mut();
        lora.visit_mut("", &mut |_, part| *part = given.next().unwrap().clone());
        Ok(vec![lora.linear(&x, &layer.weight, None)?])
    };
    let (outputs, _) = vjp(run, &at, &[noise(&[5, 24], 8)]).unwrap();
    assert!(!kept(&traced.borrow()));
    let moved = Linear { lora: Some(with(layer.lora.as_ref().unwrap(), &at)), ..layer.clone() };
    assert_close(&outputs[0], &want(&moved), 2.0 * CLOSE, 2.0 * CLOSE, "in a gradient");
    // Whoever gets at the factors or the weight ends it.
    layer.visit_mut("", &mut |name, part| {
        if name == "lora_a" {
            *part = part.multiply_scalar(2.0).unwrap();
        }
    });
    assert!(!kept(layer.lora.as_ref().unwrap()));
    assert_close(&layer.forward(&x).unwrap(), &want(&layer), CLOSE, CLOSE, "other factors");
    layer.forward(&x).unwrap().eval().unwrap();
    layer.forward(&x).unwrap().eval().unwrap();
    assert!(kept(layer.lora.as_ref().unwrap()));
    super::super::Layer::Linear(&mut layer).weight_mut();
    assert!(!kept(layer.lora.as_ref().unwrap()));
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    each_kind(|packed, dora| {
        let key = random::key(1).unwrap();
        let mut linear = Linear { weight: weight(&[24, 64], packed), bias: None, lora: None };
        let x = noise(&[5, 64], 6);
        let base = linear.forward(&x).unwrap();
        let lora = super::super::Layer::Linear(&mut linear).fresh_lora(4, 2.0, dora, &key).unwrap();
        linear.lora = Some(lora);
        assert_close(&linear.forward(&x).unwrap(), &base, 0.0, 0.0, "linear");
        let mut table = Embedding { weight: weight(&[24, 64], packed), lora: None };
        let ids = Array::from_slice(&[3, 0, 23], &[3]).unwrap();
        let base = table.forward(&ids).unwrap();
        let lora = super::super::Layer::Embedding(&mut table).fresh_lora(4, 2.0, dora, &key).unwrap();
        assert!(lora.a.abs().unwrap().max_all().unwrap().item().unwrap() > 1.5, "normal, not within ±1/8");
        table.lora = Some(lora);
        assert_close(&table.forward(&ids).unwrap(), &base, 0.0, 0.0, "embedding");
    });
}

/// `m / ‖W + sBA‖ · x (W + sBA)ᵀ` of numbers, with a length that has no gradient.
fn dense(x: &Array, w: &Array, lora: &Lora) -> Array {
    let merged = w.add(&lora.b.matmul(&lora.a).unwrap().multiply_scalar(lora.scale).unwrap()).unwrap();
    let y = x.matmul(&merged.swapaxes(-1, -2).unwrap()).unwrap();
    let Some(dora) = &lora.dora else { return y };
    let lengths = merged.square().unwrap().sum(&[-1], false).unwrap().sqrt().unwrap().stop_gradient().unwrap();
    y.multiply(&dora.magnitude.divide(&lengths).unwrap()).unwrap()
}

fn with(lora: &Lora, parts: &[Array]) -> Lora {
    let (mut lora, mut given) = (lora.clone(), parts.iter());
    lora.visit_mut("", &mut |_, part| *part = given.next().unwrap().clone());
    lora
}

fn parts(lora: &Lora) -> Vec<Array> {
    let mut parts = Vec::new();
    lora.visit("", &mut |_, part| parts.push(part.clone()));
    parts
}

#[test]
fn gradients_are_those_of_the_dense_formula() {
    each_kind(|packed, dora| {
        let weight = weight(&[24, 64], packed);
        let (numbers, lora) = (weight.numbers().unwrap(), trained(&weight, dora, false));
        let inputs = [vec![noise(&[5, 64], 6)], parts(&lora)].concat();
        let cotangent = [noise(&[5, 24], 8)];
        let layer = |inputs: &[Array]| Ok(vec![with(&lora, &inputs[1..]).linear(&inputs[0], &weight, None)?]);
        let formula = |inputs: &[Array]| Ok(vec![dense(&inputs[0], &numbers, &with(&lora, &inputs[1..]))]);
        let (_, found) = vjp(layer, &inputs, &cotangent).unwrap();
        let (_, want) = vjp(formula, &inputs, &cotangent).unwrap();
        assert_eq!(found.len(), if dora { 4 } else { 3 });
        for (found, want) in found.iter().zip(&want) {
            assert_close(found, want, 1e-4, 1e-4, "gradient");
        }
    });
}

#[test]
fn gradients_of_experts_are_those_of_each() {
    each_kind(|packed, dora| {
        let weight = weight(&[3, 24, 64], packed);
        let (numbers, lora) = (weight.numbers().unwrap(), trained(&weight, dora, false));
        let inputs = [vec![noise(&[40, 64], 6)], parts(&lora)].concat();
        let experts = random::randint(0, 3, &[40, 2], Dtype::Uint32, &random::key(7).unwrap()).unwrap();
        let cotangent = [noise(&[40, 2, 24], 8)];
        let layer = |inputs: &[Array]| {
            let lora = with(&lora, &inputs[1..]);
            Ok(vec![switch_apply(&inputs[0], &experts, |x, indices, sorted| lora.switch(x, &weight, indices, sorted))?])
        };
        // All experts see all tokens; the wanted ones are taken.
        let formula = |inputs: &[Array]| {
            let lora = with(&lora, &inputs[1..]);
            let one = |expert: i32| {
                let own = numbers.slice_axis(0, expert, expert + 1)?.squeeze(&[0])?;
                Ok(dense(&inputs[0], &own, &lora.expert(expert)?))
            };
            let all = ops::stack(&(0..3).map(one).collect::<Result<Vec<_>>>()?, 1)?;
            Ok(vec![all.take_along_axis(&experts.expand_dims(&[-1])?.broadcast_to(&[40, 2, 24])?, 1)?])
        };
        let (y, found) = vjp(layer, &inputs, &cotangent).unwrap();
        let (want_y, want) = vjp(formula, &inputs, &cotangent).unwrap();
        assert_close(&y[0], &want_y[0], CLOSE, CLOSE, "experts");
        for (found, want) in found.iter().zip(&want) {
            // Sums over up to 40 tokens of products of about 1.
            assert_close(found, want, 2e-4, 2e-4, "gradient");
        }
    });
}

#[test]
fn dropout_reaches_the_factors_as_in_peft() {
    each_kind(|packed, dora| {
        let weight = weight(&[24, 64], packed);
        let mut lora = trained(&weight, dora, false);
        let (x, key) = (noise(&[400, 64], 6), random::key(11).unwrap());
        let without = lora.linear(&x, &weight, None).unwrap();
        lora.dropout = Some(Dropout { probability: 0.25, key: key.clone() });
        let found = lora.linear(&x, &weight, None).unwrap();
        assert_close(&lora.linear(&x, &weight, None).unwrap(), &found, 0.0, 0.0, "the same key");
        let (base, dropped) = (weight.project(&x).unwrap(), dropout(&x, 0.25, &key).unwrap());
        let zeros = dropped.equal(&Array::scalar(0.0)).unwrap().astype(Dtype::Float32).unwrap();
        // 25600 draws: a deviation of 0.0027.
        let share = zeros.mean_all().unwrap().item().unwrap();
        assert!((share - 0.25).abs() < 0.011, "{share}");
        let correction = dropped.matmul(&lora.a.t().unwrap()).unwrap().matmul(&lora.b.t().unwrap()).unwrap();
        let correction = correction.multiply_scalar(lora.scale).unwrap();
        let want = match &lora.dora {
            None => base.add(&correction).unwrap(),
            // PEFT's DoRA: result + (factor - 1) · drop(x) Wᵀ + factor · correction.
            Some(dora) => {
                let factor = lora.factor(dora, &weight).unwrap();
                let changed = weight.project(&dropped).unwrap().multiply(&factor.add_scalar(-1.0).unwrap()).unwrap();
                base.add(&changed).unwrap().add(&correction.multiply(&factor).unwrap()).unwrap()
            }
        };
        assert_close(&found, &want, 1e-4, 1e-4, "dropped");
        // Its mean is what it is without dropout: the average of 400 rows is nearer than one row.
        let gap = |x: Array| x.abs().unwrap().mean_all().unwrap().item().unwrap();
        let one = found.subtract(&without).unwrap();
        assert!(gap(one.mean(&[0], false).unwrap()) < 0.2 * gap(one), "unbiased");
    });
}
