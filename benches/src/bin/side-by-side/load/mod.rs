//! The traffic generator: applications that send and receive ordinary datagrams, and check every byte of them.
//!
//! Sender and receiver are threads of this process, each in its pod's namespace, and share one clock. The sender
//! uses plain `sendmmsg`: one datagram per message, no segmentation offload, as an application without knowledge
//! of the network would. The receiver uses `recvmmsg`, likewise without receive offload.

pub mod account;
pub mod echo;
pub mod flood;
pub mod payload;
pub mod receiver;
pub mod sender;
#[allow(unsafe_code)]
mod sys;

pub use sys::ticks_per_second;

/// Messages per system call, and datagrams in one burst of a flow.
pub const BURST: usize = 32;

/// The order in which the datagrams of several flows are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// 32 of one flow in a row, then of the next.
    Bursts,
    /// One of each flow in turn.
    Interleaved,
}

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Bytes of UDP payload, at least [`payload::HEADER`] and at most [`payload::MAX`].
    pub size: usize,
    /// Pairs of source and destination port.
    pub flows: u32,
    /// Their order.
    pub order: Order,
}

impl Traffic {
    /// Sockets of the sender and of the receiver whose pairs are the flows.
    pub fn geometry(&self) -> (u32, u32) {
        match self.flows {
            0 | 1 => (1, 1),
            // One call can then go round many flows, as with more of them.
            2..=1024 => (self.flows.div_ceil(BURST as u32), self.flows.min(BURST as u32)),
            more => {
                let side = f64::from(more).sqrt().ceil() as u32;
                (side, side)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_pairs_of_sockets() {
        let of = |flows| Traffic { size: 64, flows, order: Order::Bursts }.geometry();
        assert_eq!((of(1), of(64), of(10_000)), ((1, 1), (2, 32), (100, 100)));
    }
}
