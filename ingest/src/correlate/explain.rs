//! Explanation: for every judged placement the pieces of its score, and the rivals that it beat or could not be told from.

use super::calls::Call;
use super::downstream::Downstream;
use super::frames::Frames;
use super::linker::Linker;
use super::placement::{Place, Rule};

/// Why a line stands where it stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Explanation {
    /// Name and weight (natural log) of each piece of evidence; they add.
    pub(super) evidence: Vec<(&'static str, f64)>,
    /// Rival parents as indices of the sorted observations with their scores, best first.
    pub(super) rivals: Vec<(usize, f64)>,
}

/// Explains placements one by one.
pub(super) struct Explainer<'e, 'a> {
    linker: &'e Linker<'a>,
    calls: &'e [Call],
    down: &'e Downstream<'a>,
    frames: &'e Frames,
    /// Observation to gateway call, execution, downstream line.
    gateway_of: std::collections::BTreeMap<usize, u32>,
    execution_of: std::collections::BTreeMap<usize, u32>,
    line_of: std::collections::BTreeMap<usize, usize>,
}

impl<'e, 'a> Explainer<'e, 'a> {
    pub(super) fn new(linker: &'e Linker<'a>, calls: &'e [Call], down: &'e Downstream<'a>, frames: &'e Frames) -> Self {
        let gateways = linker.units.gateways.iter().enumerate();
        Explainer {
            linker,
            calls,
            down,
            frames,
            gateway_of: gateways.map(|(g, call)| (call.base, g as u32)).collect(),
            execution_of: linker.units.executions.iter().enumerate().map(|(s, at)| (*at, s as u32)).collect(),
            line_of: down.lines.iter().enumerate().map(|(line, own)| (own.at, line)).collect(),
        }
    }

    /// Evidence and rivals of what stands at `at`.
    pub(super) fn of(&self, at: usize, place: Option<&Place>) -> Explanation {
        let is_frame = place.is_none_or(|place| place.rule == Rule::Frame);
        if let Some(frame) = self.frames.get(&at).filter(|_| is_frame) {
            return Explanation { evidence: frame.evidence.clone(), rivals: frame.rivals.clone() };
        }
        if let Some(line) = self.line_of.get(&at) {
            let evidence = self.down.evidence.get(line).cloned();
            return Explanation {
                evidence: evidence.map_or_else(Vec::new, |e| e.parts()),
                rivals: self.calls_of(*line),
            };
        }
        if let Some(server) = self.execution_of.get(&at) {
            return self.execution(*server);
        }
        if let Some(g) = self.gateway_of.get(&at) {
            return self.request(*g);
        }
        match place {
            Some(place) if place.rule == Rule::Conversation && place.parent.is_some() => {
                Explanation { evidence: vec![("share_of_hypotheses", place.confidence)], rivals: Vec::new() }
            }
            _ => Explanation::default(),
        }
    }

    fn execution(&self, server: u32) -> Explanation {
        let linker = self.linker;
        let through = linker.gateway_rivals.get(&server).into_iter().flatten();
        let mut rivals: Vec<(usize, f64)> = through.map(|(g, score)| (linker.gateway(*g).base, *score)).collect();
        let direct = linker.direct_rivals.get(&server).into_iter().flatten();
        rivals.extend(direct.map(|(h, score)| (linker.host(*h).base, *score)));
        let evidence = match linker.server_gateway.get(&server) {
            Some(g) => linker.explain_gateway_server(*g, server).parts(),
            None => Vec::new(),
        };
        Explanation { evidence, rivals }
    }

    fn request(&self, g: u32) -> Explanation {
        let linker = self.linker;
        let hosts = linker.host_rivals.get(&g).into_iter().flatten();
        let rivals = hosts.map(|(h, score)| (linker.host(*h).base, *score)).collect();
        let evidence = match linker.gateway_host.get(&g) {
            Some(h) if !linker.hidden.contains_key(&g) => linker.explain_host_gateway(*h, g).parts(),
            _ => Vec::new(),
        };
        Explanation { evidence, rivals }
    }

    fn calls_of(&self, line: usize) -> Vec<(usize, f64)> {
        let rivals = self.down.rivals.get(&(line as u32)).into_iter().flatten();
        let base = |call: &Call| {
            let server = call.server.map(|server| self.linker.units.executions[server as usize]);
            let gateway = call.gateway.map(|g| self.linker.gateway(g).base);
            server.or(gateway).or_else(|| call.host.map(|h| self.linker.host(h).base))
        };
        rivals.filter_map(|(call, score)| Some((base(&self.calls[*call as usize])?, *score))).collect()
    }
}
