//! The whole switch process in the sandbox: a daemon whose devices were opened before, as a parent would, answers
//! clients, writes its state, forwards frames and ends when it is told to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ctl::client::BlockingClient;
use ctl::proto;
use switch::control::fs::RealFs;
use switch::control::memory_file::MemoryFile;
use switch::control::program::{ProgramError, TapProgram};
use switch::control::server::{self, Socket};
use switch::control::{Control, Settings, Store};
use switch::io::{
    DeviceName, HostOpener, NetnsRef, OpenError, OpenedPort, Opener, PortHealth, PortPlace, PortSpec,
    UnderlayLink,
};
use switch::node::MemoryHost;
use switch::sandbox;
use tokio::signal::unix::{SignalKind, signal};

use crate::Who;
use crate::child::{plan, restrict_all, tell, worker};
use crate::daemon::check_level;
use crate::parent::{Case, directory, possible};

const LIMIT: Duration = Duration::from_secs(20);
const NETNS: &str = "/proc/self/ns/net";
/// Both devices are in one namespace, the daemon's own: their own stack is what sends.
const PORTS: [(&str, &str); 2] = [("tap0", "10.1.1.2/24"), ("tap1", "10.1.1.3/24")];

/// Hands out what was opened before there was a sandbox, and copies of it, as often as it is asked.
struct Kept(HashMap<String, OpenedPort>);

impl Kept {
    /// Opens the devices where that is allowed.
    fn open() -> Self {
        let mut kept = HashMap::new();
        // SAFETY: the call takes no pointer; this process has one thread, which has no use for the old namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Self(kept);
        }
        for (n, (ifname, address)) in PORTS.into_iter().enumerate() {
            let spec = PortSpec {
                netns: NetnsRef::Path(PathBuf::from(NETNS)),
                identity: None,
                ifname: ifname.to_owned(),
                mac: format!("02:00:00:00:00:0{n}").parse().unwrap(),
                mtu: 1450,
                addresses: vec![address.parse().unwrap()],
                gateways: Vec::new(),
                default_route: false,
                offload: true,
                node: None,
            };
            match HostOpener.open_port(&spec) {
                Ok(port) => drop(kept.insert(ifname.to_owned(), port)),
                // See `devices`.
                Err(e) => eprintln!("{e}"),
            }
        }
        Self(kept)
    }
}

impl Opener for Kept {
    fn open_port(&mut self, spec: &PortSpec) -> Result<OpenedPort, OpenError> {
        let port = self.0.get(&spec.ifname);
        let port = port.ok_or_else(|| OpenError::Invalid("no such device was opened".to_owned()))?;
        Ok(OpenedPort { fd: port.fd.try_clone().unwrap(), identity: port.identity.clone(), ..*port })
    }

    fn keep_port(&mut self, _: &PortSpec, _: PortPlace, _: BorrowedFd<'_>) -> Result<(), OpenError> {
        Ok(())
    }

    fn discard_port(&mut self, _: &DeviceName) -> Result<bool, OpenError> {
        Ok(false)
    }

    fn close_port(&mut self, _: &PortSpec, _: PortPlace) -> Result<(), OpenError> {
        Ok(())
    }

    fn check_port(&mut self, _: &PortSpec, _: PortPlace) -> Result<PortHealth, OpenError> {
        Ok(PortHealth::Healthy)
    }

    fn restore_port(&mut self, _: &PortSpec, _: PortPlace) -> Result<(), OpenError> {
        Ok(())
    }

    fn bind_underlay(&mut self, _: IpAddr, _: u16) -> Result<OwnedFd, OpenError> {
        Err(OpenError::Invalid("there is no underlay".to_owned()))
    }

    fn sending_socket(&mut self, _: IpAddr) -> Result<OwnedFd, OpenError> {
        Err(OpenError::Invalid("there is no underlay".to_owned()))
    }

    fn underlay_link(&mut self, _: IpAddr) -> Result<Option<UnderlayLink>, OpenError> {
        Ok(None)
    }
}

/// The daemon.
pub fn serve() {
    let kept = Kept::open();
    let memory = MemoryFile::create().unwrap();
    let mut level = sandbox::enter(&plan());
    let here = std::env::current_dir().unwrap().join("own");
    let mut store = Store::new(Box::new(RealFs::open(&here.join("state")).unwrap()));
    let loaded = store.load().unwrap();
    let worker = worker();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let mut terminate = signal(SignalKind::terminate()).unwrap();
        let socket = Socket::bind(&here.join("swd.sock")).unwrap();
        restrict_all(&mut level, &worker);
        tell(&level);
        let settings = Settings {
            node: "node-a".to_owned(),
            underlay: None,
            vxlan_port: 4789,
            geneve_port: 6081,
            mtu: None,
            seed: 7,
            workers: 1,
            udp_gso_segments: 0,
            udp_gro: false,
            tombstones: Some(here.join("tombstones")),
            state_dir: here.clone(),
            descriptors: 1024,
            good_after: switch::control::good::AFTER,
            sandbox: level,
            monitor: None,
        };
        let program = TapProgram(move |command| worker.send(command).map_err(|_| ProgramError::Gone));
        let (opener, host) = (Box::new(kept), Box::new(MemoryHost::default()));
        let control =
            Control::start(settings, store, loaded, opener, host, Box::new(program), Some(memory)).unwrap();
        let stop = async move {
            terminate.recv().await;
        };
        tokio::select! {
            served = server::serve(control.clone(), socket, stop) => served.unwrap(),
            gone = control.run(Default::default()) => panic!("{gone}"),
        }
        control.stop().await;
    });
}

/// Can this user have devices at all?
fn devices(who: Who) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let everyone = std::fs::metadata("/dev/net/tun").is_ok_and(|m| m.permissions().mode() & 0o6 == 0o6);
    match who {
        Who::Root => true,
        Who::Namespace if !everyone => {
            eprintln!("SKIPPED: no frames as {who:?}: /dev/net/tun is not for everyone here");
            false
        }
        Who::Namespace => true,
        Who::User => false,
    }
}

fn connect(path: &Path) -> BlockingClient {
    let deadline = Instant::now() + LIMIT;
    loop {
        match BlockingClient::connect(path, LIMIT) {
            Ok(client) => return client,
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
        std::thread::yield_now();
    }
}

fn port(name: &str, ip: &str, mac: &str) -> proto::AddPortRequest {
    let port = proto::Port {
        name: name.to_owned(),
        network: "pods".to_owned(),
        netns: NETNS.to_owned(),
        ifname: name.to_owned(),
        mac: mac.to_owned(),
        ips: vec![ip.to_owned()],
        ..Default::default()
    };
    proto::AddPortRequest { port: Some(port), may_exist: false }
}

pub fn a_daemon_serves(who: Who) {
    if !possible(who) {
        return;
    }
    let dir = directory(who);
    let mut case = Case::start("serve", who, dir.path());
    let level = case.level();
    check_level(who, &level);
    let mut client = connect(&dir.path().join("own/swd.sock"));
    let status = client.call(async |s| s.get_status(proto::GetStatusRequest {}).await).unwrap();
    let shown: Vec<_> = status.sandbox.iter().map(|m| (m.measure.as_str(), m.achieved)).collect();
    assert_eq!(shown, level.iter().map(|m| (m.measure.as_str(), m.achieved)).collect::<Vec<_>>());

    let subnet = proto::Subnet { cidr: "10.1.1.0/24".to_owned(), gateway: "10.1.1.1".to_owned() };
    let network =
        proto::Network { name: "pods".to_owned(), vni: 1, subnets: vec![subnet], ..Default::default() };
    let request = proto::AddNetworkRequest { network: Some(network), may_exist: false };
    client.call(async |s| s.add_network(request).await).unwrap();
    let devices = devices(who);
    let mut generation = 0;
    for (n, (name, ip)) in PORTS.into_iter().enumerate() {
        let request = port(name, ip, &format!("02:00:00:00:00:0{n}"));
        match client.call(async |s| s.add_port(request).await) {
            Ok(ack) => generation = ack.generation,
            Err(e) => assert!(!devices && e.message.contains("no such device"), "{e}"),
        }
    }
    let wait = proto::WaitGenerationRequest { generation, timeout_ms: 10_000 };
    client.call(async |s| s.wait_generation(wait).await).unwrap();
    // Forwarding: the stack at the other end of a device that is up asks for neighbours and routers by itself.
    if devices {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = client.call(async |s| s.get_status(proto::GetStatusRequest {}).await).unwrap();
            assert_eq!((status.ports_up, &*status.degraded), (2, &[][..]));
            if status.ledger.is_some_and(|l| l.frames_in > 0) {
                break;
            }
            assert!(Instant::now() < deadline, "no frame was read");
        }
    }
    // What else clients ask, and what a daemon does by itself about once a second.
    for vni in 2..200 {
        let network = proto::Network { name: format!("net-{vni}"), vni, ..Default::default() };
        let request = proto::AddNetworkRequest { network: Some(network), may_exist: false };
        client.call(async |s| s.add_network(request).await).unwrap();
    }
    let state = client.call(async |s| s.export(proto::ExportRequest {}).await).unwrap().state.unwrap();
    assert_eq!((state.networks.len(), state.ports.len()), (199, if devices { 2 } else { 0 }));
    client.call(async |s| s.list_fdb(proto::ListFdbRequest::default()).await).unwrap();
    client.call(async |s| s.list_neighbours(proto::ListNeighboursRequest::default()).await).unwrap();
    client.call(async |s| s.list_drops(proto::ListDropsRequest::default()).await).unwrap();
    client.call(async |s| s.list_ports(proto::ListPortsRequest::default()).await).unwrap();
    if devices {
        let flow = proto::TraceFlow { destination: "10.1.1.3".to_owned(), ..Default::default() };
        let request = proto::TraceRequest {
            from: Some(proto::trace_request::From::Port("tap0".to_owned())),
            what: Some(proto::trace_request::What::Flow(flow)),
            ..Default::default()
        };
        client.call(async |s| s.trace(request).await).unwrap();
        let request = proto::DeletePortRequest { name: "tap0".to_owned(), if_exists: false };
        client.call(async |s| s.delete_port(request).await).unwrap();
    }
    let uptime = |client: &mut BlockingClient| {
        client.call(async |s| s.get_status(proto::GetStatusRequest {}).await).unwrap().uptime_ms
    };
    let begun = uptime(&mut client);
    let deadline = Instant::now() + LIMIT;
    while uptime(&mut client) < begun + 2_500 {
        assert!(Instant::now() < deadline);
    }
    drop(client);
    case.terminate();
    let end = case.end();
    assert!(end.success(), "{end}");
    assert!(!dir.path().join("own/swd.sock").exists(), "the socket is left behind");
}
