//! Host calls and executions whose gateway lines are both lost: matched directly with the clocks known by then.

use std::collections::HashMap;

use super::assignment::{Candidate, assign, ranked};
use super::evidence::Evidence;
use super::linker::Linker;
use super::names::{NONE, Name};

/// No link scores below this (natural log).
const NO_PARTNER: f64 = 4.0;
/// Two clocks known by way of a third are never surer than this, seconds.
const CLOCKS_FLOOR: f64 = 0.012;

impl Linker<'_> {
    /// Links what is left of host calls to what is left of executions.
    pub(super) fn link_host_server(&mut self) {
        let mut left: HashMap<(Name, Name), Vec<u32>> = HashMap::new();
        for server in (0..self.units.executions.len() as u32).filter(|server| !self.server_gateway.contains_key(server))
        {
            let s = self.execution(server);
            let mut digests = s.arguments.clone();
            digests.dedup();
            digests.into_iter().for_each(|digest| left.entry((s.tool, digest)).or_default().push(server));
        }
        let mut candidates = Vec::new();
        for (h, host) in self.units.hosts.iter().enumerate() {
            let Some(choice) = host.choice.map(|choice| self.seen(choice)) else { continue };
            let gateway = self.host_gateway.get(&(h as u32)).map(|m| m.column);
            if gateway.is_some_and(|g| self.gateway_server.contains_key(&g) || self.gateway(g).denied) {
                continue;
            }
            let mut near: Vec<u32> = Vec::new();
            for digest in &choice.arguments {
                near.extend(left.get(&(choice.tool, *digest)).into_iter().flatten());
            }
            near.sort_unstable();
            near.dedup();
            for server in near {
                if choice.server != NONE && choice.server != self.execution(server).server {
                    continue;
                }
                if let Some(score) = self.host_server_score(h as u32, server, &mut Evidence::Sum(0.0)) {
                    candidates.push(Candidate { row: h as u32, column: server, score });
                }
            }
        }
        self.host_server = assign(&candidates, NO_PARTNER, 1.0);
        self.direct_rivals = ranked(&candidates, true, NO_PARTNER);
    }

    pub(super) fn host_server_score(&self, h: u32, server: u32, evidence: &mut Evidence) -> Option<f64> {
        let (host, s) = (self.host(h), self.execution(server));
        let clock = self.seen(host.base).clock;
        let away = self.server_start(server)? - self.host_time(clock, host.start?)?;
        let sd = self.host_sd(clock).hypot(self.server_sd(s.clock)).max(CLOCKS_FLOOR);
        evidence.add("start", self.noise.ratio(away, sd));
        if let (Some(start), Some(end)) = (host.start, host.end) {
            let mean = self.host_overhead.mean + self.gateway_overhead.mean;
            let sd = self.host_overhead.sd.hypot(self.gateway_overhead.sd) + 2.0 * self.settings.spread_floor;
            evidence.add("duration", self.noise.ratio(end - start - s.duration - mean, sd));
        }
        Some(evidence.total())
    }
}
