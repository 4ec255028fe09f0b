//! Descriptors on their way to a service manager and back, with a stand-in for that and real TAPs.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::keeper::{Keeper, Tenure};
use super::message::{Reply, Request};
use super::store::{Returned, Store};
use super::tests::spec;
use crate::control::server::Socket;
use crate::io::testing::{isolated, sh};
use crate::io::{HostOpener, PortSpec};
use crate::node::MemoryHost;
use crate::notify::{MAX_FDS, Notifier};

/// A service manager that keeps what it is given.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    kept: Vec<(String, OwnedFd)>,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, path, kept: Vec::new(), _dir: dir }
    }

    fn store(&self, next: u64) -> Store {
        Store::new(Notifier::new(self.path.as_os_str().as_encoded_bytes()).unwrap(), next)
    }

    /// Reads what was said. Gives the names that are kept by now, each once.
    fn names(&mut self) -> Vec<String> {
        let mut bytes = [0; 1000];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let Ok(got) = recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) else {
                break;
            };
            let text = String::from_utf8(bytes[..got.bytes].to_vec()).unwrap();
            let name = text.split_once("FDNAME=").unwrap().1.to_owned();
            assert!(name.bytes().all(|b| b.is_ascii_graphic() && b != b':') && name.len() < 256, "{name}");
            if text.starts_with("FDSTOREREMOVE=1\n") {
                self.kept.retain(|(other, _)| *other != name);
            } else {
                assert!(text.starts_with("FDSTORE=1\nFDPOLL=0\n"), "{text}");
            }
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.kept.extend(fds.map(|fd| (name.clone(), fd)));
                }
            }
        }
        let mut names: Vec<String> = self.kept.iter().map(|(name, _)| name.clone()).collect();
        names.dedup();
        names
    }

    /// As another process in its place would get them.
    fn hand_over(&mut self) -> Returned {
        self.names();
        Returned::sort(self.kept.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect())
    }
}

#[test]
fn sockets_and_memory_come_back_as_what_they_are() {
    let mut manager = Manager::new();
    let store = manager.store(7);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("swd.sock");
    let mut socket = Socket::prepare(&path).unwrap();
    socket.publish().unwrap();
    store.keep_listener(&socket.listener().unwrap(), socket.id());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = udp.local_addr().unwrap();
    assert_eq!(store.keep_underlay(&udp.into()).as_deref(), Some("underlay-7"));
    for _ in 0..2 {
        store.keep_memory(&memfd_create("m", MemfdFlags::CLOEXEC).unwrap());
    }
    assert_eq!(manager.names().len(), 3);
    assert_eq!(manager.kept.len(), 3, "the memory-file before was taken out");

    let returned = manager.hand_over();
    assert_eq!(returned.underlay.iter().map(|s| s.at).collect::<Vec<_>>(), [(at.ip(), at.port())]);
    assert!(returned.memory.is_some() && returned.ports.is_empty() && returned.refused.is_empty());
    assert_eq!(returned.next, 8);
    let (listener, id) = returned.listener.unwrap();
    let again = Socket::returned(listener.try_clone().unwrap(), &path, id).unwrap();
    assert_eq!(again.id(), socket.id());
    // Somebody else's file at that place by now; the first one still has its inode.
    let other = dir.path().join("other.sock");
    let _other = UnixListener::bind(&other).unwrap();
    std::fs::hard_link(&path, dir.path().join("first.sock")).unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert!(Socket::returned(listener, &path, id).is_none());

    store.forget(Some("underlay-7"));
    assert!(!manager.names().iter().any(|name| name.starts_with("underlay")));
}

#[test]
fn what_is_not_what_it_should_be_is_closed() {
    let file = || -> OwnedFd { tempfile::tempfile().unwrap().into() };
    let memory = || memfd_create("m", MemfdFlags::CLOEXEC).unwrap();
    let udp = || -> OwnedFd { UdpSocket::bind("127.0.0.1:0").unwrap().into() };
    let stream = || -> OwnedFd { std::os::unix::net::UnixStream::pair().unwrap().0.into() };
    let bad: Vec<(String, Vec<OwnedFd>)> = vec![
        ("port-0".into(), vec![memory()]),
        ("port-1".into(), vec![memory(), memory()]),
        ("port-2".into(), vec![file(), file()]),
        ("port-3".into(), vec![memory(), udp(), udp()]),
        ("underlay-4".into(), vec![stream()]),
        ("underlay-5".into(), vec![file()]),
        ("control-1-2".into(), vec![stream()]),
        ("control-1".into(), vec![udp()]),
        ("memory".into(), vec![file()]),
        ("stored".into(), vec![udp()]),
        (String::new(), vec![udp()]),
    ];
    let names: Vec<String> = bad.iter().map(|(name, _)| name.clone()).collect();
    let descriptors =
        bad.into_iter().flat_map(|(name, fds)| fds.into_iter().map(move |fd| (name.clone(), fd))).collect();
    let returned = Returned::sort(descriptors);
    assert_eq!(returned.refused, names);
    assert!(returned.ports.is_empty() && returned.underlay.is_empty() && returned.memory.is_none());
}

#[test]
fn nobody_who_takes_them_is_no_error() {
    let store = Store::default();
    assert_eq!(store.keep_underlay(&UdpSocket::bind("127.0.0.1:0").unwrap().into()), None);
    store.forget(Some("underlay-0"));
    let gone = Manager::new().store(0);
    assert_eq!(gone.keep_underlay(&UdpSocket::bind("127.0.0.1:0").unwrap().into()), None);
}

const TENURE: Tenure = Tenure::FIRST;

type Real = Keeper<HostOpener, MemoryHost>;

fn keeper(store: Store, returned: &mut Returned) -> Real {
    let mut keeper = Keeper::new(HostOpener, MemoryHost::default()).with_store(store);
    keeper.inherit(returned.kept(), None);
    keeper.begin(TENURE);
    keeper
}

/// Opens a port. Gives whether it was there already, and its index.
fn open(keeper: &mut Real, spec: &PortSpec) -> (bool, u32) {
    match keeper.answer(TENURE, Request::OpenPort(Box::new(spec.clone()))).0 {
        Reply::Port(facts) => (facts.adopted, facts.ifindex),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_killed_monitor_finds_its_ports_again() {
    isolated(module_path!(), "a_killed_monitor_finds_its_ports_again", &["ip"], || {
        for pod in ["a", "b", "c", "d"] {
            sh(&format!("ip netns add {pod}"));
        }
        let mut manager = Manager::new();
        let mut first = keeper(manager.store(0), &mut Returned::default());
        let home: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(first.answer(TENURE, Request::BindUnderlay(home, 4789)).0, Reply::Socket);
        let made: Vec<(bool, u32)> = ["a", "b", "c", "d"].map(|pod| open(&mut first, &spec(pod))).into();
        assert!(made.iter().all(|(adopted, _)| !adopted), "{made:?}");
        assert_eq!(manager.names(), ["underlay-0", "port-1", "port-2", "port-3", "port-4"]);
        // Only what is deposited is left.
        drop(first);
        sh("ip -n b link set eth0 down");
        sh("ip -n b link set eth0 name other");
        sh("ip -n c link del eth0");

        let mut returned = manager.hand_over();
        assert_eq!(returned.refused, ["port-2", "port-3"]);
        assert_eq!((returned.ports.len(), returned.underlay.len(), returned.next), (2, 1, 5));
        let store = manager.store(returned.next);
        returned.refused.iter().for_each(|name| store.forget(Some(name)));
        let mut second = keeper(store, &mut returned);
        assert_eq!(second.ports(), 2);
        assert_eq!(
            second.answer(TENURE, Request::BindUnderlay(home, 4789)).0,
            Reply::Socket,
            "it is bound already"
        );
        assert_eq!(open(&mut second, &spec("a")), (true, made[0].1));
        assert!(!open(&mut second, &spec("c")).0, "it was deleted");
        // Nobody asks for d: it was deleted just before.
        second.answer(TENURE, Request::Ready);
        assert!(!sh("ip -n d -o link").contains("eth0"));
        assert_eq!(manager.names(), ["underlay-0", "port-1", "port-5"]);

        // Of a port that was changed the store has the new description.
        let place = second.answer(TENURE, Request::OpenPort(Box::new(spec("d"))));
        let Reply::Port(facts) = place.0 else { panic!("{place:?}") };
        let place = crate::io::PortPlace { netns_id: facts.netns_id, ifindex: facts.ifindex };
        let changed = PortSpec { addresses: vec!["10.1.1.9/24".parse().unwrap()], ..spec("d") };
        assert_eq!(
            second.answer(TENURE, Request::RestorePort(Box::new(changed.clone()), place)).0,
            Reply::Done
        );
        let place = place_of(&mut second, "c");
        second.answer(TENURE, Request::ClosePort(Box::new(spec("c")), place));
        drop(second);
        let mut returned = manager.hand_over();
        let specs: Vec<&PortSpec> = returned.ports.iter().map(|port| &port.spec).collect();
        assert_eq!(specs, [&spec("a"), &changed]);
        let mut third = keeper(manager.store(returned.next), &mut returned);
        assert_eq!(open(&mut third, &changed), (true, facts.ifindex));
        // The underlay is another one by now.
        third.answer(TENURE, Request::Ready);
        assert!(!manager.names().iter().any(|name| name.starts_with("underlay")));
        assert!(third.answer(TENURE, Request::BindUnderlay(home, 4789)).1.is_some());
    });
}

/// Where a port is that this keeper has opened.
fn place_of(keeper: &mut Real, pod: &str) -> crate::io::PortPlace {
    keeper.begin(TENURE);
    match keeper.answer(TENURE, Request::OpenPort(Box::new(spec(pod)))) {
        (Reply::Port(facts), fd) => {
            assert!(fd.is_some_and(|fd| fd.as_fd().try_clone_to_owned().is_ok()));
            crate::io::PortPlace { netns_id: facts.netns_id, ifindex: facts.ifindex }
        }
        other => panic!("{other:?}"),
    }
}
