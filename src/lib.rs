//! PiPa on libtorch tensors. Where each concept lives:
//!
//! - `step`: one iteration: settings, draws, order of the terms, log; it sees networks through a trait
//! - `group`: the processes of a data-parallel training, through a trait too
//! - `loss`: `contrast/` (the one streaming contrast), pixel and patch contrast, cross entropy, feature distance, memory bank
//! - `anchors`, `patches`: which pixels are compared; geometry of overlapping crops
//! - `prototypes`: mean features of the classes, and what distances to them say about a pixel
//! - `pseudo_label`, `mix`, `augment`, `masking`, `teacher`: the target side of an iteration
//! - `host`: kernels on host memory, counting, label files, `loader/`
//! - `toy`: the embedded domain pair
//! - `transfer`: values of the host on their way to an accelerator
//! - `resize`: bilinear resizing, deterministic where asked for
//! - `surrogate`: hangs gradients computed by hand on the autograd graph
//! - `choice`, `rng`, `shape`, `error`: words that users choose by, random numbers, argument checks, the one error type
//! - `python`: the only place that uses pyo3

pub mod anchors;
pub mod augment;
pub mod choice;
pub mod error;
pub mod group;
pub mod host;
pub mod loss;
pub mod masking;
pub mod mix;
pub mod patches;
pub mod prototypes;
pub mod pseudo_label;
pub mod resize;
pub mod rng;
pub mod shape;
pub mod step;
pub mod surrogate;
pub mod teacher;
pub mod toy;
pub mod transfer;

#[cfg(feature = "python")]
mod python;

pub use error::{Error, Result};
