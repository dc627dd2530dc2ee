//! Logistic regression of a few features, by Newton's method, with weights held towards a prior.
//!
//! Both classes count alike, whatever their sizes, so that the sum is a log-likelihood ratio.

/// Precision of the prior of each weight, in examples.
const HOLD: f64 = 2.0;
/// Newton steps; it converges in fewer.
const STEPS: usize = 12;

/// An example: its features, and whether it is of the first class.
pub(super) type Example<const N: usize> = ([f64; N], bool);

/// Weights of `N` features.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logit<const N: usize>(pub(super) [f64; N]);

impl<const N: usize> Logit<N> {
    /// Log-likelihood ratio of the first class.
    pub(super) fn of(&self, features: &[f64; N]) -> f64 {
        self.0.iter().zip(features).map(|(weight, feature)| weight * feature).sum()
    }

    /// Fits the weights; without examples of both classes they stay what the prior says.
    pub(super) fn fit(examples: &[Example<N>], prior: [f64; N]) -> Logit<N> {
        let first = examples.iter().filter(|example| example.1).count() as f64;
        let second = examples.len() as f64 - first;
        if first < 1.0 || second < 1.0 {
            return Logit(prior);
        }
        let half = examples.len() as f64 / 2.0;
        let mut fitted = Logit(prior);
        for _ in 0..STEPS {
            let mut slope: [f64; N] = std::array::from_fn(|i| HOLD * (prior[i] - fitted.0[i]));
            let mut bend = [[0.0; N]; N];
            (0..N).for_each(|i| bend[i][i] = HOLD);
            for (features, is_first) in examples {
                let chance = 1.0 / (1.0 + (-fitted.of(features)).exp());
                let counts = half / if *is_first { first } else { second };
                let miss = counts * (f64::from(u8::from(*is_first)) - chance);
                let weight = counts * chance * (1.0 - chance);
                for i in 0..N {
                    slope[i] += miss * features[i];
                    for j in 0..=i {
                        bend[i][j] += weight * features[i] * features[j];
                    }
                }
            }
            let step = solve(bend, slope);
            (0..N).for_each(|i| fitted.0[i] += step[i].clamp(-4.0, 4.0));
            if step.iter().all(|step| step.abs() < 1e-6) {
                break;
            }
        }
        fitted
    }
}

/// Solves a symmetric positive system of which the lower half is given (Cholesky).
fn solve<const N: usize>(mut a: [[f64; N]; N], mut b: [f64; N]) -> [f64; N] {
    for i in 0..N {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| a[i][k] * a[j][k]).sum();
            a[i][j] = if i == j { (a[i][i] - sum).max(1e-12).sqrt() } else { (a[i][j] - sum) / a[j][j] };
        }
    }
    for i in 0..N {
        let sum: f64 = (0..i).map(|k| a[i][k] * b[k]).sum();
        b[i] = (b[i] - sum) / a[i][i];
    }
    for i in (0..N).rev() {
        let sum: f64 = (i + 1..N).map(|k| a[k][i] * b[k]).sum();
        b[i] = (b[i] - sum) / a[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_the_ratio_of_two_shares() {
        let mut examples = Vec::new();
        for n in 0..4000 {
            examples.push(([1.0, f64::from(u8::from(n % 10 < 8))], true));
            examples.push(([1.0, f64::from(u8::from(n % 10 < 2))], false));
        }
        examples.truncate(7000);
        let fitted = Logit::fit(&examples, [0.0; 2]);
        assert!((fitted.of(&[1.0, 1.0]) - 4f64.ln()).abs() < 0.05, "{fitted:?}");
        assert!((fitted.of(&[1.0, 0.0]) + 4f64.ln()).abs() < 0.05, "{fitted:?}");
    }

    #[test]
    fn without_examples_the_prior_stands() {
        assert_eq!(Logit::fit(&[([1.0], true)], [0.5]).0, [0.5]);
    }
}
