//! Block masks of masked image consistency (MIC): square patches of the target image are hidden from the student.

use crate::error::{Error, Result};
use crate::shape::{check_float, check_rank};
use tch::Tensor;

/// Rows and columns of the patch grid: the size over the block size, halves rounded to even, at least one.
pub fn mask_grid(height: i64, width: i64, block: i64) -> Result<(i64, i64)> {
    if height < 1 || width < 1 || block < 1 {
        return Err(Error::value(format!("mask_grid: expected positive sizes, got {height} x {width}, block {block}")));
    }
    let cells = |n: i64| ((n as f64 / block as f64).round_ties_even() as i64).max(1);
    Ok((cells(height), cells(width)))
}

/// 1 where `uniform` [B,1,rows,columns] exceeds `ratio`, else 0, spread over [B,1,height,width] by nearest neighbour;
/// dtype of `uniform`. With uniform draws in [0,1), `ratio` is the expected share of hidden pixels.
pub fn block_mask(uniform: &Tensor, ratio: f64, height: i64, width: i64) -> Result<Tensor> {
    check_rank(uniform, 4, "uniform", "[B,1,rows,columns]")?;
    check_float(uniform, "uniform")?;
    if uniform.numel() == 0 || height < 1 || width < 1 {
        let size = uniform.size();
        return Err(Error::shape(format!(
            "block_mask: cannot spread a grid of shape {size:?} over {height} x {width}"
        )));
    }
    let kept = uniform.f_detach()?.f_gt(ratio)?.f_to_kind(uniform.f_kind()?)?;
    Ok(kept.f_upsample_nearest2d([height, width], None, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_to_even_and_a_large_block_covers_all() {
        assert_eq!(mask_grid(72, 100, 40).unwrap(), (2, 2));
        assert_eq!(mask_grid(160, 96, 64).unwrap(), (2, 2));
        assert_eq!(mask_grid(8, 8, 64).unwrap(), (1, 1));
        assert!(mask_grid(8, 8, 0).is_err());
    }
}
