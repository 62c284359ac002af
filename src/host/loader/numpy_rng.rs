//! The draws of NumPy's legacy generator (MT19937, `np.random.seed` / `RandomState`), which mmcv's transforms use: the
//! loader decides as they do, without the global generator.

use rand_mt::Mt;

/// As `np.random.RandomState(np.array(seed, dtype=uint32))`.
pub struct NumpyRng {
    generator: Mt,
    used: u64,
}

impl NumpyRng {
    /// Seeds with an array of words (`init_by_array`). An empty seed counts as one zero.
    pub fn new(seed: &[u32]) -> Self {
        let seed = if seed.is_empty() { &[0] } else { seed };
        Self { generator: Mt::new_with_key(seed.iter().copied()), used: 0 }
    }

    /// 32-bit words drawn so far.
    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn word(&mut self) -> u32 {
        self.used += 1;
        self.generator.next_u32()
    }

    /// `randint(0, n)`: the smallest mask that covers n - 1, drawn again while the value is too large.
    pub fn below(&mut self, n: usize) -> usize {
        let largest = n.saturating_sub(1).min(u32::MAX as usize - 1) as u32;
        if largest == 0 {
            return 0;
        }
        let mask = u32::MAX >> largest.leading_zeros();
        loop {
            let value = self.word() & mask;
            if value <= largest {
                return value as usize;
            }
        }
    }

    /// `random_sample()`: 53 bits in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `choice([True, False], p=[p, 1 - p])`.
    pub fn happens(&mut self, p: f64) -> bool {
        let total = p + (1.0 - p);
        self.uniform() < p / total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_numpy() {
        // r = np.random.RandomState(np.array([1, 2, 3, 4], np.uint32))
        let mut rng = NumpyRng::new(&[1, 2, 3, 4]);
        let words: Vec<u32> = (0..3).map(|_| rng.word()).collect();
        assert_eq!(words, [2915706234, 1022996879, 334638762]);
        let values: Vec<usize> = (0..6).map(|_| rng.below(641)).collect();
        assert_eq!(values, [500, 386, 265, 581, 494, 300]);
        assert_eq!(rng.uniform(), 0.5416413256047499);
        assert_eq!(rng.below(1), 0);
        assert_eq!(rng.used(), 19);
    }
}
