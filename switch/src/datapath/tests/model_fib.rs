//! The FIB, and a peer's pod CIDRs, against a linear search for the longest match.

use super::kit::*;
use crate::datapath::{Fib, PeerId, Sources, Target};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses close together, so that prefixes nest.
fn v4_bits() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..1 << 12).prop_map(|low| 0x0a01_0000 | low),
        (0u32..32).prop_map(|n| 1 << n),
        Just(0),
        Just(u32::MAX),
    ]
}

fn v6_bits() -> impl Strategy<Value = u128> {
    prop_oneof![
        any::<u128>(),
        (0u128..1 << 12).prop_map(|low| 0xfd00_0001 << 96 | low),
        (0u128..1 << 12).prop_map(|high| 0xfd00_0001 << 96 | high << 60),
        (0u32..128).prop_map(|n| 1 << n),
        Just(0),
        Just(u128::MAX),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (v4_bits(), 0u8..=32).prop_map(|(a, l)| Ipv4Net::new(Ipv4Addr::from_bits(a), l).unwrap().into()),
        (v6_bits(), 0u8..=128).prop_map(|(a, l)| Ipv6Net::new(Ipv6Addr::from_bits(a), l).unwrap().into()),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        v4_bits().prop_map(|a| IpAddr::V4(Ipv4Addr::from_bits(a))),
        v6_bits().prop_map(|a| IpAddr::V6(Ipv6Addr::from_bits(a))),
    ]
}

/// The last of the longest.
fn linear(routes: &[(IpNet, Target)], ip: IpAddr) -> Option<(u8, Target)> {
    let matching = routes.iter().filter(|(p, _)| p.contains(&ip));
    matching.max_by_key(|(p, _)| p.prefix_len()).map(|(p, t)| (p.prefix_len(), *t))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn fib_is_a_linear_search(prefixes in proptest::collection::vec(prefix(), 0..80), asked in proptest::collection::vec(address(), 1..80)) {
        let routes: Vec<_> =
            prefixes.iter().enumerate().map(|(n, p)| (*p, Target::Peer(PeerId(n as u32)))).collect();
        let fib = Fib::new(routes.iter().copied());
        // Ask about the edges of each prefix too.
        let edges = prefixes.iter().flat_map(|p| [p.network(), p.broadcast(), p.addr()]);
        for ip in asked.into_iter().chain(edges) {
            prop_assert_eq!(fib.lookup(ip), linear(&routes, ip), "{}", ip);
        }
        let distinct: std::collections::HashSet<_> = prefixes.iter().map(IpNet::trunc).collect();
        prop_assert_eq!((fib.len(), fib.is_empty()), (distinct.len(), prefixes.is_empty()));
    }

    #[test]
    fn sources_are_a_linear_search(prefixes in proptest::collection::vec(prefix(), 0..20), asked in proptest::collection::vec(address(), 1..40)) {
        let sources = Sources::new(&prefixes);
        for ip in asked {
            prop_assert_eq!(sources.contains(ip), prefixes.iter().any(|p| p.contains(&ip)));
        }
    }
}

#[test]
fn the_later_of_two_routes_for_one_prefix_wins() {
    let fib = Fib::new([(net("10.0.0.0/8"), Target::Blackhole), (net("10.0.0.0/8"), Target::Connected)]);
    assert_eq!((fib.lookup(ip("10.1.2.3")), fib.len()), (Some((8, Target::Connected)), 1));
}

#[test]
fn default_and_host_routes() {
    let fib = Fib::new([
        (net("0.0.0.0/0"), Target::Blackhole),
        (net("10.0.0.1/32"), Target::Connected),
        (net("::/0"), Target::Unreachable),
        (net("fd00::1/128"), Target::Connected),
    ]);
    assert_eq!(fib.lookup(ip("10.0.0.1")), Some((32, Target::Connected)));
    assert_eq!(fib.lookup(ip("10.0.0.2")), Some((0, Target::Blackhole)));
    assert_eq!(fib.lookup(ip("fd00::1")), Some((128, Target::Connected)));
    assert_eq!(fib.lookup(ip("fd00::2")), Some((0, Target::Unreachable)));
    assert_eq!(Fib::new([]).lookup(ip("10.0.0.1")), None);
}
