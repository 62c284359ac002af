//! Symmetric cross entropy (Wang et al., ICCV 2019; ProDA, section 3.1): cross entropy, which learns fast, plus reverse
//! cross entropy, which wrong labels hurt less.

use super::segmentation::per_pixel;
use crate::error::{Error, Result};
use crate::group::{count_labelled, part_of_mean, Group};
use crate::host::fused;
use crate::host::math::exp_negative;
use crate::host::planes::{each_block, Row, Target, LANES, ROW};
use crate::host::slice::{labels, output, view, Id};
use crate::prototypes::check_label;
use crate::shape::{check_float, check_rank};
use crate::surrogate::{attach_dot, compute_kind, wants_grad};
use crate::with_labels;
use multiversion::multiversion;
use tch::{Kind, Tensor};

/// Factors of the two terms, and what log 0 is replaced by.
#[derive(Clone, Copy, Debug)]
pub struct SymmetricCrossEntropy {
    pub ce: f64,
    pub rce: f64,
    /// The 0 of a one-hot label counts as this in the logarithm: reverse cross entropy is -log(floor) (1 - p_label).
    pub floor: f64,
    pub ignore_index: i64,
}

impl SymmetricCrossEntropy {
    /// Mean over the labelled pixels of this process, as its part of the mean over those of all processes. `weight_bhw`
    /// multiplies pixels and does not change the divisor. Without a labelled pixel a zero that keeps the graph.
    pub fn forward(
        &self,
        group: &dyn Group,
        logits_bkhw: &Tensor,
        label_bhw: &Tensor,
        weight_bhw: Option<&Tensor>,
    ) -> Result<Tensor> {
        check_rank(logits_bkhw, 4, "logits_bkhw", "[B,K,H,W]")?;
        check_float(logits_bkhw, "logits_bkhw")?;
        let classes = logits_bkhw.size()[1];
        check_label(label_bhw, logits_bkhw, "logits_bkhw", classes, self.ignore_index)?;
        for (name, value) in [("ce", self.ce), ("rce", self.rce)] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::value(format!("{name}: expected a finite number of at least 0, got {value}")));
            }
        }
        if !(self.floor > 0.0 && self.floor <= 1.0) {
            return Err(Error::value(format!("floor: expected more than 0 and at most 1, got {}", self.floor)));
        }
        let kind = compute_kind(logits_bkhw)?;
        if logits_bkhw.numel() == 0 {
            return Ok(logits_bkhw.f_sum(kind)?);
        }
        let loss = if kind == Kind::Float && fused(&[logits_bkhw]) {
            self.host(logits_bkhw, label_bhw, weight_bhw)?
        } else {
            self.ops(logits_bkhw, label_bhw, weight_bhw, kind)?
        };
        part_of_mean(group, &loss, || count_labelled(label_bhw, self.ignore_index))
    }

    /// -log(floor)
    fn steep(&self) -> f64 {
        -self.floor.ln()
    }

    fn ops(&self, logits: &Tensor, label: &Tensor, weight: Option<&Tensor>, kind: Kind) -> Result<Tensor> {
        let label = label.f_to_kind(Kind::Int64)?;
        let valid = label.f_ne(self.ignore_index)?;
        let ce = per_pixel(&logits.f_to_kind(kind)?, &label, self.ignore_index)?;
        // exp(-ce) is the label's probability.
        let reverse = ce.f_neg()?.f_exp()?.f_neg()?.f_add_scalar(1.0)?;
        let mut loss = ce.f_mul_scalar(self.ce)?.f_add(&reverse.f_mul_scalar(self.rce * self.steep())?)?;
        if let Some(weight) = weight {
            loss = loss.f_mul(&weight.f_to_kind(kind)?)?;
        }
        let count = valid.f_sum(Kind::Int64)?.f_clamp_min(1)?.f_to_kind(kind)?;
        Ok(loss.f_where_scalarother(&valid, 0.0)?.f_sum(kind)?.f_div(&count)?)
    }

    fn host(&self, logits_bkhw: &Tensor, label_bhw: &Tensor, weight_bhw: Option<&Tensor>) -> Result<Tensor> {
        let size = logits_bkhw.size();
        let (classes, pixels) = (size[1] as usize, (size[2] * size[3]) as usize);
        let with_gradient = wants_grad(logits_bkhw)?;
        let count = label_bhw.f_ne(self.ignore_index)?.f_sum(Kind::Int64)?.f_int64_value(&[])?.max(1) as f64;
        let logits = view::<f32>(logits_bkhw)?;
        let weight = weight_bhw.map(view::<f32>).transpose()?;
        let found = labels(label_bhw)?;
        let mut gradient = output::<f32>(if with_gradient { &size } else { &[0] })?;
        let target = Target::new(&mut gradient, classes, pixels);
        let factors = (self.ce as f32, (self.rce * self.steep()) as f32);
        let loss: f64 = with_labels!(found, slice => {
            let parts = each_block(size[0] as usize, pixels, || vec![ROW; classes], |rows, block| {
                block.gather(&logits, pixels, rows);
                let mut share = ROW;
                for (i, id) in block.of(slice, pixels).iter().enumerate() {
                    let counts = id.id() != self.ignore_index;
                    let weight = weight.as_ref().map_or(1.0, |weight| block.of(weight, pixels)[i]);
                    share[i] = if counts { weight } else { 0.0 };
                }
                let mut class = [0usize; LANES];
                class.iter_mut().zip(block.of(slice, pixels)).for_each(|(class, id)| {
                    *class = if id.id() == self.ignore_index { 0 } else { id.id() as usize };
                });
                let sum = pixels_of(rows, &class, &share, factors, (1.0 / count) as f32, with_gradient);
                if with_gradient {
                    for (k, row) in rows.iter().enumerate() {
                        // SAFETY: this task alone has this block.
                        unsafe { target.write(block, k, row) };
                    }
                }
                sum
            });
            parts.iter().sum()
        });
        let value = Tensor::f_from_slice(&[(loss / count) as f32])?.f_squeeze()?;
        if with_gradient {
            return attach_dot(value, logits_bkhw, &gradient.into_tensor());
        }
        Ok(value)
    }
}

/// Sum of the losses of a block; leaves the gradient times `scale` in `rows`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn pixels_of(
    rows: &mut [Row],
    class: &[usize; LANES],
    share: &Row,
    (ce, rce): (f32, f32),
    scale: f32,
    with_gradient: bool,
) -> f64 {
    let mut peak = [f32::NEG_INFINITY; LANES];
    for row in rows.iter() {
        for i in 0..LANES {
            peak[i] = if row[i] > peak[i] { row[i] } else { peak[i] };
        }
    }
    let mut gap = ROW;
    for i in 0..LANES {
        gap[i] = peak[i] - rows[class[i]][i];
    }
    let mut sum = ROW;
    for row in rows.iter_mut() {
        for i in 0..LANES {
            row[i] = exp_negative(row[i] - peak[i]);
            sum[i] += row[i];
        }
    }
    let (mut total, mut factor) = (0f64, ROW);
    for i in 0..LANES {
        let own = rows[class[i]][i] / sum[i];
        total +=
            if share[i] == 0.0 { 0.0 } else { f64::from(share[i] * (ce * (sum[i].ln() + gap[i]) + rce * (1.0 - own))) };
        // d/dz_k [ce CE + rce (1 - p_y)] = (ce + rce p_y) (p_k - [k = y])
        factor[i] = if share[i] == 0.0 { 0.0 } else { share[i] * scale * (ce + rce * own) };
    }
    if with_gradient {
        for row in rows.iter_mut() {
            for i in 0..LANES {
                row[i] = if factor[i] == 0.0 { 0.0 } else { row[i] * (factor[i] / sum[i]) };
            }
        }
        for i in 0..LANES {
            rows[class[i]][i] -= factor[i];
        }
    }
    total
}
