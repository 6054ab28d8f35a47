"""Errors cross from worker processes and other machines as themselves."""

import importlib
import pkgutil

import pytest

import dermatome
from dermatome.errors import DermatomeError
from dermatome.pipeline.work import portable


def every_error():
    for module in pkgutil.walk_packages(dermatome.__path__, "dermatome."):
        importlib.import_module(module.name)
    found, unseen = [], [DermatomeError]
    while unseen:
        kind = unseen.pop()
        found.append(kind)
        unseen += kind.__subclasses__()
    return [kind for kind in dict.fromkeys(found) if kind.__module__.startswith("dermatome")]


@pytest.mark.parametrize("kind", every_error())
def test_ours_arrive_as_themselves(kind):
    sent = kind("The image x is bad: take another.")
    arrived = portable(sent)
    assert type(arrived) is kind
    assert str(arrived) == str(sent)
