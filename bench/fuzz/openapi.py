"""What the gateway's own OpenAPI document promises, held against it by schemathesis."""

from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case as AnyCase
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from bench.fuzz.calls import Caller
from bench.fuzz.judging import HangError, Secret, StatusError
from bench.fuzz.requests import MODEL, WITHIN_S

Case = AnyCase[Any]

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


class Document:
    """The calls of a gateway as it describes them.

    Args:
        address: host:port.
        caller: Who calls.
    """

    def __init__(self, address: str, caller: Caller) -> None:
        self._base = f"http://{address}"
        document = requests.get(f"{self._base}/openapi.json", timeout=WITHIN_S).json()
        for described in document["components"]["schemas"].values():
            if "model" in described.get("properties", {}):
                # Otherwise hardly a request would get beyond the name of the model.
                described["properties"]["model"]["enum"] = [MODEL]
        self._schema = schemathesis.openapi.from_dict(document)
        self._headers = {name: value for name, value in caller.metadata if isinstance(value, str)}

    def cases(self) -> st.SearchStrategy[Case]:
        """Requests that the document allows, and requests that it forbids."""
        operations = [found.ok() for found in self._schema.get_all_operations() if isinstance(found, Ok)]
        return st.one_of(
            *(
                operation.as_strategy(mode)
                for operation in operations
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
            )
        )

    def ask(self, case: Case) -> Any:
        """Carry one out."""
        try:
            return case.call(base_url=self._base, headers=self._headers, timeout=WITHIN_S)
        except requests.RequestException as error:
            raise HangError(f"{case.method} {case.path}: {error}") from error

    def judge(self, secret: Secret, case: Case, response: Any) -> None:
        """Raise FuzzError if an answer is not what the document says."""
        secret.require_absent((response.content, *map(str, response.headers.values())))
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as failures:
            raise StatusError("; ".join(f"{each.title}: {each.message}" for each in failures.exceptions)) from None
