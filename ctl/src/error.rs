//! One vocabulary of failures for server and clients.
//!
//! A failure is a [`Reason`] that programs match on, a message that names the object and the cause, and a
//! hint with the next step. On the wire it is a gRPC status whose details hold a `google.rpc.ErrorInfo`
//! with domain `swd`, which clients in other languages decode with their stock libraries. Texts are cut at
//! 2 KiB each, because they travel in HTTP/2 headers.

use std::collections::HashMap;
use std::fmt;

use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt as _};

/// The `domain` of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "swd";
const HINT: &str = "hint";
const MAX_TEXT: usize = 2048;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $code:ident;)*) => {
        /// What went wrong, for programs. The words are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The gRPC code that goes with it.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }
        }
    };
}

reasons! {
    /// No network of that name.
    NetworkNotFound = "NETWORK_NOT_FOUND", NotFound;
    /// No port of that name.
    PortNotFound = "PORT_NOT_FOUND", NotFound;
    /// No peer of that name.
    PeerNotFound = "PEER_NOT_FOUND", NotFound;
    /// No such route, or no route to an address.
    RouteNotFound = "ROUTE_NOT_FOUND", NotFound;
    /// No such FDB entry.
    FdbNotFound = "FDB_NOT_FOUND", NotFound;
    /// The network namespace of a port is not there.
    NetnsNotFound = "NETNS_NOT_FOUND", FailedPrecondition;
    /// An object of that name exists, and `may_exist` was not set.
    AlreadyExists = "ALREADY_EXISTS", AlreadyExists;
    /// It contradicts another object: same VNI, address, namespace, or same name and other content.
    Conflict = "CONFLICT", FailedPrecondition;
    /// A field is malformed or out of range.
    InvalidArgument = "INVALID_ARGUMENT", InvalidArgument;
    /// Other objects still name it.
    InUse = "IN_USE", FailedPrecondition;
    /// The change could not be written to disk and was not made.
    NotDurable = "NOT_DURABLE", Unavailable;
    /// Another process of the daemon is taking over just now.
    Upgrading = "UPGRADING", Unavailable;
    /// The new version did not take over, and the old one goes on.
    UpgradeFailed = "UPGRADE_FAILED", FailedPrecondition;
    /// A configured maximum is reached.
    Limit = "LIMIT", ResourceExhausted;
    /// It did not happen in time. It may still happen.
    Timeout = "TIMEOUT", DeadlineExceeded;
    /// The caller may not do this, or the daemon may not.
    PermissionDenied = "PERMISSION_DENIED", PermissionDenied;
    /// The daemon does not know this request.
    Unimplemented = "UNIMPLEMENTED", Unimplemented;
    /// The daemon cannot be reached. Made by the client only.
    Unreachable = "UNREACHABLE", Unavailable;
    /// A defect, or a failure of the operating system.
    Internal = "INTERNAL", Internal;
}

impl Reason {
    /// The reason for a word on the wire.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.as_str() == word)
    }

    /// An object the request names does not exist in the switch.
    #[must_use]
    pub const fn is_not_found(self) -> bool {
        matches!(self.code(), Code::NotFound)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub reason: Reason,
    /// Object and cause, for people; no capital, no full stop.
    pub message: String,
    /// The next step; empty when there is none.
    pub hint: String,
}

impl ApiError {
    /// A failure without a hint.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), hint: String::new() }
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// A malformed or out-of-range field of `object`, such as `port web-0`.
    #[must_use]
    pub fn invalid(object: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self::new(Reason::InvalidArgument, format!("{object}: {cause}"))
    }

    /// A network that does not exist.
    #[must_use]
    pub fn no_network(name: &str) -> Self {
        Self::new(Reason::NetworkNotFound, format!("network {name} does not exist"))
            .hint("list them: swctl network show")
    }

    /// A port that does not exist.
    #[must_use]
    pub fn no_port(name: &str) -> Self {
        Self::new(Reason::PortNotFound, format!("port {name} does not exist"))
            .hint("list them: swctl port show")
    }

    /// A peer that does not exist.
    #[must_use]
    pub fn no_peer(name: &str) -> Self {
        Self::new(Reason::PeerNotFound, format!("peer {name} does not exist"))
            .hint("list them: swctl peer show")
    }
}

impl From<ApiError> for tonic::Status {
    fn from(e: ApiError) -> Self {
        let mut metadata = HashMap::new();
        if !e.hint.is_empty() {
            metadata.insert(HINT.to_owned(), cut(e.hint));
        }
        let details = ErrorDetails::with_error_info(e.reason.as_str(), DOMAIN, metadata);
        Self::with_error_details(e.reason.code(), cut(e.message), details)
    }
}

impl From<tonic::Status> for ApiError {
    fn from(status: tonic::Status) -> Self {
        Self::answered(status, "the daemon")
    }
}

impl ApiError {
    /// What `daemon` has answered, or that it is not there any more.
    pub(crate) fn answered(status: tonic::Status, daemon: &str) -> Self {
        let message = if status.message().is_empty() {
            format!("{daemon} answered {:?} without a message", status.code())
        } else {
            status.message().to_owned()
        };
        if let Some(info) = status.get_details_error_info().filter(|i| i.domain == DOMAIN) {
            let hint = info.metadata.get(HINT).cloned().unwrap_or_default();
            // A newer daemon may use a word we do not know; its gRPC code is still right.
            let reason = Reason::parse(&info.reason).unwrap_or_else(|| from_code(&status));
            return Self { reason, message, hint };
        }
        let reason = from_code(&status);
        if reason == Reason::Unreachable {
            let cause = root_cause(&status).unwrap_or(message);
            return Self::new(reason, format!("lost the connection to {daemon}: {cause}"))
                .hint("see whether swd still runs, and its log");
        }
        Self::new(reason, message)
    }
}

fn from_code(status: &tonic::Status) -> Reason {
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => Reason::InvalidArgument,
        Code::AlreadyExists => Reason::AlreadyExists,
        Code::FailedPrecondition | Code::Aborted => Reason::Conflict,
        Code::ResourceExhausted => Reason::Limit,
        Code::DeadlineExceeded => Reason::Timeout,
        Code::PermissionDenied | Code::Unauthenticated => Reason::PermissionDenied,
        Code::Unimplemented => Reason::Unimplemented,
        Code::Unavailable => Reason::Unreachable,
        // A connection that breaks under a call surfaces as one of these, with the transport's error inside.
        Code::Unknown | Code::Cancelled | Code::Internal if std::error::Error::source(status).is_some() => {
            Reason::Unreachable
        }
        _ => Reason::Internal,
    }
}

fn root_cause(status: &tonic::Status) -> Option<String> {
    let mut at = std::error::Error::source(status)?;
    while let Some(next) = at.source() {
        at = next;
    }
    Some(at.to_string())
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crosses_the_wire() {
        for &reason in Reason::ALL {
            let e = ApiError::new(reason, "port ü: no").hint("try another");
            assert_eq!(ApiError::from(tonic::Status::from(e.clone())), e);
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let e = ApiError::new(Reason::Internal, "ä".repeat(5000));
        let back = ApiError::from(tonic::Status::from(e));
        assert!(back.message.len() < MAX_TEXT + 8 && back.message.ends_with('…'));
    }

    #[test]
    fn foreign_statuses_map() {
        let e = ApiError::from(tonic::Status::unimplemented("no such method"));
        assert_eq!((e.reason, e.message.as_str()), (Reason::Unimplemented, "no such method"));
        assert_eq!(ApiError::from(tonic::Status::unavailable("gone")).reason, Reason::Unreachable);
        assert_eq!(ApiError::from(tonic::Status::not_found("x")).reason, Reason::Internal);
    }
}
