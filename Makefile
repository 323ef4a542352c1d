# Two commands for newcomers: `make run` and `make test`. Everything they install goes into .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
POP3   ?= 127.0.0.1:1110
SMTP   ?= 127.0.0.1:2525

.PHONY: help run test durability benchmark lint docs clean

help:
	@echo "make run    start a demonstration: a domain, two mailboxes, a message (POP3=$(POP3) SMTP=$(SMTP))"
	@echo "make test   lint, types, floors and all tests"
	@echo "make durability  try every fault, not a sample; some hours (KINDS='kill power' tries some)"
	@echo "make benchmark  measure winpop beside Dovecot and Postfix, some half an hour (as root it installs them)"
	@echo "make lint   the first three of them"
	@echo "make docs   write again the documents that are made from the code"
	@echo "make clean  remove $(VENV) and the demonstration"

run: $(VENV)/installed
	@$(BIN)/python tools/demonstration.py $(POP3) $(SMTP)

test: lint
	$(BIN)/python -m pytest -n auto

durability: $(VENV)/installed-dev
	$(BIN)/python tests/durability/run.py --write $(KINDS)

benchmark: $(VENV)/installed
	$(BIN)/python -m benchmark.run

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/installed-dev
	$(BIN)/python tools/rfc_index.py --write

clean:
	rm -rf $(VENV) .demo

$(VENV)/installed: pyproject.toml tools/environment.sh
	@sh tools/environment.sh $(PYTHON) $(VENV) .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@sh tools/environment.sh $(PYTHON) $(VENV) '.[dev]'
	@sh tools/environment.sh $(PYTHON) $(VENV) '.[dev-kerberos]' >$(VENV)/kerberos.log 2>&1 \
	  || { echo "gssapi cannot be built, so Kerberos is not tested; run: sudo apt install gcc libc6-dev libkrb5-dev"; [ -z "$$CI" ]; }
	@touch $@
