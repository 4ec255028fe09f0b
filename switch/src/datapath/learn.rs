//! Source learning: who is behind which port or peer.
//!
//! Declared ports teach nothing — their MAC is a static entry and the guard has already compared it. Learning
//! ports and peers are learned up to their quota. A static entry never moves: a frame with such a source from
//! elsewhere is dropped, not learned.

use super::fdb::{Fdb, Learned};
use super::tables::{Guard, Network, Tables};
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Egress};
use super::counters::CounterTable;
use packet::Headers;

/// Learns the source of a frame that passed the guard.
///
/// # Errors
/// `StaticMove`.
#[inline]
pub fn source<R: Recorder>(
    fdb: &mut Fdb,
    counters: &mut CounterTable,
    tables: &Tables,
    network: &Network,
    origin: Egress,
    frame: &[u8],
    now_ms: u64,
    rec: &mut R,
) -> Result<(), DropReason> {
    let quota = match origin {
        Egress::Port(id) => match tables.port(id) {
            Some(port) if port.guard == Guard::Learning => port.mac_limit,
            _ => return Ok(()),
        },
        Egress::Peer(_) => u32::MAX,
    };
    let mac = Headers::src_mac(frame);
    if let Some(&fixed) = network.statics.get(&mac) {
        return if fixed == origin { Ok(()) } else { Err(DropReason::StaticMove) };
    }
    match fdb.learn(network.id, mac, origin, quota, now_ms) {
        Learned::Refreshed => {}
        Learned::Added => rec.step(|| Step::Learned { mac, moved: false }),
        Learned::Replaced => {
            counters.evictions += 1;
            rec.step(|| Step::Learned { mac, moved: false });
        }
        Learned::Moved => {
            counters.moves += 1;
            rec.step(|| Step::Learned { mac, moved: true });
        }
        Learned::Refused => counters.evictions += 1,
    }
    Ok(())
}
