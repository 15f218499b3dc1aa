"""Checks a value against the parts of JSON Schema (draft 2020-12) that our schema uses."""

from typing import Any

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
KNOWN = {"$schema", "$defs", "$ref", "type", "const", "enum", "anyOf", "oneOf", "properties"} | {
    "required",
    "additionalProperties",
    "items",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "default",
    "description",
}


def fits(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether `value` fits `schema`, a part of the schema `whole`."""
    assert schema.keys() <= KNOWN, schema.keys() - KNOWN
    if "$ref" in schema:
        return fits(value, whole["$defs"][schema["$ref"].removeprefix("#/$defs/")], whole)
    if "type" in schema:
        is_other = isinstance(value, bool) and schema["type"] != "boolean"
        if is_other or not isinstance(value, TYPES[schema["type"]]):
            return False
    if ("const" in schema and value != schema["const"]) or value not in schema.get("enum", [value]):
        return False
    if "anyOf" in schema and not any(fits(value, option, whole) for option in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(fits(value, option, whole) for option in schema["oneOf"]) != 1:
        return False
    if "minimum" in schema and value < schema["minimum"]:
        return False
    if "maximum" in schema and value > schema["maximum"]:
        return False
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        return False
    if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
        return False
    if isinstance(value, list):
        return all(fits(item, schema.get("items", {}), whole) for item in value)
    return not isinstance(value, dict) or fits_object(value, schema, whole)


def fits_object(value: dict[str, Any], schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether the keys are known, complete, and their values fit."""
    keys, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    if not set(schema.get("required", [])) <= value.keys():
        return False
    for name, inner in value.items():
        rule = keys.get(name, others)
        if rule is False or (rule is not True and not fits(inner, rule, whole)):
            return False
    return True
