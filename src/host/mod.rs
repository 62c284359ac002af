//! Work on host arrays: no tensors, rayon for the parallel parts.

pub mod toy;
