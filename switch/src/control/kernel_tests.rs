//! The node's rules follow what is declared, are mended when somebody touches them, and hold back what cannot work.

use super::super::testing::{Bench, bench, port, state};
use super::*;

/// The state with the node's own port, and a port of the node that leads to `web-0`.
fn mapped() -> DesiredState {
    let mut state = state();
    state.ports.push(node());
    state.ports[0].mappings.push("8080:80".parse().unwrap());
    state
}

fn node() -> Port {
    let mut node = port("node", "pods", &[]);
    (node.netns, node.ifname) = (String::new(), "swd0".into());
    node.node = Some(ctl::desired::NodePort { masquerade: true, no_masquerade: Vec::new() });
    node
}

async fn committed(bench: &Bench, state: DesiredState) {
    bench.control.core().await.commit(state).unwrap();
}

fn mappings(bench: &Bench) -> usize {
    bench.host.state().plan.as_ref().map_or(0, |p| p.mappings.len())
}

#[tokio::test]
async fn rules_follow_the_desired_state() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    committed(&bench, state()).await;
    assert_eq!(bench.host.state().plan, None);
    committed(&bench, mapped()).await;
    // One for each family that the pod has.
    assert_eq!((mappings(&bench), bench.host.state().changes), (2, 1));
    committed(&bench, mapped()).await;
    assert_eq!(bench.host.state().changes, 1);
    committed(&bench, state()).await;
    assert_eq!((mappings(&bench), bench.host.state().changes), (0, 2));
    committed(&bench, mapped()).await;
    bench.control.stop().await;
    assert_eq!(bench.host.state().plan, None);
}

#[tokio::test]
async fn a_port_whose_mappings_cannot_work_is_not_added() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    committed(&bench, DesiredState { ports: vec![node()], ..state() }).await;
    let mut web = state().ports[0].clone();
    web.mappings.push("8080:80".parse().unwrap());
    let mut core = bench.control.core().await;
    bench.host.state().without_nft = true;
    let e = core.add_port(web.clone()).unwrap_err();
    assert!(e.message.contains("install the package nftables"), "{e}");
    assert_eq!((core.desired.ports.len(), core.ports.len()), (1, 1));
    bench.host.state().without_nft = false;
    // A device that cannot be made takes its rules with it.
    bench.opener.0.lock().unwrap().missing.push("web-0".into());
    core.add_port(web.clone()).unwrap_err();
    assert_eq!((mappings(&bench), core.desired.ports.len()), (0, 1));
    bench.opener.0.lock().unwrap().missing.clear();
    core.add_port(web).unwrap();
    assert_eq!((mappings(&bench), core.kernel.problem()), (2, None));
}

#[tokio::test]
async fn a_kernel_that_does_not_answer_is_left_alone_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    committed(&bench, DesiredState { ports: vec![node()], ..state() }).await;
    let mut core = bench.control.core().await;
    let start = Instant::now();
    let waits = || bench.host.state().waits;
    bench.host.state().stuck = true;
    let mut web = state().ports[0].clone();
    web.mappings.push("8080:80".parse().unwrap());
    let e = core.add_port(web.clone()).unwrap_err();
    assert!(e.message.contains("did not end within 10s"), "{e}");
    assert_eq!((waits(), core.desired.ports.len()), (1, 1));
    // Who asks again is told at once, and what needs nothing of the kernel goes on.
    let again = core.add_port(web).unwrap_err();
    assert_eq!(again.message, e.message);
    core.add_port(state().ports[1].clone()).unwrap();
    for seconds in [1, 6, 30] {
        core.look_after(&[], start + Duration::from_secs(seconds)).unwrap();
    }
    assert_eq!(waits(), 1);
    assert!(core.kernel.problem().is_some());
    core.look_after(&[], Instant::now() + REST).unwrap();
    assert_eq!(waits(), 2, "then it is asked again");
    bench.host.state().stuck = false;
    core.look_after(&[], Instant::now() + 3 * REST).unwrap();
    assert_eq!(core.kernel.problem(), None);
}

#[tokio::test]
async fn what_somebody_touched_is_mended_and_obstacles_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path());
    committed(&bench, mapped()).await;
    let mut core = bench.control.core().await;
    let start = Instant::now();
    let obstacle = Obstacle { message: "a firewall".into(), hint: "open it".into() };
    bench.host.state().obstacles.push(obstacle.clone());
    bench.host.state().touched = true;
    core.look_after(&[], start + VERIFY + Duration::from_secs(1)).unwrap();
    let mended = |bench: &Bench| {
        let state = bench.host.state();
        (state.touched, state.changes)
    };
    assert_eq!(mended(&bench), (false, 2));
    assert_eq!(core.kernel.obstacles(), [obstacle]);
    // Somebody uninstalls nft and flushes the rules: told, and mended once it is there again.
    bench.host.state().without_nft = true;
    bench.host.state().touched = true;
    core.look_after(&[], start + 3 * VERIFY).unwrap();
    assert!(core.kernel.problem().is_some());
    bench.host.state().without_nft = false;
    core.look_after(&[], start + 5 * VERIFY).unwrap();
    assert_eq!((core.kernel.problem(), mended(&bench)), (None, (false, 3)));
}
