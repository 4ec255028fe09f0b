//! The connection to the daemon for one verb: one socket, one bound on the whole of it.

use std::path::Path;
use std::time::{Duration, Instant};

use ctl::client::{BlockingClient, Stub};
use ctl::error::{ApiError, Reason};

/// Making a device and writing the state takes milliseconds; a node that starts a hundred pods at once with a
/// slow disk takes seconds.
pub const ADD: Duration = Duration::from_secs(30);
/// A runtime that waits for DEL keeps the pod in its list, so we give up soon and leave a tombstone.
pub const DEL: Duration = Duration::from_secs(5);
/// CHECK only looks.
pub const CHECK: Duration = Duration::from_secs(10);
/// Like many DELs.
pub const GC: Duration = Duration::from_secs(30);
/// Asked every few seconds on each node.
pub const STATUS: Duration = Duration::from_secs(5);

/// A connected daemon.
#[derive(Debug)]
pub struct Daemon {
    client: BlockingClient,
    deadline: Instant,
}

impl Daemon {
    /// Connects; `limit` bounds this and all calls together.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self, ApiError> {
        let deadline = Instant::now() + limit;
        let client = BlockingClient::connect(socket, limit).map_err(explain)?;
        Ok(Self { client, deadline })
    }

    pub fn call<T>(
        &mut self,
        f: impl AsyncFnOnce(&mut Stub) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, ApiError> {
        self.client.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        self.client.call(f).map_err(explain)
    }
}

/// The client's hints are for people at a command line; here the reader looks at a pod that does not start.
fn explain(mut e: ApiError) -> ApiError {
    match e.reason {
        Reason::Unreachable => {
            e.hint = "start swd on this node, or see its log; if it listens elsewhere, set `socket` in the network \
                      configuration"
                .to_owned();
        }
        Reason::Timeout => e.hint = "see the log of swd on this node".to_owned(),
        _ => {}
    }
    e
}

/// Whether the daemon may or may not have done what it was asked for.
pub fn is_unknown(e: &ApiError) -> bool {
    matches!(e.reason, Reason::Unreachable | Reason::Timeout)
}
