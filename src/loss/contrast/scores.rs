//! Streaming log-sum-exp of the contrastive kernel.
//!
//! Suffixes: N anchors, M keys, D channels.

use super::inputs::Masks;
use super::others::Others;
use crate::error::Result;
use tch::{Device, Tensor};

/// The score matrix, one tile at a time. Matrix products write into given tensors: such variants compute in the dtype
/// of their arguments, where autocast would turn the plain ones into half precision.
pub struct Scores<'a> {
    anchor_nd: &'a Tensor,
    key_md: &'a Tensor,
    /// Anchors divided by the temperature.
    sharp_nd: Tensor,
    self_index_n: Option<Tensor>,
    others: Option<Others>,
    /// 0 for keys that exist, -inf for masked ones.
    bias_m: Option<Tensor>,
    buffer: Tensor,
    tile: (i64, i64),
    /// No score is larger than this in magnitude: rows have length one.
    bound: f64,
}

/// Up to here exponentials of scores and their sums stay far inside float32, and need no shift by the row's maximum.
const UNSHIFTED: f64 = 40.0;

/// What one pass over the scores gives.
pub struct Sweep {
    pub log_sum_n: Tensor,
    /// Sum over keys of softmax weight times key, for anchors that count.
    pub anchor_nd: Option<Tensor>,
    /// Sum over counting anchors of softmax weight times anchor.
    pub key_md: Option<Tensor>,
}

impl<'a> Scores<'a> {
    pub fn new(
        anchor_nd: &'a Tensor,
        key_md: &'a Tensor,
        self_index_n: Option<Tensor>,
        others: Option<Others>,
        temperature: f64,
        masks: &Masks,
    ) -> Result<Self> {
        let (n, m) = (anchor_nd.size()[0], key_md.size()[0]);
        let options = (anchor_nd.f_kind()?, anchor_nd.device());
        let tile = masks.tile.unwrap_or_else(|| tile_for(n, m, anchor_nd.device()));
        let tile = (tile.0.min(n), tile.1.min(m));
        let bias_m = match masks.key_m {
            Some(valid_m) => {
                let mut bias_m = Tensor::f_zeros([m], options)?;
                Some(bias_m.f_masked_fill_(&valid_m.f_logical_not()?, f64::NEG_INFINITY)?)
            }
            None => None,
        };
        Ok(Self {
            anchor_nd,
            key_md,
            sharp_nd: anchor_nd.f_div_scalar(temperature)?,
            self_index_n,
            others,
            bias_m,
            buffer: Tensor::f_empty([tile.0 * tile.1], options)?,
            tile,
            bound: 1.0 / temperature,
        })
    }

    /// Scores of anchors `i..i+rows` against keys `j..j+columns`, excluded pairs at -inf. Valid until the next call.
    fn tile(&self, i: i64, rows: i64, j: i64, columns: i64) -> Result<Tensor> {
        let out = self.buffer.f_narrow(0, 0, rows * columns)?.f_view([rows, columns])?;
        let keys = self.key_md.f_narrow(0, j, columns)?.f_tr()?;
        let mut out = self.sharp_nd.f_narrow(0, i, rows)?.f_mm_out(&out, &keys)?;
        if let Some(bias_m) = &self.bias_m {
            let _ = out.f_add_(&bias_m.f_narrow(0, j, columns)?)?;
        }
        if let Some(others) = &self.others {
            let _ = out.f_masked_fill_(&others.left_out((i, rows), (j, columns))?, f64::NEG_INFINITY)?;
        }
        if let Some(self_n) = &self.self_index_n {
            let local = self_n.f_narrow(0, i, rows)?.f_sub_scalar(j)?.f_unsqueeze(1)?;
            let inside = local.f_ge(0)?.f_logical_and(&local.f_lt(columns)?)?;
            let at = local.f_clamp(0, columns - 1)?;
            let cut = out.f_gather(1, &at, false)?.f_masked_fill(&inside, f64::NEG_INFINITY)?;
            let _ = out.f_scatter_(1, &at, &cut)?;
        }
        Ok(out)
    }

    /// Log-sum-exp of every row and, where wanted, the softmax-weighted sums that make its gradients.
    pub fn sweep(&self, counts_n: &Tensor, want_anchor: bool, want_key: bool) -> Result<Sweep> {
        let (n, m) = (self.anchor_nd.size()[0], self.key_md.size()[0]);
        let options = (self.anchor_nd.f_kind()?, self.anchor_nd.device());
        let log_sum_n = Tensor::f_empty([n], options)?;
        let anchor_nd = want_anchor.then(|| self.anchor_nd.f_zeros_like()).transpose()?;
        let mut key_md = want_key.then(|| self.key_md.f_zeros_like()).transpose()?;
        for (i, rows) in blocks(n, self.tile.0) {
            let shifted = self.bound > UNSHIFTED;
            // Below any score, yet finite: a row without keys then sums to zero instead of NaN.
            let mut top = Tensor::f_full([rows, 1], if shifted { -1.5 * self.bound } else { 0.0 }, options)?;
            let mut sum = Tensor::f_zeros([rows, 1], options)?;
            let mut kept = None;
            for (j, columns) in blocks(m, self.tile.1) {
                let mut scores = self.tile(i, rows, j, columns)?;
                if shifted {
                    let higher = top.f_maximum(&scores.f_amax([1i64], true)?)?;
                    let _ = scores.f_sub_(&higher)?;
                    sum = sum.f_mul(&top.f_sub(&higher)?.f_exp()?)?;
                    top = higher;
                }
                sum = sum.f_add(&scores.f_exp_()?.f_sum_dim_intlist(1i64, true, options.0)?)?;
                kept = Some(scores);
            }
            let log_sum = sum.f_log()?.f_add(&top)?;
            log_sum_n.f_narrow(0, i, rows)?.f_copy_(&log_sum.f_squeeze_dim(1)?)?;
            if !(want_anchor || want_key) {
                continue;
            }
            // Rows that do not count get weight zero: exp(score - inf).
            let skip = counts_n.f_narrow(0, i, rows)?.f_logical_not()?.f_unsqueeze(1)?;
            let anchors = self.anchor_nd.f_narrow(0, i, rows)?;
            // One tile held all keys: its exponentials are there, and dividing waits until they are summed up.
            if let Some(weight) = kept.filter(|_| m <= self.tile.1) {
                let share = sum.f_reciprocal()?.f_masked_fill(&skip, 0.0)?;
                if let Some(grad_nd) = &anchor_nd {
                    let _ = grad_nd.f_narrow(0, i, rows)?.f_addmm_(&weight, self.key_md)?.f_mul_(&share)?;
                }
                if let Some(grad_md) = key_md.as_mut() {
                    let _ = grad_md.f_addmm_(&weight.f_tr()?, &anchors.f_mul(&share)?)?;
                }
                continue;
            }
            let bound = log_sum.f_masked_fill(&skip, f64::INFINITY)?;
            for (j, columns) in blocks(m, self.tile.1) {
                let weight = self.tile(i, rows, j, columns)?.f_sub_(&bound)?.f_exp_()?;
                if let Some(grad_nd) = &anchor_nd {
                    let keys = self.key_md.f_narrow(0, j, columns)?;
                    let _ = grad_nd.f_narrow(0, i, rows)?.f_addmm_(&weight, &keys)?;
                }
                if let Some(grad_md) = key_md.as_mut() {
                    let _ = grad_md.f_narrow(0, j, columns)?.f_addmm_(&weight.f_tr()?, &anchors)?;
                }
            }
        }
        Ok(Sweep { log_sum_n, anchor_nd, key_md })
    }
}

/// Start and length of consecutive blocks of at most `size` that cover `0..total`.
pub fn blocks(total: i64, size: i64) -> impl Iterator<Item = (i64, i64)> {
    let size = size.max(1);
    (0..total).step_by(size as usize).map(move |start| (start, size.min(total - start)))
}

/// Tile of scores: all keys in one row block where possible (nothing is recomputed then). On the CPU about 8 MB in
/// float32, which stays in the caches, but at least 256 rows where 64 MB hold them; 512 MB on accelerators, which need
/// larger products to be busy.
pub fn tile_for(n: i64, m: i64, device: Device) -> (i64, i64) {
    let most: i64 = if device == Device::Cpu { 1 << 24 } else { 1 << 27 };
    let columns = m.clamp(1, most / 256);
    let rows = if device == Device::Cpu { ((1 << 21) / columns).max(256) } else { most / columns };
    (rows.clamp(1, n.max(1)), columns)
}
