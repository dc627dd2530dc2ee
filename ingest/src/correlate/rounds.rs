//! Rounds: several gateway calls that are one call of the host.
//!
//! - `requestState` (or its digest, equal on both sides): one giver and one echo, same program and server. The host
//!   sees one call: first request, last response.
//! - Resent request: equal program, server, tool, digest, subject, address and session; the first failed or was
//!   never answered, the second starts soon after its end. Merged if the best host score of the merged call exceeds
//!   the best sum for two different hosts' calls.

use std::collections::BTreeMap;

use super::linker::{Linker, Round};
use super::names::{NONE, Name};
use super::units::GatewayCall;

/// A resent request starts at most this long after the end of the first, seconds (client back-off).
const RESENT_AFTER_MAX: f64 = 12.0;
/// ... and at most this long before it, since the stamps have noise.
const RESENT_BEFORE_MAX: f64 = 0.5;

impl Linker<'_> {
    /// Joins the request that echoes a request state to the call whose response gave it.
    pub(super) fn join_states(&mut self) {
        let mut given: BTreeMap<Name, Vec<u32>> = BTreeMap::new();
        let mut echoed: BTreeMap<Name, Vec<u32>> = BTreeMap::new();
        for (g, call) in self.units.gateways.iter().enumerate() {
            if self.hidden.contains_key(&(g as u32)) {
                continue;
            }
            let state = |at: Option<usize>| at.map_or(NONE, |at| self.units.seen[at].state);
            match (state(call.request), state(call.response)) {
                (echo, give) if echo != give => {
                    if give != NONE {
                        given.entry(give).or_default().push(g as u32);
                    }
                    if echo != NONE {
                        echoed.entry(echo).or_default().push(g as u32);
                    }
                }
                _ => {}
            }
        }
        for (state, echoes) in &echoed {
            let [echo] = echoes[..] else { continue };
            let place =
                |g: u32| (self.gateway_base(self.gateway(g)).program, self.gateway_base(self.gateway(g)).server);
            let givers: Vec<u32> =
                given.get(state).into_iter().flatten().copied().filter(|g| place(*g) == place(echo)).collect();
            if let [giver] = givers[..]
                && giver != echo
            {
                self.attach(giver, echo, Round::State);
            }
        }
    }

    /// Makes `later` (with its own later rounds) a round of `first`.
    pub(super) fn attach(&mut self, first: u32, later: u32, how: Round) {
        let mut lead = first;
        while let Some((up, _)) = self.hidden.get(&lead) {
            lead = *up;
        }
        if self.hidden.contains_key(&later) || lead == later {
            return;
        }
        let mut rounds = self.follow.remove(&lead).unwrap_or_default();
        let below = self.follow.remove(&later).unwrap_or_default();
        self.merged.remove(&later);
        self.hidden.insert(later, (lead, how));
        rounds.push(later);
        for round in below {
            if let Some(known) = self.hidden.get_mut(&round) {
                known.0 = lead;
            }
            rounds.push(round);
        }
        rounds.sort_by(|a, b| {
            let start = |g: &u32| self.gateway_start(self.gateway(*g));
            start(a).total_cmp(&start(b)).then(a.cmp(b))
        });
        let last = rounds.last().copied().unwrap_or(later);
        let merged = self.merge(self.gateway(lead), self.gateway(last));
        self.merged.insert(lead, merged);
        self.follow.insert(lead, rounds);
    }

    /// Several rounds seen as one gateway call: request of the first, response of the last.
    pub(super) fn merge(&self, first: &GatewayCall, last: &GatewayCall) -> GatewayCall {
        let mut call = first.clone();
        (call.response, call.answer) = (last.response, last.answer);
        (call.result, call.failed) = (last.result, last.failed);
        call.denied = first.denied || last.denied;
        call.duration = None;
        call.end = None;
        if let Some(end) = last.end {
            let duration = self.gateway_time(self.gateway_base(last).clock, end) - self.gateway_start(first);
            call.duration = Some(duration);
            call.end = Some(first.start + duration);
        }
        call
    }

    /// Pairs of gateway calls the second of which may be the first one sent again.
    pub(super) fn resent(&self) -> Vec<(u32, u32)> {
        type Key = (Name, Name, Name, Name, Name, Name, Name);
        let mut alike: BTreeMap<Key, Vec<u32>> = BTreeMap::new();
        for (g, call) in self.units.gateways.iter().enumerate() {
            let g = g as u32;
            if self.hidden.contains_key(&g) || call.request.is_none() || call.denied {
                continue;
            }
            let s = self.gateway_base(call);
            let digest = call.arguments.first().copied().unwrap_or(NONE);
            let key = (s.program, s.server, call.tool, digest, call.subject, s.address, call.session);
            alike.entry(key).or_default().push(g);
        }
        let mut pairs = Vec::new();
        for mut calls in alike.into_values() {
            let start = |g: &u32| self.gateway_start(self.gateway(*g));
            calls.sort_by(|a, b| start(a).total_cmp(&start(b)).then(a.cmp(b)));
            for pair in calls.windows(2) {
                let (first, second) = (self.whole(pair[0]), self.whole(pair[1]));
                let pause = self.gateway_start(second) - self.gateway_start(first) - first.duration.unwrap_or(0.0);
                let unanswered = first.failed || first.answer.is_none();
                if unanswered && (-RESENT_BEFORE_MAX..=RESENT_AFTER_MAX).contains(&pause) {
                    pairs.push((pair[0], pair[1]));
                }
            }
        }
        pairs
    }
}
