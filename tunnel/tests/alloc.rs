//! The steady state allocates nothing: cut, merge and send run on buffers that have grown to their size.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use packet::{Headers, VnetHdr, Vni, flow};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, IoSlice};
use tunnel::offload::{Caps, GroFrame, Merger, Output};
use tunnel::underlay::{Limits, MAX_PAYLOAD_V4, PeerAddr, UnderlayTx};
use tunnel::{Encap, Sender, TxFrame};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system allocator unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(f: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    f();
    COUNT.with(Cell::get) - before
}

/// Takes everything.
struct Sink(usize);

impl UnderlayTx for Sink {
    fn limits(&self, _: &PeerAddr) -> Limits {
        Limits { segments: 128, bytes: MAX_PAYLOAD_V4, lanes: 1 }
    }

    fn send(&mut self, _: &PeerAddr, _: u8, _: u16, parts: &[IoSlice<'_>], _: usize) -> io::Result<()> {
        self.0 += parts.len();
        Ok(())
    }
}

#[test]
fn steady_state_allocates_nothing() {
    let mut large = tcp(false, (1, 2), 3, 4, 0x10, &payload(60_000, 1));
    let (_, vnet) = offload(&mut large, 1398);
    let mut frames = vec![(large, vnet)];
    frames.extend((0..100).map(|i| (udp(i % 2 == 0, (9, 5), &payload(64, i)), VnetHdr::default())));
    let headers: Vec<_> = frames.iter().map(|f| Headers::parse(&f.0).unwrap()).collect();
    let to = PeerAddr { id: 0, addr: "192.0.2.1:4789".parse().unwrap(), checksum: true };
    let encap = Encap::Vxlan.header(Vni::new(1).unwrap());
    let (mut sender, mut merger, mut sink) = (Sender::new(), Merger::new(), Sink(0));
    let mut round = || {
        let frame = |i: usize| TxFrame {
            bytes: &frames[i].0,
            headers: headers[i],
            vnet: frames[i].1,
            encap,
            tos: 0,
            entropy: flow::hash(&headers[i], &frames[i].0),
        };
        let report = sender.send(&mut sink, &to, 1450, frames.len(), frame);
        assert_eq!(report.frames, 101);
        for caps in [Caps::ALL, Caps::NONE] {
            let get = |i: usize| GroFrame { bytes: &frames[i].0, headers: headers[i], vnet: frames[i].1 };
            let mut members = 0;
            merger.run(frames.len(), get, caps, 1450, |o| match o {
                Output::Write { members: m, last, .. } => members += if last { m.len() } else { 0 },
                Output::Refused { .. } => {}
            });
            assert_eq!(members, 101);
        }
    };
    round();
    assert_eq!(allocations(|| (0..10).for_each(|_| round())), 0);
}
