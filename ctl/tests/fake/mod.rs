//! A daemon without a data path: desired state in memory behind the real service trait, on a Unix socket
//! in a temporary directory. What a data path would know is scripted by the test.
#![allow(dead_code)] // each test binary uses its part

use std::path::PathBuf;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ctl::desired::edit::ObjectKey;
use ctl::desired::{self, DesiredState};
use ctl::error::{ApiError, Reason};
use ctl::proto::switch_server::Switch;
use ctl::proto::*;
use tonic::{Request, Response};

type Reply<T> = Result<Response<T>, tonic::Status>;

/// What the fake answers where it has no state of its own.
#[derive(Default)]
pub struct Script {
    pub degraded: Vec<Degraded>,
    pub sandbox: Vec<SandboxMeasure>,
    pub monitor: Option<MonitorInfo>,
    /// Never answers `GetStatus`.
    pub hang: bool,
    pub fdb: Vec<FdbInfo>,
    pub neighbours: Vec<NeighbourInfo>,
    pub drops: ListDropsReply,
    /// Answers to `Trace`, the first one first.
    pub traces: Vec<TraceReply>,
    /// Fails every `AddPort` after its checks.
    pub port_error: Option<ApiError>,
    /// What `Trace` was asked.
    pub traced: Vec<TraceRequest>,
    pub flushed: Vec<FlushFdbRequest>,
}

#[derive(Default)]
struct State {
    desired: DesiredState,
    generation: u64,
    script: Script,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

pub struct Server {
    pub dir: tempfile::TempDir,
    fake: Fake,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = Fake::default();
        fake.0.lock().unwrap().script = script;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (service, path) = (fake.clone(), dir.path().join("swd.sock"));
        // Bound here, so that it answers as soon as this returns.
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let serve = tonic::transport::Server::builder()
                    .add_service(ctl::service(service))
                    .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener));
                tokio::select! {
                    r = serve => r.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { dir, fake, stop: Some(stop), thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("swd.sock")
    }

    pub fn script<T>(&self, f: impl FnOnce(&mut Script) -> T) -> T {
        f(&mut self.fake.0.lock().unwrap().script)
    }

    pub fn desired(&self) -> DesiredState {
        self.fake.0.lock().unwrap().desired.clone()
    }

    /// Runs the real binary against it.
    pub fn swctl(&self, args: &str) -> Run {
        swctl(&self.socket(), &args.split_whitespace().collect::<Vec<_>>())
    }

    /// As [`Server::swctl`], and it must succeed.
    pub fn ok(&self, args: &str) -> Run {
        let run = self.swctl(args);
        assert_eq!(run.code, 0, "swctl {args}: {}", run.err);
        run
    }

    pub fn json(&self, args: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&format!("-o json {args}")).out).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|s| s.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn swctl(socket: &std::path::Path, args: &[&str]) -> Run {
    let output: Output = std::process::Command::new(env!("CARGO_BIN_EXE_swctl"))
        .env_remove("SWCTL_OUTPUT")
        .env("SWCTL_SOCKET", socket)
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn checked<P, T: TryFrom<P, Error = ApiError>>(p: Option<P>) -> Result<T, ApiError> {
    T::try_from(p.ok_or_else(|| ApiError::new(Reason::InvalidArgument, "the object is missing"))?)
}

impl Fake {
    fn commit(
        &self,
        next: impl FnOnce(&DesiredState) -> Result<Option<DesiredState>, ApiError>,
    ) -> Reply<Ack> {
        let mut state = self.0.lock().unwrap();
        let next = next(&state.desired)?;
        let changed = next.is_some();
        if let Some(next) = next {
            state.desired = next;
            state.generation += 1;
        }
        Ok(Response::new(Ack { generation: state.generation, changed }))
    }

    fn read<T>(&self, f: impl FnOnce(&State) -> Result<T, ApiError>) -> Reply<T> {
        Ok(Response::new(f(&self.0.lock().unwrap())?))
    }
}

/// Those named, or all.
fn pick<'a, T>(
    all: &'a [T],
    names: &[String],
    name: impl Fn(&T) -> &str,
    missing: impl Fn(&str) -> ApiError,
) -> Result<Vec<&'a T>, ApiError> {
    if names.is_empty() {
        return Ok(all.iter().collect());
    }
    names.iter().map(|n| all.iter().find(|o| name(o) == n).ok_or_else(|| missing(n))).collect()
}

/// Requests that swctl does not make.
fn unknown<T>() -> Reply<T> {
    Err(ApiError::new(Reason::Unimplemented, "this double does not know the request").into())
}

#[tonic::async_trait]
impl Switch for Fake {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Reply<Status> {
        if self.0.lock().unwrap().script.hang {
            std::future::pending::<()>().await;
        }
        self.read(|s| {
            Ok(Status {
                version: "0.1.0".into(),
                node: "node-a".into(),
                generation: s.generation,
                applied_generation: s.generation,
                ports_up: s.desired.ports.len() as u32,
                degraded: s.script.degraded.clone(),
                sandbox: s.script.sandbox.clone(),
                monitor: s.script.monitor.clone(),
                ..Default::default()
            })
        })
    }

    async fn wait_generation(&self, r: Request<WaitGenerationRequest>) -> Reply<WaitGenerationReply> {
        self.read(|s| {
            if r.get_ref().generation > s.generation {
                return Err(ApiError::new(Reason::Timeout, "the generation did not come"));
            }
            Ok(WaitGenerationReply { generation: s.generation, applied_generation: s.generation })
        })
    }

    async fn add_network(&self, r: Request<AddNetworkRequest>) -> Reply<Ack> {
        let r = r.into_inner();
        let networks = vec![checked(r.network)?];
        self.commit(|s| s.with(DesiredState { networks, ..Default::default() }, r.may_exist))
    }

    async fn delete_network(&self, r: Request<DeleteNetworkRequest>) -> Reply<Ack> {
        let r = r.into_inner();
        self.commit(|s| s.without(ObjectKey::Network(&r.name), r.if_exists))
    }

    async fn list_networks(&self, r: Request<ListNetworksRequest>) -> Reply<ListNetworksReply> {
        self.read(|s| {
            let picked = pick(&s.desired.networks, &r.get_ref().names, |n| &n.name, ApiError::no_network)?;
            let info = |n: &desired::Network| NetworkInfo {
                spec: Some(n.clone().into()),
                mtu: 1450,
                ..Default::default()
            };
            Ok(ListNetworksReply { networks: picked.into_iter().map(info).collect() })
        })
    }

    async fn add_port(&self, r: Request<AddPortRequest>) -> Reply<Ack> {
        let r = r.into_inner();
        let ports = vec![checked(r.port)?];
        if let Some(e) = self.0.lock().unwrap().script.port_error.clone() {
            return Err(e.into());
        }
        self.commit(|s| s.with(DesiredState { ports, ..Default::default() }, r.may_exist))
    }

    async fn delete_port(&self, r: Request<DeletePortRequest>) -> Reply<Ack> {
        let r = r.into_inner();
        self.commit(|s| s.without(ObjectKey::Port(&r.name), r.if_exists))
    }

    async fn list_ports(&self, r: Request<ListPortsRequest>) -> Reply<ListPortsReply> {
        self.read(|s| {
            let picked = pick(&s.desired.ports, &r.get_ref().names, |p| &p.name, ApiError::no_port)?;
            let info = |p: &desired::Port| PortInfo {
                spec: Some(p.clone().into()),
                state: ObjectState::Up.into(),
                mtu: 1450,
                vni: 1,
                ..Default::default()
            };
            Ok(ListPortsReply { ports: picked.into_iter().map(info).collect() })
        })
    }

    async fn port_stats(&self, r: Request<PortStatsRequest>) -> Reply<PortStatsReply> {
        self.read(|s| {
            let picked = pick(&s.desired.ports, &r.get_ref().names, |p| &p.name, ApiError::no_port)?;
            let counters = Some(Counters { rx_frames: 7, ..Default::default() });
            let limit = |rate: u64, burst| LimitStats { rate, burst, queued_bytes: 9, ..Default::default() };
            let ingress =
                |b: desired::Bandwidth| (b.ingress_rate > 0).then(|| limit(b.ingress_rate, b.ingress_burst));
            let ports = picked.into_iter().map(|p| PortStat {
                name: p.name.clone(),
                counters,
                ingress: p.bandwidth.and_then(ingress),
                egress: None,
            });
            Ok(PortStatsReply { ports: ports.collect() })
        })
    }

    async fn add_attachment(&self, _: Request<AddAttachmentRequest>) -> Reply<Attachment> {
        unknown()
    }

    async fn delete_attachment(&self, _: Request<DeleteAttachmentRequest>) -> Reply<Ack> {
        unknown()
    }

    async fn check_attachment(&self, _: Request<CheckAttachmentRequest>) -> Reply<CheckAttachmentReply> {
        unknown()
    }

    async fn collect_attachments(
        &self,
        _: Request<CollectAttachmentsRequest>,
    ) -> Reply<CollectAttachmentsReply> {
        unknown()
    }

    async fn get_readiness(&self, _: Request<GetReadinessRequest>) -> Reply<Readiness> {
        self.read(|s| Ok(Readiness { ready: !s.desired.networks.is_empty(), ..Default::default() }))
    }

    async fn add_peer(&self, r: Request<AddPeerRequest>) -> Reply<Ack> {
        let r = r.into_inner();
        let peers = vec![checked(r.peer)?];
        self.commit(|s| s.with(DesiredState { peers, ..Default::default() }, r.may_exist))
    }

    async fn delete_peer(&self, r: Request<DeletePeerRequest>) -> Reply<Ack> {
        let r = r.into_inner();
        self.commit(|s| s.without(ObjectKey::Peer(&r.name), r.if_exists))
    }

    async fn list_peers(&self, r: Request<ListPeersRequest>) -> Reply<ListPeersReply> {
        self.read(|s| {
            let picked = pick(&s.desired.peers, &r.get_ref().names, |p| &p.name, ApiError::no_peer)?;
            let info = |p: &desired::Peer| PeerInfo {
                spec: Some(p.clone().into()),
                port: p.udp_port().into(),
                ..Default::default()
            };
            Ok(ListPeersReply { peers: picked.into_iter().map(info).collect() })
        })
    }

    async fn peer_stats(&self, r: Request<PeerStatsRequest>) -> Reply<PeerStatsReply> {
        self.read(|s| {
            let picked = pick(&s.desired.peers, &r.get_ref().names, |p| &p.name, ApiError::no_peer)?;
            let peers = picked.into_iter().map(|p| PeerStat { name: p.name.clone(), counters: None });
            Ok(PeerStatsReply { peers: peers.collect() })
        })
    }

    async fn list_fdb(&self, _: Request<ListFdbRequest>) -> Reply<ListFdbReply> {
        self.read(|s| {
            let entries = s.script.fdb.clone();
            Ok(ListFdbReply { total: entries.len() as u64, entries })
        })
    }

    async fn add_fdb(&self, r: Request<AddFdbRequest>) -> Reply<Ack> {
        let r = r.into_inner();
        let fdb = vec![checked(r.entry)?];
        self.commit(|s| s.with(DesiredState { fdb, ..Default::default() }, r.may_exist))
    }

    async fn delete_fdb(&self, r: Request<DeleteFdbRequest>) -> Reply<Ack> {
        let r = r.into_inner();
        let mac = desired::convert::field("fdb entry", &r.mac)?;
        self.commit(|s| s.without(ObjectKey::Fdb(&r.network, mac), r.if_exists))
    }

    async fn flush_fdb(&self, r: Request<FlushFdbRequest>) -> Reply<FlushReply> {
        self.0.lock().unwrap().script.flushed.push(r.into_inner());
        Ok(Response::new(FlushReply { removed: 3 }))
    }

    async fn list_routes(&self, _: Request<ListRoutesRequest>) -> Reply<ListRoutesReply> {
        self.read(|s| {
            let info = |r: &desired::Route| RouteInfo {
                route: Some(r.clone().into()),
                protocol: "static".into(),
                ..Default::default()
            };
            Ok(ListRoutesReply { routes: s.desired.routes.iter().map(info).collect() })
        })
    }

    async fn add_route(&self, r: Request<AddRouteRequest>) -> Reply<Ack> {
        let r = r.into_inner();
        let routes = vec![checked(r.route)?];
        self.commit(|s| s.with(DesiredState { routes, ..Default::default() }, r.may_exist))
    }

    async fn delete_route(&self, r: Request<DeleteRouteRequest>) -> Reply<Ack> {
        let r = r.into_inner();
        let prefix = desired::convert::field("route", &r.prefix)?;
        self.commit(|s| s.without(ObjectKey::Route(&r.network, prefix), r.if_exists))
    }

    async fn get_route(&self, r: Request<GetRouteRequest>) -> Reply<GetRouteReply> {
        self.read(|s| {
            let ip: std::net::IpAddr = desired::convert::field("route", &r.get_ref().ip)?;
            let found = s.desired.routes.iter().find(|o| o.prefix.contains(&ip));
            let found =
                found.ok_or_else(|| ApiError::new(Reason::RouteNotFound, format!("no route to {ip}")))?;
            let route = Some(RouteInfo { route: Some(found.clone().into()), ..Default::default() });
            Ok(GetRouteReply { route, neighbour: None })
        })
    }

    async fn list_neighbours(&self, _: Request<ListNeighboursRequest>) -> Reply<ListNeighboursReply> {
        self.read(|s| Ok(ListNeighboursReply { neighbours: s.script.neighbours.clone() }))
    }

    async fn flush_neighbours(&self, _: Request<FlushNeighboursRequest>) -> Reply<FlushReply> {
        Ok(Response::new(FlushReply { removed: 0 }))
    }

    async fn list_drops(&self, _: Request<ListDropsRequest>) -> Reply<ListDropsReply> {
        self.read(|s| Ok(s.script.drops.clone()))
    }

    async fn trace(&self, r: Request<TraceRequest>) -> Reply<TraceReply> {
        let script = &mut self.0.lock().unwrap().script;
        script.traced.push(r.into_inner());
        if script.traces.is_empty() {
            return Err(ApiError::no_port("web-9").into());
        }
        Ok(Response::new(script.traces.remove(0)))
    }

    async fn apply(&self, r: Request<ApplyRequest>) -> Reply<ApplyReply> {
        let r = r.into_inner();
        let document = checked(r.state)?;
        let mut state = self.0.lock().unwrap();
        let (next, changes) = state.desired.merged(document, r.prune);
        next.check()?;
        if !r.dry_run && !changes.is_empty() {
            state.desired = next;
            state.generation += 1;
        }
        let changes = changes.into_iter().map(Into::into).collect();
        Ok(Response::new(ApplyReply { generation: state.generation, changes }))
    }

    async fn export(&self, _: Request<ExportRequest>) -> Reply<ExportReply> {
        self.read(|s| Ok(ExportReply { state: Some(s.desired.clone().into()), generation: s.generation }))
    }
}
