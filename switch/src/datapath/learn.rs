//! Source learning: who is behind which port or peer.
//!
//! Declared ports teach nothing — their MAC is a static entry and the guard has already compared it. Learning
//! ports and peers are learned up to their quota. A static entry never moves: a frame with such a source from
//! elsewhere is dropped, not learned.

use super::context::Context;
use super::fdb::{Fdb, Learned};
use super::tables::{Guard, Network, Tables};
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Egress};
use packet::Headers;

/// How many MACs may be learned behind a port or peer, of a table for `capacity`; `None` for one that teaches nothing.
#[inline]
pub fn quota(tables: &Tables, capacity: u32, origin: Egress) -> Option<u32> {
    match origin {
        Egress::Port(id) => match tables.port(id) {
            Some(port) if port.guard == Guard::Learning => Some(port.mac_limit),
            _ => None,
        },
        // Half the table, so that one node's hosts cannot keep another's from being learned.
        Egress::Peer(_) => Some(capacity / 2),
    }
}

/// Has the network as many learned MACs as it may have?
#[inline]
pub fn full(fdb: &Fdb, network: &Network) -> bool {
    fdb.network_len(network.id) >= network.fdb_limit
}

/// Learns the source of a frame that passed the guard.
///
/// # Errors
/// `StaticMove`.
#[inline]
pub fn source<R: Recorder>(cx: &mut Context<'_, R>, frame: &[u8]) -> Result<(), DropReason> {
    let Some(quota) = quota(cx.tables, cx.fdb.capacity(), cx.origin) else { return Ok(()) };
    let mac = Headers::src_mac(frame);
    if let Some(&fixed) = cx.network.statics.get(&mac) {
        return if fixed == cx.origin { Ok(()) } else { Err(DropReason::StaticMove) };
    }
    if full(cx.fdb, cx.network) && cx.fdb.lookup(cx.network.id, mac).is_none() {
        cx.counters.refused += 1;
        return Ok(());
    }
    match cx.fdb.learn(cx.network.id, mac, cx.origin, quota, cx.now_ms) {
        Learned::Refreshed => {}
        Learned::Added => cx.rec.step(|| Step::Learned { mac, moved: false }),
        Learned::Replaced => {
            cx.counters.evictions += 1;
            cx.rec.step(|| Step::Learned { mac, moved: false });
        }
        Learned::Moved => {
            cx.counters.moves += 1;
            cx.rec.step(|| Step::Learned { mac, moved: true });
        }
        Learned::Refused => cx.counters.refused += 1,
    }
    Ok(())
}
