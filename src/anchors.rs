//! Class-balanced choice of pixels: every class gets the same quota, half of it hard pixels (wrongly predicted), half easy.
//!
//! The rules of the research code (its settings in brackets): groups of one class [of one image], groups with at least
//! `min_pixels` [101] pixels, `min(max_anchors / groups, max_per_class)` [1024, 100] pixels each; where one of the two
//! halves is too small the other fills up. Which pixels: those with the smallest random priority.
//!
//! Accelerators sort and sum in fixed shapes, so that they are never asked for a value; the host sorts only what it takes.
//!
//! Suffixes: B batch, H W size, P = B H W pixels (row-major), N anchors.

mod host;

use crate::error::{Error, Result};
use crate::host::fused;
use crate::host::slice::view;
use crate::rng::Rng;
use crate::shape::{check_device, check_integer, check_rank, check_size};
use crate::transfer::to_device;
use tch::{Device, Kind, Tensor};

/// Settings of the choice.
#[derive(Clone, Debug)]
pub struct AnchorSampler {
    /// Upper bound of all anchors together.
    pub max_anchors: i64,
    /// Upper bound per group.
    pub max_per_class: i64,
    /// Groups with fewer pixels are left out. 2: every class that can form a positive pair.
    pub min_pixels: i64,
    pub ignore_index: i64,
    /// Groups are the classes of each image (released code) instead of the classes of the batch.
    pub per_image: bool,
}

/// Chosen pixels, group by group (classes ascending), hard ones first.
pub struct Anchors {
    /// int64 [N]: flat row-major positions in [B,H,W].
    pub index_n: Tensor,
    /// bool [N]: false for filler at the end. On the CPU there is none; elsewhere N is fixed by the shapes.
    pub valid_n: Tensor,
}

impl AnchorSampler {
    /// Seeded draw. `prediction_bhw` (class ids) splits hard from easy; without it pixels are drawn alike.
    pub fn draw(&self, label_bhw: &Tensor, prediction_bhw: Option<&Tensor>, rng: &mut Rng) -> Result<Anchors> {
        let pixels: i64 = label_bhw.size().iter().product();
        let draws: Vec<f32> = (0..pixels).map(|_| rng.uniform(0.0, 1.0) as f32).collect();
        let priority_p = to_device(&Tensor::f_from_slice(&draws)?, label_bhw.device(), Kind::Float)?;
        self.choose(label_bhw, prediction_bhw, &priority_p.f_view(label_bhw.size().as_slice())?)
    }

    /// The choice for given priorities [B,H,W] (any numbers; the smallest of a group are taken, ties in pixel order).
    pub fn choose(
        &self,
        label_bhw: &Tensor,
        prediction_bhw: Option<&Tensor>,
        priority_bhw: &Tensor,
    ) -> Result<Anchors> {
        self.check(label_bhw, prediction_bhw, priority_bhw)?;
        let device = label_bhw.device();
        let size = label_bhw.size();
        let pixels: i64 = size.iter().product();
        if pixels == 0 {
            let none = Tensor::f_zeros([0], (Kind::Int64, device))?;
            return Ok(Anchors { valid_n: none.f_to_kind(Kind::Bool)?, index_n: none });
        }
        if fused(&[label_bhw]) && priority_bhw.f_kind()? == Kind::Float {
            let prediction = prediction_bhw.map(view::<i64>).transpose()?;
            let (label, priority) = (view::<i64>(label_bhw)?, view::<f32>(priority_bhw)?);
            let chosen = host::choose(self, &label, prediction.as_deref(), &priority, (size[1] * size[2]) as usize);
            let index_n = Tensor::f_from_slice(&chosen)?;
            return Ok(Anchors { valid_n: Tensor::f_ones([chosen.len() as i64], (Kind::Bool, device))?, index_n });
        }
        self.choose_by_sorting(label_bhw, prediction_bhw, priority_bhw)
    }

    fn choose_by_sorting(
        &self,
        label_bhw: &Tensor,
        prediction_bhw: Option<&Tensor>,
        priority_bhw: &Tensor,
    ) -> Result<Anchors> {
        let device = label_bhw.device();
        let size = label_bhw.size();
        let pixels: i64 = size.iter().product();
        let label_p = label_bhw.f_to_kind(Kind::Int64)?.f_reshape([pixels])?;
        let easy_p = match prediction_bhw {
            Some(prediction) => prediction.f_to_kind(Kind::Int64)?.f_reshape([pixels])?.f_eq_tensor(&label_p)?,
            None => label_p.f_ones_like()?.f_to_kind(Kind::Bool)?,
        };
        let position_p = Tensor::f_arange(pixels, (Kind::Int64, device))?;
        let image_p = position_p.f_div_scalar_mode(size[1] * size[2], "floor")?;

        // Stable sorts from the least to the most important key: priority, hard before easy, class, image.
        let mut order_p = stable_order(&priority_bhw.f_reshape([pixels])?)?;
        for key_p in [&easy_p.f_to_kind(Kind::Uint8)?, &label_p] {
            order_p = order_p.f_index_select(0, &stable_order(&key_p.f_index_select(0, &order_p)?)?)?;
        }
        if self.per_image {
            order_p = order_p.f_index_select(0, &stable_order(&image_p.f_index_select(0, &order_p)?)?)?;
        }
        let label_p = label_p.f_index_select(0, &order_p)?;
        let easy_p = easy_p.f_index_select(0, &order_p)?.f_to_kind(Kind::Int64)?;

        let mut opens_p = changes(&label_p)?;
        if self.per_image {
            opens_p = opens_p.f_logical_or(&changes(&image_p.f_index_select(0, &order_p)?)?)?;
        }
        let group_p = opens_p.f_cumsum(0, Kind::Int64)?.f_sub_scalar(1)?;
        let hard_p = easy_p.f_rsub_scalar(1)?;
        let sum_by_group = |x_p: &Tensor| -> Result<Tensor> { Ok(x_p.f_zeros_like()?.f_index_add_(0, &group_p, x_p)?) };
        let easy_g = sum_by_group(&easy_p)?;
        let hard_g = sum_by_group(&hard_p)?;
        let count_g = easy_g.f_add(&hard_g)?;
        let start_g = count_g.f_cumsum(0, Kind::Int64)?.f_sub(&count_g)?;

        // All pixels of a group share a label, so copying the label to its group needs no order.
        let mut label_g = label_p.f_zeros_like()?;
        let label_g = label_g.f_scatter_(0, &group_p, &label_p)?;
        let kept_g = count_g.f_ge(self.min_pixels.max(1))?.f_logical_and(&label_g.f_ne(self.ignore_index)?)?;
        let groups = kept_g.f_sum(Kind::Int64)?.f_clamp_min(1)?;
        // At least two: a class with one anchor would have no positive.
        let quota = groups.f_full_like(self.max_anchors)?.f_div_tensor_mode(&groups, "floor")?;
        let quota = quota.f_clamp(2, self.max_per_class)?;
        let half = quota.f_div_scalar_mode(2, "floor")?;
        let take_hard_g = half.f_maximum(&quota.f_sub(&easy_g)?)?.f_minimum(&hard_g)?;
        let take_easy_g = quota.f_sub(&take_hard_g)?.f_minimum(&easy_g)?;

        let at = |x_g: &Tensor| x_g.f_index_select(0, &group_p);
        let rank_p = position_p.f_sub(&at(&start_g)?)?;
        let taken_hard = rank_p.f_lt_tensor(&at(&take_hard_g)?)?.f_logical_and(&hard_p.f_eq(1)?)?;
        let easy_rank_p = rank_p.f_sub(&at(&hard_g)?)?;
        let taken_easy = easy_rank_p.f_lt_tensor(&at(&take_easy_g)?)?.f_logical_and(&easy_p.f_eq(1)?)?;
        let taken_p = taken_hard.f_logical_or(&taken_easy)?.f_logical_and(&at(&kept_g)?)?;

        let first_p = stable_order(&taken_p.f_logical_not()?.f_to_kind(Kind::Uint8)?)?;
        let first_n = first_p.f_narrow(0, 0, self.max_anchors.min(pixels))?;
        let mut index_n = order_p.f_index_select(0, &first_n)?;
        let mut valid_n = taken_p.f_index_select(0, &first_n)?;
        if device == Device::Cpu {
            let n = i64::try_from(valid_n.f_sum(Kind::Int64)?)?;
            index_n = index_n.f_narrow(0, 0, n)?;
            valid_n = valid_n.f_narrow(0, 0, n)?;
        }
        Ok(Anchors { index_n, valid_n })
    }

    fn check(&self, label_bhw: &Tensor, prediction_bhw: Option<&Tensor>, priority_bhw: &Tensor) -> Result<()> {
        check_rank(label_bhw, 3, "label_bhw", "[B,H,W]")?;
        check_integer(label_bhw, "label_bhw")?;
        if let Some(prediction) = prediction_bhw {
            check_integer(prediction, "prediction_bhw")?;
            check_size(prediction, &label_bhw.size(), "prediction_bhw")?;
            check_device(prediction, "prediction_bhw", label_bhw, "label_bhw")?;
        }
        check_size(priority_bhw, &label_bhw.size(), "priority_bhw")?;
        check_device(priority_bhw, "priority_bhw", label_bhw, "label_bhw")?;
        for (value, name) in [(self.max_anchors, "max_anchors"), (self.max_per_class, "max_per_class")] {
            if value < 2 {
                return Err(Error::value(format!(
                    "{name}: expected at least 2 (an anchor and a positive), got {value}"
                )));
            }
        }
        Ok(())
    }
}

/// Order that sorts `x_p` ascending, equal entries in their old order.
fn stable_order(x_p: &Tensor) -> Result<Tensor> {
    Ok(x_p.f_sort_stable(true, 0, false)?.1)
}

/// bool [P]: the entry differs from the one before it (true for the first).
fn changes(x_p: &Tensor) -> Result<Tensor> {
    let p = x_p.size()[0];
    let first = Tensor::f_ones([1], (Kind::Bool, x_p.device()))?;
    let rest = x_p.f_narrow(0, 1, p - 1)?.f_ne_tensor(&x_p.f_narrow(0, 0, p - 1)?)?;
    Ok(Tensor::f_cat(&[first, rest], 0)?)
}

#[cfg(test)]
mod tests;
