"""Rules of imports, sizes and names, read from the source: no code is run."""

import ast
import functools
from pathlib import Path

import pytest

import stages
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
        "models/onnx_trace.py",
    ],  # the latter two map a file to read it
    # The former for frames under way; the latter, a sink, for events.
    "zmq": ["pipeline/edge.py", "stages/sinks/publish/zeromq.py"],
    "onnxruntime": ["models/runtime.py"],
}
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "multiprocessing"}
LATE = {"onnxruntime", "scipy", "onnx", "urllib", "http", "ssl", "requests", "skimage"}
"""Slow or only sometimes needed: a worker is a fork and imports nothing that it does not use."""
ORDER = {
    "pipeline": (
        "errors urls",
        "messages frame context stage_errors",
        "arrays text_files yaml_reader status",
        "stage",
        "config",
        "memory",
        "edge",
        "graph",
        "telemetry",
        "worker",
        "supervisor",
        "service bench bench_figures bench_process bench_stages testing",
        "commands",
    ),
    "models": (
        "errors text files file_kind struct_errors boxes proposals metadata load_limit "
        "provider_failure",
        "protobuf onnx_graph onnx_header onnx_trace transform yaml_reader output_layout",
        "layout_problems",
        "results",
        "card",
        "image_input",
        "families",
        "contract",
        "card_writer feed inspect",
        "download zoo",
        "runtime",
        "golden",
        "datasets evaluation",
        "training",
        "tools",
    ),
}
"""Folders and files of a package, lowest first: each may import those of its line and above."""
MAX_FILE_LINES = 400
MAX_CLASS_LINES = 300
MAX_ATTRIBUTES = 20
LARGE = {
    "pipeline/memory/arena.py:Arena": "head, slot table and ledger are one layout of words",
}
"""File, or file:class, that exceeds a limit -> why. Fewer than five."""
SCRIPTS = {"models/tools/convert_ssdlite.py"}
"""Run by hand, never imported."""


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


def is_of_run(path):
    """Whether a file belongs to run.py, which may import everything."""
    return name_of(path) == "run.py" or name_of(path).startswith("pipeline/commands/")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_one_way(path):
    allowed = LAYERS["run.py" if is_of_run(path) else path.relative_to(ROOT).parts[0]]
    assert imported(tree_of(path)) & OWN <= allowed


@functools.cache
def modules():
    """Name of each module of ours -> its file."""
    names = {}
    for path in FILES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = path
    return names


@functools.cache
def own_imports(module):
    """The modules of ours that a module imports, wherever in its file."""
    found = set()
    for node in ast.walk(tree_of(modules()[module])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules() else str(node.module))
    return (found & modules().keys()) - {module}


def level_of(module, order):
    """Place of a module in the order of its package; None: it is not in the list."""
    path = name_of(modules()[module]).removesuffix(".py").partition("/")[2]
    for level, names in enumerate(order):
        if any(path == name or path.startswith(f"{name}/") for name in names.split()):
            return level
    return None


@pytest.mark.parametrize("module", [m for m in sorted(modules()) if m.partition(".")[0] in ORDER])
def test_inside_a_package_imports_run_in_one_order(module):
    package = module.partition(".")[0]
    if module == package:
        return
    own = level_of(module, ORDER[package])
    assert own is not None, f"{module} has no place in ORDER"
    for other in own_imports(module):
        if other.partition(".")[0] == package and other != package:
            assert level_of(other, ORDER[package]) <= own, f"{module} imports {other}"


def test_no_module_imports_itself_through_others():
    waiting = {module: set(own_imports(module)) for module in modules()}
    while True:
        free = {module for module, needs in waiting.items() if not needs & waiting.keys()}
        if not free:
            break
        waiting = {module: needs for module, needs in waiting.items() if module not in free}
    # Those that are left import a circle, or are a part of one.
    assert waiting == {}


@pytest.mark.parametrize(
    "role", ["capture", "inference", "tracking", "analytics", "drawing", "sinks"]
)
def test_roles_of_stages_do_not_import_each_other(role):
    shared = {"sinks": {"analytics", "drawing"}, "inference": {"analytics"}}.get(role, set())
    for module in modules():
        if not module.startswith(f"stages.{role}"):
            continue
        for other in own_imports(module):
            parts = other.split(".")
            if parts[0] == "stages" and len(parts) > 2:
                assert parts[1] in {role, *shared}, f"{module} imports {other}"


def attributes_of(tree):
    """Names of what an object of a class has: set on `self`, or in its body without a value."""
    found = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            found.add(node.attr)
    return found


def too_large(path):
    """Names of a file, and of classes in it, that exceed a limit."""
    large = []
    if len(path.read_text().splitlines()) > MAX_FILE_LINES:
        large.append(name_of(path))
    for node in tree_of(path).body:
        if isinstance(node, ast.ClassDef):
            name = f"{name_of(path)}:{node.name}"
            if (node.end_lineno or 0) - node.lineno >= MAX_CLASS_LINES or len(
                attributes_of(node)
            ) > MAX_ATTRIBUTES:
                large.append(name)
    return large


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_classes_are_small_enough_to_be_read(path):
    assert [name for name in too_large(path) if name not in LARGE] == []


def test_every_exception_is_still_needed():
    assert {name for path in FILES for name in too_large(path)} == LARGE.keys()


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if name_of(p).startswith("pipeline/") or name_of(p) == "run.py"],
    ids=name_of,
)
def test_the_machinery_asks_what_stages_declare_and_guesses_nothing(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            of = ast.unparse(node.args[0])
            assert "settings" not in of, f"{path.name}:{node.lineno}"
            assert "capture" not in of, f"{path.name}:{node.lineno}"
            assert ast.unparse(node.func) != "hasattr", f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for side in sides:
                of_use = isinstance(side, ast.Attribute) and side.attr == "use"
                assert not of_use, f"{path.name}:{node.lineno} compares the name of a stage"


def test_a_file_that_holds_a_stage_is_called_as_its_name_in_settings():
    for use, location in stages.LOCATIONS.items():
        module = location.partition(":")[0]
        expected = {"zmq": "zeromq", "draw": "null"}.get(use, use)
        assert module.rpartition(".")[2] == expected


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


def test_only_the_folder_of_training_imports_torch():
    users = [name_of(path) for path in FILES if "torch" in imported(tree_of(path))]
    assert users
    assert [name for name in users if not name.startswith("models/training/")] == []


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


def test_no_module_imports_a_script():
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
