"""The values of `format`: which of them llguidance checks, which are a pattern, and which say nothing of a text."""

from __future__ import annotations

from typing import Any

from smolorad.engine.text.grammar.schema_document import Node, types

_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_LEAP_YEAR = r"([0-9][0-9](0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_YEAR = r"([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_DAY = r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_DATE = f"({_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_POINTER = "(/([^~/]|~[01])*)*"
_BASE64 = "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
# llguidance knows neither leap years nor that there is no year 0.
_FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_CLOCK}$",
    "date-time": f"^{_DATE}T{_CLOCK}$",
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(0|[1-9][0-9]{{0,8}})(#|{_POINTER})$",
    "regex": r"^([A-Za-z0-9 _,:;=@#%&/-]|\\[dws.])*$",
    "base64": f"^{_BASE64}$",
    "byte": f"^{_BASE64}$",
    "base64url": r"^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?$",
}
# Formats of which another is a part.
_WIDER = {
    "idn-email": "email",
    "idn-hostname": "hostname",
    "iri": "uri",
    "iri-reference": "uri",
    "uri-reference": "uri",
    "uri-template": "uri",
}
# Formats that say what a text is for, or how it is shown, and nothing of its characters.
_HINTS = {
    "binary",
    "commonmark",
    "directory-path",
    "file-path",
    "html",
    "json-string",
    "markdown",
    "password",
    "path",
    "textarea",
}
_KNOWN = {*_FORMATS, *_WIDER, *_WIDER.values(), "duration", "ipv4", "ipv6", "uuid"}


def says_nothing(node: Node, form: Any) -> bool:
    """Whether a `format` constrains no value: of another type, a hint, or an unknown one whose pattern stands beside it."""
    if "type" in node and "string" not in types(node):
        return True
    return isinstance(form, str) and (form in _HINTS or ("pattern" in node and form not in _KNOWN))


def set_format(node: Node) -> None:
    """Puts a pattern, or a narrower format, in the place of one that llguidance does not know as validators do."""
    form = node.get("format")
    also = node.get("allOf", [])
    if not isinstance(form, str) or "string" not in types(node) or not isinstance(also, list):
        return
    if form in _WIDER:
        node["format"] = _WIDER[form]
    if form in _FORMATS:
        wanted = _FORMATS[node.pop("format")]
        if "pattern" in node:
            node["allOf"] = [*also, {"type": "string", "pattern": wanted}]
        else:
            node["pattern"] = wanted
