//! The losses. `contrast.rs` is the kernel that pixel and patch contrast share; `surrogate.rs` hangs hand-made gradients
//! on the autograd graph.

pub mod bank;
mod class_table;
pub mod contrast;
pub mod feature_distance;
mod pairs;
pub mod patch;
pub mod patch_gated;
pub mod pixel;
pub mod pixel_official;
mod scores;
pub mod segmentation;
pub(crate) mod surrogate;

#[cfg(test)]
mod tests;
