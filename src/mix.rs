//! ClassMix: half of the classes of a source image are pasted, pixel for pixel, onto a target image.

use crate::choices;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::host::slice::{check_ids, labels, output, output_bits, view, view_bits, Element, Id};
use crate::host::{self, pool};
use crate::rng::Rng;
use crate::shape::{check_device, check_integer, check_rank};
use crate::transfer::to_device;
use crate::with_labels;
use rayon::prelude::*;
use tch::{Kind, Tensor};

choices! {
    /// Which classes an image's draw chooses from.
    pub enum ClassScope {
        /// The classes that the image shows; the ignored id is not a class.
        PerImage = "per_image",
        /// The released code: the ids of the whole batch, the ignored id among them. An image may then get classes that it
        /// does not show. Needed only to repeat its numbers.
        Batch = "batch",
    }
}

/// Scores that decide the draw: of the present classes the ones with the largest scores are chosen. One row per image,
/// one column per class, the last one for the ignored id. Drawn in full, whatever is present, so that host and
/// accelerator draw alike and the accelerator need not report what it found.
///
/// With several processes all of them draw for the joined batch, and each keeps its own rows.
fn scores(group: &dyn Group, batch: i64, num_classes: i64, rng: &mut Rng) -> Vec<f32> {
    let own = batch * (num_classes + 1);
    let joined: Vec<f32> = (0..group.world() * own).map(|_| rng.uniform(0.0, 1.0) as f32).collect();
    let first = (group.rank() * own) as usize;
    joined[first..first + own as usize].to_vec()
}

fn check_label(label_b1hw: &Tensor, num_classes: i64) -> Result<()> {
    check_map(label_b1hw, "label_b1hw")?;
    check_integer(label_b1hw, "label_b1hw")?;
    if !(1..=65_536).contains(&num_classes) {
        return Err(Error::value(format!("num_classes: expected 1 to 65536, got {num_classes}")));
    }
    Ok(())
}

fn check_map(map_b1hw: &Tensor, name: &str) -> Result<()> {
    check_rank(map_b1hw, 4, name, "[B,1,H,W]")?;
    if map_b1hw.size()[1] != 1 {
        return Err(Error::shape(format!("{name}: expected [B,1,H,W], got shape {:?}", map_b1hw.size())));
    }
    Ok(())
}

/// Chooses (n + n % 2) / 2 of the n classes for each image of a label map [B,1,H,W], this process's slice of a joined
/// batch; `rng` is at the same point on all processes. The result lives on the host: for a label map on an accelerator use
/// `draw_class_mask`, which does not wait for it.
pub fn draw_classes(
    group: &dyn Group,
    label_b1hw: &Tensor,
    num_classes: i64,
    ignore_index: i64,
    scope: ClassScope,
    rng: &mut Rng,
) -> Result<Vec<Vec<i64>>> {
    check_label(label_b1hw, num_classes)?;
    check_ids(label_b1hw, num_classes, ignore_index, "label_b1hw")?;
    let size = label_b1hw.size();
    let width = num_classes as usize + 1;
    let scores = scores(group, size[0], num_classes, rng);
    let pixels = (size[2] * size[3]) as usize;
    if pixels == 0 {
        return Ok(vec![Vec::new(); size[0] as usize]);
    }
    let labels = labels(label_b1hw)?;
    let mut present: Vec<Vec<bool>> = with_labels!(labels, slice => pool::run(|| {
        slice.par_chunks(pixels).map(|image| ids_present(image, num_classes)).collect()
    }));
    if scope == ClassScope::Batch {
        let mut any: Vec<bool> = (0..width).map(|c| present.iter().any(|image| image[c])).collect();
        if group.world() > 1 {
            let own: Vec<i32> = any.iter().map(|&shown| i32::from(shown)).collect();
            any = Vec::<i32>::try_from(group.sum(&Tensor::f_from_slice(&own)?)?)?.iter().map(|&n| n > 0).collect();
        }
        present.fill(any);
    } else {
        present.iter_mut().for_each(|image| image[width - 1] = false);
    }
    let id_of = |column: usize| if column + 1 == width { ignore_index } else { column as i64 };
    let choose = |(present, scores): (&Vec<bool>, &[f32])| {
        let mut columns: Vec<usize> = (0..width).filter(|&c| present[c]).collect();
        columns.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let n = columns.len();
        columns.truncate((n + n % 2) / 2);
        columns.into_iter().map(id_of).collect()
    };
    Ok(present.iter().zip(scores.chunks_exact(width)).map(choose).collect())
}

/// One flag per class, the last one for any other id.
fn ids_present<T: Id>(image: &[T], num_classes: i64) -> Vec<bool> {
    let n = num_classes as usize;
    let mut flags = vec![false; n + 1];
    for v in image {
        let id = v.id();
        flags[if (id as u64) < num_classes as u64 { id as usize } else { n }] = true;
    }
    flags
}

/// i64 mask [B,1,H,W]: 1 where the label [B,1,H,W] is one of the image's classes. Ids that do not occur are allowed.
pub fn class_mask(label_b1hw: &Tensor, classes_per_image: &[Vec<i64>]) -> Result<Tensor> {
    check_map(label_b1hw, "label_b1hw")?;
    check_integer(label_b1hw, "label_b1hw")?;
    let size = label_b1hw.size();
    if size[0] as usize != classes_per_image.len() {
        let lists = classes_per_image.len();
        return Err(Error::shape(format!("classes_per_image: expected {} lists, one per image, got {lists}", size[0])));
    }
    let pixels = (size[2] * size[3]) as usize;
    if size[0] == 0 || pixels == 0 || !host::fused(&[label_b1hw]) {
        return mask_ops(label_b1hw, classes_per_image);
    }
    let labels = labels(label_b1hw)?;
    let mut mask = output::<i64>(&size)?;
    let out: &mut [i64] = &mut mask;
    with_labels!(labels, slice => pool::run(|| {
        out.par_chunks_mut(pixels).zip(slice.par_chunks(pixels)).zip(classes_per_image).for_each(|((mask, label), ids)| {
            // Ids beyond a byte are rare (more than 256 classes): they are looked up in the list.
            let mut table = [0i64; 256];
            ids.iter().filter(|id| (0..256).contains(*id)).for_each(|&id| table[id as usize] = 1);
            let member = |v: i64| if (v as u64) < 256 { table[v as usize] } else { i64::from(ids.contains(&v)) };
            mask.par_chunks_mut(1 << 16).zip(label.par_chunks(1 << 16)).for_each(|(mask, label)| {
                mask.iter_mut().zip(label).for_each(|(m, v)| *m = member(v.id()));
            });
        });
    }));
    Ok(mask.into_tensor())
}

fn mask_ops(label_b1hw: &Tensor, classes_per_image: &[Vec<i64>]) -> Result<Tensor> {
    let mask = Tensor::f_zeros(label_b1hw.size(), (Kind::Int64, label_b1hw.device()))?;
    for (i, ids) in classes_per_image.iter().enumerate() {
        let label = label_b1hw.f_select(0, i as i64)?.f_to_kind(Kind::Int64)?;
        let ids = to_device(&Tensor::f_from_slice(ids)?, label.device(), Kind::Int64)?;
        mask.f_select(0, i as i64)?.f_copy_(&Tensor::f_isin(&label, &ids, false, false)?)?;
    }
    Ok(mask)
}

/// `class_mask` of a fresh draw. On an accelerator neither presence nor choice visits the host: the mask is the one that
/// `draw_classes` would give for the same `rng`. There, ids outside the classes count as the ignored id.
pub fn draw_class_mask(
    group: &dyn Group,
    label_b1hw: &Tensor,
    num_classes: i64,
    ignore_index: i64,
    scope: ClassScope,
    rng: &mut Rng,
) -> Result<Tensor> {
    if host::fused(&[label_b1hw]) {
        let classes = draw_classes(group, label_b1hw, num_classes, ignore_index, scope, rng)?;
        return class_mask(label_b1hw, &classes);
    }
    check_label(label_b1hw, num_classes)?;
    let (size, device, width) = (label_b1hw.size(), label_b1hw.device(), num_classes + 1);
    let scores = Tensor::f_from_slice(&scores(group, size[0], num_classes, rng))?.f_view([size[0], width])?;
    let scores = to_device(&scores, device, Kind::Float)?;
    let label = label_b1hw.f_to_kind(Kind::Int64)?.f_reshape([size[0], -1])?;
    let inside = label.f_ge(0)?.f_logical_and(&label.f_lt(num_classes)?)?;
    let column = label.f_where_scalarother(&inside, num_classes)?;
    let mut present = Tensor::f_zeros([size[0], width], (Kind::Float, device))?.f_scatter_value(1, &column, 1.0)?;
    if scope == ClassScope::Batch {
        present = present.f_amax([0], true)?;
        if group.world() > 1 {
            present = group.sum(&present)?.f_gt(0)?.f_to_kind(Kind::Float)?;
        }
        present = present.f_expand([size[0], width], false)?.f_contiguous()?;
    } else {
        let _ = present.f_narrow(1, num_classes, 1)?.f_zero_()?;
    }
    let count = present.f_sum_dim_intlist([1].as_slice(), true, Kind::Int64)?;
    let chosen_count = count.f_add(&count.f_remainder(2)?)?.f_divide_scalar_mode(2, "floor")?;
    // Absent classes score below every present one.
    let order = scores.f_masked_fill(&present.f_eq(0)?, -1.0)?.f_argsort_stable(true, 1, true)?;
    let rank = order.f_argsort(1, false)?;
    let chosen = rank.f_lt_tensor(&chosen_count)?.f_to_kind(Kind::Int64)?;
    Ok(chosen.f_gather(1, &column, false)?.f_view(size.as_slice())?)
}

/// `source` where the mask [B,1,H,W] is not 0, else `target`; new tensor. Both [B,C,H,W] or both [B,H,W], any dtype (the
/// wider one of the two results): images, labels and weights mix alike.
pub fn class_mix(mask_b1hw: &Tensor, source: &Tensor, target: &Tensor) -> Result<Tensor> {
    check_map(mask_b1hw, "mask_b1hw")?;
    check_device(source, "source", mask_b1hw, "mask_b1hw")?;
    check_device(target, "target", mask_b1hw, "mask_b1hw")?;
    let (mask_size, size) = (mask_b1hw.size(), source.size());
    let fits = matches!(size.len(), 3 | 4) && size[0] == mask_size[0] && size[size.len() - 2..] == mask_size[2..];
    if !fits || target.size() != size {
        return Err(Error::shape(format!(
            "class_mix: expected source and target of one shape [B,H,W] or [B,C,H,W] that fits the mask {mask_size:?}, \
             got {size:?} and {:?}",
            target.size()
        )));
    }
    let kind = source.f_kind()?;
    let pixels = (mask_size[2] * mask_size[3]) as usize;
    if kind == target.f_kind()? && source.numel() > 0 && host::fused_without_grad(&[source, target]) {
        let mask = match mask_b1hw.f_kind()? {
            Kind::Int64 => view::<i64>(mask_b1hw)?,
            _ => view::<i64>(&mask_b1hw.f_ne(0)?)?,
        };
        return match kind.elt_size_in_bytes() {
            1 => mix_host::<u8>(&mask, pixels, source, target, kind),
            2 => mix_host::<i16>(&mask, pixels, source, target, kind),
            4 => mix_host::<i32>(&mask, pixels, source, target, kind),
            8 => mix_host::<i64>(&mask, pixels, source, target, kind),
            _ => mix_ops(mask_b1hw, source, target),
        };
    }
    mix_ops(mask_b1hw, source, target)
}

fn mix_ops(mask_b1hw: &Tensor, source: &Tensor, target: &Tensor) -> Result<Tensor> {
    let mask = mask_b1hw.f_ne(0)?;
    let mask = if source.dim() == 3 { mask.f_squeeze_dim(1)? } else { mask };
    Ok(source.f_where_self(&mask, target)?)
}

fn mix_host<T: Element>(mask: &[i64], pixels: usize, source: &Tensor, target: &Tensor, kind: Kind) -> Result<Tensor> {
    let (source_values, target_values) = (view_bits::<T>(source)?, view_bits::<T>(target)?);
    let mut mixed = output_bits::<T>(&source.size(), kind)?;
    let channels = source.numel() / mask.len();
    let out: &mut [T] = &mut mixed;
    // A strip of the mask serves all channels of its image while it is in the cache.
    pool::run(|| {
        let planes =
            out.par_chunks_mut(pixels).zip(source_values.par_chunks(pixels)).zip(target_values.par_chunks(pixels));
        planes.enumerate().for_each(|(plane, ((out, source), target))| {
            let image = plane / channels;
            let mask = &mask[image * pixels..(image + 1) * pixels];
            let strips = out.par_chunks_mut(1 << 14).zip(mask.par_chunks(1 << 14));
            let inputs = source.par_chunks(1 << 14).zip(target.par_chunks(1 << 14));
            strips.zip(inputs).for_each(|((out, mask), (source, target))| {
                for (((out, &m), &s), &t) in out.iter_mut().zip(mask).zip(source).zip(target) {
                    *out = if m != 0 { s } else { t };
                }
            });
        });
    });
    Ok(mixed.into_tensor())
}
