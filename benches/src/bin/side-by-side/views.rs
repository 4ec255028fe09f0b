//! Which figures are shown together.

use benches::report::{Run, View};

use crate::work::{Kind, SIZES, Work, all, datagrams, metric};

/// The tables and charts of these kinds of work.
pub fn views(kinds: &[Kind]) -> Vec<View> {
    let mut list = Vec::new();
    if kinds.contains(&Kind::Tcp) {
        let works = all(Kind::Tcp);
        list.push(view("tcp", "TCP, Gbit/s", &works, &[metric::THROUGHPUT], Some(metric::THROUGHPUT)));
        let cpu = [metric::SWITCH_CPU, metric::MACHINE_CPU];
        list.push(view(
            "tcp-cpu",
            "TCP, CPU seconds per GB: processes of the switch / whole machine with iperf3",
            &works,
            &cpu,
            None,
        ));
    }
    for size in SIZES.into_iter().filter(|_| kinds.contains(&Kind::Datagrams)) {
        let works = datagrams(size);
        let name = format!("datagrams-{size}");
        let title = format!("Datagrams of {size} B, thousands received per second");
        list.push(view(&name, &title, &works, &[metric::RECEIVED], Some(metric::RECEIVED)));
        list.push(view(
            &format!("{name}-more"),
            &format!(
                "Datagrams of {size} B: thousands sent per second / % lost / CPU seconds per million received, \
                 processes of the switch / the same, whole machine with generators"
            ),
            &works,
            &[metric::SENT, metric::LOST, metric::SWITCH_CPU, metric::MACHINE_CPU],
            None,
        ));
    }
    if kinds.contains(&Kind::Latency) {
        let works = all(Kind::Latency);
        let title = "Request and response of 64 B, microseconds, p50 / p99 / p99.9; load: share of the \
                     contender's own capacity in datagrams (64 B, 64 flows in bursts)";
        list.push(view("latency", title, &works, &[metric::P50, metric::P99, metric::P999], None));
        for (name, metric) in [("latency-p50", metric::P50), ("latency-p99", metric::P99)] {
            let title = format!("Request and response of 64 B, {metric} in microseconds");
            list.push(view(name, &title, &works, &[metric], Some(metric)));
        }
    }
    list
}

fn view(name: &str, title: &str, works: &[Work], metrics: &[&str], chart: Option<&str>) -> View {
    View {
        name: name.to_owned(),
        title: title.to_owned(),
        works: works.iter().map(|w| (w.name(), w.short())).collect(),
        metrics: metrics.iter().map(|&m| m.to_owned()).collect(),
        chart: chart.map(str::to_owned),
    }
}

/// What the tables do not show because it should be nothing: who reordered, doubled or spoiled datagrams, lost
/// them at the receiver's own socket, or left requests unanswered.
pub fn irregularities(run: &Run) -> Vec<String> {
    const WATCHED: [&str; 5] = [
        metric::REORDERED,
        metric::DUPLICATED,
        metric::CORRUPTED,
        metric::LOST_AT_SOCKET,
        metric::UNANSWERED,
    ];
    let mut notes = Vec::new();
    for metric in WATCHED {
        let mut who: Vec<(String, f64)> = Vec::new();
        for figure in run.figures.iter().filter(|f| f.metric == metric) {
            let name = format!("{} ({})", figure.contender, figure.group);
            let count: f64 = figure.values.iter().sum();
            match who.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => who.push((name, count)),
            }
        }
        if who.is_empty() {
            continue;
        }
        let some: Vec<String> =
            who.iter().filter(|(_, sum)| *sum > 0.0).map(|(name, sum)| format!("{name} {sum}")).collect();
        let some = if some.is_empty() { "none".to_owned() } else { some.join(", ") };
        let mut name = metric.to_owned();
        name.get_mut(..1).into_iter().for_each(str::make_ascii_uppercase);
        notes.push(format!("{name}, over all rounds and work: {some}."));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use benches::report::Figure;

    #[test]
    fn views_cover_all_work_and_have_names_of_their_own() {
        let kinds = [Kind::Tcp, Kind::Datagrams, Kind::Latency];
        let views = views(&kinds);
        for work in kinds.into_iter().flat_map(all) {
            assert!(views.iter().any(|v| v.works.iter().any(|(name, _)| *name == work.name())), "{work:?}");
        }
        let mut names: Vec<&String> = views.iter().map(|v| &v.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), views.len());
    }

    #[test]
    fn irregularities_are_summed_and_their_absence_is_said() {
        let mut run = Run::default();
        for (work, metric, value) in
            [("a", metric::REORDERED, 2.0), ("b", metric::REORDERED, 3.0), ("a", metric::CORRUPTED, 0.0)]
        {
            run.add(Figure {
                group: "one node".into(),
                contender: "swd".into(),
                work: work.into(),
                metric: metric.into(),
                unit: "datagrams".into(),
                values: vec![value],
            });
        }
        assert_eq!(
            irregularities(&run),
            [
                "Reordered, over all rounds and work: swd (one node) 5.",
                "Corrupted, over all rounds and work: none."
            ]
        );
    }
}
