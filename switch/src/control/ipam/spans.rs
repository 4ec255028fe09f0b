//! Sets of addresses as spans: a /64 is one span, so nothing here is ever counted through.
//!
//! Addresses are numbers in host byte order, of one family at a time. A set is sorted, and its spans neither touch
//! nor overlap.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ctl::desired::AddressRange;
use ipnet::IpNet;

/// From the first to the last address, both included.
pub type Span = (u128, u128);

/// The number of an address.
pub fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The address with a number; of an IPv4 address only the lower 32 bits count.
pub fn address(v4: bool, number: u128) -> IpAddr {
    if v4 { Ipv4Addr::from_bits(number as u32).into() } else { Ipv6Addr::from_bits(number).into() }
}

/// The addresses of a range.
pub fn of_range(range: &AddressRange) -> Span {
    (number(range.first()), number(range.last()))
}

/// The addresses of a prefix.
pub fn of_net(net: &IpNet) -> Span {
    (number(net.network()), number(net.broadcast()))
}

/// The addresses in a subnet that a host can have: not the network and broadcast address of IPv4 (RFC 1122 3.2.1.3)
/// and not the subnet-router anycast address of IPv6 (RFC 4291 2.6.1). Subnets of two addresses or one have neither
/// (RFC 3021, RFC 6164).
pub fn hosts(subnet: &IpNet) -> Span {
    let (first, last) = of_net(subnet);
    match subnet {
        IpNet::V4(net) if net.prefix_len() < 31 => (first + 1, last - 1),
        IpNet::V6(net) if net.prefix_len() < 127 => (first + 1, last),
        _ => (first, last),
    }
}

/// The part of a span inside another.
pub fn clip(span: Span, within: Span) -> Option<Span> {
    let (first, last) = (span.0.max(within.0), span.1.min(within.1));
    (first <= last).then_some((first, last))
}

/// The set of all addresses in these spans.
pub fn union(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut set: Vec<Span> = Vec::with_capacity(spans.len());
    for (first, last) in spans {
        match set.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => set.push((first, last)),
        }
    }
    set
}

/// A set without the addresses of another.
pub fn without(set: &[Span], holes: &[Span]) -> Vec<Span> {
    let mut left = Vec::with_capacity(set.len());
    let mut holes = holes.iter().copied().peekable();
    'spans: for &(mut first, last) in set {
        while let Some(&(from, to)) = holes.peek() {
            if from > last {
                break;
            }
            if to >= first {
                if from > first {
                    left.push((first, from - 1));
                }
                if to >= last {
                    // It may reach into the next span.
                    continue 'spans;
                }
                first = to + 1;
            }
            holes.next();
        }
        left.push((first, last));
    }
    left
}

/// How many addresses a set has.
pub fn size(set: &[Span]) -> u128 {
    set.iter().fold(0, |sum, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
}

/// How many of these sorted addresses are in a set.
pub fn count_in(set: &[Span], sorted: &[u128]) -> u128 {
    let below = |limit: u128| sorted.partition_point(|&n| n < limit);
    let in_span = |(first, last): &Span| sorted.partition_point(|n| n <= last) - below(*first);
    set.iter().map(|span| in_span(span) as u128).sum()
}

/// The first address of a set from `from` on, round its end, that is not among these sorted ones. Looks at the
/// occupied addresses it has to step over, at most once at each.
pub fn first_free(set: &[Span], sorted: &[u128], from: u128) -> Option<u128> {
    let ahead = set.iter().filter_map(|&span| clip(span, (from, u128::MAX)));
    let behind = set.iter().filter_map(|&span| clip(span, (0, from.checked_sub(1)?)));
    ahead.chain(behind).find_map(|(first, last)| {
        let mut free = first;
        for &occupied in &sorted[sorted.partition_point(|&n| n < first)..] {
            if occupied > free {
                break;
            }
            if free == last {
                return None;
            }
            free += 1;
        }
        Some(free)
    })
}

/// The address at a place in a set, counted from its beginning.
pub fn nth(set: &[Span], mut place: u128) -> Option<u128> {
    for (first, last) in set {
        let further = last - first;
        if place <= further {
            return Some(first + place);
        }
        place -= further + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn numbers(set: &[Span]) -> BTreeSet<u128> {
        set.iter().flat_map(|&(first, last)| first..=last).collect()
    }

    fn spans() -> impl Strategy<Value = Vec<Span>> {
        prop::collection::vec((0_u128..60, 0_u128..9).prop_map(|(first, more)| (first, first + more)), 0..8)
    }

    proptest! {
        #[test]
        fn sets_are_sets(a in spans(), b in spans(), occupied in prop::collection::btree_set(0_u128..70, 0..40), from in 0_u128..80) {
            let (all, none) = (numbers(&a), numbers(&b));
            let (a, b) = (union(a), union(b));
            prop_assert_eq!(numbers(&a), all.clone());
            prop_assert!(a.windows(2).all(|w| w[0].1 + 1 < w[1].0));
            prop_assert_eq!(size(&a), all.len() as u128);
            let left = without(&a, &b);
            let expected: BTreeSet<u128> = all.difference(&none).copied().collect();
            prop_assert_eq!(numbers(&left), expected.clone());
            let sorted: Vec<u128> = occupied.iter().copied().collect();
            prop_assert_eq!(count_in(&left, &sorted), expected.intersection(&occupied).count() as u128);
            let free: Vec<u128> = expected.difference(&occupied).copied().collect();
            let next = free.iter().find(|&&n| n >= from).or(free.first()).copied();
            prop_assert_eq!(first_free(&left, &sorted, from), next);
            let places: Vec<u128> = (0..size(&left)).filter_map(|place| nth(&left, place)).collect();
            prop_assert_eq!(places, expected.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(nth(&left, size(&left)), None);
        }
    }

    #[test]
    fn the_ends_of_the_world() {
        let all = [(0, u128::MAX)];
        assert_eq!((size(&all), nth(&all, u128::MAX)), (u128::MAX, Some(u128::MAX)));
        assert_eq!(first_free(&all, &[0, u128::MAX], u128::MAX), Some(1));
        assert_eq!(without(&all, &[(0, 4), (u128::MAX, u128::MAX)]), [(5, u128::MAX - 1)]);
        assert_eq!(without(&all, &all), []);
        assert_eq!(union(vec![(7, u128::MAX), (0, 6)]), all);
    }

    #[test]
    fn hosts_of_subnets() {
        let of = |text: &str| {
            let net: IpNet = text.parse().unwrap();
            let (first, last) = hosts(&net);
            let v4 = net.addr().is_ipv4();
            format!("{} {}", address(v4, first), address(v4, last))
        };
        assert_eq!(of("10.1.1.0/24"), "10.1.1.1 10.1.1.254");
        assert_eq!(of("10.1.1.0/31"), "10.1.1.0 10.1.1.1");
        assert_eq!(of("10.1.1.7/32"), "10.1.1.7 10.1.1.7");
        assert_eq!(of("fd00::/64"), "fd00::1 fd00::ffff:ffff:ffff:ffff");
        assert_eq!(of("fd00::/127"), "fd00:: fd00::1");
        assert_eq!(of("0.0.0.0/0"), "0.0.0.1 255.255.255.254");
    }
}
