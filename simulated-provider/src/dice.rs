//! Numbers that look random and are a function of their seed alone.

use sha2::{Digest as _, Sha256};

/// A SHA-256 over length-prefixed parts, so that moving a byte from one part to the next gives
/// another digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

/// Builds a [`Digest`] part by part.
pub(crate) struct Digester(Sha256);

impl Digester {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Sha256::new_with_prefix(seed.to_le_bytes()))
    }

    pub(crate) fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl Digest {
    /// The first eight bytes as a number: the key under which a prompt's attempts are counted.
    pub(crate) fn short(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(first)
    }

    /// `count` hexadecimal digits (at most 64).
    pub(crate) fn hex(&self, count: usize) -> String {
        let mut text = hex::encode(self.0);
        text.truncate(count);
        text
    }

    /// A digest of this one and `salt`: one prompt needs several independent streams of numbers.
    pub(crate) fn with(&self, salt: &str, number: u64) -> Self {
        let mut digester = Digester::new(number);
        digester.part(&self.0).part(salt.as_bytes());
        digester.finish()
    }

    pub(crate) fn dice(&self) -> Dice {
        Dice(self.short())
    }
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..bound`; `bound` must not be 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // The modulo's bias is under one in 2^50 for the small bounds used here.
        (self.next_u64() % bound as u64) as usize
    }

    /// Standard normal (Box-Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}
