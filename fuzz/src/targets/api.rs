//! `api`: a request as it comes over the socket, or a document as a person writes it. What is accepted is
//! checked, means the same after a round trip, and an edit of it is again acceptable or refused, never half.
//!
//! Input: one byte that chooses the message or the notation, then its bytes.

use crate::input::{Input, mix};
use ctl::desired::document::Notation;
use ctl::desired::text::{Text, parse_prefix};
use ctl::desired::{DesiredState, FdbEntry, Neighbour, Network, Peer, Port, Route};
use ctl::error::ApiError;
use ctl::proto;
use prost::Message;

pub fn run(data: &[u8]) -> u64 {
    let mut input = Input(data);
    let choice = input.byte() & 31;
    let bytes = input.0;
    mix(u64::from(choice), request(choice, bytes).unwrap_or(9))
}

/// Decodes; what decodes is encoded to something that decodes to the same.
fn decode<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    // Floating point has values that differ from themselves; the API has none.
    assert!(M::decode(&message.encode_to_vec()[..]).is_ok_and(|again| again == message));
    Some(message)
}

/// Towards the checked type and back: the same object.
fn object<P, T>(p: Option<P>) -> Option<u64>
where
    T: TryFrom<P, Error = ApiError> + Into<P> + Clone + PartialEq + std::fmt::Debug,
{
    match T::try_from(p?) {
        Ok(checked) => {
            let again = T::try_from(checked.clone().into()).expect("what was accepted is accepted again");
            assert_eq!(again, checked);
            Some(1)
        }
        Err(e) => {
            assert!(!e.to_string().is_empty());
            Some(2 + e.reason as u64)
        }
    }
}

fn request(choice: u8, bytes: &[u8]) -> Option<u64> {
    macro_rules! plain {
        ($($type:ident),*) => {{ $(let _ = decode::<proto::$type>(bytes);)* Some(0) }};
    }
    match choice {
        0 => object::<_, Network>(decode::<proto::AddNetworkRequest>(bytes)?.network),
        1 => object::<_, Port>(decode::<proto::AddPortRequest>(bytes)?.port),
        2 => object::<_, Peer>(decode::<proto::AddPeerRequest>(bytes)?.peer),
        3 => object::<_, Route>(decode::<proto::AddRouteRequest>(bytes)?.route),
        4 => object::<_, FdbEntry>(decode::<proto::AddFdbRequest>(bytes)?.entry),
        5 => object::<_, Neighbour>(decode::<proto::NeighbourEntry>(bytes)),
        6 => {
            let request = decode::<proto::ApplyRequest>(bytes)?;
            let state = DesiredState::try_from(request.state?).ok()?;
            Some(whole(&state, request.prune))
        }
        7 => document(bytes, Notation::Toml),
        8 => document(bytes, Notation::Json),
        9 => texts(bytes),
        10 => {
            let request = decode::<proto::TraceRequest>(bytes)?;
            if let Some(proto::trace_request::What::Frame(frame)) = request.what {
                let _ = packet::Headers::parse(&frame);
            }
            Some(1)
        }
        11 => plain!(
            GetStatusRequest,
            WaitGenerationRequest,
            DeleteNetworkRequest,
            ListNetworksRequest,
            DeletePortRequest,
            ListPortsRequest,
            PortStatsRequest,
            DeletePeerRequest,
            ListPeersRequest,
            PeerStatsRequest
        ),
        12 => plain!(
            ListFdbRequest,
            DeleteFdbRequest,
            FlushFdbRequest,
            ListRoutesRequest,
            DeleteRouteRequest,
            GetRouteRequest,
            ListNeighboursRequest,
            FlushNeighboursRequest,
            ListDropsRequest,
            ExportRequest
        ),
        // What a client has to expect from a server.
        13 => {
            plain!(Status, ListPortsReply, ListFdbReply, TraceReply, ListDropsReply, ExportReply, ApplyReply)
        }
        _ => None,
    }
}

fn document(bytes: &[u8], notation: Notation) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    match DesiredState::parse(text, notation) {
        Ok(state) => Some(whole(&state, true)),
        Err(e) => {
            assert!(!e.message.is_empty());
            Some(1)
        }
    }
}

/// A whole desired state, checked or not.
fn whole(state: &DesiredState, prune: bool) -> u64 {
    for notation in [Notation::Toml, Notation::Json] {
        let text = state.to_text(notation).expect("a state can be written");
        let again = DesiredState::parse(&text, notation).expect("what was written can be read");
        assert_eq!(&again, state, "{text}");
    }
    match state.check() {
        Ok(()) => {
            let message = proto::DesiredState::from(state.clone());
            let again = DesiredState::try_from(message).expect("a checked state passes as a message");
            assert_eq!(&again, state);
            // Applied to nothing it is itself; applied to itself it changes nothing.
            let (merged, _) = DesiredState::default().merged(state.clone(), prune);
            merged.check().expect("a checked document is a checked state");
            let (same, changes) = merged.merged(state.clone(), true);
            assert_eq!(same, merged);
            assert!(changes.is_empty(), "{changes:?}");
            2
        }
        Err(e) => 3 + e.reason as u64,
    }
}

/// Single values: what parses is written as something that parses to the same.
fn texts(bytes: &[u8]) -> Option<u64> {
    fn one<T: Text + PartialEq + std::fmt::Debug>(text: &str) -> u64 {
        match T::parse_text(text) {
            Ok(value) => {
                assert_eq!(T::parse_text(&value.to_string()), Ok(value));
                1
            }
            Err(e) => {
                assert!(!e.is_empty());
                0
            }
        }
    }
    let text = std::str::from_utf8(bytes).ok()?;
    if let Ok(prefix) = parse_prefix(text) {
        assert_eq!(prefix.trunc(), prefix);
    }
    let encap = u64::from(text.parse::<tunnel::Encap>().is_ok());
    Some(
        one::<packet::MacAddr>(text)
            | one::<std::net::IpAddr>(text) << 1
            | one::<ipnet::IpNet>(text) << 2
            | encap << 3,
    )
}
