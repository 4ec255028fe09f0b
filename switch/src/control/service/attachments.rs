//! Attachments: what the CNI plugin asks.

use std::time::{Duration, Instant};

use ctl::desired::Port;
use ctl::error::ApiError;
use ctl::proto;

use super::super::attach::{self, Clock};
use super::super::core::Core;
use super::super::{Control, derive};
use super::required;

/// How long the worker may take to answer before pods are said to suffer. It answers between two batches.
const WORKER_PATIENCE: Duration = Duration::from_secs(1);

impl Control {
    pub(super) async fn add_attachment(
        &self,
        request: proto::AddAttachmentRequest,
    ) -> Result<proto::Attachment, ApiError> {
        let (answer, existed, epoch) = {
            let mut core = self.core().await;
            let added = attach::add(&mut core, request, Clock::read())?;
            (describe(&core, &added.port, added.existed), added.existed, core.tables().generation)
        };
        let object = format!("attachment {}", answer.port);
        if let Err(e) = self.in_force(&object, epoch).await {
            // The runtime will take it for not added, so it must not be there.
            if !existed
                && let Some(key) = &answer.key
                && let Err(undo) = attach::delete(&mut *self.core().await, key)
            {
                tracing::error!("{object} is useless and cannot be deleted: {undo}");
            }
            return Err(e);
        }
        Ok(answer)
    }

    pub(super) async fn delete_attachment(
        &self,
        request: proto::DeleteAttachmentRequest,
    ) -> Result<proto::Ack, ApiError> {
        let key = required("key", request.key)?;
        let mut core = self.core().await;
        let changed = attach::delete(&mut core, &key)?;
        Ok(proto::Ack { generation: core.generation, changed })
    }

    pub(super) async fn check_attachment(
        &self,
        request: proto::CheckAttachmentRequest,
    ) -> Result<proto::CheckAttachmentReply, ApiError> {
        let mut problems = attach::check(&mut *self.core().await, &request)?;
        problems.extend(self.worker_problem().await);
        Ok(proto::CheckAttachmentReply { problems })
    }

    pub(super) async fn collect_attachments(
        &self,
        request: proto::CollectAttachmentsRequest,
    ) -> Result<proto::CollectAttachmentsReply, ApiError> {
        let removed = attach::collect(&mut *self.core().await, &request)?;
        Ok(proto::CollectAttachmentsReply { removed })
    }

    pub(super) async fn get_readiness(
        &self,
        request: proto::GetReadinessRequest,
    ) -> Result<proto::Readiness, ApiError> {
        let mut readiness = attach::readiness(&*self.core().await, &request.network, Instant::now());
        if let Some(problem) = self.worker_problem().await {
            attach::hold_back(
                &mut readiness,
                true,
                &problem,
                "is the machine overloaded? see the log of swd",
            );
        }
        Ok(readiness)
    }

    /// Why the worker does not run with the newest tables, if it does not. Commands are carried out in order, so its
    /// answer says that all before are; waiting for it leaves a change of this moment its time.
    async fn worker_problem(&self) -> Option<String> {
        let asked = self.core().await.ask(|_| ());
        let answer = match asked {
            Ok(answer) => tokio::time::timeout(WORKER_PATIENCE, answer.get()).await,
            Err(e) => return Some(e.to_string()),
        };
        match answer {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.message),
            Err(_) => Some(format!("the worker did not take over the tables within {WORKER_PATIENCE:?}")),
        }
    }
}

fn describe(core: &Core, port: &Port, existed: bool) -> proto::Attachment {
    let network = core.desired.networks.iter().find(|n| n.name == port.network);
    let gateway = |ip| network?.subnets.iter().find(|s| s.cidr.contains(&ip))?.gateway;
    let ip = |net: &ipnet::IpNet| proto::AttachmentIp {
        address: net.to_string(),
        gateway: gateway(net.addr()).map(|ip: std::net::IpAddr| ip.to_string()).unwrap_or_default(),
    };
    proto::Attachment {
        key: attach::key(port),
        port: port.name.clone(),
        network: port.network.clone(),
        mac: derive::port_mac(&core.settings, port).to_string(),
        mtu: network.map_or(0, |n| derive::port_mtu(&core.settings, port, n)),
        ips: port.ips.iter().map(ip).collect(),
        existed,
        generation: core.generation,
    }
}
