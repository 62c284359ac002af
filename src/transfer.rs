//! Values of the host on their way to an accelerator.

use crate::error::Result;
use tch::{Device, Kind, Tensor};

/// Bytes that the driver takes along with the command itself, from whatever memory they lie in.
const SMALL: usize = 1 << 16;

/// `values` in host memory as `kind` on `device`; the host goes on at once.
///
/// A larger copy out of pageable memory may wait for all that is queued before it, although it was asked not to block:
/// CUDA gets it from pinned memory, which torch keeps and reuses.
pub fn to_device(values: &Tensor, device: Device, kind: Kind) -> Result<Tensor> {
    let values = values.f_to_kind(kind)?;
    let large = values.numel() * kind.elt_size_in_bytes() > SMALL;
    let values = match device {
        Device::Cuda(_) if large && tch::Cuda::is_available() => values.f_internal_pin_memory(device)?,
        _ => values,
    };
    Ok(values.f_to_device_(device, kind, true, false)?)
}
