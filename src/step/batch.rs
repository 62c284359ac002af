//! The images of one iteration, and whether they fit together.

use super::settings::Settings;
use crate::error::{Error, Result};
use crate::host::slice::check_ids;
use crate::shape::{check_device, check_float, check_integer, check_rank, check_size};
use tch::{Device, Kind, Tensor};

/// Labelled source images and unlabelled target images.
pub struct Batch {
    /// [B,3,H,W], normalised.
    pub source: Tensor,
    /// [B,H,W] or [B,1,H,W] integer class ids.
    pub source_label: Tensor,
    /// [B,3,H,W], normalised, the size of `source`.
    pub target: Tensor,
    /// [B,H,W] or [B,1,H,W]; 0 where the target's pseudo-labels must weigh 0 (padding, for example). Every other integer
    /// lets them count in full, the 255 of a mask that was stored as a picture too; fractions of 0 to 1 multiply.
    pub valid_mask: Option<Tensor>,
}

/// Checks ranks, sizes, dtypes, devices and, on the host, class ids; gives label and mask as [B,H,W].
pub fn check_batch(batch: &Batch, settings: &Settings) -> Result<Batch> {
    check_rank(&batch.source, 4, "source image", "[B,3,H,W]")?;
    check_float(&batch.source, "source image")?;
    check_rank(&batch.target, 4, "target image", "[B,3,H,W]")?;
    check_float(&batch.target, "target image")?;
    check_size(&batch.target, &batch.source.size(), "target image (the size of the source image)")?;
    check_device(&batch.target, "target image", &batch.source, "source image")?;
    let source_label = as_map(&batch.source_label, "source label", batch)?;
    check_integer(&source_label, "source label")?;
    // On an accelerator the check would make it wait: there an invalid id counts as the ignored one or fails in the loss.
    if source_label.device() == Device::Cpu {
        check_ids(&source_label, settings.num_classes, settings.ignore_index, "source label")?;
    }
    let source_label = source_label.f_to_kind(Kind::Int64)?;
    let valid_mask = batch.valid_mask.as_ref().map(|mask| shares(&as_map(mask, "valid mask", batch)?)).transpose()?;
    Ok(Batch { source: batch.source.shallow_clone(), source_label, target: batch.target.shallow_clone(), valid_mask })
}

/// [B,1,H,W] or [B,H,W] as [B,H,W], of the images' size and device.
fn as_map(map: &Tensor, name: &str, batch: &Batch) -> Result<Tensor> {
    let size = batch.source.size();
    let map = if map.dim() == 4 && map.size()[1] == 1 { map.f_squeeze_dim(1)? } else { map.shallow_clone() };
    check_size(&map, &[size[0], size[2], size[3]], name)?;
    check_device(&map, name, &batch.source, "source image")?;
    Ok(map)
}

/// What a valid mask multiplies weights with. On an accelerator a look at its values would make it wait.
fn shares(mask: &Tensor) -> Result<Tensor> {
    if !mask.is_floating_point() {
        return Ok(mask.f_ne(0)?);
    }
    if mask.device() == Device::Cpu && mask.numel() > 0 {
        let (low, high) = (mask.f_min()?.f_double_value(&[])?, mask.f_max()?.f_double_value(&[])?);
        if !(low >= 0.0 && high <= 1.0) {
            return Err(Error::value(format!(
                "valid mask: expected bool, integers, or fractions of 0 to 1, got values from {low} to {high}"
            )));
        }
    }
    Ok(mask.shallow_clone())
}
