//! Attachments as the CNI plugin asks for them.

use super::*;
use crate::control::fs::RealFs;
use crate::control::program::{Program, ProgramError};
use crate::control::testing::{FakeOpener, settings};
use crate::control::{Control, Store};
use crate::engine::Command;
use crate::io::OpenedPort;
use proto::AttachmentKey;

fn key(id: &str) -> Option<AttachmentKey> {
    Some(AttachmentKey { container_id: id.into(), ifname: "eth0".into() })
}

fn text(text: &str) -> String {
    text.to_owned()
}

async fn with_network(s: &mut Served) {
    let networks = vec![network("pods", 1, &["10.1.1.0/24", "fd00:1::/64"])];
    with_state(s, DesiredState { networks, ..DesiredState::default() }).await;
}

#[tokio::test]
async fn added_checked_deleted() {
    let mut s = served().await;
    with_network(&mut s).await;
    let add = async |s: &mut Served, id: &str, netns: &str| {
        call!(
            s,
            add_attachment,
            AddAttachmentRequest {
                key: key(id),
                cni_network: text("cluster"),
                netns: text(netns),
                ips: vec![text("10.1.1.9")]
            }
        )
    };
    let first = add(&mut s, "c1", "/run/netns/a").await.unwrap();
    assert_eq!(
        (first.key.clone(), first.port.as_str(), first.network.as_str()),
        (key("c1"), "c1/eth0", "pods")
    );
    assert_eq!((first.mtu, first.existed, first.generation), (1450, false, 2));
    let ips: Vec<_> = first.ips.iter().map(|ip| (ip.address.as_str(), ip.gateway.as_str())).collect();
    assert_eq!((ips.len(), ips[0], ips[1].1), (2, ("10.1.1.9/24", "10.1.1.1"), "fd00:1::1"));
    let info =
        call!(s, list_ports, ListPortsRequest { names: vec![text("c1/eth0")] }).unwrap().ports.remove(0);
    assert_eq!(
        (info.state(), &info.mac, info.spec.unwrap().ips.len()),
        (proto::ObjectState::Up, &first.mac, 2)
    );
    // In force when it is answered.
    let wait = call!(s, wait_generation, WaitGenerationRequest { generation: 2, timeout_ms: 1 }).unwrap();
    assert_eq!(wait.applied_generation, 2);
    let again = add(&mut s, "c1", "/run/netns/a").await.unwrap();
    assert_eq!(again, proto::Attachment { existed: true, ..first.clone() });
    assert_eq!(reason(add(&mut s, "c1", "/run/netns/b").await), Reason::Conflict);
    assert_eq!(reason(add(&mut s, "c2", "/run/netns/b").await), Reason::Conflict);

    let check = async |s: &mut Served, netns: &str| {
        call!(s, check_attachment, CheckAttachmentRequest { key: key("c1"), netns: text(netns) })
    };
    assert_eq!(check(&mut s, "/run/netns/a").await.unwrap().problems, [""; 0]);
    assert_eq!(check(&mut s, "/run/netns/b").await.unwrap().problems.len(), 1);
    let ready = call!(s, get_readiness, GetReadinessRequest {}).unwrap();
    assert_eq!((ready.ready, ready.free_addresses, ready.cause.as_str()), (true, 252, ""));

    let delete = async |s: &mut Served, id: &str| {
        call!(s, delete_attachment, DeleteAttachmentRequest { key: key(id) })
    };
    assert_eq!(delete(&mut s, "c1").await.unwrap(), proto::Ack { generation: 3, changed: true });
    assert_eq!(delete(&mut s, "c1").await.unwrap(), proto::Ack { generation: 3, changed: false });
    assert_eq!(reason(call!(s, delete_attachment, DeleteAttachmentRequest {})), Reason::InvalidArgument);
    assert_eq!(reason(check(&mut s, "").await), Reason::PortNotFound);
    // The address rests, but may be asked for.
    let ready = call!(s, get_readiness, GetReadinessRequest { network: text("pods") }).unwrap();
    assert_eq!(ready.free_addresses, 252);
    assert_ne!(add(&mut s, "c2", "/run/netns/b").await.unwrap().mac, first.mac);

    let request = |valid: &str| (text("cluster"), vec![key(valid).unwrap()]);
    let (cni_network, valid) = request("c2");
    let kept =
        call!(s, collect_attachments, CollectAttachmentsRequest { cni_network: cni_network, valid: valid });
    assert_eq!(kept.unwrap().removed, []);
    let (cni_network, valid) = request("c1");
    let gone =
        call!(s, collect_attachments, CollectAttachmentsRequest { cni_network: cni_network, valid: valid });
    assert_eq!(gone.unwrap().removed, [key("c2").unwrap()]);
    assert!(s.bench.opener.0.lock().unwrap().open.is_empty());
}

#[tokio::test]
async fn asked_for_at_once() {
    let mut s = served().await;
    with_network(&mut s).await;
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let mut client = s.client.clone();
            tokio::spawn(async move {
                let request = proto::AddAttachmentRequest {
                    // Each of eight twice.
                    key: key(&format!("c{}", n % 8)),
                    cni_network: text("cluster"),
                    netns: format!("ns{}", n % 8),
                    ..Default::default()
                };
                client.call(async |stub| stub.add_attachment(request).await).await.unwrap()
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|a| a.existed).count(), 8);
    let addresses: std::collections::BTreeSet<_> =
        answers.iter().flat_map(|a| a.ips.iter().map(|ip| ip.address.clone())).collect();
    assert_eq!((addresses.len(), s.bench.opener.0.lock().unwrap().open.len()), (16, 8));
    for n in 0..8 {
        assert_eq!(answers[n].ips, answers[n + 8].ips);
    }
}

/// A worker that takes everything and does nothing.
struct Deaf;

impl Program for Deaf {
    fn send(&self, _: Command<OpenedPort>) -> Result<(), ProgramError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_comes_into_force_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(Box::new(RealFs::open(dir.path()).unwrap()));
    let loaded = store.load().unwrap();
    let opener = FakeOpener::default();
    let host = crate::node::MemoryHost::default();
    let started = Control::start(
        settings(),
        store,
        loaded,
        Box::new(opener.clone()),
        Box::new(host),
        Box::new(Deaf),
        None,
    );
    let control = started.unwrap();
    let networks = vec![network("pods", 1, &["10.1.1.0/24"])];
    let state = DesiredState { networks, ..DesiredState::default() };
    control.core().await.commit(state.clone()).unwrap();
    let request = proto::AddAttachmentRequest {
        key: key("c1"),
        cni_network: text("cluster"),
        netns: text("ns"),
        ..Default::default()
    };
    assert_eq!(control.add_attachment(request).await.unwrap_err().reason, Reason::Timeout);
    assert_eq!(control.core().await.desired, state);
    assert_eq!(opener.0.lock().unwrap().calls, ["open ns", "close ns"]);
    let ready = control.get_readiness(proto::GetReadinessRequest::default()).await.unwrap();
    assert_eq!((ready.ready, ready.degraded, ready.cause.is_empty()), (false, true, false));
}
