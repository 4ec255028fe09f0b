//! The whole desired state at once.

use ctl::desired::DesiredState;
use ctl::error::ApiError;
use ctl::proto;

use super::super::Control;
use super::required;

impl Control {
    pub(super) async fn apply(&self, request: proto::ApplyRequest) -> Result<proto::ApplyReply, ApiError> {
        let document = DesiredState::try_from(required("state", request.state)?)?;
        let mut core = self.core().await;
        let (next, changes) = core.desired.merged(document, request.prune);
        core.check(&next)?;
        let generation =
            if request.dry_run || changes.is_empty() { core.generation } else { core.commit(next)? };
        Ok(proto::ApplyReply { generation, changes: changes.into_iter().map(Into::into).collect() })
    }

    pub(super) async fn export(&self, _: proto::ExportRequest) -> Result<proto::ExportReply, ApiError> {
        let core = self.core().await;
        let mut state = core.desired.clone();
        state.networks.sort_by(|a, b| a.name.cmp(&b.name));
        state.ports.sort_by(|a, b| a.name.cmp(&b.name));
        state.peers.sort_by(|a, b| a.name.cmp(&b.name));
        state.routes.sort_by(|a, b| (&a.network, a.prefix).cmp(&(&b.network, b.prefix)));
        state.fdb.sort_by(|a, b| (&a.network, a.mac).cmp(&(&b.network, b.mac)));
        state.neighbours.sort_by(|a, b| (&a.network, a.ip).cmp(&(&b.network, b.ip)));
        Ok(proto::ExportReply { state: Some(state.into()), generation: core.generation })
    }
}
