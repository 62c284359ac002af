//! Every random draw of the product comes from here; the state is four integers that are saved and restored.

use crate::error::{Error, Result};
use rand::{Rng as _, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Seeded, restorable generator (ChaCha8: the same stream on every machine).
#[derive(Clone, Debug, PartialEq)]
pub struct Rng {
    seed: u64,
    inner: ChaCha8Rng,
}

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self { seed, inner: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Independent generator for a part of the product, so that adding a draw in one part leaves the others alone.
    pub fn stream(seed: u64, stream: u64) -> Self {
        let mut inner = ChaCha8Rng::seed_from_u64(seed);
        inner.set_stream(stream);
        Self { seed, inner }
    }

    /// `[seed, stream, position low, position high]`: all that `restore` needs.
    pub fn state(&self) -> [u64; 4] {
        let position = self.inner.get_word_pos();
        [self.seed, self.inner.get_stream(), position as u64, (position >> 64) as u64]
    }

    pub fn restore(state: [u64; 4]) -> Self {
        let mut rng = Self::stream(state[0], state[1]);
        rng.inner.set_word_pos(u128::from(state[2]) | (u128::from(state[3]) << 64));
        rng
    }

    pub fn u64(&mut self) -> u64 {
        self.inner.next_u64()
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.inner.random::<f64>()
    }

    /// Integer in [0, n). `n` must be positive.
    pub fn below(&mut self, n: usize) -> Result<usize> {
        if n == 0 {
            return Err(Error::value("random draw: cannot choose from nothing"));
        }
        Ok(self.inner.random_range(0..n))
    }

    /// The first `k` entries of a random permutation of 0..n, in random order (partial Fisher-Yates).
    pub fn choose(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        let k = k.min(n);
        for i in 0..k {
            let j = self.inner.random_range(i..n);
            all.swap(i, j);
        }
        all.truncate(k);
        all
    }

    /// Normal with mean 0 and deviation 1 (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.inner.random::<f64>()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.inner.random::<f64>()).cos()
    }

    /// A float32 tensor of normal values. Tests draw from here: libtorch's generator is one for all threads, so what a
    /// test got from it would follow the tests beside it.
    #[cfg(test)]
    pub fn normals(&mut self, shape: &[i64]) -> tch::Tensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_: i64| self.normal() as f32).collect();
        tch::Tensor::from_slice(&values).reshape(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_state_continues_the_stream() {
        let mut rng = Rng::stream(7, 3);
        rng.choose(100, 10);
        let mut copy = Rng::restore(rng.state());
        let ours: Vec<u64> = (0..8).map(|_| rng.u64()).collect();
        let theirs: Vec<u64> = (0..8).map(|_| copy.u64()).collect();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn choose_gives_distinct_indices() {
        let mut chosen = Rng::new(1).choose(20, 12);
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 12);
        assert!(Rng::new(1).below(0).is_err());
    }
}
