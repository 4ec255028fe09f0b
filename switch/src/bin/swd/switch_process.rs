//! The process that forwards: puts the parts together and waits for the end.
//!
//! The order of the start is that of failure: what is cheap to refuse comes first, and nothing outside the
//! process has changed until the ports are opened. The socket appears last, so a client that reaches it finds
//! everything in place. At the end nothing is left but the state and, for the next start, the devices of pods.
//!
//! Below a monitor, what needs privilege is asked of that, and devices stay when this process ends unasked.

use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ctl::tombstone;
use switch::control::fs::RealFs;
use switch::control::program::{ProgramError, TapProgram};
use switch::control::server::Socket;
use switch::control::{Control, Settings, Store, Underlay, good, plan, state};
use switch::datapath::Config;
use switch::io::Opener as _;
use switch::monitor::heartbeat::{EVERY, Pulse, Thread};
use switch::monitor::orders::Orders;
use switch::monitor::watchdog::keep_alive;
use switch::monitor::{Client, Inherited};
use switch::notify;
use switch::sandbox::{self, Measure, ThreadKind};
use switch::worker::{self, WorkerConfig};
use tokio::sync::Notify;
use tunnel::Encap;
use tunnel::underlay::{PeerAddr, Stock, TxOptions, UdpRx, UdpTx, UnderlayTx as _, spares};

use super::means::Means;
use super::options::Options;
use super::serving::{End, Serving, Signals};
use super::state_dir::StateDir;
use super::{Failure, about_socket, socket_path, state_dir};

const FDB_LIMIT: u32 = 65_536;
/// Sockets to send from that are at hand beside one for each peer.
const SPARE_SOCKETS: usize = 16;
/// Sockets that the worker sends from. Their buffers take a privilege that this process does not have.
struct Sending {
    client: Client,
    stock: Stock,
    local: IpAddr,
    wanted: usize,
}

impl Sending {
    /// Without one the worker makes its own, which does less well.
    fn fill(mut self) -> Self {
        while self.stock.left() < self.wanted {
            match self.client.sending_socket(self.local) {
                Ok(socket) => self.stock.add(socket),
                Err(e) => {
                    tracing::warn!("{e}");
                    break;
                }
            }
        }
        self
    }

    async fn keep_filled(mut self) {
        let mut looks = tokio::time::interval(Duration::from_secs(1));
        loop {
            looks.tick().await;
            self = self.fill();
        }
    }
}

/// Shows that the control thread is alive, for as long as it is.
async fn show_life(mut pulse: Pulse) {
    let started = Instant::now();
    let mut beats = tokio::time::interval(EVERY / 2);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        pulse.beat(started.elapsed().as_millis() as u64);
    }
}

/// Runs until it is told to end.
pub fn run(options: Options, inherited: Option<Inherited>) -> Result<(), Failure> {
    // Before files are closed to this process.
    let host_name = host_name();
    let mut means = Means::new(&options, inherited)?;
    let state_dir = state_dir(&options);
    let mut dir = StateDir::open(&state_dir)?;
    let fs = RealFs::open(&state_dir).map_err(|e| format!("state directory {}: {e}", state_dir.display()))?;
    let mut store = Store::new(Box::new(fs));
    let standby = means.state.is_some();
    let mut loaded = match means.state.take() {
        // Whoever forwards has the directory, and this is what it has in force.
        Some(text) => state::handed(&text).map_err(|e| format!("the state that was handed over: {e}"))?,
        None => {
            dir.claim(means.client.is_some())?;
            let loaded = store.load().map_err(|e| format!("{}: {e}", state_dir.display()))?;
            if means.fall_back { good::fall_back(&mut store, loaded) } else { loaded }
        }
    };

    let ports = (options.vxlan_port.unwrap_or(4789), options.geneve_port.unwrap_or(6081));
    if ports.0 == ports.1 {
        return Err(format!("VXLAN and Geneve cannot share UDP port {}", ports.0).into());
    }
    let mut rx = Vec::new();
    let mut underlay = None;
    if let Some(addr) = options.underlay {
        underlay = Some(Underlay { addr, mtu: means.opener.underlay_mtu(addr)? });
        for (encap, port) in [(Encap::Vxlan, ports.0), (Encap::Geneve, ports.1)] {
            rx.push(UdpRx::from_fd(means.opener.bind_underlay(addr, port)?, encap)?);
        }
    }
    let local = options.underlay.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut tx = UdpTx::new(local, TxOptions { lanes: options.source_ports.unwrap_or(1) });
    let mut sockets = None;
    if let Some(client) = means.client.clone().filter(|_| underlay.is_some()) {
        let (stock, spares) = spares();
        let sending = Sending { client, stock, local, wanted: SPARE_SOCKETS + loaded.desired.peers.len() };
        tx = tx.with_spares(spares);
        sockets = Some(sending.fill());
    }
    let anyone = PeerAddr { id: 0, addr: SocketAddr::new(local, 0), checksum: true };
    let socket_path = socket_path(&options);
    let mut settings = Settings {
        node: options.node.or(host_name).unwrap_or_else(|| "node".to_owned()),
        underlay,
        vxlan_port: ports.0,
        geneve_port: ports.1,
        mtu: options.mtu,
        seed: random(),
        workers: 1,
        udp_gso_segments: if underlay.is_some() { tx.limits(&anyone).segments as u32 } else { 0 },
        udp_gro: !rx.is_empty() && rx.iter().all(UdpRx::gro),
        state_dir: std::path::absolute(&state_dir).unwrap_or_else(|_| state_dir.clone()),
        descriptors: means.descriptors,
        good_after: options.good_after.map_or(good::AFTER, Duration::from_secs),
        sandbox: means.sandbox.clone(),
        monitor: means.monitored.take(),
        tombstones: Some(tombstone::directory(&socket_path)),
    };
    // A plan is for the start of a daemon, not of a process.
    if let Some(plan) = options.plan.filter(|_| !standby) {
        loaded = plan::adopt(&settings, &mut store, loaded, plan).map_err(|e| format!("plan: {e}"))?;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = settings.node,
        underlay = ?settings.underlay,
        generation = loaded.generation,
        ports = loaded.desired.ports.len(),
        standby,
        "starting"
    );
    let datapath = Config { fdb_capacity: options.fdb_limit.unwrap_or(FDB_LIMIT) as usize, seed: random() };
    let restrict = means.client.is_some();
    let pulse = means.pulse(Thread::Worker)?;
    let alarm = Arc::new(Notify::new());
    let worker = worker::spawn(WorkerConfig {
        datapath,
        rx,
        tx,
        pulse,
        alarm: Some(alarm.clone()),
        restrict,
        held: standby,
    })?;
    settings.sandbox.extend(worker.measures().iter().cloned());
    let program = TapProgram(move |command| worker.send(command).map_err(|_| ProgramError::Gone));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let control_pulse = means.pulse(Thread::Control)?;
    if restrict {
        settings
            .sandbox
            .extend([Measure::filter(ThreadKind::Control, sandbox::restrict(ThreadKind::Control))]);
        for measure in settings.sandbox.measures.iter().filter(|m| !m.achieved) {
            tracing::warn!(measure = measure.measure, "the sandbox is not complete: {}", measure.detail);
        }
    }
    runtime.block_on(async move {
        if let Some(pulse) = control_pulse {
            tokio::spawn(show_life(pulse));
        }
        if let Some(sockets) = sockets {
            tokio::spawn(sockets.keep_filled());
        }
        // Nothing below a monitor, which does it.
        if let Some(every) = notify::watchdog() {
            tokio::spawn(keep_alive(Arc::default(), Some(every), notify::tell, || None));
        }
        // Signals are caught before anything has to be cleaned up.
        let signals = Signals::catch()?;
        let orders = means.orders.map(Orders::listen).transpose()?;
        let make = if standby { Control::stand_by } else { Control::start };
        let control =
            make(settings, store, loaded, means.opener, means.host, Box::new(program), means.memory)?;
        let mut serving = Serving {
            control: control.clone(),
            alarm,
            dir,
            signals,
            client: means.client.clone(),
            orders,
            outbox: means.outbox,
        };
        let over = if standby { serving.take_over().await? } else { None };
        let ended = match over {
            Some(end) => Ok(end),
            None => {
                let sockets = || match &means.listener {
                    Some(listener) => Ok(Socket::inherited(listener.try_clone()?)),
                    None => Ok(Socket::bind(&socket_path).map_err(|e| about_socket(&socket_path, &e))?),
                };
                serving
                    .run(sockets, |client| {
                        tracing::info!(socket = %socket_path.display(), "ready");
                        match client {
                            Some(client) => client.ready(),
                            None => {
                                notify::tell("READY=1");
                                Ok(())
                            }
                        }
                    })
                    .await
            }
        };
        if !matches!(ended, Ok(End::Replaced)) {
            control.stop().await;
        }
        ended.map(drop)
    })
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|n| !n.is_empty())
}

/// Keys drawn by the standard library from the system's generator.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
