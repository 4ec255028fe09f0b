//! The drop ledger.

use ctl::error::ApiError;
use ctl::proto;

use super::super::Control;
use super::names::Names;
use crate::datapath::{CounterTable, Counters, DropReason, Egress, PeerId, PortId};

/// The sums of the counters.
pub(super) fn ledger(table: &CounterTable) -> proto::Ledger {
    let total = table.total();
    proto::Ledger {
        frames_in: total.received,
        // A frame that waits for a neighbour counts as forwarded until that has failed and it is dropped.
        frames_forwarded: (total.unicast + total.flooded + total.held).saturating_sub(table.expired),
        frames_answered: total.replied + total.consumed,
        frames_dropped: total.receive_drops(),
        frames_out: total.sent,
        unicast: total.unicast,
        flooded: total.flooded,
        replied: total.replied,
        consumed: total.consumed,
        held: total.held,
        posted: table.posted,
        send_drops: total.send_drops,
        generated: table.generated,
        released: table.released,
        expired: table.expired,
        balanced: table.balanced(),
    }
}

impl Control {
    pub(super) async fn list_drops(
        &self,
        request: proto::ListDropsRequest,
    ) -> Result<proto::ListDropsReply, ApiError> {
        let (names, answer) = {
            let core = self.core().await;
            (Names::of(&core), core.ask(|i| i.datapath.counters.clone())?)
        };
        let (ports, peers) = names.numbers();
        let table = answer.get().await?;
        let total = table.total();
        let drops = DropReason::ALL
            .iter()
            .filter(|&&r| request.all || total.drops[r as usize] > 0)
            .map(|&r| proto::DropCount {
                reason: r.word().to_owned(),
                stage: r.stage().to_owned(),
                count: total.drops[r as usize],
                description: r.describe().to_owned(),
            })
            .collect();
        let mut who: Vec<(Option<Egress>, &Counters)> = vec![(None, &table.node)];
        let ports = ports.into_iter().map(|id| Egress::Port(PortId(id)));
        let peers = peers.into_iter().map(|id| Egress::Peer(PeerId(id)));
        who.extend(ports.chain(peers).filter_map(|e| Some((Some(e), table.get(e)?))));
        let mut sources = Vec::new();
        for &reason in DropReason::ALL {
            for (egress, counters) in &who {
                let count = counters.drops[reason as usize];
                if count == 0 {
                    continue;
                }
                let source = egress.and_then(|e| {
                    use proto::drop_source::Source;
                    let name = names.egress(e)?.to_owned();
                    Some(match e {
                        Egress::Port(_) => Source::Port(name),
                        Egress::Peer(_) => Source::Peer(name),
                    })
                });
                sources.push(proto::DropSource { reason: reason.word().to_owned(), source, count });
            }
        }
        Ok(proto::ListDropsReply { drops, sources, ledger: Some(ledger(&table)) })
    }
}
