//! Calls: what host, gateway and server say about one call, and the execution interval that follows from it.
//!
//! The interval is the server's where there is one, else the gateway's, else the host's; arguments come from the
//! server, else the gateway, else the host (servers that log only a digest borrow them).

use std::collections::BTreeMap;

use super::linker::Linker;
use super::names::{NONE, Name};
use super::observation::Argument;

/// How long a call without any end is taken to last, seconds.
const OPEN_CALL: f64 = 2.0;

/// One call by its views.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Call {
    pub(super) host: Option<u32>,
    pub(super) gateway: Option<u32>,
    pub(super) server: Option<u32>,
    /// The call whose later round this is.
    pub(super) lead: Option<usize>,
}

/// When, where and with what a call ran.
#[derive(Debug, Clone)]
pub(super) struct Execution<'a> {
    pub(super) server: Name,
    pub(super) tool: Name,
    pub(super) tool_name: Option<&'a str>,
    pub(super) arguments: Option<&'a [Argument]>,
    pub(super) start: f64,
    pub(super) end: f64,
    /// The server's own line, as an index of `units.executions`.
    pub(super) line: Option<u32>,
}

impl<'a> Linker<'a> {
    /// Every gateway call, host call and execution is in exactly one call.
    pub(super) fn calls(&self) -> Vec<Call> {
        let mut calls: Vec<Call> = Vec::new();
        let mut hosts_used = vec![false; self.units.hosts.len()];
        let mut servers_used = vec![false; self.units.executions.len()];
        let mut call_of_gateway: BTreeMap<u32, usize> = BTreeMap::new();
        for g in 0..self.units.gateways.len() as u32 {
            let host = self.gateway_host.get(&g).copied();
            let hidden = self.hidden.contains_key(&g);
            let direct = || self.host_server.get(&host?).map(|m| m.column).filter(|_| !hidden);
            let server = self.gateway_server.get(&g).map(|m| m.column).or_else(direct);
            if let Some(host) = host {
                hosts_used[host as usize] = true;
            }
            if let Some(server) = server {
                servers_used[server as usize] = true;
            }
            call_of_gateway.insert(g, calls.len());
            calls.push(Call { host, gateway: Some(g), server, lead: None });
        }
        for call in &mut calls {
            let lead = call.gateway.and_then(|g| self.hidden.get(&g));
            call.lead = lead.and_then(|(lead, _)| call_of_gateway.get(lead).copied());
        }
        for h in (0..self.units.hosts.len() as u32).filter(|h| !hosts_used[*h as usize]) {
            let server = self.host_server.get(&h).map(|m| m.column);
            if let Some(server) = server {
                servers_used[server as usize] = true;
            }
            calls.push(Call { host: Some(h), server, ..Call::default() });
        }
        for server in (0..self.units.executions.len() as u32).filter(|server| !servers_used[*server as usize]) {
            calls.push(Call { server: Some(server), ..Call::default() });
        }
        calls
    }

    /// The execution of a call; `None` where nothing ran or nothing says when.
    pub(super) fn execution_of(&self, call: &Call) -> Option<Execution<'a>> {
        let host = call.host.map(|h| self.host(h));
        let choice = host.and_then(|host| host.choice).map(|choice| self.seen(choice));
        if call.gateway.is_some_and(|g| self.passes_on(g)) {
            // It ran where the inner gateway sent it.
            return None;
        }
        let gateway = call.gateway.map(|g| self.gateway(g));
        let request = gateway.and_then(|gateway| gateway.request).map(|request| self.seen(request));
        let server = call.server.map(|server| self.execution(server));
        let views = [server, request, choice];
        let arguments = views.iter().flatten().find_map(|view| view.o.argument_values.as_deref());
        let tool_name = views.iter().flatten().find_map(|view| view.o.tool.as_deref());
        let execution = |server: Name, tool: Name, start: f64, end: f64, line: Option<u32>| Execution {
            server,
            tool,
            tool_name,
            arguments,
            start,
            end: end.max(start),
            line,
        };
        if let (Some(s), Some(line)) = (server, call.server) {
            let own = s.t - s.duration;
            let linked = call.gateway.filter(|g| self.gateway_server.contains_key(g));
            let start = match linked {
                // The gateway's clock places it.
                Some(g) => {
                    let at = self.gateway_start(self.gateway(g));
                    own - self.server_tracks.get(&s.clock).map_or(0.0, |track| track.at(at).offset)
                }
                None => self.server_start(line).unwrap_or(own),
            };
            return Some(execution(s.server, s.tool, start, start + s.duration, Some(line)));
        }
        if let Some(gateway) = gateway {
            if gateway.denied {
                return None;
            }
            let start = self.gateway_start(gateway);
            let tool = if gateway.tool == NONE { choice.map_or(NONE, |choice| choice.tool) } else { gateway.tool };
            let server = self.gateway_base(gateway).server;
            return Some(execution(server, tool, start, start + gateway.duration.unwrap_or(OPEN_CALL), None));
        }
        let (host, choice) = (host?, choice?);
        let start = self.host_time(choice.clock, host.start?)?;
        let end = host.end.map_or(start + OPEN_CALL, |end| start + (end - host.start.unwrap_or(end)).max(0.0));
        Some(execution(choice.server, choice.tool, start, end, None))
    }
}
