#!/usr/bin/env python3
"""Writes the compact class facts that `ocsf::facts` reads, from a compiled OCSF schema.

    compact.py COMPILED_SCHEMA.json VERSION > VERSION.txt

COMPILED_SCHEMA.json is what the official `ocsf-schema-compiler` makes of a tag of the schema's
repository (github.com/ocsf/ocsf-schema, Apache-2.0). VERSION is the tag: the sources of tag 1.5.0 call
themselves 1.6.0-dev. Only the classes and objects that our mapping uses are written; an object that is
not among them may not appear in an event.

Lines, tab-separated:
    version  VERSION
    type     NAME  BASE
    profile  NAME
    class    UID  CAPTION  CATEGORY_UID  CATEGORY  PROFILES  CONSTRAINTS
    object   NAME  CONSTRAINTS
    -        NAME  TYPE  FLAGS(R required, A array)  PROFILES  SIBLING  ENUM(id=caption|...)
An attribute of type object_t is written `object:NAME`. Lines starting with `-` belong to the class or
object above them."""
import json
import sys

CLASSES = (1001, 1007, 1008, 2004, 3002, 3003, 4002, 6002, 6003, 6005)
OBJECTS = (
    "actor ai_model analytic api application authentication_token authorization database device evidences file "
    "fingerprint finding_info "
    "http_request http_response logger message_context metadata network_endpoint object observable policy process "
    "product query_info related_event request resource_details response service session span trace url user group"
).split()

schema = json.load(open(sys.argv[1], encoding="utf-8"))


def line(*fields):
    print("\t".join(str(field) for field in fields))


def constraints(spec):
    return ";".join(f"{rule}={','.join(names)}" for rule, names in sorted((spec.get("constraints") or {}).items()))


def attributes(spec):
    for name, attribute in sorted(spec["attributes"].items()):
        kind = attribute["type"]
        if kind == "object_t":
            kind = "object:" + attribute["object_type"]
        flags = ("R" if attribute.get("requirement") == "required" else "") + ("A" if attribute.get("is_array") else "")
        enum = {} if name == "type_uid" else attribute.get("enum") or {}
        values = "|".join(f"{value}={entry['caption']}" for value, entry in enum.items())
        line("-", name, kind, flags, ",".join(attribute.get("profiles") or []), attribute.get("sibling", ""), values)


line("version", sys.argv[2])
for name, spec in sorted(schema["dictionary"]["types"]["attributes"].items()):
    line("type", name, spec.get("type", name))
for name in sorted(schema["profiles"]):
    line("profile", name)
for spec in sorted(schema["classes"].values(), key=lambda spec: spec["uid"]):
    if spec["uid"] in CLASSES:
        profiles = ",".join(spec.get("profiles") or [])
        line("class", spec["uid"], spec["caption"], spec["category_uid"], spec["category_name"], profiles, constraints(spec))
        attributes(spec)
for name in OBJECTS:
    if name in schema["objects"]:
        line("object", name, constraints(schema["objects"][name]))
        attributes(schema["objects"][name])
