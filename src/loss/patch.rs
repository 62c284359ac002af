//! Patch contrast (PiPa, L_patch): a scene pixel seen in two overlapping crops attracts itself, all else repels.
//!
//!   loss = mean over images, directions and overlap positions i of
//!          -log [ exp(cos(f_i, f_j)/tau) / sum over all k != i of both patches of exp(cos(f_i, f_k)/tau) ]
//!
//! where j is the feature of the other patch at the same scene position. With labels, k runs over j and the positions of
//! another label only.
//!
//! Suffixes: B batch, D channels, H W size of the feature maps, M = 2 H W keys, O overlap positions.

use super::contrast::{contrast, Anchors, Masks, Positive};
use super::pixel::nearest_to;
use crate::error::{Error, Result};
use crate::patches::BoxYX;
use crate::shape::{check_device, check_float, check_rank, check_size};
use tch::{Device, Kind, Tensor};

/// `patch1_bdhw`, `patch2_bdhw`: student features of the two patches as given (a flipped patch arrives flipped).
/// `overlap1`, `overlap2`: half-open boxes in cells of the respective map that show the same part of the scene.
/// `flip1`, `flip2`: the patch was mirrored left-right. Positions pair up mirrored when exactly one was.
/// `labels`: class ids [B,h,w] of both patches as they are shown, of any size (nearest); None: all positions repel.
#[allow(clippy::too_many_arguments)]
pub fn patch_contrast(
    patch1_bdhw: &Tensor,
    patch2_bdhw: &Tensor,
    overlap1: BoxYX,
    overlap2: BoxYX,
    flip1: bool,
    flip2: bool,
    labels: Option<(&Tensor, &Tensor)>,
    temperature: f64,
) -> Result<Tensor> {
    check_rank(patch1_bdhw, 4, "patch1_bdhw", "[B,D,H,W]")?;
    check_float(patch1_bdhw, "patch1_bdhw")?;
    check_size(patch2_bdhw, &patch1_bdhw.size(), "patch2_bdhw")?;
    check_float(patch2_bdhw, "patch2_bdhw")?;
    check_device(patch2_bdhw, "patch2_bdhw", patch1_bdhw, "patch1_bdhw")?;
    let size = patch1_bdhw.size();
    let (b, h, w) = (size[0], size[2], size[3]);
    if b == 0 {
        return Err(Error::shape(format!("patch1_bdhw: expected at least one image, got shape {size:?}")));
    }
    overlap1.check_within(h, w, "overlap1")?;
    overlap2.check_within(h, w, "overlap2")?;
    if (overlap1.height(), overlap1.width()) != (overlap2.height(), overlap2.width()) {
        return Err(Error::value(format!(
            "overlap2: expected the size of overlap1, {} x {} cells, got {} x {}",
            overlap1.height(),
            overlap1.width(),
            overlap2.height(),
            overlap2.width()
        )));
    }

    let device = patch1_bdhw.device();
    let cell1_o = cells(overlap1, w, false, device)?;
    let cell2_o = cells(overlap2, w, flip1 != flip2, device)?.f_add_scalar(h * w)?;
    let class_bm = labels.map(|(one, two)| classes(one, two, patch1_bdhw)).transpose()?;
    // Both directions at once: they have equally many positions, so the mean over all is the mean of the two means.
    let anchor_n = Tensor::f_cat(&[&cell1_o, &cell2_o], 0)?;
    let positive_n = Tensor::f_cat(&[&cell2_o, &cell1_o], 0)?;
    let mut losses = Vec::with_capacity(b as usize);
    for image in 0..b {
        let rows = |patch: &Tensor| patch.f_select(0, image)?.f_flatten(1, 2)?.f_tr();
        let key_md = Tensor::f_cat(&[rows(patch1_bdhw)?, rows(patch2_bdhw)?], 0)?;
        let (anchors, positive) = (Anchors::Keys(Some(&anchor_n)), Positive::Index(&positive_n));
        let class_m = class_bm.as_ref().map(|class_bm| class_bm.f_select(0, image)).transpose()?;
        let class_n = class_m.as_ref().map(|class_m| class_m.f_index_select(0, &anchor_n)).transpose()?;
        let masks = Masks { class_nm: class_n.as_ref().zip(class_m.as_ref()), ..Masks::default() };
        losses.push(contrast(anchors, &key_md, positive, Some(&anchor_n), temperature, masks)?);
    }
    Ok(Tensor::f_stack(&losses, 0)?.f_mean(None::<Kind>)?)
}

/// Labels of both patches at the positions of their features: [B,M].
fn classes(label1_bhw: &Tensor, label2_bhw: &Tensor, patch_bdhw: &Tensor) -> Result<Tensor> {
    let rows = |label: &Tensor, name: &str| Ok(nearest_to(label, patch_bdhw, name, "patch1_bdhw")?.f_flatten(1, 2)?);
    let both: Result<Vec<Tensor>> = [(label1_bhw, "label1_bhw"), (label2_bhw, "label2_bhw")]
        .map(|(label, name)| rows(label, name))
        .into_iter()
        .collect();
    Ok(Tensor::f_cat(&both?, 1)?)
}

/// Flat positions of the cells of `area` in a map of `width` columns, row by row; right to left when `mirrored`.
fn cells(area: BoxYX, width: i64, mirrored: bool, device: Device) -> Result<Tensor> {
    let row_h1 = Tensor::f_arange_start(area.top, area.bottom, (Kind::Int64, device))?.f_unsqueeze(1)?;
    let mut column_w = Tensor::f_arange_start(area.left, area.right, (Kind::Int64, device))?;
    if mirrored {
        column_w = column_w.f_flip([0])?;
    }
    Ok(row_h1.f_mul_scalar(width)?.f_add(&column_w)?.f_reshape([-1])?)
}
