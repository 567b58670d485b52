"""What a JSON schema of a reference may say."""

import json

import pytest

from router_models.aptitude import GraderError, grade


def test_a_schema_may_refer_to_itself() -> None:
    tree = {"$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}, "required": ["n"]}}, "$ref": "#/$defs/n"}
    answers = ('{"n": 1, "next": {"n": 2}}', '{"n": 1, "next": {}}')

    assert [grade("json_schema", json.dumps({"schema": tree}), each) for each in answers] == [1, 0]
    with pytest.raises(GraderError, match="does not end"):
        grade("json_schema", json.dumps({"schema": {"$ref": "#"}}), '{"n": 1}')
