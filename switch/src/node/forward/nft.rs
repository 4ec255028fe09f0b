//! Reading what `nft -j list ruleset` says.

use serde_json::Value;

use super::{ChainId, Rule, Ruleset, Test, Verdict, state};

impl Ruleset {
    /// Reads the output of `nft -j list ruleset`. What it does not understand counts as unknown.
    pub(in crate::node) fn of_nft(listing: &Value) -> Self {
        let mut ruleset = Self::default();
        let objects = listing.get("nftables").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let maps = Sets(objects);
        for object in objects {
            if let Some(chain) = object.get("chain") {
                let forward = chain.get("hook").and_then(Value::as_str) == Some("forward");
                let drops = chain.get("policy").and_then(Value::as_str) == Some("drop");
                let Some(id) = ChainId::of(chain, "name") else { continue };
                ruleset.chains.entry(id).or_default().drops = forward.then_some(drops);
            } else if let Some(rule) = object.get("rule") {
                let Some(id) = ChainId::of(rule, "chain") else { continue };
                let statements = rule.get("expr").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                let rule = Rule::of_nft(statements, &id, &maps);
                ruleset.chains.entry(id).or_default().rules.push(rule);
            }
        }
        ruleset
    }
}

impl ChainId {
    fn of(object: &Value, name: &str) -> Option<Self> {
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Self { family: text("family")?, table: text("table")?, name: text(name)? })
    }
}

impl Rule {
    fn of_nft(statements: &[Value], id: &ChainId, sets: &Sets<'_>) -> Self {
        let mut rule = Self::default();
        for statement in statements {
            let Some((kind, body)) = statement.as_object().and_then(|s| s.iter().next()) else { continue };
            match kind.as_str() {
                "match" => rule.tests.push(test(body, id, sets)),
                "vmap" => rule.verdicts.push(vmap(body, id, sets)),
                "xt" => match xt(body) {
                    Xt::Test => rule.tests.push(Test::Unknown),
                    Xt::Drop => rule.verdicts.push(Verdict::Drop),
                    Xt::Nothing => {}
                },
                // Such a rule may end here.
                "limit" | "quota" | "ct count" => rule.tests.push(Test::Unknown),
                _ => rule.verdicts.extend(verdict(kind, body)),
            }
        }
        rule
    }
}

/// The sets and maps of a listing, by name.
struct Sets<'a>(&'a [Value]);

impl<'a> Sets<'a> {
    /// The elements of an expression: one, several, an anonymous set or a named one.
    fn elements(&self, value: &'a Value, id: &ChainId) -> Option<Vec<&'a Value>> {
        if let Some(name) = value.as_str().and_then(|s| s.strip_prefix('@')) {
            let own = |o: &&Value| {
                ["family", "table"].iter().zip([&id.family, &id.table]).all(|(k, v)| o[*k] == **v)
                    && o["name"] == name
            };
            let set = self.0.iter().filter_map(|o| o.get("set").or_else(|| o.get("map"))).find(own)?;
            return Some(
                set.get("elem").and_then(Value::as_array).map_or_else(Vec::new, |e| e.iter().collect()),
            );
        }
        if let Some(set) = value.get("set") {
            return set.as_array().map(|items| items.iter().collect());
        }
        Some(value.as_array().map_or_else(|| vec![value], |items| items.iter().collect()))
    }

    fn texts(&self, value: &'a Value, id: &ChainId) -> Option<Vec<String>> {
        self.elements(value, id)?.into_iter().map(|e| e.as_str().map(str::to_owned)).collect()
    }
}

fn test<'a>(body: &'a Value, id: &ChainId, sets: &Sets<'a>) -> Test {
    let unless = match body["op"].as_str() {
        Some("==" | "in") => false,
        Some("!=") => true,
        _ => return Test::Unknown,
    };
    let (left, right) = (&body["left"], &body["right"]);
    let Some(texts) = sets.texts(right, id) else { return Test::Unknown };
    match (left["meta"]["key"].as_str(), left["ct"]["key"].as_str()) {
        (Some("iifname" | "iif"), _) => Test::Iif { names: texts, unless },
        (Some("oifname" | "oif"), _) => Test::Oif { names: texts, unless },
        (_, Some("state")) => state(texts.iter().map(String::as_str), unless),
        (_, Some("status")) if texts == ["dnat"] => Test::Dnat { unless },
        _ => Test::Unknown,
    }
}

fn vmap<'a>(body: &'a Value, id: &ChainId, sets: &Sets<'a>) -> Verdict {
    let Some(elements) = sets.elements(&body["data"], id) else { return Verdict::Unknown };
    let choice = |e: &Value| {
        let (kind, body) = e.get(1)?.as_object()?.iter().next()?;
        Some((e.get(0)?.as_str()?.to_owned(), verdict(kind, body)?))
    };
    let Some(choices) = elements.into_iter().map(choice).collect() else { return Verdict::Unknown };
    match (body["key"]["meta"]["key"].as_str(), body["key"]["ct"]["key"].as_str()) {
        (Some("iifname" | "iif"), _) => Verdict::ByIif(choices),
        (Some("oifname" | "oif"), _) => Verdict::ByOif(choices),
        (_, Some("state")) => Verdict::ByState(choices),
        _ => Verdict::Unknown,
    }
}

fn verdict(kind: &str, body: &Value) -> Option<Verdict> {
    let target = || body["target"].as_str().map(str::to_owned);
    Some(match kind {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "return" => Verdict::Return,
        "jump" => target().map_or(Verdict::Unknown, Verdict::Jump),
        "goto" => target().map_or(Verdict::Unknown, Verdict::Goto),
        // Counters, logs, marks.
        _ => return None,
    })
}

/// Parts of rules that iptables-nft leaves opaque.
enum Xt {
    Test,
    Drop,
    Nothing,
}

fn xt(body: &Value) -> Xt {
    match (body["type"].as_str(), body["name"].as_str()) {
        (Some("match"), Some("comment")) => Xt::Nothing,
        (Some("target"), Some("REJECT")) => Xt::Drop,
        (Some("target"), _) => Xt::Nothing,
        _ => Xt::Test,
    }
}
