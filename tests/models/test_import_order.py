"""The modules of `models` import each other in one direction, also for type checking."""

import ast

import pytest

from tests.builders import ROOT

ORDER = (
    ("errors", "text", "files", "boxes", "metadata", "load_limit", "provider_failure"),
    ("protobuf", "onnx_graph", "onnx_header", "transform", "yaml_reader"),
    ("card",),
    ("image_input",),
    ("families",),
    ("contract",),
    ("inspect",),
    ("download", "zoo"),
    ("runtime",),
    ("tools",),
)
"""Top-level modules, lowest layer first; within a layer, only circles are refused."""

LAYER = {name: level for level, names in enumerate(ORDER) for name in names}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "models").rglob("*.py"))
}


def imports_of(module):
    """Return the modules of `models` that a module imports, in any statement of its file."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from models import card` imports a module, `from models.card import Card` a name.
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & FILES.keys()) or {node.module}
    return found & FILES.keys()


def layer_of(module):
    return LAYER[module.split(".")[1]]


@pytest.mark.parametrize("module", [name for name in FILES if name != "models"])
def test_a_module_imports_no_module_of_a_higher_layer(module):
    above = {name for name in imports_of(module) if layer_of(name) > layer_of(module)}
    assert above == set()


def test_no_module_imports_itself_through_others():
    done = set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in imports_of(module):
                visit(name, (*path, module))
            done.add(module)

    for module in FILES:
        visit(module, ())
