//! Peers.

use ctl::desired::{DesiredState, Peer, Place, RouteTarget};
use ctl::error::{ApiError, Reason};
use ctl::proto;

use super::super::core::Core;
use super::super::{Control, derive};
use super::objects::{Counted, counters, declared, delete, push, select};
use super::required;
use crate::datapath::{Egress, PeerId};

/// The first object that names a peer.
fn user(desired: &DesiredState, name: &str) -> Option<String> {
    let routed = |r: &&ctl::desired::Route| matches!(&r.target, RouteTarget::Peer(peer) if peer == name);
    let placed = |e: &&ctl::desired::FdbEntry| matches!(&e.place, Place::Peer(peer) if peer == name);
    let route = desired.routes.iter().find(routed).map(ToString::to_string);
    route.or_else(|| desired.fdb.iter().find(placed).map(ToString::to_string))
}

impl Counted for Peer {
    fn egress(core: &Core, name: &str) -> Option<Egress> {
        core.ids.peers.get(name).map(|id| Egress::Peer(PeerId(id)))
    }
}

impl Control {
    pub(super) async fn add_peer(&self, request: proto::AddPeerRequest) -> Result<proto::Ack, ApiError> {
        let peer = Peer::try_from(required("peer", request.peer)?)?;
        let mut core = self.core().await;
        if let Some(ack) = declared(&core, &peer, request.may_exist)? {
            return Ok(ack);
        }
        if let Some(problem) = derive::peer_problem(&core.settings, &peer) {
            return Err(ApiError::new(Reason::Conflict, format!("peer {}: {problem}", peer.name))
                .hint("see the underlay of this node: swctl status"));
        }
        push(&mut core, peer)
    }

    pub(super) async fn delete_peer(
        &self,
        request: proto::DeletePeerRequest,
    ) -> Result<proto::Ack, ApiError> {
        delete::<Peer>(&mut *self.core().await, &request.name, request.if_exists, user, |_, _| {})
    }

    pub(super) async fn list_peers(
        &self,
        request: proto::ListPeersRequest,
    ) -> Result<proto::ListPeersReply, ApiError> {
        let (mut peers, heard) = {
            let core = self.core().await;
            let listed = select::<Peer>(&core.desired, &request.names)?;
            let who: Vec<_> = listed.iter().map(|p| Peer::egress(&core, &p.name)).collect();
            let heard = core.ask(move |i| {
                let age = |who| Some(i.now_ms.saturating_sub(i.datapath.counters.get(who)?.accepted_ms?));
                who.into_iter().map(|who| who.and_then(age)).collect::<Vec<_>>()
            })?;
            (listed.into_iter().map(|p| info(&core, p)).collect::<Vec<_>>(), heard)
        };
        for (info, heard) in peers.iter_mut().zip(heard.get().await?) {
            info.last_rx_ms = heard;
        }
        Ok(proto::ListPeersReply { peers })
    }

    pub(super) async fn peer_stats(
        &self,
        request: proto::PeerStatsRequest,
    ) -> Result<proto::PeerStatsReply, ApiError> {
        let stat = |(name, counters)| proto::PeerStat { name, counters: Some(counters) };
        let peers = self.stats::<Peer, _>(&request.names, counters).await?.into_iter().map(stat).collect();
        Ok(proto::PeerStatsReply { peers })
    }
}

/// All but what the worker knows.
fn info(core: &Core, p: &Peer) -> proto::PeerInfo {
    let problem = derive::peer_problem(&core.settings, p);
    let state = if problem.is_none() { proto::ObjectState::Up } else { proto::ObjectState::Failed };
    proto::PeerInfo {
        spec: Some(p.clone().into()),
        state: state.into(),
        problem: problem.unwrap_or_default(),
        port: derive::peer_port(&core.settings, p).into(),
        router_mac: derive::peer_mac(p).to_string(),
        mtu: derive::peer_mtu(&core.settings, p),
        last_rx_ms: None,
    }
}
