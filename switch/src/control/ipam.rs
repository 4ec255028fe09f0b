//! Addresses for attachments.
//!
//! What is in use is what the declared ports have: the desired state is the only book, so an allocation is as
//! durable as its port and nothing can leak. Beside it, in memory, are two things that make a wrong delivery
//! unlikely when an address changes hands. A released address rests for [`QUARANTINE`] before it is given again.
//! And each subnet is gone round in order, so an address comes again as late as it can; after a restart, which
//! forgets both, the round begins at a place drawn at random. See `docs/ipam.md`.
//!
//! One allocation takes time in proportion to the ports of the network, whatever the size of its ranges.

mod spans;

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ctl::desired::{DesiredState, Network, RouteTarget};
use ctl::error::{ApiError, Reason};
use ipnet::IpNet;

use super::derive;
use crate::datapath::State;
use spans::Span;

/// How long a released address is not given again. Connections to the old pod are refused or reset in this time
/// instead of reaching another: it is the TIME-WAIT of Linux (60 s), and longer than its neighbours (15 to 45 s)
/// and ours (30 s) live without being confirmed.
pub const QUARANTINE: Duration = Duration::from_secs(60);

/// The round in a subnet begins somewhere in its first so many addresses: far enough from what the last run gave,
/// and IPv6 addresses stay short.
const START_WITHIN: u128 = 1 << 16;

/// A released address of a network.
pub type Released = (String, IpAddr);

/// Gives addresses.
#[derive(Debug)]
pub struct Allocator {
    seed: u64,
    /// By network and subnet: from where to look for the next one.
    cursors: HashMap<(String, IpNet), u128>,
    /// Released addresses, and until when they rest.
    resting: HashMap<Released, Instant>,
}

/// What one address family of a network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// IPv4, else IPv6.
    pub v4: bool,
    /// Addresses that may be given at all.
    pub size: u128,
    /// Of these, the ones in use.
    pub used: u128,
    /// Of these, the ones that rest.
    pub resting: u128,
    /// When the first of them has rested enough.
    pub next: Option<Instant>,
}

/// The addresses of one family that cannot be given, as sorted numbers.
#[derive(Default)]
struct Taken {
    used: Vec<u128>,
    resting: Vec<u128>,
    both: Vec<u128>,
    next: Option<Instant>,
}

impl Allocator {
    /// One whose rounds begin at places that follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, cursors: HashMap::new(), resting: HashMap::new() }
    }

    /// Addresses for one port, with the prefix length of their subnets: those asked for, and one of each family of
    /// which none was. Families come in the order of the network's subnets. A network without subnets has none to
    /// give, which is no error. Nothing is reserved: the caller declares the port, or not.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`] and [`Reason::Conflict`] for an address asked for that is on no subnet or behind
    /// a peer, [`Reason::Limit`] when there is none left. Whether an address asked for belongs to another port is
    /// for [`DesiredState::check`].
    pub fn pick(
        &mut self,
        desired: &DesiredState,
        network: &Network,
        asked: &[IpAddr],
        now: Instant,
    ) -> Result<Vec<IpNet>, ApiError> {
        let mut nets = Vec::with_capacity(asked.len());
        for ip in asked {
            nets.push(on_subnet(desired, network, *ip)?);
        }
        let mut ips = Vec::new();
        for v4 in families(network) {
            let before = ips.len();
            ips.extend(nets.iter().filter(|net| net.addr().is_ipv4() == v4));
            if ips.len() == before {
                ips.push(self.allocate(desired, network, v4, now)?);
            }
        }
        Ok(ips)
    }

    fn allocate(
        &mut self,
        desired: &DesiredState,
        network: &Network,
        v4: bool,
        now: Instant,
    ) -> Result<IpNet, ApiError> {
        let taken = self.taken(desired, network, v4, now);
        for subnet in subnets(network, v4) {
            let pool = pool(desired, network, subnet);
            let key = (network.name.clone(), *subnet);
            let from = self.cursors.get(&key).copied().unwrap_or_else(|| self.start(&key, &pool));
            if let Some(free) = spans::first_free(&pool, &taken.both, from) {
                self.cursors.insert(key, free.saturating_add(1));
                return with_length(subnet, spans::address(v4, free));
            }
        }
        Err(exhausted(network, &supply(desired, network, v4, &taken), now))
    }

    /// Where the round in a subnet begins.
    fn start(&self, key: &(String, IpNet), pool: &[Span]) -> u128 {
        let within = spans::size(pool).clamp(1, START_WITHIN);
        let place = u128::from(State::new(self.seed).hash_one(key)) % within;
        spans::nth(pool, place).unwrap_or(0)
    }

    /// What each family of a network has.
    #[must_use]
    pub fn supplies(&self, desired: &DesiredState, network: &Network, now: Instant) -> Vec<Supply> {
        let of = |v4| supply(desired, network, v4, &self.taken(desired, network, v4, now));
        families(network).into_iter().map(of).collect()
    }

    /// Notes that one desired state follows another: addresses that no port has any more rest from now on. Returns
    /// them.
    pub fn follow(&mut self, before: &DesiredState, after: &DesiredState, now: Instant) -> Vec<Released> {
        // By far the most changes leave the ports alone, or add one.
        if after.ports.starts_with(&before.ports) {
            return Vec::new();
        }
        let kept: HashSet<(&str, IpAddr)> = addresses(after).collect();
        let gone = addresses(before).filter(|key| !kept.contains(key));
        let released: Vec<Released> = gone.map(|(network, ip)| (network.to_owned(), ip)).collect();
        self.resting.retain(|_, until| *until > now);
        self.resting.extend(released.iter().map(|key| (key.clone(), now + QUARANTINE)));
        self.cursors.retain(|(name, subnet), _| {
            after.networks.iter().any(|n| n.name == *name && n.subnets.iter().any(|s| s.cidr == *subnet))
        });
        released
    }

    fn taken(&self, desired: &DesiredState, network: &Network, v4: bool, now: Instant) -> Taken {
        let mut taken = Taken::default();
        let here = |name: &str| name == network.name;
        let ports = addresses(desired).filter(|(name, _)| here(name)).map(|(_, ip)| ip);
        // A neighbour or next hop that somebody declared has its address from elsewhere.
        let neighbours = desired.neighbours.iter().filter(|n| here(&n.network)).map(|n| n.ip);
        let hops = desired.routes.iter().filter(|r| here(&r.network)).filter_map(|r| match r.target {
            RouteTarget::NextHop(ip) => Some(ip),
            _ => None,
        });
        let used = ports.chain(neighbours).chain(hops).filter(|ip| ip.is_ipv4() == v4);
        taken.used = used.map(spans::number).collect();
        taken.used.sort_unstable();
        taken.used.dedup();
        for ((name, ip), until) in &self.resting {
            let number = spans::number(*ip);
            if here(name) && ip.is_ipv4() == v4 && *until > now && taken.used.binary_search(&number).is_err()
            {
                taken.resting.push(number);
                taken.next = Some(taken.next.map_or(*until, |next| next.min(*until)));
            }
        }
        taken.resting.sort_unstable();
        taken.both = [taken.used.as_slice(), &taken.resting].concat();
        taken.both.sort_unstable();
        taken
    }
}

impl Supply {
    /// Addresses that could be given now.
    #[must_use]
    pub fn free(&self) -> u64 {
        u64::try_from(self.size.saturating_sub(self.used).saturating_sub(self.resting)).unwrap_or(u64::MAX)
    }
}

/// Why no address of this family can be given.
#[must_use]
pub fn exhausted(network: &Network, supply: &Supply, now: Instant) -> ApiError {
    let Supply { size, used, resting, .. } = *supply;
    let family = if supply.v4 { "IPv4" } else { "IPv6" };
    let name = &network.name;
    if size == 0 {
        let text = format!("network {name} has no {family} address to give");
        return ApiError::new(Reason::Limit, text).hint(format!(
            "its ranges, excluded addresses and the pod CIDRs of peers leave none: swctl network show {name} -o json"
        ));
    }
    let mut text = format!("network {name} has no {family} address left: {used} of {size} are in use");
    let hint = match supply.next {
        Some(next) => {
            let seconds = next.saturating_duration_since(now).as_millis().div_ceil(1000);
            text += &format!(", {resting} were just released and are given again from in {seconds} s on");
            format!("try again in {seconds} s, or widen the network's subnets or ranges")
        }
        None => {
            "widen the network's subnets or ranges, or delete what is not needed: swctl port show".to_owned()
        }
    };
    ApiError::new(Reason::Limit, text).hint(hint)
}

fn supply(desired: &DesiredState, network: &Network, v4: bool, taken: &Taken) -> Supply {
    let mut supply = Supply { v4, size: 0, used: 0, resting: 0, next: taken.next };
    for subnet in subnets(network, v4) {
        let pool = pool(desired, network, subnet);
        supply.size = supply.size.saturating_add(spans::size(&pool));
        supply.used += spans::count_in(&pool, &taken.used);
        supply.resting += spans::count_in(&pool, &taken.resting);
    }
    if supply.resting == 0 {
        supply.next = None;
    }
    supply
}

/// The addresses of all ports, with their networks.
fn addresses(desired: &DesiredState) -> impl Iterator<Item = (&str, IpAddr)> {
    desired.ports.iter().flat_map(|p| p.ips.iter().map(|ip| (p.network.as_str(), ip.addr())))
}

/// The address families of a network, in the order of its subnets.
fn families(network: &Network) -> Vec<bool> {
    let mut families = Vec::with_capacity(2);
    for subnet in &network.subnets {
        let v4 = subnet.cidr.addr().is_ipv4();
        if !families.contains(&v4) {
            families.push(v4);
        }
    }
    families
}

fn subnets(network: &Network, v4: bool) -> impl Iterator<Item = &IpNet> {
    network.subnets.iter().map(|s| &s.cidr).filter(move |cidr| cidr.addr().is_ipv4() == v4)
}

/// The parts of a subnet that are routed to peers. A pod CIDR as large as the subnet takes nothing: the connected
/// route wins, and the subnet is shared.
fn elsewhere<'a>(
    desired: &'a DesiredState,
    network: &'a Network,
    subnet: &'a IpNet,
) -> impl Iterator<Item = (&'a str, &'a IpNet)> {
    let peers = desired.peers.iter().filter(|p| derive::applies(p, network));
    let cidrs = peers.flat_map(|p| p.pod_cidrs.iter().map(|cidr| (p.name.as_str(), cidr)));
    cidrs.filter(|(_, cidr)| subnet.contains(*cidr) && cidr.prefix_len() > subnet.prefix_len())
}

/// The addresses of a subnet that may be given.
fn pool(desired: &DesiredState, network: &Network, subnet: &IpNet) -> Vec<Span> {
    let v4 = subnet.addr().is_ipv4();
    let hosts = spans::hosts(subnet);
    let same = |range: &&ctl::desired::AddressRange| range.first().is_ipv4() == v4;
    let ranges = match network.ranges.is_empty() {
        true => vec![hosts],
        false => network
            .ranges
            .iter()
            .filter(same)
            .filter_map(|range| spans::clip(spans::of_range(range), hosts))
            .collect(),
    };
    let excluded = network.exclude.iter().filter(same).map(spans::of_range);
    let gateways = network.subnets.iter().filter_map(|s| s.gateway).filter(|ip| ip.is_ipv4() == v4);
    let gateways = gateways.map(|ip| (spans::number(ip), spans::number(ip)));
    let peers = elsewhere(desired, network, subnet).map(|(_, cidr)| spans::of_net(cidr));
    let holes = spans::union(excluded.chain(gateways).chain(peers).collect());
    spans::without(&spans::union(ranges), &holes)
}

/// An address somebody asked for, with the length of its subnet.
fn on_subnet(desired: &DesiredState, network: &Network, ip: IpAddr) -> Result<IpNet, ApiError> {
    let name = &network.name;
    let Some(subnet) = network.subnets.iter().map(|s| &s.cidr).find(|cidr| cidr.contains(&ip)) else {
        return Err(ApiError::invalid(
            format_args!("address {ip}"),
            format!("it is in no subnet of network {name}"),
        )
        .hint(format!("see its subnets: swctl network show {name}")));
    };
    if let Some((peer, cidr)) = elsewhere(desired, network, subnet).find(|(_, cidr)| cidr.contains(&ip)) {
        let text = format!("address {ip}: it belongs to peer {peer} (pod CIDR {cidr})");
        return Err(
            ApiError::new(Reason::Conflict, text).hint(format!("see its pod CIDRs: swctl peer show {peer}"))
        );
    }
    with_length(subnet, ip)
}

fn with_length(subnet: &IpNet, ip: IpAddr) -> Result<IpNet, ApiError> {
    // Of the same family, so its length fits.
    IpNet::new(ip, subnet.prefix_len())
        .map_err(|e| ApiError::new(Reason::Internal, format!("address {ip}: {e}")))
}

#[cfg(test)]
#[path = "ipam_tests.rs"]
mod tests;
