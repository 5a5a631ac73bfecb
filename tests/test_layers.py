"""Who may import whom, and what nobody may use; read from the source, so nothing is run."""

import ast
import functools
from pathlib import Path

import pytest

from tests.builders import ROOT

FILES = sorted(
    path
    for path in (
        ROOT / "run.py",
        *(p for folder in ("pipeline", "stages", "models") for p in (ROOT / folder).rglob("*.py")),
    )
)
LAYERS = {
    "pipeline": {"pipeline"},
    "models": {"models"},
    "stages": {"stages", "models", "pipeline"},
    "run.py": {"stages", "models", "pipeline"},
}
OWN = {"pipeline", "models", "stages", "run", "tests"}
ALONE = {
    "mmap": [
        "pipeline/memory/shared.py",
        "models/onnx_header.py",
    ],  # the latter maps a file to read it
    # The former for frames under way; the latter, a sink, for events.
    "zmq": ["pipeline/edge.py", "stages/sinks/publish/zeromq.py"],
    "onnxruntime": ["models/runtime.py"],
}
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "multiprocessing"}
LATE = {"onnxruntime", "scipy", "onnx", "urllib", "http", "ssl", "requests"}
"""Slow or only sometimes needed: a worker is a fork and imports nothing that it does not use."""
SCRIPTS = {"models/tools/convert_ssdlite.py"}
"""Run by hand, imported by nobody."""


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text(), str(path))


@functools.cache
def imported(tree):
    """Top-level names of all modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            arguments = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            found |= {str(value).partition(".")[0] for value in arguments}
    return found


def at_import(tree):
    """The same, of what is imported as soon as the file is."""
    found = set()
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= imported(ast.Module([node], []))
        waiting.extend(ast.iter_child_nodes(node))
    return found


def calls(tree):
    """Names of all functions that are called, as written."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_all_parts_are_looked_at():
    names = {name_of(path) for path in FILES}
    assert {
        "run.py",
        "pipeline/memory/arena.py",
        "stages/capture/capture.py",
        "models/runtime.py",
    } <= names
    assert any(name.startswith("models/families/") for name in names)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_one_way(path):
    allowed = LAYERS[path.relative_to(ROOT).parts[0]]
    assert imported(tree_of(path)) & OWN <= allowed


@pytest.mark.parametrize("module", ALONE)
def test_one_file_alone_touches_each_outside_thing(module):
    users = [name_of(path) for path in FILES if module in imported(tree_of(path))]
    assert sorted(users) == sorted(ALONE[module])


def test_tests_import_onnxruntime_only_through_models():
    # Imported before `models`, it would report to its vendor.
    users = [
        name_of(path)
        for path in (ROOT / "tests").rglob("*.py")
        if "onnxruntime" in imported(tree_of(path))
    ]
    assert users == []


def test_shared_memory_is_made_in_one_file():
    makers = [name_of(path) for path in FILES if "os.memfd_create" in calls(tree_of(path))]
    assert makers == ["pipeline/memory/shared.py"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_runs_what_it_read(path):
    tree = tree_of(path)
    assert imported(tree) & FORBIDDEN == set()
    called = calls(tree)
    assert (
        called & {"eval", "exec", "compile", "__import__", "os.system", "yaml.unsafe_load"} == set()
    )
    assert not {name for name in called if name.endswith(("pickle.loads", "pickle.load"))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                text = ast.unparse(keyword.value)
                assert (keyword.arg, text) not in {("allow_pickle", "True"), ("shell", "True")}


def test_nobody_imports_a_script():
    for path in FILES:
        text = path.read_text()
        for script in SCRIPTS:
            module = script.removesuffix(".py").replace("/", ".")
            assert f"import {module}" not in text
            assert f"from {module}" not in text


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p) not in SCRIPTS], ids=name_of)
def test_what_is_slow_to_import_is_imported_where_it_is_needed(path):
    assert at_import(tree_of(path)) & LATE == set()


def test_the_check_itself_sees_imports_of_every_form():
    tree = ast.parse(
        "import a.b, c as d\n"
        "def f():\n    from e.f import g\n"
        "if TYPE_CHECKING:\n    import h\n"
        "class C:\n    import i\n"
        "try:\n    import j\nexcept ImportError:\n    pass\n"
        "importlib.import_module('k.l')\n"
    )
    assert imported(tree) == set("acehijk")
    assert at_import(tree) == set("acij")


def test_tests_do_without_what_is_not_in_the_repository():
    outside = "/".join(["", "work", ""])
    for path in (ROOT / "tests").rglob("*.py"):
        assert outside not in path.read_text(), name_of(path)
    assert Path(__file__).is_relative_to(ROOT)
