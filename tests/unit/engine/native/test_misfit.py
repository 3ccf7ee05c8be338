"""What a description may not ask for, however it came about."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from smolorad.engine.model.native_support import decoder_of
from smolorad.engine.native.misfit import misfit
from tests.families import family_model


@pytest.mark.parametrize(
    "change",
    [{"first_position": -1}, {"query.first": -1}, {"window": 2**31}, {"embedding": ""}],
    ids=lambda one: next(iter(one)),
)
def test_a_description_of_what_lies_before_a_tensor(change: dict[str, Any]) -> None:
    model = family_model("gpt 2")
    decoder = decoder_of(model)
    assert decoder is not None
    for name, value in change.items():
        layer = decoder.layers[0]
        if name == "query.first":
            layer = dataclasses.replace(layer, query=dataclasses.replace(layer.query, first=value))
        elif name == "window":
            layer = dataclasses.replace(layer, window=value)
        else:
            decoder = dataclasses.replace(decoder, **{name: value})
        decoder = dataclasses.replace(decoder, layers=(layer, *decoder.layers[1:]))
    assert misfit(decoder, {name: tensor.shape for name, tensor in model.named_parameters()})


def test_layers_that_choose_among_other_numbers_of_experts() -> None:
    model = family_model("olmoe")
    decoder, shapes = decoder_of(model), {name: tensor.shape for name, tensor in model.named_parameters()}
    assert decoder is not None
    assert not misfit(decoder, shapes)
    first, *others = decoder.layers
    assert first.experts is not None
    assert others
    for change in ({"active": 1}, {"normalized": not first.experts.normalized}):
        layer = dataclasses.replace(first, experts=dataclasses.replace(first.experts, **change))
        found = misfit(dataclasses.replace(decoder, layers=(layer, *others)), shapes)
        assert found is not None
        assert "experts" in found
