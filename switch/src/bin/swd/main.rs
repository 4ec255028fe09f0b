//! `swd`, the daemon: puts the parts together and waits for the end.
//!
//! The order of the start is that of failure: what is cheap to refuse comes first, and nothing outside the
//! process has changed until the ports are opened. The socket appears last, so a client that reaches it finds
//! everything in place. At the end nothing is left but the state: a port's device goes with its descriptor.

mod options;
mod ready;

use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use ctl::tombstone;
use switch::control::fs::RealFs;
use switch::control::program::{ProgramError, TapProgram};
use switch::control::server::{self, Socket};
use switch::control::{Control, Settings, Store, Underlay, plan, state};
use switch::datapath::Config;
use switch::io::{HostOpener, Opener as _};
use switch::node::NftHost;
use switch::worker::{self, WorkerConfig};
use tokio::signal::unix::{SignalKind, signal};
use tunnel::Encap;
use tunnel::underlay::{PeerAddr, TxOptions, UdpRx, UdpTx, UnderlayTx as _};

use options::{Cli, Options};

const STATE_DIR: &str = "/var/lib/swd";
const NFT_TABLE: &str = "swd";
const FDB_LIMIT: u32 = 65_536;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr().lock(), "swd: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let options = match &cli.config {
        Some(path) => cli.options.or(Options::read(path)?),
        None => cli.options,
    };
    start_log(options.log_level.as_deref().unwrap_or("info"))?;
    raise_nofile();

    let state_dir = options.state_dir.unwrap_or_else(|| PathBuf::from(STATE_DIR));
    let about_dir = |e: std::io::Error| format!("state directory {}: {e}", state_dir.display());
    let fs = RealFs::open(&state_dir).map_err(about_dir)?;
    let Some(_lock) = fs.lock(state::LOCK).map_err(about_dir)? else {
        return Err(format!("another swd uses the state directory {}", state_dir.display()).into());
    };
    let mut store = Store::new(Box::new(fs));
    let mut loaded = store.load().map_err(|e| format!("{}: {e}", state_dir.display()))?;

    let ports = (options.vxlan_port.unwrap_or(4789), options.geneve_port.unwrap_or(6081));
    if ports.0 == ports.1 {
        return Err(format!("VXLAN and Geneve cannot share UDP port {}", ports.0).into());
    }
    let mut opener = HostOpener;
    let mut rx = Vec::new();
    let mut underlay = None;
    if let Some(addr) = options.underlay {
        underlay = Some(Underlay { addr, mtu: opener.underlay_mtu(addr)? });
        for (encap, port) in [(Encap::Vxlan, ports.0), (Encap::Geneve, ports.1)] {
            rx.push(UdpRx::from_fd(opener.bind_underlay(addr, port)?, encap)?);
        }
    }
    let local = options.underlay.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let tx = UdpTx::new(local, TxOptions { lanes: options.source_ports.unwrap_or(1) });
    let anyone = PeerAddr { id: 0, addr: SocketAddr::new(local, 0), checksum: true };
    let socket_path = options.socket.unwrap_or_else(|| PathBuf::from(ctl::DEFAULT_SOCKET));
    let settings = Settings {
        node: options.node.or_else(host_name).unwrap_or_else(|| "node".to_owned()),
        underlay,
        vxlan_port: ports.0,
        geneve_port: ports.1,
        mtu: options.mtu,
        seed: random(),
        workers: 1,
        udp_gso_segments: if underlay.is_some() { tx.limits(&anyone).segments as u32 } else { 0 },
        udp_gro: !rx.is_empty() && rx.iter().all(UdpRx::gro),
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
    let host = NftHost::new(options.nft_table.as_deref().unwrap_or(NFT_TABLE))?;
    let datapath = Config { fdb_capacity: options.fdb_limit.unwrap_or(FDB_LIMIT) as usize, seed: random() };
    let worker = worker::spawn(WorkerConfig { datapath, rx, tx })?;
    let program = TapProgram(move |command| worker.send(command).map_err(|_| ProgramError::Gone));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        // Signals are caught before anything has to be cleaned up.
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let control =
            Control::start(settings, store, loaded, Box::new(opener), Box::new(host), Box::new(program))?;
        let socket = Socket::bind(&socket_path).map_err(|e| about_socket(&socket_path, &e))?;
        tracing::info!(socket = %socket_path.display(), "ready");
        if let Err(e) = ready::notify("READY=1") {
            tracing::warn!("cannot tell the service manager: {e}");
        }
        let stop = async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!("stopping: {name}");
            let _ = ready::notify("STOPPING=1");
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

fn about_socket(path: &Path, e: &std::io::Error) -> String {
    format!("control socket {}: {e}", path.display())
}

fn start_log(level: &str) -> Result<(), Failure> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(level).map_err(|e| format!("log level `{level}`: {e}"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    Ok(())
}

/// One port is one descriptor, and the usual limit is 1,024.
fn raise_nofile() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|n| !n.is_empty())
}

/// Keys drawn by the standard library from the system's generator.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
