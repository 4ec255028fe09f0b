//! Telling the network where a new port's addresses are: others may remember the address at the MAC of a pod that
//! had it before, for as long as their caches live.
//!
//! An ARP announcement (RFC 5227) and an unsolicited neighbour advertisement (RFC 4861 section 7.2.6) in the pod's
//! name, to everybody whom its own broadcast would reach. The pod need not do it, and cannot do it too early:
//! the tables that name it are in force.

use super::frame::{MAX_GENERATED, Postbox};
use super::reply;
use super::tables::{Guard, Tables};
use super::trace::Off;
use super::verdict::{Egress, PortId};
use super::{Datapath, context::Context};
use packet::VnetHdr;

impl Datapath {
    /// Announces the declared addresses of a port to its network. Call it when tables that name the port are in
    /// force; a learning port and the node's own have nothing to announce.
    ///
    /// False, and nothing is posted, if the postbox has no room for all of them: send what it holds, clear it and
    /// call again. At most [`MAX_GENERATED`] addresses are announced, so the second call succeeds.
    #[must_use]
    pub fn announce(&mut self, tables: &Tables, port: PortId, now_ms: u64, out: &mut Postbox) -> bool {
        let found = tables.port(port).and_then(|conf| Some((conf, tables.network(conf.network)?)));
        // The node's addresses are reached by way of the gateway, on every node by the same MAC.
        let Some((conf, network)) = found.filter(|(conf, _)| conf.guard == Guard::Declared) else {
            return true;
        };
        if out.generated.room() < (conf.v4.len() + conf.v6.len()).min(MAX_GENERATED) {
            return false;
        }
        let before = out.copies;
        let mut off = Off;
        let mut cx = self.context(tables, network, Egress::Port(port), now_ms, out, &mut off);
        for &ip in &conf.v4 {
            say(&mut cx, |frame| reply::arp_announcement(frame, conf.mac, ip));
        }
        for &ip in &conf.v6 {
            say(&mut cx, |frame| reply::neighbour_announcement(frame, conf.mac, ip));
        }
        self.counters.posted += out.copies - before;
        true
    }
}

fn say(cx: &mut Context<'_, Off>, fill: impl FnOnce(&mut Vec<u8>)) {
    if let Some(made) = cx.generate(VnetHdr::default(), fill) {
        let network = cx.network;
        cx.post_all(&network.flood_from_port, Some(cx.origin), made);
    }
}
