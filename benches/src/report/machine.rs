//! The machine, in one line: figures without it mean nothing.

use std::fs::read_to_string;

/// CPUs, model, memory, kernel; what the machine does not tell is left out.
#[must_use]
pub fn describe() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&info, "model name").unwrap_or("CPU");
    let memory = read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: Option<u64> =
        field(&memory, "MemTotal").and_then(|text| text.split_whitespace().next()?.parse().ok());
    let memory = kib.map_or(String::new(), |kib| format!(", {:.0} GiB", kib as f64 / 1_048_576.0));
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpus} x {model}{memory}, Linux {}", kernel.trim())
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: Some CPU: fast\n";
        assert_eq!(field(text, "model name"), Some("Some CPU: fast"));
        assert_eq!(field(text, "model"), Some("1"));
        assert_eq!(field(text, "name"), None);
        assert!(describe().contains("Linux"));
    }
}
