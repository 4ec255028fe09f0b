//! Settings below `/proc/sys/net`, which netlink does not offer.
//!
//! A pod's gateway and addresses are given, not discovered: router advertisements are ignored and the
//! kernel does not spend a second on duplicate address detection before the pod may speak. The node's own
//! device forwards, and takes packets whose sender it would answer by another way. All of it is
//! best effort, because `/proc/sys` is read-only in many containers; only IPv6 switched off for the
//! interface makes a later step fail, and that step says so.
//!
//! The kernel looks `/proc/sys/net` up in the network namespace of the calling thread.

use std::fs;
use std::io;
use std::path::Path;

/// What is written below `/proc/sys/net/ipv6/conf/IF`, in this order.
const QUIET: [(&str, &str); 4] =
    [("accept_ra", "0"), ("router_solicitations", "0"), ("accept_dad", "0"), ("dad_transmits", "0")];

/// `rp_filter` as RFC 3704 has it: a sender must be reachable by the interface its packet came in on.
pub const STRICT: u32 = 1;
/// `rp_filter`: a sender must be reachable at all.
pub const LOOSE: u32 = 2;

/// Reads a number; `name` is relative to `/proc/sys/net`. `None` when there is no such setting.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    fs::read_to_string(path(name)).ok()?.trim().parse().ok()
}

/// Sets a number unless it is set so already, which needs no permission to write.
///
/// # Errors
/// Those of the file; `/proc/sys` is often read-only in containers.
pub fn set(name: &str, value: u32) -> io::Result<()> {
    if number(name) == Some(value) { Ok(()) } else { fs::write(path(name), value.to_string()) }
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new("/proc/sys/net").join(name)
}

/// Applies the settings to `ifname` in the namespace of the calling thread. Returns how many could be written.
/// `ipv6` also switches IPv6 on.
pub fn quiet_ipv6(ifname: &str, ipv6: bool) -> usize {
    let dir = Path::new("/proc/sys/net/ipv6/conf").join(ifname);
    let enable = ipv6.then_some(("disable_ipv6", "0"));
    QUIET.into_iter().chain(enable).filter(|(name, value)| fs::write(dir.join(name), value).is_ok()).count()
}

/// Prepares the node's own device: it forwards, and where the node checks senders strictly, it does so loosely,
/// because a peer's node may speak with an underlay address, which the node answers by its uplink. Returns how
/// many settings are as they should be, of three.
pub fn routes_for_the_node(ifname: &str) -> usize {
    let loose = match strict_rp_filter(ifname) {
        true => set(&format!("ipv4/conf/{ifname}/rp_filter"), LOOSE).is_ok(),
        false => true,
    };
    let forwards = |family| set(&format!("{family}/conf/{ifname}/forwarding"), 1).is_ok();
    [loose, forwards("ipv4"), forwards("ipv6")].into_iter().filter(|done| *done).count()
}

/// Does an interface take only packets from senders that are reachable by it? The larger of its own setting and
/// that of all interfaces counts.
#[must_use]
pub fn strict_rp_filter(ifname: &str) -> bool {
    let of = |name: &str| number(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or(0);
    of("all").max(of(ifname)) == STRICT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_interface_is_no_failure() {
        assert_eq!(quiet_ipv6("no-such-if", true), 0);
        assert!(routes_for_the_node("no-such-if") <= 1);
        assert_eq!(number("ipv4/conf/no-such-if/rp_filter"), None);
        assert!(set("ipv4/conf/no-such-if/rp_filter", 2).is_err());
    }

    #[test]
    fn what_is_set_already_is_not_written() {
        let name = "ipv4/ip_forward";
        let value = number(name).unwrap();
        // Also as a user who may not write there.
        set(name, value).unwrap();
    }
}
