//! Rectified labels (ProDA, equation 5): the softmax of a network, weighted by what the prototypes say.

use crate::error::{Error, Result};
use crate::host::fused_without_grad;
use crate::host::planes::{each_block, Target, LANES, ROW};
use crate::host::slice::{output, view};
use crate::shape::{check_device, check_float, check_rank, check_size};
use crate::surrogate::compute_kind;
use multiversion::multiversion;
use tch::{Kind, Tensor};

/// argmax_k and max_k of q_k = w_k p_k / sum_j w_j p_j, for `prob_bkhw` p and `weight_bkhw` w [B,K,H,W]: label i64 [B,H,W]
/// and confidence [B,H,W] in the dtype of `prob_bkhw`. Ties go to the lowest class. Where every product is 0 (the two
/// contradict each other) the label is that of p, with confidence 0.
pub fn rectified_label(prob_bkhw: &Tensor, weight_bkhw: &Tensor) -> Result<(Tensor, Tensor)> {
    check_rank(prob_bkhw, 4, "prob_bkhw", "[B,K,H,W]")?;
    check_float(prob_bkhw, "prob_bkhw")?;
    check_float(weight_bkhw, "weight_bkhw")?;
    check_size(weight_bkhw, &prob_bkhw.size(), "weight_bkhw (the shape of prob_bkhw)")?;
    check_device(weight_bkhw, "weight_bkhw", prob_bkhw, "prob_bkhw")?;
    if prob_bkhw.size()[1] < 1 {
        return Err(Error::shape(format!("prob_bkhw: expected at least one class, got shape {:?}", prob_bkhw.size())));
    }
    let (prob, weight) = (prob_bkhw.f_detach()?, weight_bkhw.f_detach()?);
    let kind = compute_kind(&prob)?;
    let (label, confidence) = if kind == Kind::Float && fused_without_grad(&[&prob, &weight]) {
        label_host(&prob, &weight)?
    } else {
        label_ops(&prob.f_to_kind(kind)?, &weight.f_to_kind(kind)?, kind)?
    };
    Ok((label, confidence.f_to_kind(prob_bkhw.f_kind()?)?))
}

fn label_ops(prob: &Tensor, weight: &Tensor, kind: Kind) -> Result<(Tensor, Tensor)> {
    let product = prob.f_mul(weight)?;
    let (best, label) = product.f_max_dim(1, false)?;
    let sum = product.f_sum_dim_intlist(1i64, false, kind)?;
    let none = best.f_eq(0.0)?;
    let label = prob.f_argmax(1, false)?.f_where_self(&none, &label)?;
    let confidence = best.f_div(&sum.f_masked_fill(&none, 1.0)?)?;
    Ok((label, confidence))
}

fn label_host(prob: &Tensor, weight: &Tensor) -> Result<(Tensor, Tensor)> {
    let size = prob.size();
    let (classes, pixels) = (size[1] as usize, (size[2] * size[3]) as usize);
    let (prob, weight) = (view::<f32>(prob)?, view::<f32>(weight)?);
    let map = [size[0], size[2], size[3]];
    let mut confidence = output::<f32>(&map)?;
    let target = Target::new(&mut confidence, 1, pixels);
    let labels = each_block(
        size[0] as usize,
        pixels,
        || (vec![ROW; classes], vec![ROW; classes]),
        |(p, w), block| {
            block.gather(&prob, pixels, p);
            block.gather(&weight, pixels, w);
            let mut found = ([0i64; LANES], ROW);
            best_of(p, w, &mut found.0, &mut found.1);
            // SAFETY: this task alone has this block.
            unsafe { target.write(block, 0, &found.1) };
            found.0[..block.len].to_vec()
        },
    );
    let labels = Tensor::f_from_slice(&labels.concat())?.f_reshape(map)?;
    Ok((labels, confidence.into_tensor()))
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn best_of(prob: &[[f32; LANES]], weight: &[[f32; LANES]], label: &mut [i64; LANES], confidence: &mut [f32; LANES]) {
    let (mut best, mut sum) = ([f32::NEG_INFINITY; LANES], ROW);
    let (mut top, mut likely) = ([f32::NEG_INFINITY; LANES], [0i64; LANES]);
    for (k, (p, w)) in prob.iter().zip(weight).enumerate() {
        for i in 0..LANES {
            let product = p[i] * w[i];
            sum[i] += product;
            let better = product > best[i];
            best[i] = if better { product } else { best[i] };
            label[i] = if better { k as i64 } else { label[i] };
            let better = p[i] > top[i];
            top[i] = if better { p[i] } else { top[i] };
            likely[i] = if better { k as i64 } else { likely[i] };
        }
    }
    for i in 0..LANES {
        let none = best[i] == 0.0;
        label[i] = if none { likely[i] } else { label[i] };
        confidence[i] = if none { 0.0 } else { best[i] / sum[i] };
    }
}
