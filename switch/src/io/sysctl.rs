//! Per-interface IPv6 settings that netlink does not offer.
//!
//! A pod's gateway and addresses are given, not discovered: router advertisements are ignored and the
//! kernel does not spend a second on duplicate address detection before the pod may speak. All of it is
//! best effort, because `/proc/sys` is read-only in many containers; only IPv6 switched off for the
//! interface makes a later step fail, and that step says so.

use std::fs;
use std::path::Path;

/// What is written below `/proc/sys/net/ipv6/conf/IF`, in this order.
const QUIET: [(&str, &str); 4] =
    [("accept_ra", "0"), ("router_solicitations", "0"), ("accept_dad", "0"), ("dad_transmits", "0")];

/// Applies the settings to `ifname` in the namespace of the calling thread (which is where the kernel
/// looks up `/proc/sys/net`). Returns how many could be written. `ipv6` also switches IPv6 on.
pub fn quiet_ipv6(ifname: &str, ipv6: bool) -> usize {
    let dir = Path::new("/proc/sys/net/ipv6/conf").join(ifname);
    let enable = ipv6.then_some(("disable_ipv6", "0"));
    QUIET.into_iter().chain(enable).filter(|(name, value)| fs::write(dir.join(name), value).is_ok()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_interface_is_no_failure() {
        assert_eq!(quiet_ipv6("no-such-if", true), 0);
    }
}
