//! Keys whose bytes sort by their parts, one after the other: texts with their length in front
//! (so that no text runs into the next part), integers big-endian with the sign bit flipped.

use crate::port::StorageError;

/// What fjall takes.
const LONGEST: usize = u16::MAX as usize;

/// A key, or the beginning of one, as it is put together.
#[derive(Clone)]
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(super) fn of(text: &str) -> Self {
        Self(Vec::with_capacity(64)).text(text)
    }

    pub(super) fn text(mut self, text: &str) -> Self {
        // A longer text saturates the length, and `finish` refuses it.
        self.0.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    pub(super) fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn i32(mut self, number: i32) -> Self {
        self.0.extend((number ^ i32::MIN).to_be_bytes());
        self
    }

    pub(super) fn i64(mut self, number: i64) -> Self {
        self.0.extend((number ^ i64::MIN).to_be_bytes());
        self
    }

    /// The last part, without its length: it sorts as the text does.
    pub(super) fn last(mut self, text: &str) -> Self {
        self.0.extend(text.as_bytes());
        self
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, StorageError> {
        if self.0.len() > LONGEST {
            return Err(StorageError::Refused(format!(
                "a key of {} bytes is too long: tenant, user, request id and key together may have {LONGEST} bytes",
                self.0.len()
            )));
        }
        Ok(self.0)
    }
}

/// Key of a partition of the log.
pub(super) fn log(generation: u32, partition: i32) -> Vec<u8> {
    Key(Vec::with_capacity(8)).u32(generation).i32(partition).0
}

/// A key, taken apart again from its beginning.
pub(super) struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    pub(super) fn of(key: &'a [u8]) -> Self {
        Self(key)
    }

    pub(super) fn text(&mut self) -> Result<String, StorageError> {
        let length = usize::try_from(self.u32()?).map_err(|_| corrupt())?;
        let (text, rest) = self.0.split_at_checked(length).ok_or_else(corrupt)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| corrupt())
    }

    /// What [`Key::last`] put there.
    pub(super) fn last(self) -> Result<String, StorageError> {
        String::from_utf8(self.0.to_vec()).map_err(|_| corrupt())
    }

    pub(super) fn u32(&mut self) -> Result<u32, StorageError> {
        let (number, rest) = self.0.split_first_chunk::<4>().ok_or_else(corrupt)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    pub(super) fn i32(&mut self) -> Result<i32, StorageError> {
        self.u32().map(|number| number.cast_signed() ^ i32::MIN)
    }
}

fn corrupt() -> StorageError {
    StorageError::Refused("a stored key is corrupt: restore the store from a backup or replay the log".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_sort_as_numbers() {
        let numbers = [i64::MIN, -25, -1, 0, 1, 255, 256, i64::MAX];
        let keys: Vec<_> = numbers.iter().map(|n| Key::of("t").i64(*n).finish().unwrap()).collect();
        assert!(keys.is_sorted());
        let runs = [i32::MIN, -1, 0, 1, 300];
        assert!(runs.iter().map(|n| Key::of("t").i32(*n).finish().unwrap()).is_sorted());
    }

    #[test]
    fn texts_do_not_run_into_each_other() {
        assert_ne!(Key::of("ab").text("c").finish().unwrap(), Key::of("a").text("bc").finish().unwrap());
    }

    #[test]
    fn a_key_is_taken_apart_as_it_was_put_together() {
        let key = Key::of("é").text("").u32(7).i32(-3).finish().unwrap();
        let mut parts = Parts::of(&key);
        assert_eq!((parts.text().unwrap().as_str(), parts.text().unwrap().as_str()), ("é", ""));
        assert_eq!((parts.u32().unwrap(), parts.i32().unwrap()), (7, -3));
        assert!(parts.u32().is_err());
        assert!(Parts::of(&[0, 0, 0, 9, b'x']).text().is_err());
    }

    #[test]
    fn a_key_that_the_store_would_panic_on_is_refused() {
        assert!(Key::of(&"x".repeat(LONGEST)).finish().is_err());
        assert!(Key::of(&"x".repeat(LONGEST - 4)).finish().is_ok());
    }
}
