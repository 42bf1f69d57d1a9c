/// CPython's `random.Random`: the 32-bit Mersenne Twister of Matsumoto and Nishimura (1998), seeded and
/// drawn from the way `random.py` does it, because the order of its draws decides which worked examples
/// stand in a prompt.
#[derive(Clone, Debug)]
pub struct Random {
    state: Vec<u32>,
    /// Next word of `state` to hand out; `WORDS` when a new block is due.
    next: usize,
}

const WORDS: usize = 624;
const SHIFT: usize = 397;

impl Random {
    /// `random.Random(seed)` for a non-negative integer.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let low = seed as u32;
        let high = (seed >> 32) as u32;
        let key = if high == 0 { vec![low] } else { vec![low, high] };
        Self { state: init_by_array(&key), next: WORDS }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == WORDS {
            self.refill();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn refill(&mut self) {
        for i in 0..WORDS {
            let word = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % WORDS] & 0x7fff_ffff);
            let odd = if word & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % WORDS] ^ (word >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// `getrandbits(bits)` for 1 to 32 bits.
    pub fn bits(&mut self, bits: u32) -> u32 {
        self.next_u32() >> (32 - bits.clamp(1, 32))
    }

    /// `_randbelow(n)` for `n >= 1`: redraws while the bits are too large.
    pub fn below(&mut self, n: u32) -> u32 {
        let bits = u32::BITS - n.leading_zeros();
        loop {
            let drawn = self.bits(bits);
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `sample(range(population), k)`: `k` different indices in draw order, or `None` where `k` is
    /// larger than the population.
    pub fn sample(&mut self, population: u32, k: u32) -> Option<Vec<u32>> {
        if k > population {
            return None;
        }
        let mut drawn = Vec::with_capacity(k as usize);
        if population <= set_size(k) {
            let mut pool: Vec<u32> = (0..population).collect();
            for i in 0..k {
                let j = self.below(population - i) as usize;
                drawn.push(pool[j]);
                pool[j] = pool[(population - i - 1) as usize];
            }
        } else {
            let mut seen = std::collections::HashSet::with_capacity(k as usize);
            for _ in 0..k {
                let mut j = self.below(population);
                while !seen.insert(j) {
                    j = self.below(population);
                }
                drawn.push(j);
            }
        }
        Some(drawn)
    }
}

/// Populations up to this size are sampled from a shuffled pool, larger ones by rejection.
/// `random.py`: `setsize = 21; if k > 5: setsize += 4 ** ceil(log(k * 3, 4))`. `3k` is never a power of
/// four, so the integer form has no rounding case.
fn set_size(k: u32) -> u32 {
    if k <= 5 {
        return 21;
    }
    let mut power: u32 = 4;
    while power < k.saturating_mul(3) && power < 1 << 28 {
        power *= 4;
    }
    21 + power
}

fn init_genrand(seed: u32) -> Vec<u32> {
    let mut state = Vec::with_capacity(WORDS);
    let mut word = seed;
    state.push(word);
    for i in 1..WORDS as u32 {
        word = 1_812_433_253_u32.wrapping_mul(word ^ (word >> 30)).wrapping_add(i);
        state.push(word);
    }
    state
}

fn init_by_array(key: &[u32]) -> Vec<u32> {
    let mut state = init_genrand(19_650_218);
    let (mut i, mut j) = (1, 0);
    for _ in 0..WORDS.max(key.len()) {
        let previous = state[i - 1];
        state[i] = (state[i] ^ (previous ^ (previous >> 30)).wrapping_mul(1_664_525))
            .wrapping_add(key[j])
            .wrapping_add(j as u32);
        (i, j) = (i + 1, (j + 1) % key.len());
        if i == WORDS {
            state[0] = state[WORDS - 1];
            i = 1;
        }
    }
    for _ in 1..WORDS {
        let previous = state[i - 1];
        state[i] =
            (state[i] ^ (previous ^ (previous >> 30)).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
        i += 1;
        if i == WORDS {
            state[0] = state[WORDS - 1];
            i = 1;
        }
    }
    state[0] = 0x8000_0000;
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_bits_of_seed_1234() {
        let mut random = Random::new(1234);
        let words: Vec<u32> = (0..6).map(|_| random.next_u32()).collect();
        assert_eq!(words, [4150886329, 3342196574, 1892932127, 501869158, 32175636, 389311301]);
        let mut random = Random::new(1234);
        let bits: Vec<u32> = (0..6).map(|_| random.bits(13)).collect();
        assert_eq!(bits, [7917, 6374, 3610, 957, 61, 742]);
    }

    #[test]
    fn gsm8k_five_shot_draws() {
        let mut random = Random::new(1234);
        for expected in [
            [6374, 3610, 957, 61, 742],
            [7462, 6610, 4769, 286, 5501],
            [5677, 687, 806, 6279, 2905],
            [1939, 142, 252, 6461, 129],
        ] {
            assert_eq!(random.sample(7473, 5).unwrap(), expected);
        }
    }

    #[test]
    fn hellaswag_ten_shot_draws() {
        let mut random = Random::new(1234);
        for expected in [
            [28883, 7657, 490, 5940, 38156, 2288, 5500, 6450, 23241, 15519, 1142],
            [2019, 1038, 22681, 31735, 30379, 9735, 5982, 11999, 7498, 958, 32970],
        ] {
            assert_eq!(random.sample(39_905, 11).unwrap(), expected);
        }
    }

    /// `r = random.Random(S); print(r.sample(range(N), K))`, CPython 3.11.
    #[test]
    fn small_populations_use_the_pool() {
        let mut random = Random::new(7);
        assert_eq!(random.sample(10, 4).unwrap(), PYTHON_POOL_10_4);
        assert_eq!(random.sample(80, 20).unwrap(), PYTHON_POOL_80_20);
        assert_eq!(Random::new(1 << 40).sample(1000, 3).unwrap(), PYTHON_BIG_SEED);
        assert!(random.sample(3, 4).is_none());
        assert_eq!(random.sample(3, 0).unwrap(), Vec::<u32>::new());
    }

    const PYTHON_POOL_10_4: [u32; 4] = [5, 2, 6, 9];
    const PYTHON_POOL_80_20: [u32; 20] =
        [6, 9, 68, 12, 46, 74, 7, 64, 27, 4, 11, 55, 53, 8, 30, 69, 54, 3, 52, 36];
    const PYTHON_BIG_SEED: [u32; 3] = [106, 361, 686];
}
