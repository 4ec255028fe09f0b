//! The double of the daemon: the five requests of the plugin, dispatched by their path.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use ctl::error::{ApiError, Reason};
use ctl::proto::*;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};

/// What the next request is answered with, instead of what the double would answer.
#[derive(Clone, Debug)]
pub enum Answer {
    Refuse(ApiError),
    /// Never answers.
    Hang,
    /// Carries it out, and is gone before it answers.
    Vanish,
    Problems(Vec<String>),
    Readiness(Readiness),
}

#[derive(Default)]
struct State {
    attachments: BTreeMap<(String, String), (String, Attachment)>,
    given: u8,
    answers: VecDeque<Answer>,
    seen: Vec<Seen>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

/// A request that came.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Add(AddAttachmentRequest),
    Delete(AttachmentKey),
    Check(CheckAttachmentRequest),
    Collect(CollectAttachmentsRequest),
    Readiness(GetReadinessRequest),
}

#[derive(Clone, Default)]
struct Double(Arc<Mutex<State>>);

/// A running double, with its socket in a directory of its own.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    double: Double,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    pub fn start() -> Self {
        let mut daemon = Self { dir: tempfile::tempdir().unwrap(), double: Double::default(), thread: None };
        daemon.restart();
        daemon
    }

    /// Comes back with what it had, after [`Daemon::stop`] or [`Answer::Vanish`].
    pub fn restart(&mut self) {
        self.stop();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let double = self.double.clone();
        double.0.lock().unwrap().stop = Some(stop);
        // Bound here, so that it answers as soon as this returns.
        let listener = std::os::unix::net::UnixListener::bind(self.socket()).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
                let serve =
                    tonic::transport::Server::builder().add_service(double).serve_with_incoming(incoming);
                tokio::select! {
                    r = serve => r.unwrap(),
                    _ = stopped => {}
                }
            });
        }));
    }

    /// Ends it as a crash does: connections are cut, the socket stays.
    pub fn kill(&mut self) {
        let stop = self.double.0.lock().unwrap().stop.take();
        let _ = stop.map(|s| s.send(()));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// And the socket is gone too.
    pub fn stop(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("swd.sock")
    }

    pub fn tombstones(&self) -> PathBuf {
        self.dir.path().join("deleted")
    }

    pub fn call(&self, verb: &str) -> super::Call {
        super::Call::new(verb, &self.socket())
    }

    /// Scripts the answer to the next request without one.
    pub fn answer(&self, answer: Answer) -> &Self {
        self.double.0.lock().unwrap().answers.push_back(answer);
        self
    }

    pub fn refuse(&self, reason: Reason, message: &str) -> &Self {
        self.answer(Answer::Refuse(ApiError::new(reason, message).hint("the next step")))
    }

    /// What came since this was last asked.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.double.0.lock().unwrap().seen)
    }

    /// As `container/interface`.
    pub fn attached(&self) -> Vec<String> {
        let state = self.double.0.lock().unwrap();
        state.attachments.keys().map(|(id, ifname)| format!("{id}/{ifname}")).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Double {
    async fn answered<T>(
        &self,
        seen: Seen,
        scripted: impl FnOnce(Answer) -> Option<T>,
        act: impl FnOnce(&mut State) -> Result<T, ApiError>,
    ) -> Result<Response<T>, Status> {
        let answer = {
            let mut state = self.0.lock().unwrap();
            state.seen.push(seen);
            state.answers.pop_front()
        };
        match answer {
            None => {}
            Some(Answer::Refuse(e)) => return Err(e.into()),
            Some(Answer::Hang) => return std::future::pending().await,
            Some(Answer::Vanish) => {
                let stop = {
                    let mut state = self.0.lock().unwrap();
                    let _ = act(&mut state);
                    state.stop.take()
                };
                let _ = stop.map(|s| s.send(()));
                return std::future::pending().await;
            }
            Some(other) => {
                let reply = scripted(other.clone());
                return Ok(Response::new(
                    reply.unwrap_or_else(|| panic!("{other:?} does not fit the request")),
                ));
            }
        }
        Ok(Response::new(act(&mut self.0.lock().unwrap())?))
    }

    async fn add(self, r: AddAttachmentRequest) -> Result<Response<Attachment>, Status> {
        self.answered(
            Seen::Add(r.clone()),
            |_| None,
            |state| {
                let key = r.key.unwrap();
                let id = (key.container_id.clone(), key.ifname.clone());
                if let Some((_, there)) = state.attachments.get(&id) {
                    return Ok(Attachment { existed: true, ..there.clone() });
                }
                state.given += 1;
                let n = state.given;
                let ip = |address: String, gateway: &str| AttachmentIp { address, gateway: gateway.into() };
                let ips = match r.delegated {
                    true => r.ips.iter().map(|a| ip(a.clone(), "10.1.1.1")).collect(),
                    false => vec![
                        ip(format!("10.1.1.{}/24", n + 1), "10.1.1.1"),
                        ip(format!("fd00:1::{:x}/64", u32::from(n) + 1), "fd00:1::1"),
                    ],
                };
                let attachment = Attachment {
                    port: ctl::desired::attachment::port_name(&key.container_id, &key.ifname),
                    key: Some(key),
                    network: if r.network.is_empty() { "blue".into() } else { r.network },
                    mac: format!("02:00:00:00:00:{n:02x}"),
                    mtu: if r.mtu == 0 { 1450 } else { r.mtu },
                    ips,
                    ..Default::default()
                };
                state.attachments.insert(id, (r.cni_network, attachment.clone()));
                Ok(attachment)
            },
        )
        .await
    }

    async fn delete(self, r: DeleteAttachmentRequest) -> Result<Response<Ack>, Status> {
        let key = r.key.unwrap();
        self.answered(
            Seen::Delete(key.clone()),
            |_| None,
            |state| {
                let changed = state.attachments.remove(&(key.container_id, key.ifname)).is_some();
                Ok(Ack { generation: 1, changed })
            },
        )
        .await
    }

    async fn check(self, r: CheckAttachmentRequest) -> Result<Response<CheckAttachmentReply>, Status> {
        let scripted = |answer| match answer {
            Answer::Problems(problems) => Some(CheckAttachmentReply { problems }),
            _ => None,
        };
        self.answered(Seen::Check(r.clone()), scripted, |state| {
            let key = r.key.unwrap();
            let name = ctl::desired::attachment::port_name(&key.container_id, &key.ifname);
            match state.attachments.contains_key(&(key.container_id, key.ifname)) {
                true => Ok(CheckAttachmentReply::default()),
                false => Err(ApiError::no_port(&name)),
            }
        })
        .await
    }

    async fn collect(
        self,
        r: CollectAttachmentsRequest,
    ) -> Result<Response<CollectAttachmentsReply>, Status> {
        self.answered(
            Seen::Collect(r.clone()),
            |_| None,
            |state| {
                let stays = |id: &(String, String)| {
                    r.valid.iter().any(|k| (&k.container_id, &k.ifname) == (&id.0, &id.1))
                };
                state.attachments.retain(|id, (network, _)| *network != r.cni_network || stays(id));
                Ok(CollectAttachmentsReply::default())
            },
        )
        .await
    }

    async fn readiness(self, r: GetReadinessRequest) -> Result<Response<Readiness>, Status> {
        let scripted = |answer| match answer {
            Answer::Readiness(readiness) => Some(readiness),
            _ => None,
        };
        let ready = |_: &mut State| Ok(Readiness { ready: true, free_addresses: 9, ..Default::default() });
        self.answered(Seen::Readiness(r), scripted, ready).await
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One request as a service of its own.
struct Handler<F>(F);

impl<F, A, Req, Reply> Service<Request<Req>> for Handler<F>
where
    F: FnMut(Req) -> A,
    A: Future<Output = Result<Response<Reply>, Status>> + Send + 'static,
{
    type Response = Response<Reply>;
    type Error = Status;
    type Future = Boxed<Result<Response<Reply>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        Box::pin((self.0)(request.into_inner()))
    }
}

/// Only what the plugin asks is served. Whatever else the API has, the plugin must not need it.
impl Service<http::Request<Body>> for Double {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let double = self.clone();
        Box::pin(async move {
            macro_rules! unary {
                ($method:ident) => {
                    Grpc::new(tonic_prost::ProstCodec::default())
                        .unary(Handler(|r| double.clone().$method(r)), request)
                        .await
                };
            }
            Ok(match request.uri().path() {
                "/swd.v1.Switch/AddAttachment" => unary!(add),
                "/swd.v1.Switch/DeleteAttachment" => unary!(delete),
                "/swd.v1.Switch/CheckAttachment" => unary!(check),
                "/swd.v1.Switch/CollectAttachments" => unary!(collect),
                "/swd.v1.Switch/GetReadiness" => unary!(readiness),
                other => Status::unimplemented(other.to_owned()).into_http(),
            })
        })
    }
}

impl NamedService for Double {
    const NAME: &'static str = "swd.v1.Switch";
}

/// The tombstones that are there, as `container/interface of network`.
pub fn tombstones(dir: &Path) -> Vec<String> {
    let listing = ctl::tombstone::list(dir, 100).unwrap();
    assert!(listing.unreadable.is_empty(), "{:?}", listing.unreadable);
    let mut texts: Vec<_> = listing
        .tombstones
        .into_iter()
        .map(|(_, t)| format!("{}/{} of {}", t.container_id, t.ifname, t.cni_network))
        .collect();
    texts.sort();
    texts
}
