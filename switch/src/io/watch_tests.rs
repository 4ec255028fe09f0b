//! What the running kernel tells.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::events::{Change, Heard, What, read_changes, read_names};
use super::super::testing::{isolated, sh};
use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// Reads until what is wanted was told.
fn until(watch: &LinkWatch, wanted: impl Fn(&Change) -> bool) -> Change {
    let deadline = Instant::now() + LIMIT;
    loop {
        let Heard { changes, lost, .. } = read_changes(watch.fd.as_fd()).unwrap();
        assert!(!lost);
        if let Some(change) = changes.into_iter().find(&wanted) {
            return change;
        }
        assert!(Instant::now() < deadline, "it was not told");
        wait(watch.fd.as_fd());
    }
}

fn wait(fd: BorrowedFd<'_>) {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&second)).unwrap();
}

#[test]
fn changes_in_other_namespaces_are_told() {
    isolated(module_path!(), "changes_in_other_namespaces_are_told", &["ip"], || {
        let watch = links().unwrap();
        assert_eq!(watch.deaf, None);
        let mut ids = Vec::new();
        for name in ["x", "y"] {
            sh(&format!("ip netns add {name}"));
            let netns = NetnsRef::Name(name.into()).open().unwrap();
            ids.push(id(netns.as_fd()).unwrap());
            assert_eq!(id(netns.as_fd()).unwrap(), ids[ids.len() - 1], "the same again");
        }
        assert_ne!(ids[0], ids[1]);
        sh("ip -n y link add eth0 index 77 mtu 1400 type veth peer name other");
        let change = until(&watch, |c| c.ifindex == 77);
        assert_eq!(change.nsid, Some(ids[1]));
        sh("ip -n y link set eth0 up");
        let up = What::Link { up: true, mtu: Some(1400) };
        until(&watch, |c| *c == Change { nsid: Some(ids[1]), ifindex: 77, what: up });
        sh("ip -n y addr add 10.1.1.2/24 dev eth0");
        until(&watch, |c| c.ifindex == 77 && c.what == What::Address);
        sh("ip -n y route add default via 10.1.1.1");
        until(&watch, |c| c.ifindex == 77 && c.what == What::Route);
        sh("ip -n y link set eth0 netns x");
        until(&watch, |c| *c == Change { nsid: Some(ids[1]), ifindex: 77, what: What::Gone });
        sh("ip -n x link del eth0");
        until(&watch, |c| c.nsid == Some(ids[0]) && c.what == What::Gone);
        // Of its own namespace it hears without an id.
        sh("ip link add own index 78 type veth peer name other");
        assert_eq!(until(&watch, |c| c.ifindex == 78).nsid, None);
    });
}

#[test]
fn an_overrun_is_told() {
    isolated(module_path!(), "an_overrun_is_told", &["ip"], || {
        let watch = links().unwrap();
        set(watch.fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 1).unwrap();
        for _ in 0..20 {
            sh("ip link add own type veth peer name other");
            sh("ip link del own");
        }
        assert!(read_changes(watch.fd.as_fd()).unwrap().lost);
        // And what comes then is heard again, if it fits.
        set(watch.fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 1 << 20).unwrap();
        sh("ip link add own index 79 type veth peer name other");
        until(&watch, |c| c.ifindex == 79);
    });
}

#[test]
fn names_that_come_and_go_are_told() {
    isolated(module_path!(), "names_that_come_and_go_are_told", &["ip"], || {
        sh("ip netns add first");
        let fd = names().unwrap();
        for _ in 0..2 {
            name(fd.as_fd(), &NetnsRef::Name("first".into())).unwrap();
        }
        name(fd.as_fd(), &NetnsRef::own()).unwrap();
        assert!(name(fd.as_fd(), &NetnsRef::Path("/no/such/name".into())).is_err());
        sh("ip netns add second");
        sh("ip netns del first");
        let (mut seen, deadline) = (Vec::new(), Instant::now() + LIMIT);
        while !["first", "second"].iter().all(|n| seen.iter().any(|s| s == n)) {
            assert!(Instant::now() < deadline, "{seen:?}");
            wait(fd.as_fd());
            let found = read_names(fd.as_fd()).unwrap();
            assert!(!found.lost);
            seen.extend(found.names);
        }
    });
}
