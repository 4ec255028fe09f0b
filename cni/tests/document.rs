//! The conformance table of the documentation names tests that exist, and leaves no cell empty.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use std::path::Path;

#[test]
fn every_obligation_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = std::fs::read_to_string(root.join("docs/cni.md")).unwrap();
    let (_, table) = document.split_once("\n## Conformance\n").unwrap();
    let rows: Vec<_> = table.lines().filter(|l| l.starts_with('|')).skip(2).collect();
    assert!(rows.len() > 30, "the table was not found");
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 4 && cells.iter().all(|c| !c.is_empty()), "{row}");
        for name in cells[3].split(", ") {
            let name =
                name.strip_prefix('`').and_then(|n| n.strip_suffix('`')).unwrap_or_else(|| panic!("{row}"));
            let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("{row}"));
            let path =
                if file.contains('/') { root.join(file) } else { root.join(format!("cni/tests/{file}.rs")) };
            let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            // A suite with a runner of its own registers its tests by name.
            let exists = source.contains(&format!("fn {test}(")) || source.contains(&format!("\"{test}\""));
            assert!(exists, "{name} does not exist");
        }
    }
}
