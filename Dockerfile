# The service as an image. `docker build .` makes the one for CPUs, `--target gpu` the one with torch. The first was
# 411 MB when it was measured (`make image-test`), 263 MB of it not the base.
#
# It needs no shell, no root and no writable root: docker-compose.yml runs it read-only and without capabilities.
# It listens on every address, so it does not start without keys: see FUSIONLENS_KEYS, `fusionlens setup`.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS source
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# What builds the package is held to the tested versions too; pip reads the first up to 25.2, the second later.
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_BUILD_CONSTRAINT=/src/constraints.txt
WORKDIR /src
# The environment has no pip of its own: nothing can be installed where the service runs.
RUN python -m venv --without-pip /opt/fusionlens
COPY pyproject.toml constraints.txt ./

FROM source AS installed
ARG EXTRAS=redis
# Dependencies first, from the project's table alone: a change of app/ does not fetch them again.
RUN python -c "import sys, tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
print(*project['dependencies'], *(d for name in sys.argv[1].split(',') for d in extras[name]), sep='\n')" \
      "${EXTRAS}" > requirements.txt \
 && pip --python /opt/fusionlens/bin/python install -r requirements.txt -c constraints.txt
COPY README.md LICENSE ./
COPY app app
COPY weights weights
# The command for training, whose package is not copied; tests of packages; and the parts of OpenVINO for Intel GPUs, NPUs and other formats: 100 MB that never run here.
RUN pip --python /opt/fusionlens/bin/python install --no-deps . \
 && rm /opt/fusionlens/bin/fusionlens-train \
 && find /opt/fusionlens -type d -name tests -prune -exec rm -r {} + \
 && find /opt/fusionlens -path '*/openvino/libs/*' \
      \( -name '*_gpu_plugin.so' -o -name '*_npu_plugin.so' -o -name cache.json \
      -o -name '*_frontend.so.*' ! -name '*_ir_frontend.so.*' \) -delete

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="FusionLens" \
      org.opencontainers.image.description="An image classifier that shows its work: CNN and Swin, exact Grad-CAM" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT AND CC-BY-NC-4.0"
# A new named volume takes the owner of the folder that it is mounted on, so there is one for each of docker-compose.yml.
RUN groupadd --gid 10001 fusionlens \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fusionlens \
 && install -d -o 10001 -g 10001 -m 0700 /var/cache/fusionlens /secrets /secrets/api /secrets/redis \
      /secrets/prometheus /secrets/grafana /secrets/operator
# PYTHONSAFEPATH: what lies in the working directory is never imported. Bytecode was written when it was installed.
ENV PATH=/opt/fusionlens/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FUSIONLENS_HOST=0.0.0.0 \
    FUSIONLENS_CACHE=/var/cache/fusionlens
WORKDIR /
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["python", "-m", "app", "health"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]

FROM runtime AS cpu
COPY --from=installed /opt/fusionlens /opt/fusionlens

FROM installed AS installed-gpu
RUN pip --python /opt/fusionlens/bin/python install -c constraints.txt ".[torch]" && rm /opt/fusionlens/bin/fusionlens-train

FROM runtime AS gpu
# Without a GPU it says so and does not start: on a CPU the other image is the better one.
ENV FUSIONLENS_ENGINE=torch FUSIONLENS_DEVICE=cuda
COPY --from=installed-gpu /opt/fusionlens /opt/fusionlens

# The last stage is what is built where no target is named.
FROM cpu
