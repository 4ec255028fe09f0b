//! Peers.

use ctl::desired::{DesiredState, Peer, Place, RouteTarget};
use ctl::error::{ApiError, Reason};
use ctl::proto;

use super::super::{Control, derive};
use super::{existing, names, required};
use crate::datapath::{Egress, PeerId};

fn find<'a>(desired: &'a DesiredState, name: &str) -> Result<&'a Peer, ApiError> {
    desired.peers.iter().find(|p| p.name == name).ok_or_else(|| ApiError::no_peer(name))
}

fn user(desired: &DesiredState, name: &str) -> Option<String> {
    let routed = |r: &&ctl::desired::Route| matches!(&r.target, RouteTarget::Peer(peer) if peer == name);
    let placed = |e: &&ctl::desired::FdbEntry| matches!(&e.place, Place::Peer(peer) if peer == name);
    let route = desired.routes.iter().find(routed).map(ToString::to_string);
    route.or_else(|| desired.fdb.iter().find(placed).map(ToString::to_string))
}

impl Control {
    pub(super) async fn add_peer(&self, request: proto::AddPeerRequest) -> Result<proto::Ack, ApiError> {
        let peer = Peer::try_from(required("peer", request.peer)?)?;
        let mut core = self.core().await;
        if let Ok(old) = find(&core.desired, &peer.name) {
            existing(&format!("peer {}", peer.name), old, &peer, request.may_exist)?;
            return Ok(proto::Ack { generation: core.generation, changed: false });
        }
        if let Some(problem) = derive::peer_problem(&core.settings, &peer) {
            return Err(ApiError::new(Reason::Conflict, format!("peer {}: {problem}", peer.name))
                .hint("see the underlay of this node: swctl status"));
        }
        let mut next = core.desired.clone();
        next.peers.push(peer);
        Ok(proto::Ack { generation: core.commit(next)?, changed: true })
    }

    pub(super) async fn delete_peer(
        &self,
        request: proto::DeletePeerRequest,
    ) -> Result<proto::Ack, ApiError> {
        let name = &request.name;
        let mut core = self.core().await;
        if let Err(e) = find(&core.desired, name) {
            return if request.if_exists {
                Ok(proto::Ack { generation: core.generation, changed: false })
            } else {
                Err(e)
            };
        }
        if let Some(user) = user(&core.desired, name) {
            return Err(ApiError::new(Reason::InUse, format!("peer {name} is in use by {user}"))
                .hint("delete what uses it first"));
        }
        let mut next = core.desired.clone();
        next.peers.retain(|p| p.name != *name);
        Ok(proto::Ack { generation: core.commit(next)?, changed: true })
    }

    pub(super) async fn list_peers(
        &self,
        request: proto::ListPeersRequest,
    ) -> Result<proto::ListPeersReply, ApiError> {
        let core = self.core().await;
        for name in &request.names {
            find(&core.desired, name)?;
        }
        let listed = |p: &&Peer| request.names.is_empty() || request.names.contains(&p.name);
        let mut peers: Vec<&Peer> = core.desired.peers.iter().filter(listed).collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        let info = |p: &Peer| {
            let problem = derive::peer_problem(&core.settings, p);
            let state = if problem.is_none() { proto::ObjectState::Up } else { proto::ObjectState::Failed };
            proto::PeerInfo {
                spec: Some(p.clone().into()),
                state: state.into(),
                problem: problem.unwrap_or_default(),
                port: derive::peer_port(&core.settings, p).into(),
                router_mac: derive::peer_mac(p).to_string(),
                mtu: derive::peer_mtu(&core.settings, p),
                // Not known: the data path counts packets of a peer, it does not time them.
                last_rx_ms: None,
            }
        };
        Ok(proto::ListPeersReply { peers: peers.into_iter().map(info).collect() })
    }

    pub(super) async fn peer_stats(
        &self,
        request: proto::PeerStatsRequest,
    ) -> Result<proto::PeerStatsReply, ApiError> {
        let (mut wanted, answer) = {
            let core = self.core().await;
            for name in &request.names {
                find(&core.desired, name)?;
            }
            let listed = |p: &&Peer| request.names.is_empty() || request.names.contains(&p.name);
            let number = |p: &Peer| core.ids.peers.get(&p.name).map(|id| Egress::Peer(PeerId(id)));
            let wanted: Vec<_> =
                core.desired.peers.iter().filter(listed).map(|p| (p.name.clone(), number(p))).collect();
            (wanted, core.ask(|i| i.datapath.counters.clone())?)
        };
        let counted = answer.get().await?;
        wanted.sort();
        let peers = wanted
            .into_iter()
            .map(|(name, who)| {
                let counters = who.and_then(|who| counted.get(who)).map(|c| names::counters(c, true));
                proto::PeerStat { name, counters: Some(counters.unwrap_or_default()) }
            })
            .collect();
        Ok(proto::PeerStatsReply { peers })
    }
}
