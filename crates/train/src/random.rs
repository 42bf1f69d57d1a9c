//! Random numbers: our own, and torch's permutations.

/// SplitMix64 (Steele, Lea & Flood 2014) as a function of two keys and a counter.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(mix(mix(seed.wrapping_add(GOLDEN)) ^ stream))
    }

    /// A function of a seed and a name, so that neither order nor number of other names changes it.
    pub(crate) fn named(seed: u64, name: &str) -> Self {
        Self(name.bytes().fold(mix(seed), |state, byte| mix(state ^ u64::from(byte))))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// In [0, 1), with 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller 1958, doi 10.1214/aoms/1177706645).
    pub(crate) fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.uniform(), self.uniform());
        (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// Fisher-Yates. The bias of taking a remainder of 64 bits is below 2^-40 for any number of items.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = (self.next() % (last as u64 + 1)) as usize;
            items.swap(last, other);
        }
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Its output function (doi 10.1145/2660193.2660195).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const N: usize = 624;
const M: usize = 397;

/// MT19937 (Matsumoto & Nishimura 1998), the generator behind `torch.Generator` on the CPU.
#[derive(Clone, Debug)]
pub(crate) struct MersenneTwister {
    state: Vec<u32>,
    at: usize,
}

impl MersenneTwister {
    /// As `manual_seed`: of a longer seed the lower 32 bits count.
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = vec![seed as u32];
        for index in 1..N {
            let last = state[index - 1];
            state.push(1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(index as u32));
        }
        Self { state, at: N }
    }

    fn refill(&mut self) {
        for index in 0..N {
            let joined = (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % N] & 0x7fff_ffff);
            let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + M) % N] ^ (joined >> 1) ^ twist;
        }
        self.at = 0;
    }

    fn next(&mut self) -> u32 {
        if self.at == N {
            self.refill();
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `torch.randperm(items)` on the CPU (`randperm_cpu` in `TensorFactories.cpp`, for under 2^32 / 20 items).
    pub(crate) fn permutation(mut self, items: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..items).collect();
        for index in 0..items.saturating_sub(1) {
            let other = self.next() as usize % (items - index);
            order.swap(index, index + other);
        }
        order
    }
}
