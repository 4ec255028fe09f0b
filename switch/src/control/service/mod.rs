//! The API, one file per noun.
//!
//! Each request is answered from the desired state, from the devices, or by asking the worker between two of
//! its batches. Lists are sorted by name. Every mutation is logged with the caller's user and process id.

mod attachments;
mod documents;
mod drops;
mod fdb;
mod names;
mod neighbours;
mod networks;
mod objects;
mod peers;
mod ports;
mod routes;
mod status;

use ctl::error::{ApiError, Reason};
use ctl::proto;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use super::Control;
pub(super) use names::{Names, target};
pub(super) use status::{cuts_off, health, own_words};

/// The service on top of a [`Control`].
#[derive(Clone)]
pub struct Api(pub Control);

/// Who asked, as the kernel knows it.
fn caller<T>(request: &Request<T>) -> (Option<u32>, Option<i32>) {
    let cred = request.extensions().get::<UdsConnectInfo>().and_then(|c| c.peer_cred);
    (cred.map(|c| c.uid()), cred.and_then(|c| c.pid()))
}

fn log(method: &'static str, (uid, pid): (Option<u32>, Option<i32>), failed: Option<&ApiError>) {
    match failed {
        None => tracing::info!(method, uid, pid, "done"),
        Some(e) => tracing::warn!(method, uid, pid, reason = %e.reason, "refused: {e}"),
    }
}

/// A field that must be there.
fn required<T>(what: &str, value: Option<T>) -> Result<T, ApiError> {
    value.ok_or_else(|| ApiError::invalid("request", format!("{what} is missing")))
}

/// The answer to adding an object that is there already.
fn existing<T: PartialEq>(object: &str, old: &T, new: &T, may_exist: bool) -> Result<(), ApiError> {
    if old != new {
        return Err(ApiError::new(Reason::Conflict, format!("{object} exists and is different"))
            .hint("compare with `swctl export`; change it with `swctl apply`, or delete it first"));
    }
    if may_exist {
        return Ok(());
    }
    Err(ApiError::new(Reason::AlreadyExists, format!("{object} exists already"))
        .hint("--may-exist accepts that"))
}

macro_rules! service {
    (read { $($read:ident($read_in:ident) -> $read_out:ident;)* } write { $($write:ident($write_in:ident) -> $write_out:ident;)* }) => {
        #[tonic::async_trait]
        impl proto::switch_server::Switch for Api {
            $(
                async fn $read(&self, request: Request<proto::$read_in>) -> Result<Response<proto::$read_out>, Status> {
                    Ok(Response::new(self.0.$read(request.into_inner()).await?))
                }
            )*
            $(
                async fn $write(&self, request: Request<proto::$write_in>) -> Result<Response<proto::$write_out>, Status> {
                    let caller = caller(&request);
                    let result = self.0.$write(request.into_inner()).await;
                    log(stringify!($write), caller, result.as_ref().err());
                    Ok(Response::new(result?))
                }
            )*
        }
    };
}

service! {
    read {
        get_status(GetStatusRequest) -> Status;
        wait_generation(WaitGenerationRequest) -> WaitGenerationReply;
        list_networks(ListNetworksRequest) -> ListNetworksReply;
        list_ports(ListPortsRequest) -> ListPortsReply;
        port_stats(PortStatsRequest) -> PortStatsReply;
        check_attachment(CheckAttachmentRequest) -> CheckAttachmentReply;
        get_readiness(GetReadinessRequest) -> Readiness;
        list_peers(ListPeersRequest) -> ListPeersReply;
        peer_stats(PeerStatsRequest) -> PeerStatsReply;
        list_fdb(ListFdbRequest) -> ListFdbReply;
        list_routes(ListRoutesRequest) -> ListRoutesReply;
        get_route(GetRouteRequest) -> GetRouteReply;
        list_neighbours(ListNeighboursRequest) -> ListNeighboursReply;
        list_drops(ListDropsRequest) -> ListDropsReply;
        trace(TraceRequest) -> TraceReply;
        export(ExportRequest) -> ExportReply;
    }
    write {
        add_network(AddNetworkRequest) -> Ack;
        delete_network(DeleteNetworkRequest) -> Ack;
        add_port(AddPortRequest) -> Ack;
        delete_port(DeletePortRequest) -> Ack;
        add_attachment(AddAttachmentRequest) -> Attachment;
        delete_attachment(DeleteAttachmentRequest) -> Ack;
        collect_attachments(CollectAttachmentsRequest) -> CollectAttachmentsReply;
        add_peer(AddPeerRequest) -> Ack;
        delete_peer(DeletePeerRequest) -> Ack;
        add_fdb(AddFdbRequest) -> Ack;
        delete_fdb(DeleteFdbRequest) -> Ack;
        flush_fdb(FlushFdbRequest) -> FlushReply;
        add_route(AddRouteRequest) -> Ack;
        delete_route(DeleteRouteRequest) -> Ack;
        flush_neighbours(FlushNeighboursRequest) -> FlushReply;
        apply(ApplyRequest) -> ApplyReply;
    }
}

#[cfg(test)]
mod tests;
