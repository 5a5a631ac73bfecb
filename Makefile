# Works on a bare machine: Python 3.11 or newer, pip and make; no root, no venv module needed.
# Chooses opencv-python where its window libraries are there, else opencv-python-headless; and
# onnxruntime-gpu where an NVIDIA driver is, else onnxruntime. Never two of a kind.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CV     := $(shell $(PYTHON) -c "import ctypes; [ctypes.CDLL(l) for l in ('libGL.so.1', 'libSM.so.6', 'libICE.so.6', 'libgthread-2.0.so.0')]; print('window')" 2>/dev/null || echo headless)
ORT    := $(shell $(PYTHON) -c "import ctypes; ctypes.CDLL('libcuda.so.1'); print('gpu')" 2>/dev/null || echo cpu)

.PHONY: help demo test check soak install clean

help:
	@echo "make demo    install, and run the embedded model on the shipped clip"
	@echo "make test    install what tests need, and run them all"
	@echo "make check   ruff and mypy"
	@echo "make soak    the tests that take minutes: kills, hangs, memory"
	@echo "make clean   remove what was installed and the runs"

demo: $(VENV)/.installed-run
	@mkdir -p runs/demo
	$(BIN)/python run.py configs/demo.yaml --summary runs/demo/summary.json
	@echo "look at runs/demo/: annotated.mp4, events.jsonl, summary.json"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not soak and not gpu" $(PYTEST)

soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak $(PYTEST)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed-run

$(BIN)/python:
	$(PYTHON) -m venv --without-pip $(VENV)

# `pip --python` installs into the environment from outside, so it needs no pip of its own.
$(VENV)/.installed-run: pyproject.toml | $(BIN)/python
	$(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check -q -e ".[$(CV),$(ORT)]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check -q -e ".[$(CV),$(ORT),test]"
	@touch $@ $(VENV)/.installed-run

clean:
	rm -rf $(VENV) runs *.egg-info
