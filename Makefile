# A thin alias: `make X` is `python3 -m helpers.tutorial X`, which is what to type where there is no
# make. Options: PROFILE=smoke SET="name=trial seed=7" FROM=03 TO=04 ONLY=06 PROCESSES=4
# PYTHON=/path/to/python3.12 TARGET=folder DIR=folder FILE=benchmark.json.
TUTORIAL := @$(firstword $(shell command -v python3 python) $(PYTHON) python3) -m helpers.tutorial
RANGE = $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO)) --processes $(or $(PROCESSES),1)
export PROFILE SET PYTHON

.PHONY: help run deeper test lab engine bundle export wheelhouse results assets setup lint clean

help assets test lab engine setup lint clean:
	$(TUTORIAL) $@

run:
	$(TUTORIAL) run $(RANGE)

deeper:
	$(TUTORIAL) deeper $(ONLY) $(RANGE)

results:
	$(TUTORIAL) $@ "$(FILE)"

bundle export wheelhouse:
	$(TUTORIAL) $@ "$(or $(TARGET),$(DIR),$@)"
