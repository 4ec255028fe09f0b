//! Failures as the runtime reads them: a code, a message and details, as one JSON object on standard output.
//!
//! Runtimes print `msg` and `details` side by side to somebody who asked why a pod does not start, so `msg` is
//! the object and the cause, and `details` the next step. Standard error is not read by them when there is
//! something on standard output.

use ctl::error::{ApiError, Reason};
use serde_json::{Value, json};

use crate::version::SpecVersion;

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $variant:ident = $code:literal;)*) => {
        /// What kind of failure it is, for the runtime. Below 100 the numbers are those of the specification.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($(#[doc = $doc])* $variant = $code,)* }

        impl Code {
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
        }
    };
}

codes! {
    /// The configuration's version of the specification, or its version does not have the verb.
    IncompatibleVersion = 1;
    /// Something in the configuration that the switch cannot do; the message has key and value.
    UnsupportedField = 2;
    /// CHECK of an attachment that was never made or is deleted.
    UnknownContainer = 3;
    /// The message has the names of the variables.
    InvalidEnvironment = 4;
    /// Standard input, a file, or the permission to use the socket.
    Io = 5;
    /// What came on standard input is not a JSON object.
    Decode = 6;
    /// The message has key and value.
    InvalidConfig = 7;
    /// `CNI_NETNS` is no namespace of a pod. Known to runtimes, though not in the specification's table.
    InvalidNetns = 8;
    /// It should work later without anybody changing what is asked.
    TryAgainLater = 11;
    /// STATUS: no attachment can be added.
    NotAvailable = 50;
    /// STATUS: and pods that are attached suffer too.
    NotAvailableDegraded = 51;
    /// Something else has the address, the MAC, the interface or the port of the node.
    Conflict = 100;
    /// CHECK found something wrong with the attachment.
    Broken = 101;
    /// The daemon failed, or is too old for the request.
    Daemon = 102;
    /// The IPAM plugin could not be run, or gave no answer of its own.
    Ipam = 103;
}

/// A failed verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// A [`Code`], or what a delegated plugin said.
    pub code: u64,
    /// Object and cause.
    pub msg: String,
    /// The next step; may be empty.
    pub details: String,
}

impl CniError {
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code: code as u64, msg: msg.into(), details: String::new() }
    }

    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// A key of the network configuration with a value that it cannot have.
    pub fn bad_key(key: &str, value: &Value, expected: impl std::fmt::Display) -> Self {
        let msg = format!("network configuration: `{key}` is {}: {expected}", shown(value));
        Self::new(Code::InvalidConfig, msg)
    }

    /// What the daemon, or the way to it, had against doing `what`.
    pub fn from_api(what: &str, e: ApiError) -> Self {
        let code = match e.reason {
            Reason::Unreachable
            | Reason::Timeout
            | Reason::NotDurable
            | Reason::Upgrading
            | Reason::Limit => Code::TryAgainLater,
            Reason::NetworkNotFound | Reason::InvalidArgument => Code::InvalidConfig,
            Reason::NetnsNotFound => Code::InvalidNetns,
            Reason::PermissionDenied => Code::Io,
            Reason::AlreadyExists | Reason::Conflict | Reason::InUse => Code::Conflict,
            _ => Code::Daemon,
        };
        let hint = match e.reason {
            Reason::Unimplemented => "the plugin is newer than the running daemon: restart swd".to_owned(),
            _ => e.hint,
        };
        Self::new(code, format!("{what}: {}", e.message)).details(hint)
    }

    /// The first failure with the messages of both: what was to be done is done as far as possible, and
    /// everything that went wrong is told.
    pub fn and(mut self, other: Self) -> Self {
        self.msg = format!("{}; {}", self.msg, other.msg);
        if !other.details.is_empty() {
            let separator = if self.details.is_empty() { "" } else { "; " };
            self.details = format!("{}{separator}{}", self.details, other.details);
        }
        self
    }

    pub fn to_json(&self, version: SpecVersion) -> Value {
        let mut object = json!({ "cniVersion": version.as_str(), "code": self.code, "msg": self.msg });
        if !self.details.is_empty() {
            object["details"] = self.details.as_str().into();
        }
        object
    }
}

/// Neither's failure is lost.
pub fn both(first: Result<(), CniError>, second: Result<(), CniError>) -> Result<(), CniError> {
    match (first, second) {
        (Err(a), Err(b)) => Err(a.and(b)),
        (a, b) => a.and(b),
    }
}

/// A value in a message. Cut, because somebody has to read it.
fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 200 {
        text.truncate(text.floor_char_boundary(200));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in the documentation and the code say the same.
    #[test]
    fn every_code_is_documented() {
        let document = include_str!("../../docs/cni.md");
        let documented: Vec<u64> =
            document.lines().filter_map(|l| l.strip_prefix("| `")?.split_once('`')?.0.parse().ok()).collect();
        let codes: Vec<u64> = Code::ALL.iter().map(|&c| c as u64).collect();
        assert_eq!(documented, codes);
    }

    /// A runtime gives up on some codes and repeats on others, so each reason is placed deliberately.
    #[test]
    fn reasons_and_codes() {
        let expected = |reason| match reason {
            Reason::NetworkNotFound | Reason::InvalidArgument => 7,
            Reason::NetnsNotFound => 8,
            Reason::NotDurable
            | Reason::Upgrading
            | Reason::Limit
            | Reason::Timeout
            | Reason::Unreachable => 11,
            Reason::PermissionDenied => 5,
            Reason::AlreadyExists | Reason::Conflict | Reason::InUse => 100,
            Reason::PortNotFound
            | Reason::PeerNotFound
            | Reason::RouteNotFound
            | Reason::FdbNotFound
            | Reason::Unimplemented
            | Reason::UpgradeFailed
            | Reason::Internal => 102,
        };
        for &reason in Reason::ALL {
            let e = CniError::from_api("pod a/b", ApiError::new(reason, "cause").hint("step"));
            assert_eq!(e.code, expected(reason), "{reason}");
            assert_eq!(e.msg, "pod a/b: cause");
            assert!(!e.details.is_empty());
        }
    }

    #[test]
    fn json() {
        let e = CniError::bad_key("mtu", &json!("big"), "expected a number").details("see docs");
        assert_eq!(
            e.to_json(SpecVersion::V0_4_0),
            json!({
                "cniVersion": "0.4.0",
                "code": 7,
                "msg": "network configuration: `mtu` is \"big\": expected a number",
                "details": "see docs",
            })
        );
        let two = both(Err(e.clone()), Err(CniError::new(Code::Ipam, "no"))).unwrap_err();
        assert_eq!((two.code, two.details.as_str()), (7, "see docs"));
        assert!(two.msg.starts_with(&e.msg) && two.msg.ends_with("; no"));
        assert!(both(Ok(()), Err(e)).is_err() && both(Ok(()), Ok(())).is_ok());
    }
}
