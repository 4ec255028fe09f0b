//! How Ethernet addresses travel between the processes of one daemon: as their six bytes.

pub(super) mod mac {
    use packet::MacAddr;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(mac: &MacAddr, to: S) -> Result<S::Ok, S::Error> {
        mac.0.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MacAddr, D::Error> {
        <[u8; 6]>::deserialize(from).map(MacAddr)
    }
}

pub(super) mod next_hops {
    use std::net::IpAddr;

    use packet::MacAddr;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(hops: &[(IpAddr, MacAddr)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(hops.iter().map(|(ip, mac)| (*ip, mac.0)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(IpAddr, MacAddr)>, D::Error> {
        let hops = Vec::<(IpAddr, [u8; 6])>::deserialize(from)?;
        Ok(hops.into_iter().map(|(ip, mac)| (ip, MacAddr(mac))).collect())
    }
}
