//! How large a pod's packet may be, given the underlay; and how large its offload frames should be.
//!
//! Both are derived once per change of configuration, never per frame.

use crate::Encap;

/// The smallest MTU IPv4 knows (RFC 791).
pub const MIN_IPV4: u32 = 68;
/// The smallest MTU IPv6 knows (RFC 8200 section 5); pods with IPv6 addresses need at least this.
pub const MIN_IPV6: u32 = 1280;
/// The largest MTU a TAP takes.
pub const MAX: u32 = 65_521;

/// The kernel keeps this much of `gso_max_size` for headers before it fills a frame with payload.
const TCP_HEADROOM: u32 = 320;
/// IPv4, TCP and the timestamp option.
const TCP_HEADERS: u32 = 52;

/// The largest pod packet that crosses the tunnel in one piece; `None` when that is less than any IP
/// network may have.
#[must_use]
pub const fn pod_mtu(underlay_mtu: u32, encap: Encap, underlay_v6: bool) -> Option<u32> {
    match underlay_mtu.checked_sub(encap.overhead(underlay_v6) as u32) {
        Some(mtu) if mtu < MIN_IPV4 => None,
        Some(mtu) if mtu > MAX => Some(MAX),
        other => other,
    }
}

/// The `gso_max_size` of a pod's TAP with which a full offload frame, all added headers included, fits one
/// UDP send of `max_payload` bytes. A larger frame is right as well, but takes two sends.
#[must_use]
pub const fn gso_max_size(pod_mtu: u32, max_payload: u32) -> u32 {
    let on_wire = pod_mtu + Encap::HEADER_LEN as u32 + packet::ETHERNET_LEN as u32;
    let segments = max_payload / on_wire;
    let size = segments * pod_mtu.saturating_sub(TCP_HEADERS) + TCP_HEADROOM;
    if size < pod_mtu {
        pod_mtu
    } else if size > 65_536 {
        65_536
    } else {
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_values() {
        assert_eq!(pod_mtu(1500, Encap::Vxlan, false), Some(1450));
        assert_eq!(pod_mtu(1500, Encap::Geneve, true), Some(1430));
        assert_eq!(pod_mtu(9000, Encap::Vxlan, false), Some(8950));
        assert_eq!(pod_mtu(65_536, Encap::Vxlan, false), Some(65_486));
        assert_eq!(pod_mtu(117, Encap::Vxlan, false), None);
        assert_eq!(pod_mtu(0, Encap::Vxlan, true), None);
        assert_eq!(pod_mtu(u32::MAX, Encap::Vxlan, true), Some(MAX));
    }

    #[test]
    fn a_full_frame_fits_one_send() {
        for mtu in [576, 1280, 1430, 1450, 4000, 8950] {
            let payload = gso_max_size(mtu, 65_507) - TCP_HEADROOM;
            for headers in [40, 52, 60, 72] {
                let mss = mtu - headers;
                let whole = payload / mss;
                assert!(whole * (mtu + 22) <= 65_507 || (mtu < 1280 && headers > 52), "{mtu} {headers}");
            }
        }
        assert!((60_000..63_000).contains(&gso_max_size(1450, 65_507)));
        assert_eq!(gso_max_size(65_521, 65_507), 65_521);
    }
}
