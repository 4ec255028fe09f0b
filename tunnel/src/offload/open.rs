//! The merge's table of flows: which entry of this batch may still be extended, by flow hash.
//!
//! Set-associative, like a processor's cache: a hash picks a group, and a group has [`WAYS`] places in one cache
//! line. So a look costs one line however many flows a batch holds, and a table for a thousand flows costs a batch
//! of one flow nothing. A new batch begins by counting a round up; places of earlier rounds are empty.
//!
//! Limits: [`MAX_OPEN`] flows. A flow that finds its group full takes the place of another there, which only merges
//! less.

/// Flows that can be merged at the same time; more than a batch holds frames would be of no use.
pub const MAX_OPEN: usize = GROUPS * WAYS;

const GROUPS: usize = 256;
/// Places of a group.
const WAYS: usize = 4;

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Group {
    /// The round in which the place was filled; 0: never, or emptied since.
    round: [u32; WAYS],
    hash: [u32; WAYS],
    entry: [u32; WAYS],
}

/// Where an open entry stands in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    group: usize,
    way: usize,
}

/// Entries that may be extended.
#[derive(Debug)]
pub(super) struct Open {
    groups: Box<[Group]>,
    round: u32,
    /// Next to lose its place in a full group.
    victim: usize,
}

impl Default for Open {
    fn default() -> Self {
        let empty = Group { round: [0; WAYS], hash: [0; WAYS], entry: [0; WAYS] };
        Self { groups: vec![empty; GROUPS].into_boxed_slice(), round: 0, victim: 0 }
    }
}

/// The group of a hash. The low bits: the high ones choose the lane and thereby what arrives together.
#[inline]
fn group(hash: u32) -> usize {
    hash as usize % GROUPS
}

impl Open {
    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            for group in &mut self.groups {
                group.round = [0; WAYS];
            }
            self.round = 1;
        }
    }

    /// The open entry with this hash of which the claim holds, and its place.
    #[inline]
    pub fn find(&self, hash: u32, is: impl Fn(u32) -> bool) -> Option<(Place, u32)> {
        let group = group(hash);
        let g = self.groups.get(group)?;
        (0..WAYS)
            .find(|&way| g.round[way] == self.round && g.hash[way] == hash && is(g.entry[way]))
            .map(|way| (Place { group, way }, g.entry[way]))
    }

    /// Is this entry still open, and there?
    #[inline]
    pub fn holds(&self, place: Place, entry: u32) -> bool {
        let group = self.groups.get(place.group);
        group.is_some_and(|g| g.round[place.way] == self.round && g.entry[place.way] == entry)
    }

    /// Opens an entry.
    #[inline]
    pub fn add(&mut self, hash: u32, entry: u32) -> Place {
        let group = group(hash);
        let g = &mut self.groups[group];
        let free = (0..WAYS).find(|&way| g.round[way] != self.round);
        let way = free.unwrap_or_else(|| {
            self.victim = (self.victim + 1) % WAYS;
            self.victim
        });
        (g.round[way], g.hash[way], g.entry[way]) = (self.round, hash, entry);
        Place { group, way }
    }

    /// Closes an entry.
    #[inline]
    pub fn remove(&mut self, place: Place) {
        if let Some(g) = self.groups.get_mut(place.group) {
            g.round[place.way] = 0;
        }
    }

    /// Closes all entries of which the claim holds.
    #[cold]
    pub fn remove_where(&mut self, is: impl Fn(u32) -> bool) {
        for g in &mut self.groups {
            for way in 0..WAYS {
                if g.round[way] == self.round && is(g.entry[way]) {
                    g.round[way] = 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_until_they_are_given_up() {
        let mut open = Open::default();
        open.clear();
        assert_eq!(open.find(5, |_| true), None);
        // All in one group.
        let hash = |n: u32| 7 + n * GROUPS as u32;
        for n in 0..WAYS as u32 {
            assert!(open.add(hash(n), 100 + n) == open.find(hash(n), |_| true).unwrap().0);
        }
        for n in 0..WAYS as u32 {
            let (place, entry) = open.find(hash(n), |_| true).unwrap();
            assert_eq!(entry, 100 + n);
            assert!(open.holds(place, entry) && !open.holds(place, entry + 1));
            assert_eq!(open.find(hash(n), |e| e != entry), None);
            if n == 2 {
                open.remove(place);
                assert_eq!(open.find(hash(n), |_| true), None);
                assert!(!open.holds(place, entry));
            }
        }
        // The free place first, then somebody else's, and always one of the group.
        open.add(hash(9), 9);
        assert_eq!((0..WAYS as u32).filter(|&n| open.find(hash(n), |_| true).is_some()).count(), WAYS - 1);
        open.add(hash(10), 10);
        assert_eq!(open.find(hash(10), |_| true).unwrap().1, 10);
        let left = (0..11).filter(|&n| open.find(hash(n), |_| true).is_some()).count();
        assert_eq!(left, WAYS);
        open.remove_where(|entry| entry == 10);
        assert_eq!(open.find(hash(10), |_| true), None);
        open.clear();
        assert!((0..11).all(|n| open.find(hash(n), |_| true).is_none()));
    }

    #[test]
    fn old_rounds_never_come_back() {
        let mut open = Open { round: u32::MAX - 1, ..Open::default() };
        open.clear();
        open.add(1, 1);
        open.clear();
        assert_eq!((open.round, open.find(1, |_| true)), (1, None));
        open.clear();
        assert_eq!(open.find(1, |_| true), None);
    }

    #[test]
    fn two_flows_of_one_hash_both_have_a_place() {
        let mut open = Open::default();
        open.clear();
        open.add(3, 1);
        open.add(3, 2);
        assert_eq!(open.find(3, |e| e == 1).unwrap().1, 1);
        assert_eq!(open.find(3, |e| e == 2).unwrap().1, 2);
    }
}
