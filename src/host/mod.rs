//! Work on host memory: slices of CPU tensors, the thread pool, and kernels on label maps and images.
//!
//! CPU tensors take fused kernels built on this module; everything else takes libtorch operations. `set_fused(false)`
//! sends CPU tensors the libtorch way too, so that tests can compare both.

pub mod confusion;
pub mod convert;
pub mod depthwise;
pub mod labels;
pub mod loader;
pub mod math;
pub mod planes;
pub mod png;
pub mod pool;
pub mod prefetch;
pub mod slice;

use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Tensor};

static FUSED: AtomicBool = AtomicBool::new(true);

/// Switches the fused host kernels on or off for the whole process; returns the previous setting. For tests.
pub fn set_fused(on: bool) -> bool {
    FUSED.swap(on, Ordering::SeqCst)
}

/// Whether operations record a graph on this thread.
pub fn grad_enabled() -> bool {
    // SAFETY: reads and restores a thread-local flag of libtorch; there is no getter in its C interface.
    unsafe {
        let enabled = torch_sys::at_grad_set_enabled(1);
        torch_sys::at_grad_set_enabled(enabled);
        enabled != 0
    }
}

/// `tensor` takes part in the graph that is being recorded.
pub fn needs_grad(tensor: &Tensor) -> bool {
    tensor.requires_grad() && grad_enabled()
}

/// All tensors lie in host memory and the fused kernels are on.
pub fn fused(tensors: &[&Tensor]) -> bool {
    FUSED.load(Ordering::Relaxed) && tensors.iter().all(|t| t.device() == Device::Cpu)
}

/// As `fused`, for kernels without a gradient: none of the tensors may need one.
pub fn fused_without_grad(tensors: &[&Tensor]) -> bool {
    fused(tensors) && !tensors.iter().any(|t| needs_grad(t))
}
