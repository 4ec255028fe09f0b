//! Longest-prefix match: an immutable multibit trie with compressed nodes.
//!
//! The first 16 bits of an address choose a slot of the root, each further octet a slot of a node, until a slot
//! holds a value. Neighbouring slots with the same value are stored once: a bitmap marks where a new value
//! starts, and the number of marks up to a slot is the place of its value (Degermark et al., "Small forwarding
//! tables for fast routing lookups", 1997). So an IPv4 route of up to 16 bits is found in two steps, one of up to
//! 24 in four, in memory that grows with the number of prefixes and not with their length.

/// Marks a value that is the number of a node.
const NODE: u32 = 1 << 31;
/// No prefix covers the slot.
const NONE: u32 = NODE - 1;
/// Bits of the address that choose a slot of the root.
const ROOT_BITS: u8 = 16;

/// 64 slots of the root.
#[derive(Clone, Copy, Default)]
struct Word {
    /// A slot's bit is set where its value differs from the slot before.
    starts: u64,
    /// Place of the word's first value.
    base: u32,
}

/// 256 slots in one cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Node {
    starts: [u64; 4],
    /// Place of the node's first value.
    base: u32,
    /// Marks in the words before.
    before: [u8; 4],
}

/// A table from prefixes of addresses with `N` octets to numbers below 2^31 - 1.
#[derive(Clone, Default)]
pub struct Lpm<const N: usize> {
    /// Empty when there is no prefix.
    root: Vec<Word>,
    nodes: Vec<Node>,
    values: Vec<u32>,
    len: usize,
}

/// A prefix: address in network byte order, length in bits, value.
pub type Entry<const N: usize> = ([u8; N], u8, u32);

impl<const N: usize> Lpm<N> {
    /// Builds the table. Of two entries for one prefix the later counts; bits beyond the length must be zero.
    #[must_use]
    pub fn new(mut entries: Vec<Entry<N>>) -> Self {
        // A prefix comes after all that contain it: painting in this order leaves the longest on top.
        entries.sort_by_key(|&(address, len, _)| (address, len));
        let mut distinct: Vec<Entry<N>> = Vec::with_capacity(entries.len());
        for entry in entries {
            match distinct.last_mut() {
                Some(last) if (last.0, last.1) == (entry.0, entry.1) => *last = entry,
                _ => distinct.push(entry),
            }
        }
        let mut table = Self { len: distinct.len(), ..Self::default() };
        if distinct.is_empty() {
            return table;
        }
        let mut slots = vec![NONE; 1 << ROOT_BITS];
        table.paint(&mut slots, 0, ROOT_BITS, &distinct);
        for word in slots.chunks(64) {
            let base = table.values.len() as u32;
            let starts = table.store(word);
            table.root.push(Word { starts, base });
        }
        table
    }

    /// Number of prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The value of the longest prefix that holds the address.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: [u8; N]) -> Option<u32> {
        let slot = u16::from_be_bytes([address[0], address[1]]);
        let word = self.root.get(usize::from(slot >> 6))?;
        let mut value = self.value(word.base, word.starts, slot as u8 & 63)?;
        for &octet in &address[2..] {
            if value & NODE == 0 {
                break;
            }
            let node = self.nodes.get((value & !NODE) as usize)?;
            let word = usize::from(octet >> 6);
            value = self.value(node.base + u32::from(node.before[word]), node.starts[word], octet & 63)?;
        }
        (value != NONE).then_some(value)
    }

    /// The value of a slot, given the word's marks; the word's first slot always has one.
    #[inline]
    fn value(&self, base: u32, starts: u64, slot: u8) -> Option<u32> {
        let marks = (starts << (63 - slot)).count_ones();
        self.values.get((base + marks - 1) as usize).copied()
    }

    /// Fills the slots that bits `from..from + bits` of an address choose. All entries agree in the bits before.
    fn paint(&mut self, slots: &mut [u32], from: u8, bits: u8, entries: &[Entry<N>]) {
        let end = from + bits;
        let slot = |address: &[u8; N]| {
            let at = usize::from(from / 8);
            address[at..at + usize::from(bits / 8)].iter().fold(0, |n, &octet| n << 8 | usize::from(octet))
        };
        let mut rest = entries;
        while let Some(&(address, len, value)) = rest.first() {
            let first = slot(&address);
            if len <= end {
                slots[first..first + (1 << (end - len))].fill(value);
                rest = &rest[1..];
                continue;
            }
            let longer = rest.iter().take_while(|(a, l, _)| *l > end && slot(a) == first).count();
            let mut below = [slots[first]; 256];
            self.paint(&mut below, end, 8, &rest[..longer]);
            slots[first] = NODE | self.node(&below);
            rest = &rest[longer..];
        }
    }

    fn node(&mut self, slots: &[u32; 256]) -> u32 {
        let mut node = Node { base: self.values.len() as u32, ..Node::default() };
        for (number, word) in slots.chunks(64).enumerate() {
            node.before[number] = (self.values.len() as u32 - node.base) as u8;
            node.starts[number] = self.store(word);
        }
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }

    /// Stores the values of 64 slots, each run once, and returns the marks.
    fn store(&mut self, slots: &[u32]) -> u64 {
        let mut starts = 0;
        for (number, &value) in slots.iter().enumerate() {
            if number == 0 || slots[number - 1] != value {
                starts |= 1 << number;
                self.values.push(value);
            }
        }
        starts
    }
}
