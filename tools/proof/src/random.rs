//! Random numbers from a seed: the same seed gives the same cases on every machine.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Values at which instructions tend to go wrong.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    7,
    8,
    0x0f,
    0x10,
    0x1f,
    0x20,
    0x3f,
    0x40,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0x7fff_ffff,
    0x8000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
];

impl Random {
    /// A generator that starts from `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed ^ 0x6a09_e667_f3bc_c908)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit` (which is not 0).
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }

    /// True in `percent` of 100 calls.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `items` (which is not empty).
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// An integer, often one at which instructions go wrong.
    pub fn integer(&mut self) -> u64 {
        let edge = *self.pick(&EDGES);
        match self.below(8) {
            0 => edge,
            1 => edge.wrapping_neg(),
            2 => edge.wrapping_sub(1),
            3 => self.bits() >> self.below(64),
            4 => ((self.bits() as i64) >> self.below(64)) as u64,
            _ => self.bits(),
        }
    }

    /// The bits of a double, often one at which arithmetic goes wrong.
    pub fn double(&mut self) -> u64 {
        let sign = self.bits() & 1 << 63;
        let fraction = if self.percent(40) {
            0
        } else {
            self.bits() >> 12
        };
        let exponent = match self.below(10) {
            0 => 0,
            1 => 0x7ff,
            2 => 1,
            3 => 0x7fe,
            4 => self.below(0x800),
            _ => 0x3ff - 40 + self.below(80),
        };
        sign | exponent << 52 | fraction
    }

    /// The bits of a single, likewise.
    pub fn single(&mut self) -> u32 {
        let sign = self.bits() as u32 & 1 << 31;
        let fraction = if self.percent(40) {
            0
        } else {
            self.bits() as u32 >> 9
        };
        let exponent = match self.below(10) {
            0 => 0,
            1 => 0xff,
            2 => 1,
            3 => 0xfe,
            4 => self.below(0x100) as u32,
            _ => 0x7f - 20 + self.below(40) as u32,
        };
        sign | exponent << 23 | fraction
    }

    /// 16 bytes of what SSE instructions work on.
    pub fn vector(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let kind = self.below(5);
        for half in bytes.chunks_exact_mut(8) {
            let value = match kind {
                0 => self.double(),
                1 => u64::from(self.single()) | u64::from(self.single()) << 32,
                2 => self.integer(),
                3 => self.below(256) | self.below(64) << 32,
                _ => self.bits(),
            };
            half.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// The 10 bytes of an x87 register, unnormal and pseudo values among them.
    pub fn extended(&mut self) -> [u8; 10] {
        let sign = (self.bits() as u16) << 15;
        let mut mantissa = if self.percent(30) { 0 } else { self.bits() };
        if !self.percent(6) {
            mantissa |= 1 << 63;
        }
        let exponent = match self.below(12) {
            0 => 0,
            1 => 0x7fff,
            2 => 1,
            3 => 0x7ffe,
            4 => self.below(0x8000) as u16,
            _ => 0x3fff - 64 + self.below(128) as u16,
        };
        if self.percent(5) {
            mantissa = 0;
        }
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
        bytes[8..].copy_from_slice(&(sign | exponent).to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        let mut one = Random::new(7);
        let mut two = Random::new(7);
        assert!((0..100).all(|_| one.bits() == two.bits()));
        assert_ne!(Random::new(8).bits(), Random::new(7).bits());
    }
}
