//! One node of a lab: a namespace with an uplink, in which a switch daemon, kernel devices or Open
//! vSwitch may run. What concerns the daemon is in [`crate::swd`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::{Context, Result};
use crate::netns::{Netns, Ns};
use crate::swd::Swd;

/// A node.
#[derive(Debug)]
pub struct Node {
    // Before the namespace: the daemon ends first.
    pub(crate) swd: Mutex<Option<Swd>>,
    ns: Netns,
    name: String,
    index: u8,
    dir: PathBuf,
    pub(crate) bin_dir: Mutex<Option<PathBuf>>,
}

impl Node {
    /// Makes a node with the namespace `ns_name`; `index` is the last part of its addresses.
    pub fn create(ns_name: &str, name: &str, index: u8, lab_dir: &Path) -> Result<Self> {
        let dir = lab_dir.join(name);
        std::fs::create_dir_all(&dir).context(dir.display())?;
        let ns = Netns::create(ns_name)?;
        quiet(&ns)?;
        Ok(Self { swd: Mutex::new(None), ns, name: name.to_owned(), index, dir, bin_dir: Mutex::new(None) })
    }

    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its position in the lab, from 1.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Its namespace.
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    /// The directory of its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its IPv4 underlay address.
    pub fn underlay4(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, self.index)
    }

    /// Its IPv6 underlay address.
    pub fn underlay6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(self.index))
    }

    /// Its underlay address of the family asked for.
    pub fn underlay(&self, v6: bool) -> IpAddr {
        if v6 { self.underlay6().into() } else { self.underlay4().into() }
    }

    /// Puts the underlay addresses on an interface.
    pub(crate) fn address_uplink(&self, interface: &str) -> Result<()> {
        self.ns.ip([
            format!("addr add {}/24 dev {interface}", self.underlay4()),
            format!("addr add {}/64 dev {interface} nodad", self.underlay6()),
        ])
    }
}

/// Settings that make a namespace's stack behave the same on every machine: no duplicate address
/// detection (it delays by a second), no router solicitations, no reverse path filter.
pub(crate) fn quiet(ns: &Ns) -> Result<()> {
    ns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
    ns.sysctl("net.ipv6.conf.default.router_solicitations", "0")?;
    ns.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    ns.sysctl("net.ipv4.conf.default.rp_filter", "0")
}
