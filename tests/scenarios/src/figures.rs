//! Medians and spreads.

/// A set of measurements.
#[derive(Debug, Default, Clone)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// One more value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The value at `part` of the way from least to largest, interpolated; NaN without values.
    pub fn quantile(&self, part: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else {
            return f64::NAN;
        };
        let place = part * last as f64;
        let below = place.floor() as usize;
        let above = (below + 1).min(last);
        self.0[below] + (self.0[above] - self.0[below]) * (place - below as f64)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// `median (first quartile - third quartile)`.
    pub fn text(&self, digits: usize) -> String {
        format!(
            "{:.digits$} ({:.digits$} - {:.digits$})",
            self.median(),
            self.quantile(0.25),
            self.quantile(0.75)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Sample;

    #[test]
    fn quantiles_interpolate() {
        let mut sample = Sample::default();
        assert!(sample.median().is_nan());
        for value in [4.0, 1.0, 3.0, 2.0] {
            sample.push(value);
        }
        assert_eq!(
            (sample.median(), sample.quantile(0.0), sample.quantile(1.0)),
            (2.5, 1.0, 4.0)
        );
        assert_eq!(sample.text(1), "2.5 (1.8 - 3.2)");
    }
}
