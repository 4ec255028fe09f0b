//! One rtnetlink conversation: send a request, collect its answers, turn a refusal into readable text.
//!
//! A netlink socket belongs to the network namespace of the thread that opened it, for as long as it
//! lives; what it is used for is in [`super::link`]. The kernel explains many refusals in words ("extended
//! acknowledgement"), which are kept.
//!
//! Limits: an answer is awaited for five seconds; a dump may have 100,000 messages and is repeated up to
//! three times if the kernel's tables changed under it.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use neli::attr::Attribute;
use neli::consts::nl::{NlmF, Nlmsg, NlmsgerrAttr};
use neli::consts::rtnl::Rtm;
use neli::consts::socket::NlFamily;
use neli::err::SocketError;
use neli::nl::{NlPayload, NlmsghdrBuilder};
use neli::socket::synchronous::NlSocketHandle;
use neli::types::{Buffer, GenlBuffer};
use neli::utils::Groups;
use neli::{FromBytesWithInput, Size, ToBytes};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

const PATIENCE: Duration = Duration::from_secs(5);
const MAX_MESSAGES: usize = 100_000;
const DUMP_TRIES: usize = 3;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused.
    #[error("{what}: {}{}", io::Error::from_raw_os_error(*errno), explained(message))]
    Refused {
        /// What was asked.
        what: String,
        /// Its error number.
        errno: i32,
        /// Its own words, if it had any.
        message: Option<String>,
    },
    /// The socket failed, or no answer came in time.
    #[error("{what}: netlink: {cause}")]
    Socket {
        /// What was asked.
        what: String,
        /// The system's words.
        cause: io::Error,
    },
    /// An answer that makes no sense.
    #[error("{what}: netlink answered unexpectedly: {detail}")]
    Unexpected {
        /// What was asked.
        what: String,
        /// What was wrong.
        detail: String,
    },
}

fn explained(message: &Option<String>) -> String {
    message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default()
}

impl NetlinkError {
    /// The kernel's error number, if it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket { cause, .. } => cause.raw_os_error(),
            Self::Unexpected { .. } => None,
        }
    }

    fn socket(what: &str, error: SocketError) -> Self {
        match error {
            SocketError::Io(e) => {
                let cause = e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error);
                Self::Socket { what: what.to_owned(), cause }
            }
            other => Self::unexpected(what, other),
        }
    }

    pub(super) fn unexpected(what: &str, detail: impl ToString) -> Self {
        Self::Unexpected { what: what.to_owned(), detail: detail.to_string() }
    }
}

/// A routing netlink socket in the namespace of the thread that opened it.
pub struct Netlink {
    socket: NlSocketHandle,
    seq: u32,
}

impl Netlink {
    /// Opens the socket here.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn open() -> Result<Self, NetlinkError> {
        let what = "opening a netlink socket";
        let connect = || -> Result<NlSocketHandle, SocketError> {
            let socket = NlSocketHandle::connect(NlFamily::Route, None, Groups::empty())?;
            socket.enable_ext_ack(true)?;
            // SAFETY: the descriptor is `socket`'s own, which outlives this borrow.
            let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
            set_socket_timeout(fd, Timeout::Recv, Some(PATIENCE)).map_err(io::Error::from)?;
            Ok(socket)
        };
        Ok(Self { socket: connect().map_err(|e| NetlinkError::socket(what, e))?, seq: 0 })
    }

    /// Sends one request and returns the bodies of its answers, none for a plain acknowledgement.
    ///
    /// # Errors
    /// See [`NetlinkError`]; `what` leads its text.
    pub fn ask<P, A>(&mut self, what: &str, kind: Rtm, flags: NlmF, body: P) -> Result<Vec<A>, NetlinkError>
    where
        P: Size + ToBytes + Debug,
        A: FromBytesWithInput<Input = usize>,
    {
        let flags = flags | NlmF::REQUEST | NlmF::ACK;
        self.send(what, kind, flags, body)?;
        self.collect(what).map(|(answers, _)| answers)
    }

    /// Asks for a whole table.
    ///
    /// # Errors
    /// As [`Netlink::ask`].
    pub fn dump<P, A>(&mut self, what: &str, kind: Rtm, body: P) -> Result<Vec<A>, NetlinkError>
    where
        P: Size + ToBytes + Debug + Clone,
        A: FromBytesWithInput<Input = usize>,
    {
        for _ in 0..DUMP_TRIES {
            self.send(what, kind, NlmF::REQUEST | NlmF::DUMP, body.clone())?;
            let (answers, interrupted) = self.collect(what)?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(NetlinkError::unexpected(what, "the table kept changing while it was read"))
    }

    /// Asks for the part of a table that `body` describes. Kernels before 4.20 answer with all of it.
    ///
    /// # Errors
    /// As [`Netlink::ask`].
    pub fn dump_selected<P, A>(&mut self, what: &str, kind: Rtm, body: P) -> Result<Vec<A>, NetlinkError>
    where
        P: Size + ToBytes + Debug + Clone,
        A: FromBytesWithInput<Input = usize>,
    {
        let strict = self.socket.enable_strict_checking(true).is_ok();
        let answers = self.dump(what, kind, body);
        if strict {
            self.socket.enable_strict_checking(false).map_err(|e| NetlinkError::socket(what, e))?;
        }
        answers
    }

    fn send<P>(&mut self, what: &str, kind: Rtm, flags: NlmF, body: P) -> Result<(), NetlinkError>
    where
        P: Size + ToBytes + Debug,
    {
        self.seq = self.seq.wrapping_add(1);
        let message = NlmsghdrBuilder::default()
            .nl_type(kind)
            .nl_flags(flags)
            .nl_seq(self.seq)
            .nl_payload(NlPayload::Payload(body))
            .build()
            .map_err(|e| NetlinkError::unexpected(what, e))?;
        self.socket.send(&message).map_err(|e| NetlinkError::socket(what, e))
    }

    /// Reads up to the acknowledgement or the end of the dump. The flag tells of an interrupted dump.
    fn collect<A>(&self, what: &str) -> Result<(Vec<A>, bool), NetlinkError>
    where
        A: FromBytesWithInput<Input = usize>,
    {
        let mut answers = Vec::new();
        let mut interrupted = false;
        let mut seen = 0;
        while seen < MAX_MESSAGES {
            let (batch, _) = self.socket.recv::<u16, Buffer>().map_err(|e| NetlinkError::socket(what, e))?;
            let before = seen;
            for message in batch {
                let message = message.map_err(|e| NetlinkError::socket(what, e))?;
                seen += 1;
                // An answer to an earlier request that timed out.
                if *message.nl_seq() != self.seq {
                    continue;
                }
                interrupted |= message.nl_flags().contains(NlmF::DUMP_INTR);
                let done = *message.nl_type() == u16::from(Nlmsg::Done);
                match message.nl_payload() {
                    NlPayload::Ack(_) => return Ok((answers, interrupted)),
                    NlPayload::Err(e) => return Err(refused(what, *e.error(), e.ext_ack())),
                    NlPayload::DumpExtAck(e) if *e.error() < 0 => {
                        return Err(refused(what, *e.error(), e.ext_ack()));
                    }
                    NlPayload::DumpExtAck(_) => return Ok((answers, interrupted)),
                    _ if done => return Ok((answers, interrupted)),
                    NlPayload::Payload(body) => answers.push(decode(what, body)?),
                    NlPayload::Empty => {}
                }
            }
            if seen == before {
                return Err(NetlinkError::unexpected(what, "an empty datagram"));
            }
        }
        Err(NetlinkError::unexpected(what, "more messages than any table has"))
    }
}

fn decode<A: FromBytesWithInput<Input = usize>>(what: &str, body: &Buffer) -> Result<A, NetlinkError> {
    A::from_bytes_with_input(&mut io::Cursor::new(body), body.len())
        .map_err(|e| NetlinkError::unexpected(what, e))
}

fn refused(what: &str, error: i32, ext_ack: &GenlBuffer<NlmsgerrAttr, Buffer>) -> NetlinkError {
    let text = ext_ack.iter().find(|a| *a.nla_type().nla_type() == NlmsgerrAttr::Msg);
    let message = text.map(|a| {
        let bytes: &[u8] = a.payload().as_ref();
        String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
    });
    NetlinkError::Refused { what: what.to_owned(), errno: error.saturating_neg(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_well() {
        let e = NetlinkError::Refused {
            what: "setting the MTU of eth0".into(),
            errno: libc::EINVAL,
            message: Some("mtu greater than device maximum".into()),
        };
        assert_eq!(
            e.to_string(),
            "setting the MTU of eth0: Invalid argument (os error 22) (mtu greater than device maximum)"
        );
        assert_eq!(e.errno(), Some(libc::EINVAL));
    }
}
