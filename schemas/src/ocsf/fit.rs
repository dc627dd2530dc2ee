//! Fits an event of the newest version to another one, or to its class: what the target does not know
//! moves to `unmapped`, nothing is lost.
//!
//! - a profile that the version or class does not have is taken out of `metadata.profiles`, and its
//!   attributes move to `unmapped` as `security_control.…`, `ai.…` or `trace.…`
//! - any other attribute that is not known there moves as its own path
//! - an enum value that is not known there moves with its label; the attribute becomes absent, or 99 with
//!   the label where it is required
//! - an observable whose path moved, or whose type is not known there, goes with it: it only points at what the event has
//! - what has another name there takes that name ([`RENAMED`])
//! - `unmapped.downgraded_from` says that this was done, so that "absent" and "moved" differ

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::facts::{AttributeType, Schema, Shape, Version};
use super::validate::{any_at, validate};

/// The event as `version` can say it; `None` when its class is not there or needs what the event has not.
pub(super) fn fit(mut event: Value, version: Version) -> Option<Value> {
    let schema = version.schema();
    let class = schema.classes.get(&event.get("class_uid")?.as_i64()?)?;
    let (active, foreign) = split_profiles(&mut event, schema, &class.profiles);
    keep_known_observables(&mut event, schema);
    let active = active.iter().map(String::as_str).collect();
    let mut fitting = Fitting { schema, active, foreign: &foreign, moved: Map::new() };
    let members = event.as_object_mut()?;
    fitting.shape(members, &class.shape, "");
    event["metadata"]["version"] = version.as_str().into();
    keep_true_observables(&mut event);
    let is_older = version < Version::NEWEST;
    if !fitting.moved.is_empty() {
        let unmapped = event.as_object_mut()?.entry("unmapped").or_insert_with(|| Value::Object(Map::new()));
        let unmapped = unmapped.as_object_mut()?;
        unmapped.extend(fitting.moved);
        if is_older {
            unmapped.insert("downgraded_from".into(), Version::NEWEST.as_str().into());
        }
    }
    validate(&event, version).is_empty().then_some(event)
}

/// Takes the profiles out that do not apply; returns those that do, and those that do not.
fn split_profiles(
    event: &mut Value,
    schema: &Schema,
    allowed: &BTreeSet<&'static str>,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let declared = event.pointer("/metadata/profiles").and_then(Value::as_array).cloned().unwrap_or_default();
    let declared = declared.iter().filter_map(Value::as_str).map(str::to_string);
    let applies = |name: &String| schema.profiles.contains(name.as_str()) && allowed.contains(name.as_str());
    let (active, foreign): (BTreeSet<_>, BTreeSet<_>) = declared.partition(applies);
    if let Some(metadata) = event.get_mut("metadata").and_then(Value::as_object_mut) {
        if active.is_empty() {
            metadata.remove("profiles");
        } else {
            metadata.insert("profiles".into(), active.iter().cloned().collect());
        }
    }
    (active, foreign)
}

/// Where an older version has another name for the same: object, name, name there.
const RENAMED: &[(&str, &str, &str)] = &[("actor", "app_name", "invoked_by")];

fn keep_known_observables(event: &mut Value, schema: &Schema) {
    let types = schema.objects.get("observable").and_then(|shape| shape.attributes.get("type_id"));
    let is_known = |observable: &Value| types.is_some_and(|types| types.caption(&observable["type_id"]).is_some());
    if let Some(observables) = event.get_mut("observables").and_then(Value::as_array_mut) {
        observables.retain(is_known);
    }
}

fn keep_true_observables(event: &mut Value) {
    let Some(observables) = event.get("observables").and_then(Value::as_array) else { return };
    let is_true = |observable: &Value| {
        let path = observable["name"].as_str().unwrap_or_default();
        any_at(event, path, &mut |value| *value == observable["value"])
    };
    let mut kept = observables.iter().map(is_true).collect::<Vec<_>>().into_iter();
    let Some(members) = event.as_object_mut() else { return };
    if let Some(Value::Array(observables)) = members.get_mut("observables") {
        observables.retain(|_| kept.next().unwrap_or(false));
        if observables.is_empty() {
            members.remove("observables");
        }
    }
}

struct Fitting<'p> {
    schema: &'static Schema,
    active: BTreeSet<&'p str>,
    foreign: &'p BTreeSet<String>,
    moved: Map<String, Value>,
}

impl Fitting<'_> {
    fn shape(&mut self, members: &mut Map<String, Value>, shape: &'static Shape, path: &str) {
        let is_known = |name: &str| shape.attributes.get(name).is_some_and(|known| known.is_active(&self.active));
        let strangers: Vec<String> = members.keys().filter(|name| !is_known(name)).cloned().collect();
        for name in strangers {
            if let Some(value) = members.remove(&name) {
                let renamed = RENAMED.iter().find(|(object, own, there)| {
                    *object == path && *own == name && is_there(shape, there) && !members.contains_key(*there)
                });
                if let Some((_, _, there)) = renamed {
                    members.insert((*there).into(), value.clone());
                }
                let at = self.foreign_name(path, &name);
                flatten(&at, value, &mut self.moved);
            }
        }
        self.enums(members, shape, path);
        let mut is_any_empty = false;
        for (name, value) in members.iter_mut().filter(|(_, value)| value.is_object() || value.is_array()) {
            let Some(attribute) = shape.attributes.get(name.as_str()) else { continue };
            let AttributeType::Object(object) = attribute.kind else { continue };
            let Some(inner) = self.schema.objects.get(object).filter(|inner| !inner.attributes.is_empty()) else {
                continue;
            };
            let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match value {
                Value::Object(inner_members) => {
                    self.shape(inner_members, inner, &at);
                    is_any_empty |= inner_members.is_empty();
                }
                Value::Array(items) => {
                    for (index, item) in items.iter_mut().enumerate() {
                        if let Value::Object(item) = item {
                            self.shape(item, inner, &format!("{at}[{index}]"));
                        }
                    }
                }
                _ => {}
            }
        }
        if is_any_empty {
            // Free-form objects may be empty; those of the schema say nothing then.
            let is_of_schema = |name: &str| match shape.attributes.get(name).map(|known| known.kind) {
                Some(AttributeType::Object(object)) => {
                    self.schema.objects.get(object).is_some_and(|inner| !inner.attributes.is_empty())
                }
                _ => false,
            };
            members.retain(|name, value| !(value.as_object().is_some_and(Map::is_empty) && is_of_schema(name)));
        }
    }

    /// Values that the target's enum does not have.
    fn enums(&mut self, members: &mut Map<String, Value>, shape: &'static Shape, path: &str) {
        let is_unknown = |name: &str, value: &Value| {
            let known = shape.attributes.get(name);
            let known = known.filter(|attribute| !attribute.values.is_empty() && !attribute.is_array);
            known.is_some_and(|attribute| attribute.caption(value).is_none())
        };
        let unknown: Vec<String> =
            members.iter().filter(|(name, value)| is_unknown(name, value)).map(|(name, _)| name.clone()).collect();
        for name in unknown {
            let (Some(attribute), Some(value)) = (shape.attributes.get(name.as_str()), members.remove(&name)) else {
                continue;
            };
            let label = attribute.sibling.and_then(|sibling| members.get(sibling)).cloned();
            let at = self.foreign_name(path, &name);
            flatten(&at, value, &mut self.moved);
            if attribute.is_required && label.is_some() {
                members.insert(name, 99.into());
                continue;
            }
            if let Some((sibling, label)) = attribute.sibling.zip(label) {
                members.remove(sibling);
                flatten(&self.foreign_name(path, sibling), label, &mut self.moved);
            }
        }
    }

    /// Where an attribute moves to: under the profile that it comes from, else under its own path.
    fn foreign_name(&self, path: &str, name: &str) -> String {
        let whole = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        let root = whole.split(['.', '[']).next().unwrap_or_default();
        let newest = Version::NEWEST.schema().classes.values().find_map(|class| class.shape.attributes.get(root));
        let profile = newest
            .into_iter()
            .flat_map(|attribute| &attribute.profiles)
            .find(|profile| self.foreign.contains(**profile));
        match profile.copied() {
            Some("ai_operation") => format!("ai.{whole}"),
            Some(profile) => format!("{profile}.{whole}"),
            None => whole,
        }
    }
}

fn is_there(shape: &Shape, name: &str) -> bool {
    shape.attributes.get(name).is_some_and(|attribute| attribute.profiles.is_empty())
}

/// Scalars at their paths, so that a consumer's index does not grow by nesting.
fn flatten(path: &str, value: Value, out: &mut Map<String, Value>) {
    match value {
        Value::Object(members) => {
            members.into_iter().for_each(|(name, value)| flatten(&format!("{path}.{name}"), value, out))
        }
        Value::Array(items) => {
            for (index, value) in items.into_iter().enumerate() {
                flatten(&format!("{path}[{index}]"), value, out);
            }
        }
        scalar => drop(out.insert(path.to_string(), scalar)),
    }
}
