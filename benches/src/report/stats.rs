//! The few statistics that are reported: median, percentile, spread.

/// The median and the extremes of a list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle value; the mean of the two in the middle of an even number.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of an unsorted list; `None` if it is empty.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let upper = sorted.len() / 2;
        let lower = (sorted.len() - 1) / 2;
        let median = (sorted.get(lower)? + sorted.get(upper)?) / 2.0;
        Some(Self { median, min, max })
    }
}

/// The smallest value that at least this share of the list does not exceed (nearest rank); `None` if the list is
/// empty. `share` is between 0 and 1.
#[must_use]
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    percentiles(values, [share]).map(|[value]| value)
}

/// Several percentiles of one list, which is sorted once.
#[must_use]
pub fn percentiles<const N: usize>(values: &[f64], shares: [f64; N]) -> Option<[f64; N]> {
    let sorted = sorted(values);
    let last = sorted.len().checked_sub(1)?;
    let rank = |share: f64| ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1).min(last);
    Some(shares.map(|share| sorted.get(rank(share)).copied().unwrap_or(f64::NAN)))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        let of = |list: &[f64]| Spread::of(list).map(|s| (s.min, s.median, s.max));
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some((1.0, 2.5, 4.0)));
        assert_eq!(of(&[7.0]), Some((7.0, 7.0, 7.0)));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn percentiles_are_values_of_the_list() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            percentiles(&hundred, [0.5, 0.99, 0.999, 1.0, 0.0]),
            Some([50.0, 99.0, 100.0, 100.0, 1.0])
        );
        assert_eq!(percentile(&[1.0, 2.0], 0.5), Some(1.0));
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 0.5), Some(2.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
