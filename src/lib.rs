//! PiPa on libtorch tensors. See the module list below for where each concept lives.
pub mod anchors;
pub mod augment;
pub mod error;
pub mod host;
pub mod loss;
pub mod masking;
pub mod mix;
pub mod patches;
pub mod pseudo_label;
pub mod rng;
pub mod shape;
pub mod step;
pub mod teacher;

#[cfg(feature = "python")]
mod python;

pub use error::{Error, Result};
