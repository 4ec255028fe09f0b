//! Messages as the kernel writes them, and any others.

use super::*;
use proptest::prelude::*;

fn heard(datagram: &[u8]) -> Vec<Change> {
    let mut list = Vec::new();
    changes(datagram, Some(7), |change| list.push(change));
    list
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((MESSAGE_HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn link(family: u8, index: u32, flags: u32, attrs: &[u8]) -> Vec<u8> {
    let mut body = vec![family, 0, 1, 0];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend([0; 4]);
    body.extend(attrs);
    body
}

#[test]
fn each_kind_of_change_is_read() {
    let attrs = [attr(3, b"eth0\0"), attr(IFLA_MTU, &1400_u32.to_ne_bytes())].concat();
    let mut route = vec![2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    route.extend(attr(libc::RTA_GATEWAY, &[10, 1, 1, 1]));
    route.extend(attr(libc::RTA_OIF, &3_u32.to_ne_bytes()));
    let datagram = [
        message(libc::RTM_NEWLINK, &link(0, 3, 0x1003, &attrs)),
        message(libc::RTM_NEWLINK, &link(0, 4, 0x1002, &[])),
        message(libc::RTM_DELLINK, &link(0, 5, 0, &[])),
        message(libc::RTM_DELLINK, &link(libc::AF_BRIDGE as u8, 6, 0, &[])),
        message(libc::RTM_DELADDR, &[2, 24, 0, 0, 3, 0, 0, 0]),
        message(libc::RTM_DELROUTE, &route),
        // A route of several ways, and something else altogether.
        message(libc::RTM_NEWROUTE, route.get(..12).unwrap()),
        message(libc::RTM_NEWNEIGH, &[0; 12]),
    ]
    .concat();
    let change = |ifindex, what| Change { nsid: Some(7), ifindex, what };
    assert_eq!(
        heard(&datagram),
        [
            change(3, What::Link { up: true, mtu: Some(1400) }),
            change(4, What::Link { up: false, mtu: None }),
            change(5, What::Gone),
            change(3, What::Address),
            change(3, What::Route),
        ]
    );
}

#[test]
fn a_message_that_is_cut_ends_it() {
    let whole = message(libc::RTM_DELADDR, &[2, 24, 0, 0, 3, 0, 0, 0]);
    for length in 0..whole.len() {
        let mut datagram = whole.clone();
        datagram.extend(&whole[..length]);
        assert_eq!(heard(&datagram).len(), 1, "{length} bytes of the second");
    }
    // A length of its own that leads nowhere.
    for length in [0_u32, 1, 15, u32::MAX] {
        let mut datagram = length.to_ne_bytes().to_vec();
        datagram.extend(&whole[4..]);
        assert_eq!(heard(&datagram), []);
    }
}

#[test]
fn the_namespace_is_found_among_control_messages() {
    let message = |level: i32, kind: i32, value: i32| {
        let mut bytes = 20_u64.to_ne_bytes().to_vec();
        bytes.extend([level, kind, value, 0].iter().flat_map(|v| v.to_ne_bytes()));
        bytes
    };
    let other = message(libc::SOL_NETLINK, 3, 9);
    let wanted = message(libc::SOL_NETLINK, LISTEN_ALL_NSID, 5);
    assert_eq!(namespace(&[other.clone(), wanted.clone()].concat()), Some(5));
    assert_eq!(namespace(&other), None);
    assert_eq!(namespace(&[]), None);
    assert_eq!(namespace(&wanted[..18]), None);
    assert_eq!(namespace(&[0; 24]), None);
}

proptest! {
    #[test]
    fn anything_is_taken(datagram in proptest::collection::vec(any::<u8>(), 0..600)) {
        heard(&datagram);
        namespace(&datagram);
        attribute(&datagram, 3);
    }

    /// What begins as the kernel writes it, and goes on otherwise.
    #[test]
    fn any_body_is_taken(
        kind in prop::sample::select(vec![
            libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWADDR, libc::RTM_DELADDR, libc::RTM_NEWROUTE,
            libc::RTM_DELROUTE,
        ]),
        body in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        prop_assert!(heard(&message(kind, &body)).len() <= 1);
    }
}
