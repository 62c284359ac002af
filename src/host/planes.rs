//! Maps [B,D,P] (P pixels) on the host in blocks of pixels. The channels of a block are copied side by side: where they come
//! from, planes often lie a power of two apart and would push each other out of the cache.

use super::pool;
use super::prefetch::prefetch;
use rayon::prelude::*;
use std::marker::PhantomData;

/// Pixels per block.
pub const LANES: usize = 64;
/// One channel of a block; what lies beyond the block's own pixels is 0.
pub type Row = [f32; LANES];
pub const ROW: Row = [0.0; LANES];

/// A run of at most `LANES` pixels of one image.
#[derive(Clone, Copy)]
pub struct Block {
    pub image: usize,
    pub first: usize,
    pub len: usize,
}

impl Block {
    /// The block's part of a map [B,P] of one value per pixel.
    pub fn of<'a, T>(&self, map: &'a [T], pixels: usize) -> &'a [T] {
        let start = self.image * pixels + self.first;
        &map[start..start + self.len]
    }

    /// Copies the block's part of `map` [B,D,P] to `rows` [D].
    pub fn gather(&self, map: &[f32], pixels: usize, rows: &mut [Row]) {
        let start = self.image * rows.len() * pixels + self.first;
        for (d, row) in rows.iter_mut().enumerate() {
            let plane = &map[start + d * pixels..start + d * pixels + self.len];
            prefetch(plane, 2 * LANES, LANES);
            row[..self.len].copy_from_slice(plane);
            row[self.len..].fill(0.0);
        }
    }
}

/// Runs `work` on all blocks in parallel, each task with scratch space of its own; results in the order of the blocks, so
/// that sums do not depend on the number of threads.
pub fn each_block<S, R: Send>(
    images: usize,
    pixels: usize,
    scratch: impl Fn() -> S + Send + Sync,
    work: impl Fn(&mut S, Block) -> R + Send + Sync,
) -> Vec<R> {
    let per_image = pixels.div_ceil(LANES);
    pool::run(|| {
        (0..images * per_image)
            .into_par_iter()
            .with_min_len(8)
            .map_init(scratch, |scratch, i| {
                let (image, first) = (i / per_image, i % per_image * LANES);
                work(scratch, Block { image, first, len: LANES.min(pixels - first) })
            })
            .collect()
    })
}

/// A map [B,D,P] that blocks are written to from several threads.
pub struct Target<'a> {
    start: *mut f32,
    channels: usize,
    pixels: usize,
    len: usize,
    _map: PhantomData<&'a mut [f32]>,
}
// SAFETY: see `write`.
unsafe impl Send for Target<'_> {}
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    pub fn new(map: &'a mut [f32], channels: usize, pixels: usize) -> Self {
        Self { start: map.as_mut_ptr(), channels, pixels, len: map.len(), _map: PhantomData }
    }

    /// Writes the block's part of one channel.
    ///
    /// # Safety
    /// No two threads may write the same block and channel at once. `each_block` gives every block to one task.
    pub unsafe fn write(&self, block: Block, channel: usize, row: &[f32]) {
        let start = (block.image * self.channels + channel) * self.pixels + block.first;
        assert!(channel < self.channels && block.first + block.len <= self.pixels && start + block.len <= self.len);
        // SAFETY: within the map by the check above; by the caller's promise nobody else touches this part.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), block.len) }.copy_from_slice(&row[..block.len]);
    }
}
