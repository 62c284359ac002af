//! A hint to the processor about what is read soon.

/// Floats per cache line.
const LINE: usize = 16;

/// Starts to load `values[first..first + count]`, what there is of it, while the caller computes. Only a hint: does
/// nothing on processors other than x86-64.
#[inline(always)]
pub fn prefetch(values: &[f32], first: usize, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for i in (first..(first + count).min(values.len())).step_by(LINE) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: needs SSE, which every x86-64 processor has; the address lies within `values`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().add(i).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, first, count, LINE);
}
