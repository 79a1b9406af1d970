# make demo: install, make data, train, in minutes. make test: the tests. Both need Python 3.11 or newer.
# make hostile: hundreds of bad inputs, is each refused with a sentence? make soak: 45 kills with -9, is what was resumed
# equal to what was not disturbed? (A quarter of an hour on two cores.)
# make mutants: small bugs are put into copies of the code, one by one: does a test notice? (An hour on two cores.)
PYTHON ?= python3
VENV := .venv

demo: $(VENV)/installed
	$(VENV)/bin/python main_CD.py --train --fusion_method gated --mmcosine True --scaling 10 --demo

test: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal

hostile: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest --numprocesses auto -m hostile tests/hostile

soak: $(VENV)/installed-dev
	$(VENV)/bin/python tests/soak.py --report docs/results/$$(date +%F)_soak.md

mutants: $(VENV)/installed-dev
	$(VENV)/bin/python tests/run_mutants.py --report runs/mutants.md

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) data/demo

.PHONY: demo test hostile soak mutants clean
