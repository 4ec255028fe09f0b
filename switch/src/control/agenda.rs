//! What is to be looked at, and when.
//!
//! Events only say where to look. Something that changes all the time is looked at once per [`PAUSE`], however many
//! events there are, and once more after the last of them: what it is like in the end is always seen.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Between two looks at one thing. A look takes about 0.1 ms of the control thread.
pub const PAUSE: Duration = Duration::from_millis(100);

/// Something that can be looked at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Item {
    /// The interface with the underlay address.
    Underlay,
    /// A port, by its name.
    Port(String),
}

/// Looks to take.
#[derive(Debug, Default)]
pub struct Agenda {
    due: BTreeMap<Item, Instant>,
    /// Looks taken less than a pause ago.
    taken: HashMap<Item, Instant>,
}

impl Agenda {
    /// Something happened to `item`.
    pub fn want(&mut self, item: Item, now: Instant) {
        let at = self.taken.get(&item).map_or(now, |taken| now.max(*taken + PAUSE));
        self.due.entry(item).or_insert(at);
    }

    /// When the next look is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// At most so many of those that are due, to be looked at now.
    pub fn take(&mut self, now: Instant, most: usize) -> Vec<Item> {
        self.taken.retain(|_, taken| *taken + PAUSE > now);
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        let items: Vec<Item> = due.map(|(item, _)| item.clone()).take(most).collect();
        for item in &items {
            self.due.remove(item);
            self.taken.insert(item.clone(), now);
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn port(n: u64) -> Item {
        Item::Port(format!("p{n}"))
    }

    #[test]
    fn the_first_event_is_followed_at_once() {
        let (mut agenda, start) = (Agenda::default(), Instant::now());
        assert_eq!(agenda.next(), None);
        agenda.want(port(1), start);
        agenda.want(Item::Underlay, start);
        assert_eq!(agenda.next(), Some(start));
        assert_eq!(agenda.take(start, 9), [Item::Underlay, port(1)]);
        assert_eq!((agenda.next(), agenda.take(start, 9).len()), (None, 0));
    }

    #[test]
    fn many_are_taken_in_parts() {
        let (mut agenda, start) = (Agenda::default(), Instant::now());
        (0..10).for_each(|n| agenda.want(port(n), start));
        let parts: Vec<usize> = (0..4).map(|_| agenda.take(start, 4).len()).collect();
        assert_eq!(parts, [4, 4, 2, 0]);
    }

    proptest! {
        /// However events come: no two looks within a pause, and one after the last event, at most a pause later.
        #[test]
        fn looks_are_spread_and_the_last_event_is_seen(gaps in proptest::collection::vec(0_u64..150, 1..60)) {
            let (mut agenda, start) = (Agenda::default(), Instant::now());
            let (mut events, mut at) = (Vec::new(), 0);
            for gap in gaps {
                at += gap;
                events.push(at);
            }
            let (mut looks, mut coming) = (Vec::new(), events.clone().into_iter().peekable());
            for ms in 0..at + 200 {
                let now = start + Duration::from_millis(ms);
                while coming.next_if_eq(&ms).is_some() {
                    agenda.want(port(1), now);
                }
                looks.extend(agenda.take(now, 9).iter().map(|_| ms));
            }
            prop_assert!(looks.windows(2).all(|w| w[1] - w[0] >= 100), "{looks:?}");
            for event in events {
                prop_assert!(looks.iter().any(|look| (event..=event + 100).contains(look)), "{event} {looks:?}");
            }
            prop_assert_eq!(agenda.next(), None);
        }
    }
}
