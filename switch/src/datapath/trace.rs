//! What a frame met on its way.
//!
//! `process` is generic over a [`Recorder`]. The forwarding instance is compiled with [`Off`], which costs
//! nothing; `swctl trace` runs the same function with a [`Recording`] on a copy of the state. Steps are
//! values, not text: the control thread, which knows the names, writes the sentences.

use super::tables::{Guard, Target};
use super::verdict::{Egress, NetId, Verdict};
use packet::MacAddr;
use std::net::IpAddr;

/// One thing that happened, named after the stage (the file) where it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `decap`: accepted from a peer.
    Decap {
        /// The sender.
        origin: Egress,
        /// Its network here.
        network: NetId,
    },
    /// `guard`: the port may send from this source.
    Guard {
        /// By which rules.
        guard: Guard,
    },
    /// `learn`: the source MAC was entered or moved.
    Learned {
        /// Source.
        mac: MacAddr,
        /// True if it was known elsewhere.
        moved: bool,
    },
    /// `classify`: bridged by MAC.
    Bridged {
        /// Destination.
        dst: MacAddr,
    },
    /// `classify`: addressed to the gateway or router MAC.
    Routed {
        /// Destination.
        dst: IpAddr,
    },
    /// `forward`: found in the FDB.
    FdbHit {
        /// Where it points.
        egress: Egress,
        /// Static entry.
        fixed: bool,
    },
    /// `forward`: not found, or a group address.
    Flooded {
        /// How many copies.
        copies: u32,
    },
    /// `route`: the longest matching prefix.
    Fib {
        /// Prefix length.
        length: u8,
        /// What the route says.
        target: Target,
    },
    /// `node`: a gateway address that is the node's own.
    NodeAddress {
        /// The address.
        ip: IpAddr,
    },
    /// `neighbour`: the MAC of the next hop is known.
    Neighbour {
        /// Next hop.
        ip: IpAddr,
        /// Its MAC.
        mac: MacAddr,
    },
    /// `neighbour`: unknown, a solicitation was sent and the frame waits.
    Resolving {
        /// Next hop.
        ip: IpAddr,
    },
    /// `arp` or `nd`: answered from the tables.
    Answered {
        /// Address asked for.
        ip: IpAddr,
        /// Answer.
        mac: MacAddr,
    },
    /// `icmp`: an error goes back to the source.
    IcmpError {
        /// ICMP or ICMPv6 type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// `egress`: packet size against the MTU of the egress.
    Mtu {
        /// Largest packet of the frame in bytes (after cutting).
        packet: u32,
        /// MTU of the egress.
        mtu: u32,
    },
}

/// Receives steps.
pub trait Recorder {
    /// Does it keep nothing? Then no frame has to be led past every stage for its sake.
    const OFF: bool = false;
    /// Called in the order things happen. The closure is not run when recording is off.
    fn step(&mut self, step: impl FnOnce() -> Step);
    /// Called once per frame.
    fn verdict(&mut self, verdict: Verdict);
}

/// Records nothing, at no cost.
pub struct Off;

impl Recorder for Off {
    const OFF: bool = true;

    #[inline(always)]
    fn step(&mut self, _: impl FnOnce() -> Step) {}
    #[inline(always)]
    fn verdict(&mut self, _: Verdict) {}
}

/// Keeps everything.
#[derive(Default, Debug)]
pub struct Recording {
    /// Steps in order.
    pub steps: Vec<Step>,
    /// One verdict per frame.
    pub verdicts: Vec<Verdict>,
}

impl Recorder for Recording {
    fn step(&mut self, step: impl FnOnce() -> Step) {
        self.steps.push(step());
    }
    fn verdict(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
    }
}
