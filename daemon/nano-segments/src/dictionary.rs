//! The keys that sealed segments name, in the order in which they were first named.

use std::collections::HashMap;

use crate::runs::Key;

/// Keys with numbers 0, 1, …. Implementations decide where the keys are: a large dictionary need not be in memory.
pub trait Dictionary {
    /// Returns how many keys there are.
    fn len(&self) -> u64;

    /// Returns whether there is no key.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of each of these keys, which come in ascending order, or `None` for those it lacks.
    fn numbers(&self, keys: &[Key]) -> Vec<Option<u64>>;

    /// Returns the keys of these numbers, which come in ascending order and are below [`Self::len`].
    fn keys(&self, numbers: &[u64]) -> Vec<Key>;
}

/// A dictionary in memory.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    keys: Vec<Key>,
    numbers: HashMap<Key, u64>,
}

impl Keys {
    /// Adds the new keys of the next sealed segment. Keys that are there already keep their number.
    pub fn extend(&mut self, keys: &[Key]) {
        for &key in keys {
            let next = self.keys.len() as u64;
            if *self.numbers.entry(key).or_insert(next) == next {
                self.keys.push(key);
            }
        }
    }
}

impl Dictionary for Keys {
    fn len(&self) -> u64 {
        self.keys.len() as u64
    }

    fn numbers(&self, keys: &[Key]) -> Vec<Option<u64>> {
        keys.iter()
            .map(|key| self.numbers.get(key).copied())
            .collect()
    }

    fn keys(&self, numbers: &[u64]) -> Vec<Key> {
        numbers
            .iter()
            .map(|&number| self.keys[number as usize])
            .collect()
    }
}
