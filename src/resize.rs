//! Bilinear resizing of maps, corners not aligned.

use crate::error::Result;
use std::cell::Cell;
use tch::{Kind, Tensor};

thread_local! {
    static DETERMINISTIC: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread must use deterministic operations only (`torch.use_deterministic_algorithms`); returns what was
/// set before. libtorch's own upsampling has no deterministic backward pass on a GPU and raises there.
pub fn set_deterministic(on: bool) -> bool {
    DETERMINISTIC.replace(on)
}

/// `x` [B,C,h,w] resized to `to` = [H,W]; on the graph.
pub fn bilinear(x: &Tensor, to: &[i64]) -> Result<Tensor> {
    if x.size()[2..] == *to {
        return Ok(x.f_alias()?);
    }
    if !DETERMINISTIC.get() {
        return Ok(x.f_upsample_bilinear2d(to, false, None, None)?);
    }
    // Two gathered rows (columns) and their weights: the backward pass is an index_add, which has a deterministic form.
    let mut x = x.f_alias()?;
    for (dim, &length) in [2, 3].iter().zip(to) {
        x = along(&x, *dim, length)?;
    }
    Ok(x)
}

fn along(x: &Tensor, dim: i64, length: i64) -> Result<Tensor> {
    let given = x.size()[dim as usize];
    if given == length {
        return Ok(x.f_alias()?);
    }
    let scale = given as f64 / length as f64;
    let place = Tensor::f_arange(length, (Kind::Double, x.device()))?;
    let place = place.f_add_scalar(0.5)?.f_mul_scalar(scale)?.f_sub_scalar(0.5)?.f_clamp_min(0.0)?;
    let low = place.f_floor()?;
    let weight = place.f_sub(&low)?.f_to_kind(x.f_kind()?)?;
    let weight = if dim == 2 { weight.f_unsqueeze(1)? } else { weight };
    let low = low.f_to_kind(Kind::Int64)?.f_clamp_max(given - 1)?;
    let high = low.f_add_scalar(1)?.f_clamp_max(given - 1)?;
    let (below, above) = (x.f_index_select(dim, &low)?, x.f_index_select(dim, &high)?);
    Ok(below.f_lerp_tensor(&above, &weight.f_expand_as(&above)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deterministic_form_gives_what_libtorch_gives() {
        let mut rng = crate::rng::Rng::new(1);
        let x = rng.normals(&[2, 3, 5, 7]).to_kind(Kind::Double).set_requires_grad(true);
        for to in [[20, 28], [13, 9], [5, 7], [3, 4], [1, 30]] {
            let usual = bilinear(&x, &to).unwrap();
            set_deterministic(true);
            let other = bilinear(&x, &to).unwrap();
            set_deterministic(false);
            assert!((&usual - &other).abs().max().double_value(&[]) < 1e-12);
            let give = rng.normals(&usual.size()).to_kind(Kind::Double);
            let grads: Vec<Tensor> = [usual, other]
                .iter()
                .map(|y| Tensor::run_backward(&[(y * &give).sum(Kind::Double)], &[&x], false, false).remove(0))
                .collect();
            assert!((&grads[0] - &grads[1]).abs().max().double_value(&[]) < 1e-12);
        }
    }
}
