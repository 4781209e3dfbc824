//! Outside bytes for property tests: any bytes at all, and sound ones with a few places changed, cut out
//! or doubled.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Ways in which bytes are often wrong.
const PIECES: [&[u8]; 14] =
    [b"{", b"}", b"[", b"\"", b",", b":", b"null", b"-1", b"1e999", b"\\ud800", b"\\", b"\0", b"\xff", "é".as_bytes()];

/// Any bytes, and mutated `seeds`.
pub fn bytes(seeds: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let seed = select(seeds).prop_flat_map(|seed| mutated(seed.as_bytes().to_vec()));
    prop_oneof![6 => seed, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

/// The same where only text can come.
pub fn text(seeds: &'static [&'static str]) -> impl Strategy<Value = String> {
    bytes(seeds).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// These bytes with up to four changes; sometimes as they are.
pub fn mutated(sound: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (0..4u8, any::<Index>(), any::<Index>(), select(PIECES.as_slice()), any::<u8>());
    prop::collection::vec(edit, 0..4).prop_map(move |edits| {
        let mut bytes = sound.clone();
        for (what, from, to, piece, byte) in edits {
            let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
            match what {
                0 => drop(bytes.splice(from..from, piece.iter().copied())),
                1 => drop(bytes.drain(from.min(to)..from.max(to))),
                2 => {
                    let copy = bytes[from.min(to)..from.max(to)].to_vec();
                    drop(bytes.splice(from..from, copy));
                }
                _ => bytes.iter_mut().skip(from).take(1).for_each(|place| *place = byte),
            }
        }
        bytes
    })
}

/// So many cases; what fails is shrunk and shown, and nothing is written.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
