//! Both ends over a real socket, with a fake kernel behind them.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread::JoinHandle;

use packet::MacAddr;

use super::channel::Channel;
use super::client::Client;
use super::keeper::{Keeper, Stage, Tenure};
use super::message::{Reply, Request};
use crate::control::refusal;
use crate::control::testing::FakeOpener;
use crate::io::{DeviceName, NetnsRef, OpenError, Opener, PortHealth, PortSpec};
use crate::node::{MemoryHost, NodeError, NodeHost, NodePlan};

const TENURE: Tenure = Tenure::FIRST;

type Fake = Keeper<FakeOpener, MemoryHost>;

pub(super) fn spec(name: &str) -> PortSpec {
    PortSpec {
        netns: NetnsRef::Name(name.into()),
        identity: None,
        ifname: "eth0".into(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1450,
        addresses: vec!["10.1.1.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
        gateways: vec!["10.1.1.1".parse().unwrap()],
        default_route: true,
        offload: true,
        node: None,
    }
}

/// A switch process's connection; the keeper comes back when it is closed.
fn connect(mut keeper: Fake) -> (Client, JoinHandle<Fake>) {
    keeper.begin(TENURE);
    let (ours, theirs) = Channel::pair().unwrap();
    let serving = std::thread::spawn(move || {
        let mut channel = Channel::new(ours);
        while let Ok((request, _)) = channel.recv::<Request>() {
            let (reply, fd) = keeper.answer(TENURE, request);
            channel.send(&reply, fd.as_ref().map(std::os::fd::AsFd::as_fd)).unwrap();
        }
        keeper
    });
    (Client::new(theirs).unwrap(), serving)
}

fn fake() -> (FakeOpener, MemoryHost, Fake) {
    let (opener, host) = (FakeOpener::default(), MemoryHost::default());
    (opener.clone(), host.clone(), Keeper::new(opener, host))
}

fn calls(opener: &FakeOpener) -> Vec<String> {
    std::mem::take(&mut opener.0.lock().unwrap().calls)
}

#[test]
fn a_new_switch_process_is_given_the_ports_of_the_one_before() {
    let (opener, _, keeper) = fake();
    let (mut client, serving) = connect(keeper);
    let first = client.open_port(&spec("a")).unwrap();
    assert!(!first.adopted && first.fd.as_raw_fd() >= 0);
    client.open_port(&spec("b")).unwrap();
    client.ready().unwrap();
    drop(client);
    let keeper = serving.join().unwrap();
    assert_eq!((keeper.ports(), keeper.stage(TENURE)), (2, Stage::Ready));
    assert_eq!(calls(&opener), ["open a", "open b"]);

    let (mut client, serving) = connect(keeper);
    let again = client.open_port(&spec("a")).unwrap();
    assert!(again.adopted);
    assert_eq!((again.place(), &again.identity), (first.place(), &first.identity));
    assert_eq!(calls(&opener), [""; 0], "the kernel was not asked");
    // Nobody asked for b: it was deleted just before.
    client.ready().unwrap();
    assert_eq!(calls(&opener), ["close b"]);
    // Within one life, asking again means that the port is no good any more.
    assert!(!client.open_port(&spec("a")).unwrap().adopted);
    assert_eq!(calls(&opener), ["close a", "open a"]);
    drop(client);
    assert_eq!(serving.join().unwrap().ports(), 1);
}

#[test]
fn kept_ports_are_known_to_be_kept_and_leftovers_are_discarded() {
    let (opener, host, keeper) = fake();
    let (mut client, serving) = connect(keeper);
    let [a, b] = ["a", "b"].map(|name| client.open_port(&spec(name)).unwrap());
    client.keep_port(&spec("a"), a.place(), a.fd.as_fd()).unwrap();
    assert!(client.keep_port(&spec("a"), b.place(), a.fd.as_fd()).is_err(), "another device");
    assert!(client.keep_port(&spec("c"), a.place(), a.fd.as_fd()).is_err(), "no device");
    drop(client);
    let (mut client, serving) = connect(serving.join().unwrap());
    assert!(client.open_port(&spec("a")).unwrap().lasting);
    calls(&opener);
    // One that is held for the process before goes from here first.
    let name = |netns: &str| DeviceName {
        netns: NetnsRef::Name(netns.into()),
        identity: None,
        ifname: "eth0".into(),
    };
    assert!(client.discard_port(&name("b")).unwrap());
    assert!(!client.discard_port(&name("c")).unwrap());
    assert_eq!(calls(&opener), ["close b", "discard b", "discard c"]);
    assert!(!client.open_port(&spec("b")).unwrap().lasting);
    // At the end pods keep their devices, and the node's own go.
    let node = PortSpec { node: Some(crate::io::NodeLink::default()), default_route: false, ..spec("n") };
    client.open_port(&node).unwrap();
    host.state().plan = Some(NodePlan::default());
    drop(client);
    let mut keeper = serving.join().unwrap();
    calls(&opener);
    keeper.leave();
    assert_eq!((calls(&opener), keeper.ports()), (vec!["close n".to_owned()], 2));
    assert!(host.state().plan.is_none());
}

#[test]
fn a_port_that_is_to_be_otherwise_is_made_anew() {
    let (opener, _, keeper) = fake();
    let (mut client, serving) = connect(keeper);
    let made = client.open_port(&spec("a")).unwrap();
    client.open_port(&spec("b")).unwrap();
    drop(client);
    let (mut client, serving) = connect(serving.join().unwrap());
    calls(&opener);
    assert!(!client.open_port(&PortSpec { offload: false, ..spec("a") }).unwrap().adopted);
    assert_eq!(calls(&opener), ["close a", "open a"]);
    // The namespace it was made for is wanted, and another.
    let same = PortSpec { identity: Some(made.identity.clone()), ..spec("b") };
    assert!(matches!(
        client.open_port(&PortSpec { identity: Some(made.identity), ..same.clone() }),
        Err(OpenError::Told { .. })
    ));
    assert_eq!(calls(&opener), ["close b", "open b"]);
    drop(client);
    drop(serving.join().unwrap());
}

#[test]
fn what_is_closed_or_changed_is_not_kept_as_it_was() {
    let (opener, _, keeper) = fake();
    let (mut client, serving) = connect(keeper);
    let place = client.open_port(&spec("a")).unwrap().place();
    client.close_port(&spec("a"), place).unwrap();
    let place = client.open_port(&spec("b")).unwrap().place();
    let wanted = PortSpec { addresses: vec!["10.1.1.9/24".parse().unwrap()], ..spec("b") };
    client.restore_port(&wanted, place).unwrap();
    assert_eq!(calls(&opener).last().unwrap(), "update b");
    assert_eq!(client.check_port(&wanted, place).unwrap(), PortHealth::Healthy);
    opener.0.lock().unwrap().health.insert("b".into(), PortHealth::MtuChanged { found: 1300 });
    assert_eq!(client.check_port(&wanted, place).unwrap(), PortHealth::MtuChanged { found: 1300 });
    drop(client);
    let keeper = serving.join().unwrap();
    assert_eq!(keeper.ports(), 1);
    calls(&opener);
    let (mut client, serving) = connect(keeper);
    assert!(client.open_port(&wanted).unwrap().adopted);
    assert_eq!(calls(&opener), [""; 0]);
    // The underlay's MTU has changed meanwhile: no reason to take a pod's device away.
    drop(client);
    let (mut client, serving) = connect(serving.join().unwrap());
    let wanted = PortSpec { mtu: 1400, ..wanted };
    assert!(client.open_port(&wanted).unwrap().adopted);
    assert_eq!(calls(&opener), ["update b"]);
    drop(client);
    drop(serving.join().unwrap());
}

/// A client reads the same words, whichever process was asked.
#[test]
fn refusals_are_those_of_the_opener_itself() {
    let (mut opener, _, keeper) = fake();
    opener.0.lock().unwrap().missing.push("gone".into());
    let (mut client, serving) = connect(keeper);
    for bad in [spec("gone"), PortSpec { mtu: 3, ..spec("a") }] {
        let (there, here) = (client.open_port(&bad).unwrap_err(), opener.open_port(&bad).unwrap_err());
        assert_eq!(refusal::words(&there), refusal::words(&here));
    }
    let nowhere: IpAddr = "192.0.2.1".parse().unwrap();
    let (there, here) =
        (client.bind_underlay(nowhere, 4789).unwrap_err(), opener.bind_underlay(nowhere, 4789).unwrap_err());
    assert_eq!(refusal::words(&there), refusal::words(&here));
    opener.0.lock().unwrap().underlay = Some(None);
    let (there, here) =
        (client.underlay_mtu(nowhere).unwrap_err(), opener.underlay_mtu(nowhere).unwrap_err());
    assert_eq!(refusal::words(&there), refusal::words(&here));
    opener.0.lock().unwrap().underlay = Some(Some((1400, true)));
    assert_eq!(client.underlay_mtu(nowhere).unwrap(), 1400);
    // It may start again while the address is away.
    opener.0.lock().unwrap().underlay = Some(None);
    assert_eq!(client.underlay_link(nowhere).unwrap(), None);
    assert_eq!(client.underlay_mtu(nowhere).unwrap(), 1400);
    drop(client);
    assert_eq!(serving.join().unwrap().ports(), 0);
}

#[test]
fn the_node_is_set_up_by_the_monitor() {
    let (_, host, keeper) = fake();
    let (mut client, serving) = connect(keeper);
    let link = crate::io::NodeLink::default();
    let device = crate::node::plan::Device {
        port: "node".into(),
        ifname: "swd0".into(),
        addresses: Vec::new(),
        link,
        subnets: vec!["10.1.1.0/24".parse().unwrap()],
        masquerade: true,
        except: Vec::new(),
    };
    let plan = NodePlan { devices: vec![device], ..NodePlan::default() };
    assert!(client.apply(&plan).unwrap());
    assert!(!client.apply(&plan).unwrap());
    assert_eq!(host.state().plan.as_ref(), Some(&plan));
    assert!(client.verify().unwrap());
    host.state().touched = true;
    assert!(!client.verify().unwrap());
    host.state().stuck = true;
    assert!(matches!(client.verify(), Err(NodeError::Stuck { .. })));
    host.state().stuck = false;
    host.state().without_nft = true;
    let here = host.clone().apply(&plan).unwrap_err().to_string();
    assert_eq!(client.apply(&plan).unwrap_err().to_string(), here);
    client.remove().unwrap();
    assert!(host.state().plan.is_none());
    drop(client);
    drop(serving.join().unwrap());
}

#[test]
fn another_protocol_is_refused() {
    let (_, _, mut keeper) = fake();
    assert!(
        matches!(keeper.answer(TENURE, Request::Hello(0)).0, Reply::Refused(r) if r.text.contains("protocol"))
    );
}

#[test]
fn two_switch_processes_may_have_the_same_ports() {
    let (opener, _, mut keeper) = fake();
    let (old, new) = (TENURE, TENURE.next());
    let open = |spec: PortSpec| Request::OpenPort(Box::new(spec));
    keeper.begin(old);
    assert!(matches!(keeper.answer(old, open(spec("a"))), (Reply::Port(_), Some(_))));
    keeper.answer(old, Request::Ready);
    calls(&opener);

    // The one that is to take over is given the same, and what was missing.
    keeper.begin(new);
    assert!(matches!(keeper.answer(new, open(spec("a"))), (Reply::Port(facts), Some(_)) if facts.adopted));
    assert!(matches!(keeper.answer(new, open(spec("b"))), (Reply::Port(_), Some(_))));
    // What the other forwards with stays as it is, until that has ended.
    let other = PortSpec { mtu: 1400, ..spec("a") };
    assert!(matches!(keeper.answer(new, open(other.clone())).0, Reply::Refused(_)));
    keeper.answer(new, Request::Prepared);
    assert_eq!((keeper.stage(old), keeper.stage(new)), (Stage::Ready, Stage::Prepared));
    assert_eq!(calls(&opener), ["open b"]);

    // It fails: what only it had is gone.
    keeper.end_successor(old);
    assert_eq!((keeper.ports(), calls(&opener)), (1, vec!["close b".to_owned()]));

    // Another one takes over, and is as free as any.
    keeper.begin(new);
    keeper.answer(new, open(spec("a")));
    keeper.answer(new, Request::Prepared);
    keeper.end(old);
    keeper.answer(new, Request::Ready);
    assert!(matches!(keeper.answer(new, open(other)), (Reply::Port(facts), Some(_)) if !facts.adopted));
    assert_eq!(calls(&opener), ["close a", "open a"]);
}
