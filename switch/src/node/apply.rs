//! Brings a plan into the node's kernel, and looks whether it is still there.
//!
//! The kernel is the one of the network namespace that the calling thread is in, which must be that of the node's
//! devices. What is done: one table of nftables ([`super::rules`]), replaced when it has to be other than it is;
//! forwarding switched on where packets have to pass; `route_localnet` of the devices while a mapping serves
//! 127.0.0.1. Forwarding stays on when the table goes: nobody can know who else has come to need it.
//!
//! Several daemons in one namespace need tables of different names.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nftables::schema::Nftables;
use serde_json::Value;

use super::obstacles::{self, Facts, Obstacle};
use super::plan::{Mapping, NodePlan};
use super::{NodeError, conntrack, nft, program, rules};
use crate::io::netlink::Netlink;
use crate::io::sysctl;

/// What the node's kernel does for the pods beside having the device.
pub trait NodeHost {
    /// Makes the kernel do what the plan says; one without devices removes everything. True when something had to be
    /// changed. To be called again and again: a plan that is in place costs nothing.
    ///
    /// # Errors
    /// See [`NodeError`]; then everything is as before, or after [`NodeError::Stuck`] perhaps as the plan says.
    fn apply(&mut self, plan: &NodePlan) -> Result<bool, NodeError>;

    /// Removes everything, also what an earlier run left.
    ///
    /// # Errors
    /// See [`NodeError`].
    fn remove(&mut self) -> Result<(), NodeError>;

    /// Is the table as it was left? If not, the next [`NodeHost::apply`] makes it anew. Settings that somebody has
    /// changed are set again.
    ///
    /// # Errors
    /// See [`NodeError`].
    fn verify(&mut self) -> Result<bool, NodeError>;

    /// What stands in the way of the plan last applied, whether that worked or not. Lists the rules of all firewalls
    /// of the host, which with many thousands of them takes a while: not for every second.
    fn obstacles(&mut self) -> Vec<Obstacle>;
}

/// The real one.
#[derive(Debug)]
pub struct NftHost {
    table: String,
    plan: NodePlan,
    known: Known,
    unforgotten: Option<String>,
    /// Listing the rules of others took too long; not before then is it tried again.
    list_again_at: Option<Instant>,
}

/// How long others' rules are not listed again after that took too long.
const REST: Duration = Duration::from_secs(600);

/// Listing the rules of others took too long.
struct Slow;

/// What is known about the table.
#[derive(Debug)]
enum Known {
    /// An earlier run may have left one, or somebody has touched it.
    Nothing,
    /// There is none.
    Absent,
    /// It is there.
    Present { rules: Nftables<'static>, mappings: Vec<Mapping>, listing: Option<Value> },
}

impl NftHost {
    /// One that uses the table `inet TABLE`, all of it.
    ///
    /// # Errors
    /// [`NodeError::TableName`].
    pub fn new(table: &str) -> Result<Self, NodeError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let starts = table.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
        if !starts || table.len() > 128 || !table.bytes().all(allowed) {
            return Err(NodeError::TableName(table.chars().take(200).collect()));
        }
        let known = Known::Nothing;
        Ok(Self {
            table: table.to_owned(),
            plan: NodePlan::default(),
            known,
            unforgotten: None,
            list_again_at: None,
        })
    }

    /// Removes the table; true if there was one.
    fn clear(&mut self) -> Result<bool, NodeError> {
        let before = match &self.known {
            Known::Absent => return Ok(false),
            Known::Present { mappings, .. } => mappings.clone(),
            Known::Nothing => {
                match nft::table(&self.table) {
                    Ok(Some(_)) => {}
                    // Who may not look could not have made one.
                    Ok(None) | Err(NodeError::NoNft | NodeError::Permission(_)) => {
                        self.known = Known::Absent;
                        return Ok(false);
                    }
                    Err(e) => return Err(e),
                }
                Vec::new()
            }
        };
        nft::commit("removing the table", &rules::remove(&self.table))?;
        self.known = Known::Absent;
        self.unforgotten = conntrack::forget(&conntrack::changed(&before, &[])).err();
        Ok(true)
    }

    /// Sets what is to be set, as far as it can be; [`NodeHost::obstacles`] tells of the rest.
    fn settle(&self) {
        for (name, value) in settings(&self.plan) {
            if name == FORWARDING_V6 && sysctl::number(&name) == Some(0) {
                keep_router_discovery();
            }
            let _ = sysctl::set(&name, value);
        }
    }

    fn facts(&mut self) -> Facts {
        let uplink = self.uplink();
        let devices = self.plan.devices.iter().map(|d| d.ifname.clone());
        let strict =
            devices.chain(uplink.clone()).filter(|ifname| sysctl::strict_rp_filter(ifname)).collect();
        let mut facts = Facts {
            nft: program::find("nft").is_some(),
            table: self.table.clone(),
            unset: settings(&self.plan)
                .into_iter()
                // One that should be off and is on keeps nothing from working.
                .filter(|(name, value)| {
                    *value > 0 && sysctl::number(name).is_some_and(|found| found != *value)
                })
                .collect(),
            uplink,
            strict,
            unforgotten: self.unforgotten.clone(),
            ..Facts::default()
        };
        let now = Instant::now();
        if self.list_again_at.is_none_or(|at| now >= at) {
            self.list_again_at = self.list(&mut facts).err().map(|Slow| now + REST);
        }
        facts.unlisted = self.list_again_at.is_some();
        facts
    }

    /// Lists the rules of all firewalls.
    fn list(&self, facts: &mut Facts) -> Result<(), Slow> {
        facts.ruleset = self.ruleset()?;
        facts.legacy_v4 = legacy("ip_tables_names", "iptables-legacy-save")?;
        facts.legacy_v6 = legacy("ip6_tables_names", "ip6tables-legacy-save")?;
        Ok(())
    }

    /// The rules of nftables, unless nobody but us filters what is forwarded.
    fn ruleset(&self) -> Result<Option<Value>, Slow> {
        let list = |what, args: &[&str]| match nft::list(what, args) {
            Err(NodeError::Stuck { .. }) => Err(Slow),
            other => Ok(other.ok()),
        };
        let ours = |c: &Value| c["family"] == "inet" && c["table"] == self.table.as_str();
        let chains = list("listing chains", &["chains"])?;
        let others = chains.as_ref().and_then(|c| c["nftables"].as_array()).into_iter().flatten();
        let filtered = others
            .filter_map(|object| object.get("chain"))
            .any(|chain| chain["hook"] == "forward" && !ours(chain));
        if filtered { list("listing the rules", &["ruleset"]) } else { Ok(None) }
    }

    /// The interface that has the underlay address.
    fn uplink(&self) -> Option<String> {
        let addr = self.plan.underlay?;
        let mut netlink = Netlink::open().ok()?;
        let index = netlink.addresses().ok()?.into_iter().find(|a| a.net.addr() == addr)?.index;
        netlink.links().ok()?.into_iter().find(|l| l.index == index).map(|l| l.name)
    }
}

impl NftHost {
    /// Makes the table that of the plan.
    fn bring(&mut self, plan: &NodePlan) -> Result<bool, NodeError> {
        if plan.devices.is_empty() {
            return self.clear();
        }
        let wanted = rules::replace(&self.table, plan);
        let before = match &self.known {
            Known::Present { rules, .. } if *rules == wanted => {
                self.settle();
                return Ok(false);
            }
            Known::Present { listing, .. } => listing.clone(),
            Known::Absent => None,
            Known::Nothing => nft::table(&self.table)?,
        };
        nft::commit("setting up the table", &wanted)?;
        let listing = nft::table(&self.table)?;
        let stale = match &self.known {
            Known::Present { mappings, .. } => conntrack::changed(mappings, &plan.mappings),
            // What an earlier run left means the same: its flows may go on.
            _ if before == listing => Vec::new(),
            _ => conntrack::changed(&[], &plan.mappings),
        };
        self.known = Known::Present { rules: wanted, mappings: plan.mappings.clone(), listing };
        // Only now: nothing is forwarded untranslated, and nobody gets at 127.0.0.1, in between.
        self.settle();
        self.unforgotten = conntrack::forget(&stale).err();
        Ok(true)
    }
}

impl NodeHost for NftHost {
    fn apply(&mut self, plan: &NodePlan) -> Result<bool, NodeError> {
        self.plan = plan.clone();
        let brought = self.bring(plan);
        if matches!(brought, Err(NodeError::Stuck { .. })) {
            self.known = Known::Nothing;
        }
        brought
    }

    fn remove(&mut self) -> Result<(), NodeError> {
        self.apply(&NodePlan::default()).map(drop)
    }

    fn verify(&mut self) -> Result<bool, NodeError> {
        let intact = match &self.known {
            Known::Nothing => false,
            Known::Absent => return Ok(true),
            Known::Present { listing, .. } => {
                let now = nft::table(&self.table)?;
                now.is_some() && now == *listing
            }
        };
        if !intact {
            self.known = Known::Nothing;
        }
        self.settle();
        Ok(intact)
    }

    fn obstacles(&mut self) -> Vec<Obstacle> {
        if self.plan.devices.is_empty() {
            return Vec::new();
        }
        let facts = self.facts();
        obstacles::of(&self.plan, &facts)
    }
}

/// What a tool of iptables lists, where its tables are in use.
fn legacy(names: &str, tool: &str) -> Result<Option<String>, Slow> {
    let in_use = fs::read_to_string(Path::new("/proc/thread-self/net").join(names)).unwrap_or_default();
    let Some(tool) = program::find(tool).filter(|_| in_use.lines().any(|l| l == "filter")) else {
        return Ok(None);
    };
    match program::run(tool, &["-t", "filter"], None) {
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(Slow),
        other => Ok(other.ok().and_then(|output| String::from_utf8(output.stdout).ok())),
    }
}

const FORWARDING_V4: &str = "ipv4/ip_forward";
const FORWARDING_V6: &str = "ipv6/conf/all/forwarding";

/// The settings that a plan needs: name below `/proc/sys/net`, and value. Devices are ours, so what no mapping needs
/// of them any more is taken back; forwarding is everybody's and stays.
fn settings(plan: &NodePlan) -> Vec<(String, u32)> {
    let forwarding = [(FORWARDING_V4, true), (FORWARDING_V6, false)];
    let forwarding = forwarding.into_iter().filter(|(_, v4)| plan.forwards(*v4));
    let loopback = u32::from(plan.loopback());
    forwarding
        .map(|(name, _)| (name.to_owned(), 1))
        .chain(plan.devices.iter().map(|d| (format!("ipv4/conf/{}/route_localnet", d.ifname), loopback)))
        .collect()
}

/// A node that forwards IPv6 forgets the routes it learned from router advertisements, and hears no more of them,
/// unless an interface says that it listens all the same (`accept_ra` 2). Those that listened so far go on.
fn keep_router_discovery() {
    let Ok(entries) = fs::read_dir("/proc/sys/net/ipv6/conf") else { return };
    for name in entries.filter_map(|e| e.ok()?.file_name().into_string().ok()) {
        let name = format!("ipv6/conf/{name}/accept_ra");
        if sysctl::number(&name) == Some(1) {
            let _ = sysctl::set(&name, 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables() {
        for good in ["swd", "swd-a_1.b"] {
            assert!(NftHost::new(good).is_ok(), "{good}");
        }
        for bad in ["", "1swd", "-a", "a b", "a;b", "a/b", "é", &"a".repeat(129)] {
            assert!(matches!(NftHost::new(bad), Err(NodeError::TableName(_))), "{bad}");
        }
    }
}
