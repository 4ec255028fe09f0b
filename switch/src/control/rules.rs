//! What this switch asks of a desired state beyond its being sound in itself.
//!
//! These rules depend on how the daemon was started or on what it derives, so the document format cannot know
//! them. They refuse a change; a state from disk is not held to them, because it was accepted once.

use std::collections::HashMap;

use ctl::desired::{DesiredState, Network};
use ctl::error::{ApiError, Reason};
use packet::MacAddr;

use super::{Settings, derive};

/// Checks a state that passed [`DesiredState::check`].
///
/// # Errors
/// [`Reason::Conflict`].
pub fn check(settings: &Settings, desired: &DesiredState) -> Result<(), ApiError> {
    let networks: HashMap<&str, &Network> = desired.networks.iter().map(|n| (n.name.as_str(), n)).collect();
    let mut macs: HashMap<(&str, MacAddr), &str> = HashMap::new();
    for port in &desired.ports {
        let mac = derive::port_mac(settings, port);
        if let Some(other) = macs.insert((&port.network, mac), &port.name) {
            return Err(conflict(format!("port {}: MAC {mac} already belongs to port {other}", port.name))
                .hint("give one of them another --mac"));
        }
        let own = networks.get(port.network.as_str()).map(|n| derive::own_macs(settings, n.vni));
        if own.is_some_and(|own| own.contains(&mac)) {
            return Err(conflict(format!("port {}: MAC {mac} is the switch's own", port.name))
                .hint("give it another --mac"));
        }
    }
    for entry in &desired.fdb {
        if let Some(port) = macs.get(&(entry.network.as_str(), entry.mac))
            && desired.ports.iter().any(|p| p.name == **port && !p.ips.is_empty())
        {
            return Err(conflict(format!("{entry}: it is the address of port {port}")));
        }
    }
    Ok(())
}

fn conflict(message: String) -> ApiError {
    ApiError::new(Reason::Conflict, message)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use ctl::desired::{FdbEntry, Place};

    #[test]
    fn derived_addresses_count_too() {
        let settings = testing::settings();
        let mut state = testing::state();
        assert_eq!(check(&settings, &state), Ok(()));
        state.ports[1].mac = Some("0a:58:0a:01:01:02".parse().unwrap());
        let e = check(&settings, &state).unwrap_err();
        assert_eq!((e.reason, e.message.contains("already belongs to port web-0")), (Reason::Conflict, true));
        state.ports[1].mac = Some("0a:53:57:00:00:01".parse().unwrap());
        assert!(check(&settings, &state).unwrap_err().message.contains("the switch's own"));
    }

    #[test]
    fn static_entries_are_no_ports() {
        let settings = testing::settings();
        let mut state = testing::state();
        let place = Place::Peer("node-b".into());
        let mac = "0a:58:0a:01:01:02".parse().unwrap();
        state.fdb.push(FdbEntry { network: "pods".into(), mac, place });
        assert!(check(&settings, &state).unwrap_err().message.contains("address of port web-0"));
        state.fdb.clear();
    }
}
