//! `swctl port stats` and `swctl peer stats`.

use std::borrow::Cow;

use ctl::proto;
use serde::Serialize;

use crate::print::Row;

/// Counters of a port or a peer.
#[derive(Serialize)]
pub struct StatView {
    name: String,
    rx_frames: u64,
    rx_segments: u64,
    rx_bytes: u64,
    rx_drops: u64,
    tx_frames: u64,
    tx_segments: u64,
    tx_bytes: u64,
    tx_drops: u64,
    io_errors: u64,
}

impl Row for StatView {
    const HEADS: &'static [&'static str] = &[
        "NAME",
        "RX FRAMES",
        "RX SEGS",
        "RX BYTES",
        "RX DROPS",
        "TX FRAMES",
        "TX SEGS",
        "TX BYTES",
        "TX DROPS",
        "IO ERRORS",
    ];

    fn cells(&self) -> Vec<String> {
        let numbers = [
            self.rx_frames,
            self.rx_segments,
            self.rx_bytes,
            self.rx_drops,
            self.tx_frames,
            self.tx_segments,
            self.tx_bytes,
            self.tx_drops,
            self.io_errors,
        ];
        std::iter::once(self.name.clone()).chain(numbers.iter().map(u64::to_string)).collect()
    }
}

impl StatView {
    pub fn new(name: String, counters: Option<proto::Counters>) -> Self {
        let c = counters.unwrap_or_default();
        Self {
            name,
            rx_frames: c.rx_frames,
            rx_segments: c.rx_segments,
            rx_bytes: c.rx_bytes,
            rx_drops: c.rx_drops,
            tx_frames: c.tx_frames,
            tx_segments: c.tx_segments,
            tx_bytes: c.tx_bytes,
            tx_drops: c.tx_drops,
            io_errors: c.io_errors,
        }
    }
}

/// How one direction of a limited port fares.
#[derive(Serialize)]
struct LimitView {
    rate: u64,
    burst: u64,
    queued_frames: u64,
    queued_bytes: u64,
    delayed_frames: u64,
    pauses: u64,
    paused_ms: u64,
    dropped_packets: u64,
}

impl From<proto::LimitStats> for LimitView {
    fn from(l: proto::LimitStats) -> Self {
        Self {
            rate: l.rate,
            burst: l.burst,
            queued_frames: l.queued_frames,
            queued_bytes: l.queued_bytes,
            delayed_frames: l.delayed_frames,
            pauses: l.pauses,
            paused_ms: l.paused_ms,
            dropped_packets: l.dropped_packets,
        }
    }
}

/// Counters of a port, and how its limits fare.
#[derive(Serialize)]
pub struct PortStatView {
    #[serde(flatten)]
    counters: StatView,
    ingress: Option<LimitView>,
    egress: Option<LimitView>,
}

impl From<proto::PortStat> for PortStatView {
    fn from(p: proto::PortStat) -> Self {
        Self {
            counters: StatView::new(p.name, p.counters),
            ingress: p.ingress.map(Into::into),
            egress: p.egress.map(Into::into),
        }
    }
}

impl PortStatView {
    fn is_limited(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some()
    }

    /// A figure of both directions; a dash for one without a limit.
    fn both(&self, figure: impl Fn(&LimitView) -> String) -> String {
        let of = |limit: &Option<LimitView>| limit.as_ref().map_or_else(|| "-".to_owned(), &figure);
        format!("{}/{}", of(&self.ingress), of(&self.egress))
    }
}

impl Row for PortStatView {
    const HEADS: &'static [&'static str] = StatView::HEADS;

    /// The columns of limits are there when one of the ports has some.
    fn heads(rows: &[Self]) -> Vec<&'static str> {
        let more = ["IN/OUT BIT/S", "QUEUED BYTES", "LIMIT DROPS"];
        let more = more.into_iter().filter(|_| rows.iter().any(Self::is_limited));
        Self::HEADS.iter().copied().chain(more).collect()
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = self.counters.cells();
        if self.is_limited() {
            cells.push(self.both(|l| rate(l.rate).into_owned()));
            cells.push(self.both(|l| l.queued_bytes.to_string()));
            cells.push(self.both(|l| l.dropped_packets.to_string()));
        }
        cells
    }
}

/// Bits per second as they are given: with the largest unit that leaves no fraction.
fn rate(bits: u64) -> Cow<'static, str> {
    let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")];
    match units.into_iter().find(|(unit, _)| bits > 0 && bits.is_multiple_of(*unit)) {
        Some((unit, letter)) => format!("{}{letter}", bits / unit).into(),
        None => bits.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let texts = [0, 999, 1000, 1500, 50_000_000, 10_000_000_000].map(rate);
        assert_eq!(texts, ["0", "999", "1k", "1500", "50M", "10G"]);
    }
}
