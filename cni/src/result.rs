//! The result of ADD in each version of the specification, and what CHECK reads back from it.
//!
//! What earlier plugins of the chain made is passed on as it came, with keys that we do not know: it stays an
//! untyped document to which ours is appended. Runtimes need more than the specification asks for: podman
//! fails on an interface with a sandbox and without a MAC and ignores addresses without `interface`,
//! containerd looks for `eth0` by name. So all of these are always there.

use ctl::proto;
use serde_json::{Map, Value, json};

use crate::error::{CniError, Code};
use crate::version::SpecVersion;

/// What this plugin adds.
#[derive(Debug)]
pub struct Own<'a> {
    pub attachment: &'a proto::Attachment,
    pub ifname: &'a str,
    /// `CNI_NETNS` as it came.
    pub sandbox: &'a str,
    pub default_route: bool,
    /// Replaces those of earlier plugins.
    pub dns: Option<Value>,
}

/// A previous result whose lists are lists, so that building on it cannot fail.
#[derive(Debug, Default)]
pub struct Previous {
    document: Map<String, Value>,
    interfaces: Vec<Value>,
    ips: Vec<Value>,
    routes: Vec<Value>,
}

impl Previous {
    /// Before anything is done, so that nothing has to be undone.
    pub fn of(document: Option<&Map<String, Value>>) -> Result<Self, CniError> {
        let Some(document) = document else { return Ok(Self::default()) };
        let list = |key: &str| match document.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list.clone()),
            Some(other) => Err(CniError::bad_key(&format!("prevResult.{key}"), other, "expected an array")),
        };
        let (interfaces, ips, routes) = (list("interfaces")?, list("ips")?, list("routes")?);
        Ok(Self { document: document.clone(), interfaces, ips, routes })
    }

    /// The result of ADD.
    pub fn with(mut self, version: SpecVersion, own: Own<'_>) -> Value {
        // Addresses point at their interface by its place in the list; earlier plugins may have filled some.
        let place = self.interfaces.len();
        self.interfaces.push(interface(version, &own));
        self.ips.extend(own.attachment.ips.iter().map(|ip| address(version, ip, place)));
        if own.default_route {
            self.routes.extend(default_routes(&own.attachment.ips));
        }
        let mut result = self.document;
        result.insert("cniVersion".into(), version.as_str().into());
        result.insert("interfaces".into(), self.interfaces.into());
        result.insert("ips".into(), self.ips.into());
        if !self.routes.is_empty() {
            result.insert("routes".into(), self.routes.into());
        }
        if let Some(dns) = own.dns {
            result.insert("dns".into(), dns);
        }
        result.into()
    }

    /// Addresses of our interface as the runtime believes them. `None` when it does not list the interface.
    pub fn addresses_of(&self, ifname: &str) -> Option<Vec<String>> {
        let ours = |i: &Value| {
            // One of the same name without a sandbox is an interface of the node.
            i["name"] == ifname && i["sandbox"].as_str().is_some_and(|s| !s.is_empty())
        };
        let place = self.interfaces.iter().position(ours)?;
        let belongs = |ip: &&Value| ip["interface"].as_u64() == Some(place as u64);
        Some(
            self.ips
                .iter()
                .filter(belongs)
                .filter_map(|ip| Some(ip["address"].as_str()?.to_owned()))
                .collect(),
        )
    }
}

fn interface(version: SpecVersion, own: &Own<'_>) -> Value {
    let mut interface = json!({ "name": own.ifname, "mac": own.attachment.mac, "sandbox": own.sandbox });
    if version.interfaces_have_mtu() {
        interface["mtu"] = own.attachment.mtu.into();
    }
    interface
}

fn address(version: SpecVersion, ip: &proto::AttachmentIp, place: usize) -> Value {
    let mut address = json!({ "address": ip.address, "interface": place });
    if !ip.gateway.is_empty() {
        address["gateway"] = ip.gateway.as_str().into();
    }
    if version.ips_have_version() {
        address["version"] = if ip.address.contains(':') { "6" } else { "4" }.into();
    }
    address
}

/// One for each family that has a gateway, as the switch makes them.
fn default_routes(ips: &[proto::AttachmentIp]) -> impl Iterator<Item = Value> {
    ["0.0.0.0/0", "::/0"].into_iter().filter_map(move |dst| {
        let same = |ip: &&proto::AttachmentIp| ip.gateway.contains(':') == dst.contains(':');
        let ip = ips.iter().filter(|ip| !ip.gateway.is_empty()).find(same)?;
        Some(json!({ "dst": dst, "gw": ip.gateway }))
    })
}

/// What an external IPAM plugin answers.
#[derive(Debug, Default, PartialEq)]
pub struct Allocation {
    /// With prefix length.
    pub ips: Vec<String>,
    pub dns: Option<Value>,
}

/// Reads the answer of the IPAM plugin `kind`. Routes other than default ones are refused: the switch would not
/// make them, and the pod would miss them silently.
pub fn allocation(kind: &str, stdout: &[u8]) -> Result<Allocation, CniError> {
    let bad = |cause: String| CniError::new(Code::Ipam, format!("IPAM plugin {kind}: its result {cause}"));
    let result: Value = serde_json::from_slice(stdout).map_err(|e| bad(format!("is not JSON: {e}")))?;
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ips: Option<Vec<_>> = ips.iter().map(|ip| Some(ip["address"].as_str()?.to_owned())).collect();
    let ips = ips.filter(|ips| !ips.is_empty()).ok_or_else(|| bad("has no addresses".to_owned()))?;
    for route in result["routes"].as_array().map(Vec::as_slice).unwrap_or_default() {
        if !matches!(route["dst"].as_str(), Some("0.0.0.0/0" | "::/0")) {
            let msg =
                format!("IPAM plugin {kind}: `routes` has {route}: the switch makes default routes only");
            return Err(CniError::new(Code::UnsupportedField, msg)
                .details("remove it from `ipam`; the switch routes for the pod: swctl route add"));
        }
    }
    let dns = result.get("dns").filter(|d| d.as_object().is_some_and(|d| !d.is_empty())).cloned();
    Ok(Allocation { ips, dns })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> proto::Attachment {
        let ip = |address: &str, gateway: &str| proto::AttachmentIp {
            address: address.into(),
            gateway: gateway.into(),
        };
        proto::Attachment {
            mac: "02:00:00:00:00:01".into(),
            mtu: 1450,
            ips: vec![ip("10.1.1.2/24", "10.1.1.1"), ip("fd00:1::2/64", "fd00:1::1")],
            ..Default::default()
        }
    }

    fn result(version: SpecVersion, previous: Value, default_route: bool, dns: Option<Value>) -> Value {
        let attachment = attachment();
        let own =
            Own { attachment: &attachment, ifname: "eth0", sandbox: "/run/netns/a", default_route, dns };
        Previous::of(previous.as_object()).unwrap().with(version, own)
    }

    #[test]
    fn each_version() {
        for version in SpecVersion::ALL {
            let (interface, ips) = match version {
                SpecVersion::V0_3_0 | SpecVersion::V0_3_1 | SpecVersion::V0_4_0 => (
                    json!({ "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/a" }),
                    json!([
                        { "version": "4", "address": "10.1.1.2/24", "gateway": "10.1.1.1", "interface": 0 },
                        { "version": "6", "address": "fd00:1::2/64", "gateway": "fd00:1::1", "interface": 0 },
                    ]),
                ),
                SpecVersion::V1_0_0 => (
                    json!({ "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/a" }),
                    json!([
                        { "address": "10.1.1.2/24", "gateway": "10.1.1.1", "interface": 0 },
                        { "address": "fd00:1::2/64", "gateway": "fd00:1::1", "interface": 0 },
                    ]),
                ),
                SpecVersion::V1_1_0 => (
                    json!({ "name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1450, "sandbox": "/run/netns/a" }),
                    json!([
                        { "address": "10.1.1.2/24", "gateway": "10.1.1.1", "interface": 0 },
                        { "address": "fd00:1::2/64", "gateway": "fd00:1::1", "interface": 0 },
                    ]),
                ),
            };
            let expected = json!({
                "cniVersion": version.as_str(),
                "interfaces": [interface],
                "ips": ips,
                "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.1.1" }, { "dst": "::/0", "gw": "fd00:1::1" }],
            });
            assert_eq!(result(version, Value::Null, true, None), expected);
        }
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let out = result(SpecVersion::LATEST, Value::Null, false, None);
        assert!(out.get("routes").is_none() && out.get("dns").is_none());

        let mut attachment = attachment();
        attachment.ips.iter_mut().for_each(|ip| ip.gateway.clear());
        let own =
            Own { attachment: &attachment, ifname: "eth0", sandbox: "/a", default_route: true, dns: None };
        let out = Previous::default().with(SpecVersion::LATEST, own);
        assert_eq!(out["ips"][0], json!({ "address": "10.1.1.2/24", "interface": 0 }));
        assert!(out.get("routes").is_none());
    }

    /// A chain: everything of the earlier plugin survives, ours comes after it and points at our interface.
    #[test]
    fn appended_to_a_previous_result() {
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": "veth1", "mac": "02:00:00:00:00:0a", "custom": true },
                { "name": "net1", "mac": "02:00:00:00:00:0b", "sandbox": "/run/netns/a" },
            ],
            "ips": [{ "address": "192.0.2.2/24", "interface": 1, "other": [1] }],
            "routes": [{ "dst": "192.0.2.0/24" }],
            "dns": { "nameservers": ["192.0.2.1"] },
            "vendor": { "x": null },
        });
        let out = result(SpecVersion::V1_0_0, previous.clone(), true, None);
        for key in ["dns", "vendor"] {
            assert_eq!(out[key], previous[key]);
        }
        assert_eq!(out["interfaces"][0], previous["interfaces"][0]);
        assert_eq!(out["interfaces"][1], previous["interfaces"][1]);
        assert_eq!(out["interfaces"][2]["name"], "eth0");
        assert_eq!(out["ips"][0], previous["ips"][0]);
        assert_eq!((&out["ips"][1]["interface"], &out["ips"][2]["interface"]), (&json!(2), &json!(2)));
        assert_eq!(out["routes"][0], previous["routes"][0]);
        assert_eq!(out["routes"].as_array().unwrap().len(), 3);

        let own = json!({ "nameservers": ["10.1.1.1"] });
        assert_eq!(result(SpecVersion::V1_0_0, previous, true, Some(own.clone()))["dns"], own);
    }

    #[test]
    fn a_previous_result_that_is_none() {
        for (key, value) in [("interfaces", json!({})), ("ips", json!("x")), ("routes", json!(5))] {
            let previous = json!({ key: value });
            let e = Previous::of(previous.as_object()).unwrap_err();
            assert!(e.code == 7 && e.msg.contains(&format!("prevResult.{key}")), "{}", e.msg);
        }
        assert!(Previous::of(json!({ "ips": null }).as_object()).is_ok());
    }

    #[test]
    fn what_check_reads() {
        let of = |v: Value| Previous::of(v.as_object()).unwrap();
        let whole = result(SpecVersion::LATEST, json!({ "interfaces": [{ "name": "eth0" }] }), true, None);
        assert_eq!(of(whole.clone()).addresses_of("eth0").unwrap(), ["10.1.1.2/24", "fd00:1::2/64"]);
        assert_eq!(of(whole).addresses_of("eth1"), None);
        assert_eq!(of(json!({})).addresses_of("eth0"), None);
        let bare = json!({ "interfaces": [{ "name": "eth0", "sandbox": "/a" }], "ips": [{ "address": "10.0.0.1/8" }, 5] });
        assert_eq!(of(bare).addresses_of("eth0").unwrap(), [""; 0]);
    }

    #[test]
    fn answers_of_ipam_plugins() {
        let read = |v: Value| allocation("host-local", v.to_string().as_bytes());
        let whole = json!({
            "cniVersion": "0.3.1",
            "ips": [{ "version": "4", "address": "10.1.1.7/24", "gateway": "10.1.1.1" }, { "address": "fd00::7/64" }],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0", "gw": "fd00::1" }],
            "dns": { "nameservers": ["10.1.1.1"] },
        });
        let expected = Allocation {
            ips: vec!["10.1.1.7/24".into(), "fd00::7/64".into()],
            dns: Some(json!({ "nameservers": ["10.1.1.1"] })),
        };
        assert_eq!(read(whole).unwrap(), expected);
        assert_eq!(read(json!({ "ips": [{ "address": "10.0.0.1/8" }], "dns": {} })).unwrap().dns, None);

        for (bad, code) in [
            (json!({}), 103),
            (json!([]), 103),
            (json!({ "ips": [] }), 103),
            (json!({ "ips": [{}] }), 103),
            (json!({ "ips": [{ "address": "10.0.0.1/8" }], "routes": [{ "dst": "192.0.2.0/24" }] }), 2),
        ] {
            let e = read(bad.clone()).unwrap_err();
            assert_eq!(e.code, code, "{bad}");
            assert!(e.msg.contains("host-local"));
        }
        assert_eq!(allocation("x", b"oops").unwrap_err().code, 103);
    }
}
