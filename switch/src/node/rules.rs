//! A [`NodePlan`] as one table of nftables.
//!
//! The table is replaced as a whole, in one transaction of the kernel: no packet sees half of it, and nothing outside
//! of it is touched. Connections that are translated already keep their translation, which is conntrack's. It has
//! these chains, in the order a packet meets them:
//!
//! - `loopback` (raw): what pods send from or to 127.0.0.0/8 is dropped. Only there when a mapping serves 127.0.0.1,
//!   for which the node's device lets such addresses in (`route_localnet`).
//! - `prerouting`, `output` (nat): mappings, for packets from elsewhere and from the node itself. A mapping at
//!   127.0.0.1 is in `output` only: from elsewhere it would open to the network what was meant for the node.
//! - `between` (forward): keeps networks apart when the node has a device in several. Mapped ports stay reachable.
//! - `postrouting` (nat): what goes out by the node's address. Also connections whose destination was translated and
//!   that go back to the pods: their answer would reach the asker by the switch, past the kernel that has to
//!   translate it back. This serves mappings and the services of others alike.
//! - `redirects` (output): the kernel sends what came in from the switch back there for every such connection, and
//!   would tell pods of a shorter way, which to them does not exist.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use nftables::batch::Batch;
use nftables::expr::{
    CT, Expression, Fib, FibFlag, FibResult, Map, Meta, MetaKey, NamedExpression, Payload, PayloadField,
    Prefix, SetItem,
};
use nftables::schema::{Chain, NfListObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table};
use nftables::stmt::{Counter, Match, NAT, NATFamily, NATFlag, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::plan::{Mapping, NodePlan};

const FAMILY: NfFamily = NfFamily::INet;
/// `NF_IP_PRI_RAW`, before connections are tracked.
const RAW: i32 = -300;
/// `NF_IP_PRI_NAT_DST`.
const DSTNAT: i32 = -100;
/// `NF_IP_PRI_FILTER`.
const FILTER: i32 = 0;
/// `NF_IP_PRI_NAT_SRC`.
const SRCNAT: i32 = 100;

/// All that the switch reaches by itself; one set of each family.
const CLUSTER: [&str; 2] = ["cluster4", "cluster6"];
/// Destinations that see pods' own addresses.
const UNTRANSLATED: [&str; 2] = ["untranslated4", "untranslated6"];

/// The transaction that makes the table `name` what the plan says, whatever it was before.
#[must_use]
pub fn replace(name: &str, plan: &NodePlan) -> Nftables<'static> {
    let mut table = Writer::new(name);
    table.sets(CLUSTER, &plan.cluster);
    table.sets(UNTRANSLATED, &plan.untranslated);
    loopback(&mut table, plan);
    mappings(&mut table, plan);
    between(&mut table, plan);
    postrouting(&mut table, plan);
    redirects(&mut table, plan);
    table.batch.to_nftables()
}

/// The transaction that removes the table `name`, if it is there.
#[must_use]
pub fn remove(name: &str) -> Nftables<'static> {
    let mut batch = Batch::new();
    // Deleting what is not there would be an error.
    batch.add(table(name));
    batch.delete(table(name));
    batch.to_nftables()
}

fn table(name: &str) -> NfListObject<'static> {
    NfListObject::Table(Table { family: FAMILY, name: Cow::Owned(name.to_owned()), handle: None })
}

fn loopback(table: &mut Writer, plan: &NodePlan) {
    if !plan.loopback() {
        return;
    }
    let chain = table.chain("loopback", NfChainType::Filter, NfHook::Prerouting, RAW);
    for side in ["saddr", "daddr"] {
        table.rule(chain, [devices(MetaKey::Iifname, plan), of_loopback(side), count(), drop()]);
    }
}

fn mappings(table: &mut Writer, plan: &NodePlan) {
    if plan.mappings.is_empty() {
        return;
    }
    for (chain, hook, inside) in [("prerouting", NfHook::Prerouting, false), ("output", NfHook::Output, true)]
    {
        let chain = table.chain(chain, NfChainType::NAT, hook, DSTNAT);
        for v4 in [true, false] {
            let family = plan.mappings.iter().filter(|m| m.pod.is_ipv4() == v4);
            let (all, some): (Vec<&Mapping>, Vec<&Mapping>) = family.partition(|m| m.at.is_none());
            let some = some.into_iter().filter(|m| inside || m.at.is_some_and(|ip| !ip.is_loopback()));
            let some: Vec<&Mapping> = some.collect();
            if !some.is_empty() {
                table.rule(chain, [dnat(v4, true, &some)]);
            }
            if !all.is_empty() {
                table.rule(chain, [is_family(v4), to_this_node(), dnat(v4, false, &all)]);
            }
        }
    }
}

fn between(table: &mut Writer, plan: &NodePlan) {
    if plan.devices.len() < 2 {
        return;
    }
    let chain = table.chain("between", NfChainType::Filter, NfHook::Forward, FILTER);
    table.rule(chain, [translated(), Statement::Accept(None)]);
    for device in &plan.devices {
        let others = plan.devices.iter().filter(|d| d.ifname != device.ifname).map(|d| text(&d.ifname));
        let from = compare(meta(MetaKey::Iifname), Operator::EQ, text(&device.ifname));
        let to = compare(meta(MetaKey::Oifname), Operator::EQ, set(others.collect()));
        table.rule(chain, [from, to, count(), drop()]);
    }
}

fn postrouting(table: &mut Writer, plan: &NodePlan) {
    let chain = table.chain("postrouting", NfChainType::NAT, NfHook::Postrouting, SRCNAT);
    for (v4, name) in [true, false].into_iter().zip(CLUSTER) {
        if plan.cluster.iter().any(|n| n.addr().is_ipv4() == v4) {
            let back = [devices(MetaKey::Oifname, plan), translated(), in_set(v4, "saddr", name), count()];
            table.rule(chain, back.into_iter().chain([masquerade()]));
        }
    }
    if plan.loopback() {
        let own = of_loopback("saddr");
        table.rule(chain, [devices(MetaKey::Oifname, plan), translated(), own, count(), masquerade()]);
    }
    if !plan.devices.iter().any(|d| d.masquerade) {
        return;
    }
    // The node itself, speaking to itself with the address of its device.
    table.rule(chain, [to_this_node(), Statement::Return(None)]);
    for (v4, name) in [true, false].into_iter().zip(UNTRANSLATED) {
        let of_family = |nets: &[IpNet]| -> Vec<IpNet> {
            nets.iter().copied().filter(|n| n.addr().is_ipv4() == v4).collect()
        };
        let masquerading = plan.devices.iter().filter(|d| d.masquerade);
        let pods: Vec<(Vec<IpNet>, Vec<IpNet>)> =
            masquerading.map(|d| (of_family(&d.subnets), of_family(&d.except))).collect();
        if pods.iter().all(|(subnets, _)| subnets.is_empty()) {
            continue;
        }
        table.rule(chain, [in_set(v4, "daddr", name), Statement::Return(None)]);
        for (subnets, except) in pods.iter().filter(|(subnets, _)| !subnets.is_empty()) {
            let from = within(v4, "saddr", subnets);
            if !except.is_empty() {
                let to = within(v4, "daddr", except);
                table.rule(chain, [from.clone(), to, Statement::Return(None)]);
            }
            table.rule(chain, [from, count(), masquerade()]);
        }
    }
}

fn redirects(table: &mut Writer, plan: &NodePlan) {
    let chain = table.chain("redirects", NfChainType::Filter, NfHook::Output, FILTER);
    for (protocol, kind) in [("icmp", "redirect"), ("icmpv6", "nd-redirect")] {
        let redirect = compare(field(protocol, "type"), Operator::EQ, text(kind));
        table.rule(chain, [devices(MetaKey::Oifname, plan), redirect, drop()]);
    }
}

/// Collects the objects of one table.
struct Writer {
    name: String,
    batch: Batch<'static>,
}

impl Writer {
    fn new(name: &str) -> Self {
        let mut batch = Batch::new();
        batch.add(table(name));
        batch.delete(table(name));
        batch.add(table(name));
        Self { name: name.to_owned(), batch }
    }

    fn table(&self) -> Cow<'static, str> {
        Cow::Owned(self.name.clone())
    }

    /// Two sets of ranges, one of each family; none where it would be empty. Ranges must not overlap.
    fn sets(&mut self, names: [&'static str; 2], nets: &[IpNet]) {
        for (v4, name) in [true, false].into_iter().zip(names) {
            let elements: Vec<_> = nets.iter().filter(|n| n.addr().is_ipv4() == v4).map(element).collect();
            if elements.is_empty() {
                continue;
            }
            self.batch.add(NfListObject::Set(Box::new(Set {
                family: FAMILY,
                table: self.table(),
                name: Cow::Borrowed(name),
                set_type: SetTypeValue::Single(if v4 { SetType::Ipv4Addr } else { SetType::Ipv6Addr }),
                flags: Some(HashSet::from([SetFlag::Interval])),
                elem: Some(Cow::Owned(elements)),
                ..Set::default()
            })));
        }
    }

    fn chain(&mut self, name: &'static str, kind: NfChainType, hook: NfHook, prio: i32) -> &'static str {
        self.batch.add(NfListObject::Chain(Chain {
            family: FAMILY,
            table: self.table(),
            name: Cow::Borrowed(name),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(prio),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        }));
        name
    }

    fn rule(&mut self, chain: &'static str, statements: impl IntoIterator<Item = Statement<'static>>) {
        self.batch.add(NfListObject::Rule(Rule {
            family: FAMILY,
            table: self.table(),
            chain: Cow::Borrowed(chain),
            expr: Cow::Owned(statements.into_iter().collect()),
            ..Rule::default()
        }));
    }
}

fn compare(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn named(expression: NamedExpression<'static>) -> Expression<'static> {
    Expression::Named(expression)
}

fn text(text: &str) -> Expression<'static> {
    Expression::String(Cow::Owned(text.to_owned()))
}

fn set(items: Vec<Expression<'static>>) -> Expression<'static> {
    named(NamedExpression::Set(items.into_iter().map(SetItem::Element).collect()))
}

fn meta(key: MetaKey) -> Expression<'static> {
    named(NamedExpression::Meta(Meta { key }))
}

fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: Cow::Borrowed(protocol), field: Cow::Borrowed(field) };
    named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn address(v4: bool, side: &'static str) -> Expression<'static> {
    field(if v4 { "ip" } else { "ip6" }, side)
}

fn prefix(addr: IpAddr, len: u32) -> Expression<'static> {
    named(NamedExpression::Prefix(Prefix { addr: Box::new(text(&addr.to_string())), len }))
}

fn element(net: &IpNet) -> Expression<'static> {
    if net.prefix_len() == net.max_prefix_len() {
        text(&net.addr().to_string())
    } else {
        prefix(net.addr(), net.prefix_len().into())
    }
}

/// Is an address in one of these ranges?
fn within(v4: bool, side: &'static str, nets: &[IpNet]) -> Statement<'static> {
    compare(address(v4, side), Operator::EQ, set(nets.iter().map(element).collect()))
}

/// Is an address in 127.0.0.0/8?
fn of_loopback(side: &'static str) -> Statement<'static> {
    compare(address(true, side), Operator::EQ, prefix(IpAddr::from([127, 0, 0, 0]), 8))
}

/// Is an address in a set of the table?
fn in_set(v4: bool, side: &'static str, name: &str) -> Statement<'static> {
    compare(address(v4, side), Operator::EQ, text(&format!("@{name}")))
}

/// Does the packet come in or go out by one of the node's own devices?
fn devices(key: MetaKey, plan: &NodePlan) -> Statement<'static> {
    let names = plan.devices.iter().map(|d| text(&d.ifname)).collect();
    compare(meta(key), Operator::EQ, set(names))
}

fn is_family(v4: bool) -> Statement<'static> {
    compare(meta(MetaKey::Nfproto), Operator::EQ, text(if v4 { "ipv4" } else { "ipv6" }))
}

fn to_this_node() -> Statement<'static> {
    let fib = Fib { result: FibResult::Type, flags: HashSet::from([FibFlag::Daddr]) };
    compare(named(NamedExpression::Fib(fib)), Operator::EQ, text("local"))
}

/// Was the destination of the connection translated, by whomever?
fn translated() -> Statement<'static> {
    let status = named(NamedExpression::CT(CT { key: Cow::Borrowed("status"), family: None, dir: None }));
    compare(status, Operator::IN, text("dnat"))
}

fn count() -> Statement<'static> {
    Statement::Counter(Counter::Anonymous(None))
}

fn drop() -> Statement<'static> {
    Statement::Drop(None)
}

/// By the address of the interface it leaves by, from a random port: two pods that pick the same one at the same
/// moment do not collide.
fn masquerade() -> Statement<'static> {
    let flags = Some(HashSet::from([NATFlag::FullyRandom]));
    Statement::Masquerade(Some(NAT { addr: None, family: None, port: None, flags }))
}

/// Looks the new destination up by protocol and port and, with `exact`, by address.
fn dnat(v4: bool, exact: bool, mappings: &[&Mapping]) -> Statement<'static> {
    let concat = |parts: Vec<Expression<'static>>| named(NamedExpression::Concat(parts));
    let number = |port: u16| Expression::Number(port.into());
    let mut key = vec![meta(MetaKey::L4proto), field("th", "dport")];
    if exact {
        key.insert(0, address(v4, "daddr"));
    }
    let items = mappings.iter().map(|m| {
        let mut from = vec![text(m.protocol.as_str()), number(m.host_port)];
        if let Some(at) = m.at.filter(|_| exact) {
            from.insert(0, text(&at.to_string()));
        }
        SetItem::Mapping(concat(from), concat(vec![text(&m.pod.to_string()), number(m.container_port)]))
    });
    let data = named(NamedExpression::Set(items.collect()));
    Statement::DNAT(Some(NAT {
        addr: Some(named(NamedExpression::Map(Box::new(Map { key: concat(key), data })))),
        family: Some(if v4 { NATFamily::IP } else { NATFamily::IP6 }),
        port: None,
        flags: None,
    }))
}

#[cfg(test)]
mod tests {
    use ctl::desired::Protocol;

    use super::super::plan::Device;
    use super::*;
    use crate::io::NodeLink;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    fn plan() -> NodePlan {
        NodePlan {
            devices: vec![Device {
                port: "node".into(),
                ifname: "swd0".into(),
                addresses: nets(&["10.1.1.1/24"]),
                link: NodeLink::default(),
                subnets: nets(&["10.1.1.0/24", "fd00:1::/64"]),
                masquerade: true,
                except: nets(&["192.168.0.0/16"]),
            }],
            mappings: Vec::new(),
            cluster: nets(&["10.1.0.0/16"]),
            untranslated: nets(&["10.1.0.0/16", "224.0.0.0/4", "ff00::/8"]),
            underlay: None,
            problems: Vec::new(),
        }
    }

    fn mapping(protocol: Protocol, at: Option<&str>, host_port: u16, pod: &str) -> Mapping {
        let at = at.map(|ip| ip.parse().unwrap());
        Mapping { protocol, at, host_port, pod: pod.parse().unwrap(), container_port: 80 }
    }

    fn json(plan: &NodePlan) -> String {
        serde_json::to_string(&replace("swd", plan)).unwrap()
    }

    #[test]
    fn chains_are_there_when_they_have_a_purpose() {
        let chains = |plan: &NodePlan| -> Vec<String> {
            let rules = replace("swd", plan);
            let name = |o: &nftables::schema::NfObject<'_>| match o {
                nftables::schema::NfObject::CmdObject(nftables::schema::NfCmd::Add(NfListObject::Chain(
                    c,
                ))) => Some(c.name.to_string()),
                _ => None,
            };
            rules.objects.iter().filter_map(name).collect()
        };
        let mut plan = plan();
        assert_eq!(chains(&plan), ["postrouting", "redirects"]);
        plan.mappings.push(mapping(Protocol::Tcp, Some("192.0.2.1"), 8080, "10.1.1.2"));
        assert_eq!(chains(&plan), ["prerouting", "output", "postrouting", "redirects"]);
        plan.mappings.push(mapping(Protocol::Tcp, None, 8081, "10.1.1.2"));
        plan.devices.push(Device { ifname: "swd1".into(), ..plan.devices[0].clone() });
        let all = ["loopback", "prerouting", "output", "between", "postrouting", "redirects"];
        assert_eq!(chains(&plan), all);
    }

    #[test]
    fn a_mapping_at_loopback_is_not_for_the_network() {
        let mut plan = plan();
        plan.mappings.push(mapping(Protocol::Tcp, Some("127.0.0.1"), 8080, "10.1.1.2"));
        let json = json(&plan);
        assert_eq!(json.matches("[\"127.0.0.1\",\"tcp\",8080]").count(), 1, "{json}");
        let output = json.find("\"chain\":\"output\"").unwrap();
        assert!(json.find("[\"127.0.0.1\",\"tcp\",8080]").unwrap() > output, "{json}");
    }

    #[test]
    fn nothing_is_translated_without_being_asked() {
        let mut plan = plan();
        plan.devices[0].masquerade = false;
        let text = json(&plan);
        assert_eq!(text.matches("masquerade").count(), 1, "only for translated destinations: {text}");
        assert!(text.contains("@cluster4") && !text.contains("@untranslated4"), "{text}");
    }
}
