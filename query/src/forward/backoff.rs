//! Pauses between attempts: exponential with full jitter, so that many senders do not come back at once.

use std::time::Duration;

/// Mean of the first pause.
const FIRST: Duration = Duration::from_millis(250);
/// Longest pause that a receiver may ask for.
const ASKED_MAX: Duration = Duration::from_secs(3600);

/// The attempts of one batch.
#[derive(Debug)]
pub(super) struct Backoff {
    attempts: u32,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new(longest: Duration) -> Backoff {
        Backoff { attempts: 0, longest }
    }

    /// The pause before the next attempt: what the receiver asks for, but never less than our own. One that asks to be
    /// asked again at once is not believed.
    pub(super) fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let ceiling = FIRST.saturating_mul(2 << self.attempts.min(16)).min(self.longest);
        self.attempts = self.attempts.saturating_add(1);
        let own = ceiling.mul_f64(random());
        asked.map_or(own, |asked| own.max(asked.min(ASKED_MAX)))
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// Between 0 and 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without random numbers the pause is half as long as it may be.
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_the_receiver_is_heard() {
        let longest = Duration::from_secs(8);
        let mut backoff = Backoff::new(longest);
        for attempt in 0..40 {
            let ceiling = FIRST.saturating_mul(2 << attempt.min(16)).min(longest);
            assert!(backoff.pause(None) <= ceiling);
        }
        assert_eq!(backoff.pause(Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert_eq!(backoff.pause(Some(Duration::MAX)), ASKED_MAX);
        let asked_at_once: Duration = (0..20).map(|_| backoff.pause(Some(Duration::ZERO))).sum();
        assert!(asked_at_once > longest, "20 pauses of 4 s each as a mean");
        let distinct: std::collections::BTreeSet<Duration> = (0..20).map(|_| backoff.pause(None)).collect();
        assert!(distinct.len() > 1);
    }
}
