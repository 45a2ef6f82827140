"""What the package says of itself: examples that run, type hints that resolve, signatures that a reader can read."""

import doctest
import inspect
import re
import typing
from importlib import import_module
from pathlib import Path

import pytest

import rsf

PACKAGE = Path(rsf.__file__).parent
MODULES = sorted(
    ".".join(("rsf", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
)
GROUND = ["rsf.acceptance", "rsf.accounts", "rsf.checks", "rsf.finite", "rsf.plots"]
ROOMS = ["rsf.rules", "rsf.sampling", "rsf.selection", "rsf.generation", "rsf.audit"]


def public_names(module):
    """Return the names that a module offers: its `__all__`, or the functions and classes that it defines."""
    module = import_module(module)
    defined = [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    ]
    return sorted(getattr(module, "__all__", defined))


NAMES = [(module, name) for module in GROUND + ROOMS for name in public_names(module)]
every_name = pytest.mark.parametrize("module, name", NAMES, ids=[".".join(pair) for pair in NAMES])


def functions(thing):
    """Yield, with their names, what can be called: a function, or the public methods of a class that rsf wrote."""
    if not inspect.isclass(thing):
        yield "", thing
        return
    for base in thing.__mro__:
        for name, member in vars(base).items():
            if isinstance(member, property):
                member = member.fget
            member = inspect.unwrap(getattr(member, "__func__", member))
            ours = inspect.isfunction(member) and Path(inspect.getfile(member)).is_relative_to(PACKAGE)
            if ours and (not name.startswith("_") or name in ("__init__", "__call__", "__iter__")):
                yield f".{name}", member


def without_hints(function):
    """Return the parameters of a function that have no hint, and "return" if that has none."""
    hints = typing.get_type_hints(function)  # raises where one does not resolve
    signature = inspect.signature(function)
    wanted = [name for name in signature.parameters if name not in ("self", "cls")]
    if function.__name__ != "__init__":
        wanted.append("return")
    return [name for name in wanted if name not in hints]


def test_all_modules_were_seen():
    assert len(MODULES) > 40 and set(GROUND + ROOMS) < set(MODULES) and "rsf.lab.records" in MODULES
    assert len(NAMES) > 60


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run(module):
    failed, tried = doctest.testmod(import_module(module))
    assert failed == 0
    assert tried > 0 or module not in {"rsf.acceptance", "rsf.checks", "rsf.finite", "rsf.rules.fixed"}


@every_name
def test_type_hints_are_there_and_resolve(module, name):
    thing = getattr(import_module(module), name)
    if inspect.isclass(thing):
        typing.get_type_hints(thing)
    missing = {f"{name}{method}": without_hints(function) for method, function in functions(thing)}
    assert {where: parameters for where, parameters in missing.items() if parameters} == {}


@every_name
def test_a_signature_shows_no_address_and_no_lambda(module, name):
    thing = getattr(import_module(module), name)
    for method, function in functions(thing):
        signature = str(inspect.signature(function))
        assert not re.search(r"0x[0-9a-f]{4}|<lambda>|<function", signature), f"{name}{method}{signature}"


@every_name
def test_what_is_public_says_what_it_is(module, name):
    thing = getattr(import_module(module), name)
    silent = [
        f"{name}{method}"
        for method, function in functions(thing)
        if not method.startswith(".__") and not function.__doc__
    ]
    assert thing.__doc__ and silent == []


def no_hint(a, b: int):
    pass


def bad_hint(a: "Nowhere") -> None:  # noqa: F821
    pass


def lambda_default(a: int, key=lambda value: value) -> None:
    pass


def test_the_test_of_hints_sees_what_is_wrong():
    assert without_hints(no_hint) == ["a", "return"] and without_hints(lambda_default) == ["key"]
    with pytest.raises(NameError, match="Nowhere"):
        without_hints(bad_hint)
    assert re.search("<function|0x", str(inspect.signature(lambda_default)))
