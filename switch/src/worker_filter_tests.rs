//! The worker under the filters of its threads: everything it does is on their lists. A call that is not ends all tests
//! of this crate with SIGSYS; `strace -f` then says which one.

use super::*;
use tunnel::underlay::UdpRx;

const C: PortId = PortId(2);

#[test]
fn both_threads_are_restricted() {
    let worker = start::<Pair>(config()).unwrap();
    let mut names: Vec<&str> = worker.measures().iter().map(|m| m.measure.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["seccomp-forwarding", "seccomp-reaper"]);
    // A kernel without filters would make every test here pass for nothing.
    assert!(worker.measures().iter().all(|m| m.achieved), "{:?}", worker.measures());
    assert!(start::<Pair>(WorkerConfig { restrict: false, ..config() }).unwrap().measures().is_empty());
}

fn ask<T: Send + 'static>(
    worker: &WorkerHandle<Pair>,
    question: impl FnOnce(&mut crate::engine::Inspection<'_>) -> T + Send + 'static,
) -> T {
    let (tell, told) = bounded(1);
    let look = Box::new(move |i: &mut crate::engine::Inspection<'_>| {
        let _ = tell.send(question(i));
    });
    worker.send(Command::Inspect(look)).ok().unwrap();
    told.recv_timeout(LIMIT).unwrap()
}

/// Tables that let any number of addresses be learned.
fn learning(generation: u64, ports: &[PortId]) -> Arc<Tables> {
    let mut tables = Tables::clone(&tables(generation, ports));
    for port in tables.ports.iter_mut().flatten() {
        *port = Arc::new(Port { mac_limit: u32::MAX, ..Port::clone(port) });
    }
    for network in tables.networks.iter_mut().flatten() {
        *network = Arc::new(Network { fdb_limit: u32::MAX, ..Network::clone(network) });
    }
    Arc::new(tables)
}

#[test]
fn ports_come_and_go_and_addresses_are_learned() {
    const ROUNDS: u32 = 100;
    const MACS: u32 = 64;
    let capacity = (ROUNDS * MACS * 2) as usize;
    let worker =
        start::<Pair>(WorkerConfig { datapath: Config { fdb_capacity: capacity, seed: 1 }, ..config() })
            .unwrap();
    let (b, pod_b) = Pod::pair();
    worker.send(add(B, b)).ok().unwrap();
    let mut generation = 0;
    let mut publish = |ports: &[PortId]| {
        generation += 1;
        worker.send(Command::Publish(learning(generation, ports))).ok().unwrap();
    };
    for round in 0..ROUNDS {
        let (c, pod_c) = Pod::pair();
        worker.send(add(C, c)).ok().unwrap();
        publish(&[B, C]);
        for n in 0..MACS {
            let number = round * MACS + n;
            let [.., x, y, z] = number.to_be_bytes();
            let frame = build::ethernet(mac(B), MacAddr([6, 0, 0, x, y, z]), 0x88b5, &number.to_be_bytes());
            rustix::io::write(&pod_c.0, &[&[0; VNET_HDR_LEN][..], &frame].concat()).unwrap();
            assert_eq!(pod_b.recv(), number);
        }
        assert!(ask(&worker, |i| i.datapath.fdb().len()) >= MACS as usize);
        publish(&[B]);
        worker.send(Command::RemovePort(C)).ok().unwrap();
        // The reaper has closed it: the other end sees the end.
        assert_eq!(rustix::io::read(&pod_c.0, &mut [0; 64]), Ok(0));
    }
    assert!(ask(&worker, |i| i.datapath.fdb().len()) >= (ROUNDS * MACS) as usize);
    worker.send(Command::Forget(Egress::Port(C))).ok().unwrap();
    assert_eq!(ask(&worker, |i| i.datapath.fdb().count(Egress::Port(C))), 0);
}

/// Two workers and a tunnel on the loopback device, in both families, with runs that the kernel cuts and runs that it
/// does not (without an outer checksum they go out one by one).
#[test]
fn frames_cross_a_tunnel() {
    for (here, checksum) in [("127.0.0.1", true), ("127.0.0.1", false), ("::1", true), ("::1", false)] {
        let here: std::net::IpAddr = here.parse().unwrap();
        let socket = match std::net::UdpSocket::bind((here, 0)) {
            Ok(socket) => socket,
            Err(e) if here.is_ipv6() => {
                eprintln!("SKIPPED: no tunnel over IPv6 is tested, this machine has no ::1: {e}");
                continue;
            }
            Err(e) => panic!("{e}"),
        };
        let port = socket.local_addr().unwrap().port();
        let rx = vec![UdpRx::from_fd(socket.into(), tunnel::Encap::Vxlan).unwrap()];
        let with = |rx| WorkerConfig { rx, tx: UdpTx::new(here, TxOptions { lanes: 2 }), ..config() };
        let near = start::<Pair>(with(Vec::new())).unwrap();
        let far = start::<Pair>(with(rx)).unwrap();
        let ((a, pod_a), (b, pod_b)) = (Pod::pair(), Pod::pair());
        near.send(add(A, a)).ok().unwrap();
        far.send(add(B, b)).ok().unwrap();
        let peer = Arc::new(Peer {
            remote: here,
            port,
            encap: tunnel::Encap::Vxlan,
            checksum,
            router_mac: MacAddr([2, 0, 0, 0, 0, 9]),
            mtu: 1450,
            network: None,
            sources: None,
        });
        let tables = |ports: &[PortId], behind_peer: Option<PortId>| {
            let mut tables = Tables::clone(&tables(1, ports));
            tables.by_remote.insert(here, PeerId(0));
            tables.peers.push(Some(peer.clone()));
            if let (Some(id), Some(Some(network))) = (behind_peer, tables.networks.first_mut()) {
                let mut with_peer = Network::clone(network);
                with_peer.statics.insert(mac(id), Egress::Peer(PeerId(0)));
                *network = Arc::new(with_peer);
            }
            Arc::new(tables)
        };
        near.send(Command::Publish(tables(&[A], Some(B)))).ok().unwrap();
        far.send(Command::Publish(tables(&[B], None))).ok().unwrap();
        for round in 0..40 {
            for n in 0..BUDGET as u32 {
                pod_a.send(A, B, round << 16 | n);
            }
            for n in 0..BUDGET as u32 {
                assert_eq!(pod_b.recv(), round << 16 | n, "{here} checksum {checksum}");
            }
            if round % 10 == 9 {
                // Its sockets are closed, and opened again by the next frame.
                near.send(Command::Forget(Egress::Peer(PeerId(0)))).ok().unwrap();
            }
        }
        let sent = ask(&near, |i| i.datapath.counters.total().drops.iter().sum::<u64>());
        assert_eq!(sent, 0, "{here} checksum {checksum}");
    }
}

/// The C library asks for the system's overcommit policy before it gives memory back: that is refused, not punished.
#[test]
fn memory_is_given_back() {
    let (worker, a, b) = running();
    for _ in 0..3 {
        let bytes = ask(&worker, |_| {
            let blocks: Vec<Vec<u8>> = (0..900).map(|n| vec![n as u8; 65_000]).collect();
            blocks.iter().map(Vec::len).sum::<usize>()
        });
        assert_eq!(bytes, 900 * 65_000);
    }
    a.send(A, B, 1);
    assert_eq!(b.recv(), 1);
}

/// A panic ends the thread, and the control thread is told; the process can still say so and end in order.
#[test]
fn a_panic_is_survived_by_the_process() {
    let (worker, _a, _b) = running();
    worker.send(Command::Inspect(Box::new(|_| panic!("this panic is part of a test")))).ok().unwrap();
    let deadline = Instant::now() + LIMIT;
    while !worker.is_finished() {
        assert!(Instant::now() < deadline, "the worker goes on");
        std::thread::yield_now();
    }
    assert_eq!(worker.send(Command::Forget(Egress::Port(A))), Err(WorkerGone));
}
