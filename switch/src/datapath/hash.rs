//! Hashing of addresses: seeded, so that a pod cannot choose MACs that collide.

use std::hash::BuildHasher;

/// Seeded hash state (foldhash, the fast variant). The seed is drawn once at start, outside the data path.
#[derive(Clone)]
pub struct State(foldhash::fast::SeedableRandomState);

impl State {
    /// A state for this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(foldhash::fast::SeedableRandomState::with_seed(seed, foldhash::SharedSeed::global_fixed()))
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new(0)
    }
}

impl BuildHasher for State {
    type Hasher = foldhash::fast::FoldHasher<'static>;
    #[inline]
    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

/// The map type of the published tables.
pub type Map<K, V> = hashbrown::HashMap<K, V, State>;
