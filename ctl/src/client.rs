//! Connecting to the daemon over its Unix socket, with a bound on every wait.
//!
//! [`Client`] is for async callers. [`BlockingClient`] wraps it for programs that make a few calls and
//! exit, such as the CNI plugin. Failures of the connection say what to do about them; see
//! [`crate::error`]. Calls are not retried: after [`Reason::Timeout`] or [`Reason::Unreachable`] the
//! request may or may not have been carried out, and the idempotent forms (`may_exist`, `if_exists`) make
//! it safe to ask again.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::MAX_MESSAGE_BYTES;
use crate::error::{ApiError, Reason};
use crate::proto::switch_client::SwitchClient;

/// The generated client over our transport.
pub type Stub = SwitchClient<Channel>;

/// A connection to one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    stub: Stub,
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// Connects; `timeout` bounds this and each later call.
    ///
    /// # Errors
    /// [`Reason::Unreachable`] when nobody answers there, [`Reason::PermissionDenied`] when we may not
    /// connect, [`Reason::Timeout`], [`Reason::InvalidArgument`] for a path that is not UTF-8.
    pub async fn connect(socket: impl AsRef<Path>, timeout: Duration) -> Result<Self, ApiError> {
        let socket = socket.as_ref();
        let path = socket
            .to_str()
            .ok_or_else(|| ApiError::invalid("socket", format!("path {} is not UTF-8", socket.display())))?;
        let endpoint = Endpoint::from_shared(format!("unix:{path}"))
            .map_err(|e| ApiError::invalid("socket", e))?
            .connect_timeout(timeout);
        let channel = tokio::time::timeout(timeout, endpoint.connect())
            .await
            .map_err(|_| timed_out(socket, timeout))?
            .map_err(|e| unreachable(socket, timeout, &e))?;
        let stub = SwitchClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { stub, socket: socket.to_owned(), timeout })
    }

    /// The same connection with another bound on each call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes one call: `client.call(async |s| s.list_ports(request).await)`.
    ///
    /// # Errors
    /// What the daemon answered, [`Reason::Timeout`], or [`Reason::Unreachable`] when it went away.
    pub async fn call<T>(
        &mut self,
        f: impl AsyncFnOnce(&mut Stub) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, ApiError> {
        match tokio::time::timeout(self.timeout, f(&mut self.stub)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                Err(ApiError::answered(status, &format!("the daemon at {}", self.socket.display())))
            }
            Err(_) => Err(timed_out(&self.socket, self.timeout)),
        }
    }
}

/// A connection for callers without an async runtime.
///
/// It owns a single-threaded runtime, so it must not be used from inside another one.
#[derive(Debug)]
pub struct BlockingClient {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl BlockingClient {
    /// Connects; see [`Client::connect`].
    ///
    /// # Errors
    /// Those of [`Client::connect`], and [`Reason::Internal`] when the system refuses us a runtime.
    pub fn connect(socket: impl AsRef<Path>, timeout: Duration) -> Result<Self, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| ApiError::new(Reason::Internal, format!("cannot make a poll loop: {e}")))?;
        let client = runtime.block_on(Client::connect(socket, timeout))?;
        Ok(Self { client, runtime })
    }

    /// Changes the bound on each later call.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.client.timeout = timeout;
    }

    /// Makes one call; see [`Client::call`].
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn call<T>(
        &mut self,
        f: impl AsyncFnOnce(&mut Stub) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, ApiError> {
        self.runtime.block_on(self.client.call(f))
    }
}

fn timed_out(socket: &Path, timeout: Duration) -> ApiError {
    ApiError::new(Reason::Timeout, format!("no answer from {} within {timeout:?}", socket.display()))
        .hint("wait longer with --timeout, or see the log of swd")
}

fn unreachable(socket: &Path, timeout: Duration, e: &tonic::transport::Error) -> ApiError {
    let shown = socket.display();
    let Some(io) = io_error(e) else {
        return ApiError::new(Reason::Unreachable, format!("cannot connect to {shown}: {e}"))
            .hint("see whether swd runs: swctl status");
    };
    let error = |reason, cause: &str| ApiError::new(reason, format!("cannot connect to {shown}: {cause}"));
    match io.kind() {
        io::ErrorKind::NotFound => error(Reason::Unreachable, "the socket does not exist")
            .hint("start swd, or name its socket with --socket or SWCTL_SOCKET"),
        io::ErrorKind::ConnectionRefused => error(Reason::Unreachable, "nobody listens there")
            .hint("swd has stopped; start it, or name another socket with --socket or SWCTL_SOCKET"),
        io::ErrorKind::PermissionDenied => error(Reason::PermissionDenied, "permission denied")
            .hint("run as root or as a member of the socket's group"),
        io::ErrorKind::TimedOut => timed_out(socket, timeout),
        _ => error(Reason::Unreachable, &io.to_string()),
    }
}

fn io_error(e: &tonic::transport::Error) -> Option<&io::Error> {
    let mut at: &(dyn std::error::Error + 'static) = e;
    // The chain is short; the bound is against a cycle in somebody's `source`.
    for _ in 0..16 {
        if let Some(io) = at.downcast_ref::<io::Error>() {
            return Some(io);
        }
        at = at.source()?;
    }
    None
}
