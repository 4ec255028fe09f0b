//! What follows from events, on a fake kernel.

use super::super::testing::{Bench, bench, settings, state};
use super::super::{Underlay, derive};
use super::*;
use crate::io::PortHealth;

/// A control thread with two open ports, of which all is known: they are in namespaces 3 and 4.
async fn watching(dir: &std::path::Path) -> Bench {
    let bench = bench(dir);
    let mut core = bench.control.core().await;
    core.commit(state()).unwrap();
    core.reach.ports = true;
    for (nsid, actual) in (3..).zip(core.ports.values_mut()) {
        let Actual::Up(up) = actual else { panic!("a port is not open") };
        (up.watched, up.made) = (Watched::In(Some(nsid)), true);
    }
    drop(core);
    bench
}

fn place(core: &Core, name: &str) -> u32 {
    core.up(name).unwrap().place.ifindex
}

fn told(nsid: Option<i32>, ifindex: u32, what: What) -> Told {
    Told { changes: vec![Change { nsid, ifindex, what }], ..Told::default() }
}

fn find(bench: &Bench, name: &str, health: PortHealth) {
    bench.opener.0.lock().unwrap().health.insert(name.into(), health);
}

fn calls(bench: &Bench) -> Vec<String> {
    std::mem::take(&mut bench.opener.0.lock().unwrap().calls)
}

#[tokio::test]
async fn an_event_leads_to_a_look_at_that_port_only() {
    let dir = tempfile::tempdir().unwrap();
    let bench = watching(dir.path()).await;
    let mut core = bench.control.core().await;
    let now = Instant::now();
    find(&bench, "web-0", PortHealth::Down);
    find(&bench, "web-1", PortHealth::Down);
    assert_eq!(core.next_look(), None);
    let index = place(&core, "web-1");
    // Nobody's namespace, nobody's interface.
    core.mark(&told(Some(9), index, What::Address), now);
    core.mark(&told(Some(4), 99, What::Address), now);
    assert_eq!(core.next_look(), None);
    core.mark(&told(Some(4), index, What::Link { up: false, mtu: None }), now);
    assert_eq!(core.next_look(), Some(now));
    core.look_where_due(now).unwrap();
    assert_eq!(core.up("web-1").unwrap().health, PortHealth::Down);
    assert_eq!(core.up("web-0").unwrap().health, PortHealth::Healthy, "it was not looked at");
}

#[tokio::test]
async fn a_link_that_was_down_for_a_moment_gets_back_what_it_has_lost() {
    let dir = tempfile::tempdir().unwrap();
    let bench = watching(dir.path()).await;
    let mut core = bench.control.core().await;
    let (now, index) = (Instant::now(), place(&core, "web-0"));
    calls(&bench);
    let lacks = PortHealth::PodRouteMissing { gateway: "10.1.1.1".parse().unwrap() };
    find(&bench, "web-0", lacks);
    core.mark(&told(Some(3), index, What::Route), now);
    core.look_where_due(now).unwrap();
    assert_eq!(calls(&bench), [""; 0], "the pod's own doing");
    assert_eq!(core.up("web-0").unwrap().health, lacks);
    let later = now + Duration::from_secs(1);
    core.mark(&told(Some(3), index, What::Link { up: false, mtu: None }), later);
    core.mark(&told(Some(3), index, What::Link { up: true, mtu: None }), later);
    core.look_where_due(later).unwrap();
    assert_eq!(calls(&bench), ["update web-0"]);
}

#[tokio::test]
async fn after_an_overrun_everything_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let bench = watching(dir.path()).await;
    let mut core = bench.control.core().await;
    let now = Instant::now();
    find(&bench, "web-0", PortHealth::Down);
    find(&bench, "web-1", PortHealth::MtuChanged { found: 1300 });
    bench.opener.0.lock().unwrap().underlay = Some(None);
    core.mark(&Told { lost: true, ..Told::default() }, now);
    core.look_where_due(now).unwrap();
    assert_eq!(core.up("web-0").unwrap().health, PortHealth::Down);
    assert_eq!(core.up("web-1").unwrap().health, PortHealth::MtuChanged { found: 1300 });
    assert!(core.ground.problem().is_some());
    assert_eq!(core.reach.words(), "events, without names of namespaces; 1 times more than could be heard");
}

#[tokio::test]
async fn a_name_that_comes_back_is_tried_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let bench = watching(dir.path()).await;
    let mut core = bench.control.core().await;
    let now = Instant::now();
    let named = || Told { names: vec!["web-0".into()], ..Told::default() };
    find(&bench, "web-0", PortHealth::NetnsGone);
    bench.opener.0.lock().unwrap().missing.push("web-0".into());
    core.mark(&named(), now);
    core.look_where_due(now).unwrap();
    assert!(core.up("web-0").is_none() && core.up("web-1").is_some());
    // Tried less and less often.
    let mut then = now;
    for _ in 0..12 {
        then = core.next_look().unwrap();
        core.look_where_due(then).unwrap();
    }
    let pause = core.next_look().unwrap() - then;
    assert!(pause >= Duration::from_secs(1), "{pause:?}");
    {
        let mut world = bench.opener.0.lock().unwrap();
        world.health.clear();
        world.missing.clear();
    }
    let then = then + Duration::from_millis(200);
    core.mark(&named(), then);
    assert_eq!(core.next_look(), Some(then));
    core.look_where_due(then).unwrap();
    assert!(core.up("web-0").is_some());
}

#[tokio::test]
async fn a_device_that_goes_all_the_time_is_not_opened_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let bench = watching(dir.path()).await;
    let mut core = bench.control.core().await;
    let now = Instant::now();
    calls(&bench);
    find(&bench, "web-0", PortHealth::IfaceGone);
    for n in 0..200 {
        let now = now + Duration::from_millis(n * 10);
        core.look_at(&["web-0".to_owned()], &[], now).unwrap();
    }
    let opened = calls(&bench).iter().filter(|call| *call == "open web-0").count();
    assert!((5..20).contains(&opened), "{opened}");
    bench.opener.0.lock().unwrap().health.clear();
    core.look_where_due(now + Duration::from_secs(10)).unwrap();
    assert!(core.up("web-0").is_some());
}

#[tokio::test]
async fn the_underlay_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let bench = watching(dir.path()).await;
    let mut core = bench.control.core().await;
    let mut now = Instant::now();
    core.look_after(&[], now).unwrap();
    calls(&bench);
    let mut find = |core: &mut Core, found| {
        now += Duration::from_secs(1);
        bench.opener.0.lock().unwrap().underlay = Some(found);
        core.mark(&told(None, 2, What::Address), now);
        core.look_where_due(now).unwrap();
        core.ground.problem().map(|(text, _)| text.clone()).unwrap_or_default()
    };
    let text = find(&mut core, None);
    assert!(text.contains("no interface of this node has its address 192.168.77.1 any more"), "{text}");
    let text = find(&mut core, Some((1500, false)));
    assert_eq!(text, "interface up0, which has its address 192.168.77.1, is down");
    assert_eq!(find(&mut core, Some((1500, true))), "");
    assert_eq!(calls(&bench), [""; 0]);
    // Devices stay, and have the MTU that fits.
    assert_eq!(find(&mut core, Some((1400, true))), "");
    assert_eq!(calls(&bench), ["update web-0", "update web-1"]);
    assert_eq!(core.up("web-0").unwrap().spec.mtu, 1350);
    assert_eq!(core.tables().ports.iter().flatten().map(|p| p.mtu).collect::<Vec<_>>(), [1350, 1350]);
    let Underlay { addr, .. } = settings().underlay.unwrap();
    assert_eq!(core.settings.underlay, Some(Underlay { addr, mtu: 1400 }));
    assert_eq!(derive::peer_mtu(&core.settings, &core.desired.peers[0]), 1350);
}
