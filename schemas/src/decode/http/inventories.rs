//! What servers without sessions list, for all connections to one endpoint under one credential.
//!
//! Since 2026-07-28 what a server lists may change over time and differ by authorization, but must not vary per
//! connection. So what one client is told holds for each that says the same of itself, also where their exchanges cannot
//! be told apart. Bounds: [`INVENTORIES_MAX`], the one that was used longest ago goes; their bytes are part of what
//! all connections remember.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};

use super::Headers;
use crate::decode::mcp::inventory::Inventory;
use crate::limits::http::INVENTORIES_MAX;

/// Endpoint and credential. A digest that is not kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scope([u8; 32]);

/// Those of one server.
#[derive(Debug, Default)]
pub(super) struct Inventories {
    /// The one that was used last is at the end.
    by_scope: VecDeque<(Scope, Inventory)>,
    /// Most lists that were begun in one that is gone.
    begun: u64,
}

impl Scope {
    /// `None` where the recorder took the credential out, so that callers cannot be told apart.
    pub(super) fn of(headers: &Headers<'_>, path: &str) -> Option<Scope> {
        let mut hash = Sha256::new();
        for field in [Some(path), headers.get("host"), headers.get("authorization"), headers.get("x-api-key")] {
            if field == Some("REDACTED") {
                return None;
            }
            hash.update(field.unwrap_or_default());
            hash.update([0]);
        }
        Some(Scope(hash.finalize().into()))
    }
}

impl Inventories {
    /// Takes out that of a scope, a new one where there is none; it goes back by [`Self::put`].
    pub(super) fn take(&mut self, scope: Scope) -> Inventory {
        let at = self.by_scope.iter().position(|(other, _)| *other == scope);
        let known = at.and_then(|at| self.by_scope.remove(at)).map(|(_, inventory)| inventory);
        known.unwrap_or_else(|| Inventory::after(self.begun))
    }

    /// Puts back what was taken.
    pub(super) fn put(&mut self, scope: Scope, inventory: Inventory) {
        if inventory.is_empty() {
            self.begun = self.begun.max(inventory.begun());
            return;
        }
        if self.by_scope.len() == INVENTORIES_MAX
            && let Some((_, gone)) = self.by_scope.pop_front()
        {
            self.begun = self.begun.max(gone.begun());
        }
        self.by_scope.push_back((scope, inventory));
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.by_scope.iter().map(|(_, inventory)| inventory.bytes()).sum()
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_scope.len()
    }

    /// The one that holds most.
    pub(super) fn largest(&mut self) -> Option<&mut Inventory> {
        self.by_scope.iter_mut().map(|(_, inventory)| inventory).max_by_key(|inventory| inventory.bytes())
    }
}
