//! One shaper under a virtual clock.

use super::*;
use packet::{GsoType, MacAddr, build};
use proptest::prelude::*;

/// A frame with its number in the payload; an offload frame of this many packets.
struct Sample {
    bytes: Vec<u8>,
    headers: Headers,
    vnet: VnetHdr,
}

/// Headers of a TCP packet, without Ethernet.
const HEADER: u64 = 40;

fn sample(number: u32, size: usize, packets: usize) -> Sample {
    let mut data = vec![0; size * packets];
    data[..4].copy_from_slice(&number.to_be_bytes());
    let macs = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
    let ips = ("10.1.1.1".parse().unwrap(), "10.1.1.2".parse().unwrap());
    let bytes = build::tcp(macs, ips, (1, 2), (1, 1, 0x10), &data);
    let headers = build::parse(&bytes);
    let mut vnet =
        VnetHdr { needs_csum: true, csum_start: headers.l4, csum_offset: 16, ..VnetHdr::default() };
    if packets > 1 {
        (vnet.gso_type, vnet.gso_size) = (GsoType::Tcp4, size as u16);
    }
    Sample { bytes, headers, vnet }
}

impl Sample {
    fn frame(&self) -> GroFrame<'_> {
        GroFrame { bytes: &self.bytes, headers: self.headers, vnet: self.vnet }
    }
}

fn number(frame: &GroFrame<'_>) -> u32 {
    let at = usize::from(frame.headers.payload);
    u32::from_be_bytes(frame.bytes[at..at + 4].try_into().unwrap())
}

fn packets(frame: &GroFrame<'_>) -> u64 {
    Weight::of(&frame.headers, &frame.vnet).packets
}

fn mbit(n: u64, burst_bytes: u64) -> Rate {
    Rate { bytes_per_second: n * 125_000, burst_bytes }
}

#[test]
fn bits_become_bytes() {
    assert_eq!(Rate::from_bits(0, 800), None);
    assert_eq!(Rate::from_bits(8_000_000, 800), Some(Rate { bytes_per_second: 1_000_000, burst_bytes: 100 }));
    assert_eq!(Rate::from_bits(1, 1), Some(Rate { bytes_per_second: 1, burst_bytes: 1 }));
    assert_eq!(Rate::from_bits(1_000_000, 0).unwrap().burst_bytes, 64 << 10, "one offload frame");
    assert_eq!(Rate::from_bits(10_000_000_000, 0).unwrap().burst_bytes, 12_500_000, "10 ms");
    assert_eq!(Rate::from_bits(u64::MAX, u64::MAX).unwrap().burst_bytes, 1 << 61);
    assert_eq!(Rate::from_bits(u64::MAX, 0).unwrap().queue(), MAX_QUEUE);
}

#[test]
fn what_waits_and_what_is_lost_is_counted() {
    // 1 Mbit/s, one packet of burst: 25 ms are 3125 bytes, so the bound is four packets of 1040.
    let mut s = Shaper::new(mbit(1, 1000), 0);
    let packet = sample(1, 1000, 1);
    assert_eq!(s.offer(&packet.frame(), 0), Offer::Pass);
    assert_eq!(s.next_ms(), None);
    // The debt of 40 bytes is part of what waits; the last packet only has to begin within the bound.
    for _ in 0..4 {
        assert_eq!(s.offer(&packet.frame(), 0), Offer::Wait);
    }
    let lost = Lost { frames: 1, packets: 1, bytes: 1054 };
    assert_eq!(s.offer(&packet.frame(), 0), Offer::Drop(lost));
    let whole = sample(2, 1000, 5);
    assert_eq!(s.offer(&whole.frame(), 0), Offer::Drop(Lost { packets: 5, bytes: 5054, ..lost }));
    let full = ShaperStats {
        queued_frames: 4,
        queued_bytes: 4160,
        delayed_frames: 4,
        pauses: 1,
        paused_ms: 0,
        dropped_packets: 6,
    };
    assert_eq!(s.stats(0), full);
    // 40 bytes of debt at 125 bytes per millisecond.
    assert_eq!((s.next_ms(), s.ready(0, 9)), (Some(1), 0));
    assert_eq!(s.ready(1, 9), 1);
    s.leave(1, 1);
    assert_eq!(s.stats(7), ShaperStats { queued_frames: 3, queued_bytes: 3120, paused_ms: 7, ..full });
    // Room for some of the packets of an offload frame.
    s.ready(18, 9);
    s.leave(2, 18);
    let Offer::Part(lost) = s.offer(&sample(3, 1000, 9).frame(), 18) else { panic!() };
    let kept = s.frame(1);
    assert_eq!(number(&kept), 3);
    assert_eq!((packets(&kept) + lost.packets, kept.bytes.len() as u64 + lost.bytes), (9, 9054));
    assert!((2..=3).contains(&packets(&kept)));
    let lost = s.discard(20);
    assert_eq!((lost.frames, s.next_ms()), (2, None));
    assert_eq!(s.stats(99).paused_ms, 20, "nothing has waited since");
}

#[test]
fn a_large_frame_passes_any_bucket_in_part() {
    let mut s = Shaper::new(mbit(1, 1), 0);
    let Offer::Part(lost) = s.offer(&sample(1, 1400, 40).frame(), 0) else { panic!() };
    assert_eq!(lost.packets, 35, "one on the credit of a byte, four may wait");
    assert_eq!((s.next_ms(), s.ready(0, 9)), (Some(0), 1));
    s.leave(1, 0);
    // And it is paid for before anything else passes.
    assert_eq!(s.offer(&sample(2, 10, 1).frame(), 1), Offer::Drop(Lost { frames: 1, packets: 1, bytes: 64 }));
    let ms = (5 * (1400 + HEADER)).div_ceil(125);
    assert_eq!(s.offer(&sample(3, 10, 1).frame(), ms - 1), Offer::Wait);
    assert_eq!(s.next_ms(), Some(ms));
}

#[test]
fn a_new_rate_counts_for_what_waits() {
    let mut s = Shaper::new(mbit(100, 1000), 0);
    let packet = sample(1, 1000, 1);
    assert_eq!(s.offer(&packet.frame(), 0), Offer::Pass);
    for _ in 0..200 {
        assert_eq!(s.offer(&packet.frame(), 0), Offer::Wait);
    }
    assert_eq!(s.set_rate(mbit(100, 2000), 0), Lost::default());
    let lost = s.set_rate(mbit(1, 1000), 0);
    let left = s.stats(0);
    assert_eq!((left.queued_frames + lost.frames, left.dropped_packets), (200, lost.packets));
    assert!(lost.frames > 60, "{lost:?}");
    assert_eq!(s.next_ms(), Some(1));
    assert_eq!(s.ready(1, usize::MAX), 1);
    s.open();
    assert_eq!(s.ready(1, usize::MAX) as u64, left.queued_frames);
    s.leave(usize::MAX, 1);
    assert_eq!(s.stats(1).queued_bytes, 0);
}

/// A step of time, then a frame: payload per packet, packets.
fn arrival() -> impl Strategy<Value = (u64, usize, usize)> {
    (
        prop_oneof![4 => Just(0u64), 3 => 0u64..5, 1 => 0u64..300],
        prop_oneof![10usize..100, 1000usize..1460],
        prop_oneof![3 => Just(1usize), 1 => 2usize..44],
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Every packet passes, waits or is lost, in order; the output keeps to the bucket's curve; no packet waits
    /// longer than the bound; and no time is lost while something waits.
    #[test]
    fn a_shaper_keeps_its_promises(
        mbits in prop_oneof![Just(1u64), Just(20), Just(200), Just(5000)],
        burst in prop_oneof![1u64..2000, 1u64..500_000],
        late in 0u64..3,
        arrivals in proptest::collection::vec(arrival(), 1..300),
    ) {
        let rate = mbit(mbits, burst);
        let mut s = Shaper::new(rate, 0);
        let bound_ns = |bytes: u64| u128::from(bytes) * 1_000_000_000 / u128::from(rate.bytes_per_second);
        let most = rate.queue().max(FEW * 1500) + 1500;
        let (mut offered, mut out, mut lost, mut bytes, mut last) = (0, 0, 0, 0, None);
        let mut entered = std::collections::VecDeque::new();
        let mut now = 0;
        // When the queue began, what had been sent then, and the credit.
        let mut busy: Option<(u64, u64, i128)> = None;
        let mut sent = |frame: &GroFrame<'_>, now: u64, bytes: &mut u64| {
            let weight = Weight::of(&frame.headers, &frame.vnet);
            let curve = u128::from(burst) + u128::from(rate.bytes_per_second) * u128::from(now) / 1000;
            assert!(u128::from(*bytes) <= curve, "{bytes} at {now}");
            *bytes += weight.bytes;
            out += weight.packets;
            let n = number(frame);
            assert!(last.replace(n).is_none_or(|last| last < n));
        };
        // In the end everything that waits gets the time to leave.
        for (n, (wait, size, count)) in arrivals.into_iter().chain([(1000, 10, 1)]).enumerate() {
            let arrives = now + wait;
            while let Some(due) = s.next_ms().map(|ms| ms + late).filter(|&ms| ms <= arrives) {
                now = now.max(due);
                let frames = s.ready(now, usize::MAX);
                for i in 0..frames {
                    sent(&s.frame(i), now, &mut bytes);
                    let since = entered.pop_front().unwrap();
                    let waited = u128::from(now - since) * 1_000_000;
                    prop_assert!(waited <= bound_ns(most) + u128::from(late + 1) * 1_000_000, "{waited}");
                }
                s.leave(frames, now);
                if let Some((since, before, credit)) = busy {
                    // While something waits, all credit there was and all that was earned has been used.
                    let earned = i128::from(rate.bytes_per_second * (now - since) / 1000);
                    let used = i128::from(bytes - before);
                    prop_assert!(s.next_ms().is_none() || used >= earned + credit, "{used} of {earned}");
                }
                if s.next_ms().is_none() {
                    busy = None;
                }
            }
            now = arrives;
            let sample = sample(n as u32, size, count);
            offered += packets(&sample.frame());
            let waited = s.next_ms().is_some();
            match s.offer(&sample.frame(), now) {
                Offer::Pass => {
                    prop_assert!(!waited);
                    sent(&sample.frame(), now, &mut bytes);
                }
                Offer::Wait => entered.push_back(now),
                Offer::Part(gone) => {
                    prop_assert!(count > 1 && gone.packets > 0);
                    entered.push_back(now);
                    lost += gone.packets;
                }
                Offer::Drop(gone) => lost += gone.packets,
            }
            if !waited && s.next_ms().is_some() {
                busy = Some((now, bytes, s.bucket.credit()));
            }
            prop_assert!(s.stats(now).queued_bytes <= burst + most);
        }
        let waiting: u64 = (0..entered.len()).map(|i| packets(&s.frame(i))).sum();
        prop_assert_eq!(offered, out + lost + waiting);
        prop_assert_eq!(s.stats(now).dropped_packets, lost);
    }
}
