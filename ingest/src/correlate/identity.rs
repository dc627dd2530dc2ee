//! Identity: which gateway subject a host's user is, found together with the workstation's clock.
//!
//! For every (host user, gateway subject) the candidate pairs whose clock-free score is good are laid on the axis of
//! time differences; the densest window that holds the most distinct calls is how well the two fit. A replayed twin
//! session has other durations and think times, so its differences do not agree. Users are assigned to subjects by the
//! largest total. A subject may be several users (service tokens): further copies cost a little.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::assignment::best_total;
use super::likelihood::median;
use super::linker::Linker;
use super::names::{NONE, Name};

/// Copies that a subject has, and those of a subject that is far busier than the others (a service token).
const COPIES: usize = 3;
const COPIES_BUSY: usize = 40;
const BUSY: f64 = 4.0;
/// Windows summed per pair where clocks may have stepped.
const WINDOWS_HEAVY: usize = 3;
/// What a second user of one subject costs, and each further one, in calls.
const COPY_COST: [f64; 3] = [0.0, 1.0, 1.5];

/// Gateway start minus host start, seconds, with the two calls.
type Difference = (f64, u32, u32);

impl Linker<'_> {
    /// Host user to subject. `good` are pairs of host call and gateway call with a good clock-free score.
    pub(super) fn assign_subjects(&self, good: &[(u32, u32)]) -> BTreeMap<Name, Name> {
        let mut rivals: HashMap<u32, usize> = HashMap::new();
        good.iter().for_each(|(h, _)| *rivals.entry(*h).or_default() += 1);
        let mut differences: BTreeMap<(Name, Name), Vec<Difference>> = BTreeMap::new();
        for (h, g) in good {
            let (host, call) = (self.host(*h), self.whole(*g));
            let Some(start) = host.start else { continue };
            differences.entry((host.who, call.subject)).or_default().push((self.gateway_start(call) - start, *h, *g));
        }
        let users: Vec<Name> = differences.keys().map(|key| key.0).collect::<BTreeSet<_>>().into_iter().collect();
        let subjects: Vec<Name> = differences.keys().map(|key| key.1).collect::<BTreeSet<_>>().into_iter().collect();
        let columns = self.subject_copies(&subjects);
        let width = self.settings.identity_window(self.noise.stamp);
        let mut value = vec![0.0; users.len() * columns.len()];
        for ((user, subject), mut pairs) in differences {
            pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
            let fit = self.density(&pairs, &rivals, width);
            let row = users.partition_point(|known| *known < user);
            for (place, (_, copy)) in columns.iter().enumerate().filter(|(_, column)| column.0 == subject) {
                value[row * columns.len() + place] = fit - COPY_COST[(*copy).min(COPY_COST.len() - 1)];
            }
        }
        let chosen = best_total(&value, users.len(), columns.len());
        users.iter().zip(chosen).filter_map(|(user, column)| Some((*user, columns[column?].0))).collect()
    }

    fn subject_copies(&self, subjects: &[Name]) -> Vec<(Name, usize)> {
        let mut calls: BTreeMap<Name, f64> = BTreeMap::new();
        self.units.gateways.iter().for_each(|call| *calls.entry(call.subject).or_default() += 1.0);
        let mut counts: Vec<f64> = calls.values().copied().collect();
        let usual = median(&mut counts).max(1.0);
        let copies = |subject: &Name| {
            if *subject != NONE && calls[subject] <= BUSY * usual { COPIES } else { COPIES_BUSY }
        };
        subjects.iter().flat_map(|subject| (0..copies(subject)).map(|copy| (*subject, copy))).collect()
    }

    /// How many distinct calls the densest windows hold; a call with many rivals counts less.
    fn density(&self, sorted: &[(f64, u32, u32)], rivals: &HashMap<u32, usize>, width: f64) -> f64 {
        let mut total = 0.0;
        let mut used: BTreeSet<u32> = BTreeSet::new();
        let windows = if self.noise.heavy { WINDOWS_HEAVY } else { 1 };
        for window in 0..windows {
            let (mut best, mut best_hosts) = (0.0, BTreeSet::new());
            for (place, (from, ..)) in sorted.iter().enumerate() {
                let (mut hosts, mut gateways, mut sum) = (used.clone(), BTreeSet::new(), 0.0);
                for (_, h, g) in sorted[place..].iter().take_while(|pair| pair.0 <= from + width) {
                    if !hosts.contains(h) && !gateways.contains(g) {
                        hosts.insert(*h);
                        gateways.insert(*g);
                        sum += 0.4 + 0.6 / rivals[h].min(5) as f64;
                    }
                }
                if sum > best {
                    (best, best_hosts) = (sum, hosts);
                }
            }
            if window > 0 && best < 1.5 {
                break;
            }
            total += best;
            used = best_hosts;
        }
        total
    }
}
