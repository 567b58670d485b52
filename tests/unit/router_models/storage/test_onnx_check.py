"""ONNX files that reach outside of themselves are found, wherever in the graph they do it."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from router_models.storage.onnx_check import OnnxError, check_self_contained
from tests.fakes.artifacts import tiny_encoder


def changed() -> onnx.ModelProto:
    return onnx.load_from_string(tiny_encoder()[0])


def external(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def test_a_whole_model_passes() -> None:
    check_self_contained(tiny_encoder()[0])


def test_weights_in_another_file_are_refused() -> None:
    model = changed()
    external(model.graph.initializer[0])

    with pytest.raises(OnnxError, match="data outside of the file"):
        check_self_contained(model.SerializeToString())


def test_a_location_without_a_path_is_refused_too() -> None:
    model = changed()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL

    with pytest.raises(OnnxError, match="data outside of the file"):
        check_self_contained(model.SerializeToString())


def test_weights_in_another_file_are_found_inside_a_branch() -> None:
    model, inner = changed(), changed().graph
    external(inner.initializer[0])
    model.graph.node.append(helper.make_node("If", ["condition"], ["out"], then_branch=inner, else_branch=inner))

    with pytest.raises(OnnxError, match="data outside of the file"):
        check_self_contained(model.SerializeToString())


def test_an_operator_of_somebody_else_is_refused() -> None:
    model = changed()
    model.graph.node[0].domain = "com.example"

    with pytest.raises(OnnxError, match=r"operators of 'com\.example'"):
        check_self_contained(model.SerializeToString())


def test_an_operator_set_of_somebody_else_is_refused() -> None:
    model = changed()
    model.opset_import.add(domain="com.example", version=1)

    with pytest.raises(OnnxError, match=r"operators of 'com\.example'"):
        check_self_contained(model.SerializeToString())


def test_graphs_nested_without_end_are_refused() -> None:
    graph = changed().graph
    for _ in range(15):
        node = helper.make_node("If", ["condition"], ["out"], then_branch=graph)
        graph = helper.make_graph([node], "nest", [], [])

    with pytest.raises(OnnxError, match="nested too deeply"):
        check_self_contained(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("content", [b"\x08", b"\x0f", b"\x3a\xff\xff\xff\x7f", b"\xff" * 12, tiny_encoder()[0][:-3]])
def test_what_is_no_protobuf_is_refused(content: bytes) -> None:
    with pytest.raises(OnnxError):
        check_self_contained(content)
