//! Reading what `iptables-legacy-save` says.

use super::{ChainId, Rule, Ruleset, Test, Verdict, state};

impl Ruleset {
    /// Reads the output of `iptables-legacy-save -t filter` (family `ip`), or of its twin for IPv6 (`ip6`).
    pub(in crate::node) fn of_iptables(text: &str, family: &str) -> Self {
        let id = |name: &str| ChainId { family: family.into(), table: "filter".into(), name: name.into() };
        let mut ruleset = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix(':') {
                let mut words = rest.split_whitespace();
                let (Some(name), Some(policy)) = (words.next(), words.next()) else { continue };
                let drops = (name == "FORWARD").then_some(policy == "DROP");
                ruleset.chains.entry(id(name)).or_default().drops = drops;
            } else if let Some(rest) = line.strip_prefix("-A ") {
                let words = words(rest);
                let Some((name, words)) = words.split_first() else { continue };
                ruleset.chains.entry(id(name)).or_default().rules.push(Rule::of_iptables(words));
            }
        }
        ruleset
    }
}

impl Rule {
    fn of_iptables(words: &[String]) -> Self {
        let mut rule = Self::default();
        let mut words = words.iter().map(String::as_str).peekable();
        let mut unless = false;
        while let Some(word) = words.next() {
            // What iptables writes as `eth+` is `eth*` here.
            let name = |name: &str| {
                vec![name.strip_suffix('+').map_or_else(|| name.to_owned(), |start| format!("{start}*"))]
            };
            let argument =
                |words: &mut dyn Iterator<Item = &str>| words.next().unwrap_or_default().to_owned();
            match word {
                "!" => {
                    unless = true;
                    continue;
                }
                "-i" => rule.tests.push(Test::Iif { names: name(&argument(&mut words)), unless }),
                "-o" => rule.tests.push(Test::Oif { names: name(&argument(&mut words)), unless }),
                "--ctstate" | "--state" => rule.tests.push(state(argument(&mut words).split(','), unless)),
                "-m" if words.next_if(|m| ["conntrack", "state", "comment"].contains(m)).is_some() => {}
                "--comment" => drop(argument(&mut words)),
                "-j" => {
                    let target = argument(&mut words);
                    rule.verdicts.extend(match target.as_str() {
                        "ACCEPT" => Some(Verdict::Accept),
                        "DROP" | "REJECT" => Some(Verdict::Drop),
                        "RETURN" => Some(Verdict::Return),
                        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" => None,
                        _ => Some(Verdict::Jump(target)),
                    });
                    // What follows belongs to the target.
                    return rule;
                }
                "-g" => {
                    rule.verdicts.push(Verdict::Goto(argument(&mut words)));
                    return rule;
                }
                _ => rule.tests.push(Test::Unknown),
            }
            unless = false;
        }
        rule
    }
}

/// The words of a line; quotation marks keep several together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut escaped) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
