# fleetcast. `make` or `make help` lists the targets.

SHELL := /bin/bash
BIN := .venv/bin
# python3.11, or python3 when that is 3.11. Another one: make PYTHON=/path/to/python3.11
PYTHON ?= $(shell for p in python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo "$$p" && break; done)
DATA ?=
TARGETS ?=
ARGS ?=
# DATA without TARGETS is passed on: the command itself says what is missing.
STREAM = $(if $(DATA),--data "$(DATA)") $(if $(TARGETS),--targets "$(TARGETS)")

.DEFAULT_GOAL := help
.PHONY: help run test check smoke smoke-job chaos drill bench-model bench-windows bench-buffer bench-serve bench-ledger bench-gate bench-weights bench-drift bench-online bench-ett bench-merge bench-federated demo-federated bench-alerts check-rules check-board clean .venv

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  run, smoke, bench-online and demo-federated take DATA=file.parquet TARGETS=column,column; run, test, smoke, smoke-job, chaos and drill take ARGS="..."'

run: .venv/stamp  ## the demo fleet (or your DATA): train, serve, stream, learn; Ctrl-C stops it
	@$(BIN)/fleetcast run --config configs/laptop.toml $(STREAM) $(ARGS)

test: .venv/stamp  ## every test and doctest; ARGS="-m 'not ray and not slow'" for the quick ones
ifeq ($(strip $(ARGS)),)
	@# Those on Ray mostly wait, the others mostly compute: side by side they take two thirds of the time.
	@said=$$(mktemp); status=0; \
	$(BIN)/python -m pytest -q -m ray -p no:cacheprovider --durations=10 >"$$said" 2>&1 & \
	$(BIN)/python -m pytest -q -m 'not ray' --durations=10 || status=$$?; \
	wait $$! || status=$$?; echo 'The tests on Ray:'; cat "$$said"; rm -f "$$said"; exit $$status
else
	$(BIN)/python -m pytest -q --durations=15 $(ARGS)
endif

check: .venv/stamp  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

smoke: .venv/stamp  ## the whole way unattended, from empty state; the last line is its JSON result
	@$(BIN)/python -m bench.smoke $(STREAM) $(ARGS)

smoke-job: .venv/stamp  ## Ray's own commands: a head, a training job, two deploys; JSON result
	@$(BIN)/python -m bench.smoke_job $(ARGS)

chaos: .venv/stamp  ## kill -9 over everything under load, on two Ray nodes; JSON result
	@$(BIN)/python -m bench.chaos $(ARGS)

drill: .venv/stamp  ## bad versions, damaged files, the way back: on a live fleet under load; JSON result
	@$(BIN)/python -m bench.drill $(ARGS)

bench-model: .venv/stamp  ## the fast network against pytorch-forecasting's, side by side; JSON result
	@$(BIN)/python -m bench.model $(ARGS)

bench-windows: .venv/stamp  ## from the grid to batches, against pytorch-forecasting's loader; JSON result
	@$(BIN)/python -m bench.windows $(ARGS)

bench-buffer: .venv/stamp  ## samples into the buffer, with its log and without, against a deque of rows; JSON result
	@$(BIN)/python -m bench.buffer $(ARGS)

bench-serve: .venv/stamp  ## forecasts over HTTP against a plain FastAPI app, and the engine alone; JSON result
	@$(BIN)/python -m bench.serve $(ARGS)

bench-ledger: .venv/stamp  ## a large fleet's slot stored, scored, published, against a row for each; JSON result
	@$(BIN)/python -m bench.ledger $(ARGS)

bench-gate: .venv/stamp  ## how often the gate is right, on loss series of real updates; JSON result
	@$(BIN)/python -m bench.gate $(ARGS)

bench-weights: .venv/stamp  ## learned ensemble weights against fixed ones, labels late or not; JSON result
	@$(BIN)/python -m bench.weights $(ARGS)

bench-drift: .venv/stamp  ## how often drift is told where there is none, how soon where there is; JSON result
	@$(BIN)/python -m bench.drift $(ARGS)

bench-online: .venv/stamp  ## what online learning brings on real streams, leak-free; DATA=file; JSON result
	@$(BIN)/python -m bench.online $(STREAM) $(ARGS)

bench-ett: .venv/stamp  ## the least-squares solver on ETTh1, a known anchor; JSON result
	@$(BIN)/python -m bench.ett $(ARGS)

bench-merge: .venv/stamp  ## merging sites' deltas against a plain sum, through Ray, in a tree; JSON result
	@$(BIN)/python -m bench.merge $(ARGS)

bench-federated: .venv/stamp  ## what sites gain from learning together, and under attack; JSON result
	@$(BIN)/python -m bench.federated $(if $(DATA),--data "$(DATA)") $(ARGS)

bench-alerts: .venv/stamp  ## false alarms at equal recall, against a frozen model, on labelled incidents; JSON result
	@$(BIN)/python -m bench.alerts $(ARGS)

check-rules:  ## the alert rules and their tests, by promtool (apt-get install prometheus)
	@if command -v promtool >/dev/null; then \
		promtool check rules deploy/prometheus/fleetcast.rules.yml && \
		promtool test rules deploy/prometheus/fleetcast.rules.test.yml; \
	else echo 'check-rules: skipped, there is no promtool: apt-get install prometheus'; fi

check-board: .venv/stamp  ## every query of the Grafana board against a real Prometheus (apt-get install prometheus)
	$(BIN)/python -m pytest -q -rs tests/test_monitoring.py $(ARGS)

demo-federated: .venv/stamp  ## three sites as processes learn together over HTTP; DATA=file or the demo fleet; a picture
	@$(BIN)/python -m bench.demo_federated $(STREAM) $(ARGS)

clean:  ## remove caches and .fleetcast, the demo's state (keeps .venv)
	rm -rf .fleetcast .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build lightning_logs
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.venv: .venv/stamp  ## the virtual environment, from constraints.txt

.venv/stamp: constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo 'fleetcast needs Python 3.11: install it, or say make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
