//! PiPa on libtorch tensors. See the module list below for where each concept lives.
pub mod anchors;
pub mod error;
pub mod host;
pub mod loss;
pub mod patches;
pub mod rng;
pub mod shape;

#[cfg(feature = "python")]
mod python;

pub use error::{Error, Result};
