//! Ports that are deleted while nobody can carry it out.

use super::super::fs::RealFs;
use super::super::testing::{Bench, FakeOpener, bench_with, settings, state};
use crate::io::PortSpec;

fn start(dir: &std::path::Path, opener: &FakeOpener) -> Bench {
    // The process before took its descriptors with it, but not the devices that outlive them.
    opener.0.lock().unwrap().open.clear();
    opener.0.lock().unwrap().calls.clear();
    bench_with(settings(), Box::new(RealFs::open(dir).unwrap()), opener.clone())
}

fn discarded(opener: &FakeOpener) -> Vec<String> {
    let calls = opener.0.lock().unwrap().calls.clone();
    calls.into_iter().filter(|call| call.starts_with("discard")).collect()
}

fn kept(opener: &FakeOpener) -> Vec<String> {
    let mut kept: Vec<String> = opener.0.lock().unwrap().kept.iter().cloned().collect();
    kept.sort();
    kept
}

#[tokio::test]
async fn a_deletion_that_was_made_durable_and_no_more_is_carried_out_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let opener = FakeOpener::default();
    let first = start(dir.path(), &opener);
    first.control.core().await.commit(state()).unwrap();
    assert_eq!(kept(&opener), ["web-0", "web-1"]);
    let mut next = state();
    next.ports.remove(0);
    first.control.core().await.commit(next).unwrap();
    assert_eq!((kept(&opener), discarded(&opener)), (vec!["web-1".to_owned()], vec![]));
    drop(first);
    // As if the process had ended before.
    opener.0.lock().unwrap().kept.insert("web-0".into());
    let second = start(dir.path(), &opener);
    assert_eq!(
        (kept(&opener), discarded(&opener)),
        (vec!["web-1".to_owned()], vec!["discard web-0".to_owned()])
    );
    drop(second);
}

#[tokio::test]
async fn a_port_that_could_not_be_opened_leaves_no_device_when_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let opener = FakeOpener::default();
    let first = start(dir.path(), &opener);
    first.control.core().await.commit(state()).unwrap();
    drop(first);
    // Somebody holds it.
    let second = {
        opener.0.lock().unwrap().open.clear();
        opener.0.lock().unwrap().open.insert("web-0".into(), spec_of_web_0());
        bench_with(settings(), Box::new(RealFs::open(dir.path()).unwrap()), opener.clone())
    };
    let mut core = second.control.core().await;
    assert!(core.up("web-0").is_none() && core.up("web-1").is_some());
    let mut next = state();
    next.ports.remove(0);
    core.commit(next).unwrap();
    assert_eq!(discarded(&opener), ["discard web-0"]);
    // Declared once more in the same place, it is opened, not discarded.
    core.commit(state()).unwrap();
    assert_eq!(discarded(&opener).len(), 1);
}

fn spec_of_web_0() -> PortSpec {
    let (settings, state) = (settings(), state());
    super::super::derive::port_spec(&settings, &state.ports[0], &state.networks[0], &Default::default())
        .unwrap()
}
