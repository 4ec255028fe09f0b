//! What the switch has learned and counted, kept over a restart.
//!
//! The desired state is on disk; this is the rest: learned MACs, confirmed neighbours, counters. Once per second it is
//! copied from the worker ([`capture`]) and written to a [`MemoryFile`](super::memory_file::MemoryFile), and the next
//! process puts it back with its first tables ([`restore`]). Ports, peers and networks are remembered by name, because
//! their numbers are others then. Times are those of the system's clock since boot.
//!
//! The format is a version and a [postcard](https://docs.rs/postcard) of [`Remembered`]. What is read may have been
//! written by a process that a pod had taken over, so nothing in it is believed: numbers of entries are bounded,
//! references are looked up, counters whose sums do not hold are left out, and the data path judges every entry by the
//! tables in force. What is wrong in one part costs that part.

pub(super) mod capture;
mod counts;
pub mod restore;

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use packet::MacAddr;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use counts::Counted;

/// Version of what follows it. Another one is not read.
const VERSION: u8 = 1;

/// Most learned MACs that are remembered, and most neighbours.
pub const MAX_ENTRIES: usize = 262_144;
/// Most names of ports and peers, and of networks.
pub const MAX_NAMES: usize = 131_072;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    learned: Learned,
    counted: Counted,
}

/// A port or peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Place {
    name: String,
    /// Underlay address of a peer; `None`: this is a port.
    remote: Option<IpAddr>,
}

/// Learned MACs and neighbours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Learned {
    /// Name and VNI.
    #[serde(deserialize_with = "bounded::<_, _, MAX_NAMES>")]
    networks: Vec<(String, u32)>,
    #[serde(deserialize_with = "bounded::<_, _, MAX_NAMES>")]
    places: Vec<Place>,
    #[serde(deserialize_with = "bounded::<_, _, MAX_ENTRIES>")]
    macs: Vec<Entry>,
    #[serde(deserialize_with = "bounded::<_, _, MAX_ENTRIES>")]
    neighbours: Vec<(IpAddr, Entry)>,
}

/// A MAC, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Index into the networks.
    network: u32,
    /// Index into the places.
    place: u32,
    mac: [u8; 6],
    /// When it was last seen or confirmed, milliseconds of the clock since boot.
    seen_ms: u64,
}

/// Why something cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RememberError {
    /// Written by another version of the program.
    #[error("it has version {0}, this program knows {VERSION}")]
    Version(u8),
    /// It is no [`Remembered`].
    #[error("it cannot be read: {0}")]
    Postcard(#[from] postcard::Error),
    /// There is more than there should be.
    #[error("{0} bytes follow it")]
    Trailing(usize),
}

impl Remembered {
    /// As bytes.
    ///
    /// # Errors
    /// No memory.
    pub fn encode(&self) -> Result<Vec<u8>, RememberError> {
        Ok(postcard::to_extend(self, vec![VERSION])?)
    }

    /// From bytes, which may be anything.
    ///
    /// # Errors
    /// See [`RememberError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RememberError> {
        let (&version, rest) = bytes.split_first().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        if version != VERSION {
            return Err(RememberError::Version(version));
        }
        match postcard::take_from_bytes(rest)? {
            (remembered, []) => Ok(remembered),
            (_, more) => Err(RememberError::Trailing(more.len())),
        }
    }

    /// How many MACs and neighbours.
    #[must_use]
    pub fn entries(&self) -> (usize, usize) {
        (self.learned.macs.len(), self.learned.neighbours.len())
    }
}

impl Entry {
    fn mac(&self) -> MacAddr {
        MacAddr(self.mac)
    }
}

/// Now, in milliseconds of the system's clock since boot, the time of sleep included.
#[must_use]
pub(super) fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1000 + part(now.tv_nsec) / 1_000_000
}

/// A list of at most `MOST` elements. Memory is taken as they come, not as a length says.
fn bounded<'de, D, T, const MOST: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MOST} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = elements.next_element()? {
                if list.len() == MOST {
                    return Err(A::Error::custom("too many elements"));
                }
                list.push(element);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(List::<T, MOST>(PhantomData))
}

#[cfg(test)]
#[path = "remember_tests.rs"]
mod tests;
