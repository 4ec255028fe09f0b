//! Rulesets as `nft -j list ruleset` and `iptables-legacy-save` printed them, in a namespace that had been given what
//! Docker, firewalld, ufw and people write.

use super::*;

fn nft(text: &str) -> Ruleset {
    Ruleset::of_nft(&serde_json::from_str(text).unwrap())
}

const OUT: Packet<'_> = Packet { iif: "swd0", oif: "eth0", established: false, dnat: false };
const BACK: Packet<'_> = Packet { iif: "eth0", oif: "swd0", established: true, dnat: false };
const MAPPED: Packet<'_> = Packet { iif: "eth0", oif: "swd0", established: false, dnat: true };

/// The fates of the three packets in the only base chain.
fn fates(ruleset: &Ruleset) -> [Fate; 3] {
    let chains = ruleset.base_chains();
    assert_eq!(chains.len(), 1, "{chains:?}");
    [OUT, BACK, MAPPED].map(|p| ruleset.fate(chains[0], &p))
}

use Fate::{Accepted, Dropped, Unsure};

#[test]
fn docker_by_iptables_nft() {
    let docker = nft(include_str!("captures/docker.json"));
    assert_eq!(fates(&docker), [Dropped; 3], "its one rule of states is for docker0");
    let id = docker.base_chains()[0];
    assert_eq!((id.family.as_str(), id.table.as_str(), id.name.as_str()), ("ip", "filter", "FORWARD"));
    assert!(docker.has(id, "DOCKER-USER") && !docker.has(id, "DOCKER-GUEST"));
    let own = Packet { iif: "docker0", oif: "eth0", established: false, dnat: false };
    assert_eq!(docker.fate(id, &own), Accepted);
    assert_eq!(docker.fate(id, &Packet { iif: "br-1", ..OUT }), Dropped, "an opaque REJECT, of br*");
}

#[test]
fn a_firewall_of_nftables() {
    let strict = nft(include_str!("captures/strict.json"));
    assert_eq!(fates(&strict), [Dropped, Accepted, Dropped], "answers pass, nothing else");
    let id = strict.base_chains()[0];
    let lan = |iif: &'static str, oif: &'static str| Packet { iif, oif, established: false, dnat: false };
    assert_eq!(strict.fate(id, &lan("lan1", "eth0")), Accepted, "a named set");
    assert_eq!(strict.fate(id, &lan("vpn1", "eth0")), Unsure, "it depends on the address");
}

#[test]
fn rules_made_for_us_are_understood() {
    let lenient = nft(include_str!("captures/lenient.json"));
    assert_eq!(fates(&lenient), [Unsure, Accepted, Accepted], "what pods send to 10/8 is dropped");
    let id = lenient.base_chains()[0];
    assert_eq!(lenient.fate(id, &Packet { iif: "eth1", ..OUT }), Dropped);
    assert_eq!(fates(&nft(include_str!("captures/byaddress.json"))), [Unsure, Accepted, Unsure]);
}

#[test]
fn firewalld_rejects_by_a_rule_not_by_policy() {
    let firewalld = nft(include_str!("captures/firewalld.json"));
    assert_eq!(fates(&firewalld), [Dropped, Accepted, Accepted]);
    let id = firewalld.base_chains()[0];
    let docker = Packet { iif: "docker0", ..OUT };
    // An earlier rule drops some IPv6 addresses.
    assert_eq!(firewalld.fate(id, &docker), Unsure);
}

#[test]
fn two_families() {
    let ufw = nft(include_str!("captures/ufw.json"));
    let chains = ufw.base_chains();
    assert_eq!(chains.iter().map(|c| c.family.as_str()).collect::<Vec<_>>(), ["ip", "ip6"]);
    // What iptables-nft asks of conntrack is opaque.
    assert_eq!([OUT, BACK].map(|p| ufw.fate(chains[0], &p)), [Unsure, Unsure]);
    assert_eq!(ufw.fate(chains[1], &OUT), Dropped);
}

#[test]
fn iptables_legacy() {
    let legacy = Ruleset::of_iptables(include_str!("captures/legacy.txt"), "ip");
    assert_eq!(fates(&legacy), [Dropped; 3]);
    let id = legacy.base_chains()[0];
    let with =
        |iif: &'static str, oif: &'static str, established| Packet { iif, oif, established, dnat: false };
    assert_eq!(legacy.fate(id, &with("docker0", "eth0", false)), Accepted);
    assert_eq!(legacy.fate(id, &with("docker0", "docker0", false)), Dropped);
    assert_eq!(legacy.fate(id, &with("eth0", "docker0", true)), Accepted);
    let text = "*filter\n:FORWARD DROP [0:0]\n:X - [0:0]\n-A FORWARD ! -i eth+ -g X\n-A FORWARD -j ACCEPT\n-A X -s \
                10.0.0.0/8 -j ACCEPT\nCOMMIT\n";
    let other = Ruleset::of_iptables(text, "ip");
    assert_eq!(fates(&other), [Unsure, Accepted, Accepted]);
}

#[test]
fn nonsense_is_no_panic_and_no_alarm() {
    for text in [
        "null",
        "{}",
        r#"{"nftables": 7}"#,
        r#"{"nftables": [7, {"chain": 7}, {"rule": {"expr": "x"}}]}"#,
        r#"{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "c", "hook": "forward"}},
            {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [7, {}, {"match": 7}, {"vmap": {}},
            {"jump": {}}, {"xt": null}, {"drop": null}]}}]}"#,
    ] {
        let ruleset = nft(text);
        for id in ruleset.base_chains() {
            assert_eq!(ruleset.fate(id, &OUT), Unsure, "{text}");
        }
    }
    // A listing that was tampered with may call itself.
    let circle = r#"{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "c", "hook": "forward"}},
        {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [{"jump": {"target": "c"}}]}}]}"#;
    let circle = nft(circle);
    assert_eq!(circle.fate(circle.base_chains()[0], &OUT), Unsure);
    assert!(Ruleset::of_iptables("-A\n-A X\n:\n-A X -j\n-A X \"", "ip").base_chains().is_empty());
}
