//! What the tests of this module share: small states, an opener without a kernel, a worker without devices.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ctl::desired::{DesiredState, Encap, Network, Peer, Port, Subnet};
use packet::Vni;

use super::program::{Program, ProgramError};
use super::state::Store;
use super::{Control, Settings, Underlay, fs};
use crate::datapath::{Config, Datapath, PortId, Tables};
use crate::engine::{Command, Inspection};
use crate::io::{
    DeviceName, NetnsError, NetnsId, NetnsIdentity, NetnsRef, Offloads, OpenError, OpenedPort, Opener,
    PortHealth, PortPlace, PortSpec, UnderlayLink,
};
use crate::node::MemoryHost;

pub fn settings() -> Settings {
    Settings {
        node: "node-a".into(),
        underlay: Some(Underlay { addr: "192.168.77.1".parse().unwrap(), mtu: 1500 }),
        vxlan_port: 4789,
        geneve_port: 6081,
        mtu: None,
        seed: 7,
        workers: 1,
        udp_gso_segments: 0,
        udp_gro: false,
        tombstones: None,
        state_dir: "/var/lib/swd".into(),
        descriptors: 1024,
        good_after: super::good::AFTER,
        sandbox: crate::sandbox::Level::default(),
        monitor: None,
    }
}

/// A network whose gateways are the first hosts of its subnets.
pub fn network(name: &str, vni: u32, subnets: &[&str]) -> Network {
    let subnets = subnets
        .iter()
        .map(|s| {
            let cidr: ipnet::IpNet = s.parse().unwrap();
            Subnet {
                cidr,
                gateway: cidr.hosts().next().map(|ip| if ip == cidr.network() { next(ip) } else { ip }),
            }
        })
        .collect();
    Network {
        name: name.into(),
        vni: Vni::new(vni).unwrap(),
        ageing_seconds: 300,
        mtu: None,
        fdb_limit: None,
        flood: true,
        subnets,
        ranges: Vec::new(),
        exclude: Vec::new(),
    }
}

fn next(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => std::net::Ipv4Addr::from_bits(ip.to_bits() + 1).into(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from_bits(ip.to_bits() + 1).into(),
    }
}

pub fn port(name: &str, network: &str, ips: &[&str]) -> Port {
    Port {
        name: name.into(),
        network: network.into(),
        netns: name.into(),
        ifname: "eth0".into(),
        mac: None,
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        mtu: None,
        learning: false,
        mac_limit: None,
        offload: true,
        default_route: true,
        metadata: std::collections::BTreeMap::new(),
        bandwidth: None,
        mappings: Vec::new(),
        attachment: None,
        node: None,
    }
}

pub fn peer(name: &str, remote: &str, pod_cidrs: &[&str]) -> Peer {
    Peer {
        name: name.into(),
        remote: remote.parse().unwrap(),
        port: None,
        encap: Encap::Vxlan,
        pod_cidrs: pod_cidrs.iter().map(|c| c.parse().unwrap()).collect(),
        router_mac: None,
        network: None,
        checksum: true,
    }
}

/// Two ports and a routed peer.
pub fn state() -> DesiredState {
    DesiredState {
        networks: vec![network("pods", 1, &["10.1.1.0/24", "fd00:1::/64"])],
        ports: vec![
            port("web-0", "pods", &["10.1.1.2/24", "fd00:1::2/64"]),
            port("web-1", "pods", &["10.1.1.3/24"]),
        ],
        peers: vec![peer("node-b", "192.168.77.2", &["10.1.2.0/24"])],
        ..DesiredState::default()
    }
}

/// What the fake kernel has and does.
#[derive(Default)]
pub struct World {
    /// Namespaces that are not there.
    pub missing: Vec<String>,
    /// Which namespace of a name there is now, where it is not the first.
    pub replaced: HashMap<String, u32>,
    /// What a look at a port finds; healthy otherwise.
    pub health: HashMap<String, PortHealth>,
    /// MTU and state of the underlay's link, or that there is none, where it is not as usual.
    pub underlay: Option<Option<(u32, bool)>>,
    /// Open ports, by namespace.
    pub open: HashMap<String, PortSpec>,
    /// Devices that outlive their descriptors, by namespace.
    pub kept: HashSet<String>,
    /// Everything asked for, in order; keeping follows from opening.
    pub calls: Vec<String>,
    next: u32,
}

/// What tells the namespace that a name leads to now from others.
fn identity(world: &World, name: &str) -> NetnsIdentity {
    NetnsIdentity::stored(&format!("{name}:{}", world.replaced.get(name).unwrap_or(&0)))
}

#[derive(Clone, Default)]
pub struct FakeOpener(pub Arc<Mutex<World>>);

impl Opener for FakeOpener {
    fn open_port(&mut self, spec: &PortSpec) -> Result<OpenedPort, OpenError> {
        spec.validate()?;
        let mut world = self.0.lock().unwrap();
        let name = spec.netns.to_string();
        world.calls.push(format!("open {name}"));
        if world.missing.contains(&name) {
            let netns = NetnsRef::Name(name);
            let path = netns.path();
            return Err(NetnsError::NotFound { netns, path, hint: "make it" }.into());
        }
        let identity = identity(&world, &name);
        if spec.identity.as_ref().is_some_and(|wanted| *wanted != identity) {
            return Err(OpenError::Replaced(spec.netns.clone()));
        }
        if world.open.insert(name.clone(), spec.clone()).is_some() {
            return Err(OpenError::Busy { ifname: spec.ifname.clone(), netns: spec.netns.clone() });
        }
        world.next += 1;
        Ok(OpenedPort {
            fd: OwnedFd::from(std::fs::File::open("/dev/null").unwrap()),
            ifindex: world.next,
            netns_id: NetnsId { dev: 4, ino: 1 },
            identity,
            offloads: Offloads::ALL,
            gso_max_size: 62_000,
            adopted: false,
            lasting: false,
        })
    }

    fn keep_port(&mut self, spec: &PortSpec, _: PortPlace, _: BorrowedFd<'_>) -> Result<(), OpenError> {
        let mut world = self.0.lock().unwrap();
        let name = spec.netns.to_string();
        assert!(world.open.contains_key(&name), "{name} is kept and was not opened");
        world.kept.insert(name);
        Ok(())
    }

    fn discard_port(&mut self, device: &DeviceName) -> Result<bool, OpenError> {
        let mut world = self.0.lock().unwrap();
        let name = device.netns.to_string();
        world.calls.push(format!("discard {name}"));
        let another = device.identity.as_ref().is_some_and(|wanted| *wanted != identity(&world, &name));
        Ok(!another && world.kept.remove(&name))
    }

    fn close_port(&mut self, spec: &PortSpec, _: PortPlace) -> Result<(), OpenError> {
        let mut world = self.0.lock().unwrap();
        let name = spec.netns.to_string();
        world.calls.push(format!("close {name}"));
        world.open.remove(&name);
        world.kept.remove(&name);
        Ok(())
    }

    fn check_port(&mut self, spec: &PortSpec, _: PortPlace) -> Result<PortHealth, OpenError> {
        let world = self.0.lock().unwrap();
        Ok(world.health.get(&spec.netns.to_string()).copied().unwrap_or(PortHealth::Healthy))
    }

    fn restore_port(&mut self, spec: &PortSpec, _: PortPlace) -> Result<(), OpenError> {
        let mut world = self.0.lock().unwrap();
        let name = spec.netns.to_string();
        world.calls.push(format!("update {name}"));
        world.open.insert(name, spec.clone());
        Ok(())
    }

    fn bind_underlay(&mut self, addr: IpAddr, _: u16) -> Result<OwnedFd, OpenError> {
        Err(OpenError::NoSuchAddress(addr))
    }

    fn sending_socket(&mut self, local: IpAddr) -> Result<OwnedFd, OpenError> {
        Err(OpenError::NoSuchAddress(local))
    }

    fn underlay_link(&mut self, _: IpAddr) -> Result<Option<UnderlayLink>, OpenError> {
        let world = self.0.lock().unwrap();
        let link = |mtu, up| UnderlayLink { ifname: "up0".into(), ifindex: 2, mtu, up, carrier: up };
        Ok(world.underlay.map_or(Some(link(1500, true)), |found| found.map(|(mtu, up)| link(mtu, up))))
    }
}

/// A disk that can be full.
pub struct FullDisk(pub fs::RealFs, pub Arc<AtomicBool>);

impl fs::Fs for FullDisk {
    fn read(&mut self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        self.0.read(name)
    }
    fn exists(&mut self, name: &str) -> std::io::Result<bool> {
        self.0.exists(name)
    }
    fn create(&mut self, name: &str, content: &[u8]) -> std::io::Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(std::io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.0.create(name, content)
    }
    fn link(&mut self, from: &str, to: &str) -> std::io::Result<()> {
        self.0.link(from, to)
    }
    fn rename(&mut self, from: &str, to: &str) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&mut self, name: &str) -> std::io::Result<()> {
        self.0.remove(name)
    }
    fn sync_dir(&mut self) -> std::io::Result<()> {
        self.0.sync_dir()
    }
}

/// What the fake worker was told, in order.
#[derive(Clone, Default)]
pub struct Heard {
    pub log: Arc<Mutex<Vec<String>>>,
    pub tables: Arc<Mutex<Arc<Tables>>>,
    pub dead: Arc<Mutex<Vec<PortId>>>,
}

pub struct FakeWorker(Sender<Command<OpenedPort>>);

impl Program for FakeWorker {
    fn send(&self, command: Command<OpenedPort>) -> Result<(), ProgramError> {
        self.0.send(command).map_err(|_| ProgramError::Gone)
    }
}

/// A thread that carries out commands on a data path without devices, and checks their order.
pub fn worker() -> (FakeWorker, Heard) {
    let (tx, rx) = channel();
    let heard = Heard::default();
    let theirs = heard.clone();
    std::thread::spawn(move || work(&rx, &theirs));
    (FakeWorker(tx), heard)
}

fn work(rx: &Receiver<Command<OpenedPort>>, heard: &Heard) {
    let mut datapath = Datapath::new(Config { fdb_capacity: 1024, seed: 1 });
    let mut tables = Arc::new(Tables::new(1));
    let mut ports: Vec<PortId> = Vec::new();
    let start = Instant::now();
    while let Ok(command) = rx.recv() {
        let now_ms = start.elapsed().as_millis() as u64;
        let line = match command {
            Command::Publish(new) => {
                for (id, _) in new.ports.iter().enumerate().filter(|(_, p)| p.is_some()) {
                    assert!(
                        ports.contains(&PortId(id as u32)),
                        "a table names port {id}, which does not exist"
                    );
                }
                assert!(new.generation > tables.generation);
                tables = new;
                *heard.tables.lock().unwrap() = tables.clone();
                format!("publish {}", tables.ports.iter().flatten().count())
            }
            Command::AddPort { id, .. } => {
                assert!(!ports.contains(&id));
                ports.push(id);
                format!("add {}", id.0)
            }
            Command::RemovePort(id) => {
                assert!(tables.port(id).is_none(), "port {} is removed while tables name it", id.0);
                ports.retain(|p| *p != id);
                heard.dead.lock().unwrap().retain(|p| *p != id);
                format!("remove {}", id.0)
            }
            Command::Limit(id, limits) => {
                assert!(ports.contains(&id));
                format!("limit {} {limits:?}", id.0)
            }
            Command::Announce(id) => {
                assert!(tables.port(id).is_some(), "port {} is announced before tables name it", id.0);
                continue;
            }
            Command::Forget(gone) => {
                datapath.forget(gone, now_ms);
                format!("forget {gone:?}")
            }
            Command::ForgetNetwork(id) => {
                assert!(tables.network(id).is_none());
                datapath.forget_network(id);
                format!("forget network {}", id.0)
            }
            Command::Inspect(f) => {
                let dead_ports = heard.dead.lock().unwrap().clone();
                f(&mut Inspection {
                    datapath: &mut datapath,
                    tables: &tables,
                    now_ms,
                    dead_ports: &dead_ports,
                    shapers: &crate::engine::Shapers::default(),
                });
                continue;
            }
            Command::Hold => "hold".to_owned(),
            Command::Go => "go".to_owned(),
            Command::Stop => return,
        };
        heard.log.lock().unwrap().push(line);
    }
}

/// A control thread on fakes, with its state in `dir`.
pub struct Bench {
    pub control: Control,
    pub opener: FakeOpener,
    pub heard: Heard,
    pub host: MemoryHost,
}

pub fn bench_with(settings: Settings, fs: Box<dyn fs::Fs>, opener: FakeOpener) -> Bench {
    let (worker, heard) = worker();
    let mut store = Store::new(fs);
    let loaded = store.load().unwrap();
    let host = MemoryHost::default();
    let control = Control::start(
        settings,
        store,
        loaded,
        Box::new(opener.clone()),
        Box::new(host.clone()),
        Box::new(worker),
        None,
    );
    Bench { control: control.unwrap(), opener, heard, host }
}

pub fn bench(dir: &std::path::Path) -> Bench {
    bench_with(settings(), Box::new(fs::RealFs::open(dir).unwrap()), FakeOpener::default())
}
