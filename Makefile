# The commands for a newcomer. Each target sets up what it needs; `make` alone lists the targets.
PYTHON ?= python3
BOARD ?=
FILES ?=
PORT ?=
FLASH ?=
NOT_BOOTED ?=

# $(call option,--name,value): the option with its quoted value; nothing if the value is empty.
option = $(if $(2),$(1)='$(subst ','\'',$(2))')

VENV := .venv
STAMP := $(VENV)/stamp

help:
	@echo 'make run    boot an emulated board that serves ./files on UDP 6969  (BOARD=, FILES=, PORT=, FLASH=)'
	@echo 'make test   run the whole test suite'
	@echo 'make soak   a million datagrams and 10,000 transfers (15 minutes)'
	@echo 'make bench  measure the server against its budgets and other servers (20 minutes)'
	@echo 'make lint   ruff and the type checkers'
	@echo 'make release  build a release in build/release and boot its images in their emulators  (NOT_BOOTED=)'
	@echo 'make setup  only create .venv with what the other targets need'
	@echo 'make clean  remove .venv, build/ and all caches'

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or later is needed, but $(PYTHON) is older or missing; choose another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) has no module venv: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "setting up $(VENV), which takes a minute once"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install -q --disable-pip-version-check 'pip>=26.2'
	@$(VENV)/bin/pip install -q --disable-pip-version-check --group dev
	@$(VENV)/bin/pip install -q --disable-pip-version-check --no-build-isolation --only-deps .
	@$(VENV)/bin/pip install -q --disable-pip-version-check --group stubs --upgrade --target $(VENV)/stubs
	@touch $@

run: $(STAMP)
	@exec $(VENV)/bin/python -m tools emulate $(call option,--board,$(BOARD)) $(call option,--files,$(FILES)) \
		$(call option,--port,$(PORT)) $(call option,--flash-size,$(FLASH))

# Two halves at once: most tests wait for a board.
test: $(STAMP)
	@mkdir -p build; $(VENV)/bin/pytest tests/server >build/test-server.txt 2>&1 & server=$$!; \
	trap "kill $$server" INT TERM; \
	$(VENV)/bin/pytest tests/host tests/pure tests/boards; rest=$$?; \
	wait $$server; half=$$?; cat build/test-server.txt; exit $$((rest | half))

soak: $(STAMP)
	@SOAK=1 $(VENV)/bin/pytest tests/server/test_soak.py

$(VENV)/bench: $(STAMP)
	@$(VENV)/bin/pip install -q --disable-pip-version-check --no-build-isolation --only-deps '.[bench]'
	@touch $@

bench: $(VENV)/bench
	@$(VENV)/bin/python -m tools bench --field

lint: $(STAMP)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/basedpyright
	@$(VENV)/bin/basedpyright -p firmware

release: $(STAMP)
	@exec $(VENV)/bin/python -m tools.release --not-booted $(NOT_BOOTED)

clean:
	@rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +


.PHONY: help setup run test soak bench lint release clean
