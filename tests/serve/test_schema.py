"""schemathesis over the schema that the gateway gives out: no answer of the 5xx kind, every answer as described."""

from __future__ import annotations

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serve.conftest import Running

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = settings(
    max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


def test_nothing_that_fits_the_schema_or_does_not_breaks_it(embedded: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{embedded.url}/openapi.json")
    tried = []
    with requests.Session() as session:
        for operation in (result.ok() for result in schema.get_all_operations()):
            for mode in GenerationMode:

                @EXAMPLES
                @given(case=operation.as_strategy(generation_mode=mode))
                def holds(case: schemathesis.Case) -> None:
                    case.validate_response(case.call(session=session), checks=CHECKS)
                    tried.append(case.operation.path)

                if mode is GenerationMode.POSITIVE or operation.body:
                    holds()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/verify", "/v1/models/{name}"} <= set(tried)
    assert len(tried) > 50
