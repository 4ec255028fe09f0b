//! From configuration and arguments to what the daemon is asked for on ADD.
//!
//! Addresses may be asked for in three places at once (`CNI_ARGS`, `args.cni.ips`, `runtimeConfig.ips`) and are
//! taken from all of them. Of the MACs the one in `runtimeConfig` wins over `args.cni`, and that over
//! `CNI_ARGS`, as in the reference plugins. What the daemon checks (ranges, subnets, conflicts) is not checked
//! here a second time.

use std::net::IpAddr;

use ctl::desired::attachment::Protocol;
use ctl::desired::text::Text as _;
use ctl::proto;
use ipnet::IpNet;
use packet::MacAddr;
use serde_json::{Map, Value};

use crate::args;
use crate::config::{Config, Item};
use crate::env::Env;
use crate::error::{CniError, Code};

/// The request, without the addresses of an external IPAM plugin.
pub fn add(env: &Env, config: &Config) -> Result<proto::AddAttachmentRequest, CniError> {
    let root = config.root();
    let args = args::parse(&env.args)?;
    let requested = root.find(&["args", "cni"])?;
    let runtime = root.get("runtimeConfig")?;
    let from_runtime = |key: &str| runtime.as_ref().map_or(Ok(None), |r| r.get(key));

    let mut ips = Vec::new();
    for ip in args.ips {
        let ip = address(&ip)
            .map_err(|e| CniError::new(Code::InvalidEnvironment, format!("CNI_ARGS: IP: {e}")))?;
        add_once(&mut ips, ip);
    }
    let places = [requested.as_ref().map_or(Ok(None), |r| r.get("ips"))?, from_runtime("ips")?];
    for place in places.into_iter().flatten() {
        for item in place.items()? {
            add_once(&mut ips, address(item.text()?).map_err(|e| item.wrong(e))?);
        }
    }

    let mut mac = match args.mac {
        Some(text) => {
            mac(&text).map_err(|e| CniError::new(Code::InvalidEnvironment, format!("CNI_ARGS: MAC: {e}")))?
        }
        None => String::new(),
    };
    let places = [requested.as_ref().map_or(Ok(None), |r| r.get("mac"))?, from_runtime("mac")?];
    for item in places.into_iter().flatten() {
        if !item.text()?.is_empty() {
            mac = self::mac(item.text()?).map_err(|e| item.wrong(e))?;
        }
    }

    Ok(proto::AddAttachmentRequest {
        key: Some(key(env)),
        cni_network: config.name.clone(),
        network: config.network()?,
        netns: env.netns_path()?,
        mac,
        ips,
        delegated: false,
        // 0 is how runtimes write "the default", in the API as well.
        mtu: root.get("mtu")?.map_or(Ok(0), |item| item.up_to(u16::MAX.into()))?,
        metadata: args.metadata,
        bandwidth: from_runtime("bandwidth")?.as_ref().map(bandwidth).transpose()?.flatten(),
        mappings: from_runtime("portMappings")?.as_ref().map_or(Ok(Vec::new()), mappings)?,
        default_route: Some(root.get("defaultRoute")?.map_or(Ok(true), |item| item.boolean())?),
    })
}

/// By what the daemon knows the attachment. Never by anything found in a namespace.
pub fn key(env: &Env) -> proto::AttachmentKey {
    proto::AttachmentKey { container_id: env.container_id.clone(), ifname: env.ifname.clone() }
}

/// The same address may come from several places, here with prefix length and there without.
fn add_once(ips: &mut Vec<String>, ip: String) {
    let host = |text: &str| text.split('/').next().map(str::to_owned);
    if !ips.iter().any(|other| host(other) == host(&ip)) {
        ips.push(ip);
    }
}

/// With or without prefix length.
fn address(text: &str) -> Result<String, String> {
    if text.contains('/') { IpNet::parse_text(text).map(|n| n.to_string()) } else { plain(text) }
}

fn plain(text: &str) -> Result<String, String> {
    IpAddr::parse_text(text).map(|ip| ip.to_string())
}

fn mac(text: &str) -> Result<String, String> {
    MacAddr::parse_text(text).map(|m| m.to_string())
}

/// Bits per second and bits, as in the API. All zero means that nothing is limited.
fn bandwidth(item: &Item<'_>) -> Result<Option<proto::Bandwidth>, CniError> {
    let field = |key: &str| item.get(key)?.map_or(Ok(0), |i| i.number());
    let bandwidth = proto::Bandwidth {
        ingress_rate: field("ingressRate")?,
        ingress_burst: field("ingressBurst")?,
        egress_rate: field("egressRate")?,
        egress_burst: field("egressBurst")?,
    };
    Ok(Some(bandwidth).filter(|b| *b != proto::Bandwidth::default()))
}

fn mappings(item: &Item<'_>) -> Result<Vec<proto::PortMapping>, CniError> {
    let mut mappings = Vec::new();
    for item in item.items()? {
        let port = |key: &str| match item.get(key)? {
            Some(port) if port.value == 0 => Err(port.wrong("expected 1 to 65535")),
            Some(port) => port.up_to(u16::MAX.into()),
            None => Err(item.wrong(format!("`{key}` is missing"))),
        };
        let protocol = match item.get("protocol")? {
            Some(p) if !p.text()?.is_empty() => p.text()?.parse().map_err(|e| p.wrong(e))?,
            _ => Protocol::Tcp,
        };
        let host_ip = match item.get("hostIP")? {
            Some(ip) if !ip.text()?.is_empty() => plain(ip.text()?).map_err(|e| ip.wrong(e))?,
            _ => String::new(),
        };
        mappings.push(proto::PortMapping {
            host_port: port("hostPort")?,
            container_port: port("containerPort")?,
            protocol: match protocol {
                Protocol::Tcp => proto::TransportProtocol::Tcp,
                Protocol::Udp => proto::TransportProtocol::Udp,
                Protocol::Sctp => proto::TransportProtocol::Sctp,
            }
            .into(),
            host_ip,
        });
    }
    Ok(mappings)
}

/// DNS settings for the result: those of the runtime, else those of the configuration, else `None`. The switch
/// does not use them; the runtime writes the pod's `resolv.conf` from the result.
pub fn dns(config: &Config) -> Result<Option<Value>, CniError> {
    let root = config.root();
    if let Some(item) = root.find(&["runtimeConfig", "dns"])? {
        let mut dns = Map::new();
        for (from, to) in [("servers", "nameservers"), ("searches", "search"), ("options", "options")] {
            let texts = item.get(from)?.map_or(Ok(Vec::new()), |list| list.items())?;
            let texts = texts.iter().map(|t| t.text().map(Value::from)).collect::<Result<Vec<_>, _>>()?;
            if !texts.is_empty() {
                dns.insert(to.to_owned(), texts.into());
            }
        }
        if !dns.is_empty() {
            return Ok(Some(dns.into()));
        }
    }
    let Some(item) = root.get("dns")? else { return Ok(None) };
    let object = item.value.as_object().ok_or_else(|| item.wrong("expected an object"))?;
    Ok(Some(item.value.clone()).filter(|_| !object.is_empty()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn env(args: &str) -> Env {
        Env::read(|name| match name {
            "CNI_COMMAND" => Some("ADD".into()),
            "CNI_CONTAINERID" => Some("c1".into()),
            "CNI_NETNS" => Some("/run/netns/a".into()),
            "CNI_IFNAME" => Some("eth0".into()),
            "CNI_ARGS" => Some(args.into()),
            _ => None,
        })
        .unwrap()
        .unwrap()
    }

    fn config(keys: Value) -> Config {
        let mut document = json!({ "cniVersion": "1.1.0", "name": "pods", "type": "swd-cni" });
        document.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        Config::parse(document.to_string().into_bytes()).unwrap()
    }

    #[test]
    fn nothing_asked_for() {
        let request = add(&env(""), &config(json!({ "mtu": 0, "unknown": [1] }))).unwrap();
        assert_eq!(
            request,
            proto::AddAttachmentRequest {
                key: Some(proto::AttachmentKey { container_id: "c1".into(), ifname: "eth0".into() }),
                cni_network: "pods".into(),
                netns: "/run/netns/a".into(),
                default_route: Some(true),
                ..Default::default()
            }
        );
    }

    #[test]
    fn everything_asked_for() {
        let config = config(json!({
            "network": "blue",
            "mtu": 1400,
            "defaultRoute": false,
            "args": { "cni": { "ips": ["10.1.1.6"], "mac": "02:00:00:00:00:02" } },
            "runtimeConfig": {
                "ips": ["fd00:0:0::7/64", "10.1.1.5/24"],
                "mac": "02:00:00:00:00:0C",
                "bandwidth": { "ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000, "egressBurst": 4294967295_u64 },
                "portMappings": [
                    { "hostPort": 8080, "containerPort": 80 },
                    { "hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1" },
                    { "hostPort": 9, "containerPort": 9, "protocol": "sctp", "hostIP": "" },
                ],
            },
        }));
        let request = add(&env("IP=10.1.1.5;MAC=02:00:00:00:00:01;K8S_POD_NAME=web-0"), &config).unwrap();
        assert_eq!(request.ips, ["10.1.1.5", "10.1.1.6", "fd00::7/64"]);
        assert_eq!(
            (request.mac.as_str(), request.mtu, request.network.as_str()),
            ("02:00:00:00:00:0c", 1400, "blue")
        );
        assert_eq!(request.default_route, Some(false));
        assert_eq!(request.metadata["k8s/pod"], "web-0");
        let limits = request.bandwidth.unwrap();
        assert_eq!((limits.ingress_rate, limits.ingress_burst), (1000, 2000));
        assert_eq!((limits.egress_rate, limits.egress_burst), (3000, 4_294_967_295));
        let shown: Vec<_> = request
            .mappings
            .iter()
            .map(|m| (m.host_port, m.container_port, m.protocol, m.host_ip.as_str()))
            .collect();
        assert_eq!(shown, [(8080, 80, 1, ""), (53, 5353, 2, "192.0.2.1"), (9, 9, 3, "")]);
    }

    #[test]
    fn the_mac_of_the_runtime_wins() {
        let args = "MAC=02:00:00:00:00:01";
        let mac = |keys| add(&env(args), &config(keys)).unwrap().mac;
        assert_eq!(mac(json!({})), "02:00:00:00:00:01");
        assert_eq!(mac(json!({ "args": { "cni": { "mac": "02:00:00:00:00:02" } } })), "02:00:00:00:00:02");
        assert_eq!(mac(json!({ "runtimeConfig": { "mac": "" } })), "02:00:00:00:00:01");
    }

    /// Every known key with a bad value: code 7, key and value in the message.
    #[test]
    fn bad_values() {
        let runtime = |key: &str, value: Value| json!({ "runtimeConfig": { key: value } });
        for (keys, key, value) in [
            (json!({ "mtu": "big" }), "`mtu`", "\"big\""),
            (json!({ "mtu": -1 }), "`mtu`", "-1"),
            (json!({ "mtu": 70_000 }), "`mtu`", "70000"),
            (json!({ "mtu": 1500.5 }), "`mtu`", "1500.5"),
            (json!({ "defaultRoute": "yes" }), "`defaultRoute`", "\"yes\""),
            (json!({ "network": 5 }), "`network`", "5"),
            (json!({ "args": 5 }), "`args`", "5"),
            (json!({ "args": { "cni": { "ips": "10.0.0.1" } } }), "`args.cni.ips`", "\"10.0.0.1\""),
            (json!({ "args": { "cni": { "ips": [5] } } }), "`args.cni.ips[0]`", "5"),
            (json!({ "runtimeConfig": [] }), "`runtimeConfig`", "[]"),
            (runtime("ips", json!(["10.0.0.1", "x"])), "`runtimeConfig.ips[1]`", "\"x\""),
            (runtime("mac", json!("x")), "`runtimeConfig.mac`", "\"x\""),
            (runtime("bandwidth", json!(5)), "`runtimeConfig.bandwidth`", "5"),
            (runtime("bandwidth", json!({ "egressRate": -5 })), "`runtimeConfig.bandwidth.egressRate`", "-5"),
            (runtime("portMappings", json!({})), "`runtimeConfig.portMappings`", "{}"),
            (
                runtime("portMappings", json!([{ "hostPort": 0, "containerPort": 1 }])),
                "`runtimeConfig.portMappings[0].hostPort`",
                "0",
            ),
            (
                runtime("portMappings", json!([{ "hostPort": 1 }])),
                "`runtimeConfig.portMappings[0]`",
                "containerPort",
            ),
            (
                runtime("portMappings", json!([{ "hostPort": 1, "containerPort": 65_536 }])),
                "`runtimeConfig.portMappings[0].containerPort`",
                "65536",
            ),
            (
                runtime("portMappings", json!([{ "hostPort": 1, "containerPort": 1, "protocol": "icmp" }])),
                "`runtimeConfig.portMappings[0].protocol`",
                "icmp",
            ),
            (
                runtime("portMappings", json!([{ "hostPort": 1, "containerPort": 1, "hostIP": "here" }])),
                "`runtimeConfig.portMappings[0].hostIP`",
                "here",
            ),
        ] {
            let e = add(&env(""), &config(keys.clone())).unwrap_err();
            assert_eq!(e.code, 7, "{keys}");
            assert!(e.msg.contains(key) && e.msg.contains(value), "{keys}: {}", e.msg);
        }
        for args in ["IP=x", "IP=10.0.0.1/40", "MAC=x"] {
            let e = add(&env(args), &config(json!({}))).unwrap_err();
            assert!(e.code == 4 && e.msg.contains("CNI_ARGS"), "{args}: {}", e.msg);
        }
    }

    #[test]
    fn no_limits_are_no_bandwidth() {
        let limits = |keys| add(&env(""), &config(keys)).unwrap().bandwidth;
        assert_eq!(limits(json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 0 } } })), None);
        assert_eq!(limits(json!({ "runtimeConfig": { "bandwidth": null } })), None);
    }

    #[test]
    fn dns_settings() {
        let own = json!({ "nameservers": ["10.1.1.1"], "domain": "here", "custom": 1 });
        let runtime = json!({ "servers": ["10.9.9.9"], "searches": ["svc"], "options": ["ndots:5"] });
        let dns = |keys| super::dns(&config(keys)).unwrap();
        assert_eq!(dns(json!({})), None);
        assert_eq!(dns(json!({ "dns": {} })), None);
        assert_eq!(dns(json!({ "dns": own })), Some(own.clone()));
        assert_eq!(
            dns(json!({ "dns": own, "runtimeConfig": { "dns": runtime } })),
            Some(json!({ "nameservers": ["10.9.9.9"], "search": ["svc"], "options": ["ndots:5"] }))
        );
        assert_eq!(
            dns(json!({ "dns": own, "runtimeConfig": { "dns": { "servers": [] } } })),
            Some(own.clone())
        );
        for bad in [json!({ "dns": [] }), json!({ "runtimeConfig": { "dns": { "servers": [5] } } })] {
            assert_eq!(super::dns(&config(bad)).unwrap_err().code, 7);
        }
    }
}
