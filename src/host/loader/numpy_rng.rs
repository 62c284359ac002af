//! The draws of NumPy's legacy generator (MT19937, `np.random.seed` / `RandomState`), which mmcv's transforms use: the
//! loader decides as they do, without the global generator.

const N: usize = 624;

/// As `np.random.RandomState(np.array(seed, dtype=uint32))`.
pub struct NumpyRng {
    state: Box<[u32; N]>,
    place: usize,
    used: u64,
}

impl NumpyRng {
    /// Seeds with an array of words (`init_by_array`). An empty seed counts as one zero.
    pub fn new(seed: &[u32]) -> Self {
        let seed = if seed.is_empty() { &[0] } else { seed };
        let mut s = Box::new([0u32; N]);
        s[0] = 19_650_218;
        for i in 1..N {
            s[i] = 1_812_433_253u32.wrapping_mul(s[i - 1] ^ (s[i - 1] >> 30)).wrapping_add(i as u32);
        }
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(seed.len()) {
            let mixed = (s[i - 1] ^ (s[i - 1] >> 30)).wrapping_mul(1_664_525);
            s[i] = (s[i] ^ mixed).wrapping_add(seed[j]).wrapping_add(j as u32);
            i += 1;
            if i == N {
                s[0] = s[N - 1];
                i = 1;
            }
            j = (j + 1) % seed.len();
        }
        for _ in 1..N {
            let mixed = (s[i - 1] ^ (s[i - 1] >> 30)).wrapping_mul(1_566_083_941);
            s[i] = (s[i] ^ mixed).wrapping_sub(i as u32);
            i += 1;
            if i == N {
                s[0] = s[N - 1];
                i = 1;
            }
        }
        s[0] = 0x8000_0000;
        Self { state: s, place: N, used: 0 }
    }

    /// 32-bit words drawn so far.
    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn word(&mut self) -> u32 {
        if self.place == N {
            let s = &mut self.state;
            for i in 0..N {
                let y = (s[i] & 0x8000_0000) | (s[(i + 1) % N] & 0x7fff_ffff);
                s[i] = s[(i + 397) % N] ^ (y >> 1) ^ (if y & 1 == 1 { 0x9908_b0df } else { 0 });
            }
            self.place = 0;
        }
        let mut y = self.state[self.place];
        self.place += 1;
        self.used += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
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
