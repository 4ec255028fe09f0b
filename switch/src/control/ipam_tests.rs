//! Allocation against a model that enumerates, and the cases that enumeration cannot reach.

use std::collections::BTreeSet;

use super::super::testing::{network, peer, port};
use super::*;
use ctl::desired::{AddressRange, Neighbour, Route};
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn range(text: &str) -> AddressRange {
    text.parse().unwrap()
}

fn state(subnets: &[&str]) -> DesiredState {
    DesiredState { networks: vec![network("pods", 1, subnets)], ..DesiredState::default() }
}

/// Allocates without asking for anything, and declares it.
fn give(allocator: &mut Allocator, state: &mut DesiredState, now: Instant) -> Result<Vec<String>, ApiError> {
    let ips = allocator.pick(state, &state.networks[0], &[], now)?;
    let texts: Vec<String> = ips.iter().map(ToString::to_string).collect();
    let name = format!("p{}", state.ports.len());
    let words: Vec<&str> = texts.iter().map(String::as_str).collect();
    state.ports.push(port(&name, "pods", &words));
    Ok(texts)
}

/// Removes the port that has an address.
fn release(allocator: &mut Allocator, state: &mut DesiredState, ip: IpAddr, now: Instant) -> Vec<Released> {
    let before = state.clone();
    state.ports.retain(|p| p.ips.iter().all(|own| own.addr() != ip));
    allocator.follow(&before, state, now)
}

/// Everything that may be given, one address after the other, in order.
fn model_pool(state: &DesiredState) -> Vec<IpAddr> {
    let network = &state.networks[0];
    let subnet = network.subnets[0].cidr;
    let routed = |ip: &IpAddr| {
        let inside = |cidr: &&IpNet| subnet.contains(*cidr) && **cidr != subnet;
        state.peers.iter().flat_map(|p| &p.pod_cidrs).filter(inside).any(|cidr| cidr.contains(ip))
    };
    subnet
        .hosts()
        .filter(|ip| network.ranges.is_empty() || network.ranges.iter().any(|r| r.contains(*ip)))
        .filter(|ip| !network.exclude.iter().any(|r| r.contains(*ip)))
        .filter(|ip| network.subnets[0].gateway != Some(*ip))
        .filter(|ip| !routed(ip))
        .collect()
}

#[derive(Clone, Debug)]
enum Op {
    Give,
    /// The port at this place, modulo their number.
    Release(usize),
    /// Seconds.
    Wait(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => Just(Op::Give),
        3 => any::<usize>().prop_map(Op::Release),
        1 => (1_u64..70).prop_map(Op::Wait),
    ];
    prop::collection::vec(op, 1..120)
}

/// Ranges in 10.1.1.0/27.
fn ranges(most: usize) -> impl Strategy<Value = Vec<AddressRange>> {
    let one =
        (0_u8..32, 0_u8..32).prop_map(|(a, b)| range(&format!("10.1.1.{}-10.1.1.{}", a.min(b), a.max(b))));
    prop::collection::vec(one, 0..=most)
}

proptest! {
    /// The same address as by going through all of them, from the one after the last on, past those in use and
    /// those that rest.
    #[test]
    fn as_by_enumeration(
        ranges in ranges(3), exclude in ranges(2), seed: u64, wide: bool, ops in ops(),
        cidr in prop::sample::select(vec!["10.1.1.16/29", "10.1.1.0/24", "10.1.0.0/16", "10.1.1.0/27", "10.9.0.0/24"]),
    ) {
        let mut state = state(&[if wide { "10.1.1.0/27" } else { "10.1.1.0/28" }]);
        let inside = |r: &AddressRange| state.networks[0].subnets[0].cidr.contains(&r.last());
        let (ranges, exclude): (Vec<_>, Vec<_>) =
            (ranges.into_iter().filter(inside).collect(), exclude.into_iter().filter(inside).collect());
        (state.networks[0].ranges, state.networks[0].exclude) = (ranges, exclude);
        state.peers.push(peer("b", "192.168.77.2", &[cidr]));
        let pool = model_pool(&state);
        let mut allocator = Allocator::new(seed);
        let mut now = Instant::now();
        let mut last: Option<IpAddr> = None;
        let mut rest: Vec<(IpAddr, Instant)> = Vec::new();
        for op in ops {
            match op {
                Op::Wait(seconds) => now += Duration::from_secs(seconds),
                Op::Release(at) => {
                    let Some(owner) = state.ports.get(at % state.ports.len().max(1)) else { continue };
                    let gone = owner.ips[0].addr();
                    prop_assert_eq!(release(&mut allocator, &mut state, gone, now), [("pods".to_owned(), gone)]);
                    rest.push((gone, now));
                }
                Op::Give => {
                    let used: BTreeSet<IpAddr> = state.ports.iter().map(|p| p.ips[0].addr()).collect();
                    let resting = |ip: &IpAddr| rest.iter().any(|(r, t)| r == ip && *t + QUARANTINE > now);
                    let open: Vec<IpAddr> =
                        pool.iter().copied().filter(|ip| !used.contains(ip) && !resting(ip)).collect();
                    let supply = allocator.supplies(&state, &state.networks[0], now)[0];
                    prop_assert_eq!(supply.free(), open.len() as u64);
                    prop_assert_eq!(supply.size, pool.len() as u128);
                    prop_assert_eq!(supply.used, used.len() as u128);
                    match give(&mut allocator, &mut state, now) {
                        Ok(got) => {
                            let got = got[0].parse::<IpNet>().unwrap();
                            prop_assert_eq!(got.prefix_len(), state.networks[0].subnets[0].cidr.prefix_len());
                            if let Some(last) = last {
                                let next = open.iter().find(|ip| **ip > last).or(open.first());
                                prop_assert_eq!(Some(&got.addr()), next);
                            }
                            prop_assert!(open.contains(&got.addr()));
                            last = Some(got.addr());
                        }
                        Err(e) => {
                            prop_assert_eq!((e.reason, open.len()), (Reason::Limit, 0));
                            prop_assert_eq!(e.message.contains("just released"), supply.resting > 0, "{}", e);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn one_address_of_each_family_from_the_first_subnet_that_has_one() {
    let now = Instant::now();
    let mut state = state(&["10.1.1.0/30", "fd00:1::/126", "10.1.2.0/30", "fd00:2::/64"]);
    let mut allocator = Allocator::new(1);
    let mut all: Vec<String> = Vec::new();
    for (v4, v6) in [("10.1.1.", "fd00:1::"), ("10.1.2.", "fd00:1::")] {
        let got = give(&mut allocator, &mut state, now).unwrap();
        assert!(got.len() == 2 && got[0].starts_with(v4) && got[1].starts_with(v6), "{got:?}");
        all.extend(got);
    }
    all.sort();
    // The gateways are the first hosts.
    assert_eq!(all, ["10.1.1.2/30", "10.1.2.2/30", "fd00:1::2/126", "fd00:1::3/126"]);
    let e = give(&mut allocator, &mut state, now).unwrap_err();
    assert_eq!(e.message, "network pods has no IPv4 address left: 2 of 2 are in use");
    assert!(e.hint.contains("widen"), "{}", e.hint);
    // IPv6 would have gone on in the next subnet.
    assert_eq!(allocator.supplies(&state, &state.networks[0], now)[1].free(), u64::MAX - 1);
}

#[test]
fn what_is_taken_by_others_is_not_given() {
    let now = Instant::now();
    let mut state = state(&["10.1.1.0/29"]);
    let network = "pods".to_owned();
    let mac = "02:00:00:00:00:01".parse().unwrap();
    state.neighbours.push(Neighbour { network: network.clone(), ip: ip("10.1.1.2"), mac });
    let target = RouteTarget::NextHop(ip("10.1.1.3"));
    state.routes.push(Route { network, prefix: "10.9.0.0/16".parse().unwrap(), target });
    state.ports.push(port("other", "elsewhere", &["10.1.1.4/29"]));
    let mut node = port("node", "pods", &["10.1.1.5/29"]);
    node.node = Some(ctl::desired::NodePort::default());
    state.ports.push(node);
    let mut allocator = Allocator::new(3);
    let mut got: Vec<String> =
        (0..2).map(|_| give(&mut allocator, &mut state, now).unwrap().remove(0)).collect();
    got.sort();
    assert_eq!(got, ["10.1.1.4/29", "10.1.1.6/29"]);
    assert_eq!(give(&mut allocator, &mut state, now).unwrap_err().reason, Reason::Limit);
}

#[test]
fn addresses_asked_for() {
    let now = Instant::now();
    let mut state = state(&["10.1.1.0/24", "fd00:1::/64"]);
    state.networks[0].ranges = vec![range("10.1.1.100-10.1.1.199"), range("fd00:1::100-fd00:1::1ff")];
    state.peers.push(peer("b", "192.168.77.2", &["10.1.1.128/25"]));
    let mut allocator = Allocator::new(1);
    let mut pick = |asked: &[&str]| {
        let asked: Vec<IpAddr> = asked.iter().map(|text| ip(text)).collect();
        let ips = allocator.pick(&state, &state.networks[0], &asked, now)?;
        Ok::<_, ApiError>(ips.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    // Outside the ranges is fine; the other family is allocated, in the order of the subnets.
    let got = pick(&["fd00:1::7"]).unwrap();
    assert!(got[0].starts_with("10.1.1.1") && got[1] == "fd00:1::7/64", "{got:?}");
    let got = pick(&["10.1.1.8", "10.1.1.9"]).unwrap();
    assert!(got[..2] == ["10.1.1.8/24", "10.1.1.9/24"] && got[2].starts_with("fd00:1::1"), "{got:?}");
    let e = pick(&["10.7.0.1"]).unwrap_err();
    assert_eq!(
        (e.reason, e.message.contains("in no subnet of network pods")),
        (Reason::InvalidArgument, true)
    );
    let e = pick(&["10.1.1.129"]).unwrap_err();
    assert_eq!(
        (e.reason, e.message.contains("belongs to peer b (pod CIDR 10.1.1.128/25)")),
        (Reason::Conflict, true)
    );
    // The peer's half of the range is not given either.
    for _ in 0..28 {
        let got = pick(&[]).unwrap();
        let last: u8 = got[0].strip_prefix("10.1.1.").unwrap().strip_suffix("/24").unwrap().parse().unwrap();
        assert!((100..128).contains(&last), "{got:?}");
    }
}

#[test]
fn what_rests_may_be_asked_for() {
    let now = Instant::now();
    let mut state = state(&["10.1.1.0/30"]);
    let mut allocator = Allocator::new(1);
    give(&mut allocator, &mut state, now).unwrap();
    release(&mut allocator, &mut state, ip("10.1.1.2"), now);
    let later = now + Duration::from_secs(20);
    let e = give(&mut allocator, &mut state, later).unwrap_err();
    let expected = "network pods has no IPv4 address left: 0 of 1 are in use, \
                    1 were just released and are given again from in 40 s on";
    assert_eq!((e.reason, e.message.as_str()), (Reason::Limit, expected));
    assert!(e.hint.starts_with("try again in 40 s"), "{}", e.hint);
    let asked = allocator.pick(&state, &state.networks[0], &[ip("10.1.1.2")], later).unwrap();
    assert_eq!(asked[0].to_string(), "10.1.1.2/30");
    assert!(give(&mut allocator, &mut state, now + QUARANTINE).is_ok());
}

#[test]
fn large_ranges_are_not_counted_through() {
    let now = Instant::now();
    // A /64 of which nothing comes back, and the largest there can be.
    for subnet in ["fd00:1::/64", "::/0", "0.0.0.0/0"] {
        let mut state = state(&[subnet]);
        state.networks[0].subnets[0].gateway = None;
        let mut allocator = Allocator::new(9);
        let (mut seen, mut last) = (BTreeSet::new(), None);
        for _ in 0..1000 {
            let got: IpNet = give(&mut allocator, &mut state, now).unwrap()[0].parse().unwrap();
            assert!(last.is_none_or(|last| got.addr() > last) && seen.insert(got.addr()));
            last = Some(got.addr());
            let mut before = state.clone();
            std::mem::swap(&mut before.ports, &mut state.ports);
            state.ports = Vec::new();
            allocator.follow(&before, &state, now);
        }
        // The start is among the first 65,536, so addresses are short.
        let first = spans::number(*seen.first().unwrap()) - spans::of_net(&subnet.parse().unwrap()).0;
        assert!(first <= START_WITHIN, "{first}");
    }
    // A /16 with one hole.
    let mut state = state(&["10.1.0.0/16"]);
    let subnet: IpNet = "10.1.0.0/16".parse().unwrap();
    for (n, ip) in subnet.hosts().skip(1).filter(|ip| *ip != self::ip("10.1.200.7")).enumerate() {
        let mut full = port("p", "pods", &[]);
        full.name = format!("f{n}");
        full.ips = vec![IpNet::new(ip, 16).unwrap()];
        state.ports.push(full);
    }
    for seed in 0..20 {
        let mut allocator = Allocator::new(seed);
        let got = allocator.pick(&state, &state.networks[0], &[], now).unwrap();
        assert_eq!(got[0].to_string(), "10.1.200.7/16");
    }
}

#[test]
fn a_restart_begins_elsewhere() {
    let state = state(&["10.1.0.0/16"]);
    let now = Instant::now();
    let first = |seed| Allocator::new(seed).pick(&state, &state.networks[0], &[], now).unwrap()[0];
    let places: BTreeSet<IpNet> = (0..100).map(first).collect();
    assert!(places.len() > 90, "{} of 100 places", places.len());
    assert_eq!(first(5), first(5));
}

#[test]
fn only_what_no_port_has_any_more_rests() {
    let now = Instant::now();
    let mut allocator = Allocator::new(1);
    let mut before = state(&["10.1.1.0/24"]);
    before.ports =
        vec![port("a", "pods", &["10.1.1.2/24"]), port("b", "pods", &["10.1.1.3/24", "10.1.1.4/24"])];
    let mut after = before.clone();
    after.ports.remove(0);
    after.ports[0].ips.remove(0);
    after.ports.push(port("c", "pods", &["10.1.1.3/24"]));
    let released = allocator.follow(&before, &after, now);
    assert_eq!(released, [("pods".to_owned(), ip("10.1.1.2"))]);
    assert_eq!(allocator.follow(&after, &after, now), []);
    let mut more = after.clone();
    more.ports.push(port("d", "pods", &["10.1.1.5/24"]));
    assert_eq!(allocator.follow(&after, &more, now), []);
    let supply = |allocator: &Allocator, at| allocator.supplies(&more, &more.networks[0], at)[0];
    assert_eq!((supply(&allocator, now).used, supply(&allocator, now).resting), (3, 1));
    assert_eq!(supply(&allocator, now + QUARANTINE).resting, 0);
    // What was given again by request is in use, not resting; and bookkeeping ends with its time.
    let mut again = more.clone();
    again.ports.push(port("e", "pods", &["10.1.1.2/24"]));
    allocator.follow(&more, &again, now);
    let supplies = allocator.supplies(&again, &again.networks[0], now);
    assert_eq!((supplies[0].used, supplies[0].resting, supplies[0].next), (4, 0, None));
    let empty = DesiredState::default();
    allocator.pick(&again, &again.networks[0], &[], now).unwrap();
    allocator.follow(&again, &empty, now + QUARANTINE);
    assert_eq!((allocator.resting.len(), allocator.cursors.len()), (4, 0));
}

#[test]
fn a_network_may_have_nothing_to_give() {
    let now = Instant::now();
    let mut plain = state(&[]);
    assert_eq!(Allocator::new(1).pick(&plain, &plain.networks[0], &[], now), Ok(Vec::new()));
    assert_eq!(Allocator::new(1).supplies(&plain, &plain.networks[0], now), []);
    plain = state(&["10.1.1.0/24", "fd00:1::/64"]);
    plain.networks[0].ranges = vec![range("10.1.1.100-10.1.1.199")];
    let e = Allocator::new(1).pick(&plain, &plain.networks[0], &[], now).unwrap_err();
    assert_eq!(e.reason, Reason::Limit);
    assert!(e.message.contains("no IPv6 address") && e.hint.contains("ranges"), "{e} {}", e.hint);
}
