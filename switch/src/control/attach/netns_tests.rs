//! A path that leads to another pod's namespace than it did: the port of an attachment stays out of it, one that
//! was added by hand goes where its name says.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ctl::desired::DesiredState;
use ctl::error::Reason;
use ctl::proto::{AddAttachmentRequest, AttachmentKey, CheckAttachmentRequest};

use super::super::fs::RealFs;
use super::super::reconcile::Actual;
use super::super::testing::{Bench, FakeOpener, World, bench_with, network, port, settings};
use super::*;
use crate::io::PortHealth;

/// As of a container runtime that names the namespace by a process.
const NETNS: &str = "/proc/4711/ns/net";
const NAME: &str = "c1/eth0";
const REPLACED: &str = "its network namespace was replaced by another of the same name";

fn key() -> AttachmentKey {
    AttachmentKey { container_id: "c1".into(), ifname: "eth0".into() }
}

fn request() -> AddAttachmentRequest {
    AddAttachmentRequest {
        key: Some(key()),
        cni_network: "cluster".into(),
        netns: NETNS.into(),
        ..AddAttachmentRequest::default()
    }
}

/// A daemon that starts with what is in `dir`, in a world that others have changed meanwhile.
fn started(dir: &Path, world: &Arc<Mutex<World>>) -> Bench {
    // The devices of the daemon before it ended with it.
    world.lock().unwrap().open.clear();
    bench_with(settings(), Box::new(RealFs::open(dir).unwrap()), FakeOpener(world.clone()))
}

/// One network, an attachment, and a port by hand in a named namespace.
async fn populated(dir: &Path, world: &Arc<Mutex<World>>) -> Bench {
    let bench = started(dir, world);
    let mut core = bench.control.core().await;
    core.commit(DesiredState {
        networks: vec![network("pods", 1, &["10.1.1.0/24"])],
        ports: vec![port("web-0", "pods", &["10.1.1.200/24"])],
        ..DesiredState::default()
    })
    .unwrap();
    assert!(!add(&mut core, request(), Clock::read()).unwrap().existed);
    drop(core);
    bench
}

fn replace(world: &Arc<Mutex<World>>) {
    let mut world = world.lock().unwrap();
    world.replaced.insert(NETNS.into(), 1);
    world.replaced.insert("web-0".into(), 1);
}

/// Why a port is not open.
fn problem(core: &Core, name: &str) -> Option<ApiError> {
    match core.ports.get(name)? {
        Actual::Up(_) => None,
        Actual::Down(down) => Some(down.error.clone()),
    }
}

fn stays_out(core: &mut Core, world: &Arc<Mutex<World>>) {
    let e = problem(core, NAME).unwrap();
    assert_eq!((e.reason, e.message), (Reason::NetnsNotFound, format!("port {NAME}: {REPLACED}")));
    assert!(e.hint.contains("CNI DEL") && e.hint.contains("swctl port del"), "{}", e.hint);
    // However often it is tried.
    core.look_after(&[], Instant::now() + Duration::from_secs(3600)).unwrap();
    assert!(core.up(NAME).is_none() && !world.lock().unwrap().open.contains_key(NETNS));
    let asked = CheckAttachmentRequest { key: Some(key()), ..CheckAttachmentRequest::default() };
    assert_eq!(check(core, &asked).unwrap(), [format!("it has no device: {REPLACED}")]);
    // It is named, and its address is nobody else's, until it is deleted.
    assert!(find(&core.desired, NAME).is_some());
    assert!(delete(core, &key()).unwrap() && find(&core.desired, NAME).is_none());
}

#[tokio::test]
async fn after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::default();
    drop(populated(dir.path(), &world).await);
    // Nothing has changed.
    let bench = started(dir.path(), &world);
    assert!(bench.control.core().await.up(NAME).is_some());
    drop(bench);
    replace(&world);
    let bench = started(dir.path(), &world);
    let mut core = bench.control.core().await;
    assert!(core.up("web-0").is_some(), "a name that a person has made anew");
    stays_out(&mut core, &world);
}

#[tokio::test]
async fn while_the_daemon_runs() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::default();
    let bench = populated(dir.path(), &world).await;
    replace(&world);
    for name in [NETNS, "web-0"] {
        world.lock().unwrap().health.insert(name.into(), PortHealth::NetnsReplaced);
    }
    let mut core = bench.control.core().await;
    core.look_after(&[], Instant::now()).unwrap();
    world.lock().unwrap().health.clear();
    assert!(core.up("web-0").is_some());
    stays_out(&mut core, &world);
}

#[tokio::test]
async fn a_runtime_that_adds_again_means_what_is_there_now() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::default();
    let bench = populated(dir.path(), &world).await;
    let known = |core: &Core| find(&core.desired, NAME)?.attachment.clone()?.netns_id;
    let before = known(&*bench.control.core().await);
    drop(bench);
    replace(&world);
    let bench = started(dir.path(), &world);
    let mut core = bench.control.core().await;
    assert_eq!(known(&core), before);
    let ips = find(&core.desired, NAME).unwrap().ips.clone();
    let again = add(&mut core, request(), Clock::read()).unwrap();
    assert!(again.existed && again.port.ips == ips && core.up(NAME).is_some());
    assert_eq!(known(&core), Some(format!("{NETNS}:1")));
    drop(core);
    drop(bench);
    let bench = started(dir.path(), &world);
    assert!(bench.control.core().await.up(NAME).is_some(), "it was remembered");
}

#[tokio::test]
async fn a_document_that_says_nothing_of_it_closes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::default();
    let bench = populated(dir.path(), &world).await;
    let mut core = bench.control.core().await;
    let told = |core: &Core, id: Option<&str>| {
        let mut next = core.desired.clone();
        let owner = next.ports.iter_mut().find_map(|p| p.attachment.as_mut()).unwrap();
        owner.netns_id = id.map(str::to_owned);
        next
    };
    let number = core.up(NAME).unwrap().place.ifindex;
    let next = told(&core, None);
    core.commit(next).unwrap();
    assert_eq!(core.up(NAME).map(|up| up.place.ifindex), Some(number));
    let next = told(&core, Some(&format!("{NETNS}:0")));
    core.commit(next).unwrap();
    assert_eq!(core.up(NAME).map(|up| up.place.ifindex), Some(number));
    // One that says that it is elsewhere does.
    let next = told(&core, Some("elsewhere"));
    core.commit(next).unwrap();
    assert_eq!(problem(&core, NAME).unwrap().reason, Reason::NetnsNotFound);
}
