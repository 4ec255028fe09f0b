//! Devices come, fail, vanish and come back; the worker hears of it in the right order (its fake checks that).

use super::super::testing::{
    Bench, FakeOpener, FullDisk, bench, bench_with, network, peer, port, settings, state,
};
use super::*;
use crate::control::fs::RealFs;
use ctl::desired::DesiredState;

async fn committed(bench: &Bench, state: DesiredState) {
    bench.control.core().await.commit(state).unwrap();
}

/// Waits until the worker has done everything it was told.
async fn settled(bench: &Bench) {
    let answer = bench.control.core().await.ask(|_| ()).unwrap();
    answer.get().await.unwrap();
}

fn log(bench: &Bench) -> Vec<String> {
    std::mem::take(&mut *bench.heard.log.lock().unwrap())
}

fn calls(bench: &Bench) -> Vec<String> {
    std::mem::take(&mut bench.opener.0.lock().unwrap().calls)
}

fn problem(core: &Core, name: &str) -> Option<String> {
    match core.ports.get(name)? {
        Actual::Up(_) => None,
        Actual::Down(down) => Some(down.error.message.clone()),
    }
}

#[tokio::test]
async fn one_broken_port_holds_up_no_other_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    bench.opener.0.lock().unwrap().missing.push("web-0".into());
    committed(&bench, state()).await;
    {
        let core = bench.control.core().await;
        assert!(problem(&core, "web-0").unwrap().contains("not found"));
        assert_eq!(core.up("web-1").unwrap().id, PortId(0));
    }
    // Not before its time, then with growing pauses.
    let start = Instant::now();
    let mut core = bench.control.core().await;
    calls(&bench);
    for (at, tries) in [(0, 0), (2, 1), (3, 1), (5, 2), (6, 2), (10, 3)] {
        core.look_after(&[], start + Duration::from_secs(at)).unwrap();
        assert_eq!(bench.opener.0.lock().unwrap().calls.len(), tries, "after {at} s");
    }
    bench.opener.0.lock().unwrap().missing.clear();
    core.look_after(&[], start + Duration::from_secs(60)).unwrap();
    assert_eq!(core.up("web-0").unwrap().id, PortId(1));
    assert_eq!(core.tables().ports.iter().flatten().count(), 2);
}

#[tokio::test]
async fn a_restart_brings_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let first = bench(dir.path());
    committed(&first, state()).await;
    drop(first);
    let second = bench(dir.path());
    let core = second.control.core().await;
    assert_eq!((core.generation, &core.desired), (1, &state()));
    assert!(core.up("web-0").is_some() && core.up("web-1").is_some());
    drop(core);
    settled(&second).await;
    assert_eq!(log(&second), ["add 0", "add 1", "publish 2"]);
}

#[tokio::test]
async fn removal_is_heard_in_order_and_numbers_are_used_again_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    committed(&bench, state()).await;
    settled(&bench).await;
    log(&bench);
    let mut next = state();
    next.ports.remove(0);
    next.peers.clear();
    next.ports.push(port("new", "pods", &["10.1.1.9/24"]));
    committed(&bench, next).await;
    settled(&bench).await;
    let expected =
        ["publish 1", "remove 0", "forget Port(PortId(0))", "add 0", "publish 2", "forget Peer(PeerId(0))"];
    assert_eq!(log(&bench), expected);
    committed(&bench, DesiredState { networks: vec![network("other", 9, &[])], ..DesiredState::default() })
        .await;
    settled(&bench).await;
    assert_eq!(log(&bench).last().unwrap(), "forget network 0");
    assert!(bench.opener.0.lock().unwrap().open.is_empty());
}

#[tokio::test]
async fn a_changed_device_is_opened_anew_and_a_changed_note_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    committed(&bench, state()).await;
    calls(&bench);
    let mut next = state();
    next.ports[0].metadata.insert("a".into(), "b".into());
    next.ports[0].learning = true;
    committed(&bench, next.clone()).await;
    assert_eq!(calls(&bench), [""; 0]);
    // Its MTU is set while it runs.
    next.ports[1].mtu = Some(1400);
    committed(&bench, next.clone()).await;
    assert_eq!(calls(&bench), ["update web-1"]);
    assert_eq!(bench.opener.0.lock().unwrap().open["web-1"].mtu, 1400);
    next.ports[1].offload = false;
    committed(&bench, next).await;
    assert_eq!(calls(&bench), ["close web-1", "open web-1"]);
}

#[tokio::test]
async fn a_peer_with_another_address_is_forgotten_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    committed(&bench, state()).await;
    let mut next = state();
    next.peers[0] = peer("node-b", "192.168.77.9", &["10.1.2.0/24"]);
    committed(&bench, next).await;
    settled(&bench).await;
    assert_eq!(log(&bench).last().unwrap(), "forget Peer(PeerId(0))");
    assert_eq!(bench.control.core().await.ids.peers.get("node-b"), Some(0));
}

#[tokio::test]
async fn a_namespace_that_goes_takes_its_port_until_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    committed(&bench, state()).await;
    {
        let mut world = bench.opener.0.lock().unwrap();
        world.health.insert("web-0".into(), PortHealth::NetnsGone);
        world.missing.push("web-0".into());
    }
    let mut core = bench.control.core().await;
    let now = Instant::now();
    core.look_after(&[], now).unwrap();
    assert!(problem(&core, "web-0").unwrap().contains("not found"));
    assert_eq!(core.desired, state());
    assert!(core.ids.ports.get("web-0").is_none());
    {
        let mut world = bench.opener.0.lock().unwrap();
        world.health.clear();
        world.missing.clear();
    }
    core.look_after(&[], now + Duration::from_secs(5)).unwrap();
    assert!(core.up("web-0").is_some());
}

#[tokio::test]
async fn a_dead_device_is_opened_anew_and_a_downed_one_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    committed(&bench, state()).await;
    calls(&bench);
    let dead = bench.control.core().await.up("web-1").unwrap().id;
    bench.heard.dead.lock().unwrap().push(dead);
    bench.opener.0.lock().unwrap().health.insert("web-0".into(), PortHealth::Down);
    bench.control.tick().await.unwrap();
    assert_eq!(calls(&bench), ["close web-1", "open web-1"]);
    let core = bench.control.core().await;
    assert!(core.up("web-1").is_some());
    assert_eq!(core.up("web-0").unwrap().health, PortHealth::Down);
}

#[tokio::test]
async fn adding_one_port_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    committed(&bench, state()).await;
    let mut core = bench.control.core().await;
    bench.opener.0.lock().unwrap().missing.push("new".into());
    let e = core.add_port(port("new", "pods", &["10.1.1.9/24"])).unwrap_err();
    assert_eq!((e.reason, e.hint.as_str()), (Reason::NetnsNotFound, "make it"));
    assert!(e.message.starts_with("port new: "), "{e}");
    assert_eq!((core.generation, &core.desired, core.ids.ports.get("new")), (1, &state(), None));
    bench.opener.0.lock().unwrap().missing.clear();
    assert_eq!(core.add_port(port("new", "pods", &["10.1.1.9/24"])).unwrap(), 2);
    // The kernel's view of a name taken twice.
    let mut again = port("again", "pods", &["10.1.1.10/24"]);
    again.netns = "/run/netns/x".into();
    core.add_port(again).unwrap();
    let mut twin = port("twin", "pods", &["10.1.1.11/24"]);
    twin.netns = "web-0".into();
    twin.ifname = "eth1".into();
    assert_eq!(core.add_port(twin).unwrap_err().reason, Reason::Conflict);
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let fs = FullDisk(RealFs::open(dir.path()).unwrap(), full.clone());
    let bench = bench_with(settings(), Box::new(fs), FakeOpener::default());
    committed(&bench, state()).await;
    settled(&bench).await;
    log(&bench);
    calls(&bench);
    full.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut core = bench.control.core().await;
    let e = core.commit(DesiredState::default()).unwrap_err();
    assert_eq!(e.reason, Reason::NotDurable);
    let e = core.add_port(port("new", "pods", &["10.1.1.9/24"])).unwrap_err();
    assert_eq!(e.reason, Reason::NotDurable);
    assert_eq!((core.generation, &core.desired, core.ids.ports.get("new")), (1, &state(), None));
    assert_eq!(core.state_problems().count(), 1);
    drop(core);
    settled(&bench).await;
    assert_eq!(calls(&bench), ["open new", "close new"]);
    assert_eq!(log(&bench), [""; 0]);
    full.store(false, std::sync::atomic::Ordering::Relaxed);
    let mut core = bench.control.core().await;
    core.add_port(port("new", "pods", &["10.1.1.9/24"])).unwrap();
    assert_eq!(core.state_problems().count(), 0);
}
