"""Owns the failures that Schemathesis may report: the exceptions that docs/REST.md documents under "What the
schema does not say". Schemathesis imports this module itself."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import schemathesis
from google.protobuf import json_format
from schemathesis.core.failures import AcceptedNegativeData, ServerError
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

from coordinator.web.filter_bodies import parse_message
from coordinator.web.gateway import request_class
from coordinator.web.openapi import document
from coordinator.web.routes import CALLS
from lookalike.model.errors import InvalidRequest
from lookalike.server.config import LimitsConfig

_RPCS = {call.operation: call.rpc for call in CALLS}
_DOCUMENT = document(LimitsConfig())
# Rules that a JSON schema cannot state, by the start of the error's message.
_RULES = re.compile(
    "|".join(
        (
            # Fields that need or exclude another one, and the content of texts and numbers.
            r"((examples|not_like)\[\d+\](\.box)?|box|examples|not_like):",
            r"(record ['\"].*['\"]|code_space|query|filter|cursor|keys):",
            r"(attributes|attribute|remove|index attributes|hash_file):",
            r"(after|offset|exclude_keys|group_by|group_size|k|rerank|score|projections|features):",
            r"(ttl|ttl\.\w+|alias|target|new_name|encoder):",
            r"(if_version|if_versions|feature_width|box|examples|negatives|positives|weights?):",
            r"body: .*: Value out of range",
            # What the collection, or the cluster, has.
            r"collection: .* (has the|is an) alias",
            r"target: .* the collection to copy from",
            r"code: .* the collection's codes have",
            r"(encoder: this cluster has none|image: this cluster has no encoder)",
            r"fingerprint: .* without its code space's fingerprint",
            # For a body whose schema refers to itself, Schemathesis sends 0 instead.
            r"body: not a JSON object",
        )
    )
)


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure is none of the documented exceptions."""
    if isinstance(failure, ServerError):
        return not (response.status_code == 504 and "X-Timeout-Ms" in case.headers)
    if isinstance(failure, RejectedPositiveData):
        return not (response.status_code == 400 and _RULES.match(json.loads(response.content)["error"]["message"]))
    if isinstance(failure, AcceptedNegativeData):
        # Schemathesis does not know 413, and takes a header that nobody reads for an invalid request.
        has_unknown_header = "x-schemathesis-unknown-property" in (case.headers or {})
        return response.status_code != 413 and not has_unknown_header and not _is_another_spelling(case)
    if isinstance(failure, UseAfterFree):
        # A read of several keys leaves out those that do not exist.
        return not case.operation.path.endswith("/records")
    return True


def _is_another_spelling(case: Any) -> bool:
    """Whether the body is another spelling, in protobuf's JSON mapping, of one that fits the schema."""
    operation = case.operation.definition.raw["operationId"]
    try:
        parse_message(json.dumps(case.body), message := request_class(_RPCS[operation])())
    except (KeyError, TypeError, AttributeError, json_format.ParseError, InvalidRequest):
        return False
    path = _DOCUMENT["paths"][case.operation.path][case.operation.method.lower()]
    schema = path["requestBody"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": _DOCUMENT["components"]}
    return bool(jsonschema.Draft202012Validator(whole).is_valid(json_format.MessageToDict(message)))
