//! Small stable numbers for names.
//!
//! The data path indexes arrays with the numbers of ports, peers and networks, so they are kept small: the
//! lowest free one is taken. A number is released only after the worker was told to forget what it learned
//! under it, because the command channel keeps the order.

use std::collections::{BTreeSet, HashMap};

/// Numbers of one kind of object.
#[derive(Debug, Default)]
pub struct Ids {
    of: HashMap<String, u32>,
    names: Vec<Option<String>>,
    free: BTreeSet<u32>,
}

impl Ids {
    /// The number of a name, if it has one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u32> {
        self.of.get(name).copied()
    }

    /// The name behind a number.
    #[must_use]
    pub fn name(&self, id: u32) -> Option<&str> {
        self.names.get(id as usize)?.as_deref()
    }

    /// The number of a name, which gets one if it has none.
    pub fn take(&mut self, name: &str) -> u32 {
        if let Some(id) = self.get(name) {
            return id;
        }
        let id = self.free.pop_first().unwrap_or(self.names.len() as u32);
        if id as usize == self.names.len() {
            self.names.push(None);
        }
        self.names[id as usize] = Some(name.to_owned());
        self.of.insert(name.to_owned(), id);
        id
    }

    /// Makes the number of a name free.
    pub fn release(&mut self, name: &str) -> Option<u32> {
        let id = self.of.remove(name)?;
        self.names[id as usize] = None;
        self.free.insert(id);
        Some(id)
    }

    /// Gives a name back the number it had, if that is free.
    pub fn take_exactly(&mut self, name: &str, id: u32) -> bool {
        if !self.free.remove(&id) {
            return false;
        }
        self.names[id as usize] = Some(name.to_owned());
        self.of.insert(name.to_owned(), id);
        true
    }

    /// One more than the largest number in use.
    #[must_use]
    pub fn span(&self) -> usize {
        self.names.iter().rposition(Option::is_some).map_or(0, |at| at + 1)
    }

    /// All names with their numbers, in the order of numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> + '_ {
        self.names.iter().enumerate().filter_map(|(id, name)| Some((id as u32, name.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_free_number_first() {
        let mut ids = Ids::default();
        assert_eq!(["a", "b", "c", "b"].map(|n| ids.take(n)), [0, 1, 2, 1]);
        assert_eq!((ids.release("a"), ids.release("a"), ids.release("b")), (Some(0), None, Some(1)));
        assert_eq!((ids.span(), ids.name(0), ids.name(2), ids.name(9)), (3, None, Some("c"), None));
        assert_eq!(["d", "e", "f"].map(|n| ids.take(n)), [0, 1, 3]);
        assert_eq!(ids.iter().collect::<Vec<_>>(), [(0, "d"), (1, "e"), (2, "c"), (3, "f")]);
        ids.release("f");
        assert_eq!(ids.span(), 3);
    }
}
