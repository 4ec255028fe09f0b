//! The process that forwards: puts the parts together and waits for the end.
//!
//! The order of the start is that of failure: what is cheap to refuse comes first, and nothing outside the
//! process has changed until the ports are opened. The socket appears last, so a client that reaches it finds
//! everything in place. At the end nothing is left but the state: a port's device goes with its descriptor.
//!
//! Below a monitor, what needs privilege is asked of that, and devices stay when this process ends unasked.

use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ctl::tombstone;
use switch::control::fs::RealFs;
use switch::control::program::{ProgramError, TapProgram};
use switch::control::server::{self, Socket};
use switch::control::{Control, Settings, Store, Underlay, good, plan, state};
use switch::datapath::Config;
use switch::io::Opener as _;
use switch::monitor::heartbeat::{EVERY, Pulse, Thread};
use switch::monitor::{Client, Inherited};
use switch::sandbox::{self, Measure, ThreadKind};
use switch::worker::{self, WorkerConfig};
use tokio::signal::unix::{SignalKind, signal};
use tunnel::Encap;
use tunnel::underlay::{PeerAddr, Stock, TxOptions, UdpRx, UdpTx, UnderlayTx as _, spares};

use super::means::Means;
use super::options::Options;
use super::{Failure, about_socket, ready, socket_path, state_dir};

const FDB_LIMIT: u32 = 65_536;
/// Sockets to send from that are at hand beside one for each peer.
const SPARE_SOCKETS: usize = 16;
/// How long the switch process of another monitor, which was killed, may take to end.
const LEFTOVER: Duration = Duration::from_secs(3);

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
    let about_dir = |e: std::io::Error| format!("state directory {}: {e}", state_dir.display());
    let fs = RealFs::open(&state_dir).map_err(about_dir)?;
    // One that was killed is gone, the monitor has waited for it; but not if that was killed with it.
    let mut lock = fs.lock(state::LOCK).map_err(about_dir)?;
    let limit = Instant::now() + LEFTOVER;
    while lock.is_none() && means.client.is_some() && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(20));
        lock = fs.lock(state::LOCK).map_err(about_dir)?;
    }
    let Some(_lock) = lock else {
        return Err(format!("another swd uses the state directory {}", state_dir.display()).into());
    };
    let mut store = Store::new(Box::new(fs));
    let mut loaded = store.load().map_err(|e| format!("{}: {e}", state_dir.display()))?;
    if means.fall_back {
        loaded = good::fall_back(&mut store, loaded);
    }

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
    if let Some(plan) = options.plan {
        loaded = plan::adopt(&settings, &mut store, loaded, plan).map_err(|e| format!("plan: {e}"))?;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = settings.node,
        underlay = ?settings.underlay,
        generation = loaded.generation,
        ports = loaded.desired.ports.len(),
        "starting"
    );
    let datapath = Config { fdb_capacity: options.fdb_limit.unwrap_or(FDB_LIMIT) as usize, seed: random() };
    let restrict = means.client.is_some();
    let pulse = means.pulse(Thread::Worker)?;
    let worker = worker::spawn(WorkerConfig { datapath, rx, tx, pulse, restrict })?;
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
        // Signals are caught before anything has to be cleaned up.
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let control = Control::start(
            settings,
            store,
            loaded,
            means.opener,
            means.host,
            Box::new(program),
            means.memory,
        )?;
        let socket = match means.listener {
            Some(listener) => Socket::inherited(listener),
            None => Socket::bind(&socket_path).map_err(|e| about_socket(&socket_path, &e))?,
        };
        tracing::info!(socket = %socket_path.display(), "ready");
        match &means.client {
            Some(client) => client.ready()?,
            None => ready::tell("READY=1"),
        }
        let client = means.client.clone();
        let stop = async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!("stopping: {name}");
            match client.map(|client| client.stopping()) {
                None => ready::tell("STOPPING=1"),
                Some(Ok(())) => {}
                Some(Err(e)) => tracing::warn!("telling the monitor: {e}"),
            }
        };
        let ended: Result<(), Failure> = tokio::select! {
            served = server::serve(control.clone(), socket, stop) => served.map_err(Into::into),
            // Without a worker nothing is forwarded: somebody must start us anew.
            gone = control.run() => Err(gone.into()),
        };
        control.stop().await;
        ended
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
