//! The linker's state: what the stages have learned and decided so far, in the order in which they run.
//!
//! `chain` -> `gateway_server` -> `rounds` + `host_gateway` -> `gateway_server` again (with what the hosts added) ->
//! `host_server` -> `calls` -> `downstream` -> `conversations` -> `placement`.
//! Each stage reads what stands before it and writes its own fields only.

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;
use super::assignment::Matches;
use super::clock::Track;
use super::host_gateway::AddressHabits;
use super::likelihood::Noise;
use super::names::Name;
use super::units::{GatewayCall, HostCall, Seen, Units};

/// Location and spread of a learned difference.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    pub(super) mean: f64,
    pub(super) sd: f64,
}

/// Spread of what a host's stamp of whole seconds leaves out: evenly from 0 to 1.
pub(super) const WHOLE_SECOND: f64 = 0.289;

/// How a gateway call became a round of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// It echoes the request state of the call before it.
    State,
    /// The host sent the same request again.
    Resent,
    /// Another gateway stands behind the first one.
    Inner,
}

/// State of one run.
#[derive(Debug)]
pub(super) struct Linker<'a> {
    pub(super) units: Units<'a>,
    pub(super) settings: &'a Settings,
    pub(super) noise: Noise,
    // -- clocks, by emitter
    pub(super) gateway_tracks: BTreeMap<Name, Track>,
    pub(super) server_tracks: BTreeMap<Name, Track>,
    pub(super) server_spread: BTreeMap<Name, f64>,
    pub(super) host_tracks: BTreeMap<Name, Track>,
    pub(super) host_spread: BTreeMap<Name, f64>,
    // -- gateway and server
    /// Spread of server starts around their clock before it is learned from links.
    pub(super) server_scale: f64,
    /// Gateway duration less server duration.
    pub(super) gateway_overhead: Spread,
    pub(super) bad_traces: BTreeSet<Name>,
    /// Gateway call to index into `units.executions`.
    pub(super) gateway_server: Matches,
    /// Index into `units.executions` to gateway call.
    pub(super) server_gateway: BTreeMap<u32, u32>,
    // -- rounds
    pub(super) follow: BTreeMap<u32, Vec<u32>>,
    pub(super) hidden: BTreeMap<u32, (u32, Round)>,
    pub(super) merged: BTreeMap<u32, GatewayCall>,
    /// Calls that an inner gateway saw, too: its call, and how sure that is.
    pub(super) inner_of: BTreeMap<u32, (u32, f64)>,
    // -- host and gateway
    /// Spread of host starts around their clock before it is learned from links.
    pub(super) host_scale: f64,
    /// From where the calls of hosts come that do not know their own address.
    pub(super) address_habits: AddressHabits,
    /// Host time between choice and outcome less gateway duration.
    pub(super) host_overhead: Spread,
    /// Host call to gateway call.
    pub(super) host_gateway: Matches,
    pub(super) gateway_host: BTreeMap<u32, u32>,
    /// Host time between choice and outcome less the execution's duration.
    pub(super) direct_overhead: Spread,
    /// Host call to index into `units.executions`, where no gateway line stands between.
    pub(super) host_server: Matches,
    /// Host user to subject: weight of confident links.
    pub(super) subjects_of: BTreeMap<Name, BTreeMap<Name, f64>>,
    pub(super) gateway_steps: Vec<(f64, f64)>,
    pub(super) address_owners: BTreeSet<Name>,
    pub(super) shared_addresses: BTreeSet<Name>,
    /// Rivals of gateway calls (host calls) and of executions (gateway calls; host calls), best first.
    pub(super) host_rivals: BTreeMap<u32, Vec<(u32, f64)>>,
    pub(super) gateway_rivals: BTreeMap<u32, Vec<(u32, f64)>>,
    pub(super) direct_rivals: BTreeMap<u32, Vec<(u32, f64)>>,
}

impl<'a> Linker<'a> {
    pub(super) fn new(units: Units<'a>, settings: &'a Settings) -> Linker<'a> {
        let stamp = units.stamp_noise;
        let heavy = stamp > settings.heavy_above;
        let window = if heavy { settings.window_heavy } else { settings.window };
        let mut linker = Linker {
            units,
            settings,
            noise: Noise { stamp, heavy, window },
            gateway_tracks: BTreeMap::new(),
            server_tracks: BTreeMap::new(),
            server_spread: BTreeMap::new(),
            host_tracks: BTreeMap::new(),
            host_spread: BTreeMap::new(),
            server_scale: settings.start_scale(stamp),
            host_scale: settings.start_scale_host(stamp),
            address_habits: AddressHabits::default(),
            gateway_overhead: Spread { mean: 0.003, sd: 0.01 },
            bad_traces: BTreeSet::new(),
            gateway_server: Matches::new(),
            server_gateway: BTreeMap::new(),
            follow: BTreeMap::new(),
            hidden: BTreeMap::new(),
            merged: BTreeMap::new(),
            inner_of: BTreeMap::new(),
            host_overhead: settings.start_overhead(stamp),
            direct_overhead: Spread { mean: 0.0, sd: 0.0 },
            host_gateway: Matches::new(),
            gateway_host: BTreeMap::new(),
            host_server: Matches::new(),
            subjects_of: BTreeMap::new(),
            gateway_steps: Vec::new(),
            address_owners: BTreeSet::new(),
            shared_addresses: BTreeSet::new(),
            host_rivals: BTreeMap::new(),
            gateway_rivals: BTreeMap::new(),
            direct_rivals: BTreeMap::new(),
        };
        linker.guard_traces();
        linker
    }

    pub(super) fn seen(&self, at: usize) -> &Seen<'a> {
        &self.units.seen[at]
    }

    pub(super) fn host(&self, host: u32) -> &HostCall {
        &self.units.hosts[host as usize]
    }

    pub(super) fn gateway(&self, gateway: u32) -> &GatewayCall {
        &self.units.gateways[gateway as usize]
    }

    /// A gateway call with its later rounds, as its host sees it.
    pub(super) fn whole(&self, gateway: u32) -> &GatewayCall {
        self.merged.get(&gateway).unwrap_or_else(|| self.gateway(gateway))
    }

    pub(super) fn execution(&self, server: u32) -> &Seen<'a> {
        self.seen(self.units.executions[server as usize])
    }

    pub(super) fn gateway_base(&self, call: &GatewayCall) -> &Seen<'a> {
        self.seen(call.base)
    }

    /// A gateway's own time in the reference clock.
    pub(super) fn gateway_time(&self, clock: Name, t: f64) -> f64 {
        t - self.gateway_tracks.get(&clock).map_or(0.0, |track| track.at(t).offset)
    }

    /// Start of a gateway call in the reference clock.
    pub(super) fn gateway_start(&self, call: &GatewayCall) -> f64 {
        self.gateway_time(self.gateway_base(call).clock, call.start)
    }

    /// A workstation's own time in the reference clock; unknown clocks give `None`.
    pub(super) fn host_time(&self, clock: Name, t: f64) -> Option<f64> {
        self.host_tracks.get(&clock)?.own(t).map(|segment| t - segment.offset)
    }

    /// Start of an execution in the reference clock.
    pub(super) fn server_start(&self, server: u32) -> Option<f64> {
        let s = self.execution(server);
        let start = s.t - s.duration;
        self.server_tracks.get(&s.clock)?.own(start).map(|segment| start - segment.offset)
    }

    pub(super) fn server_sd(&self, clock: Name) -> f64 {
        self.server_spread.get(&clock).copied().unwrap_or(self.settings.clock_spread.max(self.server_scale))
    }

    /// Step of a clock's stamps, seconds; 0 where it is too small to matter.
    pub(super) fn resolution(&self, clock: Name) -> f64 {
        if self.units.whole_seconds.contains(&clock) { 1.0 } else { 0.0 }
    }
}
