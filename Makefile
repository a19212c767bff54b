# A thin alias: `make X` is `python3 -m helpers.tutorial X`, which is what to type where there is no
# make. Options: PROFILE=smoke SET="name=trial seed=7" FROM=03 TO=04 ONLY=06 PROCESSES=4
# PYTHON=/path/to/python3.12 TARGET=folder SEEDS="43 44".
TUTORIAL := @$(firstword $(shell command -v python3 python) $(PYTHON) python3) -m helpers.tutorial
RANGE = $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO)) --processes $(or $(PROCESSES),1)
export PROFILE SET PYTHON

.PHONY: help run deeper refresh test lab engine bundle wheelhouse assets setup lint seeds readme lock \
	newest audit clean

help assets test lab engine setup lint readme lock newest audit clean:
	$(TUTORIAL) $@

run:
	$(TUTORIAL) run $(RANGE)

deeper:
	$(TUTORIAL) deeper $(ONLY) $(RANGE)

refresh:
	$(TUTORIAL) run --refresh

bundle wheelhouse:
	$(TUTORIAL) $@ "$(or $(TARGET),$@)"

seeds:
	$(TUTORIAL) seeds $(SEEDS)
