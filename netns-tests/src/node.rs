//! One node of a lab: a namespace with an uplink, in which a switch daemon, kernel devices or Open
//! vSwitch may run. What concerns the daemon is in [`crate::swd`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::cmd::Cmd;
use crate::error::{Context, Error, Result};
use crate::manager::Manager;
use crate::netns::{Netns, Ns};
use crate::runtimes::machine::Machine;
use crate::swd::Swd;

/// A node.
#[derive(Debug)]
pub struct Node {
    // Before the namespace: the daemon ends first.
    pub(crate) swd: Mutex<Option<Swd>>,
    machine: OnceLock<Machine>,
    manager: OnceLock<Manager>,
    confined: AtomicBool,
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
        let (swd, bin_dir) = (Mutex::new(None), Mutex::new(None));
        let (machine, manager) = (OnceLock::new(), OnceLock::new());
        let confined = AtomicBool::new(false);
        Ok(Self { swd, machine, manager, confined, ns, name: name.to_owned(), index, dir, bin_dir })
    }

    /// Gives it a service manager, which starts the daemon from then on.
    pub fn manage(&self) -> Result<&Manager> {
        if self.manager.get().is_none() {
            let started = Manager::start(&self.dir)?;
            // One that lost a race is dropped, and the other is as good.
            let _ = self.manager.set(started);
        }
        self.manager().ok_or_else(|| Error::failed("no service manager"))
    }

    /// Starts the daemon from now on with the restrictions of its systemd unit, see [`crate::confine`]. Needs root.
    pub fn confine(&self) -> Result<()> {
        crate::enter::need_root("it cannot take away what it has not")?;
        crate::install::need(&["systemd-analyze"])?;
        // As on a machine with systemd: namespaces that are named later arrive where they are looked for.
        rustix::mount::mount_change("/run", rustix::mount::MountPropagationFlags::SHARED).context("/run")?;
        self.confined.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn is_confined(&self) -> bool {
        self.confined.load(Ordering::Relaxed)
    }

    /// Its service manager, if it was given one.
    pub fn manager(&self) -> Option<&Manager> {
        self.manager.get()
    }

    /// Makes it a machine on which container runtimes can run. Before its daemon is started, which
    /// then runs there too.
    pub fn boot(&self) -> Result<&Machine> {
        let machine = Machine::boot(&self.ns, &self.dir.join("machine"))?;
        self.machine
            .set(machine)
            .map_err(|_| Error::failed(format!("{} is a machine already", self.name)))?;
        self.machine()
    }

    /// The machine it was made.
    pub fn machine(&self) -> Result<&Machine> {
        self.machine.get().ok_or_else(|| Error::failed(format!("{} was not made a machine", self.name)))
    }

    /// A command that will run on it.
    pub fn cmd(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        match self.machine.get() {
            Some(machine) => machine.cmd(program),
            None => Cmd::new(program).within(&self.ns),
        }
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
