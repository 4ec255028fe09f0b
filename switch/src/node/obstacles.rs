//! What on this host stands in the way of the node's port, and the command that mends it.
//!
//! An obstacle is not an error: everything of ours is in place, and something that is not ours keeps it from working.
//! It is told, never mended behind the operator's back: a firewall that forbids is somebody's decision.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::forward::{ChainId, Fate, Packet, Ruleset};
use super::plan::{Device, NodePlan};

/// Something in the way.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Obstacle {
    /// A sentence.
    pub message: String,
    /// What to type, or to do.
    pub hint: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.hint)
    }
}

/// What was found out about the host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Is there an `nft`?
    pub nft: bool,
    /// The name of our own table, whose chains are no obstacle.
    pub table: String,
    /// Settings that were wanted and are otherwise: name below `/proc/sys/net` and wanted value.
    pub unset: Vec<(String, u32)>,
    /// Interface that has the underlay address.
    pub uplink: Option<String>,
    /// Interfaces, of ours and the uplink, that check senders strictly.
    pub strict: Vec<String>,
    /// `nft -j list ruleset`, if some table has a chain at the hook `forward`.
    pub ruleset: Option<Value>,
    /// `iptables-legacy-save -t filter`, if that is in use.
    pub legacy_v4: Option<String>,
    /// `ip6tables-legacy-save -t filter`, if that is in use.
    pub legacy_v6: Option<String>,
    /// Listing these took too long, so what they do is not known.
    pub unlisted: bool,
    /// Why flows of changed UDP mappings could not be forgotten.
    pub unforgotten: Option<String>,
}

/// Lists the obstacles.
#[must_use]
pub fn of(plan: &NodePlan, facts: &Facts) -> Vec<Obstacle> {
    if plan.devices.is_empty() {
        return Vec::new();
    }
    let mut list = Vec::new();
    let mut add = |message: String, hint: String| list.push(Obstacle { message, hint });
    if !facts.nft {
        add(
            "`nft` is not installed: pods do not reach the outside, and no port of the node leads to them"
                .to_owned(),
            "install the package nftables".to_owned(),
        );
    }
    for (name, value) in &facts.unset {
        let dotted = dotted(name);
        add(
            format!("{dotted} is not {value} and cannot be set: {}", purpose(name)),
            format!("sysctl -w {dotted}={value}, where /proc/sys is writable"),
        );
    }
    for ifname in &facts.strict {
        let dotted = dotted(&format!("ipv4/conf/{ifname}/rp_filter"));
        add(
            format!(
                "{ifname} takes only packets whose sender it leads to: what comes from other nodes may be dropped"
            ),
            format!("sysctl -w {dotted}=2"),
        );
    }
    if facts.unlisted {
        add(
            "listing the rules of this host takes too long, so it is not known whether a firewall is in the way"
                .to_owned(),
            "see whether this ends: `nft list ruleset`".to_owned(),
        );
    }
    if let Some(why) = &facts.unforgotten {
        add(
            format!("flows of changed UDP mappings still go where they went before: {why}"),
            "install the package conntrack; until then they end after a pause of 30 s, or 2 min".to_owned(),
        );
    }
    let rulesets = [
        facts.ruleset.as_ref().map(|r| (Ruleset::of_nft(r), false)),
        facts.legacy_v4.as_ref().map(|text| (Ruleset::of_iptables(text, "ip"), true)),
        facts.legacy_v6.as_ref().map(|text| (Ruleset::of_iptables(text, "ip6"), true)),
    ];
    for (ruleset, legacy) in rulesets.into_iter().flatten() {
        list.extend(firewalls(plan, facts, &ruleset, legacy));
    }
    list
}

/// The chains that drop what our devices forward.
fn firewalls(plan: &NodePlan, facts: &Facts, ruleset: &Ruleset, legacy: bool) -> Vec<Obstacle> {
    // Of a host without an uplink it is not known where packets go; no firewall has a rule for this name.
    let other = facts.uplink.as_deref().unwrap_or("?");
    let mut blocked: BTreeMap<&ChainId, Vec<&Device>> = BTreeMap::new();
    for id in ruleset.base_chains() {
        if id.family == "inet" && id.table == facts.table {
            continue;
        }
        for device in &plan.devices {
            let speaks = |v4: bool| device.addresses.iter().any(|a| a.addr().is_ipv4() == v4);
            if id.family == "ip" && !speaks(true) || id.family == "ip6" && !speaks(false) {
                continue;
            }
            let out = Packet { iif: &device.ifname, oif: other, established: false, dnat: false };
            let back = Packet { iif: other, oif: &device.ifname, established: true, dnat: false };
            let mapped = Packet { established: false, dnat: true, ..back };
            let packets = [Some(out), Some(back), Some(mapped).filter(|_| !plan.mappings.is_empty())];
            if packets.iter().flatten().any(|p| ruleset.fate(id, p) == Fate::Dropped) {
                blocked.entry(id).or_default().push(device);
            }
        }
    }
    blocked
        .into_iter()
        .map(|(id, devices)| {
            let names = devices.iter().map(|d| d.ifname.as_str()).collect::<Vec<_>>().join(", ");
            let whose = if legacy { "of iptables-legacy " } else { "" };
            Obstacle {
                message: format!(
                    "chain {} of table {} {} {whose}drops what {names} forwards, so pods do not reach the outside",
                    id.name, id.family, id.table
                ),
                hint: devices.iter().map(|d| mend(id, ruleset, legacy, &d.ifname)).collect::<Vec<_>>().join(" && "),
            }
        })
        .collect()
}

/// The command that lets a device's packets pass a chain, in the words of who made the chain.
fn mend(id: &ChainId, ruleset: &Ruleset, legacy: bool, ifname: &str) -> String {
    let ChainId { family, table, name } = id;
    if table == "firewalld" {
        return format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={ifname} && firewall-cmd --reload"
        );
    }
    if table == "filter" && name == "FORWARD" {
        if ruleset.has(id, "ufw-user-forward") || ruleset.has(id, "ufw6-user-forward") {
            return format!("ufw route allow in on {ifname} && ufw route allow out on {ifname}");
        }
        let tool = match (family.as_str(), legacy) {
            ("ip6", false) => "ip6tables",
            ("ip6", true) => "ip6tables-legacy",
            (_, true) => "iptables-legacy",
            _ => "iptables",
        };
        // The chain that Docker keeps its hands off.
        let chain = if ruleset.has(id, "DOCKER-USER") { "DOCKER-USER" } else { "FORWARD" };
        return format!("{tool} -I {chain} -i {ifname} -j ACCEPT && {tool} -I {chain} -o {ifname} -j ACCEPT");
    }
    format!(
        "nft insert rule {family} {table} {name} iifname {ifname} accept && nft insert rule {family} {table} {name} oifname {ifname} accept"
    )
}

/// As `sysctl` writes it: a dot in the name of an interface becomes a slash.
fn dotted(name: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    format!("net.{}", name.chars().map(swap).collect::<String>())
}

fn purpose(name: &str) -> &'static str {
    if name.ends_with("route_localnet") {
        "mappings do not serve 127.0.0.1"
    } else {
        "the kernel forwards nothing between the pods and the outside"
    }
}

#[cfg(test)]
#[path = "obstacles_tests.rs"]
mod tests;
