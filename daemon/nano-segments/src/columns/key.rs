//! Keys as the columns of destinations and references write them.

use crate::coder::{Below, CoderError, Decoder, Encoder, Flag};
use crate::runs::Number;

/// A key: whether it is new, and its number among the new or the old ones.
pub(crate) struct KeyModel {
    known: u64,
    is_new: Flag,
    new: Below,
    old: Below,
    total: u64,
}

impl KeyModel {
    pub(crate) fn new(known: u64, keys: usize) -> Self {
        Self {
            known,
            is_new: Flag::default(),
            new: Below::new(keys as u64),
            old: Below::new(known),
            total: known + keys as u64,
        }
    }

    pub(crate) fn put(&mut self, to: &mut Encoder, number: Number) {
        self.is_new.put(to, number >= self.known);
        match number.checked_sub(self.known) {
            Some(new) => self.new.put(to, new),
            None => self.old.put(to, number),
        }
    }

    pub(crate) fn get(&mut self, from: &mut Decoder<'_>) -> Result<Number, CoderError> {
        let (new, number) = if self.is_new.get(from)? {
            (true, self.known + self.new.get(from)?)
        } else {
            (false, self.old.get(from)?)
        };
        // Without old or new keys the bound is that of one.
        let within = if new {
            number < self.total
        } else {
            number < self.known
        };
        if within {
            Ok(number)
        } else {
            Err(CoderError::Range)
        }
    }
}
