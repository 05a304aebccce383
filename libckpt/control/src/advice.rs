//! Which interval between checkpoints costs least.
//!
//! A checkpoint costs the time δ the program is held up by it; a failure costs half an interval of
//! lost work on average, and the time R until the job computes again. With a mean time M between
//! failures the optimum is
//!
//! * J. W. Young, "A first order approximation to the optimum checkpoint interval", Communications of
//!   the ACM 17 (9), 1974, p. 530: τ = √(2 δ M);
//! * J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps",
//!   Future Generation Computer Systems 22 (3), 2006, pp. 303-312, equation 37:
//!   τ = √(2 δ M) · (1 + ⅓ √(δ / 2M) + ⅑ · δ / 2M) − δ for δ < 2M, else τ = M.
//!
//! Here each level is taken by itself: M is the mean time between the failures this level is for (the
//! cheapest that serves them), δ the mean time a checkpoint of this level held the program up. What
//! copying in the background takes from the program is not in δ, so that the advice is rather too
//! short than too long.

/// Young's interval in seconds; `cost` (δ) and `mtbf` (M) in seconds.
pub fn young(cost: f64, mtbf: f64) -> f64 {
    (2.0 * cost * mtbf).sqrt()
}

/// Daly's interval in seconds.
pub fn daly(cost: f64, mtbf: f64) -> f64 {
    if cost >= 2.0 * mtbf {
        return mtbf;
    }
    let ratio = cost / (2.0 * mtbf);
    young(cost, mtbf) * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - cost
}

/// The part of its time a job loses with this interval: checkpoints, lost work, restarts (first
/// order, as in Young's paper). At most 1.
pub fn loss(interval: f64, cost: f64, mtbf: f64, restart: f64) -> f64 {
    if interval <= 0.0 {
        return 1.0;
    }
    let checkpoints = cost / (interval + cost);
    let failures = (interval / 2.0 + restart) / mtbf;
    (checkpoints + failures).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daly_is_near_young_where_both_hold() {
        // Five minutes and a day: the example both papers' formulas agree on within a few per cent.
        let (cost, mtbf) = (300.0, 86_400.0);
        let (y, d) = (young(cost, mtbf), daly(cost, mtbf));
        assert!((y - 7200.0).abs() < 1.0, "{y}");
        assert!((d - 7002.3).abs() < 5.0, "{d}");
        assert_eq!(daly(100.0, 40.0), 40.0);
        assert!(daly(1e-6, 1e6) > 0.0);
    }

    /// docs/guide/intervals.md works an example through.
    #[test]
    fn the_example_of_the_guide() {
        let page = include_str!("../../../docs/guide/intervals.md");
        let (cost, mtbf) = (5.0, 86_400.0);
        let best = daly(cost, mtbf).round();
        let mut words = vec![format!(
            "\u{3b4} = {cost}, M = {mtbf}. Young: {:.0} s. Daly: {best:.0} s",
            (young(cost, mtbf) / 10.0).round() * 10.0
        )];
        for interval in [60.0, best, 3600.0] {
            let lost = 100.0 * loss(interval, cost, mtbf, 0.0);
            words.push(format!("| {interval:.0} s | {lost:.1} % |"));
        }
        for words in words {
            assert!(page.contains(&words), "{words:?} is not in the page");
        }
    }

    #[test]
    fn the_optimum_loses_least() {
        let (cost, mtbf, restart) = (2.0, 3600.0, 30.0);
        let best = young(cost, mtbf);
        let at = |interval| loss(interval, cost, mtbf, restart);
        assert!(at(best) < at(best / 3.0) && at(best) < at(best * 3.0));
        assert_eq!(at(0.0), 1.0);
        assert_eq!(at(1e9), 1.0);
    }
}
