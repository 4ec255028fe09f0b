//! What every command needs: the options, the connection (made at the first call), and where to print.

use std::io::{self, Write as _};

use ctl::client::{BlockingClient, Stub};
use ctl::error::{ApiError, Reason};
use ctl::proto;
use serde::Serialize;

use crate::args::Global;
use crate::print::Printer;

/// How a command ended when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It did what was asked, and found something wrong.
    Problems,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Arguments that do not fit together.
    #[error("{0}")]
    Usage(String),
    /// A local file or standard output.
    #[error("{0}")]
    Io(String),
    /// Nobody reads our standard output any more.
    #[error("standard output is closed")]
    Closed,
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::BrokenPipe {
            Self::Closed
        } else {
            Self::Io(format!("cannot print: {e}"))
        }
    }
}

pub type Done = Result<Outcome, Failure>;

pub struct Context {
    pub global: Global,
    pub print: Printer,
    client: Option<BlockingClient>,
}

impl Context {
    pub fn new(global: Global) -> Self {
        Self { print: Printer::new(&global), global, client: None }
    }

    pub fn client(&mut self) -> Result<&mut BlockingClient, ApiError> {
        if self.client.is_none() {
            self.client = Some(BlockingClient::connect(&self.global.socket, self.global.timeout)?);
        }
        self.client.as_mut().ok_or_else(|| ApiError::new(Reason::Internal, "no connection"))
    }

    pub fn call<T>(
        &mut self,
        f: impl AsyncFnOnce(&mut Stub) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, ApiError> {
        self.client()?.call(f)
    }

    /// The network named, or the only one there is.
    pub fn network(&mut self, named: Option<String>) -> Result<String, Failure> {
        if let Some(name) = named {
            return Ok(name);
        }
        let request = proto::ListNetworksRequest::default();
        let reply = self.call(async |s| s.list_networks(request).await)?;
        let mut names = reply.networks.into_iter().filter_map(|n| n.spec).map(|n| n.name);
        match (names.next(), names.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(ApiError::new(Reason::NetworkNotFound, "there is no network")
                .hint("make one: swctl network add NAME --vni N --subnet CIDR --gateway IP")
                .into()),
            (Some(first), Some(second)) => Err(Failure::Usage(format!(
                "say which with --network: there are {first}, {second} and maybe more"
            ))),
        }
    }

    /// A message for people, on standard error.
    pub fn note(&self, text: &str) {
        // Nothing is left to do when standard error is closed.
        let _ = writeln!(io::stderr().lock(), "swctl: {text}");
    }

    /// Ends a mutation: silent for people, as `ip` is.
    pub fn ack(&mut self, ack: proto::Ack) -> Done {
        #[derive(Serialize)]
        struct View {
            generation: u64,
            changed: bool,
        }
        if self.print.json {
            self.print.object(&View { generation: ack.generation, changed: ack.changed })?;
        }
        Ok(Outcome::Done)
    }

    /// Ends a flush.
    pub fn flushed(&mut self, reply: proto::FlushReply) -> Done {
        #[derive(Serialize)]
        struct View {
            removed: u64,
        }
        if self.print.json {
            self.print.object(&View { removed: reply.removed })?;
        }
        Ok(Outcome::Done)
    }
}
