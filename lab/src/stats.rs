//! One figure, measured several times.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The median of several measurements, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// As many measurements lie above as below.
    pub median: f64,
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
    /// How many there are.
    pub runs: usize,
}

impl Spread {
    /// Of these measurements; `None` if there are none, or one of them is no number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        if values.iter().any(|value| value.is_nan()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let (below, above) = (values.get((values.len() - 1) / 2)?, values.get(values.len() / 2)?);
        Some(Self { median: f64::midpoint(*below, *above), low, high, runs: values.len() })
    }
}

impl fmt::Display for Spread {
    /// `123 (101–140)`: the median, the least and the most, with three significant digits; of a single measurement,
    /// that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.runs {
            1 => digits(self.median),
            _ => format!("{} ({}–{})", digits(self.median), digits(self.low), digits(self.high)),
        };
        f.pad(&text)
    }
}

/// A number with three significant digits, and with commas between thousands.
pub fn digits(number: f64) -> String {
    let size = number.abs();
    if size >= 1000.0 {
        let whole = format!("{size:.0}");
        let mut text = String::new();
        for (nth, digit) in whole.chars().enumerate() {
            if nth > 0 && (whole.len() - nth) % 3 == 0 {
                text.push(',');
            }
            text.push(digit);
        }
        return if number < 0.0 { format!("-{text}") } else { text };
    }
    match size {
        0.0 => "0".to_owned(),
        _ if size >= 100.0 => format!("{number:.0}"),
        _ if size >= 10.0 => format!("{number:.1}"),
        _ if size >= 1.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle_whatever_the_order() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, low: 1.0, high: 3.0, runs: 3 }));
        assert_eq!(Spread::of([4.0, 1.0]).map(|it| it.median), Some(2.5));
    }

    #[test]
    fn of_nothing_there_is_no_median() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), None);
    }

    #[test]
    fn figures_are_written_with_three_digits_and_their_range() {
        let text = |values: &[f64]| Spread::of(values.iter().copied()).map(|it| it.to_string());
        assert_eq!(text(&[12_345.0, 11_000.0, 13_000.0]).as_deref(), Some("12,345 (11,000–13,000)"));
        assert_eq!(text(&[0.25]).as_deref(), Some("0.250"));
        assert_eq!(digits(1_234_567.0), "1,234,567");
        assert_eq!(digits(-1500.0), "-1,500");
    }
}
