//! The losses. `contrast/` is the kernel that pixel and patch contrast share.

pub mod bank;
pub mod contrast;
pub mod distribution;
pub mod feature_distance;
pub mod patch;
pub mod patch_gated;
pub mod pixel;
pub mod pixel_official;
pub mod prototype_consistency;
pub mod segmentation;
pub mod symmetric;

#[cfg(test)]
mod tests;
