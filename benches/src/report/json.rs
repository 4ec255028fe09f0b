//! The whole run for other programs.

use serde_json::{Value, json};

use super::Run;

/// Keys are stable: `title`, `command`, `machine`, `figures` (`group`, `contender`, `work`, `metric`, `unit`,
/// `rounds`), `not_run` (`group`, `contender`, `work`, `cause`), `notes`.
#[must_use]
pub fn document(run: &Run) -> Value {
    let figures: Vec<Value> = run
        .figures
        .iter()
        .map(|f| {
            json!({
                "group": f.group, "contender": f.contender, "work": f.work, "metric": f.metric,
                "unit": f.unit, "rounds": f.values,
            })
        })
        .collect();
    let absent: Vec<Value> = run
        .absent
        .iter()
        .map(|a| json!({"group": a.group, "contender": a.contender, "work": a.work, "cause": a.cause}))
        .collect();
    json!({
        "title": run.title, "command": run.command, "machine": run.machine,
        "figures": figures, "not_run": absent, "notes": run.notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_parses_back_with_every_round() {
        let (run, _) = super::super::example();
        let text = serde_json::to_string_pretty(&document(&run)).unwrap();
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["figures"].as_array().unwrap().len(), 4);
        assert_eq!(back["figures"][0]["rounds"], json!([20.0, 21.0, 22.0]));
        assert_eq!(back["figures"][0]["contender"], "kernel \"bridge\"");
        assert_eq!(back["not_run"][0]["cause"], "not installed");
    }
}
