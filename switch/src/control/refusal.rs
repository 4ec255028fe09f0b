//! Why a device could not be made, in the words of the API: a reason for programs, a sentence, the next step.

use ctl::error::{ApiError, Reason};

use crate::io::{NetnsError, OpenError};

pub(super) const REPLACED: &str = "its network namespace was replaced by another of the same name";

/// The refusal as an answer about `object`.
pub(super) fn of(object: &str, e: &OpenError) -> ApiError {
    let (reason, text, hint) = words(e);
    let error = ApiError::new(reason, format!("{object}: {text}"));
    if hint.is_empty() { error } else { error.hint(hint) }
}

/// Reason, sentence and hint; the hint may be empty.
#[must_use]
pub fn words(e: &OpenError) -> (Reason, String, String) {
    let (text, hint) = match e {
        OpenError::Netns(NetnsError::NotFound { netns, path, hint }) => {
            (format!("network namespace {netns} not found at {}", path.display()), (*hint).to_owned())
        }
        OpenError::Netns(NetnsError::NotANamespace { netns, path, hint }) => (
            format!("{} of network namespace {netns} is not a network namespace", path.display()),
            (*hint).to_owned(),
        ),
        OpenError::Replaced(_) => (
            REPLACED.to_owned(),
            "the pod it was made for has ended: its runtime deletes the port with CNI DEL or GC, or use \
             `swctl port del`"
                .to_owned(),
        ),
        OpenError::IfaceExists { ifname, netns, kind } => (
            format!("interface {ifname} already exists in namespace {netns} ({kind})"),
            format!("choose another name with --ifname, or remove it: ip link del {ifname}"),
        ),
        OpenError::Descriptors { .. } => (
            e.to_string(),
            "raise the limit (LimitNOFILE= in the service's unit, `ulimit -n`) and restart swd, or remove ports"
                .to_owned(),
        ),
        OpenError::Told { text, hint, .. } => (text.clone(), hint.clone()),
        _ => (e.to_string(), String::new()),
    };
    (reason(e), text, hint)
}

fn reason(e: &OpenError) -> Reason {
    match e {
        OpenError::Told { reason, .. } => *reason,
        OpenError::Descriptors { .. } => Reason::Limit,
        OpenError::Invalid(_) | OpenError::OwnNamespace(_) | OpenError::Netns(NetnsError::Invalid(_)) => {
            Reason::InvalidArgument
        }
        OpenError::Replaced(_)
        | OpenError::Netns(NetnsError::NotFound { .. } | NetnsError::NotANamespace { .. }) => {
            Reason::NetnsNotFound
        }
        OpenError::Permission { .. } | OpenError::Netns(NetnsError::Permission { .. }) => {
            Reason::PermissionDenied
        }
        OpenError::IfaceExists { .. } | OpenError::Busy { .. } | OpenError::PortInUse { .. } => {
            Reason::Conflict
        }
        OpenError::NoTun(_)
        | OpenError::Netlink { .. }
        | OpenError::NoSuchAddress(_)
        | OpenError::Io { .. }
        | OpenError::Netns(NetnsError::Io { .. }) => Reason::Internal,
    }
}
