use super::super::plan::Mapping;
use super::*;
use crate::io::NodeLink;

fn device(ifname: &str, addresses: &[&str]) -> Device {
    Device {
        port: ifname.into(),
        ifname: ifname.into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        link: NodeLink::default(),
        subnets: Vec::new(),
        masquerade: true,
        except: Vec::new(),
    }
}

fn plan() -> NodePlan {
    NodePlan { devices: vec![device("swd0", &["10.1.1.1/24"])], ..NodePlan::default() }
}

fn facts() -> Facts {
    Facts { nft: true, table: "swd".into(), uplink: Some("eth0".into()), ..Facts::default() }
}

fn found(plan: &NodePlan, ruleset: &str) -> Vec<Obstacle> {
    of(plan, &Facts { ruleset: Some(serde_json::from_str(ruleset).unwrap()), ..facts() })
}

#[test]
fn what_is_not_known_is_said() {
    let told = of(&plan(), &Facts { unlisted: true, ..facts() });
    assert_eq!(told.len(), 1);
    assert!(told[0].message.contains("not known") && told[0].hint.contains("nft list ruleset"), "{told:?}");
}

#[test]
fn a_clear_way() {
    assert_eq!(of(&plan(), &facts()), []);
    assert_eq!(found(&plan(), include_str!("captures/open.json")), [], "not even our own chain");
    assert_eq!(found(&plan(), include_str!("captures/byaddress.json")), [], "what may pass is no alarm");
    let all = Facts { nft: false, strict: vec!["eth0".into()], ..facts() };
    assert_eq!(of(&NodePlan::default(), &all), [], "without a device nothing is in its way");
}

#[test]
fn each_with_the_command_that_mends_it() {
    let hints = |plan: &NodePlan, ruleset: &str| -> Vec<String> {
        found(plan, ruleset).into_iter().map(|o| o.hint).collect()
    };
    let docker = found(&plan(), include_str!("captures/docker.json"));
    assert_eq!(
        docker[0].to_string(),
        "chain FORWARD of table ip filter drops what swd0 forwards, so pods do not reach the outside (iptables -I \
         DOCKER-USER -i swd0 -j ACCEPT && iptables -I DOCKER-USER -o swd0 -j ACCEPT)"
    );
    assert_eq!(
        hints(&plan(), include_str!("captures/strict.json")),
        [
            "nft insert rule inet filter forward iifname swd0 accept && nft insert rule inet filter forward oifname swd0 \
          accept"
        ]
    );
    assert_eq!(
        hints(&plan(), include_str!("captures/firewalld.json")),
        ["firewall-cmd --permanent --zone=trusted --add-interface=swd0 && firewall-cmd --reload"]
    );
    let six = NodePlan { devices: vec![device("swd0", &["fd00:1::1/64"])], ..plan() };
    assert_eq!(
        hints(&plan(), include_str!("captures/ufw.json")),
        [""; 0],
        "IPv4 may pass, and there is no IPv6"
    );
    assert_eq!(
        hints(&six, include_str!("captures/ufw.json")),
        ["ufw route allow in on swd0 && ufw route allow out on swd0"]
    );
    let legacy =
        of(&plan(), &Facts { legacy_v4: Some(include_str!("captures/legacy.txt").into()), ..facts() });
    assert_eq!(
        legacy[0].to_string(),
        "chain FORWARD of table ip filter of iptables-legacy drops what swd0 forwards, so pods do not reach the outside \
         (iptables-legacy -I DOCKER-USER -i swd0 -j ACCEPT && iptables-legacy -I DOCKER-USER -o swd0 -j ACCEPT)"
    );
}

#[test]
fn one_sentence_for_several_devices() {
    let two = NodePlan {
        devices: vec![device("swd0", &["10.1.1.1/24"]), device("swd1", &["10.2.1.1/24"])],
        ..plan()
    };
    let list = found(&two, include_str!("captures/strict.json"));
    assert_eq!(list.len(), 1);
    assert!(
        list[0].message.contains("what swd0, swd1 forwards") && list[0].hint.contains("swd1 accept"),
        "{list:?}"
    );
    // One that has rules of its own is not named.
    let two = NodePlan {
        devices: vec![device("swd0", &["10.1.1.1/24"]), device("pod1", &["10.2.1.1/24"])],
        ..plan()
    };
    let list = found(&two, include_str!("captures/lenient.json"));
    assert!(list[0].message.contains("what pod1 forwards"), "{list:?}");
}

#[test]
fn mappings_must_pass_as_well() {
    let mut plan = NodePlan { devices: vec![device("lan0", &["10.1.1.1/24"])], ..plan() };
    assert_eq!(found(&plan, include_str!("captures/strict.json")), [], "out and back pass");
    plan.mappings.push(Mapping {
        protocol: ctl::desired::Protocol::Tcp,
        at: None,
        host_port: 80,
        pod: "10.1.1.2".parse().unwrap(),
        container_port: 80,
    });
    assert_eq!(found(&plan, include_str!("captures/strict.json")).len(), 1);
}

#[test]
fn settings_and_tools() {
    let all = Facts {
        nft: false,
        unset: vec![("ipv4/ip_forward".into(), 1), ("ipv4/conf/swd0.5/route_localnet".into(), 1)],
        strict: vec!["eth0.100".into()],
        unforgotten: Some("`conntrack` is not installed".into()),
        ..facts()
    };
    let list: Vec<String> = of(&plan(), &all).iter().map(ToString::to_string).collect();
    assert_eq!(list.len(), 5, "{list:?}");
    for (text, part) in list.iter().zip([
        "(install the package nftables)",
        "net.ipv4.ip_forward is not 1 and cannot be set: the kernel forwards nothing between the pods and the outside (sysctl -w net.ipv4.ip_forward=1,",
        "net.ipv4.conf.swd0/5.route_localnet is not 1 and cannot be set: mappings do not serve 127.0.0.1 (",
        "(sysctl -w net.ipv4.conf.eth0/100.rp_filter=2)",
        "still go where they went before: `conntrack` is not installed (install the package conntrack;",
    ]) {
        assert!(text.contains(part), "no {part} in {text}");
    }
}
