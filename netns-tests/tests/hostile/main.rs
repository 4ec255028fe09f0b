//! Everything that hostile pods and hostile nodes try: claims to be somebody else, floods of
//! addresses and frames, garbage, and a wire that damages what crosses it. What must not arrive is
//! proven absent by captures that end with a marker which must arrive; each drop is found under its
//! name at its port or peer; each test ends with a balanced ledger.

#[path = "../common/mod.rs"]
mod common;
mod copies;
mod guard;
mod learn;
mod noise;
mod offload;
mod support;
mod tunnel;

fn main() -> std::process::ExitCode {
    lab::harness::run(&[
        ("guard::spoofing", guard::spoofing),
        ("offload::checksum_requests", offload::checksum_requests),
        ("tunnel::unknown_peers", tunnel::unknown_peers),
        ("tunnel::bad_datagrams", tunnel::bad_datagrams),
        ("tunnel::peer_sources", tunnel::peer_sources),
        ("tunnel::garbage", tunnel::garbage),
        ("tunnel::flood_of_a_peer", tunnel::flood_of_a_peer),
        ("learn::learning_port_has_a_limit", learn::learning_port_has_a_limit),
        ("learn::flood_is_held_to_the_ports_share", learn::flood_is_held_to_the_ports_share),
        ("learn::flood_is_held_to_the_table", learn::flood_is_held_to_the_table),
        ("learn::addresses_move", learn::addresses_move),
        ("learn::known_addresses_are_not_asked_for", learn::known_addresses_are_not_asked_for),
        ("copies::over_vxlan", copies::over_vxlan),
        ("copies::over_geneve", copies::over_geneve),
        ("noise::fuzz_from_a_declared_port", noise::fuzz_from_a_declared_port),
        ("noise::fuzz_from_a_learning_port", noise::fuzz_from_a_learning_port),
        ("noise::errors_are_limited", noise::errors_are_limited),
        ("noise::a_bad_wire", noise::a_bad_wire),
        ("noise::a_bad_wire_without_checksums", noise::a_bad_wire_without_checksums),
    ])
}
