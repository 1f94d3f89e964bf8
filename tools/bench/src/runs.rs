//! What several runs of one measurement come to.

use anyhow::Result;

/// Middle one of `values`, which are not empty.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// What ratios come to together; of no value there is none.
pub fn geometric_mean(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().map(|value| value.ln()).sum();
    (sum / values.len() as f64).exp()
}

/// The number after `--runs`, or the usual one.
pub fn runs(words: &[&str]) -> Result<usize> {
    match words {
        [] => Ok(5),
        ["--runs", number] => Ok(number.parse::<usize>()?.max(1)),
        _ => anyhow::bail!("the only option is --runs N"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        let check = |values: &[f64], expected: f64| {
            assert!((median(values.to_vec()) - expected).abs() < 1e-9)
        };
        check(&[3.0, 1.0, 2.0], 2.0);
        check(&[4.0, 1.0, 2.0, 3.0], 2.5);
        check(&[7.0], 7.0);
    }

    #[test]
    fn a_mean_of_ratios_is_the_geometric_one() {
        assert!((geometric_mean(&[0.5, 2.0]) - 1.0).abs() < 1e-9);
        assert!((geometric_mean(&[0.25, 1.0]) - 0.5).abs() < 1e-9);
    }
}
