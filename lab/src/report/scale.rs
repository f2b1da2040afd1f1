//! Where a value lies along an axis, and at which values there are marks. Pure.

use crate::findings::{Axis, Scale};

/// Values along a stretch of pixels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Along {
    scale: Scale,
    low: f64,
    high: f64,
    /// The pixel of `low`, and that of `high`, which may be the smaller one: on a screen up is less.
    pixels: (i32, i32),
}

/// Whether an axis begins at zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Lengths are compared: anything else would exaggerate.
    Zero,
    /// Places are.
    Least,
}

impl Along {
    /// Room for all of these values. On a logarithmic axis what is not above zero lies at its lower end.
    pub(super) fn of(axis: &Axis, from: From, values: impl Iterator<Item = f64>, pixels: (i32, i32)) -> Self {
        let usable = |value: &f64| value.is_finite() && (axis.scale == Scale::Linear || *value > 0.0);
        let (mut low, mut high) = values
            .filter(usable)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        match axis.scale {
            Scale::Log => {
                (low, high) = (nice_below(low), nice_above(high));
                if low >= high {
                    high = low * 10.0;
                }
            }
            Scale::Linear => {
                if from == From::Zero {
                    (low, high) = (low.min(0.0), high.max(0.0));
                }
                if low >= high {
                    (low, high) = if low == 0.0 {
                        (0.0, 1.0)
                    } else {
                        (low - low.abs() / 2.0, high + high.abs() / 2.0)
                    };
                }
                if from == From::Zero {
                    // As far as the next mark, so that nothing touches the edge.
                    let step = step(high - low, 5);
                    (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
                }
            }
        }
        Self { scale: axis.scale, low, high, pixels }
    }

    /// The pixel of a value; of one beyond the ends, that of the end.
    pub(super) fn at(&self, value: f64) -> i32 {
        let value = if value.is_nan() { self.low } else { value.clamp(self.low, self.high) };
        let part = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        let (from, to) = (f64::from(self.pixels.0), f64::from(self.pixels.1));
        #[expect(clippy::cast_possible_truncation, reason = "it lies between two pixels")]
        let pixel = (from + part * (to - from)).round() as i32;
        pixel
    }

    /// Values to put marks at, `most` or hardly more of them.
    pub(super) fn marks(&self, most: usize) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.high - self.low, most);
                let first = (self.low / step).ceil();
                let marks = (0..=2 * most).map(|nth| (first + nth as f64) * step);
                marks.take_while(|mark| *mark <= self.high + step * 1e-9).collect()
            }
            Scale::Log => {
                let decades = (self.high / self.low).log10();
                let per_decade: &[f64] = match decades {
                    _ if decades * 3.0 <= most as f64 => &[1.0, 2.0, 5.0],
                    _ => &[1.0],
                };
                let every = (decades / most as f64).ceil().max(1.0);
                let mut marks = Vec::new();
                let mut decade = self.low.log10().floor();
                while 10_f64.powf(decade) <= self.high * 1.000_001 {
                    marks.extend(per_decade.iter().map(|it| it * 10_f64.powf(decade)));
                    decade += every;
                }
                let (low, high) = (self.low * 0.999_999, self.high * 1.000_001);
                marks.retain(|mark| (low..=high).contains(mark));
                marks
            }
        }
    }
}

/// The distance between marks: 1, 2 or 5 times a power of ten.
fn step(span: f64, most: usize) -> f64 {
    nice_above(span / most.max(1) as f64)
}

fn nice_above(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0].iter().map(|it| it * decade);
    steps.into_iter().find(|it| *it >= value * 0.999_999).unwrap_or(decade * 10.0)
}

fn nice_below(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let steps = [5.0, 2.0, 1.0].iter().map(|it| it * decade);
    steps.into_iter().find(|it| *it <= value * 1.000_001).unwrap_or(decade)
}

/// What stands at a mark: as short as it can be.
pub(super) fn mark_text(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        return crate::stats::digits(value);
    }
    if size != 0.0 && size < 1e-4 {
        return format!("{value:.0e}");
    }
    let text = format!("{value:.5}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Moves labels apart that would overlap, as little as it takes, in their order, between the ends.
pub(super) fn apart(wanted: &[i32], gap: i32, ends: (i32, i32)) -> Vec<i32> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&nth| wanted.get(nth).copied());
    let mut placed = wanted.to_vec();
    let mut free = ends.0;
    for &nth in &order {
        if let Some(place) = placed.get_mut(nth) {
            *place = (*place).max(free);
            free = *place + gap;
        }
    }
    let mut free = ends.1;
    for &nth in order.iter().rev() {
        if let Some(place) = placed.get_mut(nth) {
            *place = (*place).min(free);
            free = *place - gap;
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_compared_by_length_begins_at_zero() {
        let along = Along::of(&Axis::linear("s"), From::Zero, [90.0, 97.0].into_iter(), (0, 100));
        assert_eq!((along.at(0.0), along.at(100.0)), (0, 100));
        assert_eq!(along.marks(5), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
    }

    #[test]
    fn equal_factors_are_equal_steps_where_the_axis_says_so() {
        let along = Along::of(&Axis::log("ms"), From::Zero, [0.0, 1.0, 100.0].into_iter(), (0, 100));
        assert_eq!([1.0, 10.0, 100.0].map(|value| along.at(value)), [0, 50, 100]);
        assert_eq!(along.at(0.0), 0, "nothing lies at the lower end");
        assert_eq!(along.marks(6).len(), 7, "one, two and five of two decades");
    }

    #[test]
    fn marks_are_short() {
        let texts = [0.0, 0.5, 2.0, 12.5, 1000.0, 2_000_000.0, 0.1 + 0.2].map(mark_text);
        assert_eq!(texts, ["0", "0.5", "2", "12.5", "1,000", "2,000,000", "0.3"]);
    }

    #[test]
    fn labels_are_moved_apart_and_keep_their_order() {
        assert_eq!(apart(&[50, 52, 10], 14, (0, 100)), [50, 64, 10]);
        assert_eq!(apart(&[100, 100], 14, (0, 100)), [86, 100]);
    }

    proptest! {
        #[test]
        fn every_value_lies_on_the_axis_and_so_does_every_mark(
            values in prop::collection::vec(-1e9_f64..1e9, 0..20),
            log in any::<bool>(),
            zero in any::<bool>(),
        ) {
            let axis = if log { Axis::log("x") } else { Axis::linear("x") };
            let from = if zero { From::Zero } else { From::Least };
            let along = Along::of(&axis, from, values.iter().copied(), (10, 500));
            let marks = along.marks(6);
            prop_assert!(marks.len() <= 20, "{marks:?}");
            for value in values.iter().chain(&marks) {
                prop_assert!((10..=500).contains(&along.at(*value)), "{value} in {along:?}");
            }
            prop_assert!(marks.is_sorted());
        }
    }
}
